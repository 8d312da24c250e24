"""The PPO baseline: what the policy sees, where its actions lead, its surrogate, its covariance, its weights."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from controller.calibration import OBSERVATIONS
from controller.regression import network as regression_network
from controller.regression import ppo_policy
from controller.regression.network import ErrorModel, Regression, RegressionNetwork, even_part
from controller.regression.ppo_policy import Policy, next_input, observation_size, observations
from controller.strategies.ppo import Options, Ppo
from controller.training import ppo as training
from controller.training.ppo import Readings, Surrogate, SurrogateVec, exported, optimise, scaled
from learning import weights_file
from learning.training import Progress, TrainingRun, silent
from twin.optics import Optics
from twin.state import FIRST_ORDER
from twin.types import Frame

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)


@pytest.fixture(scope="module")
def reader() -> Regression:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = RegressionNetwork(64, 32, 3).eval()
    plain = (1.0, 0.5, 0.0, 0.0)
    errors = ErrorModel((0.0, 0.0, 1.0), plain, plain, plain, 1.0)
    return Regression(network, errors, FIRST_ORDER, SMALL, 0.1, 0.02, {"seconds": 1})


@pytest.fixture(scope="module")
def policy(reader: Regression) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = ppo_policy.perceptron(3).eval()
    cov = np.array([np.eye(3) * v for v in (400.0, 25.0, 4.0)])
    return Policy(network, cov, ppo_policy.digest(reader), FIRST_ORDER, SMALL, {"seconds": 1})


@pytest.fixture(scope="module")
def readings() -> Readings:
    rng = np.random.default_rng(1)
    states = rng.uniform(-1, 1, (4000, 3)) * FIRST_ORDER.range_nm * rng.choice([1.0, 0.1], (4000, 1))
    return Readings.of(states, even_part(states) + 0.05 * rng.standard_normal((4000, 6)))


def run_in(work: Path, progress: Progress = silent) -> TrainingRun:
    return TrainingRun(SMALL, FIRST_ORDER, work, work, progress)


def test_actions_reach_the_whole_box_and_move_finely_in_the_middle():
    corner = -FIRST_ORDER.input
    np.testing.assert_allclose(next_input(np.ones((1, 3)), corner[None], FIRST_ORDER)[0], FIRST_ORDER.input)
    small = next_input(np.full((1, 3), 0.01), np.zeros((1, 3)), FIRST_ORDER)[0]
    assert np.all((small > 0) & (small < 0.1))
    beyond = next_input(np.full((1, 3), 9.0), np.zeros((1, 3)), FIRST_ORDER)[0]
    np.testing.assert_array_equal(beyond, FIRST_ORDER.input)


def test_the_policy_sees_the_last_frames_newest_first_whatever_came_before():
    rng = np.random.default_rng(2)
    even, inputs = rng.standard_normal((2, 6, 6)), rng.uniform(-30, 30, (2, 6, 3))
    seen = observations(even, inputs, FIRST_ORDER)
    assert seen.shape == (2, observation_size(3))
    np.testing.assert_allclose(seen[:, :6], even[:, -1], rtol=1e-6)
    np.testing.assert_allclose(seen[:, 10:16], even[:, -2], rtol=1e-6)
    changed = even.copy()
    changed[:, :3] = 99.0
    np.testing.assert_array_equal(observations(changed, inputs, FIRST_ORDER), seen)
    first = observations(even[:, :1], inputs[:, :1], FIRST_ORDER)
    assert not np.any(first[:, 10:-1])


def test_surrogate_readings_are_true_ones_with_errors_met_nearby(readings: Readings):
    rng = np.random.default_rng(3)
    states = rng.uniform(-1, 1, (3000, 3)) * FIRST_ORDER.range_nm
    error = readings.at(states, rng) - even_part(states)
    # 18,000 numbers of standard deviation 0.05, drawn from 4,000 x 6 recorded ones: 2 % and a fifth of it off is wrong.
    assert error.std() == pytest.approx(0.05, rel=0.06)
    # A state on top of a recorded one and its mirror image have the same neighbours.
    alike = [readings.at(sign * states, np.random.default_rng(4)) for sign in (1, -1)]
    np.testing.assert_array_equal(*alike)


def test_the_surrogate_moves_as_the_microscope_does_and_rewards_the_null(readings: Readings):
    surrogate = Surrogate(readings, FIRST_ORDER, 8, 5)
    surrogate.reset()
    initial = surrogate.initial_nm.copy()
    ended, steps = False, 0
    while not ended:
        actions = np.random.default_rng(steps).uniform(-1, 1, (8, 3))
        _, reward, ended = surrogate.step(actions)
        steps += 1
        states = initial + surrogate.inputs_nm[:, -1]
        np.testing.assert_allclose(reward, -np.log1p(np.linalg.norm(states, axis=1) / 5.0), rtol=1e-5)
        assert np.all(np.abs(surrogate.inputs_nm) <= FIRST_ORDER.input + 1e-9)
    assert steps == OBSERVATIONS


def test_a_short_training_improves_the_policy_and_leaves_global_generators_alone(readings: Readings, tmp_path: Path):
    options = training.Options(steps=30_000, runs=64, legs=6, batch=256, epochs=5)
    before = _next_global_numbers()
    notes: list[str] = []
    network = optimise(readings, options, run_in(tmp_path, lambda *a: notes.append(a[3])))
    assert _next_global_numbers() == before
    with torch.random.fork_rng():
        torch.manual_seed(6)
        fresh = ppo_policy.perceptron(3)
    assert _mean_reward(network, readings) > _mean_reward(fresh, readings) + 0.15
    assert notes


def test_an_interrupted_training_goes_the_same_way(readings: Readings, tmp_path: Path):
    options = training.Options(steps=6000, runs=32, legs=3, batch=128, epochs=2)
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    once = optimise(readings, options, run_in(tmp_path / "once"))

    def interrupt(stage: str, done: int, total: int, note: str) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimise(readings, options, run_in(tmp_path / "twice", interrupt))
    begun: list[int] = []
    twice = optimise(readings, options, run_in(tmp_path / "twice", lambda _, done, *rest: begun.append(done)))
    assert min(done for done in begun if done) > options.steps / 3
    for one, other in zip(once.parameters(), twice.parameters(), strict=True):
        assert torch.equal(one, other)


def _next_global_numbers() -> tuple[float, float, float]:
    """What the three global generators would give next, without taking it."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        found = random.random(), float(np.random.random()), torch.rand(()).item()  # noqa: NPY002
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    return found


def _mean_reward(network: torch.nn.Module, readings: Readings) -> float:
    surrogate = Surrogate(readings, FIRST_ORDER, 256, 7)
    seen, rewards = surrogate.reset(), []
    for _ in range(OBSERVATIONS):
        with torch.no_grad():
            seen, reward, _ = surrogate.step(network(torch.from_numpy(seen)).double().numpy())
        rewards.append(reward.mean())
    return float(np.mean(rewards))


def test_the_exported_perceptron_acts_as_the_trained_policy(readings: Readings):
    from stable_baselines3 import PPO

    vec = SurrogateVec(Surrogate(readings, FIRST_ORDER, 4, 8))
    with torch.random.fork_rng():
        model = PPO("MlpPolicy", vec, n_steps=4, batch_size=16, policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [8]}})
        network = exported(model.policy.state_dict(), 3)
    seen = vec.reset()
    wanted, _ = model.predict(seen, deterministic=True)
    with torch.no_grad():
        np.testing.assert_allclose(np.clip(network(torch.from_numpy(seen)).numpy(), -1, 1), wanted, atol=1e-5)


def test_covariances_are_scaled_to_what_happened():
    rng = np.random.default_rng(9)
    true = np.array([np.diag([100.0, 25.0, 4.0]) / step for step in range(1, 21)])
    errors = np.stack([rng.multivariate_normal(np.zeros(3), cov, 400) for cov in true], 1)
    found = scaled(true * 7.0, errors)
    # 400 runs per step, steps pooled: the 90 % quantile of chi2 is known to about 7 %.
    np.testing.assert_allclose(found / true.clip(1e-9), np.where(true > 0, 1.0, 0.0), atol=0.2)
    inside = np.einsum("rti,tij,rtj->rt", errors, np.linalg.inv(found), errors) <= chi2.ppf(0.9, 3)
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_the_estimate_is_minus_the_input_wanted_next(policy: Policy, reader: Regression):
    chosen = Ppo(FIRST_ORDER, policy, reader, Options())
    rng, total = np.random.default_rng(10), FIRST_ORDER.zero
    for count in range(1, 6):
        delta = chosen.propose()
        total = total + delta
        frame = Frame(rng.poisson(80, (64, 64)).astype(np.uint16), 1e6, 0.5, 1.0)
        chosen.update(delta, frame)
        estimate = chosen.estimate()
        wanted = np.clip(-(total + chosen.propose()), -FIRST_ORDER.start, FIRST_ORDER.start)
        np.testing.assert_allclose(estimate.mean_nm, wanted, atol=1e-9)
        np.testing.assert_array_equal(estimate.cov_nm2, policy.cov_nm2[min(count, 3) - 1])


def test_weights_come_back_and_refuse_another_reader(tmp_path: Path, policy: Policy, reader: Regression):
    path = tmp_path / "mine.safetensors"
    ppo_policy.save(policy, path)
    back = ppo_policy.load_for(str(path), SMALL, FIRST_ORDER, reader)
    seen = torch.randn(5, observation_size(3), generator=torch.Generator().manual_seed(1))
    assert torch.equal(back.network(seen), policy.network(seen))
    np.testing.assert_array_equal(back.cov_nm2, policy.cov_nm2)
    other = Regression(RegressionNetwork(64, 32, 3).eval(), reader.errors, FIRST_ORDER, SMALL, 0.1, 0.0, {})
    with pytest.raises(weights_file.WeightsError, match="another regression"):
        ppo_policy.load_for(str(path), SMALL, FIRST_ORDER, other)


def test_running_needs_no_stable_baselines(tmp_path: Path, policy: Policy, reader: Regression):
    ppo_policy.save(policy, tmp_path / "p.safetensors")
    regression_network.save(reader, tmp_path / "r.safetensors")
    options = {"weights": str(tmp_path / "p.safetensors"), "reader": str(tmp_path / "r.safetensors")}
    program = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from controller.base import build; from twin.optics import Optics; from twin.state import FIRST_ORDER\n"
        f"optics = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)\n"
        f"print(type(build('ppo', optics, FIRST_ORDER, {options!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Ppo"
