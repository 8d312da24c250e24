"""A policy that steers to the null from readings of the last frames, and how far off it is: learnt by PPO, run plainly.

The policy sees what the regression network reads (`regression.network.even_part`) and where the inputs stood; it is a
small perceptron, rebuilt here from its weights without the library that trained it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controller import weights_file
from controller.regression.network import KNEE_NM, Regression
from controller.weights_file import Purpose, WeightsError
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

FORMAT = "stemtwin-ppo-1"
WINDOW = 3
"""Frames that the policy sees: two give the sign, a third something to average."""
HIDDEN = 64
STRETCH = 5.0
"""One action spans the input box twice over, its middle finely: input * 2 sinh(STRETCH a) / sinh(STRETCH)."""


def observations(even: Array, inputs_nm: Array, space: StateSpace) -> NDArray[np.float32]:
    """What the policy sees of the last frames, newest first, (E, D) float32; a missing frame is zero.

    Args:
        even: readings of the frames so far, oldest first, (E, T, P); T is at least one.
        inputs_nm: cumulative inputs there, (E, T, n).
        space: scales them.
    """
    runs, seen = even.shape[:2]
    newest = inputs_nm[:, -1]
    out = np.zeros((runs, WINDOW, even.shape[2] + inputs_nm.shape[2] + 1), np.float32)
    for back in range(min(WINDOW, seen)):
        moved = np.arcsinh((inputs_nm[:, -1 - back] - newest) / KNEE_NM) if back else newest / space.input
        out[:, back] = np.concatenate([even[:, -1 - back], moved, np.ones((runs, 1))], 1)
    return np.concatenate([out.reshape(runs, -1), np.full((runs, 1), np.log1p(seen) / 3, np.float32)], 1)


def observation_size(dimension: int) -> int:
    """Length of an observation for n coefficients."""
    return WINDOW * (dimension * (dimension + 1) // 2 + dimension + 1) + 1


def next_input(actions: Array, inputs_nm: Array, space: StateSpace) -> Array:
    """The cumulative inputs (E, n), nm, that actions (E, n) in -1..1 lead to from `inputs_nm`, cut at the limits."""
    step = 2 * space.input * np.sinh(STRETCH * np.clip(actions, -1, 1)) / np.sinh(STRETCH)
    return np.clip(inputs_nm + step, -space.input, space.input)


def perceptron(dimension: int) -> nn.Sequential:
    """Observations to mean actions."""
    size = observation_size(dimension)
    return nn.Sequential(
        nn.Linear(size, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, dimension)
    )


@dataclass(frozen=True)
class Policy:
    """A trained policy.

    Attributes:
        network: observation to action, in evaluation mode.
        cov_nm2: of the error of minus the input chosen after frame t = 1, 2, ..., (T, n, n).
        reader: digest of the regression weights that it was trained with.
        space, optics: what it was trained for.
        provenance: training configuration and figures, plain values.
    """

    network: nn.Sequential
    cov_nm2: Array
    reader: str
    space: StateSpace
    optics: Optics
    provenance: Mapping[str, Any]

    def chosen(self, even: Array, inputs_nm: Array, space: StateSpace) -> Array:
        """The next cumulative inputs (E, n) after readings (E, T, P) at inputs (E, T, n), nm."""
        with torch.no_grad():
            actions = self.network(torch.from_numpy(observations(even, inputs_nm, space))).double().numpy()
        return next_input(actions, inputs_nm[:, -1], space)


def digest(reader: Regression) -> str:
    """Tells one regression network from another."""
    tensors = sorted(reader.network.state_dict().items())
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for _, t in tensors)).hexdigest()[:16]


def save(policy: Policy, path: Path) -> None:
    """Write one safetensors file; everything that is not a tensor goes into its metadata as JSON."""
    tensors = {f"network.{name}": t for name, t in policy.network.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "optics": asdict(policy.optics),
        "space": weights_file.space_fields(policy.space),
        "reader": json.dumps(policy.reader),
        "provenance": dict(policy.provenance),
    }
    weights_file.write(path, tensors | {"cov_nm2": torch.from_numpy(policy.cov_nm2)}, metadata)


def load(path: Path) -> Policy:
    """Read what `save` wrote.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    return weights_file.load(path, FORMAT, _assembled)


def _assembled(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Policy:
    plain = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    space = weights_file.space_of(plain["space"])
    network = perceptron(space.dimension)
    cov: Array = tensors.pop("cov_nm2").numpy()
    network.load_state_dict({key.removeprefix("network."): t for key, t in tensors.items()})
    return Policy(network.eval(), cov, plain["reader"], space, Optics(**plain["optics"]), plain["provenance"])


def load_for(name_or_path: str, optics: Optics, space: StateSpace, reader: Regression) -> Policy:
    """Load and make sure that the weights fit the instrument, the task and the network that reads the frames.

    Raises:
        WeightsError: other optics, coefficients, ranges, or another regression network; says how to retrain.
    """
    path = weights_file.find(name_or_path)
    policy = load(path)
    purpose = Purpose(policy.optics, policy.space.names, policy.space.range_nm, "stemtwin train ppo")
    weights_file.check_fit(path, purpose, optics, space)
    if policy.reader != digest(reader):
        raise WeightsError(
            f"{path.name} was trained with another regression network ({policy.reader}) than this ({digest(reader)})."
            " Retrain: stemtwin train ppo SCENARIO"
        )
    return policy
