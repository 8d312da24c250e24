"""Policy of ppo, on the readings of the regression network.

It needs Stable-Baselines3 (the `rl` extra). PPO runs on a surrogate of the calibration task that renders nothing: a
reading at a state is the true one plus the error of a recorded frame taken nearby. The surrogate ignores that a day's
frames share part of their errors; the covariance of the estimate is therefore calibrated on rendered days.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
from annotated_types import Gt, Le
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.stats import chi2

from controller.calibration import OBSERVATIONS
from controller.dataset import DayRanges, DaySource, draw_day
from controller.frame_set import simulated
from controller.posterior.examples import frame_sets
from controller.regression import network as regression_network
from controller.regression import ppo_policy
from controller.regression.network import KNEE_NM, Regression, even_part, read_even
from controller.regression.ppo_policy import (
    HIDDEN,
    Policy,
    digest,
    next_input,
    observation_size,
    observations,
    perceptron,
)
from controller.strategies import ppo
from controller.training.regression import split, without_nuisances
from learning.optimisation import load_checkpoint, save_checkpoint
from learning.training import MissingPackage, Training, TrainingRun
from twin.arrays import Array
from twin.options import Count, Positive, Seed, validated
from twin.state import StateSpace

try:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise MissingPackage("training ppo needs stable_baselines3: pip install 'stemtwin[rl]'") from error


NEIGHBOURS = 12
"""The error of a reading is drawn from this many recorded frames, the nearest in `even_part`."""
PROBABILITY = 0.9
"""The covariance is scaled so that its credible region of this probability has this coverage on simulated days."""
NEARBY = 1.5
"""Steps whose numbers differ by this factor or less are scaled together."""
SURROGATE_RUNS = 4096


@validated
class Options:
    """Settings of the training.

    Attributes:
        steps: surrogate steps, all runs together.
        runs: surrogate runs side by side.
        legs: parts of the training; an interruption loses one at most.
        epochs: passes over each rollout.
        batch: transitions per step.
        learning_rate: initial learning rate; decreases linearly to zero.
        discount: discount of PPO; lambda of the advantages equals it.
        calibration_runs: closed-loop runs that scale the covariance, one simulated day each.
        seed: seed of all random numbers.
        reader: weights of the training regression: a shipped name or a file.
    """

    steps: Count = 2_000_000
    runs: Count = 256
    legs: Count = 20
    epochs: Count = 8
    batch: Count = 1024
    learning_rate: Positive = 1e-3
    discount: Annotated[float, Gt(0), Le(1)] = 0.9
    calibration_runs: Count = 60
    seed: Seed = 1
    reader: str = "regression"


@dataclass(frozen=True)
class Readings:
    """Readings of recorded frames with their errors.

    Attributes:
        even: `even_part` of the true states, (N, P).
        errors: reading minus `even`, (N, P).
        tree: for the nearest neighbours in `even`.
    """

    even: Array
    errors: Array
    tree: KDTree

    @classmethod
    def of(cls, states_nm: Array, read: Array) -> "Readings":
        """From true states (N, n) and the network's readings (N, P)."""
        even = even_part(states_nm)
        return cls(even, read - even, KDTree(even))

    def at(self, states_nm: Array, rng: np.random.Generator) -> Array:
        """Draw a reading at each state (E, n), (E, P)."""
        even = even_part(states_nm)
        _, near = self.tree.query(even, min(NEIGHBOURS, len(self.even)))
        near = near.reshape(len(even), -1)
        return even + self.errors[near[np.arange(len(near)), rng.integers(near.shape[1], size=len(near))]]


class Surrogate:
    """Many calibration runs side by side, without frames.

    An action moves the inputs (`ppo_policy.next_input`); the reward is -log(1 + |x| / knee) at the new state. All runs
    end after `OBSERVATIONS` readings.
    """

    def __init__(self, readings: Readings, space: StateSpace, runs: int, seed: int) -> None:
        self.readings, self.space, self.runs = readings, space, runs
        self.rng = np.random.default_rng(seed)

    def reset(self) -> NDArray[np.float32]:
        """First observations of new runs, (E, D)."""
        self.initial_nm = self.space.draw_start(self.rng, self.runs)
        self.inputs_nm = np.zeros((self.runs, 1, self.space.dimension))
        self.even = self.readings.at(self.initial_nm, self.rng)[:, None]
        return observations(self.even, self.inputs_nm, self.space)

    def step(self, actions: Array) -> tuple[NDArray[np.float32], NDArray[np.float32], bool]:
        """Observations (E, D), rewards (E,), and whether the runs have ended (all at once)."""
        target = next_input(actions, self.inputs_nm[:, -1], self.space)
        states = self.initial_nm + target
        reward = -np.log1p(np.linalg.norm(states, axis=1) / KNEE_NM).astype(np.float32)
        self.inputs_nm = np.concatenate([self.inputs_nm, target[:, None]], 1)
        self.even = np.concatenate([self.even, self.readings.at(states, self.rng)[:, None]], 1)
        ended = self.inputs_nm.shape[1] > OBSERVATIONS
        return observations(self.even, self.inputs_nm, self.space), reward, ended


class SurrogateVec(VecEnv):
    """The surrogate as a vectorised environment of Stable-Baselines3."""

    def __init__(self, surrogate: Surrogate) -> None:
        self.surrogate = surrogate
        n = surrogate.space.dimension
        observed = gymnasium.spaces.Box(-np.inf, np.inf, (observation_size(n),), np.float32)
        super().__init__(surrogate.runs, observed, gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32))

    def reset(self) -> Any:
        """First observations."""
        return self.surrogate.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self.actions = actions

    def step_wait(self) -> Any:
        """Step all runs; when they have ended, start new ones."""
        observed, reward, ended = self.surrogate.step(self.actions.astype(np.float64))
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended:
            infos = [{"terminal_observation": last, "TimeLimit.truncated": True} for last in observed]
            observed = self.surrogate.reset()
        return observed, reward, np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same for every run."""
        return [getattr(self.surrogate, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Runs have no attributes of their own."""
        raise NotImplementedError(f"a surrogate run has no attribute {attr_name!r} to set")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Runs have no methods of their own."""
        raise NotImplementedError(f"a surrogate run has no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never."""
        return [False] * len(list(self._get_indices(indices)))


def recorded(reader: Regression, run: TrainingRun) -> Readings:
    """Readings by the regression network of the frames that it was not trained on."""
    trained = reader.provenance["training"]
    numbers = (trained[key] for key in ("days", "loop_days", "frames_per_day", "seed"))
    sets = frame_sets(reader.optics, *numbers)
    whole, loop = (simulated(frames, run.frames, run.progress, run.workers) for frames in sets)
    _, held_out = split((whole, loop))
    examples = without_nuisances(held_out, reader.log_floor)
    states_nm = held_out.states_nm[:, : reader.space.dimension]  # the frames vary coma and three-fold, too
    return Readings.of(states_nm, read_even(reader.network, examples.spectra, examples.log_floor))


def optimise(readings: Readings, options: Options, run: TrainingRun) -> torch.nn.Sequential:
    """Run PPO on the surrogate; seeded, with a checkpoint in the work folder after every leg.

    A leg draws its own random numbers and begins new runs, so that a resumed training goes the same way.
    """
    surrogate = Surrogate(readings, run.space, options.runs, options.seed)
    checkpoint, leg = run.work / "network.safetensors", 0
    with _global_generators_kept():
        model = PPO(
            "MlpPolicy",
            SurrogateVec(surrogate),
            # A leg ends with a whole rollout, beyond its steps.
            learning_rate=lambda left: options.learning_rate * (1 - (leg + 1 - max(left, 0.0)) / options.legs),
            n_steps=OBSERVATIONS,
            batch_size=options.batch,
            n_epochs=options.epochs,
            gamma=options.discount,
            gae_lambda=options.discount,
            ent_coef=0.0,
            policy_kwargs={"net_arch": {"pi": [HIDDEN] * 2, "vf": [HIDDEN] * 2}, "log_std_init": -1.0},
            device="cpu",
            seed=options.seed,
        )

        def report(local: dict[str, Any], _: dict[str, Any]) -> bool:
            if (model.num_timesteps // options.runs) % OBSERVATIONS == 0:
                done = min(leg * options.steps // options.legs + model.num_timesteps, options.steps)
                run.progress("optimising the policy", done, options.steps, f"reward {np.mean(local['rewards']):.3f}")
            return True

        run.progress("optimising the policy", 0, options.steps, "")
        begun = load_checkpoint(model.policy, model.policy.optimizer, checkpoint) if checkpoint.exists() else 0
        for leg in range(begun, options.legs):
            model.set_random_seed(options.seed * 1000 + leg)
            surrogate.rng = np.random.default_rng([options.seed, leg])
            model.learn(options.steps // options.legs, callback=report)
            save_checkpoint(model.policy, model.policy.optimizer, leg + 1, checkpoint)
        return exported(model.policy.state_dict(), run.space.dimension)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Put the global generators back, which Stable-Baselines3 seeds and uses."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 (put back, not used)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def exported(learnt: dict[str, torch.Tensor], dimension: int) -> torch.nn.Sequential:
    """Perceptron of the mean action, from the weights of an actor-critic."""
    network = perceptron(dimension)
    layers = {"0": "mlp_extractor.policy_net.0", "2": "mlp_extractor.policy_net.2", "4": "action_net"}
    parts = {f"{mine}.{kind}": learnt[f"{theirs}.{kind}"] for mine, theirs in layers.items()
             for kind in ("weight", "bias")}  # fmt: skip
    network.load_state_dict(parts)
    return network.eval()


def surrogate_covariance(policy: Policy, readings: Readings, runs: int, seed: int) -> Array:
    """Second moments of the estimates' errors on the surrogate after 1, 2, ... frames, nm^2, (T, n, n)."""
    surrogate = Surrogate(readings, policy.space, runs, seed)
    observed = surrogate.reset()
    moments = []
    for _ in range(OBSERVATIONS):
        with torch.no_grad():
            observed, _, _ = surrogate.step(policy.network(torch.from_numpy(observed)).double().numpy())
        error = surrogate.initial_nm + surrogate.inputs_nm[:, -1]
        moments.append(error.T @ error / runs)
    return np.array(moments)


def rendered_errors(policy: Policy, reader: Regression, runs: int, seed: int, report: Callable[[int], None]) -> Array:
    """Errors of the estimates on rendered random days after 1, 2, ... frames, nm, (R, T, n)."""
    space, errors = policy.space, np.zeros((runs, OBSERVATIONS, policy.space.dimension))
    controller = ppo.Ppo(space, policy, reader, ppo.Options())
    for index in range(runs):
        rng = np.random.default_rng([seed, 2_000_000 + index])
        source = DaySource(draw_day(DayRanges(), rng), policy.optics, space, rng)
        truth, total = space.draw_start(rng), space.zero
        controller.reset(space, rng)
        for step in range(OBSERVATIONS):
            delta = controller.propose()
            total = total + delta
            controller.update(delta, source.frame(truth + total))
            errors[index, step] = truth - controller.estimate().mean_nm
        report(index + 1)
    return errors


def scaled(cov_nm2: Array, errors_nm: Array) -> Array:
    """Scale covariances (T, n, n) so that their regions cover `PROBABILITY` of the errors (R, T, n)."""
    steps, n = errors_nm.shape[1:]
    columns = np.swapaxes(errors_nm, 0, 1)[..., None]
    distance2 = np.sum(columns[..., 0] * np.linalg.solve(cov_nm2[:, None], columns)[..., 0], -1)
    number = np.arange(1, steps + 1)
    covariances = []
    for step in number:
        near = (number <= step * NEARBY) & (number * NEARBY >= step)
        covariances.append(cov_nm2[step - 1] * np.quantile(distance2[near], PROBABILITY) / chi2.ppf(PROBABILITY, n))
    return np.array(covariances)


def load_reader(options: Options, run: TrainingRun) -> Regression:
    """Load the regression network that reads the frames."""
    return regression_network.load_for(options.reader, run.optics, run.space)


def train(options: Options, run: TrainingRun) -> Policy:
    """Record readings, optimise the policy on the surrogate, calibrate its covariance on rendered days."""
    reader, n = load_reader(options, run), run.space.dimension
    readings = recorded(reader, run)
    network = optimise(readings, options, run)
    policy = Policy(network, np.zeros((0, n, n)), digest(reader), run.space, run.optics, {})
    moments = surrogate_covariance(policy, readings, SURROGATE_RUNS, options.seed + 1)
    policy = replace(policy, cov_nm2=moments)
    runs = options.calibration_runs
    errors = rendered_errors(
        policy, reader, runs, options.seed, lambda done: run.progress("calibrating the policy", done, runs, "")
    )
    medians = np.median(np.linalg.norm(errors, axis=2), axis=0)
    figures = {"median_error_nm": [round(float(median), 2) for median in medians]}
    return replace(policy, cov_nm2=scaled(moments, errors), provenance=figures)


def summary(trained: Policy, _: TrainingRun) -> Mapping[str, str]:
    """Return the median error after two frames and at the end."""
    errors = trained.provenance["median_error_nm"]
    text = f"{errors[1]:.1f} nm after 2 frames of random days, {errors[-1]:.1f} nm after {len(errors)}"
    return {"median error": text}


TRAINING = Training(
    Options,
    train,
    ppo_policy.WEIGHTS,
    summary,
    last_stages=("calibration_runs",),
    further=lambda options, run: {"reader": digest(load_reader(options, run))},
    packages=("stable-baselines3",),
    threads=1,
    controllers=("ppo",),
)
