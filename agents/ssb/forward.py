"""Forward model of the test of residuals: bright-field patterns of a phase image, from exit waves of exp(i phi).

The full multiplicative object, not its first order: a strong phase must not appear as a misfit of the beam.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, minimum_filter, spline_filter

from agents.base import ResidualMap, Trust
from agents.ssb import image as ssb_image
from agents.ssb.decision import Decided
from agents.ssb.image import PhaseSpectrum
from agents.ssb.weights import BrightField, Integers, Singles
from agents.trust import frame_signal, poisson_residual, whiteness
from twin.aberrations import Aberrations, aberration_phase
from twin.arrays import Floats

PROBE_WIDTHS = 24.0
"""Smallest window of the probe, in units of lambda / (2 alpha). Half of it cuts 1 % off an Airy pattern, a tenth of its
amplitude, and leaves 1.4 % of the signal of bright frames unexplained."""
LEAST_SAMPLES = 2
"""Along the side of a camera pixel: it integrates the intensity, whose interference is finer than a pixel."""
APERTURES = 7.0
"""Width of the computed diffraction plane, in units of alpha."""
LEAST_COUNTS = 1.0
"""Expected counts of each residual of the test."""
MODEL = "exit waves of exp(i phase) under the aberrated probe, bright field"
FINER = 2
"""Factor by which the phase is upsampled before spline interpolation: it may be close to the Nyquist limit."""


@dataclass(frozen=True, eq=False)
class Probe:
    """The probe on a grid along the axes of the microscope.

    Attributes:
        wave: (n, n), centred at n // 2; total intensity 1.
        offset_nm: grid points, from the centre, (n,).
        square: square of the disc at every angle of the transform of `wave`, in its order; -1 for none, (n, n).
    """

    wave: NDArray[np.complex128]
    offset_nm: Floats
    square: Integers


class Sample:
    """Counts at a few positions, drawn beforehand, to compare a model with.

    Args:
        scan: rows and columns.
        count: largest number of positions.
        squares: number of squares of the disc.
        margin: distance from the edge of the scan, in steps, within which the probe extends beyond it: none is drawn.
    """

    def __init__(self, scan: tuple[int, int], count: int, squares: int, margin: int) -> None:
        rows, columns = scan
        inner = np.zeros(scan, bool)
        margin = min(margin, (min(scan) - 1) // 3)
        inner[margin : rows - margin, margin : columns - margin] = True
        drawn = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(inner))[:count])
        self.pixel = np.stack(np.divmod(drawn, columns), axis=-1)
        self.counts = np.zeros((len(drawn), squares), np.float32)
        self.visited = np.zeros(len(drawn), bool)
        self._slot = np.full(scan, -1, np.int32)
        self._slot[self.pixel[:, 0], self.pixel[:, 1]] = np.arange(len(drawn))

    def add(self, counts: Singles, pixel: NDArray[np.integer]) -> None:
        """Keep the counts (N, K) of the drawn positions among (row, column), (N, 2)."""
        slot = self._slot[pixel[:, 0], pixel[:, 1]]
        drawn = slot >= 0
        self.counts[slot[drawn]] = counts[drawn]
        self.visited[slot[drawn]] = True


def probe(
    field: BrightField,
    centre_px: tuple[float, float],
    transposed: bool,
    aberrations: Aberrations,
    wavelength_nm: float,
    extent_nm: float,
) -> Probe:
    """Compute the probe from aperture and aberrations.

    Args:
        field: squares of the disc of a camera that is not transposed.
        centre_px: (row, column) of zero angle.
        transposed: the camera's rows and columns are swapped.
        aberrations, wavelength_nm: as in `ssb.weights.trotters`.
        extent_nm: diameter of the aberrated probe in geometric optics.
    """
    pixel_mrad = field.side_mrad / field.binning
    alpha = field.radius_mrad
    window_nm = max(PROBE_WIDTHS * wavelength_nm / (2e-3 * alpha), 1.5 * extent_nm)
    finer = max(LEAST_SAMPLES, math.ceil(pixel_mrad * 1e-3 * window_nm / wavelength_nm))
    interval = pixel_mrad / finer
    n = int(scipy.fft.next_fast_len(math.ceil(APERTURES * alpha / interval)))
    # Samples are spaced evenly inside camera pixels: shifted from the grid of the transform by a fraction of a step.
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
    # exp(2 pi i K r) for angles that begin at K0: a plain inverse transform, but for a phase ramp that no intensity
    # behind the object depends on; the half window shifts the centre to n // 2.
    turns = np.outer(np.arange(n), np.arange(n) - n // 2) / n
    to_space = np.exp(2j * np.pi * turns).T
    return Probe(to_space @ spectrum @ to_space.T / n, offset_nm, square)


def expected(
    phase: Floats, pixel: NDArray[np.integer], beam: Probe, step_nm: float, rotation_deg: float, squares: int
) -> Floats:
    """Fraction of the beam in every square at each position, (N, K).

    Args:
        phase: on the grid of the scan, rad; zero outside.
        pixel: (row, column) of the positions, (N, 2).
        beam: from `probe`.
        step_nm: scan step.
        rotation_deg: angle from the microscope's +x to the scan's fast axis, towards +y.
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


def trust(
    decided: Decided, spectrum: PhaseSpectrum, sample: Sample, visited: NDArray[np.bool_], density: Floats
) -> Trust | None:
    """Test the residuals at the positions of the sample whose surroundings have been visited.

    Args:
        decided: sums and orientation.
        spectrum: phase of all positions so far.
        sample: counts to compare the model with.
        visited: positions so far, (rows, columns).
        density: see `ssb.image.density`.

    Returns:
        The test, or None if no position can be tested or the aberrations were changed.
    """
    experiment, disc, aberrations = decided.setup.experiment, decided.setup.disc, decided.setup.aberrations
    surrounded = minimum_filter(visited, 2 * experiment.probe_reach_steps(aberrations) + 1)
    use = sample.visited & surrounded[sample.pixel[:, 0], sample.pixel[:, 1]]
    if decided.earlier is not None or not use.any():
        return None
    # The model is not linear: it would take noise in the phase for phase, so that the Wiener filter removes it.
    factor = ssb_image.wiener(spectrum)
    phase = ssb_image.image(factor * spectrum.phase, experiment.scan) / density
    # The centre is measured from the mean pattern: the test is sensitive to a fraction of a pixel.
    x_mrad, y_mrad = ssb_image.off_centre(decided.sums.pattern, disc)
    row, column = experiment.centre_px
    beam = probe(
        disc,
        (row + y_mrad / experiment.pixel_mrad, column + x_mrad / experiment.pixel_mrad),
        decided.orientation.transposed,
        aberrations,
        experiment.wavelength_nm,
        experiment.probe_extent_nm(aberrations),
    )
    fraction = expected(phase, sample.pixel[use], beam, experiment.step_nm, decided.orientation.rotation_deg, len(disc))
    return verdict(sample.counts[use], fraction, disc, fitted=float(factor.mean()) / len(disc))


def verdict(counts: Singles, expected_fraction: Floats, field: BrightField, fitted: float) -> Trust | None:
    """Test the residuals of counts, (N, K), against fractions of the beam, (N, K); the dose is fitted.

    Squares cut by the edge of the disc are left out. The others are joined until `LEAST_COUNTS` are expected.

    Args:
        counts: y.
        expected_fraction: from `expected`.
        field: squares of the disc.
        fitted: number of parameters of the reconstruction per residual that it was fitted to.
    """
    whole = np.flatnonzero(field.share > 1 - 1e-6)
    if not len(whole) or not expected_fraction[:, whole].any():
        return None
    scale = float(counts[:, whole].sum(dtype=np.float64)) / float(expected_fraction[:, whole].sum())
    middle = np.rint(field.middle_mrad[whole] / field.side_mrad - field.middle_mrad[whole[0]] / field.side_mrad)
    mean = scale * float(expected_fraction[:, whole].mean())
    joined = math.ceil(math.sqrt(LEAST_COUNTS / mean)) if mean > 0 else 1
    column, row = ((middle - middle.min(axis=0)) // joined).astype(int).T
    shape = (len(counts), int(row.max()) + 1, int(column.max()) + 1)
    measured, model = np.zeros((2, *shape))
    for k, square in enumerate(whole):
        measured[:, row[k], column[k]] += counts[:, square]
        model[:, row[k], column[k]] += scale * expected_fraction[:, square]
    residual = poisson_residual(measured, model)
    trust = whiteness(
        residual,
        MODEL,
        expected=model,
        axes=(1, 2),
        fitted=1 + fitted * counts.shape[0] * len(whole),
        signal=frame_signal(measured, model),
    )
    shown = np.where(np.isfinite(residual).all(axis=0), residual.sum(axis=0) / math.sqrt(len(residual)), np.nan)
    return None if trust is None else replace(trust, residual=ResidualMap(shown, "camera"))


def _squares_of(row: NDArray[np.integer], column: NDArray[np.integer], label: Integers) -> Integers:
    """Square at every pair of a camera row and column, (rows, columns); -1 outside the camera."""
    inside = ((row >= 0) & (row < label.shape[0]))[:, None] & ((column >= 0) & (column < label.shape[1]))
    rows, columns = np.clip(row, 0, label.shape[0] - 1), np.clip(column, 0, label.shape[1] - 1)
    return np.where(inside, label[np.ix_(rows, columns)], -1).astype(np.int32)


def _upsampled(phase: Floats) -> Floats:
    """Upsample the phase `FINER` times by its Fourier series; return the spline coefficients."""
    rows, columns = phase.shape
    spectrum = np.fft.fftshift(scipy.fft.fft2(phase))
    pad = [(FINER * n // 2 - n // 2, FINER * n - n - (FINER * n // 2 - n // 2)) for n in (rows, columns)]
    fine = scipy.fft.ifft2(np.fft.ifftshift(np.pad(spectrum, pad))).real * FINER**2
    return np.asarray(spline_filter(fine, order=3), np.float64)
