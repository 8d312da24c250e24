"""What the camera should have seen if a phase image is right: exit waves of exp(i phi), for the test of residuals.

The whole multiplicative object, not its first order only: strong phases do not pass for misfits of the beam.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from agents.base import Trust
from agents.ssb.weights import BrightField, Floats, Integers, Singles
from agents.trust import frame_signal, poisson_residual, whiteness
from twin.aberrations import Aberrations, aberration_phase

PROBE_WIDTHS = 24.0
"""Window of the probe at least, in units of lambda / (2 alpha). Half of it cuts 1 % off an Airy pattern, a tenth of its
amplitude, and leaves 1.4 % of the signal of bright frames unexplained."""
LEAST_SAMPLES = 2
"""Along a camera pixel's side: it adds up intensities, and their interference is finer than a pixel."""
APERTURES = 7.0
"""Width of the computed diffraction plane in units of alpha."""
LEAST_COUNTS = 1.0
"""Expected in each residual of the test."""
MODEL = "exit waves of exp(i phase) under the aberrated probe, bright field"
FINER = 2
"""The phase is interpolated on a grid this much finer: the scan's own may be close to its Nyquist limit."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The beam on a grid along the microscope's axes.

    Attributes:
        wave: (n, n), its middle at n // 2; total intensity 1.
        offset_nm: of the grid's points from its middle, (n,).
        square: of every computed angle in `wave`'s transform, in its order; -1 for none, (n, n).
    """

    wave: NDArray[np.complex128]
    offset_nm: Floats
    square: Integers


class Sample:
    """Counts at a few positions, drawn beforehand: a bounded share of the data to compare a model with.

    Args:
        scan: rows and columns.
        count: positions at most.
        squares: of the disc.
        margin: positions from the scan's edge in which none is drawn, for the probe reaches outside.
    """

    def __init__(self, scan: tuple[int, int], count: int, squares: int, margin: int) -> None:
        rows, columns = scan
        inner = np.zeros(scan, bool)
        margin = min(margin, (min(scan) - 1) // 3)
        inner[margin : rows - margin, margin : columns - margin] = True
        there = np.flatnonzero(inner)
        drawn = np.sort(np.random.default_rng(0).permutation(there)[:count])
        self.pixel = np.stack(np.divmod(drawn, columns), axis=-1)
        self.counts = np.zeros((len(drawn), squares), np.float32)
        self.there = np.zeros(len(drawn), bool)
        self._slot = np.full(scan, -1, np.int32)
        self._slot[self.pixel[:, 0], self.pixel[:, 1]] = np.arange(len(drawn))

    def add(self, counts: Singles, pixel: NDArray[np.integer]) -> None:
        """Keep those that were drawn; counts (N, K), pixels (N, 2)."""
        slot = self._slot[pixel[:, 0], pixel[:, 1]]
        drawn = slot >= 0
        self.counts[slot[drawn]] = counts[drawn]
        self.there[slot[drawn]] = True


def probe(
    field: BrightField,
    centre_px: tuple[float, float],
    transposed: bool,
    aberrations: Aberrations,
    wavelength_nm: float,
    extent_nm: float,
) -> Probe:
    """The beam that the aperture and the aberrations make.

    Args:
        field: squares of the camera, for a camera that is not transposed.
        centre_px: (row, column) of zero angle.
        transposed: the camera's rows and columns are swapped.
        aberrations, wavelength_nm: as in `ssb.weights.trotters`.
        extent_nm: of the aberrated probe in geometric optics.
    """
    pixel_mrad = field.side_mrad / field.binning
    alpha = field.radius_mrad
    window_nm = max(PROBE_WIDTHS * wavelength_nm / (2e-3 * alpha), 1.5 * extent_nm)
    finer = max(LEAST_SAMPLES, math.ceil(pixel_mrad * 1e-3 * window_nm / wavelength_nm))
    interval = pixel_mrad / finer
    n = int(scipy.fft.next_fast_len(math.ceil(APERTURES * alpha / interval)))
    # Samples lie evenly inside camera pixels: off the transform's own grid by a fraction of an interval.
    row, column = centre_px
    start = [0.5 - 0.5 * finer - middle * finer for middle in (row, column)]
    begin = [math.ceil(-n / 2 - s) for s in start]
    angle_y, angle_x = ((np.arange(n) + b + s) * interval for b, s in zip(begin, start, strict=True))
    square = _squares_of((np.arange(n) + begin[0]) // finer, (np.arange(n) + begin[1]) // finer, field.label)
    if transposed:
        angle_x, angle_y, square = angle_y, angle_x, square.T
    x, y = np.meshgrid(angle_x, angle_y)
    inside = np.hypot(x, y) <= alpha
    chi = np.where(inside, aberration_phase(aberrations, x, y, wavelength_nm), 0.0)
    offset_nm: Floats = (np.arange(n) - n // 2) * np.float64(wavelength_nm / (n * interval * 1e-3))
    spectrum = inside / math.sqrt(inside.sum()) * np.exp(-1j * chi)
    # exp(2 pi i K r) for angles that begin at K0: a plain inverse transform and the ramp of K0, which no intensity
    # behind the object can tell; the half window only brings the middle to n // 2.
    turns = np.outer(np.arange(n), np.arange(n) - n // 2) / n
    to_space = np.exp(2j * np.pi * turns).T
    return Probe(to_space @ spectrum @ to_space.T / n, offset_nm, square)


def expected(
    phase: Floats, pixel: NDArray[np.integer], beam: Probe, step_nm: float, rotation_deg: float, squares: int
) -> Floats:
    """Share of the beam in every square at each position, (N, K).

    Args:
        phase: on the scan's grid, rad; nothing outside.
        pixel: (row, column) of the positions, (N, 2).
        beam: from `probe`.
        step_nm: of the scan.
        rotation_deg: turns the scan's fast axis from the microscope's +x towards its +y.
        squares: K.
    """
    fine = _upsampled(phase)
    angle = math.radians(rotation_deg)
    x, y = np.meshgrid(beam.offset_nm, beam.offset_nm)
    across = (math.cos(angle) * x + math.sin(angle) * y) / step_nm
    down = (math.cos(angle) * y - math.sin(angle) * x) / step_nm
    inside = beam.square >= 0
    out = np.zeros((len(pixel), squares))
    for i, (row, column) in enumerate(pixel.tolist()):
        where = np.stack([FINER * (row + down), FINER * (column + across)])
        patch = map_coordinates(fine, where, order=3, mode="constant", prefilter=False)
        pattern = np.abs(scipy.fft.fft2(beam.wave * np.exp(1j * patch))) ** 2 / beam.wave.size
        out[i] = np.bincount(beam.square[inside], pattern[inside], minlength=squares)
    return out


def verdict(counts: Singles, expected_share: Floats, field: BrightField, fitted_share: float) -> Trust | None:
    """The test of the residuals of counts, (N, K), against shares of the beam, (N, K), whose dose is fitted.

    Squares that the disc's edge cuts are left out. The others are joined until `LEAST_COUNTS` are expected.

    Args:
        fitted_share: parameters of the reconstruction for each residual that it was fitted to.
    """
    whole = np.flatnonzero(field.share > 1 - 1e-6)
    if not len(whole) or not expected_share[:, whole].any():
        return None
    scale = float(counts[:, whole].sum(dtype=np.float64)) / float(expected_share[:, whole].sum())
    middle = np.rint(field.middle_mrad[whole] / field.side_mrad - field.middle_mrad[whole[0]] / field.side_mrad)
    mean = scale * float(expected_share[:, whole].mean())
    joined = math.ceil(math.sqrt(LEAST_COUNTS / mean)) if mean > 0 else 1
    column, row = ((middle - middle.min(axis=0)) // joined).astype(int).T
    shape = (len(counts), int(row.max()) + 1, int(column.max()) + 1)
    measured, model = np.zeros((2, *shape))
    for k, square in enumerate(whole):
        measured[:, row[k], column[k]] += counts[:, square]
        model[:, row[k], column[k]] += scale * expected_share[:, square]
    return whiteness(
        poisson_residual(measured, model),
        MODEL,
        expected=model,
        axes=(1, 2),
        fitted=1 + fitted_share * counts.shape[0] * len(whole),
        signal=frame_signal(measured, model),
    )


def _squares_of(row: NDArray[np.integer], column: NDArray[np.integer], label: Integers) -> Integers:
    """Square under every pair of a camera row and column, which may lie beside the camera, (rows, columns)."""
    inside = ((row >= 0) & (row < label.shape[0]))[:, None] & ((column >= 0) & (column < label.shape[1]))
    rows, columns = np.clip(row, 0, label.shape[0] - 1), np.clip(column, 0, label.shape[1] - 1)
    return np.where(inside, label[np.ix_(rows, columns)], -1).astype(np.int32)


def _upsampled(phase: Floats) -> Floats:
    """Spline coefficients of the phase on a grid `FINER` times as fine, by its Fourier series."""
    from scipy.ndimage import spline_filter

    rows, columns = phase.shape
    spectrum = np.fft.fftshift(scipy.fft.fft2(phase))
    pad = [(FINER * n // 2 - n // 2, FINER * n - n - (FINER * n // 2 - n // 2)) for n in (rows, columns)]
    fine = scipy.fft.ifft2(np.fft.ifftshift(np.pad(spectrum, pad))).real * FINER**2
    return np.asarray(spline_filter(fine, order=3), np.float64)
