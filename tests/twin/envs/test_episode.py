"""Episodes of the environments: days from options, observed inputs, one thread, and the surrogate."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import twin  # noqa: F401  (registers the environments)
from twin.day import Day
from twin.envs.calibration import CalibrationEnv
from twin.envs.episode import Days, ResetError
from twin.envs.scan import ScanEnv
from twin.envs.task import one_thread
from twin.envs.thon_rings import SurrogateEnv, ThonRings
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, StateSpace

SMALL = Optics(camera_pixels=32, binning=12)
NOMINAL = Day()
DIM = Day(dose_e=1e4)


def first(env: gymnasium.Env[Any, Any], seed: int = 3, **options: Any) -> np.ndarray:
    _, info = env.reset(seed=seed, options=options or None)
    return np.asarray(info["frame"].counts)


# --- days ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("day", [DIM, {"dose_e": 1e4}])
def test_a_day_in_the_options_is_that_of_an_environment_made_with_it_and_lasts_one_episode(day: Any) -> None:
    env, own = CalibrationEnv(optics=SMALL), CalibrationEnv(optics=SMALL, day=DIM)
    nominal = first(env)
    np.testing.assert_array_equal(first(env, day=day), first(own))
    assert env.day == DIM
    np.testing.assert_array_equal(first(env), nominal)
    assert env.day == NOMINAL


def test_a_severity_draws_another_day_every_episode_and_the_seed_repeats_it() -> None:
    env = CalibrationEnv(optics=SMALL, severity=0.5)
    frames, days, starts = [], [], []
    for _ in range(2):
        frames.append(first(env))
        days.append(env.day)
        starts.append(env.microscope.truth().initial_nm)  # type: ignore[attr-defined]
        env.reset()
        days.append(env.day)
    np.testing.assert_array_equal(*frames)
    assert days[0] == days[2] != days[1] == days[3]
    # The day is drawn beside the session: the state begins where it does on any other day.
    plain = CalibrationEnv(optics=SMALL)
    plain.reset(seed=3)
    np.testing.assert_array_equal(plain.microscope.truth().initial_nm, starts[0])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first(plain, severity=0.5), frames[0])
    np.testing.assert_array_equal(first(env, severity=0), first(plain))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"severty": 1.0}, r"'severty' is not an option of reset \(did you mean severity\?\)"),
        ({"state_nm": [1, 2, 3]}, "known: day, severity"),
        ({"day": DIM, "severity": 1.0}, "not both"),
        ({"day": {"dose": 1e4}}, r"day: 'dose' is not an option here \(did you mean dose_e"),
        ({"day": {"dose_e": -1.0}}, "day: dose_e: input should be greater than 0"),
        ({"day": "day_a"}, "a twin.Day or a mapping of its fields"),
        ({"severity": -0.1}, "0 .the nominal day. or more; got -0.1"),
        ({"severity": float("nan")}, "got nan"),
        ({"severity": True}, "got True"),
        ({"severity": "1"}, "got '1'"),
    ],
)
def test_options_are_never_passed_over(options: dict[str, Any], words: str) -> None:
    env = CalibrationEnv(optics=SMALL)
    env.reset(seed=1)
    before = env.step([0.1, 0.0, 0.0])[4]["cumulative_nm"]
    with pytest.raises(ResetError, match=words):
        env.reset(options=options)
    assert env.step([0.0, 0.0, 0.0])[4]["cumulative_nm"].tolist() == before.tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda: CalibrationEnv(SimulatedMicroscope(SMALL, FIRST_ORDER, Day())),
        SurrogateEnv,
        ScanEnv,
    ],
)
def test_environments_without_days_say_so(make: Any) -> None:
    env = make()
    for options in ({"severity": 1.0}, {"day": DIM}):
        with pytest.raises(ResetError, match=r"reset\(options=.*day"):
            env.reset(seed=0, options=options)
    with pytest.raises(ResetError, match="not an option of reset"):
        env.reset(seed=0, options={"speed": 1})
    env.reset(seed=0, options={})


def test_a_day_and_a_severity_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="a severity to draw one; not both"):
        CalibrationEnv(day=DIM, severity=1.0)
    with pytest.raises(ResetError, match="severity is a number"):
        Days(NOMINAL, -1.0)
    with pytest.raises(ValueError, match="severity, space, optics"):
        CalibrationEnv(SimulatedMicroscope(SMALL, FIRST_ORDER, Day()), severity=1.0)


# --- observed inputs -----------------------------------------------------------------------------


def test_the_observation_can_hold_the_cumulative_input() -> None:
    env = CalibrationEnv(optics=SMALL, observe_input=True)
    plain = CalibrationEnv(optics=SMALL)
    observation, _ = env.reset(seed=2)
    assert isinstance(observation, dict)
    np.testing.assert_array_equal(observation["picture"], plain.reset(seed=2)[0])
    assert observation["input"].tolist() == [0.0, 0.0, 0.0]
    observation, *_ = env.step([0.25, -0.1, 0.0])
    assert isinstance(observation, dict)
    np.testing.assert_allclose(observation["input"], [0.5, -0.2, 0.0], rtol=1e-6)
    observation, *_, info = env.step([1.0, 0.0, 0.0])
    assert isinstance(observation, dict)
    np.testing.assert_allclose(observation["input"], info["cumulative_nm"] / FIRST_ORDER.input, rtol=1e-6)
    assert observation in env.observation_space


def test_the_checker_accepts_observed_inputs() -> None:
    check_env(gymnasium.make("stemtwin/CalibrationSurrogate-v0", observe_input=True).unwrapped, skip_render_check=True)


# --- one thread ----------------------------------------------------------------------------------


def test_frames_are_computed_with_one_thread_and_the_number_outside_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    env, seen = CalibrationEnv(optics=SMALL), []
    acquire = env.microscope.acquire
    monkeypatch.setattr(env.microscope, "acquire", lambda: (seen.append(torch.get_num_threads()), acquire())[1])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        env.reset(seed=0)
        env.step([0.0, 0.0, 0.0])
        assert (seen, torch.get_num_threads()) == ([1, 1], 3)
        with pytest.raises(ZeroDivisionError), one_thread():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# --- the surrogate -------------------------------------------------------------------------------


def expected(state_nm: list[float], frames: int = 200) -> np.ndarray:
    microscope = ThonRings(StateSpace(input_nm=(200.0, 100.0, 100.0)))
    microscope.reset(np.random.default_rng(0))
    microscope.apply(np.array(state_nm) - microscope.truth().state_nm)
    return np.mean([microscope.acquire().counts for _ in range(frames)], axis=0)


def test_rings_are_where_the_closed_form_puts_them() -> None:
    # Dark rings of a defocused film: chi = pi theta^2 C10 / lambda = n pi, theta_n = sqrt(n lambda / C10).
    picture = expected([50.0, 0.0, 0.0])
    row, pixel_mrad = picture[20, 20:], 0.5
    first_zero_mrad = 1e3 * np.sqrt(1.9687e-3 / 50.0)
    assert np.argmin(row[8:16]) + 8 == round(first_zero_mrad / pixel_mrad)
    np.testing.assert_allclose(picture, picture.T, atol=2.0)
    astigmatic = expected([0.0, 30.0, 0.0])
    assert abs(astigmatic[20, 32] - astigmatic[32, 20]) < 3.0  # sin^2 is even
    assert astigmatic[32, 32] < 1.0 < astigmatic[20, 32]  # C12a vanishes on the diagonals


def test_a_frame_does_not_show_the_sign_but_the_input_does() -> None:
    np.testing.assert_allclose(expected([20.0, 5.0, -8.0]), expected([-20.0, -5.0, 8.0]), atol=2.0)
    assert np.abs(expected([25.0, 5.0, -8.0]) - expected([-15.0, -5.0, 8.0])).max() > 10.0


def test_the_surrogate_has_the_reward_and_the_limits_of_the_real_task() -> None:
    env, real = gymnasium.make("stemtwin/CalibrationSurrogate-v0"), gymnasium.make("stemtwin/Calibration-v0")
    assert env.action_space == real.action_space
    env.reset(seed=4)
    truth = env.unwrapped.microscope.truth().state_nm  # type: ignore[attr-defined]
    action = env.unwrapped.action_from_nm(-truth)  # type: ignore[attr-defined]
    _, reward, *_, info = env.step(action)
    assert -1e-3 < reward <= 0.0
    assert not info["clipped"]
    *_, info = env.step(np.ones(3, np.float32))
    assert info["clipped"]
