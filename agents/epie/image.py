"""From a reconstructed object to pictures: what the data cannot tell is removed, and the scan's grid is interpolated.

No diffraction pattern changes when the object is multiplied by a phase, or by a number and the probe divided by it;
when the object gets a ramp of phase and the probe's aperture moves; or when both are shifted. The convention: over the
illuminated object the amplitude's mean is 1, the phase has mean zero and no slope in the sense of least squares, and
the probe's centre of mass is where it began.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage, signal

Floats = NDArray[np.float64]
Complex = NDArray[np.complexfloating]

FADE = 0.1
"""Share of a band limit over which a picture fades out."""

DIM = 0.1
"""Illumination, relative to the median over the scanned area, below which nothing is shown."""


def illumination(visits: NDArray[np.integer], probe: Complex) -> Floats:
    """Electrons that have met each pixel of the object.

    Args:
        visits: positions by whole pixel, (rows, columns).
        probe: modes (K, N, N), centre at N // 2.
    """
    beam = np.sum(np.abs(probe) ** 2, axis=0)
    size = len(beam)
    full = signal.fftconvolve(visits.astype(np.float64), beam)
    first = size // 2
    return np.maximum(full[first : first + visits.shape[0], first : first + visits.shape[1]], 0.0)


def canonical(transmission: Complex, weight: Floats) -> Complex:
    """The object without what the data cannot tell; see above. An object without weight stays as it is.

    Args:
        transmission: (rows, columns).
        weight: of each pixel in means and fits, of the same shape.
    """
    total = float(weight.sum())
    if total <= 0:
        return transmission
    out = transmission.astype(np.complex128)
    # First by the mean turn from pixel to pixel, which phases beyond pi do not mislead, then by least squares.
    for axis in (0, 1):
        pairs = np.sqrt(weight * np.roll(weight, -1, axis))
        turn = np.angle(np.sum(pairs * np.roll(out, -1, axis) * out.conj()))
        place = np.arange(out.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        out *= np.exp(-1j * turn * place)
    out *= np.exp(-1j * np.angle(np.sum(weight * out)))
    out *= np.exp(-1j * _plane(np.angle(out), weight))
    return np.asarray(out * (total / float(np.sum(weight * np.abs(out)))))


def _plane(values: Floats, weight: Floats) -> Floats:
    """The plane a + b row + c column closest to the values in the sense of weighted least squares."""
    row, column = np.arange(values.shape[0])[:, None], np.arange(values.shape[1])[None, :]
    terms = (1.0, row, column)
    normal = np.array([[np.sum(weight * (p * q)) for q in terms] for p in terms])
    right = np.array([np.sum(weight * values * p) for p in terms])
    a, b, c = np.linalg.lstsq(normal, right, rcond=None)[0]
    return np.asarray(a + b * row + c * column)


def sampled(transmission: Complex, places: Floats) -> Complex:
    """The object at places (row, column), (..., 2), by cubic splines of its real and imaginary part."""
    coordinates = np.moveaxis(places, -1, 0)
    parts = [
        ndimage.map_coordinates(part, coordinates, order=3, mode="nearest")
        for part in (transmission.real, transmission.imag)
    ]
    return np.asarray(parts[0] + 1j * parts[1])


def low_pass(picture: Floats, limit: float) -> Floats:
    """Without what is finer than `limit` periods per pixel, fading out over the last `FADE` of it; cyclic."""
    frequency = np.hypot(scipy.fft.fftfreq(picture.shape[0])[:, None], scipy.fft.rfftfreq(picture.shape[1])[None, :])
    inside = np.clip((limit - frequency) / (FADE * limit), 0.0, 1.0)
    smooth = scipy.fft.rfft2(picture) * np.sin(np.pi / 2 * inside) ** 2
    return np.asarray(scipy.fft.irfft2(smooth, s=picture.shape), np.float64)


def at(picture: Floats, places: Floats) -> Floats:
    """A real picture at places (row, column), (..., 2), by cubic splines."""
    return np.asarray(ndimage.map_coordinates(picture, np.moveaxis(places, -1, 0), order=3, mode="nearest"))


def noise_level(variance: Floats, weight: Floats, there: NDArray[np.bool_]) -> float:
    """Root mean of variance times electrons over a part of the object: the noise of a pixel that met one electron.

    Noise falls with the root of the electrons, nearly alike everywhere: the mean over many pixels is known well where
    few runs tell each one's own noise to a factor only, and it holds for pixels that they did not look at.

    Args:
        variance: over some runs, any shape; NaN where they know nothing.
        weight: electrons that each pixel met in them, of the same shape.
        there: pixels to judge by.
    """
    known = there & np.isfinite(variance)
    return float(np.sqrt(np.mean(variance[known] * weight[known]))) if known.any() else float("nan")


def lit(weight: Floats, scanned: tuple[slice, slice]) -> NDArray[np.bool_]:
    """Where the object is illuminated well enough to be shown."""
    within = weight[scanned]
    there = within[within > 0]
    return weight > DIM * float(np.median(there)) if there.size else np.zeros(weight.shape, bool)
