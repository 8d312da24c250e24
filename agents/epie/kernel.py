"""The compiled part of ePIE: one pass over frames through the slices of an object, and the intensities it expects.

Real and imaginary parts are planes of their own, (2, N, N).
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from agents.epie.estimate import Integers, Real
from agents.epie.fourier import REORDER, transform

Scalar = np.floating[Any]


@numba.njit(cache=True, fastmath=REORDER)
def run_pass(
    slices: Real,
    spectra: Real,
    propagator: Real,
    amplitude: Real,
    measured: Real,
    corner: Integers,
    shift: NDArray[np.float64],
    steps: tuple[float, float, float],
    radices: Integers,
    turns: Real,
) -> tuple[float, float]:
    """Run `engine.sweep`; return the two sums of the misfit."""
    object_step, probe_step, caution = steps
    count, modes, size, real = len(slices), spectra.shape[0], spectra.shape[2], slices.dtype.type
    entering, leaving, patch = _memory(count, spectra)
    work, other = np.empty_like(spectra[0]), np.empty_like(spectra[0])
    total, ramp = np.empty_like(spectra[0, 0]), np.empty((2, 2, size), slices.dtype)
    difference, power = 0.0, 0.0
    for i in range(len(amplitude)):
        _ramps(shift[i], ramp)
        _cut(slices, corner[i], patch)
        _exit_waves(patch, spectra, propagator, ramp, entering, leaving, total, work, radices, turns)
        sums = _gain(amplitude[i], measured, real(caution), total)
        difference += float(sums[0])
        power += float(sums[1])
        probe_scale = real(probe_step) / _peak(patch[0].reshape(1, 2, size, size))
        for m in range(modes):
            _multiply_real(leaving[-1, m], total, work)
            transform(work[1], work[0], leaving[-1, m, 1], leaving[-1, m, 0], radices, turns)
            _carry_back(patch, propagator, leaving, m, work, other, radices, turns)
            if probe_step > 0:
                _multiply_conjugate(patch[0], leaving[0, m], probe_scale, work)
                transform(work[0], work[1], other[0], other[1], radices, turns)
                _add_ramped(other, ramp, -1.0, spectra[m])
        scale = real(object_step) / _peak(entering.reshape(count * modes, 2, size, size))
        for n in range(count):
            for m in range(modes):
                _add_conjugate(entering[n, m], leaving[n, m], scale, patch[n])
        _put(patch, corner[i], slices)
    return difference, power


@numba.njit(cache=True, fastmath=REORDER)
def expect(
    slices: Real,
    spectra: Real,
    propagator: Real,
    expected: Real,
    corner: Integers,
    shift: NDArray[np.float64],
    radices: Integers,
    turns: Real,
) -> None:
    """Write the expected counts of each frame, times N^2, to `expected`."""
    count, size = len(slices), spectra.shape[2]
    entering, leaving, patch = _memory(count, spectra)
    work = np.empty_like(spectra[0])
    ramp = np.empty((2, 2, size), slices.dtype)
    for i in range(len(expected)):
        _ramps(shift[i], ramp)
        _cut(slices, corner[i], patch)
        _exit_waves(patch, spectra, propagator, ramp, entering, leaving, expected[i], work, radices, turns)


@numba.njit(cache=True, fastmath=REORDER)
def differentiate(
    slices: Real,
    spectra: Real,
    propagator: Real,
    derivatives: Real,
    corner: Integers,
    shift: NDArray[np.float64],
    radices: Integers,
    turns: Real,
) -> None:
    """Write expected counts and their derivatives by the position, all times N^2, to `derivatives`, (n, 3, N, N).

    `spectra` are K modes of the probe, their K derivatives along rows and their K derivatives along columns.
    """
    count, modes, size = len(slices), spectra.shape[0] // 3, spectra.shape[2]
    entering, leaving, patch = _memory(count, spectra)
    work = np.empty_like(spectra[0])
    ramp, total = np.empty((2, 2, size), slices.dtype), np.empty_like(spectra[0, 0])
    for i in range(len(derivatives)):
        _ramps(shift[i], ramp)
        _cut(slices, corner[i], patch)
        _exit_waves(patch, spectra, propagator, ramp, entering, leaving, total, work, radices, turns)
        derivatives[i] = 0
        for m in range(modes):
            _add_squares(leaving[-1, m], derivatives[i, 0])
            for axis in (1, 2):
                _add_twice_overlap(leaving[-1, m], leaving[-1, axis * modes + m], derivatives[i, axis])


@numba.njit(cache=True, fastmath=REORDER)
def _add_twice_overlap(a: Real, b: Real, total: Real) -> None:
    """Add 2 Re(conj(a) b) to `total`, (N, N)."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), total.ravel()
    two = total.dtype.type(2)
    for j in range(len(to)):
        to[j] += two * (fa[0, j] * fb[0, j] + fa[1, j] * fb[1, j])


@numba.njit(cache=True)
def _memory(count: int, spectra: Real) -> tuple[Real, Real, Real]:
    """Memory for the waves that enter and leave each of `count` slices, and for the slices in the probe's window."""
    waves = (count, *spectra.shape)
    return (
        np.empty(waves, spectra.dtype),
        np.empty(waves, spectra.dtype),
        np.empty(waves[:1] + waves[2:], spectra.dtype),
    )


@numba.njit(cache=True, fastmath=REORDER)
def _exit_waves(
    patch: Real,
    spectra: Real,
    propagator: Real,
    ramp: Real,
    entering: Real,
    leaving: Real,
    total: Real,
    work: Real,
    radices: Integers,
    turns: Real,
) -> None:
    """Compute the waves that enter each slice, the transforms (times N) of those that leave the last, and the sum of
    their intensities. Both are (S, K, 2, N, N); only the last of `leaving` is of use afterwards.
    """
    flat = total.ravel()
    for j in range(len(flat)):
        flat[j] = 0
    for m in range(spectra.shape[0]):
        work[:] = 0
        _add_ramped(spectra[m], ramp, 1.0, work)
        for n in range(len(patch)):
            if n > 0:
                _multiply(leaving[n - 1, m], propagator, work)
            transform(work[1], work[0], entering[n, m, 1], entering[n, m, 0], radices, turns)
            _multiply(entering[n, m], patch[n], work)
            transform(work[0], work[1], leaving[n, m, 0], leaving[n, m, 1], radices, turns)
        _add_squares(leaving[-1, m], total)


@numba.njit(cache=True, fastmath=REORDER)
def _carry_back(
    patch: Real, propagator: Real, change: Real, mode: int, work: Real, other: Real, radices: Integers, turns: Real
) -> None:
    """Carry the change of the wave behind the last slice back to those behind the others (Maiden et al. 2012, eq 8).

    Args:
        patch: the slices, (S, 2, N, N).
        propagator: over N^2.
        change: (S, K, 2, N, N): given for the last slice, written for the others.
        mode: which of the K.
        work, other: memory, (2, N, N).
    """
    real, size = patch.dtype.type, patch.shape[2]
    for n in range(len(patch) - 1, 0, -1):
        _multiply_conjugate(patch[n], change[n, mode], real(1) / _peak(patch[n].reshape(1, 2, size, size)), work)
        transform(work[0], work[1], other[0], other[1], radices, turns)
        _multiply_conjugate(propagator, other, real(1), work)
        transform(work[1], work[0], change[n - 1, mode, 1], change[n - 1, mode, 0], radices, turns)


@numba.njit(cache=True)
def _cut(slices: Real, corner: Integers, patch: Real) -> None:
    """Copy the slices within the probe's window: loops over contiguous memory are vectorised."""
    row, column, size = corner[0], corner[1], patch.shape[2]
    for n in range(len(patch)):
        for part in range(2):
            for y in range(size):
                source, target = slices[n, part, row + y, column : column + size], patch[n, part, y]
                for x in range(size):
                    target[x] = source[x]


@numba.njit(cache=True)
def _put(patch: Real, corner: Integers, slices: Real) -> None:
    """Copy back: the inverse of `_cut`."""
    row, column, size = corner[0], corner[1], patch.shape[2]
    for n in range(len(patch)):
        for part in range(2):
            for y in range(size):
                source, target = patch[n, part, y], slices[n, part, row + y, column : column + size]
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
    """Compute `_gain` of flat arrays; see `engine.Steps`."""
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


@numba.njit(cache=True, fastmath=REORDER | {"nnan"})
def _peak(modes: Real) -> Scalar:
    """Largest intensity, summed over the modes, of (K, 2, N, N)."""
    flat = modes.reshape(len(modes), 2, -1)
    best = modes.dtype.type(0)
    if len(modes) == 1:
        re, im = flat[0, 0], flat[0, 1]
        for j in range(len(re)):
            square = re[j] * re[j] + im[j] * im[j]
            best = square if square > best else best
        return best
    total = np.zeros(flat.shape[2], modes.dtype)
    for m in range(len(modes)):
        _add_squares(modes[m], total)
    for j in range(len(total)):
        best = total[j] if total[j] > best else best
    return best


@numba.njit(cache=True, fastmath=REORDER)
def _add_squares(planes: Real, total: Real) -> None:
    """Add |planes|^2 to `total`, (N, N)."""
    flat, to = planes.reshape(2, -1), total.ravel()
    re, im = flat[0], flat[1]
    for j in range(len(to)):
        to[j] += re[j] * re[j] + im[j] * im[j]


@numba.njit(cache=True, fastmath=REORDER)
def _multiply_real(planes: Real, factor: Real, out: Real) -> None:
    """Write planes * factor to `out`; the factor is real, (N, N)."""
    flat, f, to = planes.reshape(2, -1), factor.ravel(), out.reshape(2, -1)
    re, im, wr, wi = flat[0], flat[1], to[0], to[1]
    for j in range(len(f)):
        wr[j] = re[j] * f[j]
        wi[j] = im[j] * f[j]


@numba.njit(cache=True, fastmath=REORDER)
def _multiply(a: Real, b: Real, out: Real) -> None:
    """Write a b to `out`."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] = ar[j] * br[j] - ai[j] * bi[j]
        wi[j] = ar[j] * bi[j] + ai[j] * br[j]


@numba.njit(cache=True, fastmath=REORDER)
def _multiply_conjugate(a: Real, b: Real, scale: Scalar, out: Real) -> None:
    """Write scale conj(a) b to `out`."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] = scale * (ar[j] * br[j] + ai[j] * bi[j])
        wi[j] = scale * (ar[j] * bi[j] - ai[j] * br[j])


@numba.njit(cache=True, fastmath=REORDER)
def _add_conjugate(a: Real, b: Real, scale: Scalar, out: Real) -> None:
    """Add scale conj(a) b to `out`."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] += scale * (ar[j] * br[j] + ai[j] * bi[j])
        wi[j] += scale * (ar[j] * bi[j] - ai[j] * br[j])
