"""The twin's scan as a stream: what comes, where it lies, and what is known of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from agents.source import Health, SourceError
from agents.sources.twin_scan import TwinScan
from twin.formats.t3p import RECORD
from twin.scan.plan import ScanPlan, path, paths
from twin.types import ScanBlock

SIDE = 6


@dataclass(frozen=True)
class Beam:
    energy_kev: float = 300.0
    convergence_mrad: float = 21.4
    camera_pixel_mrad: float = 1.5
    camera_pixels: int = SIDE


def scan(plan: ScanPlan, block: int = 3, stop: int = 10**9, camera: bool = True) -> Iterator[ScanBlock]:
    """Frames that hold their place in the scan."""
    for part in paths(plan, block):
        if part.first >= stop:
            return
        index = np.arange(part.first, part.first + len(part), dtype=np.uint16)
        frames = np.broadcast_to(index[:, None, None], (len(part), SIDE, SIDE + 1)).copy()
        yield ScanBlock(part, frames if camera else None, {}, part.end_s.copy())


@pytest.mark.parametrize("pattern", ["raster", "serpentine", "subsampled", "list"])
def test_frames_come_in_read_out_order_with_their_places(pattern: str) -> None:
    extra = {
        "subsampled": {"fraction": 0.5},
        "list": {"positions_nm": tuple((0.1 * k, 0.0) for k in range(8))},
    }.get(pattern, {})
    plan = ScanPlan(pattern=pattern, rows=4, columns=5, rotation_deg=30.0, dwell_s=1e-4, **extra)  # type: ignore[arg-type]
    with TwinScan(scan(plan), plan, Beam(), largest_count=4095) as source:
        meta = source.meta
        blocks = list(source.blocks())
    expected = np.concatenate([part.pixel for part in paths(plan, plan.count)])
    np.testing.assert_array_equal(np.concatenate([block.pixel for block in blocks]), expected)
    np.testing.assert_array_equal(np.concatenate([block.frames[:, 0, 0] for block in blocks]), np.arange(plan.count))
    assert source.health == Health(received=plan.count)
    assert meta.layout.scan == ((8,) if pattern == "list" else (4, 5))
    assert (meta.layout.camera, meta.layout.dtype, meta.layout.max_count) == ((SIDE, SIDE + 1), "uint16", 4095)
    known = meta.metadata
    assert known.step_nm == (None if pattern == "list" else plan.step_nm)
    assert (known.dwell_s, known.rotation_deg, known.dose_e) == (1e-4, 30.0, plan.dose_e)
    assert (known.energy_kev, known.convergence_mrad, known.pixel_mrad) == (300.0, 21.4, 1.5)
    assert meta.transposed is False


def events(plan: ScanPlan, block: int, stray: int = 0) -> Iterator[ScanBlock]:
    """At position k, k % 4 electrons in pixel k of the camera; `stray` outside the camera; one block late each."""
    waiting = np.empty(0, RECORD)
    for part in paths(plan, block):
        index = np.arange(part.first, part.first + len(part))
        of = np.repeat(index, index % 4)
        fresh = np.zeros(len(of), RECORD)
        fresh["pixel"] = of % (SIDE * SIDE)
        fresh["toa"] = (part.start_s[of - part.first] + plan.dwell_s / 2) * 1e9 / 25
        fresh["pixel"][:stray] = 10**6
        leaving, waiting = np.concatenate([waiting, fresh[:-1]]), fresh[-1:]
        if part.first + len(part) == plan.count:
            leaving = np.concatenate([leaving, waiting])
        yield ScanBlock(part, None, {}, part.end_s.copy(), leaving)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_events_are_cut_into_whole_positions(block: int, frames: bool) -> None:
    plan = ScanPlan(pattern="serpentine", rows=4, columns=5, dwell_s=1e-4, settle_s=3e-4)
    with TwinScan(events(plan, block), plan, Beam(), window_s=5e-4, frames=frames) as source:
        meta = source.meta
        blocks = list(source.blocks())
    assert (meta.layout.camera, meta.layout.dtype, meta.has_frames) == ((SIDE, SIDE), "uint32", frames)
    np.testing.assert_array_equal(np.concatenate([b.pixel for b in blocks]), path(plan, 0, plan.count).pixel)
    k = np.arange(plan.count)
    expected = (k % 4)[:, None] * np.stack([np.ones_like(k), k % SIDE, k // SIDE], axis=1)
    np.testing.assert_array_equal(np.concatenate([b.moments() for b in blocks]), expected)
    assert source.health == Health(received=plan.count)
    assert source.counts.accepted == (k % 4).sum()


def test_events_that_belong_nowhere_are_told() -> None:
    plan = ScanPlan(rows=4, columns=5, dwell_s=1e-4)
    with TwinScan(events(plan, 20, stray=3), plan, Beam()) as source:
        assert sum(len(block) for block in source.blocks()) == 20
    assert source.health.faults == ["3 events outside the camera"]
    tiny = ScanPlan(rows=4, columns=5, dwell_s=1e-9)
    with pytest.raises(SourceError, match="cannot be one of events"):
        TwinScan(events(tiny, 20), tiny, Beam())


def test_a_scan_that_ends_early_says_what_is_missing() -> None:
    plan = ScanPlan(rows=4, columns=5)
    with TwinScan(scan(plan, stop=9), plan, Beam()) as source:
        assert sum(len(block) for block in source.blocks()) == 9
    assert source.health == Health(received=9, missing=11)


def test_a_scan_without_a_camera_is_refused() -> None:
    plan = ScanPlan(rows=2, columns=2)
    with pytest.raises(SourceError, match=r"scan\.camera"):
        TwinScan(scan(plan, camera=False), plan, Beam())
    with pytest.raises(SourceError, match="no positions"):
        TwinScan(iter(()), plan, Beam())
