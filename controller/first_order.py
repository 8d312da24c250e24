"""A controller of the first order in a task that has the second order, too.

It moves and estimates defocus and astigmatism; coma and three-fold astigmatism stay where they are and its estimate of
them is what was known before: somewhere in the start box.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from controller.base import Controller, Estimate, embed
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]


class FirstOrderOnly:
    """Hands the first order to another controller and leaves the rest alone."""

    def __init__(self, space: StateSpace, inner: Controller) -> None:
        self.space, self.inner = space, inner

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """The inner controller starts in the first order of `space`."""
        self.space = space
        self.inner.reset(space.only(space.is_first_order), rng)

    def propose(self) -> Array:
        """The inner input; none to the rest."""
        delta = self.space.zero
        delta[self.space.is_first_order] = self.inner.propose()
        return delta

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Pass on what concerns the first order."""
        self.inner.update(np.asarray(delta_nm)[self.space.is_first_order], frame)

    def estimate(self) -> Estimate:
        """The inner estimate; of the rest the start box, as a normal of the same mean and variance."""
        found, places = self.inner.estimate(), np.flatnonzero(self.space.is_first_order).tolist()
        return embed(found.mean_nm, found.cov_nm2, found.sign_probability, self.space, places)

    @property
    def done(self) -> bool:
        """Never: what it leaves alone is not known to be in spec."""
        return False


def first_order_first(space: StateSpace, build: Callable[[StateSpace], Controller]) -> Controller:
    """What `build` makes for the first order of `space`, whatever else there is to calibrate."""
    if space.is_first_order.all():
        return build(space)
    return FirstOrderOnly(space, build(space.only(space.is_first_order)))
