"""Positions of a scan refined on the object: a step of maximum likelihood for each frame, bounded and without drift.

The gradient is that of the expected counts by the position of the probe, as in Dwivedi et al., Ultramicroscopy 192, 29
(2018), exact through all slices; the step is one of Fisher scoring for Poisson counts.
"""

from typing import NamedTuple

import numpy as np

from agents.epie.data import Data
from agents.epie.estimate import ObjectAndProbe, Places, Real
from agents.epie.fourier import plan
from agents.epie.kernel import differentiate
from twin.arrays import Floats

LONGEST_STEP_PX = 0.25
"""Largest correction along each axis in one pass: the object still changes."""

LEAST_EXPECTED = 0.05
"""Least expected counts that a pixel's noise is estimated from: the model is least certain where it is dark."""


class Pull(NamedTuple):
    """Pull of the counts at the positions of n frames.

    Attributes:
        gradient: of the log-likelihood by the position along rows and columns of the object, 1/px, (n, 2).
        information: Fisher's, 1/px^2, (n, 2, 2).
    """

    gradient: Floats
    information: Floats


def pull(estimate: ObjectAndProbe, amplitude: Real, places: Places, measured: Real) -> Pull:
    """Gradient and information of the log-likelihood of Poisson counts by the position of each frame.

    Args:
        estimate: object and probe.
        amplitude: square roots of counts, (n, N, N), [kx, ky] with zero frequency first.
        places: n positions.
        measured: 1 where the camera has a pixel, else 0, (N, N).
    """
    transformer, size = plan(estimate.size, estimate.slices.dtype.name), estimate.size
    found = np.empty((len(places), 3, size, size), estimate.slices.dtype)
    differentiate(
        estimate.slices,
        _with_derivatives(estimate.spectra),
        estimate.propagator / found.dtype.type(size**2),
        found,
        places.corner,
        places.shift.astype(np.float64),
        transformer.radices,
        transformer.turns,
    )
    pixels = amplitude.shape[-1]
    points = found.reshape(len(places), 3, pixels, size // pixels, pixels, size // pixels)
    counts = points.sum(axis=(3, 5), dtype=np.float64) / size**2
    model, slopes = counts[:, 0], counts[:, 1:]
    weight = measured / np.maximum(model, LEAST_EXPECTED)
    difference = amplitude.astype(np.float64) ** 2 - model
    return Pull(
        np.einsum("nij,naij->na", weight * difference, slopes),
        np.einsum("nij,naij,nbij->nab", weight, slopes, slopes, optimize=True),
    )


def refine(estimate: ObjectAndProbe, data: Data, step: float) -> None:
    """Move the positions of all frames towards the most likely ones; changes `data.moved_px`.

    Args:
        estimate: object and probe, held.
        data: frames and positions.
        step: fraction of the step of Fisher scoring, 0 to 1.
    """
    dtype, everything, done = estimate.slices.dtype, data.everything(), 0
    measured = data.measured(dtype)
    for amplitude, places in data.unpacked(everything, dtype):
        gradient, information = pull(estimate, amplitude, places, measured)
        # A frame on a flat object tells nothing: a little of the trace keeps the matrix regular.
        floor = 1e-6 * np.trace(information, axis1=1, axis2=2) + np.finfo(np.float64).tiny
        regular = information + floor[:, None, None] * np.eye(2)
        moves = step * np.linalg.solve(regular, gradient[..., None])[..., 0]
        places.shift[:] += np.clip(moves, -LONGEST_STEP_PX, LONGEST_STEP_PX)
        data.keep_moved(everything[done : done + len(places)], places)
        done += len(places)
    data.settle_moved()


def _with_derivatives(spectra: Real) -> Real:
    """Spectra of K modes, [kx, ky], of their derivatives by the position along rows, and along columns, (3 K, ...)."""
    size = spectra.shape[-1]
    turn = 2.0 * np.pi * np.fft.fftfreq(size)
    # Moved by s, a spectrum is multiplied by exp(-i turn s): its derivative is -i turn times it.
    turned = np.stack([spectra[:, 1], -spectra[:, 0]], axis=1)
    return np.concatenate([spectra, turned * turn, turned * turn[:, None]]).astype(spectra.dtype)
