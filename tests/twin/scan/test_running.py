"""A scan under way: every line begins once, hold-ups delay what follows, blocks have to follow one another."""

import numpy as np
import pytest

from twin.aberrations import Aberrations
from twin.day import Day, ScanProperties
from twin.optics import Optics
from twin.scan.acquisition import Acquisition
from twin.scan.errors import ScanEngine
from twin.scan.plan import ScanPlan, paths
from twin.scan.running import RunningScan
from twin.scan.setup import ScanSetup

CELL_NM = 0.3905
SETUP = ScanSetup(
    specimen="sto_001",
    specimen_options={"width_nm": 4 * CELL_NM, "height_nm": 2 * CELL_NM, "thickness_nm": CELL_NM, "thermal": False},
    optics=Optics(convergence_mrad=20.0, grid=128, sampling_nm=4 * CELL_NM / 128, camera_pixels=32, binning=2),
    detectors={"bf": None},
    camera=None,
)
PLAN = ScanPlan(rows=3, columns=4, step_nm=0.1, dwell_s=2e-3, flyback_s=3e-3, settle_s=1e-3, dose_e=100.0)
LINE_S = 4 * PLAN.dwell_s + PLAN.flyback_s + PLAN.settle_s
BEGUN_S = 10.0


def running() -> tuple[RunningScan, list[tuple[int, float]], ScanPlan]:
    """A scan that begins at 10 s, the lines that it has begun so far, and its plan."""
    acquisition = Acquisition(SETUP, Day(focal_spread_nm=0.0, source_size_nm=0.0))
    begun: list[tuple[int, float]] = []
    scan = RunningScan(
        acquisition,
        ScanEngine(ScanProperties(), np.random.default_rng(0)),
        BEGUN_S,
        np.random.default_rng(1),
        np.random.SeedSequence(2),
        lambda line, clock_s: begun.append((line, clock_s)),
        Aberrations,
    )
    return scan, begun, acquisition.placed(PLAN)


@pytest.mark.parametrize("block", [1, 5, 12])
def test_every_line_begins_once_however_the_scan_is_cut(block: int) -> None:
    scan, begun, plan = running()
    ends_s = np.concatenate([scan.expose(path).clock_s for path in paths(plan, block)])
    assert [line for line, _ in begun] == [0, 1, 2]
    assert [clock_s for _, clock_s in begun] == pytest.approx([BEGUN_S + PLAN.settle_s + k * LINE_S for k in range(3)])
    assert ends_s[-1] == pytest.approx(BEGUN_S + 3 * LINE_S - PLAN.flyback_s)


def test_a_hold_up_delays_the_positions_after_it() -> None:
    scan, begun, plan = running()
    first, second = list(paths(plan, 6))
    ended_s = float(scan.expose(first).clock_s[-1])
    scan.resume(ended_s)  # none
    scan.resume(ended_s + 0.5)
    assert scan.expose(second).clock_s == pytest.approx(BEGUN_S + 0.5 + second.end_s)
    assert begun[-1] == (2, pytest.approx(BEGUN_S + 0.5 + PLAN.settle_s + 2 * LINE_S))
    assert scan.actual_nm == pytest.approx(second.intended_nm)


def test_blocks_follow_one_another() -> None:
    scan, _, plan = running()
    with pytest.raises(ValueError, match="position 0 is next"):
        scan.expose(list(paths(plan, 6))[1])
