"""Defocus and astigmatism from pairs of Ronchigrams a known defocus apart (after Kimoto and Ishizuka 2003).

Each frame alone gives its state up to sign, from its power spectrum; the known step between the two frames of a pair
tells which signs belong together. Pairs are averaged by their precision. Assumes a thin amorphous film, an exact
defocus step and the nominal camera: scale and rotation are fitted per frame within their priors, not across frames.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.stats import qmc

from controller import preprocess
from controller.base import Estimate, StopsInSpec, embed, uniform_prior
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.fit import Mode, Observation
from twin.optics import Optics
from twin.options import Count, NonNegative, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]


@validated
class Options:
    """Settings of `two_ronchigram`.

    Attributes:
        step_nm: defocus between the two frames of a pair.
        starts: quasi-random states scored per frame, over the whole reach of the corrector.
        modes: how many of them are refined.
        bias_nm: standard deviation of the model's own error per component, not averaged away.
        stop_probability: done when all components are within tolerance with this probability.
    """

    step_nm: Positive = 30.0
    starts: Annotated[int, Ge(16)] = 1024
    modes: Count = 3
    bias_nm: NonNegative = 1.0
    stop_probability: Positive = 0.99


def combine(frames: Sequence[Sequence[Mode]], inputs_nm: Array, bias_nm: float) -> tuple[Array, Array, float]:
    """Initial state, covariance and sign probability from every frame's own modes.

    Args:
        frames: per frame the modes of its state, sign mirrored ones included.
        inputs_nm: cumulative inputs at the frames, (K, 3).
        bias_nm: added in quadrature at the end.

    Each mode of each frame, less its input, is tried as the initial state; the others vote with their most probable
    mode's density there, never below `OUTLIER` of its peak. The winner's votes are then averaged by precision.
    """
    candidates = [mode.state_nm - u for modes, u in zip(frames, inputs_nm, strict=True) for mode in modes]
    votes = [_votes(x, frames, inputs_nm) for x in candidates]
    totals = np.array([sum(value for value, _ in vote) for vote in votes])
    winner = int(np.argmax(totals))
    information, weighted = np.zeros((3, 3)), np.zeros(3)
    for (value, mode), u in zip(votes[winner], inputs_nm, strict=True):
        if value > OUTLIER:
            inverse = np.linalg.inv(mode.covariance[:3, :3] + 0.25 * np.eye(3))
            information += inverse
            weighted += inverse @ (mode.state_nm - u)
    covariance = np.linalg.inv(information)
    mean = covariance @ weighted
    opposite = np.array([x @ mean < 0 for x in candidates])
    against = float(np.exp(np.max(totals[opposite], initial=-700.0) - totals[winner]))
    return mean, covariance + bias_nm**2 * np.eye(3), 1.0 / (1.0 + against)


OUTLIER = -12.0
"""Least log vote, nats: a frame fitted in the wrong mode neither decides nor joins the average."""


def _votes(x_nm: Array, frames: Sequence[Sequence[Mode]], inputs_nm: Array) -> list[tuple[float, Mode]]:
    """Per frame the best log vote for an initial state, (3,), and the mode that gave it."""
    votes = []
    for modes, u in zip(frames, inputs_nm, strict=True):
        values = []
        for mode in modes:
            offset = x_nm + u - mode.state_nm
            spread = mode.covariance[:3, :3] + np.eye(3)
            weight = max(mode.log_weight - modes[0].log_weight, OUTLIER)
            values.append(max(OUTLIER, weight - 0.5 * float(offset @ np.linalg.solve(spread, offset))))
        best = int(np.argmax(values))
        votes.append((values[best], modes[best]))
    return votes


class TwoRonchigram(StopsInSpec):
    """Frame by frame: fit up to sign, combine through the known inputs, move to the other half of the pair."""

    def __init__(self, optics: Optics, space: StateSpace, options: Options) -> None:
        self.options = options
        self.grid = spectrum_model.grid(optics)
        self.pixels = optics.camera_pixels
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything; `space` must hold C10, C12a and C12b."""
        self.space, self.rng = space, rng
        self.places = spectrum_fit.first_order(space)
        self.cumulative_nm: Array = space.zero
        self.frames: list[list[Mode]] = []
        self.inputs: list[Array] = []

    def propose(self) -> Array:
        """First a plain defocus step; later pairs straddle the estimated null by half a step on either side."""
        target = self.space.zero
        if not self.frames:
            return target
        defocus = self.places[0]
        if len(self.frames) == 1:
            target[defocus] = self.options.step_nm
        else:
            target = -self.estimate().mean_nm
            target[defocus] += self.options.step_nm / 2 * (1 if len(self.frames) % 2 else -1)
        return np.clip(target, -self.space.input, self.space.input) - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Fit this frame alone.

        Raises:
            ValueError: a frame of another shape than the camera's, or without signal.
        """
        self.cumulative_nm = self.cumulative_nm + delta_nm
        preprocess.check_shape(frame, self.pixels)
        measured = spectrum_model.periodogram(frame)
        reach = (self.space.start + self.space.input)[self.places]
        seen = [Observation(np.zeros(3), measured)]
        draws = qmc.Halton(3, rng=self.rng).random(self.options.starts)
        states = (2 * draws - 1) * reach
        states[:, 0] = np.abs(states[:, 0])  # up to sign
        starts = spectrum_fit.scanned(states, seen, self.grid, self.options.modes)
        modes = spectrum_fit.fit_modes(starts, seen, self.grid, reach, 8)
        self.frames.append([signed for mode in modes for signed in (mode, spectrum_fit.mirrored(mode))])
        self.inputs.append(self.cumulative_nm[self.places])

    def estimate(self) -> Estimate:
        """All frames combined; the uniform prior before the first."""
        if not self.frames:
            return uniform_prior(self.space)
        mean, covariance, probability = combine(self.frames, np.array(self.inputs), self.options.bias_nm)
        return embed(mean, covariance, max(0.5, probability), self.space, self.places)


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> TwoRonchigram:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
        ValueError: the state lacks one of C10, C12a, C12b.
    """
    return TwoRonchigram(optics, space, checked_options(Options, options))
