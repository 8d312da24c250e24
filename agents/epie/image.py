"""Pictures of a reconstructed object: the ambiguities of ptychography are removed, and the scan's grid is interpolated.

Diffraction patterns do not change if the object is multiplied by a constant and the probe divided by it, if the object
gets a phase ramp and the probe's aperture is shifted, or if both are shifted. Convention: over the illuminated object
the mean amplitude is 1, the phase has mean zero and no slope (least squares), and the probe's centre of mass stays.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage, signal

from twin.arrays import Floats

Complex = NDArray[np.complexfloating]

FADE = 0.1
"""Width of the soft edge of a low-pass filter, as a fraction of its limit."""

DIM = 0.1
"""Illumination, relative to the median over the scanned area, below which the object is not shown."""


def illumination(visits: NDArray[np.integer], probe: Complex) -> Floats:
    """Electrons that met each pixel of the object.

    Args:
        visits: number of positions at each pixel, (rows, columns).
        probe: modes (K, N, N), centred at N // 2.
    """
    beam = np.sum(np.abs(probe) ** 2, axis=0)
    size = len(beam)
    full = signal.fftconvolve(visits.astype(np.float64), beam)
    first = size // 2
    return np.maximum(full[first : first + visits.shape[0], first : first + visits.shape[1]], 0.0)


def canonical(transmission: Complex, weight: Floats) -> Complex:
    """Remove the ambiguities of the object; see above. Without any weight it is returned as it is.

    Args:
        transmission: (rows, columns).
        weight: weight of each pixel in means and fits, of the same shape.
    """
    total = float(weight.sum())
    if total <= 0:
        return transmission
    out = transmission.astype(np.complex128)
    # The mean phase step from pixel to pixel first, which phase wraps do not affect; then least squares.
    for axis in (0, 1):
        pairs = np.sqrt(weight * np.roll(weight, -1, axis))
        step = np.angle(np.sum(pairs * np.roll(out, -1, axis) * out.conj()))
        place = np.arange(out.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        out *= np.exp(-1j * step * place)
    out *= np.exp(-1j * np.angle(np.sum(weight * out)))
    out *= np.exp(-1j * _plane(np.angle(out), weight))
    return np.asarray(out * (total / float(np.sum(weight * np.abs(out)))))


def _plane(values: Floats, weight: Floats) -> Floats:
    """Plane a + b row + c column through the values by weighted least squares."""
    row, column = np.arange(values.shape[0])[:, None], np.arange(values.shape[1])[None, :]
    terms = (1.0, row, column)
    normal = np.array([[np.sum(weight * (p * q)) for q in terms] for p in terms])
    right = np.array([np.sum(weight * values * p) for p in terms])
    a, b, c = np.linalg.lstsq(normal, right, rcond=None)[0]
    return np.asarray(a + b * row + c * column)


def sampled(transmission: Complex, places: Floats) -> Complex:
    """Interpolate the object at (row, column), (..., 2), by cubic splines of its real and imaginary part."""
    coordinates = np.moveaxis(places, -1, 0)
    parts = [
        ndimage.map_coordinates(part, coordinates, order=3, mode="nearest")
        for part in (transmission.real, transmission.imag)
    ]
    return np.asarray(parts[0] + 1j * parts[1])


def low_pass(picture: Floats, limit: float) -> Floats:
    """Remove frequencies above `limit`, periods per pixel, with a soft edge of `FADE`; periodic."""
    frequency = np.hypot(scipy.fft.fftfreq(picture.shape[0])[:, None], scipy.fft.rfftfreq(picture.shape[1])[None, :])
    inside = np.clip((limit - frequency) / (FADE * limit), 0.0, 1.0)
    smooth = scipy.fft.rfft2(picture) * np.sin(np.pi / 2 * inside) ** 2
    return np.asarray(scipy.fft.irfft2(smooth, s=picture.shape), np.float64)


def at(picture: Floats, places: Floats) -> Floats:
    """Interpolate a real picture at (row, column), (..., 2), by cubic splines."""
    return np.asarray(ndimage.map_coordinates(picture, np.moveaxis(places, -1, 0), order=3, mode="nearest"))


def noise_level(variance: Floats, weight: Floats, used: NDArray[np.bool_]) -> float:
    """Standard deviation of a pixel that met one electron: root mean of variance times electrons.

    Noise falls with the root of the electrons, by nearly the same factor everywhere. Its mean over many pixels is
    accurate, although a few runs determine the variance of one pixel poorly, and it extends to other pixels.

    Args:
        variance: variance over some runs, any shape; NaN where unknown.
        weight: electrons that each pixel met in a run, of the same shape.
        used: pixels of the mean.
    """
    known = used & np.isfinite(variance)
    return float(np.sqrt(np.mean(variance[known] * weight[known]))) if known.any() else float("nan")


def lit(weight: Floats, scanned: tuple[slice, slice]) -> NDArray[np.bool_]:
    """True where the illumination of the object is above `DIM`, (rows, columns)."""
    within = weight[scanned]
    illuminated = within[within > 0]
    return weight > DIM * float(np.median(illuminated)) if illuminated.size else np.zeros(weight.shape, bool)
