"""Extended ptychographical iterative engine: one pass over frames that corrects object and probe after each frame.

Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), with incoherent probe modes after Thibault and Menzel, Nature
494, 68 (2013). Positions are in pixels, frames are amplitudes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agents.epie.estimate import ObjectAndProbe, Places, Real
from agents.epie.fourier import plan
from agents.epie.kernel import expect, run_pass


class Steps(NamedTuple):
    """Step sizes of the corrections after each frame.

    Attributes:
        object: alpha, step of the object (Maiden and Rodenburg, eq 6).
        probe: beta, step of the probe (eq 7); 0 keeps the probe fixed.
        caution: regularisation weight rho of a Poisson-likelihood step. With 0 the modelled amplitude m is replaced by
            the measured a, as published. Otherwise m takes one Fisher scoring step towards the minimum x of
            x^2 - a^2 log x^2 + rho (x - m)^2: by (a^2 - m^2) / ((2 + rho) m), but not beyond a. This is linear in the
            counts, hence unbiased; amplitude projection and the full minimiser both bias the dark field low. The m in
            the divisor is bounded below by 1 / sqrt(1 + rho).
    """

    object: float = 1.0
    probe: float = 1.0
    caution: float = 0.0


@dataclass(frozen=True)
class Misfit:
    """Misfit of measured amplitudes a and modelled amplitudes m, summed over frames and measured pixels.

    Attributes:
        difference: sum of (a - m)^2.
        power: sum of a^2, the total counts.
    """

    difference: float = 0.0
    power: float = 0.0

    def __add__(self, other: "Misfit") -> "Misfit":
        return Misfit(self.difference + other.difference, self.power + other.power)

    @property
    def error(self) -> float:
        """Relative amplitude error, sqrt(sum (a - m)^2 / sum a^2); NaN without counts."""
        return math.sqrt(self.difference / self.power) if self.power > 0 else math.nan


def sweep(
    estimate: ObjectAndProbe, amplitude: Real, places: Places, steps: Steps, measured: Real | None = None
) -> Misfit:
    """Make one pass over frames in the given order; correct the estimate after each frame.

    Args:
        estimate: changed in place. Its window M is N or a multiple of it: each camera pixel then integrates the
            intensity over a square of points.
        amplitude: square roots of counts, (n, N, N), [kx, ky] with zero frequency first, in the estimate's precision.
        places: n positions of the probe, for the estimate's window.
        steps: step sizes.
        measured: 1 where the camera has a pixel and 0 elsewhere, (N, N) in the same order; None for 1 everywhere.

    Returns:
        The misfit of the frames, each before its own correction.
    """
    real, transformer = estimate.slices.dtype, plan(estimate.size, estimate.slices.dtype.name)
    difference, power = run_pass(
        estimate.slices,
        estimate.spectra,
        estimate.propagator / real.type(estimate.size**2),
        amplitude,
        np.ones(amplitude.shape[1:], real) if measured is None else measured,
        places.corner,
        places.shift.astype(np.float64),
        Steps(*(float(step) for step in steps)),
        transformer.radices,
        transformer.turns,
    )
    return Misfit(difference, power)


def intensity(estimate: ObjectAndProbe, places: Places, finer: int = 1) -> Real:
    """Expected counts of each frame, (n, N, N), [kx, ky] with zero frequency first.

    Args:
        estimate: object and probe; the window is N * finer.
        places: n positions of the probe.
        finer: points along the side of a camera pixel, whose intensities are summed.
    """
    real, transformer = estimate.slices.dtype, plan(estimate.size, estimate.slices.dtype.name)
    expected = np.empty((len(places), estimate.size, estimate.size), real)
    expect(
        estimate.slices,
        estimate.spectra,
        estimate.propagator / real.type(estimate.size**2),
        expected,
        places.corner,
        places.shift.astype(np.float64),
        transformer.radices,
        transformer.turns,
    )
    expected /= estimate.size**2
    if finer == 1:
        return expected
    pixels = estimate.size // finer
    return np.asarray(expected.reshape(len(places), pixels, finer, pixels, finer).sum(axis=(2, 4)))


def misfit(estimate: ObjectAndProbe, amplitude: Real, places: Places, measured: Real | None = None) -> Misfit:
    """Misfit of all frames under one estimate; arguments as in `sweep`."""
    difference = amplitude - np.sqrt(intensity(estimate, places, estimate.size // amplitude.shape[-1]))
    inside = np.ones(amplitude.shape[1:]) if measured is None else measured
    return Misfit(float(np.sum(inside * difference**2, dtype=np.float64)), float(np.sum(inside * amplitude**2)))
