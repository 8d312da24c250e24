"""The account of a session against what was done in it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.cost import Cost, Dose, Ledger, scan_times, scanned_area_nm2
from twin.day import Day
from twin.optics import Optics
from twin.scan.plan import ScanPlan, duration_s, paths
from twin.scan.setup import ScanSetup
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER

OPTICS = Optics(grid=512, camera_pixels=64, binning=4)
SECONDS = st.floats(0.0, 1e3)


def microscope(day: Day) -> SimulatedMicroscope:
    made = SimulatedMicroscope(OPTICS, FIRST_ORDER, day)
    made.reset(np.random.default_rng(0))
    return made


PLAN = ScanPlan(rows=3, columns=4, step_nm=0.5, dwell_s=0.1, flyback_s=0.07, settle_s=0.05, dose_e=10.0)


def test_every_booking_goes_where_it_belongs() -> None:
    ledger = Ledger()
    ledger.expose("film 0", 1000.0, 50.0, exposure_s=0.5, overhead_s=0.25)
    ledger.expose("here", 80.0, 4.0, exposure_s=0.0, overhead_s=0.0)
    ledger.command(16.0)
    before = None
    for block in paths(PLAN, 5):
        ledger.scan("here", block, before)
        before = block
    cost = ledger.cost
    assert (cost.exposure_s, cost.latency_s) == (0.5, 16.0)
    # 12 dwells, two flybacks between three lines, three times settling and what the exposure took on top.
    assert (cost.dwell_s, cost.flyback_s, cost.overhead_s) == pytest.approx((1.2, 0.14, 0.15 + 0.25))
    assert cost.simulated_s == pytest.approx(16.0 + 0.75 + 1.49)
    assert cost.electrons_e == 1200.0
    assert cost.regions["film 0"] == Dose(1000.0, 20.0)
    assert cost.regions["here"].electrons_e == 200.0
    assert cost.most_e_per_nm2 == cost.regions["here"].e_per_nm2 == pytest.approx(20.0 + 120.0 / 3.0)
    plain = cost.plain()
    assert sum(plain[name] for name in plain if name.endswith("_s") and name != "simulated_s") == cost.simulated_s
    assert (plain["electrons_e"], plain["regions"], plain["most_e_per_nm2"]) == (1200.0, 2, cost.most_e_per_nm2)


@given(
    st.sampled_from(["raster", "serpentine", "subsampled"]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 40),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_times_of_a_scan_add_up_however_it_is_cut(
    pattern: str, rows: int, columns: int, block: int, flyback_s: float, settle_s: float
) -> None:
    fraction = 0.6 if pattern == "subsampled" and rows * columns > 4 else 1.0
    plan = ScanPlan(
        pattern=pattern,  # type: ignore[arg-type]
        rows=rows,
        columns=columns,
        dwell_s=0.01,
        flyback_s=flyback_s,
        settle_s=settle_s,
        fraction=fraction,
    )
    before, total = None, np.zeros(3)
    for path in paths(plan, block):
        total += scan_times(path, before)
        before = path
    assert before is not None
    lines = int(before.line[-1]) + 1
    flybacks = 0 if pattern == "serpentine" else lines - 1
    assert total.sum() == pytest.approx(duration_s(plan))
    assert total == pytest.approx([plan.count * 0.01, flybacks * flyback_s, lines * settle_s], abs=1e-9)


def test_the_area_of_a_scan_is_a_step_squared_per_pixel_or_a_list_s_rectangle() -> None:
    assert scanned_area_nm2(PLAN) == 3.0
    turned = ScanPlan(rows=3, columns=4, step_nm=0.5, rotation_deg=30.0, pattern="subsampled", fraction=0.5)
    assert scanned_area_nm2(turned) == 3.0
    spots = ScanPlan(pattern="list", positions_nm=((0.0, 0.0), (2.0, 0.0), (1.0, 3.0)))
    assert scanned_area_nm2(spots) == pytest.approx(6.0)
    assert scanned_area_nm2(ScanPlan(pattern="list", positions_nm=((1.0, 1.0),))) == pytest.approx(0.01)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e6), st.floats(0.1, 1e3), SECONDS, SECONDS), max_size=8)
)
def test_totals_are_the_sums_of_the_bookings(bookings: list[tuple[str, float, float, float, float]]) -> None:
    ledger = Ledger()
    for region, electrons, area, exposure, overhead in bookings:
        ledger.expose(region, electrons, area, exposure, overhead)
        ledger.command(overhead)
    assert ledger.cost.simulated_s == pytest.approx(sum(b[3] + 2 * b[4] for b in bookings))
    assert ledger.cost.electrons_e == pytest.approx(sum(b[1] for b in bookings))
    for region, dose in ledger.cost.regions.items():
        assert dose.e_per_nm2 == pytest.approx(sum(b[1] / b[2] for b in bookings if b[0] == region))


def test_an_account_in_hand_does_not_change() -> None:
    ledger = Ledger()
    ledger.command(1.0)
    before = ledger.cost
    ledger.expose("a", 10.0, 1.0, 1.0, 1.0)
    assert (before.simulated_s, before.electrons_e, dict(before.regions)) == (1.0, 0.0, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.latency_s = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("electrons", "area", "seconds"), [(-1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, -1.0), (1.0, 1.0, float("nan"))]
)
def test_an_impossible_booking_is_refused_and_leaves_no_trace(electrons: float, area: float, seconds: float) -> None:
    ledger = Ledger()
    with pytest.raises(ValueError, match=r"nm2|exposure_s"):
        ledger.expose("a", electrons, area, seconds, 0.0)
    assert ledger.cost == Cost()


def test_the_microscope_s_account_adds_up_to_its_clock() -> None:
    day = Day(exposure_s=0.3, overhead_s=0.2, command_latency_s=0.7, dose_e=1e5)
    made = microscope(day)
    assert made.cost == Cost()
    clocks = []
    for _ in range(3):
        made.apply(np.array([1.0, 0.0, 0.0]))
        clocks.append(made.acquire().clock_s)
    cost = made.cost
    assert clocks == pytest.approx([1.2, 2.4, 3.6])
    assert (cost.exposure_s, cost.overhead_s, cost.latency_s) == pytest.approx((0.9, 0.6, 2.1))
    assert cost.simulated_s == pytest.approx(clocks[-1])
    assert cost.electrons_e == 3e5
    assert {dose.e_per_nm2 for dose in cost.regions.values()} == {1e5 / OPTICS.window_nm**2}
    assert len(cost.regions) == 3
    made.reset(np.random.default_rng(1))
    assert made.cost == Cost()


def test_dose_adds_up_where_the_beam_stays() -> None:
    made = microscope(Day(dose_e=1e5, same_region=True))
    for _ in range(4):
        made.acquire()
    assert list(made.cost.regions.values()) == [Dose(4e5, 4 * (1e5 / OPTICS.window_nm**2))]


def test_a_refused_input_costs_nothing() -> None:
    made = microscope(Day(command_latency_s=1.0))
    with pytest.raises(ValueError, match="limit"):
        made.apply(np.array([1e3, 0.0, 0.0]))
    assert made.cost == Cost()


def test_there_is_no_account_before_a_session() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        _ = SimulatedMicroscope(OPTICS, FIRST_ORDER, Day()).cost


def test_a_scan_a_command_and_an_exposure_share_one_clock() -> None:
    day = Day(exposure_s=0.3, overhead_s=0.2, command_latency_s=0.7, dose_e=1e5)
    setup = ScanSetup(specimen="single_atoms", detectors={"bf": None}, camera=None)
    made = SimulatedMicroscope(OPTICS, FIRST_ORDER, day, scan=setup)
    made.reset(np.random.default_rng(0))
    made.apply(-made.truth().state_nm)
    clocks = []
    for number, block in enumerate(made.scan(PLAN, block=5)):
        clocks += block.clock_s.tolist()
        if number == 0:
            made.apply(np.zeros(3))
        if number == 1:
            clocks.append(made.acquire().clock_s)
    assert np.all(np.diff(clocks) >= PLAN.dwell_s - 1e-9)
    assert clocks[0] == pytest.approx(0.7 + 0.05 + 0.1)
    assert clocks[-1] == pytest.approx(2 * 0.7 + 0.5 + duration_s(PLAN))
    cost = made.cost
    assert cost.simulated_s == pytest.approx(clocks[-1])
    assert (cost.latency_s, cost.exposure_s) == pytest.approx((1.4, 0.3))
    assert (cost.dwell_s, cost.flyback_s, cost.overhead_s) == pytest.approx((1.2, 0.14, 0.15 + 0.2))
    assert cost.electrons_e == pytest.approx(1e5 + 120.0)
    (scanned,) = (dose for name, dose in cost.regions.items() if name.startswith("specimen"))
    assert scanned.e_per_nm2 == pytest.approx(120.0 / 3.0)
    # The same place once more: the dose adds up.
    for _ in made.scan(PLAN):
        pass
    assert max(dose.electrons_e for name, dose in made.cost.regions.items() if name.startswith("spec")) == 240.0
