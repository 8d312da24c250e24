"""The regression baseline: even targets and back, honest errors, signs from known inputs, weights that refuse."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from controller.dataset import Dataset
from controller.preprocess import Spectrum
from controller.regression import network as regression_network
from controller.regression.network import (
    DOUBT,
    Decoded,
    ErrorModel,
    Reading,
    Regression,
    RegressionNetwork,
    even_part,
    fit_errors,
)
from controller.strategies.cnn_regression import CnnRegression, Options, log_likelihood
from controller.training import regression as training_regression
from controller.training.regression import split, without_nuisances
from learning import weights_file
from learning.training import Progress, TrainingRun, silent
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER
from twin.types import Frame

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
ERRORS = ErrorModel((0.0, 0.5, 0.5), (0.3, 0.4, 0.2, 0.1), (0.1, 0.5, 0.1, 0.2), (-2.0, 0.2, 0.1, 1.0), 1.2)
VOLUME = float(np.prod(2 * FIRST_ORDER.range_nm))


@pytest.fixture(scope="module")
def trained() -> Regression:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = RegressionNetwork(64, 32, 3).eval()
    return Regression(network, ERRORS, FIRST_ORDER, SMALL, 0.1, 0.02, {"seconds": 1})


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 7]), st.sampled_from([0.01, 1.0, 50.0]))
def test_a_state_comes_back_from_its_even_part_up_to_sign(seed: int, dimension: int, size: float):
    states = np.random.default_rng(seed).standard_normal((5, dimension)) * size
    even = even_part(states)
    np.testing.assert_array_equal(even_part(-states), even)
    decoded = Decoded.of(even, dimension)
    assert np.all(np.abs(decoded.spread) < 1e-3)
    back = decoded.states_nm((0.0, 0.3, 0.7))
    back *= np.sign(np.sum(back * states, axis=1, keepdims=True))
    np.testing.assert_allclose(back, states, rtol=1e-4, atol=1e-5)


def test_distances_of_even_parts_are_those_of_the_matrices():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-40, 40, (2, 3))

    def matrix(x: np.ndarray) -> np.ndarray:
        return math.log1p(np.linalg.norm(x) / 5.0) * np.outer(x, x) / (x @ x)

    found = np.linalg.norm(even_part(a[None]) - even_part(b[None]))
    assert found == pytest.approx(np.linalg.norm(matrix(a) - matrix(b)), rel=1e-9)


def single(state: np.ndarray) -> Decoded:
    """What a network without error answers."""
    return Decoded.of(even_part(state[None]), len(state))


def test_a_mixture_of_directions_shows_as_spread():
    # Half of one direction, half of another at right angles: the trace is their log size, the spread one half.
    both = (even_part(np.array([[20.0, 0.0, 0.0]])) + even_part(np.array([[0.0, 20.0, 0.0]]))) / 2
    decoded = Decoded.of(both, 3)
    assert decoded.trace[0] == pytest.approx(math.log1p(20 / 5))
    assert decoded.spread[0] == pytest.approx(0.5)
    assert np.linalg.norm(decoded.states_nm((0.0, 1.0, 0.0))) == pytest.approx(20.0)


def test_a_reading_s_density_is_the_normal_mixture_s():
    mean, state, floor = np.array([12.0, -5.0, 3.0]), np.array([-10.0, 6.0, -3.5]), 0.4
    reading = ERRORS.reading(single(mean), floor)
    size = math.log1p(np.linalg.norm(mean) / 5.0)
    np.testing.assert_allclose(reading.mean_nm * np.sign(reading.mean_nm[0]), mean, rtol=1e-4)
    along = mean @ reading.cov_nm2 @ mean / (mean @ mean)
    assert math.sqrt(along) == pytest.approx(math.exp(0.3 + 0.4 * size + 0.2 * floor), rel=1e-4)
    expected = DOUBT / VOLUME
    for share, widening in ((1 - reading.loose, 1.0), (reading.loose, reading.widening)):
        for sign in (1, -1):
            normal = multivariate_normal(sign * mean, reading.cov_nm2 * widening**2)
            expected += (1 - DOUBT) * share / 2 * normal.pdf(state)
    found = ERRORS.log_density(single(mean), np.array([floor]), state[None], VOLUME)
    assert found[0] == pytest.approx(math.log(expected), rel=1e-4)
    input_nm = np.array([1.0, 2.0, 3.0])
    told = log_likelihood([reading], [input_nm], (state - input_nm)[None], VOLUME)
    assert told[0] == pytest.approx(math.log(expected), rel=1e-4)


def test_errors_are_found_again():
    rng = np.random.default_rng(2)
    count = 20_000
    decoded = Decoded.of(even_part(rng.uniform(-1, 1, (count, 3)) * FIRST_ORDER.range_nm), 3)
    means, floor = decoded.states_nm(ERRORS.size), rng.normal(0, 0.8, count)
    along, across, loose = ERRORS.terms(means, floor, decoded.spread)
    noise = rng.standard_normal((count, 3))
    noise[rng.random(count) < 1 / (1 + np.exp(-loose))] *= math.exp(ERRORS.log_widening)
    inside = np.sum(noise * decoded.direction, axis=1, keepdims=True) * decoded.direction
    states = means + np.exp(along)[:, None] * inside + np.exp(across)[:, None] * (noise - inside)
    found = fit_errors(decoded, floor, states * rng.choice([-1.0, 1.0], (count, 1)), VOLUME)
    # Widths of 20,000 readings: relative errors of a percent or two; the wide share rests on a fifth of them.
    for mine, true in zip(found.terms(means, floor, decoded.spread)[:2], (along, across), strict=True):
        assert np.quantile(np.abs(mine - true), 0.95) < 0.1
    assert found.log_widening == pytest.approx(ERRORS.log_widening, abs=0.1)


def told(truth: np.ndarray, frames: int, seed: int) -> tuple[list[Reading], list[np.ndarray]]:
    """Readings of a run as the error model has them, every sign at random."""
    rng = np.random.default_rng(seed)
    readings, inputs = [], []
    for number in range(frames):
        inputs.append(rng.uniform(-20, 20, 3) if number else np.zeros(3))
        state = truth + inputs[-1]
        about = ERRORS.reading(single(state), 0.0)
        noise = np.linalg.cholesky(about.cov_nm2) @ rng.standard_normal(3)
        noise *= about.widening if rng.random() < about.loose else 1.0
        readings.append(ERRORS.reading(single(rng.choice([-1.0, 1.0]) * (state + noise)), 0.0))
    return readings, inputs


def run(trained: Regression, truth: np.ndarray, frames: int, seed: int) -> CnnRegression:
    """A controller told readings instead of frames."""
    chosen = CnnRegression(FIRST_ORDER, replace(trained, correlation=0.0), Options())
    chosen.reset(FIRST_ORDER, np.random.default_rng(seed))
    for reading, input_nm in zip(*told(truth, frames, seed), strict=True):
        chosen.input_nm = input_nm
        chosen.learn(reading)
    return chosen


def test_one_frame_leaves_the_sign_open_and_two_settle_it(trained: Regression):
    truth = np.array([40.0, -12.0, 15.0])
    one = run(trained, truth, 1, 4).estimate()
    assert one.sign_probability < 0.75
    two = run(trained, truth, 2, 4).estimate()
    assert two.sign_probability > 0.95
    assert np.linalg.norm(two.mean_nm - truth) < 20


def test_its_regions_cover_what_they_say_when_the_model_holds(trained: Regression):
    rng = np.random.default_rng(5)
    covered = []
    for seed in range(60):
        truth = FIRST_ORDER.draw_start(rng)
        covered.append(run(trained, truth, 5, 100 + seed).estimate().covers(truth, 0.9))
    # Binomial(60, 0.9): 47 or fewer has probability 0.7 %; the seed is fixed.
    assert sum(covered) >= 48


def test_a_misread_frame_does_not_spoil_the_rest(trained: Regression):
    truth = np.array([20.0, 10.0, -12.0])
    chosen = run(trained, truth, 6, 6)
    before = np.linalg.norm(chosen.estimate().mean_nm - truth)
    chosen.input_nm = np.zeros(3)
    chosen.learn(ERRORS.reading(single(np.array([90.0, -50.0, 40.0])), 0.0))
    assert np.linalg.norm(chosen.estimate().mean_nm - truth) < before + 2.0


def test_frames_are_asked_for_near_the_null(trained: Regression):
    chosen = run(trained, np.array([30.0, -8.0, 5.0]), 6, 7)
    aimed = chosen.estimate().mean_nm + chosen.input_nm + chosen.propose()
    assert np.linalg.norm(aimed) == pytest.approx(6.0, abs=1e-6)


def test_a_fit_reads_the_state_and_resumes_bit_for_bit(tmp_path: Path):
    # Spectra that show the products of the state plainly: what a network can learn in seconds.
    rng = np.random.default_rng(8)
    states = rng.uniform(-1, 1, (640, 3)) * FIRST_ORDER.start
    bumps = np.repeat(np.repeat(even_part(states).reshape(-1, 6, 1), 8, 1)[:, :48], 32, 2)
    values = np.concatenate([bumps, np.zeros((640, 16, 32))], 1) + 0.1 * rng.standard_normal((640, 64, 32))
    whole_states = np.pad(states, ((0, 0), (0, 4)))
    parts = np.zeros((640, 0, 0, 0), np.float16)
    data = Dataset(
        values.astype(np.float16), whole_states, np.ones(640), np.arange(640) // 16, parts, np.zeros((640, 2))
    )
    seen, unseen = split((data,))
    assert set(unseen.days) == {36, 37, 38, 39}
    assert not set(seen.days) & set(unseen.days)
    training, test = (without_nuisances(part, 0.0) for part in (seen, unseen))
    notes: list[str] = []

    def fit(folder: str, progress: Progress = silent) -> RegressionNetwork:
        run = TrainingRun(SMALL, FIRST_ORDER, tmp_path / folder, tmp_path, progress)
        run.work.mkdir(exist_ok=True)
        options = training_regression.Options(days=40, epochs=2, batch=32)
        return training_regression.fit(training, test, options, run)

    whole = fit("a", lambda *a: notes.append(a[3]))

    def stop(stage: str, done: int, total: int, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit("b", stop)
    resumed = fit("b")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert len([note for note in notes if note]) == 2


def test_weights_come_back_and_refuse_what_they_are_not_for(tmp_path: Path, trained: Regression):
    path = tmp_path / "mine.safetensors"
    regression_network.save(trained, path)
    back = regression_network.load_for(str(path), SMALL, FIRST_ORDER)
    spectrum = Spectrum(np.random.default_rng(9).standard_normal((64, 32)).astype(np.float32), 1.3)
    np.testing.assert_array_equal(back.read(spectrum).mean_nm, trained.read(spectrum).mean_nm)
    assert back.errors == ERRORS
    assert back.correlation == 0.02
    with pytest.raises(weights_file.WeightsError, match="C21a"):
        regression_network.load_for(str(path), SMALL, SECOND_ORDER)
    with pytest.raises(weights_file.WeightsError, match="train regression"):
        regression_network.load_for(str(path), Optics(), FIRST_ORDER)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(weights_file.WeightsError, match="cannot be read"):
        regression_network.load(path)


def test_a_frame_of_another_shape_is_refused(trained: Regression):
    chosen = CnnRegression(FIRST_ORDER, trained, Options())
    with pytest.raises(ValueError, match=r"\(64, 64\) is expected; got shape \(128, 128\)"):
        chosen.update(FIRST_ORDER.zero, Frame(np.full((128, 128), 80, np.uint16), 1e6, 0.5, 1.0))
