"""Training of the PPO policy on a surrogate of the calibration task, with Stable-Baselines3 (the `rl` extra).

The surrogate renders nothing: a reading at a state is the true one plus the error of a recorded frame taken nearby. It
forgets that a day's frames share part of their errors; the estimate's covariance is therefore learnt on rendered days.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.stats import chi2
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from controller.calibration import OBSERVATIONS
from controller.dataset import DayRanges, DaySource, draw_day
from controller.regression.network import KNEE_NM, Regression, even_part, read_even
from controller.regression.ppo_policy import (
    HIDDEN,
    Policy,
    digest,
    next_input,
    observation_size,
    observations,
    perceptron,
    save,
)
from controller.strategies.ppo import Options, Ppo
from controller.training.frames import Progress, simulated
from controller.training.optimisation import load_checkpoint, save_checkpoint
from controller.training.regression import RegressionTraining, split, without_nuisances
from controller.training.vae import timed_in
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

NEIGHBOURS = 12
"""A reading's error is that of one of so many recorded frames nearest in `even_part`."""
PROBABILITY = 0.9
"""The covariance is scaled so that this much of the error is inside its credible region on simulated days."""
NEARBY = 1.5
"""Steps whose numbers differ by this factor or less are scaled together."""


@dataclass(frozen=True)
class PpoTraining:
    """Everything a training follows from.

    Attributes:
        optics, space: instrument and task.
        steps: of the surrogate, all runs together.
        runs: surrogate runs side by side.
        legs: parts of the training; an interruption loses one at most.
        epochs, batch, learning_rate, discount: of PPO; lambda of the advantages equals the discount.
        calibration_runs: closed-loop runs that scale the covariance, one simulated day each.
        seed: of everything.
    """

    optics: Optics
    space: StateSpace
    steps: int = 2_000_000
    runs: int = 256
    legs: int = 20
    epochs: int = 8
    batch: int = 1024
    learning_rate: float = 1e-3
    discount: float = 0.9
    calibration_runs: int = 60
    seed: int = 1

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


@dataclass(frozen=True)
class Readings:
    """Recorded frames: what was read and what was there.

    Attributes:
        even: `even_part` of the true states, (N, P).
        errors: reading less that, (N, P).
        tree: over `even`.
    """

    even: Array
    errors: Array
    tree: KDTree

    @classmethod
    def of(cls, states_nm: Array, read: Array) -> "Readings":
        """From true states (N, n) and the network's answers (N, P)."""
        even = even_part(states_nm)
        return cls(even, read - even, KDTree(even))

    def at(self, states_nm: Array, rng: np.random.Generator) -> Array:
        """A reading at each state (E, n), (E, P)."""
        even = even_part(states_nm)
        _, near = self.tree.query(even, min(NEIGHBOURS, len(self.even)))
        near = near.reshape(len(even), -1)
        return even + self.errors[near[np.arange(len(near)), rng.integers(near.shape[1], size=len(near))]]


class Surrogate:
    """Many calibration runs side by side, without frames.

    An action moves the inputs (`ppo_policy.next_input`); the reward is minus log(1 + |x| / knee) where that leads.
    A run ends after `OBSERVATIONS` readings and the next begins.
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
    """The surrogate as Stable-Baselines3 wants it."""

    def __init__(self, surrogate: Surrogate) -> None:
        self.surrogate = surrogate
        n = surrogate.space.dimension
        seen = gymnasium.spaces.Box(-np.inf, np.inf, (observation_size(n),), np.float32)
        super().__init__(surrogate.runs, seen, gymnasium.spaces.Box(-1.0, 1.0, (n,), np.float32))

    def reset(self) -> Any:
        """First observations."""
        return self.surrogate.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self.actions = actions

    def step_wait(self) -> Any:
        """All runs one step on; ended ones begin anew."""
        seen, reward, ended = self.surrogate.step(self.actions.astype(np.float64))
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended:
            infos = [{"terminal_observation": last, "TimeLimit.truncated": True} for last in seen]
            seen = self.surrogate.reset()
        return seen, reward, np.full(self.num_envs, ended), infos

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


def recorded(reader: Regression, frames: Path, progress: Progress, workers: int) -> Readings:
    """The regression network's readings of the frames that it was not trained on."""
    plain = reader.provenance["training"]
    counts = {key: plain[key] for key in ("days", "loop_days", "frames_per_day", "batch", "seed")}
    sets = RegressionTraining(reader.optics, reader.space, **counts).frame_sets
    whole, loop = (simulated(wanted, frames, progress, workers) for wanted in sets)
    _, unseen = split((whole, loop))
    held = without_nuisances(unseen, reader.log_floor)
    states_nm = unseen.states_nm[:, : reader.space.dimension]  # the frames vary coma and three-fold, too
    return Readings.of(states_nm, read_even(reader.network, held.spectra, held.log_floor))


def optimise(readings: Readings, config: PpoTraining, work: Path, progress: Progress) -> torch.nn.Sequential:
    """PPO on the surrogate; seeded, with a checkpoint in the folder `work` after every leg.

    A leg draws its own random numbers and begins new runs, so that a resumed training goes the same way.
    """
    surrogate = Surrogate(readings, config.space, config.runs, config.seed)
    checkpoint, leg = work / "network.safetensors", 0
    with _global_generators_kept():
        model = PPO(
            "MlpPolicy",
            SurrogateVec(surrogate),
            # A leg ends with a whole rollout, beyond its steps.
            learning_rate=lambda left: config.learning_rate * (1 - (leg + 1 - max(left, 0.0)) / config.legs),
            n_steps=OBSERVATIONS,
            batch_size=config.batch,
            n_epochs=config.epochs,
            gamma=config.discount,
            gae_lambda=config.discount,
            ent_coef=0.0,
            policy_kwargs={"net_arch": {"pi": [HIDDEN] * 2, "vf": [HIDDEN] * 2}, "log_std_init": -1.0},
            device="cpu",
            seed=config.seed,
        )

        def report(local: dict[str, Any], _: dict[str, Any]) -> bool:
            if (model.num_timesteps // config.runs) % OBSERVATIONS == 0:
                done = min(leg * config.steps // config.legs + model.num_timesteps, config.steps)
                progress("optimising the policy", done, config.steps, f"reward {np.mean(local['rewards']):.3f}")
            return True

        begun = load_checkpoint(model.policy, model.policy.optimizer, checkpoint) if checkpoint.exists() else 0
        for leg in range(begun, config.legs):
            model.set_random_seed(config.seed * 1000 + leg)
            surrogate.rng = np.random.default_rng([config.seed, leg])
            model.learn(config.steps // config.legs, callback=report)
            save_checkpoint(model.policy, model.policy.optimizer, leg + 1, checkpoint)
        return exported(model.policy.state_dict(), config.space.dimension)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Stable-Baselines3 seeds and uses the global generators: they are put back as they were."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 (put back, not used)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def exported(learnt: dict[str, torch.Tensor], dimension: int) -> torch.nn.Sequential:
    """The mean action's perceptron out of an actor-critic's weights."""
    network = perceptron(dimension)
    layers = {"0": "mlp_extractor.policy_net.0", "2": "mlp_extractor.policy_net.2", "4": "action_net"}
    parts = {f"{mine}.{kind}": learnt[f"{theirs}.{kind}"] for mine, theirs in layers.items()
             for kind in ("weight", "bias")}  # fmt: skip
    network.load_state_dict(parts)
    return network.eval()


def surrogate_covariance(policy: Policy, readings: Readings, runs: int, seed: int) -> Array:
    """Second moments of the estimates' errors on the surrogate after 1, 2, ... frames, nm^2, (T, n, n)."""
    surrogate = Surrogate(readings, policy.space, runs, seed)
    seen = surrogate.reset()
    out = []
    for _ in range(OBSERVATIONS):
        with torch.no_grad():
            seen, _, _ = surrogate.step(policy.network(torch.from_numpy(seen)).double().numpy())
        error = surrogate.initial_nm + surrogate.inputs_nm[:, -1]
        out.append(error.T @ error / runs)
    return np.array(out)


def rendered_errors(policy: Policy, reader: Regression, runs: int, seed: int, report: Callable[[int], None]) -> Array:
    """Errors of the estimates on rendered random days after 1, 2, ... frames, nm, (R, T, n)."""
    space, out = policy.space, np.zeros((runs, OBSERVATIONS, policy.space.dimension))
    controller = Ppo(space, policy, reader, Options())
    for index in range(runs):
        rng = np.random.default_rng([seed, 2_000_000 + index])
        source = DaySource(draw_day(DayRanges(), rng), policy.optics, space, rng)
        truth, total = space.draw_start(rng), space.zero
        controller.reset(space, rng)
        for step in range(OBSERVATIONS):
            delta = controller.propose()
            total = total + delta
            controller.update(delta, source.frame(truth + total))
            out[index, step] = truth - controller.estimate().mean_nm
        report(index + 1)
    return out


def scaled(cov_nm2: Array, errors_nm: Array) -> Array:
    """Covariances (T, n, n) scaled so that `PROBABILITY` of the errors (R, T, n) lie inside."""
    steps, n = errors_nm.shape[1:]
    columns = np.swapaxes(errors_nm, 0, 1)[..., None]
    distance2 = np.sum(columns[..., 0] * np.linalg.solve(cov_nm2[:, None], columns)[..., 0], -1)
    number = np.arange(1, steps + 1)
    out = []
    for step in number:
        near = (number <= step * NEARBY) & (number * NEARBY >= step)
        out.append(cov_nm2[step - 1] * np.quantile(distance2[near], PROBABILITY) / chi2.ppf(PROBABILITY, n))
    return np.array(out)


def train_ppo(
    config: PpoTraining, reader: Regression, out: Path, work: Path, frames: Path, progress: Progress, workers: int = 0
) -> Policy:
    """From the frames of the regression's training to one weights file at `out`; what `work` already holds stands.

    Raises:
        ResumeError: `work` holds another configuration's files, or those of another regression.
    """
    mine = config.plain() | {"reader": digest(reader)}
    free = ("calibration_runs",)
    policy = timed_in(work, mine, free, lambda: _train(config, reader, work, frames, progress, workers))
    save(policy, out)
    return policy


def _train(
    config: PpoTraining, reader: Regression, work: Path, frames: Path, progress: Progress, workers: int
) -> Policy:
    """The stages one after the other."""
    readings = recorded(reader, frames, progress, workers)
    network = optimise(readings, config, work, progress)
    n = config.space.dimension
    policy = Policy(network, np.zeros((0, n, n)), digest(reader), config.space, config.optics, {})
    moments = surrogate_covariance(policy, readings, 4096, config.seed + 1)
    policy = replace(policy, cov_nm2=moments)
    runs = config.calibration_runs
    errors = rendered_errors(
        policy, reader, runs, config.seed, lambda done: progress("calibrating the policy", done, runs, "")
    )
    provenance = {
        "training": config.plain(),
        "median_error_nm": _by_step(np.median(np.linalg.norm(errors, axis=2), axis=0)),
        "versions": {name: version(name) for name in ("torch", "numpy", "stable-baselines3")},
    }
    return replace(policy, cov_nm2=scaled(moments, errors), provenance=provenance)


def _by_step(values: Sequence[float] | Array) -> list[float]:
    return [round(float(v), 2) for v in values]
