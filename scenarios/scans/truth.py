"""Accuracy of a reconstruction: the true phase, the correlation with it, and the resolution.

The true phase comes from the specimen's atoms; only a simulated scan has one.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft, ndimage

from twin.arrays import Floats
from twin.scan.plan import path

if TYPE_CHECKING:
    from twin.optics import Optics
    from twin.scan.acquisition import Acquisition
    from twin.scan.plan import ScanPlan


EDGE = 0.1
"""Share of the band limit over which the true phase fades out, so that atoms have no rings around them."""
SPLINE_ORDER = 5
THRESHOLD = 1 / 7
"""Correlation of two half-dose images at the resolution limit (Rosenthal and Henderson 2003: 0.143)."""
TRUE_THRESHOLD = 0.5
"""Correlation with the truth at which two half-dose images have `THRESHOLD`: the root of 2 c / (1 + c)."""


def aperture_limit_per_nm(optics: "Optics") -> float:
    """Return the finest detail that a focused probe transfers, 2 alpha / lambda, periods per nm."""
    return 2e-3 * optics.convergence_mrad / optics.wavelength_nm


def true_phase(acquisition: "Acquisition", plan: "ScanPlan", sharpness: float = 1.0) -> Floats:
    """Return the projected phase of the specimen at the intended positions, rad, in the shape of the scan.

    Band-limited to `aperture_limit_per_nm`, with a cosine edge: a focused probe of that aperture transfers no more.
    Iterative ptychography can go beyond, by the dark field; compare it at a larger `sharpness`. The mean is arbitrary,
    as that of any reconstruction. Thermal snapshots are averaged. Drift and jitter do not move it, so that an image
    that they distort correlates less. NaN at positions that the scan leaves out.

    Args:
        acquisition: gives specimen and beam.
        plan: placed or not; see `Acquisition.placed`.
        sharpness: the band limit over that of the aperture.
    """
    from twin.scan.transmission import projected_phase

    setup, plan = acquisition.setup, acquisition.placed(plan)
    optics = setup.optics
    phase, corner_nm = projected_phase(
        acquisition.structure, optics, snapshots=setup.snapshots, seed=setup.specimen_seed
    )
    smooth = low_pass(phase, optics.sampling_nm, sharpness * aperture_limit_per_nm(optics))
    visited = path(plan, 0, plan.count)
    x, y = ((visited.intended_nm - corner_nm) / optics.sampling_nm).T
    image = np.full(plan.shape, np.nan)
    row, column = visited.pixel.T
    image[row, column] = ndimage.map_coordinates(smooth, (y, x), order=SPLINE_ORDER, mode="grid-wrap")
    return image


def low_pass(image: Floats, sampling_nm: float, limit_per_nm: float) -> Floats:
    """Remove frequencies above the limit, with a cosine edge over its last `EDGE`; (rows, columns), cyclic."""
    ky = fft.fftfreq(image.shape[0], sampling_nm)[:, None]
    kx = fft.rfftfreq(image.shape[1], sampling_nm)[None, :]
    inside = np.clip((limit_per_nm - np.hypot(ky, kx)) / (EDGE * limit_per_nm), 0.0, 1.0)
    return fft.irfft2(fft.rfft2(image) * np.sin(np.pi / 2 * inside) ** 2, s=image.shape)


def cross_correlation(image: Floats, truth: Floats) -> float:
    """Return the normalised cross-correlation (Friedrich 2023, eq 4.14) over pixels finite in both; -1 to 1.

    NaN for fewer than two such pixels, or a constant image.

    Raises:
        ValueError: different shapes.
    """
    if image.shape != truth.shape:
        raise ValueError(f"images of one shape are compared; got {image.shape} and {truth.shape}")
    known = np.isfinite(image) & np.isfinite(truth)
    if known.sum() < 2:
        return math.nan
    a, b = image[known] - image[known].mean(), truth[known] - truth[known].mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def ring_correlation(first: Floats, second: Floats, step_nm: float) -> tuple[Floats, Floats]:
    """Return the Fourier ring correlation (Saxton and Baumeister 1982, eq 3) of two images, under a Hann window.

    Returns:
        Frequency of each ring, periods per nm, and the correlation, both (R,). The rings are one frequency of the
        shorter side wide, from the first to the last whole one below the step's limit.

    Raises:
        ValueError: different shapes, or pixels that are not known.
    """
    if first.shape != second.shape:
        raise ValueError(f"images of one shape are compared; got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a ring correlation takes whole images; some pixels are not known")
    rows, columns = first.shape
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    a, b = (fft.fft2(window * (image - np.average(image, weights=window))) for image in (first, second))
    width = 1 / (min(rows, columns) * step_nm)
    radius = np.hypot(fft.fftfreq(rows, step_nm)[:, None], fft.fftfreq(columns, step_nm)[None, :])
    ring = np.rint(radius / width).astype(np.int64).ravel()
    last = min(rows, columns) // 2

    def summed(values: Floats) -> Floats:
        return np.asarray(np.bincount(ring, weights=values.ravel())[1 : last + 1], np.float64)

    both = summed((a * b.conj()).real)
    power = np.sqrt(summed(np.abs(a) ** 2) * summed(np.abs(b) ** 2))
    return np.arange(1, last + 1) * width, both / np.maximum(power, np.finfo(float).tiny)


def information_limit_nm(frequency_per_nm: Floats, correlation: Floats, threshold: float = THRESHOLD) -> float:
    """Return the period of the finest ring that two half-dose images share: the last above the threshold and noise.

    The last one, not the first to fall below, because a crystal fills few rings. The noise limit is three standard
    deviations of the correlation of noise: one over the root of the 2 pi r frequencies of ring r, fewer under a Hann
    window. NaN if no ring is above both.

    Args:
        frequency_per_nm, correlation: from `ring_correlation`, (R,).
        threshold: of the correlation; `TRUE_THRESHOLD` where one of the images is the truth.
    """
    independent = 2 * np.pi * np.arange(1, len(correlation) + 1) / HANN_AREA
    shared = correlation > np.maximum(threshold, 3 / np.sqrt(independent))
    # The first rings hold the window itself.
    shared[:LEAST_RING] = False
    return float(1.0 / frequency_per_nm[np.flatnonzero(shared)[-1]]) if shared.any() else math.nan


HANN_AREA = 2.25
"""Frequencies that share one piece of information under a Hann window in two dimensions, (3/2) squared."""
LEAST_RING = 2
