"""Diffraction patterns of a focused probe anywhere on a large specimen: single slice and multislice, in numpy.

`I(k) = |F[T(r) psi(r - r_p)]|^2`. The probe is moved by a phase ramp in reciprocal space, the specimen by
cropping: both to any fraction of a pixel. Transforms are pruned to the aperture going in, to the band limit between
slices, and to the same going out. How atoms become transmission functions is in `scan/transmission.py`, how the plane
waves of the aperture stand in for many positions in `scan/prism.py`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.optics import AliasingError, Optics, aperture_phases, check_window, focal_quadrature

Complex = NDArray[np.complex64]
Waves = Mapping[float, Complex]
"""Aperture wave by defocus, nm, for every defocus of a mixture; see `ScanRenderer.waves`."""

BAND_LIMIT_PER_PIXEL = 1 / 3
"""Band limit, periods per pixel: 2/3 of Nyquist, so that no product of two waves aliases below it (Kirkland 2010,
section 6.8)."""

TAPER_PER_PIXEL = 0.01
"""Width of the cosine edge inside the band limit, periods per pixel: abTEM's."""


@dataclass(frozen=True, eq=False)
class TransmissionField:
    """Transmission functions of a specimen, periodic in rows and columns.

    Attributes:
        functions: band-limited, complex64, shape (snapshots, slices, rows, columns), rows along y.
        sampling_nm: pixel.
        step_nm: distance from one slice to the next.
        corner_nm: (x, y) of pixel (0, 0) in the specimen.
    """

    functions: Complex
    sampling_nm: float
    step_nm: float
    corner_nm: tuple[float, float]

    @property
    def snapshots(self) -> int:
        """Number of thermal configurations."""
        return int(self.functions.shape[0])

    @property
    def slices(self) -> int:
        """Number of slices along the beam."""
        return int(self.functions.shape[1])


class Ray(NamedTuple):
    """One coherent contribution to an incoherent sum."""

    weight: float
    defocus_nm: float
    shift_nm: tuple[float, float]
    snapshot: int


def rays(focal_spread_nm: float, source_size_nm: float, snapshots: int) -> list[Ray]:
    """Coherent contributions to average over: focal spread x source, cycling through the thermal snapshots.

    Three-point Gauss-Hermite for the focus (rms, along C10), and for the round Gaussian source (rms per axis) its
    centre with weight 1/2 and a hexagon at two spreads (Stroud 1971, E2^r2 5-1): both exact to fifth order. A spread of
    zero takes one point. There are at least as many rays as snapshots.
    """
    sources = [((0.0, 0.0), 1.0)]
    if source_size_nm > 0:
        turns = [math.pi / 3 * i for i in range(6)]
        ring = [((2 * source_size_nm * math.cos(t), 2 * source_size_nm * math.sin(t)), 1 / 12) for t in turns]
        sources = [((0.0, 0.0), 1 / 2), *ring]
    foci = focal_quadrature(focal_spread_nm)
    points = [(f_weight * s_weight, focus, shift) for focus, f_weight in foci for shift, s_weight in sources]
    rounds = math.ceil(snapshots / len(points))
    return [
        Ray(weight / rounds, focus, shift, i % snapshots) for i, (weight, focus, shift) in enumerate(points * rounds)
    ]


def kept_pixels(grid: int) -> int:
    """Side of the square of frequencies within the band limit; zero at its pixel side // 2."""
    return 2 * math.floor(grid * BAND_LIMIT_PER_PIXEL) + 1


def largest_angle_mrad(optics: Optics) -> float:
    """Largest angle that the soft edge of the band limit leaves unchanged."""
    return 2 * optics.max_angle_mrad * (BAND_LIMIT_PER_PIXEL - TAPER_PER_PIXEL)


def band_limit(rows_per_pixel: NDArray[np.floating], columns_per_pixel: NDArray[np.floating]) -> NDArray[np.float32]:
    """Anti-aliasing aperture on two axes of frequencies (periods per pixel), shape (rows, columns); abTEM's form."""
    k = np.hypot(rows_per_pixel[:, None], columns_per_pixel[None, :])
    edge = (k - BAND_LIMIT_PER_PIXEL + TAPER_PER_PIXEL) / TAPER_PER_PIXEL
    return np.where(edge > 1, 0.0, 0.5 + 0.5 * np.cos(np.pi * np.clip(edge, 0.0, 1.0))).astype(np.float32)


def check_optics(optics: Optics, aberrations: Aberrations) -> None:
    """Refuse a probe wider than the window or an aperture wider than the band limit.

    Raises:
        AliasingError: with a sampling that would do.
    """
    check_window(optics, aberrations)
    if optics.convergence_mrad > largest_angle_mrad(optics):
        finest = optics.sampling_nm * largest_angle_mrad(optics) / optics.convergence_mrad
        raise AliasingError(
            f"convergence_mrad {optics.convergence_mrad:g} exceeds the {largest_angle_mrad(optics):.1f} mrad that the"
            f" grid holds without aliasing; use optics.sampling_nm <= {finest:.4f}"
        )


@lru_cache(maxsize=4)
def _aperture(optics: Optics) -> tuple[NDArray[np.bool_], Floats]:
    """See `aperture_phases`, on the smallest centred square around the aperture, (m, m)."""
    reach = math.floor(optics.convergence_mrad / optics.pixel_mrad)
    inside, basis = aperture_phases(optics, np.arange(-reach, reach + 1) * optics.pixel_mrad)
    return inside, basis.astype(np.float64, copy=False)


def aperture_wave(optics: Optics, aberrations: Aberrations) -> Complex:
    """`A exp(-i chi)` on the smallest centred square around the aperture, (m, m), m odd; total intensity 1."""
    inside, basis = _aperture(optics)
    values = aberrations.array()
    present = np.flatnonzero(values)
    chi = np.remainder(values[present] @ basis[present], 2 * np.pi).astype(np.float32)  # single precision is enough
    wave = np.zeros(inside.shape, np.complex64)
    wave[inside] = (np.cos(chi) - 1j * np.sin(chi)) / np.float32(math.sqrt(inside.sum()))
    return wave


def ramps(offset_pixels: Floats, size: int, grid: int) -> Complex:
    """Phase ramps that move a wave by `offset_pixels`, (N,), along one axis: (N, size), zero frequency at size // 2."""
    frequency = (np.arange(size) - size // 2) / grid
    return np.exp(-2j * np.pi * offset_pixels[:, None] * frequency).astype(np.complex64)


def exit_mask(grid: int) -> NDArray[np.float32]:
    """Band limit of the last slice, (size, size) of `kept_pixels`, zero frequency at size // 2."""
    frequency = (np.arange(kept_pixels(grid)) - kept_pixels(grid) // 2) / grid
    return band_limit(frequency, frequency)


def band_limited_propagator(optics: Optics, step_nm: float) -> Complex:
    """Fresnel propagator over `step_nm` within the band limit, (grid, size): zero beyond the first `size` rows."""
    grid, size = optics.grid, kept_pixels(optics.grid)
    frequency = (np.arange(size) - size // 2) / grid
    k2 = (frequency[:, None] ** 2 + frequency[None, :] ** 2) / optics.sampling_nm**2
    propagator = np.zeros((grid, size), np.complex64)
    propagator[:size] = exit_mask(grid) * np.exp(-1j * np.pi * optics.wavelength_nm * step_nm * k2)
    return propagator


def probe_wave(wave: Complex, fraction: Floats, grid: int) -> Complex:
    """Probe at `fraction`, (x, y), pixels from the middle of the window, (grid, grid), for `exit_wave`.

    Zero frequency lies at pixel `size // 2` of a square of `size` frequencies in the corner of the grid. In real space
    this is a phase ramp, which commutes with transmission functions, so that nothing has to be shifted.

    Args:
        wave: at the aperture, (m, m), from `aperture_wave`.
        fraction: sub-pixel position, (2,).
        grid: side of the window, pixels.
    """
    m = len(wave)
    first = kept_pixels(grid) // 2 - m // 2
    along_x, along_y = ramps(fraction + grid // 2, m, grid)
    psi = np.zeros((grid, grid), np.complex64)
    psi[first : first + m, first : first + m] = wave * along_y[:, None] * along_x[None, :]
    _transform(scipy.fft.ifft, psi[first : first + m], 1)
    _transform(scipy.fft.ifft, psi, 0)
    return psi


def exit_wave(psi: Complex, layers: Iterable[Complex], propagator: Complex) -> Complex:
    """Multislice: far field behind the layers, (size, size), before the band limit of the last one.

    Args:
        psi: `probe_wave`, (grid, grid); overwritten.
        layers: transmission functions, each (grid, grid), in the order of the beam.
        propagator: from one layer to the next, `band_limited_propagator`.
    """
    size = propagator.shape[1]
    kept, rest = psi[:, :size], psi[:, size:]
    for i, layer in enumerate(layers):
        if i:
            kept *= propagator
            _transform(scipy.fft.ifft, kept, 0)
            rest[:] = 0
            _transform(scipy.fft.ifft, psi, 1)
        psi *= layer
        _transform(scipy.fft.fft, psi, 1)
        _transform(scipy.fft.fft, kept, 0)
    return kept[:size]


class ScanRenderer:
    """Diffraction patterns of probes on a transmission field.

    Positions are computed one at a time: as fast as in batches, and the rounding of a pattern does not depend on its
    neighbours.

    Args:
        optics: beam and grid; its window is the probe's.
        field: specimen, sampled as the grid.
        mixture: coherent contributions, see `rays`; default one ray through each snapshot.

    Raises:
        AliasingError: the aperture exceeds the band limit.
        ValueError: the field has another sampling than the optics.
    """

    def __init__(self, optics: Optics, field: TransmissionField, mixture: Sequence[Ray] | None = None) -> None:
        check_optics(optics, Aberrations())
        if abs(field.sampling_nm / optics.sampling_nm - 1) > 1e-6:
            raise ValueError(f"the field is sampled at {field.sampling_nm} nm, the optics at {optics.sampling_nm} nm")
        self.optics, self.field = optics, field
        self.mixture = list(mixture if mixture is not None else rays(0.0, 0.0, field.snapshots))
        self.size = kept_pixels(optics.grid)
        self.exit_mask = exit_mask(optics.grid)
        """Band limit of the last slice, (size, size)."""
        self._exit = self.exit_mask**2
        self._propagator = band_limited_propagator(optics, field.step_nm)
        self._functions = field.functions
        if min(field.functions.shape[-2:]) < 2 * optics.grid:
            # Most windows would cross the edge of a small field: extend it periodically by one window.
            self._functions = np.pad(field.functions, ((0, 0), (0, 0), (0, optics.grid), (0, optics.grid)), mode="wrap")

    def diffraction(self, aberrations: Aberrations, positions_nm: Floats) -> NDArray[np.float32]:
        """Diffraction patterns, shape (N, size, size), whole beam = 1, zero angle at size // 2.

        Args:
            aberrations: at the plane of the first slice.
            positions_nm: (x, y) of the probe in the specimen, shape (N, 2).

        Raises:
            AliasingError: the window cannot hold the probe.
        """
        waves = self.waves(aberrations)
        return np.stack([self.pattern(waves, position) for position in np.asarray(positions_nm, np.float64)])

    def waves(self, aberrations: Aberrations) -> dict[float, Complex]:
        """Aperture waves at every defocus of the mixture, for `pattern`; C10 counts from the first slice.

        Raises:
            AliasingError: the window cannot hold the probe.
        """
        states = {ray.defocus_nm: aberrations + Aberrations.of({"C10": ray.defocus_nm}) for ray in self.mixture}
        for state in states.values():
            check_window(self.optics, state)
        return {defocus: aperture_wave(self.optics, state) for defocus, state in states.items()}

    def patterns(self, steps: Iterable[tuple[Waves, Floats]]) -> Iterator[NDArray[np.float32]]:
        """Yield the pattern of each step: `waves` and a position (x, y), nm."""
        for waves, position_nm in steps:
            yield self.pattern(waves, position_nm)

    def pattern(self, waves: Waves, position_nm: Floats) -> NDArray[np.float32]:
        """One diffraction pattern, (size, size), see `diffraction`; `position_nm` is (x, y)."""
        total = np.zeros((self.size, self.size), np.float32)
        for ray in self.mixture:
            spectrum = self.exit_wave(waves[ray.defocus_nm], position_nm + np.array(ray.shift_nm), ray.snapshot)
            total += np.float32(ray.weight) * (spectrum.real**2 + spectrum.imag**2)
        total *= self._exit
        return total

    def exit_wave(self, wave: Complex, position_nm: Floats, snapshot: int) -> Complex:
        """Wave in the far field behind one snapshot, (size, size), before the band limit of the last slice.

        Args:
            wave: at the aperture, (m, m), from `aperture_wave`.
            position_nm: (x, y) in the specimen.
            snapshot: number of the thermal configuration.
        """
        pixel = (position_nm - self.field.corner_nm) / self.field.sampling_nm
        nearest = np.rint(pixel).astype(np.int64)
        patch = self._patch(snapshot, nearest - self.optics.grid // 2)
        return exit_wave(probe_wave(wave, pixel - nearest, self.optics.grid), patch, self._propagator)

    def _patch(self, snapshot: int, corner: NDArray[np.int64]) -> Complex:
        """Transmission functions of the window whose first pixel is `corner`, (x, y); (slices, grid, grid)."""
        grid, layers = self.optics.grid, self._functions[snapshot]
        rows, columns = self.field.functions.shape[-2:]
        x, y = (corner % np.array([columns, rows])).tolist()
        if y + grid <= layers.shape[1] and x + grid <= layers.shape[2]:
            return layers[:, y : y + grid, x : x + grid]
        across = (x + np.arange(grid)) % columns
        return layers[:, ((y + np.arange(grid)) % rows)[:, None], across]


def _transform(function: Callable[..., Any], waves: Complex, axis: int) -> None:
    """Transform in place. SciPy does so with `overwrite_x`, but does not guarantee it."""
    result = function(waves, axis=axis, overwrite_x=True)
    if not np.may_share_memory(result, waves):
        waves[:] = result


def camera_mask(optics: Optics) -> NDArray[np.bool_]:
    """Pixels of a pattern that `to_camera` sums, (size, size)."""
    size, side = kept_pixels(optics.grid), optics.camera_pixels * optics.binning
    start = size // 2 - side // 2
    inside = (np.arange(size) >= start) & (np.arange(size) < start + side)
    return inside[:, None] & inside


def to_camera(pattern: NDArray[np.float32], optics: Optics) -> NDArray[np.float32]:
    """Sum a pattern (size, size) into camera pixels (H, W); electrons beyond the camera are lost.

    In numpy and without camera geometry; the Ronchigram's is `phase_screens.to_camera`, in torch. They sum in
    different order.
    """
    side, bins, size = optics.camera_pixels * optics.binning, optics.binning, len(pattern)
    start = size // 2 - side // 2
    if start < 0:
        pattern = np.pad(pattern, ((-start, side - size + start),) * 2)
        start = 0
    fine = pattern[start : start + side, start : start + side]
    return fine.reshape(optics.camera_pixels, bins, optics.camera_pixels, bins).sum((1, 3))
