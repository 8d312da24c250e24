"""The controller seam: ask for an input, tell a frame, read an estimate.

A controller is one file in `controller/strategies/`; the file's name is the controller's name and its
`make(optics, space, options)` builds it. Nothing here knows whether frames come from a simulator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from twin import registry
from twin.errors import StemtwinError
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Estimate:
    """What a controller believes about the initial state x0, nm.

    Attributes:
        mean_nm: shape (n,), the estimate within the more probable sign.
        cov_nm2: shape (n, n), likewise.
        sign_probability: probability of that sign; 1 - it is the mirror solution's (0.5: undecided).
        samples_nm: optional support of the posterior, shape (m, n), for pictures.
        weights: probabilities of the samples, shape (m,).
        misfit: the controller's own test says that the day is unlike those it was trained for: mean and covariance may
            be wrong. False where a controller has no such test.
    """

    mean_nm: Array
    cov_nm2: Array
    sign_probability: float = 1.0
    samples_nm: Array | None = None
    weights: Array | None = None
    misfit: bool = False

    @property
    def std_nm(self) -> Array:
        """Marginal standard deviations, shape (n,)."""
        return np.sqrt(np.diag(self.cov_nm2))

    def covers(self, initial_nm: Array, probability: float) -> bool:
        """Whether the credible ellipsoid of that probability holds `initial_nm`."""
        offset = np.asarray(initial_nm) - self.mean_nm
        distance2 = float(offset @ np.linalg.solve(self.cov_nm2, offset))
        return distance2 <= float(chi2.ppf(probability, offset.size))

    def in_spec_probability(self, tolerance_nm: Array) -> float:
        """Lower bound (Bonferroni) on the probability that every component is within tolerance."""
        std = np.maximum(self.std_nm, 1e-12)
        outside = 2 * norm.sf(np.asarray(tolerance_nm) / std)
        return max(0.0, self.sign_probability * (1.0 - float(np.sum(outside))))


@runtime_checkable
class Controller(Protocol):
    """Ask and tell. `update` must be told the input that `propose` gave (or any other that was applied)."""

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything; a new run in `space`."""
        ...

    def propose(self) -> Array:
        """The next input, nm, shape (n,); the cumulative input stays within `space.input_nm`."""
        ...

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Learn from the frame that followed the input.

        The input counts as applied whatever the frame is good for: the instrument has moved. A refused frame changes
        nothing else, and one taken in its place comes with an input of zero.

        Raises:
            ValueError: a frame of another shape than the camera's, or without signal.
        """
        ...

    def estimate(self) -> Estimate:
        """The current belief about x0; valid at any moment after reset."""
        ...

    @property
    def done(self) -> bool:
        """The stop rule: the credible region lies within tolerance."""
        ...


def embed(mean_nm: Array, cov_nm2: Array, probability: float, space: StateSpace, places: Sequence[int]) -> Estimate:
    """Some components in a larger state: whatever nothing was said of keeps the moments of the uniform prior."""
    mean, covariance = space.zero, np.diag(space.start**2 / 3.0)
    mean[list(places)] = np.clip(mean_nm, -space.start[list(places)], space.start[list(places)])
    covariance[np.ix_(places, places)] = cov_nm2
    return Estimate(mean, covariance, probability)


class UnknownController(StemtwinError, ValueError):
    """No controller of that name."""


def names() -> list[str]:
    """Return every controller of `controller/strategies/`, presets included, sorted."""
    from controller import strategies

    return registry.names(strategies)


def describe(name: str) -> str:
    """Return one line on a controller, without importing it."""
    from controller import strategies

    return registry.describe(strategies, name)


def load(name: str, optics: Optics, space: StateSpace, options: Mapping[str, Any] | None = None) -> Controller:
    """Build a controller by name.

    Raises:
        UnknownController: no such file; names the nearest.
        OptionError: an unknown option or a bad value.
        WeightsError: the shipped weights do not fit `optics` or `space`.
    """
    from controller import strategies

    module, chosen = registry.resolve(strategies, name, options or {}, "a controller", UnknownController)
    controller: Controller = module.make(optics, space, chosen)
    return controller
