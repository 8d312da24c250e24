"""Regularised phase from weak-phase data, with the strength at which the residuals have variance one.

A step of the prior, then the image nearest to it and to the data, in turn (ADMM, Boyd et al. 2011). The strength
is found by bisection: Morozov's discrepancy principle.
"""

import math
from dataclasses import dataclass

import numpy as np

from agents.inverse.data import PhaseData
from agents.inverse.priors import Step
from twin.arrays import Floats

ROUNDS = 15
"""Pairs of steps at each strength."""
COUPLING = 0.5
"""Distance allowed between the image of the prior and that of the data, over the noise of a pixel."""
STRENGTHS = (0.01, 10.0)
"""Weakest and strongest prior, over the noise of a pixel."""
HALVINGS = 9
TARGET = 0.02
"""Distance of the residual variance from one that is good enough."""


@dataclass(frozen=True, eq=False)
class Solved:
    """A regularised phase.

    Attributes:
        phase: rad, (R, C).
        strength: of the prior, over the noise of a pixel.
        residual_variance: see `PhaseData.residual_variance`.
    """

    phase: Floats
    strength: float
    residual_variance: float


def solve(data: PhaseData, step: Step, strength: float | None = None, rounds: int = ROUNDS) -> Solved:
    """Reconstruct the phase.

    Args:
        data: of the scan.
        step: of the prior, any denoiser.
        strength: over the noise of a pixel; None chooses it so that the residuals have variance one.
        rounds: pairs of steps.
    """
    if strength is not None:
        return _at_strength(data, step, strength, rounds)
    low, high = STRENGTHS
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        found = _at_strength(data, step, middle, rounds)
        if abs(found.residual_variance - 1.0) < TARGET:
            break
        low, high = (middle, high) if found.residual_variance < 1.0 else (low, middle)
    return found


def _at_strength(data: PhaseData, step: Step, strength: float, rounds: int) -> Solved:
    image, multiplier = data.wiener_start(), np.zeros(data.shape)
    for _ in range(rounds):
        smooth = step(image + multiplier, strength * data.noise)
        image = data.fitted(smooth - multiplier, COUPLING * data.noise)
        multiplier += image - smooth
    return Solved(np.asarray(image - image.mean()), strength, data.residual_variance(image))
