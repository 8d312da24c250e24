"""A recording holds every frame bit for bit, survives a kill, opens without this package, and can be gone on with."""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from twin.day import Day
from twin.formats.dataset import FormatError
from twin.instrument.faults import Departure
from twin.instrument.recorder import RecordingMicroscope, ResumedMicroscope, fingerprint
from twin.instrument.recording import Recording, RecordingWriter
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.types import Capabilities, Frame, Microscope

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace()
INPUTS = [np.zeros(3), np.array([5.0, -3.0, 1 / 3]), np.array([-7.0, 0.1, 0.2]), np.array([1.0, 1.0, 1.0])]


def simulated() -> SimulatedMicroscope:
    return SimulatedMicroscope(OPTICS, SPACE, Day())


def run(microscope: Microscope, inputs: list[NDArray[np.floating]], seed: int = 1) -> list[Frame]:
    microscope.reset(np.random.default_rng(seed))
    return further(microscope, inputs)


def further(microscope: Microscope, inputs: list[NDArray[np.floating]]) -> list[Frame]:
    frames = []
    for delta in inputs:
        microscope.apply(delta)
        frames.append(microscope.acquire())
    return frames


class Slow:
    """An instrument that outlives its program: an integrator with a frame that says where it stands and how often."""

    def __init__(self) -> None:
        self.capabilities = Capabilities("slow", OPTICS, SPACE, (64, 64), 65535)
        self.position, self.taken, self.origin, self.clock, self.calls = np.array([3.0, 2.0, 1.0]), 0, None, 0.0, []

    def reset(self, rng: np.random.Generator) -> None:
        self.origin, self.clock = self.position.copy(), 0.0
        self.calls.append("reset")

    def apply(self, delta_nm: NDArray[np.floating]) -> None:
        self.position = self.position + delta_nm
        self.calls.append("apply")

    def acquire(self) -> Frame:
        self.taken, self.clock = self.taken + 1, self.clock + 1.0
        self.calls.append("acquire")
        counts = np.zeros((64, 64), np.uint16)
        counts[0, :4] = [self.taken, *np.round(self.position * 10 + 1000).astype(int)]
        return Frame(counts, 10.0, 0.5, self.clock)

    def session(self) -> dict[str, Any]:
        return {"origin_nm": self.origin.tolist()}

    def resume(self, session: Mapping[str, Any], cumulative_nm: NDArray[np.floating], clock_s: float) -> None:
        self.position, self.clock = np.array(session["origin_nm"]) + cumulative_nm, clock_s
        self.origin = np.array(session["origin_nm"])
        self.calls.append("resume")


def test_frames_pass_through_and_are_kept_bit_for_bit(tmp_path: Path) -> None:
    bare = run(simulated(), INPUTS)
    recorder = RecordingMicroscope(simulated(), tmp_path / "run.zarr", {"seed": 1})
    assert run(recorder, INPUTS) == bare
    recording = Recording(tmp_path / "run.zarr")
    assert recording.count == len(INPUTS)
    assert [recording.frame(k) for k in range(4)] == bare
    trace = recording.trace(0)
    np.testing.assert_array_equal(trace.delta_nm, INPUTS)
    np.testing.assert_allclose(trace.cumulative_nm, np.cumsum(INPUTS, axis=0), atol=1e-12)
    initial = np.array(trace.session["initial_nm"])
    np.testing.assert_allclose(trace.state_nm, initial + trace.cumulative_nm, atol=1e-12)
    assert recording.attributes["provenance"] == {"seed": 1}
    assert (recording.optics, recording.space) == (OPTICS, SPACE)


def test_it_opens_without_this_package(tmp_path: Path) -> None:
    frames = run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS)
    program = (
        "import json, sys, zarr; group = zarr.open_group(sys.argv[1], mode='r'); columns = group.attrs['columns']\n"
        "table = group['table'][:]\n"
        "print(json.dumps({'counts': group['counts'][:].sum(axis=(1, 2)).tolist(), 'shape': group['counts'].shape,\n"
        "  **{name: table[:, columns.index(name)].tolist() for name in ('clock_s', 'dose_e', 'cumulative.C12b')}}))"
    )
    command = [sys.executable, "-I", "-c", program, str(tmp_path / "run.zarr")]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=tmp_path).stdout)
    assert told["counts"] == [int(frame.counts.sum()) for frame in frames]
    assert told["shape"] == [4, 64, 64]
    assert told["clock_s"] == [frame.clock_s for frame in frames]
    assert told["dose_e"] == [frame.dose_e for frame in frames]
    assert told["cumulative.C12b"] == pytest.approx([0.0, 1 / 3, 1 / 3 + 0.2, 1 / 3 + 1.2])


def test_several_inputs_before_a_frame_are_one_and_sessions_are_kept_apart(tmp_path: Path) -> None:
    recorder = RecordingMicroscope(Slow(), tmp_path / "run.zarr")
    run(recorder, [INPUTS[1]])
    recorder.reset(np.random.default_rng(2))
    recorder.apply(INPUTS[1])
    recorder.apply(INPUTS[2])
    recorder.acquire()
    recording = Recording(tmp_path / "run.zarr")
    assert [len(recording.trace(k)) for k in range(2)] == [1, 1]
    np.testing.assert_allclose(recording.trace(1).delta_nm[0], INPUTS[1] + INPUTS[2])
    marks = [session["fingerprint"] for session in recording.sessions]
    assert marks == [fingerprint(np.random.default_rng(1)), fingerprint(np.random.default_rng(2))]
    assert np.isnan(recording.state_nm).all()


def test_a_fingerprint_draws_nothing_and_tells_states_apart() -> None:
    rng = np.random.default_rng(5)
    before = fingerprint(rng)
    assert fingerprint(rng) == before
    assert rng.integers(2**32) == np.random.default_rng(5).integers(2**32)
    assert fingerprint(rng) != before
    assert fingerprint(np.random.Generator(np.random.MT19937(1))) == fingerprint(
        np.random.Generator(np.random.MT19937(1))
    )


def test_a_refused_input_is_not_recorded(tmp_path: Path) -> None:
    recorder = RecordingMicroscope(simulated(), tmp_path / "run.zarr")
    recorder.reset(np.random.default_rng(1))
    with pytest.raises(ValueError, match="C10"):
        recorder.apply(np.array([1e3, 0.0, 0.0]))
    recorder.acquire()
    np.testing.assert_array_equal(Recording(tmp_path / "run.zarr").trace(0).delta_nm, np.zeros((1, 3)))


def test_settings_that_turn_up_later_get_a_column(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run.zarr", simulated().capabilities)
    writer.begin({"fingerprint": "x"})
    zero, counts = SPACE.zero, np.full((64, 64), 7, np.uint16)
    told: list[dict[str, float]] = [{}, {"gain": 2.0}, {"gain": 3.0, "dark": 1.0}]
    frames = [Frame(counts, 1.0, 0.1, 0.1 * k + 0.1, settings) for k, settings in enumerate(told)]
    for frame in frames:
        writer.append(frame, zero, zero, None)
    recording = Recording(tmp_path / "run.zarr")
    assert [recording.frame(k) for k in range(3)] == frames


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS[:1])
    with pytest.raises(FormatError, match=r"run\.zarr exists"):
        RecordingMicroscope(simulated(), tmp_path / "run.zarr")
    assert Recording(tmp_path / "run.zarr").count == 1


@pytest.mark.parametrize("there", ["folder", "link", "dangling link"])
def test_no_recording_is_made_through_a_link_or_in_the_place_of_something_else(there: str, tmp_path: Path) -> None:
    path, other = tmp_path / "run.zarr", tmp_path / "other"
    other.mkdir()
    path.mkdir() if there == "folder" else path.symlink_to(other if there == "link" else tmp_path / "nowhere")
    before = sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(FormatError, match=r"run\.zarr exists; choose another name, or continue it"):
        RecordingWriter(path, simulated().capabilities)
    assert sorted(each.name for each in tmp_path.iterdir()) == before
    assert list(other.iterdir()) == []


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"not a recording of Ronchigrams: .*does not exist$"):
        Recording(tmp_path / "nothing.zarr")
    (tmp_path / "folder.zarr").mkdir()
    with pytest.raises(FormatError, match=r"not a recording of Ronchigrams: no zarr group is there$"):
        Recording(tmp_path / "folder.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(FormatError, match=r"not a recording of Ronchigrams: it has no counts$"):
        Recording(tmp_path / "other.zarr")
    run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS[:1])
    other = dataclasses.replace(simulated().capabilities, optics=dataclasses.replace(OPTICS, energy_kev=200.0))
    with pytest.raises(FormatError, match=r"optics was .*300.* and is .*200"):
        Recording(tmp_path / "run.zarr").check_instrument(other)


@pytest.mark.parametrize("torn", ["counts grown", "table grown", "name without column"])
def test_half_a_frame_is_no_frame_and_is_dropped_by_the_next_writer(torn: str, tmp_path: Path) -> None:
    frames = run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS[:2])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r+")
    group["counts"].resize((3, 64, 64))
    if torn == "table grown":
        group["table"].resize((3, group["table"].shape[1]))
    if torn == "name without column":
        group.attrs["columns"] = [*group.attrs["columns"], "setting.late"]
    assert Recording(tmp_path / "run.zarr").count == 2
    resumed = ResumedMicroscope(simulated(), tmp_path / "run.zarr")
    assert run(resumed, INPUTS)[:2] == frames
    recording = Recording(tmp_path / "run.zarr")
    assert [recording.frame(k) for k in range(4)] == run(simulated(), INPUTS)


def test_a_kill_leaves_everything_up_to_it(tmp_path: Path) -> None:
    program = """
import os, signal, sys
import numpy as np
from pathlib import Path
from twin.optics import Optics
from twin.instrument.recording import RecordingWriter
from twin.state import StateSpace
from twin.types import Capabilities, Frame
writer = RecordingWriter(Path(sys.argv[1]), Capabilities("any", Optics(), StateSpace(), (64, 64), 65535))
writer.begin({"fingerprint": "x"})
for k in range(3):
    counts = np.random.default_rng(k).integers(0, 60000, (64, 64)).astype(np.uint16)
    writer.append(Frame(counts, 1.0, 0.5, k + 1.0, {"gain": 2.0}), np.ones(3), np.full(3, k + 1.0), None)
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "run.zarr"
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    recording = Recording(path)
    assert recording.count == 3
    for k in range(3):
        counts = np.random.default_rng(k).integers(0, 60000, (64, 64)).astype(np.uint16)
        assert recording.frame(k) == Frame(counts, 1.0, 0.5, k + 1.0, {"gain": 2.0})


AT_EVERY_FILE_OPERATION = """
import os, sys
from pathlib import Path
import numpy as np
from twin.optics import Optics
from twin.instrument.recording import RecordingWriter
from twin.state import StateSpace
from twin.types import Capabilities, Frame

root, left = Path(sys.argv[1]), None

def deadly(event, arguments):
    # open for writing, rename, remove, truncate, mkdir, link
    if left is None or event not in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.link"):
        return
    if str(root) in str(arguments[0]) and not (event == "open" and arguments[1] == "r"):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)  # as SIGKILL: nothing is tidied up

sys.addaudithook(deadly)
killed = 0
while True:
    child = os.fork()
    if child == 0:
        left = [killed]
        path = root / f"{killed:03d}" / "run.zarr"
        writer = RecordingWriter(path, Capabilities("slow", Optics(), StateSpace(), (8, 8), 65535))
        writer.begin({"fingerprint": "x"})
        for k in range(2):
            counts = np.full((8, 8), 10 + k, np.uint16)
            writer.append(Frame(counts, 1.0, 0.5, k + 1.0, {"gain": 2.0} if k else {}), np.zeros(3), np.zeros(3), None)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    killed += 3  # every third: all of them take half a minute
"""
"""Writes a recording of two frames again and again, and dies before its first file operation, its fourth, and so on."""


def test_a_kill_between_file_operations_leaves_a_recording_that_can_be_gone_on_with_or_none(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", AT_EVERY_FILE_OPERATION, str(tmp_path)], timeout=120, check=True)
    folders, counts = sorted(tmp_path.iterdir()), []
    assert len(folders) > 20
    capabilities = Capabilities("slow", Optics(), SPACE, (8, 8), 65535)
    for folder in folders:
        path = folder / "run.zarr"
        if not path.exists():
            # Killed while it was made: the name is free.
            RecordingWriter(path, capabilities)
            assert Recording(path).count == 0
            counts.append(-1)
            continue
        counts.append(Recording(path).count)
        writer = RecordingWriter(path, capabilities, again=True)
        if not writer.sessions:
            writer.begin({"fingerprint": "y"})
        writer.append(Frame(np.full((8, 8), 7, np.uint16), 1.0, 0.5, 9.0, {"gain": 3.0}), SPACE.zero, SPACE.zero, None)
        frames = [Recording(path).frame(k) for k in range(counts[-1] + 1)]
        assert [int(frame.counts.min()) for frame in frames] == [*range(10, 10 + counts[-1]), 7]
    assert counts == sorted(counts)
    assert set(counts) == {-1, 0, 1, 2}


def test_a_recording_whose_session_had_not_begun_gets_one(tmp_path: Path) -> None:
    RecordingMicroscope(simulated(), tmp_path / "run.zarr")
    resumed = ResumedMicroscope(simulated(), tmp_path / "run.zarr")
    assert resumed.recorded == 0
    assert run(resumed, INPUTS) == run(simulated(), INPUTS)
    assert [len(Recording(tmp_path / "run.zarr").trace(0)), len(Recording(tmp_path / "run.zarr").sessions)] == [4, 1]
    with pytest.raises(Departure, match="once"):
        resumed.reset(np.random.default_rng(1))


def test_arrays_that_could_be_unpickled_are_not_opened(tmp_path: Path) -> None:
    """Version 2 of zarr has a codec that unpickles; version 3 has none."""
    run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS[:1])
    old = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    new: Any = zarr.open_group(tmp_path / "run.zarr", mode="r")
    for name in ("counts", "table"):
        old.create_array(name, data=new[name][...])
    old.attrs.update(dict(new.attrs))
    with pytest.raises(FormatError, match="not a recording"):
        Recording(tmp_path / "old.zarr")


def test_a_recording_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS[:2])
    group: Any = zarr.open_group(tmp_path / "run.zarr", mode="r+")
    shorter = group["counts"]
    shorter.resize((1, 64, 64))
    assert Recording(tmp_path / "run.zarr").count == 1
    group.attrs["camera_shape"] = [32, 32]
    with pytest.raises(FormatError, match=r"frames of \(64, 64\), camera \(32, 32\)"):
        Recording(tmp_path / "run.zarr")


def test_a_resumed_simulator_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = run(simulated(), INPUTS)
    run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS[:2])
    resumed = ResumedMicroscope(simulated(), tmp_path / "run.zarr")
    assert resumed.recorded == 2
    assert run(resumed, INPUTS) == whole
    recording = Recording(tmp_path / "run.zarr")
    assert [recording.frame(k) for k in range(4)] == whole
    np.testing.assert_array_equal(recording.trace(0).delta_nm, INPUTS)
    assert len(recording.sessions) == 1


def test_a_resumed_instrument_is_left_alone_until_the_recording_ends(tmp_path: Path) -> None:
    instrument = Slow()
    before = run(RecordingMicroscope(instrument, tmp_path / "run.zarr"), INPUTS[:2])
    # What the program still sent before it died, and what an operator did since.
    instrument.apply(np.array([20.0, 20.0, 20.0]))
    instrument.calls.clear()
    resumed = ResumedMicroscope(instrument, tmp_path / "run.zarr")
    again = run(resumed, INPUTS[:2])
    assert again == before
    assert instrument.calls == ["resume"]
    np.testing.assert_allclose(instrument.position, np.array([3.0, 2.0, 1.0]) + INPUTS[1])
    after = further(resumed, INPUTS[2:])
    np.testing.assert_allclose(instrument.position, np.array([3.0, 2.0, 1.0]) + sum(INPUTS))
    assert after[0].clock_s == before[-1].clock_s + 1.0
    assert [Recording(tmp_path / "run.zarr").frame(k) for k in range(4)] == [*before, *after]


def test_a_session_without_a_frame_can_be_resumed(tmp_path: Path) -> None:
    RecordingMicroscope(Slow(), tmp_path / "run.zarr").reset(np.random.default_rng(1))
    instrument = Slow()
    instrument.position = np.array([9.0, 9.0, 9.0])
    run(ResumedMicroscope(instrument, tmp_path / "run.zarr"), INPUTS[1:2])
    np.testing.assert_allclose(instrument.position, np.array([3.0, 2.0, 1.0]) + INPUTS[1])


def test_resuming_refuses_another_seed_other_inputs_and_another_simulator(tmp_path: Path) -> None:
    run(RecordingMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS[:2])
    with pytest.raises(Departure, match="another seed"):
        run(ResumedMicroscope(simulated(), tmp_path / "run.zarr"), INPUTS, seed=2)
    resumed = ResumedMicroscope(simulated(), tmp_path / "run.zarr")
    with pytest.raises(Departure, match=r"frame 1 .* away from these inputs"):
        run(resumed, [INPUTS[0], INPUTS[2]])
    with pytest.raises(Departure, match="once"):
        resumed.reset(np.random.default_rng(1))
    another = SimulatedMicroscope(OPTICS, SPACE, Day(residual_nm={"C30": 2000.0}))
    with pytest.raises(Departure, match=r"frame 0 .* other settings"):
        run(ResumedMicroscope(another, tmp_path / "run.zarr"), INPUTS)
    with pytest.raises(RuntimeError, match="before reset"):
        ResumedMicroscope(simulated(), tmp_path / "run.zarr").acquire()


def test_an_instrument_that_cannot_resume_is_refused(tmp_path: Path) -> None:
    class Mortal:
        capabilities = simulated().capabilities

    with pytest.raises(ValueError, match=r"simulated cannot take up a session: it has no resume\(\)"):
        ResumedMicroscope(Mortal(), tmp_path / "run.zarr")  # type: ignore[arg-type]
