"""What a camera adds to a Ronchigram, taken out before the spectrum: spots, rows, shadows on the aperture, slopes.

Each function returns its argument itself where it finds nothing, so that a clean frame keeps its bytes.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.canonical.disc import Disc
from controller.preprocess import hann_window, remove_defects
from twin.arrays import Array

DARKEST, BELOW = 5, 0.1
"""Percentile of the darkest parts of a frame, and how far they may lie below zero, over the range of the counts."""

SPOT, SPOT_NEIGHBOURHOOD_PX, LARGEST_SPOT_PX = 2.0, 13, 60
"""Ratio of a spot to the bright pixels of its neighbourhood, side of that, and the most pixels of one spot."""
SPOT_SIGMA = 8.0
"""Least height of a spot above these, in standard deviations of shot noise."""

LINES_BESIDE = 9
"""Lines that a stuck one is compared with."""

STRIPED = 4.0
"""Power of a row pattern at high frequency, over its neighbours', from which rows are levelled."""
STRIPES_FROM = 4
"""Lowest frequency of a row pattern that is levelled: below lies the disc."""

SHADOW, SHADOW_SMOOTHING, SMALLEST_SHADOW = 0.5, 1 / 40, 0.004
"""Fraction of the lit level below which a part of the disc is in shadow, smoothing over the side, least area."""

UNEVEN = 0.4
"""Range of the illumination inside the disc, over its mean, above which it is levelled. Training days reach 0.3."""


def not_below_dark(counts: Array) -> Array:
    """Raise counts above the dark level, (H, W), whose darkest parts lie clearly below zero: it was stated too high.

    Example:
        >>> too_dark = np.full((8, 8), -40.0)
        >>> too_dark[:4] = 60.0
        >>> not_below_dark(too_dark)[:, 0].round().tolist()
        [100.0, 100.0, 100.0, 100.0, -0.0, -0.0, -0.0, -0.0]
    """
    if np.percentile(counts, DARKEST) >= 0:
        return counts
    darkest, bright = np.percentile(ndimage.gaussian_filter(remove_defects(counts), 1), (DARKEST, 90))
    return counts - darkest if darkest < -BELOW * (bright - darkest) else counts


def without_spots(counts: Array) -> Array:
    """Replace bright clusters (cosmic rays, hot pixels side by side) by the median of their surroundings, (H, W).

    A spot exceeds twice the ninth decile of its neighbourhood, which the edge of the disc does not. Single pixels are
    left to `preprocess.remove_defects`.
    """
    single = remove_defects(counts)
    level = max(float(np.percentile(single, 75)), 0.0)
    bright = single > SPOT * level + SPOT_SIGMA * np.sqrt(level + 4.0)
    faint = single > SPOT_SIGMA * np.sqrt(4.0) + SPOT * ndimage.uniform_filter(np.maximum(single, 0.0), 5)
    candidates = bright | faint
    if not candidates.any():
        return counts
    spots = np.zeros_like(candidates)
    for row, column in zip(*np.nonzero(candidates), strict=True):
        near = _around(single, row, column)
        decile = max(float(np.percentile(near, 90)), 0.0)
        spots[row, column] = single[row, column] > SPOT * decile + SPOT_SIGMA * np.sqrt(decile + 4.0)
    labels, count = ndimage.label(spots, np.ones((3, 3)))
    sizes = ndimage.sum_labels(spots, labels, np.arange(1, count + 1))
    chosen = np.isin(labels, 1 + np.flatnonzero(sizes <= LARGEST_SPOT_PX))
    if not chosen.any():
        return counts
    return _filled(counts, ndimage.binary_dilation(chosen, np.ones((3, 3)), 2))


def _around(counts: Array, row: int, column: int) -> Array:
    half = SPOT_NEIGHBOURHOOD_PX // 2
    return counts[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1]


def _filled(counts: Array, mask: NDArray[np.bool_]) -> Array:
    """Replace the pixels of a mask by the median of the others around each."""
    result, known = counts.copy(), np.where(mask, np.nan, counts)
    for row, column in zip(*np.nonzero(mask), strict=True):
        near = _around(known, row, column)
        if np.isfinite(near).any():
            result[row, column] = np.nanmedian(near)
    return result


def without_bright_lines(counts: Array) -> Array:
    """Replace rows and columns that are stuck at a bright level by the median of their surroundings, (H, W).

    Such a line exceeds twice the lines beside it in its median; what noise or film adds to a line is far less.

    Example:
        >>> stuck = np.ones((16, 16))
        >>> stuck[5] = 255.0
        >>> float(without_bright_lines(stuck).max())
        1.0
    """
    rows, columns = _bright_rows(counts), _bright_rows(counts.T)
    if not (rows.any() or columns.any()):
        return counts
    return _filled(counts, rows[:, None] | columns[None, :])


def _bright_rows(counts: Array) -> NDArray[np.bool_]:
    width = counts.shape[1]
    level = np.median(counts[:, width // 4 : -(width // 4)], axis=1)
    near = np.maximum(ndimage.median_filter(level, LINES_BESIDE, mode="nearest"), 0.0)
    return np.asarray(level > SPOT * near + SPOT_SIGMA * np.sqrt(near + 4.0))


def without_stripes(counts: Array) -> Array:
    """Level rows, and then columns, that have an offset of their own (row noise, lines), (H, W)."""
    levelled = _without_rows(counts)
    turned = levelled.T
    again = _without_rows(turned)
    return levelled if again is turned else again.T


def _without_rows(counts: Array) -> Array:
    """Bring the power of the pattern that is constant along the rows down to that of its neighbours in frequency."""
    height, width = counts.shape
    across, along = hann_window(height)[:, height // 2], hann_window(width)[width // 2]
    windowed = across[:, None] * remove_defects(counts)
    lines = np.arange(width)
    tones = np.exp(-2j * np.pi * np.outer((0, 3, -3, 4, -4), lines) / width) * along
    profile = np.fft.fft(windowed @ tones.T, axis=0)
    own, near = np.abs(profile[:, 0]) ** 2, np.mean(np.abs(profile[:, 1:]) ** 2, axis=1)
    frequency = np.abs(np.fft.fftfreq(height, 1 / height))
    high = frequency > 0.6 * height / 2
    if np.mean(own[high]) < STRIPED * np.mean(near[high]):
        return counts
    smooth = [ndimage.uniform_filter1d(power, 5, mode="wrap") for power in (own, near)]
    keep = np.sqrt(np.clip(smooth[1] / np.maximum(smooth[0], 1e-12), 0.0, 1.0))
    keep[frequency < STRIPES_FROM] = 1.0
    offset = np.fft.ifft(profile[:, 0] * (1.0 - keep)).real / along.sum()
    # The window fades towards the first and the last rows, where it would amplify noise.
    return counts - (offset / np.maximum(across, 0.2))[:, None]


def without_shadow(counts: Array, disc: Disc, rng: np.random.Generator) -> tuple[Array, float]:
    """Fill what is obscured inside the disc (a flake on the aperture) with its mean level; return the fraction, too.

    The dark part's edge, sharp and the same in every frame, otherwise covers the film in the spectrum.
    """
    height, width = counts.shape
    x = np.arange(width)[None, :] + 0.5 - disc.centre_px[0]
    y = np.arange(height)[:, None] + 0.5 - disc.centre_px[1]
    inside = np.hypot(x, y) < 0.97 * disc.radius_px
    sigma = SHADOW_SMOOTHING * max(height, width) / 2
    weight = ndimage.gaussian_filter(inside.astype(float), sigma)
    smooth = ndimage.gaussian_filter(np.where(inside, remove_defects(counts), 0.0), sigma) / np.maximum(weight, 1e-3)
    dark = inside & (smooth < SHADOW * disc.level)
    share = float(dark.sum() / inside.sum())
    if share < SMALLEST_SHADOW:
        return counts, 0.0
    obscured = ndimage.binary_dilation(dark, iterations=3) & (np.hypot(x, y) < 1.02 * disc.radius_px)
    lit = inside & ~obscured
    if not lit.any():
        return counts, share
    level = max(float(np.mean(counts[lit])), 1.0)
    return np.where(obscured, rng.poisson(level, counts.shape), counts), share


def level_illumination(counts: Array, disc: Disc) -> Array:
    """Divide by the illumination inside the disc, a surface of second degree, where it is too uneven, (H, W)."""
    height, width = counts.shape
    x, y = np.meshgrid(np.arange(width) + 0.5 - disc.centre_px[0], np.arange(height) + 0.5 - disc.centre_px[1])
    x, y = x / disc.radius_px, y / disc.radius_px
    inside = np.hypot(x, y) < 0.93
    inside[1::2] = inside[:, 1::2] = False  # every fourth pixel is enough for six parameters
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    design, values = terms[:, inside].T, remove_defects(counts)[inside]
    weight, solution = np.ones(len(values)), np.zeros(6)
    for _ in range(3):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(design * root[:, None], root * values, rcond=None)[0]
        residual = values - design @ solution
        weight = 1.0 / (1.0 + (residual / (3.0 * np.median(np.abs(residual)) + 1e-9)) ** 2)
    surface = design @ solution
    mean = float(surface.mean())
    if not mean > 0 or np.ptp(surface) < UNEVEN * mean:
        return counts
    whole = np.clip(np.tensordot(solution, terms, axes=1), float(surface.min()), float(surface.max()))
    return counts * (mean / np.maximum(whole, 0.1 * mean))
