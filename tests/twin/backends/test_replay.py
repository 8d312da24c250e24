"""A replay gives what was recorded to the inputs that were recorded; a map of known states never extrapolates."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fakes.sessions import session

from twin.backends import replay
from twin.day import Day
from twin.formats.dataset import FormatError
from twin.instrument.faults import Departure
from twin.instrument.recorder import RecordingMicroscope
from twin.instrument.recording import Recording, RecordingWriter
from twin.optics import Optics
from twin.options import OptionError
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.types import Capabilities, Frame, HasTruth

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace(tolerance_nm=(10.0, 5.0, 5.0))
INPUTS = [np.array([4.0, -3.0, 1 / 3]), np.array([-7.0, 0.1, 0.2])]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    recorder = RecordingMicroscope(SimulatedMicroscope(OPTICS, SPACE, Day()), tmp_path / "run.zarr")
    session(recorder, INPUTS)
    return tmp_path / "run.zarr"


def write_map(path: Path, states: list[tuple[float, ...]], optics: Optics = OPTICS) -> Path:
    """Frames whose first pixel says which state they are of."""
    writer = RecordingWriter(path, Capabilities("by hand", optics, SPACE, (64, 64), 65535))
    writer.begin({"fingerprint": "none"})
    for k, state in enumerate(states):
        counts = np.zeros((64, 64), np.uint16)
        counts[0, 0] = k + 1
        writer.append(Frame(counts, 5.0, 0.25, k + 0.25), SPACE.zero, SPACE.zero, np.array(state))
    return path


def label(frame: Frame) -> int:
    return int(frame.counts[0, 0]) - 1


# --- exact ---------------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bytes_and_the_same_truth(recorded: Path) -> None:
    simulated = SimulatedMicroscope(OPTICS, SPACE, Day())
    microscope = replay.make({"path": str(recorded)}, OPTICS, SPACE)
    assert session(microscope, INPUTS) == session(simulated, INPUTS)
    assert isinstance(microscope, HasTruth)
    assert microscope.truth().state_nm.tobytes() == simulated.truth().state_nm.tobytes()
    assert microscope.truth().initial_nm.tobytes() == simulated.truth().initial_nm.tobytes()
    assert microscope.capabilities.name == "replay of simulated"


def test_truth_follows_inputs_before_the_next_frame(recorded: Path) -> None:
    microscope = replay.ScoredReplayMicroscope(Recording(recorded))
    microscope.reset(np.random.default_rng(1))
    start = microscope.truth().state_nm
    microscope.apply(INPUTS[0])
    np.testing.assert_array_equal(microscope.truth().state_nm, start + INPUTS[0])


def test_another_input_is_an_error_that_names_the_figures(recorded: Path) -> None:
    microscope = replay.make({"path": str(recorded)}, OPTICS, SPACE)
    microscope.reset(np.random.default_rng(1))
    microscope.acquire()
    microscope.apply(INPUTS[0] + np.array([0.0, 1e-5, 0.0]))
    with pytest.raises(
        Departure, match=r"at frame 1: cumulative C12a is -2\.99999 nm, recorded -3 nm, tolerance 1e-06"
    ):
        microscope.acquire()
    microscope.apply(np.array([0.0, -1e-5, 0.0]))
    microscope.acquire()


def test_the_tolerance_is_the_callers(recorded: Path) -> None:
    microscope = replay.make({"path": str(recorded), "tolerance_nm": 0.1}, OPTICS, SPACE)
    microscope.reset(np.random.default_rng(1))
    microscope.acquire()
    microscope.apply(INPUTS[0] + 0.09)
    assert microscope.acquire() == Recording(recorded).frame(1)


def test_the_end_another_seed_and_another_instrument_are_errors(recorded: Path) -> None:
    microscope = replay.make({"path": str(recorded)}, OPTICS, SPACE)
    session(microscope, INPUTS)
    with pytest.raises(Departure, match="ends after 3 frames"):
        microscope.acquire()
    with pytest.raises(Departure, match="none of its 1 sessions had this seed"):
        microscope.reset(np.random.default_rng(2))
    with pytest.raises(FormatError, match="space was"):
        replay.make({"path": str(recorded)}, OPTICS, StateSpace())
    with pytest.raises(OptionError, match=r"'pth' is not an option here \(did you mean path\?\)"):
        replay.make({"pth": "x"}, OPTICS, SPACE)
    with pytest.raises(OptionError, match="mode: input should be 'exact' or 'nearest', got 'near'"):
        replay.make({"path": "x", "mode": "near"}, OPTICS, SPACE)


def test_sessions_that_part_are_told_apart_by_their_inputs(tmp_path: Path) -> None:
    recorder = RecordingMicroscope(SimulatedMicroscope(OPTICS, SPACE, Day()), tmp_path / "run.zarr")
    for delta in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]):
        recorder.reset(np.random.default_rng(1))
        recorder.acquire()
        recorder.apply(np.array(delta))
        recorder.acquire()
    microscope = replay.make({"path": str(tmp_path / "run.zarr")}, OPTICS, SPACE)
    for delta, place in (([0.0, 1.0, 0.0], 3), ([1.0, 0.0, 0.0], 1)):
        microscope.reset(np.random.default_rng(1))
        microscope.acquire()
        microscope.apply(np.array(delta))
        assert microscope.acquire() == Recording(tmp_path / "run.zarr").frame(place)


def test_a_recording_that_knows_no_states_is_replayed_without_truth(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.zarr", [(0.0, 0.0, 0.0)])
    writer = RecordingWriter(tmp_path / "bare.zarr", Capabilities("x", OPTICS, SPACE, (64, 64), 9))
    writer.begin({"fingerprint": "x"})
    writer.append(Frame(np.zeros((64, 64), np.uint16), 1.0, 1.0, 1.0), SPACE.zero, SPACE.zero, None)
    assert not isinstance(replay.make({"path": str(tmp_path / "bare.zarr")}, OPTICS, SPACE), HasTruth)
    assert not isinstance(replay.make({"path": str(path)}, OPTICS, SPACE), HasTruth)


# --- nearest -------------------------------------------------------------------------------------


def test_the_nearest_state_is_in_units_of_the_tolerance(tmp_path: Path) -> None:
    # 8 nm of C10 are 0.8 tolerances, 5 nm of C12a are 1.
    path = write_map(tmp_path / "map.zarr", [(8.0, 0.0, 0.0), (0.0, 5.0, 0.0)])
    microscope = replay.NearestMicroscope(Recording(path), reach=1.0, start_nm=[8.0, 0.0, 0.0])
    microscope.reset(np.random.default_rng(0))
    microscope.apply(np.array([-8.0, 0.0, 0.0]))
    assert label(microscope.acquire()) == 0
    np.testing.assert_allclose(microscope.truth().state_nm, np.zeros(3))
    np.testing.assert_allclose(microscope.truth().initial_nm, [8.0, 0.0, 0.0])


def test_it_agrees_with_a_search_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    states = [tuple(state) for state in rng.uniform(-1, 1, (60, 3)) * SPACE.start]
    microscope = replay.NearestMicroscope(Recording(write_map(tmp_path / "map.zarr", states)), reach=100.0)
    for seed in range(20):
        microscope.reset(np.random.default_rng(seed))
        microscope.apply(rng.uniform(-1, 1, 3) * SPACE.input)
        here = microscope.truth().state_nm
        distances = [sum(((a - b) / c) ** 2 for a, b, c in zip(s, here, SPACE.tolerance, strict=True)) for s in states]
        assert label(microscope.acquire()) == int(np.argmin(distances))


def test_it_refuses_to_extrapolate_and_says_how_far(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.zarr", list(product((-10.0, 0.0, 10.0), (0.0,), (0.0,))))
    microscope = replay.NearestMicroscope(Recording(path), reach=1.5, start_nm=[10.0, 0.0, 0.0])
    microscope.reset(np.random.default_rng(0))
    microscope.apply(np.array([15.0, 0.0, 0.0]))
    assert label(microscope.acquire()) == 2
    microscope.apply(np.array([5.0, 0.0, 0.0]))
    message = (
        r"no recorded state near C10 \+30 nm, C12a \+0 nm, C12b \+0 nm: the nearest, C10 \+10 nm, C12a \+0 nm,"
        r" C12b \+0 nm, is 2 tolerances away; the limit is 1\.5"
    )
    with pytest.raises(Departure, match=message):
        microscope.acquire()
    microscope.apply(np.array([-20.0, 0.0, 0.0]))
    assert label(microscope.acquire()) == 2


def test_a_start_is_recorded_within_range_and_drawn_by_the_generator(tmp_path: Path) -> None:
    states = [(float(c10), 0.0, 0.0) for c10 in range(-90, 91, 10)]
    microscope = replay.NearestMicroscope(Recording(write_map(tmp_path / "map.zarr", states)))
    starts = set()
    for seed in range(60):
        microscope.reset(np.random.default_rng(seed))
        starts.add(microscope.truth().initial_nm[0])
    # 13 of the 19 lie within +-60 nm; 60 draws miss a given one with probability (12/13)^60 = 0.8 %, here they do not.
    assert starts == {float(c10) for c10 in range(-60, 61, 10)}


def test_repeats_of_one_state_are_given_in_turn_and_the_clock_is_the_sessions(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.zarr", [(0.0, 0.0, 0.0)] * 3 + [(50.0, 0.0, 0.0)])
    microscope = replay.NearestMicroscope(Recording(path), start_nm=[0.0, 0.0, 0.0], overhead_s=0.5)
    microscope.reset(np.random.default_rng(0))
    frames = [microscope.acquire() for _ in range(4)]
    assert [label(frame) for frame in frames] == [0, 1, 2, 0]
    assert [frame.clock_s for frame in frames] == [0.75, 1.5, 2.25, 3.0]


def test_a_map_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    far = Recording(write_map(tmp_path / "far.zarr", [(90.0, 0.0, 0.0)]))
    with pytest.raises(ValueError, match="1 of 1 frames have a known state, none of them within the start range"):
        replay.NearestMicroscope(far)
    near = Recording(write_map(tmp_path / "near.zarr", [(0.0, 0.0, 0.0)]))
    with pytest.raises(Departure, match="3 tolerances away"):
        replay.NearestMicroscope(near, start_nm=[30.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="start_nm has one entry for each of C10, C12a, C12b"):
        replay.NearestMicroscope(near, start_nm=[0.0])
