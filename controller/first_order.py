"""Calibration of the first order in a task that also has the second order.

Moves and estimates defocus and astigmatism. Coma and three-fold astigmatism stay as they are; their estimate is the
uniform prior in the start box.
"""

from collections.abc import Callable

import numpy as np

from controller.base import Controller, Estimate, embed
from twin.arrays import Array
from twin.state import StateSpace
from twin.types import Frame


class FirstOrderOnly:
    """Calibrate the first order with another controller and leave the other coefficients alone."""

    def __init__(self, space: StateSpace, inner: Controller) -> None:
        self.space, self.inner = space, inner

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Start the inner controller in the first order of `space`."""
        self.space = space
        self.inner.reset(space.only(space.is_first_order), rng)

    def propose(self) -> Array:
        """Return the inner input; zero for the other coefficients."""
        delta = self.space.zero
        delta[self.space.is_first_order] = self.inner.propose()
        return delta

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Update the inner controller with the input to the first order."""
        self.inner.update(np.asarray(delta_nm)[self.space.is_first_order], frame)

    def estimate(self) -> Estimate:
        """Return the inner estimate, with the moments of the uniform prior for the other coefficients."""
        inner, places = self.inner.estimate(), np.flatnonzero(self.space.is_first_order).tolist()
        return embed(inner.mean_nm, inner.cov_nm2, inner.sign_probability, self.space, places)

    @property
    def done(self) -> bool:
        """Always False: the other coefficients are not known to be in spec."""
        return False


def first_order_first(space: StateSpace, build: Callable[[StateSpace], Controller]) -> Controller:
    """Build a controller for the first order of `space`, wrapped if `space` has other coefficients."""
    if space.is_first_order.all():
        return build(space)
    return FirstOrderOnly(space, build(space.only(space.is_first_order)))
