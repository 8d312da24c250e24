"""Defocus and astigmatism from pairs of Ronchigrams a known defocus apart (after Kimoto and Ishizuka 2003).

The power spectrum of each frame gives its state up to sign; the known step between the two frames of a pair decides
which signs belong together. Pairs are averaged with their precision as weight. Assumes a thin amorphous film, an exact
defocus step and the nominal camera: scale and rotation are fitted per frame within their priors, not across frames.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from controller.base import Estimate, StopOptions, embed, uniform_prior
from controller.spectrum import fit as spectrum_fit
from controller.spectrum.base import SpectrumController
from controller.spectrum.fit import Mode, Observation
from twin.arrays import Array
from twin.optics import Optics
from twin.options import Count, NonNegative, Positive, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class Options(StopOptions):
    """Settings of `two_ronchigram`.

    Attributes:
        step_nm: defocus step between the two frames of a pair.
        starts: number of quasi-random states scored per frame, over the whole reach of the corrector.
        modes: number of modes refined per frame.
        bias_nm: standard deviation of the model error per component, not averaged away.
    """

    step_nm: Positive = 30.0
    starts: Annotated[int, Ge(16)] = 1024
    modes: Count = 3
    bias_nm: NonNegative = 1.0
    stop_probability: Probability = 0.99


def combine(frames: Sequence[Sequence[Mode]], inputs_nm: Array, bias_nm: float) -> tuple[Array, Array, float]:
    """Combine the modes of all frames to an initial state, its covariance and the probability of its sign.

    Each mode of each frame, less its input, is a hypothesis of the initial state. Every frame votes for it with the
    log density of its most probable mode there, at least `OUTLIER`. The modes that voted for the winner are averaged
    with their precision as weight.

    Args:
        frames: per frame the modes of its state, mirror images included.
        inputs_nm: cumulative inputs at the frames, (K, 3).
        bias_nm: added in quadrature at the end.
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


ITERATIONS = 8
"""Scoring steps per mode."""
OUTLIER = -12.0
"""Least log vote, nats: a frame fitted in the wrong mode neither decides nor enters the average."""


def _votes(x_nm: Array, frames: Sequence[Sequence[Mode]], inputs_nm: Array) -> list[tuple[float, Mode]]:
    """Return each frame's highest log vote for an initial state (3,) and the mode that casts it."""
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


class TwoRonchigram(SpectrumController):
    """Fit each frame up to sign, combine the frames through the known inputs, move to the other half of the pair."""

    options: Options

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything; `space` must contain C10, C12a and C12b."""
        super().reset(space, rng)
        self.frames: list[list[Mode]] = []
        self.inputs: list[Array] = []

    def propose(self) -> Array:
        """Return a defocus step for the first pair; later pairs lie half a step to either side of the null."""
        target = self.space.zero
        if not self.frames:
            return target
        defocus = self.places[0]
        if len(self.frames) == 1:
            target[defocus] = self.options.step_nm
        else:
            target = -self.estimate().mean_nm
            target[defocus] += self.options.step_nm / 2 * (1 if len(self.frames) % 2 else -1)
        return self.input_to(target)

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Fit the modes of this frame alone."""
        observation = [Observation(np.zeros(3), self.measure(delta_nm, frame))]
        reach = (self.space.start + self.space.input)[self.places]
        states = spectrum_fit.quasi_random(self.options.starts, reach, self.rng)
        states[:, 0] = np.abs(states[:, 0])  # up to sign
        starts = spectrum_fit.scanned(states, observation, self.grid, self.options.modes)
        modes = spectrum_fit.fit_modes(starts, observation, self.grid, reach, ITERATIONS)
        self.frames.append([signed for mode in modes for signed in (mode, spectrum_fit.mirrored(mode))])
        self.inputs.append(self.cumulative_nm[self.places])

    def estimate(self) -> Estimate:
        """Combine all frames; the uniform prior before the first."""
        if not self.frames:
            return uniform_prior(self.space)
        mean, covariance, probability = combine(self.frames, np.array(self.inputs), self.options.bias_nm)
        return embed(mean, covariance, max(0.5, probability), self.space, self.places)


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> TwoRonchigram:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"step_nm": 20.0})
        >>> controller.propose().tolist()  # no input before the first frame
        [0.0, 0.0, 0.0]
    """
    return TwoRonchigram(optics, space, checked_options(Options, options))
