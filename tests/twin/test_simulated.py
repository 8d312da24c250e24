"""The simulated microscope: exact dynamics, separate random streams, refusals that move nothing."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chi2

from twin.aberrations import Aberrations
from twin.day import ActuatorProperties, CameraProperties, Day, DriftProperties
from twin.dynamics import actual_input
from twin.optics import AliasingError, Optics
from twin.simulated import RENDERERS, SimulatedMicroscope, make_renderer
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.types import HasTruth, Microscope

OPTICS = Optics(camera_pixels=16, binning=24)
FALSE_ALARM = 1e-4


class EvenLight:
    """A renderer that lights every pixel alike and remembers what it was asked."""

    def __init__(self, optics: Optics = OPTICS) -> None:
        self.side = optics.camera_pixels
        self.states: list[Aberrations] = []
        self.regions: list[int] = []
        self.broken = False

    def probability(self, aberrations: Sequence[Aberrations], region_seeds: Sequence[int]) -> np.ndarray:
        if self.broken:
            raise AliasingError("broken on purpose")
        self.states += aberrations
        self.regions += region_seeds
        return np.full((len(aberrations), self.side, self.side), 1.0 / self.side**2, np.float32)


def microscope(
    day: Day | None = None, seed: int | None = 0, space: StateSpace = FIRST_ORDER
) -> tuple[SimulatedMicroscope, EvenLight]:
    light = EvenLight()
    instrument = SimulatedMicroscope(OPTICS, space, day or Day(), light)
    if seed is not None:
        instrument.reset(np.random.default_rng(seed))
    return instrument, light


def test_obeys_both_protocols() -> None:
    instrument, _ = microscope()
    assert isinstance(instrument, Microscope)
    assert isinstance(instrument, HasTruth)
    assert instrument.capabilities.camera_shape == (16, 16)
    assert instrument.capabilities.space is FIRST_ORDER


@pytest.mark.parametrize("verb", ["acquire", "truth", "apply"])
def test_nothing_works_before_reset(verb: str) -> None:
    instrument, _ = microscope(seed=None)
    arguments = [np.zeros(3)] if verb == "apply" else []
    with pytest.raises(RuntimeError, match=rf"{verb}\(\) before reset"):
        getattr(instrument, verb)(*arguments)


def test_the_renderer_sees_state_plus_residual() -> None:
    day = Day(residual_nm={"C30": 500.0, "C21a": 25.0, "C12a": 3.0})
    instrument, light = microscope(day, seed=1)
    instrument.apply(np.array([1.0, -2.0, 3.0]))
    instrument.acquire()
    state = instrument.truth().state_nm
    assert light.states[0]["C10"] == state[0]
    assert light.states[0]["C12a"] == state[1] + 3.0
    assert light.states[0]["C12b"] == state[2]
    assert (light.states[0]["C30"], light.states[0]["C21a"]) == (500.0, 25.0)


def test_every_state_starts_in_the_box_and_differs_by_seed() -> None:
    starts = []
    instrument, _ = microscope(space=SECOND_ORDER)
    for seed in range(50):
        instrument.reset(np.random.default_rng(seed))
        starts.append(instrument.truth().initial_nm)
    assert np.all(np.abs(starts) <= SECOND_ORDER.start)
    assert len(np.unique(np.array(starts)[:, 0])) == 50


def test_inputs_add_exactly() -> None:
    instrument, _ = microscope()
    state = instrument.truth().state_nm
    rng = np.random.default_rng(3)
    for _ in range(20):
        delta = rng.uniform(-2.5, 2.5, 3) / 3
        instrument.apply(delta)
        state = state + delta
        assert instrument.truth().state_nm.tobytes() == state.tobytes()
        instrument.acquire()
        assert instrument.truth().state_nm.tobytes() == state.tobytes()


def test_a_later_change_of_the_callers_arrays_moves_nothing() -> None:
    instrument, _ = microscope()
    delta = np.array([1.0, 2.0, 3.0])
    instrument.apply(delta)
    before, start = instrument.truth().state_nm, instrument.truth().initial_nm
    delta += 100.0
    instrument.truth().state_nm[:] = 0.0
    instrument.truth().initial_nm[:] = 0.0
    assert np.array_equal(instrument.truth().state_nm, before)
    assert np.array_equal(instrument.truth().initial_nm, start)


def test_an_actuator_with_errors_moves_the_state_by_what_it_makes() -> None:
    actuator = ActuatorProperties(gain=0.9, rotation_deg=10.0)
    instrument, _ = microscope(Day(actuator=actuator))
    start = instrument.truth().initial_nm
    delta = np.array([20.0, 10.0, -5.0])
    instrument.apply(delta)
    assert instrument.truth().state_nm == pytest.approx(start + actual_input(delta, FIRST_ORDER, actuator))
    # The limit is on what was asked for: +60 in all, not +60 of what was made.
    instrument.apply(np.array([40.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="C10"):
        instrument.apply(np.array([0.1, 0.0, 0.0]))


def test_the_clock_counts_overhead_and_exposure_and_reset_rewinds_it() -> None:
    instrument, _ = microscope(Day(exposure_s=0.25, overhead_s=1.5, dose_e=3e5))
    frames = [instrument.acquire() for _ in range(3)]
    assert [f.clock_s for f in frames] == [1.75, 3.5, 5.25]
    assert {(f.exposure_s, f.dose_e) for f in frames} == {(0.25, 3e5)}
    instrument.reset(np.random.default_rng(5))
    assert instrument.acquire().clock_s == 1.75


def test_another_exposure_keeps_state_clock_and_costs() -> None:
    scope, _ = microscope(Day(dose_e=1e5, exposure_s=0.5, overhead_s=0.25))
    scope.acquire()
    state_nm = scope.truth().state_nm
    scope.set_exposure(3e5, 1.0)
    frame = scope.acquire()
    assert (frame.dose_e, frame.exposure_s, frame.clock_s) == (3e5, 1.0, 2.0)
    assert scope.cost.electrons_e == 4e5
    assert np.array_equal(scope.truth().state_nm, state_nm)
    with pytest.raises(ValueError, match="dose_e"):
        scope.set_exposure(-1.0, 1.0)
    assert scope.next_exposure[1] == 3e5


def test_a_frame_tells_an_operator_the_dark_level_and_nothing_else() -> None:
    day = Day(camera=CameraProperties(dark_level=12.0, gain=1.1, rotation_deg=3.0), residual_nm={"C30": 500.0})
    instrument, _ = microscope(day)
    assert dict(instrument.acquire().settings) == {"dark_level": 12.0}


def test_expected_counts_are_dose_times_probability() -> None:
    instrument, _ = microscope(Day(dose_e=1e5))
    total = sum(int(instrument.acquire().counts.sum()) for _ in range(20))
    assert abs(total - 20e5) < 3.9 * np.sqrt(20e5)  # false alarm 1e-4


# --- random streams ---------------------------------------------------------------------------------


def test_the_kth_exposure_meets_the_same_region_and_noise_whatever_was_done_before() -> None:
    # The light is even here: counts then depend on the noise stream alone.
    (quiet, quiet_light), (busy, busy_light) = microscope(seed=7), microscope(seed=7)
    rng = np.random.default_rng(0)
    for _ in range(6):
        busy.apply(rng.uniform(-4, 4, 3))
        first, second = quiet.acquire(), busy.acquire()
        assert first == second
    assert quiet_light.regions == busy_light.regions
    assert len(set(quiet_light.regions)) == 6
    assert quiet_light.states[5] != busy_light.states[5]


def test_drift_and_defects_do_not_shift_the_other_streams() -> None:
    odd = Day(drift=DriftProperties(rate_nm_per_sqrt_s={"1": 1.0}), camera=CameraProperties(hot_fraction=0.1))
    (plain, plain_light), (drifting, drifting_light) = microscope(seed=8), microscope(odd, seed=8)
    assert np.array_equal(plain.truth().initial_nm, drifting.truth().initial_nm)
    first, second = plain.acquire().counts, drifting.acquire().counts
    good = second < 65535
    assert 0.8 < good.mean() < 1.0
    assert np.array_equal(first[good], second[good])
    assert plain_light.regions == drifting_light.regions


def test_noise_is_fresh_in_every_exposure_and_every_session() -> None:
    instrument, light = microscope(seed=9)
    frames = [instrument.acquire() for _ in range(3)]
    instrument.reset(np.random.default_rng(10))
    frames.append(instrument.acquire())
    assert len({f.counts.tobytes() for f in frames}) == 4
    assert len(set(light.regions)) == 4


def test_same_region_stays_and_its_noise_does_not() -> None:
    instrument, light = microscope(Day(same_region=True))
    frames = [instrument.acquire() for _ in range(3)]
    assert len(set(light.regions)) == 1
    assert len({f.counts.tobytes() for f in frames}) == 3


def test_one_generator_gives_fresh_sessions_and_equal_generators_equal_ones() -> None:
    rngs = [np.random.default_rng(11), np.random.default_rng(11)]
    sessions: list[list[bytes]] = []
    for rng in rngs:
        instrument, _ = microscope(seed=None)
        taken = []
        for _ in range(2):
            instrument.reset(rng)
            taken.append(instrument.truth().initial_nm.tobytes() + instrument.acquire().counts.tobytes())
        sessions.append(taken)
    assert sessions[0] == sessions[1]
    assert sessions[0][0] != sessions[0][1]


def test_defects_are_fixed_within_a_session() -> None:
    instrument, _ = microscope(Day(camera=CameraProperties(hot_fraction=0.05)), seed=12)
    hot = [set(np.flatnonzero(instrument.acquire().counts == 65535)) for _ in range(3)]
    assert hot[0] == hot[1] == hot[2] != set()
    instrument.reset(np.random.default_rng(13))
    assert set(np.flatnonzero(instrument.acquire().counts == 65535)) != hot[0]


# --- drift -------------------------------------------------------------------------------------------


def test_a_drifting_frame_shows_the_state_that_truth_tells() -> None:
    instrument, light = microscope(Day(drift=DriftProperties(rate_nm_per_sqrt_s={"1": 1.0})))
    for k in range(4):
        instrument.acquire()
        shown = [light.states[k][name] for name in FIRST_ORDER.names]
        assert shown == instrument.truth().state_nm.tolist()
    assert not np.array_equal(instrument.truth().state_nm, instrument.truth().initial_nm)


def test_drift_grows_with_the_clock() -> None:
    day = Day(drift=DriftProperties(rate_nm_per_sqrt_s={"1": 0.4}), exposure_s=0.5, overhead_s=1.0)
    instrument, _ = microscope(day, seed=None)
    walked = []
    for seed in range(400):
        instrument.reset(np.random.default_rng(seed))
        frames = [instrument.acquire() for _ in range(4)]
        truth = instrument.truth()
        walked.append(truth.state_nm - truth.initial_nm)
    assert frames[-1].clock_s == 6.0
    statistic = np.sum(np.square(walked)) / (0.4**2 * 6.0)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 1200)
    assert low < statistic < high


def test_residual_coefficients_drift_alike_and_truth_holds_the_calibrated_part() -> None:
    day = Day(
        residual_nm={"C30": 500.0},
        drift=DriftProperties(step_nm={"C10": 5.0, "C12b": -2.0, "C30": 100.0, "C21a": 7.0}, step_at_s=2.0),
    )
    instrument, light = microscope(day)
    for _ in range(4):  # frames end at 1, 2, 3 and 4 s
        instrument.acquire()
    start = instrument.truth().initial_nm
    assert instrument.truth().state_nm == pytest.approx(start + np.array([5.0, 0.0, -2.0]))
    shown = {name: [state[name] for state in light.states] for name in ("C10", "C30", "C21a", "C23a")}
    assert shown["C10"] == pytest.approx([start[0]] * 2 + [start[0] + 5.0] * 2)
    assert shown["C30"] == [500.0, 500.0, 600.0, 600.0]
    assert shown["C21a"] == [0.0, 0.0, 7.0, 7.0]
    assert shown["C23a"] == [0.0] * 4


def test_reset_forgets_the_drift() -> None:
    day = Day(drift=DriftProperties(rate_nm_per_sqrt_s={"1": 1.0, "3": 50.0}, wander_nm={"C30": 20.0}))
    instrument, light = microscope(day, seed=21)
    for _ in range(3):
        instrument.acquire()
    instrument.reset(np.random.default_rng(21))
    for _ in range(3):
        instrument.acquire()
    assert light.states[:3] == light.states[3:]
    assert len({state["C30"] for state in light.states[:3]}) == 3


def test_the_instrument_drifts_alike_whatever_is_calibrated() -> None:
    day = Day(drift=DriftProperties(rate_nm_per_sqrt_s={"1": 1.0, "2": 2.0, "C30": 8.0}, wander_nm={"2": 5.0}))
    few, few_light = microscope(day, seed=22)
    many, many_light = microscope(day, seed=22, space=SECOND_ORDER)
    starts = few.truth().initial_nm, many.truth().initial_nm
    for _ in range(5):
        few.acquire()
        many.acquire()
    moved = [
        light.states[-1].array() - space.to_aberrations(start).array()
        for light, space, start in zip((few_light, many_light), (FIRST_ORDER, SECOND_ORDER), starts, strict=True)
    ]
    assert moved[0] == pytest.approx(moved[1], abs=1e-9)
    assert np.count_nonzero(moved[0]) == 8


def test_wander_differs_from_session_to_session() -> None:
    instrument, _ = microscope(Day(drift=DriftProperties(wander_nm={"C10": 5.0}, wander_period_s=8.0)))
    moved = []
    for seed in range(5):
        instrument.reset(np.random.default_rng(seed))
        instrument.acquire()
        moved.append(instrument.truth().state_nm[0] - instrument.truth().initial_nm[0])
    assert len(set(moved)) == 5
    assert max(abs(m) for m in moved) <= 10.0


# --- refusals ----------------------------------------------------------------------------------------


def test_an_exposure_that_fails_leaves_state_and_clock() -> None:
    instrument, light = microscope(Day(drift=DriftProperties(rate_nm_per_sqrt_s={"1": 1.0})), seed=14)
    light.broken = True
    before = instrument.truth().state_nm
    with pytest.raises(AliasingError):
        instrument.acquire()
    light.broken = False
    assert np.array_equal(instrument.truth().state_nm, before)
    twin, _ = microscope(Day(drift=DriftProperties(rate_nm_per_sqrt_s={"1": 1.0})), seed=14)
    assert instrument.acquire() == twin.acquire()


def test_an_unknown_renderer_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'multislise' is not a renderer \(did you mean multislice\?\).*fast"):
        SimulatedMicroscope(OPTICS, FIRST_ORDER, Day(), "multislise")


def test_renderers_by_name_light_most_of_the_camera() -> None:
    assert set(RENDERERS) == {"fast", "multislice"}
    share = make_renderer("fast", Optics(), Day()).probability([Aberrations()], [1])
    assert share.shape == (1, 128, 128)
    assert 0.9 < share.sum() <= 1.0


@pytest.mark.parametrize(
    "day",
    [
        Day(),
        Day(residual_nm={"C21a": 130.0, "C21b": -90.0, "C23a": -110.0, "C23b": 120.0, "C30": 1200.0}),
        Day(actuator=ActuatorProperties(rotation_deg=5.0)),
    ],
)
@pytest.mark.parametrize("space", [FIRST_ORDER, SECOND_ORDER])
def test_the_recommended_window_holds_every_state_within_reach(day: Day, space: StateSpace) -> None:
    microscope = SimulatedMicroscope(Optics(), space, day, EvenLight())
    assert microscope.capabilities.space == space


@pytest.mark.parametrize(
    ("space", "day"),
    [
        (StateSpace(start_nm=(150.0, 30.0, 30.0), input_nm=(150.0, 30.0, 30.0)), Day()),
        (FIRST_ORDER, Day(residual_nm={"C10": 100.0})),
        (FIRST_ORDER, Day(actuator=ActuatorProperties(gain=1.5))),
        (FIRST_ORDER, Day(actuator=ActuatorProperties(coupling={"C12a": {"C10": 0.9}}))),
    ],
)
def test_a_day_that_can_alias_is_refused_before_any_work(space: StateSpace, day: Day) -> None:
    with pytest.raises(AliasingError, match=r"needs a window of [\d.]+ nm; the grid spans 12.8 nm"):
        SimulatedMicroscope(Optics(), space, day, "no renderer is made before the check")
