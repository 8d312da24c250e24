"""A slow detector in a scan: light spreads after the electrons have arrived, the digitiser's noise comes on top."""

from dataclasses import replace

import numpy as np
import pytest

from twin.day import Day, ScanProperties
from twin.detectors.layouts import Region
from twin.detectors.scintillator import ScintillatorChain, count_variance
from twin.optics import Optics
from twin.scan.plan import ScanPlan
from twin.scan.response import response_weights
from twin.scan.setup import ScanSetup
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace

DWELL_S = 1e-6
FAST = Day(focal_spread_nm=0.0, source_size_nm=0.0)
SLOW = replace(FAST, scan=ScanProperties(response_s=DWELL_S))
CHAIN = ScintillatorChain(readout_rms=2.0)
# All of the beam in vacuum beside one atom: the mean is the dose, the same everywhere.
SETUP = ScanSetup(
    specimen="single_atoms",
    specimen_options={"positions_nm": [[0.1, 0.1]], "side_nm": 4.0, "element": "C", "thermal": False},
    optics=Optics(convergence_mrad=20.0, grid=64, sampling_nm=0.02, camera_pixels=16, binning=2),
    detectors={"all": (Region(outer_mrad=30.0),)},
    chain=CHAIN,
    camera=None,
)
PLAN = ScanPlan(rows=64, columns=64, step_nm=0.005, dwell_s=DWELL_S, dose_e=0.05, centre_nm=(2.5, 2.5))
SPACE = StateSpace(start_nm=(0.1, 0.1, 0.1))
WEIGHTS = response_weights("half_lorentzian", DWELL_S, DWELL_S, 64)


def recorded(day: Day, setup: ScanSetup = SETUP, plan: ScanPlan = PLAN, block: int = 64) -> np.ndarray:
    microscope = SimulatedMicroscope(Optics(), SPACE, day, scan=setup)
    microscope.reset(np.random.default_rng(5))
    blocks = list(microscope.scan(plan, block=block))
    return np.concatenate([b.signals["all"] for b in blocks]).reshape(plan.rows, plan.columns)


@pytest.fixture(scope="module")
def slow() -> np.ndarray:
    """The scan of `PLAN` by the slow detector."""
    return recorded(SLOW)


@pytest.fixture(scope="module")
def fast() -> np.ndarray:
    """The same electrons, seen by a fast one."""
    return recorded(FAST)


def neighbours(image: np.ndarray, axis: int) -> float:
    """Correlation of pixels next to each other along an axis."""
    fluctuation = image - image.mean()
    moved = np.roll(fluctuation, 1, axis)
    keep = [slice(None), slice(None)]
    keep[axis] = slice(1, None)
    return float((fluctuation * moved)[tuple(keep)].mean() / fluctuation.var())


def test_single_electrons_leave_tails_along_the_fast_axis_alone(slow: np.ndarray, fast: np.ndarray) -> None:
    """Lag-1 correlations of 4096 pixels scatter by 1/64, by under twice that with tails: five of those, 1e-6."""
    chance = 5 * 2 / 64
    tails = float(WEIGHTS[1:] @ WEIGHTS[:-1] / (WEIGHTS @ WEIGHTS))
    assert tails > 3 * chance
    assert neighbours(slow, axis=1) == pytest.approx(tails, abs=chance)
    assert abs(neighbours(slow, axis=0)) < chance
    assert abs(neighbours(fast, axis=1)) < chance


def test_the_light_s_noise_is_averaged_and_the_digitiser_s_is_not(slow: np.ndarray, fast: np.ndarray) -> None:
    light = float(count_variance(PLAN.dose_e, CHAIN)) - CHAIN.readout_rms**2
    # 205 electrons: a variance, of Poisson arrivals of kurtosis 1 / 0.05, is good to sqrt((20 + 2) / 4096) = 7 %.
    assert fast.var() == pytest.approx(light + 4.0, rel=0.35)
    assert slow.var() == pytest.approx(light * float(WEIGHTS @ WEIGHTS) + 4.0, rel=0.35)
    assert slow.mean() - CHAIN.offset == pytest.approx(
        fast.mean() - CHAIN.offset, rel=0.1
    )  # little is lost at the ends
    dark = replace(PLAN, dose_e=1e-9)
    for image in (recorded(SLOW, plan=dark), recorded(FAST, plan=dark)):
        # Variance of 4096 normal values: 2.2 %; five of these. Rounding adds 1/12.
        assert image.var() == pytest.approx(4.0 + 1 / 12, rel=0.11)


def test_a_flat_field_stays_flat_to_the_beginning_of_its_lines() -> None:
    bright = recorded(SLOW, plan=replace(PLAN, dose_e=400.0, rows=256, columns=32))
    mean = bright.mean(axis=0) - CHAIN.offset
    # Each column is a mean over 256 lines of 400 electrons: 0.3 % at most; five of these, 32 columns.
    assert mean == pytest.approx(np.full(32, mean.mean()), rel=0.016)


def test_an_electron_on_the_first_position_leaves_no_longer_tail_than_others() -> None:
    """Both scans meet the same electrons: the fast one tells in which lines the first position had one."""
    plan = replace(PLAN, rows=384, columns=16, dose_e=0.06)
    fast, slow = recorded(FAST, plan=plan) - CHAIN.offset, recorded(SLOW, plan=plan) - CHAIN.offset
    lines = slow[(fast[:, 0] > 50.0) & (fast[:, 0] < 150.0)]
    assert len(lines) > 14
    # An electron's 100 counts spread by 12 %, the 6 of others by 24: over 15 lines, 7; two and a half of these.
    assert lines[:, :4].mean(axis=0) == pytest.approx(100.0 * WEIGHTS[:4] + 6.0, abs=17.5)


def test_signals_are_the_same_however_the_scan_is_cut() -> None:
    plan = replace(PLAN, rows=4, dose_e=3.0)
    whole = recorded(SLOW, plan=plan, block=256)
    for block in (1, 63):
        assert np.array_equal(recorded(SLOW, plan=plan, block=block), whole)


def test_without_a_chain_electrons_are_whole_unless_their_light_is_slow() -> None:
    counting = replace(SETUP, chain=None)
    fast, slow = recorded(FAST, counting), recorded(SLOW, counting)
    assert fast.dtype == np.int64
    assert fast.mean() == pytest.approx(0.05, rel=0.35)  # 205 electrons: five standard deviations
    assert slow.dtype == np.float64
    assert slow.sum() == pytest.approx(fast.sum(), rel=0.1)
    assert slow.max() < 0.8 * fast.max()
