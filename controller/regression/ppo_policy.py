"""A policy trained by PPO: the next input from the readings of the last frames, with the covariance of its error.

Its observations are the outputs of the regression network (`regression.network.even_part`) and the inputs. It is a
small perceptron, rebuilt here from its weights without the library that trained it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controller.regression.network import KNEE_NM, Regression
from controller.weights import SHIPPED
from learning.weights_file import WeightsError, WeightsFile
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace

FORMAT = "stemtwin-ppo-1"
WINDOW = 3
"""Frames in an observation: two determine the sign, a third averages the noise."""
HIDDEN = 64
STRETCH = 5.0
"""Change of input for an action a: input * 2 sinh(STRETCH a) / sinh(STRETCH), fine near zero; reaches the whole box."""


def observations(even: Array, inputs_nm: Array, space: StateSpace) -> NDArray[np.float32]:
    """Observations of the policy, (E, D) float32: the last frames, newest first; missing frames are zero.

    Args:
        even: readings of the frames so far, oldest first, (E, T, P); T is at least one.
        inputs_nm: cumulative inputs there, (E, T, n).
        space: scale of the inputs.
    """
    runs, frames = even.shape[:2]
    newest = inputs_nm[:, -1]
    out = np.zeros((runs, WINDOW, even.shape[2] + inputs_nm.shape[2] + 1), np.float32)
    for back in range(min(WINDOW, frames)):
        moved = np.arcsinh((inputs_nm[:, -1 - back] - newest) / KNEE_NM) if back else newest / space.input
        out[:, back] = np.concatenate([even[:, -1 - back], moved, np.ones((runs, 1))], 1)
    return np.concatenate([out.reshape(runs, -1), np.full((runs, 1), np.log1p(frames) / 3, np.float32)], 1)


def observation_size(dimension: int) -> int:
    """Length of an observation for n coefficients."""
    return WINDOW * (dimension * (dimension + 1) // 2 + dimension + 1) + 1


def next_input(actions: Array, inputs_nm: Array, space: StateSpace) -> Array:
    """Cumulative inputs (E, n), nm, after actions (E, n) in -1..1 at `inputs_nm`, clipped at the limits."""
    step = 2 * space.input * np.sinh(STRETCH * np.clip(actions, -1, 1)) / np.sinh(STRETCH)
    return np.clip(inputs_nm + step, -space.input, space.input)


def perceptron(dimension: int) -> nn.Sequential:
    """Network from observations to mean actions."""
    size = observation_size(dimension)
    return nn.Sequential(
        nn.Linear(size, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, dimension)
    )


@dataclass(frozen=True)
class Policy:
    """A trained policy.

    Attributes:
        network: observation to action, in evaluation mode.
        cov_nm2: covariance of the estimate (minus the next input) after frame t = 1, 2, ..., (T, n, n).
        reader: digest of the regression weights that it was trained with.
        space, optics: task and instrument of the training.
        provenance: training settings and figures, plain values.
    """

    network: nn.Sequential
    cov_nm2: Array
    reader: str
    space: StateSpace
    optics: Optics
    provenance: Mapping[str, Any]

    def chosen(self, even: Array, inputs_nm: Array, space: StateSpace) -> Array:
        """Next cumulative inputs (E, n) after readings (E, T, P) at inputs (E, T, n), nm."""
        with torch.no_grad():
            actions = self.network(torch.from_numpy(observations(even, inputs_nm, space))).double().numpy()
        return next_input(actions, inputs_nm[:, -1], space)


def digest(reader: Regression) -> str:
    """Fingerprint of the weights of a regression network."""
    tensors = sorted(reader.network.state_dict().items())
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for _, t in tensors)).hexdigest()[:16]


def _contents(policy: Policy) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors = {f"network.{name}": t for name, t in policy.network.state_dict().items()}
    metadata = {"space": policy.space, "reader": policy.reader}
    return tensors | {"cov_nm2": torch.from_numpy(policy.cov_nm2)}, metadata


def _rebuild(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> Policy:
    space, reader = metadata["space"], metadata["reader"]
    network = perceptron(space.dimension)
    cov: Array = tensors.pop("cov_nm2").numpy()
    network.load_state_dict({key.removeprefix("network."): t for key, t in tensors.items()})
    return Policy(network.eval(), cov, reader, space, metadata["optics"], metadata["provenance"])


WEIGHTS = WeightsFile(FORMAT, "ppo", SHIPPED, _contents, _rebuild)
save, load = WEIGHTS.save, WEIGHTS.load


def load_for(name_or_path: str, optics: Optics, space: StateSpace, reader: Regression) -> Policy:
    """Load shipped weights by name, or a file by path, for an instrument, a task and the network that reads the frames.

    Raises:
        WeightsError: other optics, coefficients, ranges, or another regression network; says how to retrain.
    """
    policy = WEIGHTS.load_for(name_or_path, optics, space)
    if policy.reader != digest(reader):
        raise WeightsError(
            f"{name_or_path} was trained with another regression network ({policy.reader}) than this"
            f" ({digest(reader)}). {WEIGHTS.retrain}"
        )
    return policy
