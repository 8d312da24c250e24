"""Events from a file: the same sums and the same riCOM as frames of the same electrons, whatever the file is like."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.base import load
from agents.block import FrameBlock
from agents.events.block import EventBlock
from agents.frames.region import Region
from agents.source import SourceError
from agents.sources import open_source
from agents.sources.t3p import Options, T3pSource
from twin.cameras.event import EventReadout, events_to_frames
from twin.cameras.properties import EventCamera
from twin.cameras.sensor import draw_sensor
from twin.formats import open_frames
from twin.formats.dataset import Layout, Metadata
from twin.formats.event_clock import FINE_TIME, SCAN_PLAN
from twin.formats.t3p import RECORD, T3pWriter, from_frames, sidecar
from twin.options import OptionError
from twin.scan.plan import ScanPlan, path

CAMERA = (12, 14)
LAYOUT = Layout((5, 6), CAMERA, "uint32")
BEAM = {"step_nm": 0.05, "energy_kev": 300.0, "convergence_mrad": 20.0, "pixel_mrad": 4.0}
DISORDERLY = EventCamera(charge_spread_px=0.3, deposit_width_kev=15.0, toa_rms_ns=1.6, reorder_s=20e-6)


def plain(plan: ScanPlan) -> dict[str, object]:
    return asdict(plan)


def seen(camera: EventCamera, plan: ScanPlan, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Events of the twin's camera under a wandering spot, and the frames of the same events by their fine time."""
    rng, whole = np.random.default_rng(seed), path(plan, 0, plan.count)
    row, column = np.indices(CAMERA)
    middle = rng.normal((6.0, 7.0), 1.0, (plan.count, 2))
    spot = np.exp(-((row - middle[:, :1, None]) ** 2 + (column - middle[:, 1:, None]) ** 2) / 8.0)
    expected = 40.0 * spot / spot.sum(axis=(1, 2), keepdims=True)
    readout = EventReadout(camera, draw_sensor(camera, CAMERA, rng), rng)
    events = np.concatenate([readout.read(expected, whole.start_s, plan.dwell_s), readout.flush()])
    return events, events_to_frames(events, CAMERA, whole.start_s, whole.end_s)


def write(folder: Path, events: np.ndarray, metadata: Metadata, layout: Layout = LAYOUT) -> Path:
    file = folder / "a.t3p"
    with T3pWriter(file, layout, metadata) as writer:
        writer.append(events, layout.count)
    return file


@pytest.mark.parametrize("pattern", ["raster", "serpentine"])
@pytest.mark.parametrize("records", [50, 10**6])
def test_the_twins_events_and_their_frames_are_the_same_to_agents(tmp_path: Path, pattern: str, records: int) -> None:
    plan = ScanPlan(
        pattern=pattern,  # type: ignore[arg-type]
        rows=5, columns=6, step_nm=0.05, dwell_s=1e-5, settle_s=4.3e-6, flyback_s=7.1e-6,
    )  # fmt: skip
    events, frames = seen(DISORDERLY, plan, 1)
    assert np.any(np.diff(events["toa"].astype(np.int64)) < 0)
    file = write(tmp_path, events, Metadata(dwell_s=1e-5, **BEAM, provenance={SCAN_PLAN: plain(plan), FINE_TIME: True}))
    region, weights = Region((6.0, 7.0), 4.5, 1.0), np.random.default_rng(0).random((2, *CAMERA), np.float32)
    by_events, by_frames = load("ricom", {"kernel_px": 7}), load("ricom", {"kernel_px": 7})
    reference = FrameBlock(frames, path(plan, 0, plan.count).pixel)
    with open_source(file, records=records) as source:
        by_events.start(source.meta)
        by_frames.start(source.meta)
        blocks = list(source.blocks())
    for block in blocks:
        by_events.update(block)
    by_frames.update(reference)
    assert np.array_equal(np.concatenate([b.pixel for b in blocks]), reference.pixel)
    assert np.array_equal(np.concatenate([b.moments() for b in blocks]), reference.moments())
    assert np.array_equal(np.concatenate([b.moments(region) for b in blocks]), reference.moments(region))
    assert np.allclose(np.concatenate([b.sums(weights) for b in blocks]), reference.sums(weights), rtol=1e-12)
    assert (len(blocks) > 5) == (records == 50)
    mine, theirs = by_events.result().images, by_frames.result().images
    assert mine.keys() == theirs.keys()
    for name in mine:
        scale = np.nanmax(np.abs(theirs[name].values))
        assert np.allclose(mine[name].values, theirs[name].values, rtol=0.0, atol=1e-9 * scale, equal_nan=True)
    assert np.isfinite(next(iter(mine.values())).values).any()
    assert (source.health.received, source.health.fault_count) == (30, 0)


def test_a_file_of_frames_reads_back_as_events(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(0.3, (30, *CAMERA)).astype(np.uint32)
    file = write(tmp_path, from_frames(frames, 0, 1e-6), Metadata(dwell_s=1e-6))
    with T3pSource(file) as source, open_frames(file) as reader:
        blocks = list(source.blocks())
        assert np.array_equal(np.concatenate([b.frames for b in blocks]), reader.read(0, 30))
    assert np.array_equal(np.concatenate([b.frames for b in blocks]), frames)
    assert np.concatenate([b.pixel for b in blocks]).tolist() == [[i // 6, i % 6] for i in range(30)]
    assert not source.meta.has_frames


def test_acceptance_takes_its_share_of_the_dose(tmp_path: Path) -> None:
    frames = np.full((30, *CAMERA), 2, np.uint32)
    file = write(tmp_path, from_frames(frames, 0, 1e-5), Metadata(dwell_s=1e-5))
    for share in (0.1, 0.25, 1.0):
        with T3pSource(file, Options(acceptance_s=share * 1e-5)) as source:
            counts = np.concatenate([block.moments()[:, 0] for block in source.blocks()])
        # `from_frames` spreads the events evenly over the dwell of 400 ticks.
        assert counts == pytest.approx(np.full(30, share * 336), abs=1.0)
        assert source.counts.beyond_acceptance == frames.sum() - counts.sum()


def test_the_operator_may_say_what_the_file_does_not(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(0.3, (30, *CAMERA)).astype(np.uint32)
    file = write(tmp_path, from_frames(frames, 0, 1e-6), Metadata(dwell_s=1e-6))
    sidecar(file).unlink()
    with pytest.raises(SourceError, match="give scan and camera"):
        T3pSource(file)
    with open_source(file, scan=[5, 6], camera=list(CAMERA)) as source, pytest.raises(SourceError, match="dwell_s"):
        next(source.blocks())
    told = {"scan": [5, 6], "camera": list(CAMERA), "pattern": "serpentine"}
    with open_source(file, {"dwell_s": 1e-6}, **told) as source:
        blocks = list(source.blocks())
    assert np.array_equal(np.concatenate([b.frames for b in blocks]), frames)
    assert np.concatenate([b.pixel for b in blocks])[6:8].tolist() == [[1, 5], [1, 4]]


def test_a_scan_that_begins_later_begins_with_the_first_event(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(0.3, (30, *CAMERA)).astype(np.uint32)
    frames[0, 0, 0] = 1
    events = from_frames(frames, 0, 1e-6)
    events["toa"] += np.uint64(12_345)
    file = write(tmp_path, events, Metadata(dwell_s=1e-6))
    for start in (12_345 * 25e-9, "first"):
        with T3pSource(file, Options(start_s=start)) as source:
            assert np.array_equal(np.concatenate([b.frames for b in source.blocks()]), frames)
    with T3pSource(file) as source:
        list(source.blocks())
    assert source.counts.after == len(events)
    assert "after the scan" in source.health.faults[-1]


def test_a_counter_that_rolls_over(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(0.3, (30, *CAMERA)).astype(np.uint32)
    events = from_frames(frames, 0, 1e-6)
    events["toa"] %= 2**9
    file = write(tmp_path, events, Metadata(dwell_s=1e-6))
    with T3pSource(file, Options(counter_bits=9, window_s=0.0)) as source:
        assert np.array_equal(np.concatenate([b.frames for b in source.blocks()]), frames)


def test_a_file_cut_off_gives_its_whole_records_and_says_what_is_missing(tmp_path: Path) -> None:
    frames = np.full((30, *CAMERA), 1, np.uint32)
    file = write(tmp_path, from_frames(frames, 0, 1e-5), Metadata(dwell_s=1e-5))
    about = json.loads(sidecar(file).read_text())
    sidecar(file).write_text(json.dumps({**about, "frames": 0}))
    file.write_bytes(file.read_bytes()[: 16 * 168 * 20 + 5])
    with T3pSource(file) as source:
        blocks = list(source.blocks())
    assert np.array_equal(np.concatenate([b.frames for b in blocks]), frames[:20])
    assert (source.health.received, source.health.missing) == (20, 10)
    assert "5 of 16 bytes" in source.health.faults[0]
    assert "position 20 of 30" in source.health.faults[-1]


def test_a_file_cut_off_between_records_is_not_taken_for_a_dark_end(tmp_path: Path) -> None:
    frames = np.full((30, *CAMERA), 1, np.uint32)
    file = write(tmp_path, from_frames(frames, 0, 1e-5), Metadata(dwell_s=1e-5))
    file.write_bytes(file.read_bytes()[: 16 * 168 * 20])
    with T3pSource(file) as source:
        blocks = list(source.blocks())
    assert np.array_equal(np.concatenate([b.frames for b in blocks]), frames[:20])
    assert (source.health.received, source.health.missing) == (20, 10)
    assert "3360 whole records of 5040" in source.health.faults[0]


def test_positions_without_events_at_the_end_are_no_fault(tmp_path: Path) -> None:
    frames = np.zeros((30, *CAMERA), np.uint32)
    frames[:7] = 1
    file = write(tmp_path, from_frames(frames, 0, 1e-5), Metadata(dwell_s=1e-5))
    with T3pSource(file) as source:
        assert sum(len(block) for block in source.blocks()) == 30
    assert (source.health.missing, source.health.faults) == (0, [])


def test_what_nobody_waited_for_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path, from_frames(np.ones((30, *CAMERA), np.uint32), 0, 1e-5), Metadata(dwell_s=1e-5))
    with T3pSource(file, Options(records=168 * 4, window_s=0.0)) as source:
        blocks = source.blocks()
        seen = len(next(blocks))
        blocks.close()
    assert 0 < source.health.missing == 30 - seen


def test_garbage_never_crashes_and_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    frames = rng.poisson(2.0, (30, *CAMERA)).astype(np.uint32)
    clean = from_frames(frames, 0, 1e-5)
    for case in range(40):
        raw = bytearray(clean.tobytes())
        for _ in range(case):
            at = int(rng.integers(len(raw) - 64))
            raw[at : at + 64] = rng.bytes(64)
        events = np.frombuffer(bytes(raw), RECORD)
        file = tmp_path / f"{case}.t3p"
        file.write_bytes(events.tobytes())
        options = Options(scan=(5, 6), camera=CAMERA, dwell_s=1e-5, records=1000, counter_bits=(None, 34)[case % 2])
        with T3pSource(file, options) as source:
            blocks = list(source.blocks())
        assert source.counts.total == len(events)
        assert source.health.received == sum(map(len, blocks)) <= 30
        if case == 0:
            assert source.health.fault_count == 0
        if case > 10:
            assert any("outside the camera" in fault for fault in source.health.faults)
        good = np.abs(sum(b.moments()[:, 0].sum() for b in blocks) - len(clean))
        assert good < 12 * case + 1


def test_records_of_pure_noise(tmp_path: Path) -> None:
    file = tmp_path / "noise.t3p"
    file.write_bytes(np.random.default_rng(1).bytes(16 * 20_000))
    with T3pSource(file, Options(scan=(2**15, 2**15), camera=(256, 256), dwell_s=1e-5)) as source:
        assert sum(map(len, source.blocks())) <= 2**30
    assert source.counts.total == 20_000


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"recrods": 5}, OptionError, "did you mean records"),
        ({"records": 0}, OptionError, "records"),
        ({"pattern": "spiral"}, OptionError, "'raster' or 'serpentine'"),
        ({"start_s": "now"}, OptionError, "a time or first"),
        ({"acceptance_s": 1.0}, SourceError, "within the dwell"),
        ({"dwell_s": 1e-9}, SourceError, "shorter than a tick"),
        ({"camera": (0, 5)}, OptionError, "camera.0: input should be greater than 0, got 0"),
        ({"camera": (5, 99999)}, SourceError, "1 to 16384 pixels"),
        ({"window_s": "wide"}, OptionError, "window_s: input should be a valid number"),
        ({"scan": "5,x"}, OptionError, "scan.1: .* integer"),
    ],
)
def test_what_cannot_be_is_refused_on_opening(
    tmp_path: Path, options: dict[str, Any], error: type[ValueError], words: str
) -> None:
    file = write(tmp_path, np.zeros(0, RECORD), Metadata(dwell_s=1e-6))
    with pytest.raises(error, match=words):
        open_source(file, **options)


def test_a_plan_in_the_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for number, (plan, words) in enumerate(
        [({"rows": 5, "columns": 6}, "0.001 s"), ({"rows": -1}, "not a scan plan"), ("raster", "not a scan plan")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = write(folder, np.zeros(0, RECORD), Metadata(dwell_s=1e-6, provenance={SCAN_PLAN: plan}))
        with pytest.raises(SourceError, match=words):
            T3pSource(file)


def test_frames_for_those_who_ask(tmp_path: Path) -> None:
    file = write(tmp_path, np.zeros(0, RECORD), Metadata(dwell_s=1e-6))
    with T3pSource(file, Options(frames=True)) as source:
        blocks = list(source.blocks())
    assert source.meta.has_frames
    assert all(isinstance(block, EventBlock) for block in blocks)
    assert sum(map(len, blocks)) == 30
