"""Reinforcement learning baseline: a policy trained by proximal policy optimisation drives the state to the null.

Schulman et al. 2017 (arXiv 1707.06347), trained with Stable-Baselines3; running needs neither. The policy reads the
last three frames through the regression network. It has no posterior: its estimate of the initial state is minus the
input it would choose next, with the covariance of such estimates on simulated days after as many frames.
"""

from typing import Any

import numpy as np

from controller import preprocess
from controller.base import Estimate, StopOptions, StopsInSpec, uniform_prior
from controller.regression import network as regression_network
from controller.regression import ppo_policy
from controller.regression.network import Regression
from controller.regression.ppo_policy import Policy
from twin.arrays import Array
from twin.optics import Optics
from twin.options import checked_options, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class Options(StopOptions):
    """Settings of the policy.

    Attributes:
        weights: shipped weights of the policy by name, or a path.
        reader: weights of the regression network that the policy was trained with.
    """

    weights: str = "ppo"
    reader: str = "regression"


class Ppo(StopsInSpec):
    """Read each frame and apply the policy's input."""

    def __init__(self, space: StateSpace, policy: Policy, reader: Regression, options: Options) -> None:
        self.policy, self.reader, self.options = policy, reader, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget the frames; the policy is deterministic and draws nothing."""
        self.space = space
        self.input_nm: Array = space.zero
        self.even: list[Array] = []
        self.inputs_nm: list[Array] = []

    def _target(self) -> Array:
        """Return the policy's next cumulative input (n,), nm."""
        return self.policy.chosen(np.array([self.even]), np.array([self.inputs_nm]), self.space)[0]

    def propose(self) -> Array:
        """Return no input before the first frame, then the policy's."""
        return self._target() - self.input_nm if self.even else self.space.zero

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Read the frame."""
        self.input_nm = self.input_nm + delta_nm
        preprocess.check_shape(frame, self.policy.optics.camera_pixels)
        self.even.append(self.reader.even(preprocess.power_spectrum(frame)))
        self.inputs_nm.append(self.input_nm)

    def estimate(self) -> Estimate:
        """Return minus the policy's next input; the uniform prior before the first frame."""
        if not self.even:
            return uniform_prior(self.space)
        cov = self.policy.cov_nm2[min(len(self.even), len(self.policy.cov_nm2)) - 1]
        return Estimate(np.clip(-self._target(), -self.space.start, self.space.start), cov)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Ppo:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> make(Optics(), FIRST_ORDER, {}).estimate().std_nm.round(1).tolist()  # the uniform prior
        [34.6, 17.3, 17.3]
    """
    chosen = checked_options(Options, options)
    reader = regression_network.load_for(chosen.reader, optics, space)
    return Ppo(space, ppo_policy.load_for(chosen.weights, optics, space, reader), reader, chosen)


def trained_optics(options: dict[str, Any]) -> Optics:
    """Return the optics of the chosen weights."""
    return ppo_policy.WEIGHTS.optics(checked_options(Options, options).weights)
