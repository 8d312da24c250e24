"""Finding columns in an image: their spacing from its autocorrelation, then maxima under a matched filter."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from agents.quantify.errors import QuantifyError
from twin.arrays import Floats

FEWEST = 4
"""Columns that a quantification needs: fewer tell neither their common width nor the shifts of lines."""
SMALLEST_SIDE = 16
SMALLEST_SPACING_PX = 3.0
APART, PEAK = 0.55, 0.28
"""Least distance of two columns, and radius within which one is highest, over the distance of neighbours; the smaller
one, for the slope of a strong column may be higher than a faint one."""
NARROW = 0.6
"""Width of the narrow filter over that of a column."""
WIDTH_OF_SPACING = 0.22
"""Width of a column over the distance of neighbours: that of the filter, which hardly matters."""
FAINTEST = 0.03
"""Height of the faintest column over that of the ninth decile, under the filter."""
SIGNIFICANT = 7.0
"""Least height over the standard deviation of the filtered noise, whose own maxima rise by 3 to 5 above their lowest
neighbours."""
SMOOTH_PX = (8.0, 16.0)
"""Widths of the Gaussians whose blur of the image is taken off first; a sixth of the image is tried last."""
LEAST_RING = 0.03
"""Least height of a ring of the autocorrelation over its middle, unless it stands out of its noise."""
REPEATS = 4.0
"""Least height of a ring of the autocorrelation over its noise."""


class Found(NamedTuple):
    """Columns found.

    Attributes:
        x_px, y_px: column and row of each, (N,), from the strongest on.
        height: under the filter, above the lowest place around, (N,).
        spacing_px: distance of neighbours.
        width_px: rough width of a column.
    """

    x_px: Floats
    y_px: Floats
    height: Floats
    spacing_px: float
    width_px: float


def checked_image(image: Floats) -> Floats:
    """The image as numbers.

    Raises:
        QuantifyError: no image of numbers, too small, a value that is not finite, or one that is the same everywhere.
    """
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise QuantifyError(f"an image has rows and columns of numbers, got shape {values.shape}, type {values.dtype}")
    if min(values.shape) < SMALLEST_SIDE:
        raise QuantifyError(f"the image has {values.shape} pixels; a side needs at least {SMALLEST_SIDE}")
    values = values.astype(np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise QuantifyError(
            f"{np.count_nonzero(wrong)} of {values.size} pixels are not finite, the first one in row {row},"
            f" column {column}: cut the image to where it is known"
        )
    if np.ptp(values) == 0:
        raise QuantifyError(f"every pixel of the image is {values.flat[0]:g}: there is nothing to find")
    return values


def spacing(image: Floats) -> float:
    """Distance of neighbouring columns, px: the radius of the first ring of the image's autocorrelation.

    Raises:
        QuantifyError: nothing in the image repeats.
    """
    for smooth_px in (*SMOOTH_PX, min(image.shape) / 6):
        found = _first_ring(image - ndimage.gaussian_filter(image, smooth_px))
        if found is not None:
            return found
    raise QuantifyError("nothing in the image repeats: no lattice of columns; give their distance as spacing_nm")


def _first_ring(flat: Floats) -> float | None:
    """Radius of the nearest strong maximum of the autocorrelation beside its middle, px; None without one."""
    rows, across = flat.shape
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(across + 2)[1:-1])
    padded = (2 * rows, 2 * across)
    spectrum = np.abs(np.fft.rfft2(flat * window, padded)) ** 2
    correlation = np.fft.fftshift(np.fft.irfft2(spectrum, padded))
    overlap = np.fft.fftshift(np.fft.irfft2(np.abs(np.fft.rfft2(window, padded)) ** 2, padded))
    far = min(flat.shape) // 2
    y, x = np.ogrid[-far : far + 1, -far : far + 1]
    near = (slice(rows - far, rows + far + 1), slice(across - far, across + far + 1))
    inner = ndimage.gaussian_filter((correlation / np.maximum(overlap, 1e-3 * overlap.max()))[near], 1.0)
    radius = np.hypot(x, y)
    noise = 1.5 * float(np.median(np.abs(inner[radius > 0.6 * far])))
    top = (inner == ndimage.maximum_filter(inner, 5)) & (radius >= SMALLEST_SPACING_PX) & (radius < 0.95 * far)
    places = top & (inner > 0)
    if not places.any():
        return None
    strongest = float(inner[places].max())
    if strongest < LEAST_RING * max(float(inner[far, far]), strongest) and strongest < REPEATS * noise:
        return None
    return float(radius[places & (inner > 0.4 * strongest)].min())


def find(image: Floats, spacing_px: float | None = None, least: int = FEWEST) -> Found:
    """Find the columns of an image.

    Args:
        image: (rows, columns), finite.
        spacing_px: distance of neighbours; None measures it.
        least: fewest columns that are enough.

    Raises:
        QuantifyError: nothing repeats, or too few columns stand out of the noise.

    Example:
        >>> y, x = np.mgrid[:48, :48]
        >>> found = find(np.cos(x * np.pi / 6) ** 2 * np.cos(y * np.pi / 6) ** 2)
        >>> round(found.spacing_px, 1)
        6.0
    """
    distance = spacing(image) if spacing_px is None else spacing_px
    width = max(WIDTH_OF_SPACING * distance, 1.0)
    smooth: Floats = ndimage.gaussian_filter(image, width, mode="nearest")
    place = _maxima(image, smooth, width, distance)
    if len(place) < least:
        found = "no column stands" if not len(place) else f"only {len(place)} of {least} columns needed stand"
        raise QuantifyError(f"{found} out of the noise at a distance of {distance:.1f} px: use a larger image or dose")
    height = (smooth - ndimage.minimum_filter(smooth, footprint=_disc(APART * distance)))[tuple(place.T)]
    finer = np.array([_vertex(smooth, int(r), int(c)) for r, c in place])
    return Found(finer[:, 1], finer[:, 0], height, distance, width)


def _disc(radius_px: float) -> NDArray[np.bool_]:
    """Pixels within a radius, odd in size."""
    reach = max(round(radius_px), 1)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(np.hypot(x, y) <= max(radius_px, 1.0))


def _maxima(image: Floats, smooth: Floats, width_px: float, distance: float) -> NDArray[np.int64]:
    """Places that stand out of the noise and apart, (N, 2), the most prominent first.

    Maxima of the image under a narrow filter, where a faint column among strong ones is one, and of the smooth image
    less a smoother one, where a thin column on the slope of a thick one is.
    """
    narrow_px, noise = max(NARROW * width_px, 1.0), _noise(image)
    narrow: Floats = ndimage.gaussian_filter(image, narrow_px, mode="nearest")
    steep = smooth - ndimage.gaussian_filter(smooth, math.sqrt(3) * width_px, mode="nearest")
    floor = ndimage.minimum_filter(narrow, footprint=_disc(APART * distance))
    places, heights = [], []
    for filtered, low, blur_px in ((narrow, floor, narrow_px), (steep, np.zeros_like(steep), width_px)):
        top = (filtered == ndimage.maximum_filter(filtered, footprint=_disc(PEAK * distance))) & (filtered > low)
        place, height = np.argwhere(top), (filtered - low)[top]
        bright = float(np.quantile(height, 0.9)) if len(height) else 1.0
        least = max(FAINTEST * bright, SIGNIFICANT * noise / (2 * blur_px * math.sqrt(math.pi)))
        places.append(place[height > least])
        heights.append(height[height > least] / bright)
    order = np.argsort(-np.concatenate(heights), kind="stable")
    return _apart(np.concatenate(places)[order], APART * distance)


def _apart(place: NDArray[np.int64], distance: float) -> NDArray[np.int64]:
    """Leave out places nearer than a distance to an earlier one."""
    from scipy.spatial import cKDTree

    kept = np.ones(len(place), np.bool_)
    if len(place):
        for first, second in sorted(cKDTree(place).query_pairs(distance)):
            kept[second] &= not kept[first]
    return place[kept]


def _noise(image: Floats) -> float:
    """Standard deviation of the pixel noise, from differences across the lines, which a slow detector leaves alone."""
    second = image[:-2] - 2 * image[1:-1] + image[2:]
    return float(np.sqrt(np.median(second**2) / 0.4549 / 6))


def _vertex(image: Floats, row: int, column: int) -> tuple[float, float]:
    """Maximum of the parabola through a pixel and its neighbours, (row, column)."""

    def offset(before: float, here: float, after: float) -> float:
        curvature = before - 2 * here + after
        return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature < 0 else 0.0

    rows, columns = image.shape
    down = offset(*image[row - 1 : row + 2, column]) if 0 < row < rows - 1 else 0.0
    across = offset(*image[row, column - 1 : column + 2]) if 0 < column < columns - 1 else 0.0
    return row + down, column + across


def beyond_edges(found: Found, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Where columns outside the image are to be expected: neighbours mirrored at the columns next to an edge, x and y.

    Their tails reach into the image; without them the outer columns would be drawn outwards.
    """
    from scipy.spatial import cKDTree

    places = np.stack([found.x_px, found.y_px], axis=1)
    size = np.array([shape[1], shape[0]], np.float64) - 1
    outer = np.flatnonzero(np.any((places < found.spacing_px) | (places > size - found.spacing_px), axis=1))
    tree = cKDTree(places)
    guesses = [
        2 * places[i] - places[j]
        for i in outer.tolist()
        for j in tree.query_ball_point(places[i], 1.6 * found.spacing_px)
        if j != i
    ]
    kept: list[Floats] = []
    reach = 3.0 * found.width_px
    for guess in guesses:
        outside = bool(np.any((guess < -0.5) | (guess > size + 0.5)))
        if outside and np.all(guess > -reach) and np.all(guess < size + reach):
            near = [other for other in kept if np.hypot(*(other - guess)) < 0.6 * found.spacing_px]
            if not near and tree.query(guess)[0] > 0.6 * found.spacing_px:
                kept.append(guess)
    ghosts = np.array(kept).reshape(-1, 2)
    return ghosts[:, 0], ghosts[:, 1]
