"""Joint fit: film and aberrations fitted together to all frames of one same region (see `film.fit`).

Another controller starts: the fit begins at its estimate and checks its sign. Assumes exact inputs, a stage that stays
in place and no drift between frames. Otherwise no single film explains the frames, the fit fails its test, and
estimate and next input are the starting controller's.
"""

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from controller import base, preprocess
from controller.base import Controller, Estimate, StopOptions, StopsInSpec
from controller.film import fit as film_fit
from controller.film import model as film_model
from controller.film.fit import FilmExposure, FilmFit
from controller.film.model import FilmModel
from twin.arrays import Array
from twin.optics import Optics
from twin.options import Count, NonNegative, OptionError, Positive, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

LEAST_FRAMES = 3
"""Two frames to fit and one to test on."""

COARSE = (0.5, 0.7, 1.0)
"""Apertures of the first fit, as fractions of the disc: near its middle an error of the state makes little phase."""

RESTART, SIGNIFICANT = 0.8, 5.0
"""Agreement with a new frame below which the fit is also started afresh, and least agreement in standard deviations of
shot noise."""

TOLERATED, DISAGREEMENT_NM = 0.9, 4.0
"""Agreement below which a fit has not settled, and standard deviation of the state per unit of agreement below it."""

SIGN_PROBABILITY = 0.999
"""Sign probability of a fit that passes its test: the mirror image, moved by the same inputs, needs another film for
every frame."""


@validated
class Options(StopOptions):
    """Settings of the joint fit.

    Attributes:
        start: name of the starting controller, which has its default options.
        start_frames: frames under the starting controller before the first fit.
        offset_nm: distance from the null of later frames, cycling through the coefficients.
        frames: largest number of frames fitted, the latest usable ones.
        work: gradient evaluations times frames per update; 160 take about 2 s on one thread.
        agreement: least regression coefficient of a frame not fitted on its prediction, for a fit to be accepted
            (1: the fit predicts it, 0: the frame shows another film).
        attempts: number of failed fits in a row after which no further fit is tried.
        inflation: factor on the standard deviations, which come from the curvature with the film held fixed.
        bias_nm: standard deviation of the model error per component, added to the covariance.
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


class JointFit(StopsInSpec):
    """Follow the starting controller, then fit film and state to all frames that fit the model's window."""

    def __init__(self, optics: Optics, space: StateSpace, options: Options, starter: Controller) -> None:
        self.optics, self.options, self.starter = optics, options, starter
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything, including the film."""
        self.space = space
        self.model = film_model.model(self.optics, space)
        self.coarse = film_model.model(self.optics, space, slices=1)
        self.starter.reset(space, rng)
        self.cumulative_nm: Array = space.zero
        self.exposures: list[FilmExposure] = []
        self.fit: FilmFit | None = None
        self.agreement = 1.0
        self.failures = 0

    def propose(self) -> Array:
        """Return the starting controller's input or, once there is a fit, the next place around its null."""
        if self.fit is None:
            return self.starter.propose()
        n = self.space.dimension
        turn = len(self.exposures) % (2 * n)
        target = -self.estimate().mean_nm
        target[turn % n] += self.options.offset_nm if turn < n else -self.options.offset_nm
        return np.clip(target, -self.space.input, self.space.input) - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Update the starting controller, then fit."""
        self.cumulative_nm = self.cumulative_nm + delta_nm
        self.starter.update(delta_nm, frame)
        preprocess.check_shape(frame, self.optics.camera_pixels)
        self.exposures.append(film_fit.exposure(frame, self.cumulative_nm))
        if len(self.exposures) >= self.options.start_frames and self.failures < self.options.attempts:
            self.fit = self._fitted()
            self.failures = 0 if self.fit is not None else self.failures + 1

    def _fitted(self) -> FilmFit | None:
        """Return a fit to the frames so far that passes its test on the newest frame; None if there is none."""
        tested = [] if self.fit is None else self.tested(self.model, self.fit, self.exposures[-1])
        if not tested or tested[0][0] < RESTART:
            tested += [pair for state in self._starts() for pair in self._first(state)]
        if not tested:
            return None
        self.agreement, best = max(tested, key=lambda pair: pair[0])
        state = best.values[: self.space.dimension].double().numpy()
        chosen = self._usable(state)
        fit = film_fit.promote(self.model, best)
        return film_fit.refine(self.model, fit, film_fit.stack(chosen), self._iterations(chosen))

    def tested(self, model: FilmModel, fit: FilmFit, unseen: FilmExposure) -> list[tuple[float, FilmFit]]:
        """Return the fit with its agreement with an unseen frame; an empty list if it fails the test."""
        agreement, std = film_fit.agreement(model, fit, film_fit.stack([unseen]))
        return [(agreement, fit)] if agreement > self.options.agreement and agreement > SIGNIFICANT * std else []

    def _starts(self) -> list[Array]:
        """Return the starting controller's estimate, its mirror image while the sign is open, and the last fit's."""
        belief = self.starter.estimate()
        states = [belief.mean_nm] if belief.sign_decided else [belief.mean_nm, -belief.mean_nm]
        return states if self.fit is None else [*states, self.estimate().mean_nm]

    def _usable(self, state_nm: Array) -> list[FilmExposure]:
        fitting = [e for e in self.exposures if film_model.usable(self.model, state_nm + e.input_nm)]
        return fitting[-self.options.frames :]

    def _first(self, state_nm: Array) -> list[tuple[float, FilmFit]]:
        """Fit one slice to all frames but the newest, starting from a state alone, and test it on the newest."""
        chosen = self._usable(state_nm)
        if len(chosen) < LEAST_FRAMES:
            return []
        fitted = chosen[:-1]
        data, fit = film_fit.stack(fitted), film_fit.start(self.coarse, state_nm, fitted)
        for aperture in COARSE:
            fit = film_fit.refine(self.coarse, fit, data, (self._iterations(fitted) + 1) // 2, aperture)
        return self.tested(self.coarse, fit, chosen[-1])

    def _iterations(self, chosen: list[FilmExposure]) -> int:
        return max(1, self.options.work // len(chosen))

    def estimate(self) -> Estimate:
        """Return the fit's estimate; the starting controller's while no fit has passed its test."""
        if self.fit is None:
            return self.starter.estimate()
        n = self.space.dimension
        mean = np.clip(self.fit.values[:n].double().numpy(), -self.space.start, self.space.start)
        spread = self.options.inflation**2 * max(1.0, self.fit.misfit) * film_fit.covariance(self.model, self.fit)
        unsettled = DISAGREEMENT_NM * max(0.0, TOLERATED - self.agreement)
        return Estimate(mean, spread + (self.options.bias_nm**2 + unsettled**2) * np.eye(n), SIGN_PROBABILITY)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> JointFit:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"start": "two_ronchigram", "start_frames": 2})
        >>> controller.propose().tolist()  # the starting controller's
        [0.0, 0.0, 0.0]
    """
    chosen = checked_options(Options, options)
    if chosen.start == "joint_fit":
        raise OptionError("start is 'joint_fit'; it must be another controller, for example 'vae_em'")
    return JointFit(optics, space, chosen, base.build(chosen.start, optics, space))


def trained_optics(options: dict[str, Any]) -> Optics | None:
    """Return the optics of the starting controller's weights; None if it has none."""
    return base.trained_optics(checked_options(Options, options).start)
