"""The controller seam: propose an input, update with the frame that follows, read the estimate.

A controller is one file in `controller/strategies/`; the file's name is the controller's name and its
`make(optics, space, options)` builds it. Frames may come from a simulator or an instrument.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy.stats import chi2, norm

from twin import registry
from twin.arrays import Array
from twin.errors import StemtwinError
from twin.optics import Optics
from twin.options import Probability, validated
from twin.state import StateSpace
from twin.types import Frame

DECIDED = 0.99
"""Probability from which on the sign of the state counts as decided."""


@dataclass(frozen=True)
class Estimate:
    """Posterior of the initial state x0, nm.

    Attributes:
        mean_nm: mean within the more probable sign, shape (n,).
        cov_nm2: covariance within the more probable sign, shape (n, n).
        sign_probability: probability of that sign; the mirror solution has the rest (0.5: undecided).
        samples_nm: optional support of the posterior, shape (m, n), for pictures.
        weights: probabilities of the samples, shape (m,).
        misfit: a test finds the day outside the training distribution (OOD), or the frames unlike what the optics
            say: mean and covariance may be wrong.
        reason: what the checks of `controller.checks` object to, one clause; empty if nothing.

    Example:
        >>> estimate = Estimate(np.array([12.0, -3.0, 0.0]), np.diag([4.0, 1.0, 1.0]))
        >>> estimate.std_nm
        array([2., 1., 1.])
        >>> estimate.covers(np.array([14.0, -3.0, 0.0]), 0.9)
        True
        >>> round(estimate.in_spec_probability(np.array([10.0, 10.0, 10.0])), 4)
        1.0
    """

    mean_nm: Array
    cov_nm2: Array
    sign_probability: float = 1.0
    samples_nm: Array | None = None
    weights: Array | None = None
    misfit: bool = False
    reason: str = ""

    @property
    def std_nm(self) -> Array:
        """Marginal standard deviations, shape (n,)."""
        return np.sqrt(np.diag(self.cov_nm2))

    def covers(self, initial_nm: Array, probability: float) -> bool:
        """Return whether the credible ellipsoid of that probability contains `initial_nm`."""
        offset = np.asarray(initial_nm) - self.mean_nm
        distance2 = float(offset @ np.linalg.solve(self.cov_nm2, offset))
        return distance2 <= float(chi2.ppf(probability, offset.size))

    def in_spec_probability(self, tolerance_nm: Array) -> float:
        """Lower bound (Bonferroni) on the probability that every component is within tolerance."""
        std = np.maximum(self.std_nm, 1e-12)
        outside = 2 * norm.sf(np.asarray(tolerance_nm) / std)
        return max(0.0, self.sign_probability * (1.0 - float(np.sum(outside))))

    def in_spec(self, space: StateSpace, probability: float) -> bool:
        """Return whether every component is within the tolerance of `space` with at least that probability."""
        return bool(self.in_spec_probability(space.tolerance) >= probability)

    @property
    def sign_decided(self) -> bool:
        """Whether the more probable sign is as probable as `DECIDED`."""
        return bool(self.sign_probability >= DECIDED)


@runtime_checkable
class Controller(Protocol):
    """Ask and tell: `propose` an input, apply it, `update` with the input that was applied and the frame that followed.

    Example:
        >>> from twin.day import Day
        >>> from twin.simulated import SimulatedMicroscope
        >>> from twin.state import FIRST_ORDER
        >>> microscope = SimulatedMicroscope(Optics(), FIRST_ORDER, Day(), "fast")
        >>> microscope.reset(np.random.default_rng(1))
        >>> controller = load("coordinate_scan", Optics(), FIRST_ORDER)
        >>> controller.reset(FIRST_ORDER, np.random.default_rng(1))
        >>> for _ in range(3):
        ...     delta_nm = controller.propose()
        ...     microscope.apply(delta_nm)
        ...     controller.update(delta_nm, microscope.acquire())
        >>> delta_nm.tolist()  # from one point of the scan along C10 to the next
        [30.0, 0.0, 0.0]
        >>> controller.done
        False
    """

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything and start a run in `space`."""
        ...

    def propose(self) -> Array:
        """Return the next input, nm, shape (n,); the cumulative input stays within `space.input_nm`."""
        ...

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Learn from the frame that followed the input.

        The input counts as applied even if the frame is refused: the instrument has moved. A refused frame changes
        nothing else, and a frame taken in its place comes with an input of zero.

        Raises:
            ValueError: a frame of another shape than the camera's, or without signal.
        """
        ...

    def estimate(self) -> Estimate:
        """Return the current estimate of x0; valid at any moment after reset."""
        ...

    @property
    def done(self) -> bool:
        """Whether the stop rule holds: the credible region lies within tolerance."""
        ...


@validated
class StopOptions:
    """Option of the controllers with the stop rule of `StopsInSpec`.

    Attributes:
        stop_probability: done when every component is in spec with this probability.
    """

    stop_probability: Probability = 0.95


class StopsInSpec(ABC):
    """The stop rule of most controllers, for their `space`, `estimate` and `options.stop_probability`."""

    space: StateSpace
    options: Any

    @abstractmethod
    def estimate(self) -> Estimate:
        """Return the current estimate of x0."""

    @property
    def done(self) -> bool:
        """Whether every component is in spec with probability `options.stop_probability`."""
        return self.estimate().in_spec(self.space, self.options.stop_probability)


def prior_variance(space: StateSpace) -> Array:
    """Variance of the uniform prior in the start box, nm^2, (n,)."""
    return np.asarray(space.start**2 / 3.0)


def uniform_prior(space: StateSpace, rng: np.random.Generator | None = None, draws: int = 0) -> Estimate:
    """Estimate before the first frame: moments of the uniform start box, with `draws` samples of it for pictures."""
    if rng is None:
        return Estimate(space.zero, np.diag(prior_variance(space)), 0.5)
    samples = space.draw_start(rng, draws)
    return Estimate(space.zero, np.diag(prior_variance(space)), 0.5, samples, np.full(draws, 1.0 / draws))


def embed(mean_nm: Array, cov_nm2: Array, probability: float, space: StateSpace, places: Sequence[int]) -> Estimate:
    """Embed an estimate of some components in a larger state; the others keep the moments of the uniform prior."""
    mean, covariance = space.zero, np.diag(prior_variance(space))
    mean[list(places)] = np.clip(mean_nm, -space.start[list(places)], space.start[list(places)])
    covariance[np.ix_(places, places)] = cov_nm2
    return Estimate(mean, covariance, probability)


class UnknownController(StemtwinError, ValueError):
    """No controller has that name."""


def names() -> list[str]:
    """Return every controller of `controller/strategies/`, presets included, sorted.

    Example:
        >>> [name for name in names() if name.startswith("vae")]
        ['vae_em', 'vae_em_hard', 'vae_em_paper', 'vae_fixed']
    """
    from controller import strategies

    return registry.names(strategies)


def describe(name: str) -> str:
    """Return one line on a controller, without importing it."""
    from controller import strategies

    return registry.describe(strategies, name)


def load(name: str, optics: Optics, space: StateSpace, options: Mapping[str, Any] | None = None) -> Controller:
    """Build a controller by name, for any optics, behind the checks of `controller.checks`.

    Weights serve other optics than those of their training: frames and coefficients are translated.

    Raises:
        UnknownController: no such controller; names the nearest.
        OptionError: an unknown option or a bad value.
        WeightsError: the shipped weights do not fit `space`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> load("two_ronchigram", Optics(), FIRST_ORDER, {"step_nm": 20}).options.step_nm
        20.0
        >>> load("vea_em", Optics(), FIRST_ORDER)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        controller.base.UnknownController: 'vea_em' is not a controller (did you mean vae_em?); known: ...
    """
    from controller.checks.assembly import checked

    module, chosen = _resolved(name, options)
    if hasattr(module, "suited"):
        chosen = module.suited(chosen, optics)
    return checked(module, optics, space, chosen, _trained_optics(module, chosen))


def halt(controller: Controller) -> str:
    """Return why a run should stop: the checks refuse one frame after the other. Empty while it may go on."""
    return str(getattr(controller, "halt", ""))


def build(name: str, optics: Optics, space: StateSpace, options: Mapping[str, Any] | None = None) -> Controller:
    """Build a controller without the checks, for exactly these optics: a part of another controller.

    Raises:
        UnknownController, OptionError, WeightsError: as `load`; also weights of other optics.
    """
    module, chosen = _resolved(name, options)
    controller: Controller = module.make(optics, space, chosen)
    return controller


def trained_optics(name: str, options: Mapping[str, Any] | None = None) -> Optics | None:
    """Return the optics that a controller's weights were trained for; None for one without weights.

    Raises:
        UnknownController, OptionError, WeightsError: as `load`.

    Example:
        >>> trained_optics("vae_em").convergence_mrad, trained_optics("spectrum_ml")
        (28.0, None)
    """
    return _trained_optics(*_resolved(name, options))


def _trained_optics(module: Any, options: dict[str, Any]) -> Optics | None:
    found: Optics | None = module.trained_optics(options) if hasattr(module, "trained_optics") else None
    return found


def _resolved(name: str, options: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    from controller import strategies

    return registry.resolve(strategies, name, options or {}, "a controller", UnknownController)
