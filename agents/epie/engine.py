"""Extended ptychographical iterative engine: one pass over frames that corrects object and probe after each frame.

Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), with incoherent probe modes after Thibault and Menzel, Nature
494, 68 (2013). Positions are in pixels, frames are amplitudes.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from agents.epie.estimate import Integers, ObjectAndProbe, Places, Real
from agents.epie.fourier import REORDER, plan, transform
from agents.epie.planes import add_conjugate, add_squares, multiply, multiply_conjugate, multiply_real, peak

Scalar = np.floating[Any]


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
    real, transformer = estimate.planes.dtype, plan(estimate.size, estimate.planes.dtype.name)
    difference, power = _sweep(
        estimate.planes,
        estimate.spectra,
        amplitude,
        np.ones(amplitude.shape[1:], real) if measured is None else measured,
        places.corner,
        places.shift.astype(np.float64),
        Steps(float(steps.object), float(steps.probe), float(steps.caution)),
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
    transformer = plan(estimate.size, estimate.planes.dtype.name)
    expected = np.empty((len(places), estimate.size, estimate.size), estimate.planes.dtype)
    shift = places.shift.astype(np.float64)
    _intensity(
        estimate.planes, estimate.spectra, expected, places.corner, shift, transformer.radices, transformer.turns
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


@numba.njit(cache=True, fastmath=REORDER)
def _sweep(
    planes: Real,
    spectra: Real,
    amplitude: Real,
    measured: Real,
    corner: Integers,
    shift: NDArray[np.float64],
    steps: Steps,
    radices: Integers,
    turns: Real,
) -> tuple[float, float]:
    """Run `sweep`; return the two sums of the misfit."""
    object_step, probe_step, caution = steps
    modes, size, real = spectra.shape[0], spectra.shape[2], planes.dtype.type
    probe, wave = np.empty_like(spectra), np.empty_like(spectra)
    work, other, patch = np.empty_like(spectra[0]), np.empty_like(spectra[0]), np.empty_like(spectra[0])
    total, ramp = np.empty_like(spectra[0, 0]), np.empty((2, 2, size), planes.dtype)
    difference, power = 0.0, 0.0
    for i in range(len(amplitude)):
        _ramps(shift[i], ramp)
        _cut(planes, corner[i], patch)
        _exit_waves(patch, spectra, ramp, probe, wave, total, work, radices, turns)
        sums = _gain(amplitude[i], measured, real(caution), total)
        difference += float(sums[0])
        power += float(sums[1])
        object_scale = real(object_step) / peak(probe)
        probe_scale = real(probe_step) / peak(patch.reshape(1, 2, size, size))
        for m in range(modes):
            multiply_real(wave[m], total, work)
            transform(work[1], work[0], wave[m, 1], wave[m, 0], radices, turns)
            if probe_step > 0:
                multiply_conjugate(patch, wave[m], probe_scale, work)
                transform(work[0], work[1], other[0], other[1], radices, turns)
                _add_ramped(other, ramp, -1.0, spectra[m])
        for m in range(modes):
            add_conjugate(probe[m], wave[m], object_scale, patch)
        _put(patch, corner[i], planes)
    return difference, power


@numba.njit(cache=True, fastmath=REORDER)
def _intensity(
    planes: Real,
    spectra: Real,
    expected: Real,
    corner: Integers,
    shift: NDArray[np.float64],
    radices: Integers,
    turns: Real,
) -> None:
    """Write the expected counts of each frame, times N^2, to `expected`."""
    size = spectra.shape[2]
    probe, wave = np.empty_like(spectra), np.empty_like(spectra)
    work, patch = np.empty_like(spectra[0]), np.empty_like(spectra[0])
    ramp = np.empty((2, 2, size), planes.dtype)
    for i in range(len(expected)):
        _ramps(shift[i], ramp)
        _cut(planes, corner[i], patch)
        _exit_waves(patch, spectra, ramp, probe, wave, expected[i], work, radices, turns)


@numba.njit(cache=True, fastmath=REORDER)
def _exit_waves(
    patch: Real,
    spectra: Real,
    ramp: Real,
    probe: Real,
    wave: Real,
    total: Real,
    work: Real,
    radices: Integers,
    turns: Real,
) -> None:
    """Compute the shifted probes, the transforms (times N) of the exit waves, and the sum of their intensities."""
    flat = total.ravel()
    for j in range(len(flat)):
        flat[j] = 0
    for m in range(len(spectra)):
        work[:] = 0
        _add_ramped(spectra[m], ramp, 1.0, work)
        transform(work[1], work[0], probe[m, 1], probe[m, 0], radices, turns)
        multiply(probe[m], patch, work)
        transform(work[0], work[1], wave[m, 0], wave[m, 1], radices, turns)
        add_squares(wave[m], total)


@numba.njit(cache=True)
def _cut(planes: Real, corner: Integers, patch: Real) -> None:
    """Copy the object within the probe's window: loops over contiguous memory are vectorised."""
    row, column, size = corner[0], corner[1], patch.shape[1]
    for part in range(2):
        for y in range(size):
            source, target = planes[part, row + y, column : column + size], patch[part, y]
            for x in range(size):
                target[x] = source[x]


@numba.njit(cache=True)
def _put(patch: Real, corner: Integers, planes: Real) -> None:
    """Copy back: the inverse of `_cut`."""
    row, column, size = corner[0], corner[1], patch.shape[1]
    for part in range(2):
        for y in range(size):
            source, target = patch[part, y], planes[part, row + y, column : column + size]
            for x in range(size):
                target[x] = source[x]


@numba.njit(cache=True)
def _ramps(shift: NDArray[np.float64], ramp: Real) -> None:
    """Phase ramps exp(-2 pi i k shift / N) of rows and columns, (2, 2, N); by recurrence in double precision."""
    size = ramp.shape[2]
    for axis in range(2):
        angle = -2.0 * math.pi * shift[axis] / size
        c, s = math.cos(angle), math.sin(angle)
        re, im = 1.0, 0.0
        ramp[axis, 0, 0], ramp[axis, 1, 0] = re, im
        for k in range(1, size // 2 + 1):
            re, im = re * c - im * s, re * s + im * c
            ramp[axis, 0, size - k], ramp[axis, 1, size - k] = re, -im
            if 2 * k < size:
                ramp[axis, 0, k], ramp[axis, 1, k] = re, im


@numba.njit(cache=True, fastmath=REORDER)
def _add_ramped(spectrum: Real, ramp: Real, sign: float, out: Real) -> None:
    """Add the spectrum times the ramps over N to `out`; a sign of -1 conjugates the ramps, which shifts back."""
    size, real = spectrum.shape[1], spectrum.dtype.type
    scale, turn = real(1.0 / size), real(sign)
    yr, yi = ramp[0, 0], ramp[0, 1]
    for k in range(size):
        cr, ci = ramp[1, 0, k] * scale, ramp[1, 1, k] * scale
        sr, si, wr, wi = spectrum[0, k], spectrum[1, k], out[0, k], out[1, k]
        for j in range(size):
            tr, ti = cr * yr[j] - ci * yi[j], turn * (cr * yi[j] + ci * yr[j])
            wr[j] += sr[j] * tr - si[j] * ti
            wi[j] += sr[j] * ti + si[j] * tr


@numba.njit(cache=True, fastmath=REORDER)
def _gain(amplitude: Real, measured: Real, caution: Scalar, total: Real) -> tuple[Scalar, Scalar]:
    """Replace |M Psi|^2 in `total` by the factor of the wave's correction, (x / m - 1) / M^2; return the misfit's sums.

    `total` is (M, M) and `amplitude` (N, N): the |Psi|^2 of the (M / N)^2 points of a camera pixel sum to m^2.
    """
    size, finer = len(total), len(total) // len(amplitude)
    if finer == 1:
        return _new_amplitudes(amplitude.ravel(), measured.ravel(), caution, size, total.ravel())
    pixels = np.zeros_like(amplitude)
    for row in range(size):
        runs, to = total[row].reshape(-1, finer), pixels[row // finer]
        for j in range(finer):
            for i in range(len(to)):
                to[i] += runs[i, j]
    sums = _new_amplitudes(amplitude.ravel(), measured.ravel(), caution, size, pixels.ravel())
    for row in range(size):
        runs, source = total[row].reshape(-1, finer), pixels[row // finer]
        for j in range(finer):
            for i in range(len(source)):
                runs[i, j] = source[i]
    return sums


@numba.njit(cache=True, fastmath=REORDER | {"nnan"}, error_model="numpy")  # needed for vectorisation
def _new_amplitudes(a: Real, inside: Real, caution: Scalar, size: int, t: Real) -> tuple[Scalar, Scalar]:
    """Compute `_gain` of flat arrays; see `Steps.caution`."""
    real = t.dtype.type
    one, scale, back, tiny = real(1), real(1.0 / size), real(1.0 / size) * real(1.0 / size), real(1e-12)
    least, weight = one / np.sqrt(one + caution), one / (real(2) + caution)
    published = caution == 0
    difference, power = real(0), real(0)
    for j in range(len(t)):
        m = np.sqrt(t[j]) * scale
        square = a[j] * a[j]
        d = a[j] - m
        difference += d * d * inside[j]
        power += square * inside[j]
        nearer = min(m + (square - m * m) * weight / max(m, least), max(a[j], m))
        x = a[j] if published else nearer
        t[j] = inside[j] * (x / (m + tiny) - one) * back
    return difference, power
