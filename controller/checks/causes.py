"""Why frames and inputs do not belong together: other readings of the inputs, tried on the frames.

Frames that come late, a corrector that moves the other way, or axes that are turned or mirrored between corrector and
camera leave every frame a good Ronchigram, only not that of the state it is said to show. Each such cause is another
sequence of inputs; the one that makes the frames agree is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from controller.spectrum import fit as spectrum_fit
from controller.spectrum.fit import Mode, Observation
from controller.spectrum.model import Grid
from twin.arrays import Array

STARTS, MODES, ITERATIONS = 768, 5, 6
"""States scored for the first frame, modes refined, scoring steps."""
REACH_NM = np.array([66.0, 33.0, 33.0])
"""Largest state looked for in the first frame, which has no input, nm at the reference optics."""
LEAST = 3
"""Frames that are needed, the first of them without an input."""
FITTED = 4
"""Causes that are fitted, of all those scored."""
BETTER, DESCRIBED = 12.0, 3.0
"""Gain of the log-likelihood over the stated inputs, nats, and largest misfit of a cause that is named."""
TURNS_DEG = (30, 60, 90, 120, -30, -60, -90, -120)


class FrameAtInput(NamedTuple):
    """Spectrum and input of a frame, and the cumulative input of the exposure before it, (3,)."""

    observation: Observation
    before_nm: Array


@dataclass(frozen=True)
class Cause:
    """A hypothesis about the inputs: what acts is not what was asked for.

    Attributes:
        words: the cause, for messages.
        matrix: from the inputs asked for to those that act, (3, 3).
        late: whether a frame shows the input before its own.
    """

    words: str
    matrix: Array
    late: bool = False

    def read(self, frames: Sequence[FrameAtInput]) -> list[Observation]:
        """The frames with the inputs that act if this is the cause."""
        inputs = [each.before_nm if self.late else each.observation.input_nm for each in frames]
        return [replace(each.observation, input_nm=self.matrix @ u) for each, u in zip(frames, inputs, strict=True)]


def turned(degrees: float) -> Array:
    """The inputs with the astigmatism turned in its plane, (3, 3)."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


def _turn_words(degrees: float) -> str:
    return (
        f"the astigmatism inputs act turned by about {abs(degrees)} degrees: the corrector's axes are turned, or the"
        f" camera by {abs(degrees) // 2} degrees"
    )


AS_TOLD = Cause("", np.eye(3))
CAUSES = (
    Cause("the frames come one input late", np.eye(3), late=True),
    # The spectrum is even: a defocus the other way shows what an astigmatism the other way shows from the mirror image.
    Cause("the defocus moves against the request, or the astigmatism does", np.diag([-1.0, 1.0, 1.0])),
    Cause("the camera is mirrored, or C12b moves against the request", np.diag([1.0, 1.0, -1.0])),
    Cause("the camera is mirrored, or C12a moves against the request", np.diag([1.0, -1.0, 1.0])),
    *(Cause(_turn_words(degrees), turned(degrees)) for degrees in TURNS_DEG),
)
"""What is tried."""


def named(frames: Sequence[FrameAtInput], claimed_nm: Array, grid: Grid, per_nm: Array) -> str:
    """Name the cause that makes the frames agree; empty if none does.

    Args:
        frames: of one run.
        claimed_nm: the estimate of the initial state that they contradict, (3,).
        grid: of the spectrum model.
        per_nm: nm at the reference optics per nm, (3,).
    """
    if len(frames) < LEAST or frames[0].observation.input_nm.any():
        return ""
    box = 4 * REACH_NM / per_nm
    shown = _states_of(frames[0].observation, grid, REACH_NM / per_nm)
    as_told = _fits(AS_TOLD, frames, [claimed_nm, *shown], grid, box)
    scored = [(_best(cause, frames, shown, grid), cause) for cause in CAUSES]
    scored.sort(key=lambda pair: -pair[0][0])
    found, words = as_told + BETTER, ""
    for (_, start), cause in scored[:FITTED]:
        mode, value = _fitted(cause.read(frames), start, grid, box)
        if mode.misfit <= DESCRIBED and value > found:
            found, words = value, cause.words
    return words


def _states_of(first: Observation, grid: Grid, reach_nm: Array) -> list[Array]:
    """States, of either sign, that one frame alone may show."""
    alone = [replace(first, input_nm=np.zeros(3))]
    states = _spread() * reach_nm
    starts = spectrum_fit.scanned(states, alone, grid, MODES)
    modes = spectrum_fit.fit_modes(starts, alone, grid, 2 * reach_nm, ITERATIONS)
    return [sign * mode.state_nm for mode in modes for sign in (1.0, -1.0)]


@lru_cache(maxsize=1)
def _spread() -> Array:
    states = spectrum_fit.quasi_random(STARTS, np.ones(3), np.random.default_rng(0))
    states[:, 0] = np.abs(states[:, 0])  # up to sign
    return states


def _best(cause: Cause, frames: Sequence[FrameAtInput], shown: Sequence[Array], grid: Grid) -> tuple[float, Array]:
    """Largest log-likelihood of a cause over the states that the first frame may show, and its initial state."""
    read = cause.read(frames)
    starts = [state - read[0].input_nm for state in shown]
    values = [_log_likelihood(spectrum_fit.starting_theta(start), read, grid) for start in starts]
    best = int(np.argmax(values))
    return values[best], starts[best]


def _fits(cause: Cause, frames: Sequence[FrameAtInput], starts: Sequence[Array], grid: Grid, box: Array) -> float:
    """Log-likelihood of the best fit from a claim or from the best of the other starts."""
    read = cause.read(frames)
    second = _best(cause, frames, starts[1:], grid)[1]
    return max(_fitted(read, start, grid, box)[1] for start in (starts[0], second))


def _fitted(read: Sequence[Observation], start_nm: Array, grid: Grid, box: Array) -> tuple[Mode, float]:
    start, any_film = spectrum_fit.starting_theta(start_nm), spectrum_fit.ANY_FILM
    mode = spectrum_fit.fit(start, read, grid, box, ITERATIONS, any_film)
    return mode, _log_likelihood(mode.theta, read, grid)


def _log_likelihood(theta: Array, read: Sequence[Observation], grid: Grid) -> float:
    """Whittle log-likelihood of all frames at parameters (13,), and of the parameters' prior, nats."""
    measured = np.array([o.spectrum.values for o in read])
    expected = spectrum_fit.expected(theta, read, grid)
    return spectrum_fit.log_posterior(theta, expected, measured, spectrum_fit.ANY_FILM)
