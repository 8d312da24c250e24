"""Joint fit: film and aberrations fitted together to all frames of one same region (see `film.fit`).

Another controller starts: its estimate is where the fit begins, its sign is checked by the fit. Assumes that the stage
stays where it is, exact inputs, and nothing that moves between frames. The fit says when that is not so, for no one
film then explains the frames; the estimate is then the other controller's, and so is the next input.
"""

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from controller import base, preprocess
from controller.base import Controller, Estimate, StopsInSpec
from controller.film import fit as film_fit
from controller.film import model as film_model
from controller.film.fit import Exposure, Fit
from controller.film.model import Model
from twin.optics import Optics
from twin.options import Count, NonNegative, OptionError, Positive, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

LEAST_FRAMES = 3
"""Two to fit and one to test on."""

COARSE = (0.5, 0.7, 1.0)
"""The first fit widens from the middle of the disc, where an error of the state makes little phase."""


@validated
class Options:
    """Settings of the joint fit.

    Attributes:
        start: the controller that starts, by name, with its default options.
        start_frames: frames that it takes by its own rule before the fit begins.
        offset_nm: distance from the null at which later frames are taken, cycling through the coefficients.
        frames: the fit uses the latest of the frames that it can use, at most so many.
        work: gradient evaluations times frames per update; 160 are about 2 s on one thread.
        agreement: a fit is believed if it has predicted the structure of a frame that it had not seen, by at least so
            much (1: all of it, 0: the frame shows another film).
        attempts: fits from nothing that may fail, one after the other, before the starting controller is left alone.
        inflation: of the standard deviations from the curvature with the film held.
        bias_nm: standard deviation of the model's own error per component, added to the covariance.
        stop_probability: done when every component is in spec with this probability.
    """

    start: str = "vae_em"
    start_frames: Count = 4
    offset_nm: Positive = 12.0
    frames: Annotated[int, Ge(3)] = 10
    work: Count = 160
    agreement: Probability = 0.35
    attempts: Count = 4
    inflation: Annotated[float, Ge(1)] = 3.0
    bias_nm: NonNegative = 0.05
    stop_probability: Probability = 0.95


class JointFit(StopsInSpec):
    """Follow the starting controller, then fit film and state to whatever frames the model can hold."""

    def __init__(self, optics: Optics, space: StateSpace, options: Options, starter: Controller) -> None:
        self.optics, self.options, self.starter = optics, options, starter
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything, the film too."""
        self.space = space
        self.model = film_model.model(self.optics, space)
        self.coarse = film_model.model(self.optics, space, slices=1)
        self.starter.reset(space, rng)
        self.cumulative_nm: Array = space.zero
        self.exposures: list[Exposure] = []
        self.fit: Fit | None = None
        self.agreement = 1.0
        self.failures = 0

    def propose(self) -> Array:
        """The starting controller's input, or, once there is a fit, the next of the places about its null."""
        if self.fit is None:
            return self.starter.propose()
        n = self.space.dimension
        turn = len(self.exposures) % (2 * n)
        target = -self.estimate().mean_nm
        target[turn % n] += self.options.offset_nm if turn < n else -self.options.offset_nm
        return np.clip(target, -self.space.input, self.space.input) - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Tell the starting controller, then fit.

        Raises:
            ValueError: a frame of another shape than the camera's, or without signal.
        """
        self.cumulative_nm = self.cumulative_nm + delta_nm
        self.starter.update(delta_nm, frame)
        preprocess.check_shape(frame, self.optics.camera_pixels)
        self.exposures.append(film_fit.exposure(frame, self.cumulative_nm))
        if len(self.exposures) >= self.options.start_frames and self.failures < self.options.attempts:
            self.fit = self._fitted()
            self.failures = 0 if self.fit is not None else self.failures + 1

    def _fitted(self) -> Fit | None:
        """A fit to the frames so far that has passed its test on the newest; None if none has."""
        tested = [] if self.fit is None else self._tested(self.model, self.fit, self.exposures[-1])
        if not tested or tested[0][0] < RESTART:
            tested += [found for state in self._starts() for found in self._first(state)]
        if not tested:
            return None
        self.agreement, best = max(tested, key=lambda pair: pair[0])
        state = best.values[: self.space.dimension].double().numpy()
        chosen = self._usable(state)
        fit = film_fit.promote(self.model, best)
        return film_fit.refine(self.model, fit, film_fit.stack(chosen), self._iterations(chosen))

    def _tested(self, model: Model, fit: Fit, unseen: Exposure) -> list[tuple[float, Fit]]:
        """The fit with its agreement with a frame it has not seen, or nothing if it may not be believed."""
        found, std = film_fit.agreement(model, fit, film_fit.stack([unseen]))
        return [(found, fit)] if found > self.options.agreement and found > SIGNIFICANT * std else []

    def _starts(self) -> list[Array]:
        """The starting controller's estimate, its mirror image while the sign is open, and the last fit's."""
        belief = self.starter.estimate()
        states = [belief.mean_nm] if belief.sign_decided else [belief.mean_nm, -belief.mean_nm]
        return states if self.fit is None else [*states, self.estimate().mean_nm]

    def _usable(self, state_nm: Array) -> list[Exposure]:
        fitting = [e for e in self.exposures if film_model.usable(self.model, state_nm + e.input_nm)]
        return fitting[-self.options.frames :]

    def _first(self, state_nm: Array) -> list[tuple[float, Fit]]:
        """A fit with one slice from nothing but a state, to all frames but the newest, and its test on that."""
        chosen = self._usable(state_nm)
        if len(chosen) < LEAST_FRAMES:
            return []
        seen = chosen[:-1]
        data, fit = film_fit.stack(seen), film_fit.start(self.coarse, state_nm, seen)
        for aperture in COARSE:
            fit = film_fit.refine(self.coarse, fit, data, (self._iterations(seen) + 1) // 2, aperture)
        return self._tested(self.coarse, fit, chosen[-1])

    def _iterations(self, chosen: list[Exposure]) -> int:
        return max(1, self.options.work // len(chosen))

    def estimate(self) -> Estimate:
        """The fit's, or the starting controller's as long as there is none that explains the frames."""
        if self.fit is None:
            return self.starter.estimate()
        n = self.space.dimension
        mean = np.clip(self.fit.values[:n].double().numpy(), -self.space.start, self.space.start)
        spread = self.options.inflation**2 * max(1.0, self.fit.misfit) * film_fit.covariance(self.model, self.fit)
        unsettled = DISAGREEMENT_NM * max(0.0, TOLERATED - self.agreement)
        return Estimate(mean, spread + (self.options.bias_nm**2 + unsettled**2) * np.eye(n), SIGN_PROBABILITY)


RESTART, SIGNIFICANT = 0.8, 5.0
"""A fit that agrees less with a new frame is begun anew too; one so near zero, in deviations, is not believed."""

TOLERATED, DISAGREEMENT_NM = 0.9, 4.0
"""Standard deviation of the state per lack of agreement beyond the tolerated: a fit that has not settled yet."""

SIGN_PROBABILITY = 0.999
"""Of a fit that explains the frames: the mirror image, moved by the same inputs, needs another film per frame."""


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> JointFit:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
        UnknownController: no controller of the name in `start`.
        WeightsError: the starting controller's weights do not fit.
    """
    chosen = checked_options(Options, options)
    if chosen.start == "joint_fit":
        raise OptionError("start is 'joint_fit'; it must be another controller, for example 'vae_em'")
    return JointFit(optics, space, chosen, base.load(chosen.start, optics, space))
