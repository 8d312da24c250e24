"""The Gymnasium adapter and its picture, on a cheap renderer; the registered ids are tested in tests/contracts."""

import logging
import subprocess
import sys
from collections.abc import Sequence

import gymnasium
import numpy as np
import pytest
from matplotlib.figure import Figure

from twin.aberrations import Aberrations
from twin.day import Day
from twin.envs import view
from twin.envs.calibration import CalibrationEnv, observe
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, SECOND_ORDER
from twin.types import Capabilities, Frame, Truth

OPTICS = Optics(camera_pixels=48, binning=8)


class EvenLight:
    """A renderer that lights every pixel alike."""

    def probability(self, aberrations: Sequence[Aberrations], region_seeds: Sequence[int]) -> np.ndarray:
        return np.full((len(aberrations), 48, 48), 48.0**-2, np.float32)


class Instrument:
    """A microscope that keeps its truth to itself, as real ones do."""

    def __init__(self) -> None:
        self.capabilities = Capabilities("mock", OPTICS, FIRST_ORDER, (48, 48), 65535)
        self.applied: list[np.ndarray] = []
        self.clock_s = 0.0

    def reset(self, rng: np.random.Generator) -> None:
        self.applied.clear()
        self.clock_s = 0.0

    def apply(self, delta_nm: np.ndarray) -> None:
        self.applied.append(delta_nm)

    def acquire(self) -> Frame:
        self.clock_s += 2.0
        return Frame(np.full((48, 48), 100, np.uint16), 5e4, 1.0, self.clock_s)


def simulated(render_mode: str | None = None, seed: int = 0) -> CalibrationEnv:
    env = CalibrationEnv(SimulatedMicroscope(OPTICS, FIRST_ORDER, Day(), EvenLight()), render_mode=render_mode)
    env.reset(seed=seed)
    return env


def frame(counts: np.ndarray) -> Frame:
    return Frame(counts.astype(np.uint16), 1e6, 0.5, 1.0)


def test_importing_twin_registers_the_ids_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, twin, gymnasium;"
        "ids = sorted(i for i in gymnasium.registry if i.startswith('stemtwin/'));"
        "heavy = [m for m in ('torch', 'abtem', 'matplotlib', 'scipy') if m in sys.modules];"
        "print(ids, heavy)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ids = ["Calibration-v0", "Calibration7D-v0", "CalibrationSurrogate-v0", "Scan4D-v0"]
    assert run.stdout.strip() == f"{[f'stemtwin/{name}' for name in ids]} []"


# --- observation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [15.0, 80.0, 2000.0])
def test_observations_have_unit_noise_at_any_dose(mean: float) -> None:
    counts = np.random.default_rng(1).poisson(mean, (128, 128))
    seen = observe(frame(counts))[..., 0].astype(float)
    # Noise of 1 and rounding of 1/12; 16384 pixels resolve 2 % at four standard errors. Anscombe's root is
    # exact for large means only: 2 % more at 15.
    assert seen.std() == pytest.approx(np.sqrt(1 + 1 / 12), rel=0.04)


def test_observation_formula_shape_and_end_of_scale() -> None:
    seen = observe(frame(np.array([[0, 1, 2], [100, 16256, 65535]])))
    assert seen.dtype == np.uint8
    assert seen.shape == (2, 3, 1)
    assert seen[..., 0].tolist() == [[0, 2, 2], [20, 254, 255]]


# --- stepping ----------------------------------------------------------------------------------------


def test_an_action_is_scaled_by_twice_the_input_box() -> None:
    env = simulated()
    assert isinstance(env.microscope, SimulatedMicroscope)
    start = env.microscope.truth().initial_nm
    _, reward, terminated, truncated, info = env.step(np.array([0.25, -0.1, 0.5], np.float32))
    assert info["applied_nm"] == pytest.approx([30.0, -6.0, 30.0], rel=1e-6)
    assert info["cumulative_nm"] == pytest.approx(info["applied_nm"])
    assert not info["clipped"]
    state = env.microscope.truth().state_nm
    assert state == pytest.approx(start + info["applied_nm"])
    assert reward == pytest.approx(-np.max(np.abs(state)) / 10.0)
    assert (terminated, truncated) == (False, False)


def test_an_action_beyond_the_limits_is_cut_and_reported() -> None:
    env = simulated()
    env.step(np.array([0.4, 0.0, 0.0]))  # to +48 of 60
    _, _, _, _, info = env.step(np.array([1.0, 0.1, -1.0]))
    assert info["clipped"]
    assert info["applied_nm"] == pytest.approx([12.0, 6.0, -30.0])
    assert info["cumulative_nm"] == pytest.approx([60.0, 6.0, -30.0])
    _, _, _, _, info = env.step(np.array([-1.0, 0.0, 0.0]))  # one step crosses the whole box
    assert not info["clipped"]
    assert info["cumulative_nm"] == pytest.approx([-60.0, 6.0, -30.0])


def test_random_actions_never_leave_the_box() -> None:
    env = simulated()
    env.action_space.seed(2)
    assert isinstance(env.microscope, SimulatedMicroscope)
    for _ in range(60):
        _, _, _, _, info = env.step(env.action_space.sample())
        assert np.all(np.abs(info["cumulative_nm"]) <= FIRST_ORDER.input)
        truth = env.microscope.truth()
        assert truth.state_nm - truth.initial_nm == pytest.approx(info["cumulative_nm"], abs=1e-9)


def test_reset_gives_back_the_range_and_starts_the_costs_anew() -> None:
    env = simulated()
    env.step_nm(FIRST_ORDER.input)
    _, info = env.reset()
    assert info["cumulative_nm"].tolist() == [0.0, 0.0, 0.0]
    assert (info["dose_e"], info["simulated_s"]) == (1e6, 1.0)
    assert env.step_nm(FIRST_ORDER.input)[4]["cumulative_nm"].tolist() == list(FIRST_ORDER.input_nm)


def test_step_nm_applies_the_very_bits() -> None:
    env = simulated()
    assert isinstance(env.microscope, SimulatedMicroscope)
    state = env.microscope.truth().state_nm
    rng = np.random.default_rng(3)
    for _ in range(10):
        delta = rng.uniform(-5, 5, 3) / 3
        _, _, _, _, info = env.step_nm(delta)
        state = state + delta
        assert info["applied_nm"].tobytes() == delta.tobytes()
        assert env.microscope.truth().state_nm.tobytes() == state.tobytes()


def test_action_from_nm_inverts_the_scale() -> None:
    env = simulated()
    delta = np.array([59.0, -12.3, 7.7])
    action = env.action_from_nm(delta)
    assert action in env.action_space
    assert env.step(action)[4]["applied_nm"] == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(
    "action", [np.zeros(2), np.zeros((3, 1)), np.float32(0.0), np.array([0.0, np.nan, 0.0]), np.array([np.inf, 0, 0])]
)
def test_bad_actions_are_refused_and_move_nothing(action: np.ndarray) -> None:
    env = simulated()
    assert isinstance(env.microscope, SimulatedMicroscope)
    before = env.microscope.truth().state_nm
    with pytest.raises(ValueError, match=r"an action has shape \(3,\) and finite values"):
        env.step(action)
    assert np.array_equal(env.microscope.truth().state_nm, before)
    assert env.step(np.zeros(3))[4]["simulated_s"] == 2.0


def test_step_nm_refuses_what_step_would_cut() -> None:
    env = simulated()
    with pytest.raises(ValueError, match=r"C12a \+31 nm"):
        env.step_nm(np.array([0.0, 31.0, 0.0]))
    assert env.step_nm(np.zeros(3))[4]["cumulative_nm"].tolist() == [0.0, 0.0, 0.0]


# --- what is told ------------------------------------------------------------------------------------


def test_info_counts_cost_and_holds_no_truth() -> None:
    env = simulated()
    _, first = env.reset(seed=4)
    _, _, _, _, info = env.step(np.zeros(3))
    assert set(first) == set(info) == {"frame", "dose_e", "simulated_s", "applied_nm", "cumulative_nm", "clipped"}
    assert (first["dose_e"], info["dose_e"]) == (1e6, 2e6)
    assert (first["simulated_s"], info["simulated_s"]) == (1.0, 2.0)
    assert not np.any(first["applied_nm"])


def test_what_the_caller_does_to_info_does_not_reach_the_environment() -> None:
    env = simulated()
    _, _, _, _, info = env.step_nm(np.ones(3))
    info["cumulative_nm"][:] = 50.0
    info["applied_nm"][:] = 50.0
    assert env.step_nm(np.ones(3))[4]["cumulative_nm"].tolist() == [2.0, 2.0, 2.0]


def test_the_picture_shows_rows_downwards_as_the_camera_reads_them() -> None:
    frame = Frame(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48), 1e5, 0.5, 1.0)
    figure = Figure()
    view.draw(figure, view.Story(OPTICS, FIRST_ORDER, [view.Moment(frame, np.zeros(3))]))
    ronchigram = next(axes for axes in figure.axes if axes.get_title() == "Ronchigram")
    bottom, top = ronchigram.get_ylim()
    assert bottom > 0 > top
    (image,) = ronchigram.images
    assert image.origin == "upper"  # type: ignore[attr-defined]
    assert image.get_array()[0, 1] == 1  # type: ignore[index]  # columns to the right


def test_an_instrument_without_truth_gives_no_reward() -> None:
    env = CalibrationEnv(Instrument(), render_mode="rgb_array")
    env.reset(seed=0)
    _, reward, _, _, info = env.step_nm(np.array([1.0, 2.0, 3.0]))
    assert reward == 0.0
    assert info["dose_e"] == 1e5
    assert isinstance(env.microscope, Instrument)
    assert env.microscope.applied[0].tolist() == [1.0, 2.0, 3.0]
    assert env.render() is not None


@pytest.mark.parametrize(("render_mode", "asked"), [(None, [0, 1, 2]), ("rgb_array", [1, 2, 3])])
def test_the_truth_is_asked_for_the_reward_and_for_pictures_alone(render_mode: str | None, asked: list[int]) -> None:
    env, calls = simulated(render_mode), 0
    truth = env.microscope.truth  # type: ignore[attr-defined]

    def counted() -> Truth:
        nonlocal calls
        calls += 1
        return truth()

    env.microscope.truth = counted  # type: ignore[attr-defined]
    seen = []
    for take in (lambda: env.reset(seed=0), lambda: env.step(np.zeros(3)), lambda: env.step(np.zeros(3))):
        take()
        seen.append(calls)
    assert seen == asked


def test_seeds_follow_gymnasium() -> None:
    env = simulated()
    assert isinstance(env.microscope, SimulatedMicroscope)

    def start() -> list[float]:
        assert isinstance(env.microscope, SimulatedMicroscope)
        return env.microscope.truth().initial_nm.tolist()

    env.reset(seed=5)
    first = start()
    env.reset()
    second = start()
    env.reset(seed=5)
    assert start() == first != second
    env.reset()
    assert start() == second


def test_the_time_limit_comes_with_the_registration() -> None:
    limited = gymnasium.wrappers.TimeLimit(simulated(), 3)
    limited.reset(seed=0)
    assert [limited.step(np.zeros(3, np.float32))[3] for _ in range(3)] == [False, False, True]
    ids = [i for i in gymnasium.registry if i.startswith("stemtwin/Calibration")]
    assert {gymnasium.spec(i).max_episode_steps for i in ids} == {40}


def test_a_microscope_excludes_what_would_make_another() -> None:
    for extra in ({"day": Day()}, {"space": SECOND_ORDER}, {"optics": OPTICS}, {"renderer": "multislice"}):
        with pytest.raises(ValueError, match="not both"):
            CalibrationEnv(Instrument(), **extra)  # type: ignore[arg-type]


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'rgb' is not a render mode; known: rgb_array, human"):
        CalibrationEnv(Instrument(), render_mode="rgb")


# --- the picture -------------------------------------------------------------------------------------


def test_the_picture_needs_a_frame_and_an_estimate_of_the_right_shape() -> None:
    env = CalibrationEnv(Instrument(), render_mode="rgb_array")
    with pytest.raises(RuntimeError, match="before reset"):
        env.render()
    with pytest.raises(RuntimeError, match="before reset"):
        env.show(np.zeros(3), np.ones(3))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"std_nm has shape \(3,\); got \(2,\)"):
        env.show(np.zeros(3), np.ones(2))


def test_rgb_array_is_a_picture_and_shows_the_estimate() -> None:
    env = simulated("rgb_array")
    without = env.render()
    env.show(np.array([10.0, -5.0, 3.0]), np.array([4.0, 1.0, 1.0]))
    shown = env.render()
    assert without is not None
    assert shown is not None
    assert shown.dtype == np.uint8
    assert shown.shape[2] == 3
    assert np.any(shown != without)
    assert CalibrationEnv(Instrument()).render() is None


def test_human_mode_without_a_display_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("matplotlib.get_backend", lambda **_: "agg")
    with caplog.at_level(logging.WARNING, logger="twin.envs.view"):
        env = simulated("human")
        env.step(np.zeros(3, np.float32))
        assert env.render() is None
        env.close()
        env.close()
    assert len(caplog.records) == 1
    assert "Use render_mode='rgb_array'" in caplog.text


def test_the_error_curve_draws_the_worst_component_against_its_tolerance() -> None:
    story = view.Story(OPTICS, FIRST_ORDER)
    start = np.array([20.0, -6.0, 4.0])
    for cumulative, mean in ((np.zeros(3), [18.0, -1.0, 4.0]), (np.array([-19.0, 0.0, 0.0]), [19.5, -6.0, 1.0])):
        truth = Truth(start + cumulative, start)
        belief = view.Belief(np.array(mean), np.array([2.0, 1.0, 1.0]))
        story.moments.append(view.Moment(frame(np.full((48, 48), 50)), cumulative, truth, belief))
    figure = Figure()
    view.draw(figure, story)
    axes = {ax.get_title(): ax for ax in figure.get_axes()}
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in axes[view.ERROR_TITLE].get_lines()}
    assert curves["error of the estimate"] == pytest.approx([0.5, 0.3])  # 5 nm and 3 nm of 10 nm
    assert curves["its own σ"] == pytest.approx([0.2, 0.2])
    assert curves["aberration in force"] == pytest.approx([2.0, 0.6])


@pytest.mark.parametrize(("cycles_x", "cycles_y"), [(10, 0), (0, 7), (5, 9)])
def test_the_spectrum_panel_has_x_along_columns_and_zero_at_the_centre(cycles_x: int, cycles_y: int) -> None:
    y, x = np.mgrid[0:64, 0:64]
    grating = 1000 + 300 * np.cos(2 * np.pi * (cycles_x * x + cycles_y * y) / 64)
    spectrum = view.log_power_spectrum(grating.astype(np.uint16))
    peak = np.unravel_index(np.argmax(spectrum), spectrum.shape)
    assert (abs(peak[1] - 32), abs(peak[0] - 32)) == (cycles_x, cycles_y)


def test_a_stuck_pixel_does_not_drown_the_spectrum() -> None:
    counts = np.random.default_rng(6).poisson(80, (64, 64)).astype(np.uint16)
    clean = view.log_power_spectrum(counts)
    counts[20, 30] = 65535
    assert np.abs(view.log_power_spectrum(counts) - clean).mean() < 0.05
