"""Extended ptychographical iterative engine: one pass over frames that corrects object and probe after each of them.

Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), with incoherent probe modes after Thibault and Menzel, Nature
494, 68 (2013). Plain arrays in, no knowledge of microscopes: positions are pixels, frames are amplitudes.
"""

import math
from dataclasses import dataclass
from typing import Any, Self

import numba
import numpy as np
from numpy.typing import NDArray

from agents.epie.fourier import REORDER, plan, transform

Real = NDArray[np.floating]
Complex = NDArray[np.complexfloating]
Integers = NDArray[np.int64]
Scalar = np.floating[Any]


@dataclass(frozen=True, eq=False)
class Places:
    """Where the probe stood for each of n frames.

    Attributes:
        corner: (row, column) of the object's pixel under the first pixel of the probe's window, (n, 2).
        shift: what is left of the position, along rows and columns, pixels, (n, 2).
    """

    corner: Integers
    shift: Real

    @classmethod
    def of(cls, position_px: Real, size: int, sub_pixel: bool = True) -> Self:
        """From positions (row, column) of the probe's centre on the object, (n, 2).

        Args:
            position_px: pixels; the window's centre is its pixel `size // 2`.
            size: side of the window.
            sub_pixel: False rounds to whole pixels.
        """
        whole = np.rint(position_px).astype(np.int64)
        shift = position_px - whole if sub_pixel else np.zeros_like(position_px, np.float64)
        return cls(whole - size // 2, shift)

    def __len__(self) -> int:
        return len(self.corner)

    def take(self, chosen: NDArray[np.integer]) -> "Places":
        """Some of them."""
        return Places(self.corner[chosen], self.shift[chosen])


@dataclass(frozen=True, eq=False)
class Estimate:
    """Object and probe as they are known; the sweeps change them in place.

    Attributes:
        planes: real and imaginary part of the object, (2, rows, columns).
        spectra: of K probe modes, (K, 2, N, N), real and imaginary, [kx, ky] with zero frequency first. The inverse
            transform is unitary, so that squares add up to the beam's intensity, and has the centre at pixel N // 2.
    """

    planes: Real
    spectra: Real

    @classmethod
    def start(cls, shape: tuple[int, int], probe: Complex) -> Self:
        """A transparent object of `shape` under probe modes (K, N, N), centre at N // 2, in their precision."""
        real = probe.real.dtype
        planes = np.zeros((2, *shape), real)
        planes[0] = 1.0
        spectrum = np.fft.fft2(probe, norm="ortho").swapaxes(1, 2)
        return cls(planes, np.ascontiguousarray(np.stack([spectrum.real, spectrum.imag], 1), real))

    @property
    def transmission(self) -> Complex:
        """The object, (rows, columns)."""
        return np.asarray(self.planes[0] + 1j * self.planes[1])

    @property
    def probe(self) -> Complex:
        """Modes, (K, N, N), centre at N // 2."""
        spectrum = (self.spectra[:, 0] + 1j * self.spectra[:, 1]).swapaxes(1, 2)
        return np.asarray(np.fft.ifft2(spectrum, norm="ortho"))

    @property
    def size(self) -> int:
        """Side of the probe's window, N."""
        return int(self.spectra.shape[-1])

    def copy(self) -> "Estimate":
        """One that can be changed on its own."""
        return Estimate(self.planes.copy(), self.spectra.copy())

    def with_clear_object(self) -> "Estimate":
        """Its probe before a transparent object."""
        planes = np.zeros_like(self.planes)
        planes[0] = 1.0
        return Estimate(planes, self.spectra.copy())


@dataclass(frozen=True)
class Steps:
    """How far each frame moves the estimate.

    Attributes:
        object: alpha of the object's correction, Maiden and Rodenburg's eq 6.
        probe: beta of the probe's, eq 7; 0 holds the probe.
        caution: weight rho of the amplitude m that the model has already. 0 is the engine as published: m becomes the
            measured a. Else m takes a step of Fisher's scoring towards the minimum of the Poisson likelihood with a
            penalty, x^2 - a^2 log x^2 + rho (x - m)^2, that is by (a^2 - m^2) / ((2 + rho) m), and not beyond a. It is
            linear in the counts, so that noise averages out over frames and errs to neither side: sqrt(counts), and
            the very minimum of each frame, dim the dark field. Below 1 / sqrt(1 + rho), that stands for the m in the
            divisor.
    """

    object: float = 1.0
    probe: float = 1.0
    caution: float = 0.0


@dataclass(frozen=True)
class Misfit:
    """How far measured amplitudes a are from the model's m: sums over frames and measured pixels.

    Attributes:
        difference: sum of (a - m)^2.
        power: sum of a^2, the counts.
    """

    difference: float = 0.0
    power: float = 0.0

    def __add__(self, other: "Misfit") -> "Misfit":
        return Misfit(self.difference + other.difference, self.power + other.power)

    @property
    def error(self) -> float:
        """Relative amplitude error, sqrt(sum (a - m)^2 / sum a^2); NaN of nothing."""
        return math.sqrt(self.difference / self.power) if self.power > 0 else math.nan


def sweep(estimate: Estimate, amplitude: Real, places: Places, steps: Steps, measured: Real | None = None) -> Misfit:
    """One pass over frames in the order given; corrects the estimate after each.

    Args:
        estimate: changed in place; its window of M is N, or a multiple of it: a camera pixel then adds up the
            intensities of a square of points, as cameras do.
        amplitude: square roots of counts, (n, N, N), [kx, ky] with zero frequency first, in the estimate's precision.
        places: of the probe, n, for the estimate's window.
        steps: how far to go.
        measured: 1 where the camera has a pixel and 0 elsewhere, (N, N) in the same order; None for everywhere.

    Returns:
        The misfit that each frame had when its turn came.
    """
    real, transformer = estimate.planes.dtype, plan(estimate.size, estimate.planes.dtype.name)
    difference, power = _sweep(
        estimate.planes,
        estimate.spectra,
        amplitude,
        np.ones(amplitude.shape[1:], real) if measured is None else measured,
        places.corner,
        places.shift.astype(np.float64),
        float(steps.object),
        float(steps.probe),
        float(steps.caution),
        transformer.radices,
        transformer.turns,
    )
    return Misfit(difference, power)


def intensity(estimate: Estimate, places: Places, finer: int = 1) -> Real:
    """What the model expects of each frame, (n, N, N), [kx, ky] with zero frequency first; changes nothing.

    Args:
        estimate: its window is N * finer.
        places: of the probe, n.
        finer: points along a camera pixel's side, which are added up.
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


def misfit(estimate: Estimate, amplitude: Real, places: Places, measured: Real | None = None) -> Misfit:
    """Of all frames at once under one estimate; arguments as in `sweep`."""
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
    object_step: float,
    probe_step: float,
    caution: float,
    radices: Integers,
    turns: Real,
) -> tuple[float, float]:
    """See `sweep`; returns the two sums of the misfit."""
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
        object_scale = real(object_step) / _peak(probe)
        probe_scale = real(probe_step) / _peak(patch.reshape(1, 2, size, size))
        for m in range(modes):
            _multiply_real(wave[m], total, work)
            transform(work[1], work[0], wave[m, 1], wave[m, 0], radices, turns)
            if probe_step > 0:
                _multiply_conjugate(patch, wave[m], probe_scale, work)
                transform(work[0], work[1], other[0], other[1], radices, turns)
                _add_ramped(other, ramp, -1.0, spectra[m])
        for m in range(modes):
            _add_conjugate(probe[m], wave[m], object_scale, patch)
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
    """Expected counts of each frame, times N^2, into `expected`."""
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
    """The shifted probes, the transforms (times N) of what leaves the object, and the sum of their squares."""
    flat = total.ravel()
    for j in range(len(flat)):
        flat[j] = 0
    for m in range(len(spectra)):
        work[:] = 0
        _add_ramped(spectra[m], ramp, 1.0, work)
        transform(work[1], work[0], probe[m, 1], probe[m, 0], radices, turns)
        _multiply(probe[m], patch, work)
        transform(work[0], work[1], wave[m, 0], wave[m, 1], radices, turns)
        _add_squares(wave[m], total)


@numba.njit(cache=True)
def _cut(planes: Real, corner: Integers, patch: Real) -> None:
    """The object under the probe's window, in memory of its own: what is compact is vectorised."""
    row, column, size = corner[0], corner[1], patch.shape[1]
    for part in range(2):
        for y in range(size):
            source, target = planes[part, row + y, column : column + size], patch[part, y]
            for x in range(size):
                target[x] = source[x]


@numba.njit(cache=True)
def _put(patch: Real, corner: Integers, planes: Real) -> None:
    """The inverse of `_cut`."""
    row, column, size = corner[0], corner[1], patch.shape[1]
    for part in range(2):
        for y in range(size):
            source, target = patch[part, y], planes[part, row + y, column : column + size]
            for x in range(size):
                target[x] = source[x]


@numba.njit(cache=True)
def _ramps(shift: NDArray[np.float64], ramp: Real) -> None:
    """exp(-2 pi i k shift / N) for rows and columns, (2, real and imaginary, N); by recurrence, in double precision."""
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
    """Add the spectrum times the ramps over N to `out`; with a sign of -1 their conjugates, which shift back."""
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
    """Turn |M Psi|^2 in `total` into what the wave is to be multiplied by, (x / m - 1) / M^2; the misfit's sums.

    `total` is (M, M) and `amplitude` (N, N): a camera pixel is a square of M / N points, whose |Psi|^2 add up to m^2.
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


@numba.njit(cache=True, fastmath=REORDER | {"nnan"}, error_model="numpy")  # else it would not be vectorised
def _new_amplitudes(a: Real, inside: Real, caution: Scalar, size: int, t: Real) -> tuple[Scalar, Scalar]:
    """See `_gain` and `Steps.caution`; flat arrays."""
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
    """Largest sum over the modes of |.|^2, of (K, 2, N, N)."""
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
    """Total += |planes|^2."""
    flat, to = planes.reshape(2, -1), total.ravel()
    re, im = flat[0], flat[1]
    for j in range(len(to)):
        to[j] += re[j] * re[j] + im[j] * im[j]


@numba.njit(cache=True, fastmath=REORDER)
def _multiply_real(planes: Real, factor: Real, out: Real) -> None:
    """Out = planes * factor, (2, N, N) and (N, N)."""
    flat, f, to = planes.reshape(2, -1), factor.ravel(), out.reshape(2, -1)
    re, im, wr, wi = flat[0], flat[1], to[0], to[1]
    for j in range(len(f)):
        wr[j] = re[j] * f[j]
        wi[j] = im[j] * f[j]


@numba.njit(cache=True, fastmath=REORDER)
def _multiply(a: Real, b: Real, out: Real) -> None:
    """Out = a b, (2, N, N) each."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] = ar[j] * br[j] - ai[j] * bi[j]
        wi[j] = ar[j] * bi[j] + ai[j] * br[j]


@numba.njit(cache=True, fastmath=REORDER)
def _multiply_conjugate(a: Real, b: Real, scale: Scalar, out: Real) -> None:
    """Out = scale conj(a) b, (2, N, N) each."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] = scale * (ar[j] * br[j] + ai[j] * bi[j])
        wi[j] = scale * (ar[j] * bi[j] - ai[j] * br[j])


@numba.njit(cache=True, fastmath=REORDER)
def _add_conjugate(a: Real, b: Real, scale: Scalar, out: Real) -> None:
    """Out += scale conj(a) b, (2, N, N) each."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] += scale * (ar[j] * br[j] + ai[j] * bi[j])
        wi[j] += scale * (ar[j] * bi[j] - ai[j] * br[j])
