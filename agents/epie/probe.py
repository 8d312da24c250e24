"""Geometry of ptychography: window of the camera, positions in pixels of the object, start probe.

The object is along the axes of the camera; its pixel size follows from the angles of the window.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agents.epie.fourier import smooth_size
from twin.aberrations import Aberrations, aberration_phase
from twin.arrays import Floats

Complex = NDArray[np.complexfloating]
Frames = NDArray[np.unsignedinteger]

MARGIN_PX = 4
"""Pixels of the object beyond the window of the outermost probes, at their planned positions."""


@dataclass(frozen=True, eq=False)
class Window:
    """The square of angles, N x N, of the frames in memory, [kx, ky] with zero frequency first.

    Attributes:
        size: N.
        source: flat camera pixels that are summed for each pixel of the window, (binning^2, N * N).
        measured: 1 where the camera has all of them, else 0, (N * N,).
        camera: (H, W).
    """

    size: int
    source: NDArray[np.int64]
    measured: Floats
    camera: tuple[int, int]

    @classmethod
    def of(
        cls, camera: tuple[int, int], binning: int = 1, reach_px: float = math.inf, transposed: bool = False
    ) -> Self:
        """Smallest square centred on pixel (H // 2, W // 2) that contains the camera, or its pixels within a reach.

        Args:
            camera: (H, W).
            binning: camera pixels along the side of a pixel of the window.
            reach_px: largest angle along rows and columns, in camera pixels.
            transposed: the camera's rows and columns are swapped.

        Raises:
            ValueError: bins larger than half the camera.
        """
        if 2 * binning > min(camera):
            raise ValueError(f"binning {binning} leaves less than two pixels of a camera of {camera[0]} x {camera[1]}")
        rows, columns = (_bins(side, binning) for side in camera)
        needed = max(_span(rows, binning), _span(columns, binning))
        reach = math.ceil(reach_px / binning) if math.isfinite(reach_px) else needed
        size = smooth_size(min(needed, 2 * reach + 1))
        by_row, by_column = _members(rows, size, binning), _members(columns, size, binning)
        # The slow index of a spectrum is kx, the column of a camera that is not transposed.
        pair = (by_row[:, None, :, None], by_column[None, :, None, :])
        row, column = np.broadcast_arrays(*pair)
        flat = np.where((row >= 0) & (column >= 0), row * camera[1] + column, -1)
        if not transposed:
            flat = flat.swapaxes(2, 3)
        source = flat.reshape(binning**2, size**2)
        measured: Floats = np.all(source >= 0, axis=0).astype(np.float64)
        return cls(size, np.where(measured > 0, source, 0), measured, camera)

    def laid(self, frames: Frames) -> NDArray[np.unsignedinteger]:
        """Sum frames (n, H, W) of either byte order to (n, N * N); zero where not measured."""
        flat = frames.reshape(len(frames), -1)
        total = np.zeros((len(frames), self.size**2), np.uint32)
        for source in self.source:
            total += flat[:, source].astype(np.uint32, copy=False)
        total[:, self.measured == 0] = 0
        return total


@dataclass(frozen=True)
class Geometry:
    """Scan positions on the object.

    Attributes:
        pixel_nm: pixel size of the object.
        step_px: scan step in pixels of the object.
        rotation_deg: angle from the camera's +x to the scan's fast axis, towards +y.
        scan: rows and columns.
        size: side of the probe's window.
        margin_px: pixels of the object beyond the window of the outermost probes.
        shape: rows and columns of the object.
    """

    pixel_nm: float
    step_px: float
    rotation_deg: float
    scan: tuple[int, int]
    size: int
    margin_px: int = MARGIN_PX
    _origin: tuple[float, float] = field(init=False)
    shape: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        rows, columns = self.scan
        corners = self._turned(np.array([(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]))
        low, high = corners.min(axis=0), corners.max(axis=0)
        before = self.size // 2 + self.margin_px
        object.__setattr__(self, "_origin", (before - float(low[0]), before - float(low[1])))
        sides = np.ceil(high - low).astype(int) + self.size + 2 * self.margin_px
        object.__setattr__(self, "shape", (int(sides[0]), int(sides[1])))

    def positions(self, pixel: NDArray[np.integer]) -> Floats:
        """Map scan positions (row, column), (n, 2), to (row, column) on the object."""
        return self._turned(pixel) + np.array(self._origin)

    @property
    def scanned(self) -> tuple[slice, slice]:
        """Smallest rectangle of the object that contains every position."""
        before = self.size // 2 + self.margin_px
        after = self.size - self.size // 2 + self.margin_px - 1
        rows, columns = self.shape
        return slice(before, rows - after), slice(before, columns - after)

    def along_scan_nm(self, moves_px: Floats) -> Floats:
        """Turn moves (row, column) on the object, (..., 2), pixels, into (x, y) along the axes of the scan, nm."""
        angle = math.radians(self.rotation_deg)
        c, s = math.cos(angle), math.sin(angle)
        row, column = moves_px[..., 0], moves_px[..., 1]
        return self.pixel_nm * np.stack([s * row + c * column, c * row - s * column], axis=-1)

    def _turned(self, pixel: NDArray[np.integer]) -> Floats:
        angle = math.radians(self.rotation_deg)
        c, s = math.cos(angle), math.sin(angle)
        row, column = pixel[:, 0], pixel[:, 1]
        return self.step_px * np.stack([c * row + s * column, c * column - s * row], axis=-1)


def pattern_centre(mean: Floats) -> tuple[float, float]:
    """(kx, ky) of the centre of the bright-field disc in pixels from zero.

    Centre of mass with weights that rise linearly from 0 at a quarter of the disc's height to 1 at three quarters. It
    varies smoothly with noise, unlike that of a threshold.

    Args:
        mean: mean counts, (N, N), [kx, ky] with zero frequency first.
    """
    centred = np.fft.fftshift(mean)
    # A percentile for the height ignores single hot pixels.
    height = float(np.percentile(centred, 98))
    if height <= 0:
        return 0.0, 0.0
    disc = np.clip(2.0 * centred / height - 0.5, 0.0, 1.0)
    axis = np.arange(len(mean)) - len(mean) // 2
    return float(disc.sum(axis=1) @ axis / disc.sum()), float(disc.sum(axis=0) @ axis / disc.sum())


@dataclass(frozen=True)
class Beam:
    """Wavelength and aperture of the probe.

    Attributes:
        wavelength_nm, convergence_mrad: wavelength and semi-angle of the beam.
        pixel_mrad: angle of a pixel of the model.
    """

    wavelength_nm: float
    convergence_mrad: float
    pixel_mrad: float

    @property
    def disc_px(self) -> float:
        """Radius of the bright-field disc in pixels of the model."""
        return self.convergence_mrad / self.pixel_mrad


def start_probe(
    beam: Beam,
    size: int,
    counts: float,
    centre: tuple[float, float] = (0.0, 0.0),
    aberrations_nm: Mapping[str, float] | None = None,
    modes: int = 1,
) -> Complex:
    """Probe modes, (modes, N, N), rows along y, centred at N // 2; the sum of their squares is `counts`.

    The first is the probe of an aperture with a soft edge of one pixel and known aberrations. The others are the first
    one times x, y, x^2, ..., orthonormalised, with 2 % of the counts each.

    Args:
        beam: aperture and angles.
        size: N.
        counts: counts of a frame.
        centre: (kx, ky) of the centre of the aperture, pixels.
        aberrations_nm: Krivanek coefficients by name (twin/aberrations.py).
        modes: number of modes, at most 6.
    """
    axis = np.fft.fftfreq(size, 1 / size)
    kx, ky = np.meshgrid(axis - centre[0], axis - centre[1])
    inside = np.clip(beam.disc_px - np.hypot(kx, ky) + 0.5, 0.0, 1.0)
    aberrations = Aberrations.of(aberrations_nm or {})
    chi = aberration_phase(aberrations, kx * beam.pixel_mrad, ky * beam.pixel_mrad, beam.wavelength_nm)
    wave = np.fft.fftshift(np.fft.ifft2(np.sqrt(inside) * np.exp(-1j * chi), norm="ortho"))
    fractions = np.array([1.0 - 0.02 * (modes - 1)] + [0.02] * (modes - 1))
    return np.asarray(_orthonormal(wave, modes) * np.sqrt(counts * fractions)[:, None, None])


def propagator(beam: Beam, size: int, distance_nm: float) -> Complex:
    """Factor of a spectrum over a distance in vacuum, (N, N), zero frequency first: exp(-i pi lambda distance k^2).

    Fresnel's approximation (Kirkland 2010, eq 6.65).

    Args:
        beam: wavelength and angle of a pixel.
        size: N.
        distance_nm: along the beam.
    """
    angle = np.fft.fftfreq(size, 1 / size) * beam.pixel_mrad * 1e-3
    square = angle[:, None] ** 2 + angle[None, :] ** 2
    return np.asarray(np.exp(-1j * np.pi * distance_nm / beam.wavelength_nm * square))


def rim_share(probe: Complex) -> float:
    """Fraction of the probe's intensity in the outermost sixteenth of the window on each side."""
    beam = np.sum(np.abs(probe) ** 2, axis=0)
    rim = max(1, len(beam) // 16)
    return float(1.0 - beam[rim:-rim, rim:-rim].sum() / beam.sum())


def intensity_centre(probe: Complex) -> Floats:
    """(row, column) of the centre of mass of the modes (K, N, N), in pixels from N // 2, in a periodic window."""
    weight = np.sum(np.abs(probe) ** 2, axis=0)
    size = len(weight)
    circle = np.exp(2j * np.pi * (np.arange(size) - size // 2) / size)
    angles = np.angle([weight.sum(axis=1) @ circle, weight.sum(axis=0) @ circle])
    return np.asarray(angles * size / (2 * np.pi))


def _orthonormal(wave: Complex, modes: int) -> NDArray[np.complex128]:
    """Orthonormalise the products of the wave with 1, x, y, x^2, xy, y^2 in this order."""
    size = len(wave)
    y, x = np.indices(wave.shape).astype(np.float64) - size // 2
    factors: list[Any] = [np.ones(wave.shape), x, y, x * x, x * y, y * y][:modes]
    # A factor of x amplifies the tails of the probe: limit the products to its surroundings.
    near = np.exp(-(x**2 + y**2) / (0.125 * size**2))
    columns = np.stack([(wave * f * near if i else wave).ravel() for i, f in enumerate(factors)], axis=1)
    basis, triangle = np.linalg.qr(columns)
    turned = np.multiply(basis, np.exp(1j * np.angle(np.diagonal(triangle))))
    return np.asarray(turned.T.reshape(modes, *wave.shape))


def _bins(side: int, binning: int) -> NDArray[np.int64]:
    """Bin of each camera pixel along one axis; zero angle, pixel side // 2, is the first pixel of bin 0."""
    return (np.arange(side) - side // 2) // binning


def _whole(bins: NDArray[np.int64], binning: int) -> tuple[int, int]:
    """First and last complete bin."""
    numbers, counts = np.unique(bins, return_counts=True)
    complete = numbers[counts == binning]
    return int(complete[0]), int(complete[-1])


def _span(bins: NDArray[np.int64], binning: int) -> int:
    """Side of a window, centred at its pixel side // 2, that contains these bins."""
    first, last = _whole(bins, binning)
    return max(-2 * first, 2 * last + 1)


def _members(bins: NDArray[np.int64], size: int, binning: int) -> NDArray[np.int64]:
    """Camera pixels of each frequency, zero first, (binning, size); -1 for none."""
    first, last = _whole(bins, binning)
    out = np.full((binning, size), -1)
    for frequency in range(max(first, -(size // 2)), min(last, (size - 1) // 2) + 1):
        out[:, frequency % size] = np.flatnonzero(bins == frequency)
    return out
