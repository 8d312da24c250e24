"""Compiled loops of the cameras, from expected electrons to the pixels that they fire.

All in this one file: numba's cache checks the file of the called function only and would miss a change elsewhere.
Frames are drawn one after the other, so that a stack consumes the generator equally in one piece and in several.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

LARGEST_MEAN = 1e15
"""Largest mean number of electrons per pixel: far beyond any camera, within every integer type used here."""

WALK_BELOW = 12.0
"""Mean count above which a pixel's Poisson variate is drawn directly, which is then faster than single arrivals."""

_STEPS, _END = 512, 8
_NORMAL = ndtr(np.arange(-_END * _STEPS, _END * _STEPS + 2) / _STEPS)
"""Normal distribution function between +-8: linear interpolation is accurate to 1.2e-7."""


class Counters(NamedTuple):
    """The counters of a camera's pixels during one exposure.

    Attributes:
        dead_share: dead time as a fraction of the exposure.
        paralyzable: whether a hit within the dead time extends it.
        largest: count at which they stop.
    """

    dead_share: float
    paralyzable: bool
    largest: int


@numba.njit(cache=True)
def count_arrivals(
    expected_e: NDArray[np.floating], counters: Counters, counts: NDArray[np.integer], rng: np.random.Generator
) -> int:
    """Counts of `arrivals.draw_counts`; returns the flat index of a refused mean, or -1.

    All pixels form one line with a Poisson process of unit rate: the arrivals within the interval of length lambda
    that belongs to a pixel are Poisson distributed with mean lambda, independent of all others, and uniform in it. So
    one exponential step per electron is exact, empty pixels cost a subtraction, and the position within the interval
    is the time within the exposure, which determines the dead time.
    """
    for n in range(expected_e.shape[0]):
        step = rng.standard_exponential()  # to the next arrival, from the start of the pixel's interval
        for p in range(expected_e.shape[1]):
            mean = float(expected_e[n, p])
            if not (0.0 <= mean <= LARGEST_MEAN):
                return n * expected_e.shape[1] + p
            hits = 0
            if mean >= WALK_BELOW and counters.dead_share == 0.0:
                hits = rng.poisson(mean)  # the process has no memory: `step` serves the next pixel
            elif step >= mean:
                step -= mean
            else:
                window, last = counters.dead_share * mean, -math.inf
                while step < mean:
                    awake = step - last >= window
                    if awake:
                        hits += 1
                    if awake or counters.paralyzable:
                        last = step
                    step += rng.standard_exponential()
                step -= mean
            counts[n, p] = min(hits, counters.largest)
    return -1


@numba.njit(cache=True)
def cumulate(expected_e: NDArray[np.floating], cumulative: NDArray[np.float64], guide: NDArray[np.int64]) -> int:
    """Cumulative sum over one frame's pixels and a guide table into it; returns the index of a refused mean, or -1.

    Args:
        expected_e: mean per pixel, (P,).
        cumulative: result, (P,).
        guide: result, (P,): the pixel in which the k-th of P equal parts of the sum begins.
    """
    total, pixels = 0.0, len(expected_e)
    for p in range(pixels):
        mean = float(expected_e[p])
        if not (0.0 <= mean <= LARGEST_MEAN):
            return p
        total += mean
        cumulative[p] = total
    pixel = 0
    for k in range(pixels):
        while pixel < pixels - 1 and cumulative[pixel] <= k * (total / pixels):
            pixel += 1
        guide[k] = pixel
    return -1


@numba.njit(cache=True)
def draw_pixel(cumulative: NDArray[np.float64], guide: NDArray[np.int64], rng: np.random.Generator) -> int:
    """Draw a pixel with probability proportional to its mean, by inverting the cumulative sum.

    The guide table leaves one or two pixels to compare (Chen and Asau 1974).
    """
    pixels = len(cumulative)
    total = cumulative[pixels - 1]
    while True:
        place = rng.random() * total
        if place < total:  # rounding can reach the end
            break
    # One part early: rounding must not skip a pixel.
    pixel = guide[max(int(place / total * pixels) - 1, 0)]
    while cumulative[pixel] <= place:
        pixel += 1
    return pixel


@numba.njit(cache=True)
def later(time: float, remaining: int, rng: np.random.Generator) -> float:
    """The earliest of `remaining` uniform times in (time, 1): yields sorted times without storing them."""
    return 1.0 - (1.0 - time) * math.exp(-rng.standard_exponential() / remaining)


@numba.njit(cache=True)
def divide(place: float, spread_px: float, reach: int, shares: NDArray[np.float64]) -> None:
    """Charge fractions of pixels -reach to reach along one axis, (2 reach + 1,); `place` in [0, 1) is in pixel 0."""
    if reach == 0:
        shares[0] = 1.0  # reach is zero only without spread
        return
    scale = _STEPS / spread_px
    below = 0.0
    for k in range(2 * reach + 2):
        position = (k - reach - place) * scale + _END * _STEPS
        position = min(max(position, 0.0), 2.0 * _END * _STEPS)
        cell = int(position)
        above = _NORMAL[cell] + (position - cell) * (_NORMAL[cell + 1] - _NORMAL[cell])
        if k > 0:
            shares[k - 1] = above - below
        below = above


@numba.njit(cache=True)
def pixels_above(
    row: int,
    column: int,
    shape: tuple[int, int],
    cloud: tuple[float, int, float],
    along_y: NDArray[np.float64],
    along_x: NDArray[np.float64],
    hits: NDArray[np.int64],
) -> int:
    """Write the flat indices of the pixels above the threshold into `hits`; return their number."""
    reach, count = cloud[1], 0
    for i in range(2 * reach + 1):
        y = row + i - reach
        if y < 0 or y >= shape[0] or along_y[i] < cloud[2]:
            continue
        for j in range(2 * reach + 1):
            x = column + j - reach
            if 0 <= x < shape[1] and along_y[i] * along_x[j] >= cloud[2]:
                hits[count] = y * shape[1] + x
                count += 1
    return count


@numba.njit(cache=True)
def count_places(
    x_px: NDArray[np.float64],
    y_px: NDArray[np.float64],
    shape: tuple[int, int],
    cloud: tuple[float, int, float],
    counts: NDArray[np.int64],
) -> None:
    """Add the counts of electrons at known positions, (n,), to `counts`, (H W,)."""
    along_x, along_y = np.empty(2 * cloud[1] + 1), np.empty(2 * cloud[1] + 1)
    hits = np.empty((2 * cloud[1] + 1) ** 2, np.int64)
    for i in range(len(x_px)):
        column, row = int(x_px[i]), int(y_px[i])
        divide(x_px[i] - column, cloud[0], cloud[1], along_x)
        divide(y_px[i] - row, cloud[0], cloud[1], along_y)
        for h in range(pixels_above(row, column, shape, cloud, along_y, along_x, hits)):
            counts[hits[h]] += 1


@numba.njit(cache=True)
def count_shared(
    expected_e: NDArray[np.floating],
    shape: tuple[int, int],
    cloud: tuple[float, int, float],
    counters: Counters,
    counts: NDArray[np.integer],
    rng: np.random.Generator,
) -> int:
    """Counts with charge sharing, electron by electron in order of time; flat index of a refused mean, or -1."""
    pixels = expected_e.shape[1]
    cumulative, guide, last = np.empty(pixels), np.empty(pixels, np.int64), np.empty(pixels)
    along_x, along_y = np.empty(2 * cloud[1] + 1), np.empty(2 * cloud[1] + 1)
    hits = np.empty((2 * cloud[1] + 1) ** 2, np.int64)
    for n in range(expected_e.shape[0]):
        refused = cumulate(expected_e[n], cumulative, guide)
        if refused >= 0:
            return n * pixels + refused
        counts[n] = 0
        last[:] = -math.inf
        time, electrons = 0.0, rng.poisson(cumulative[pixels - 1])
        for remaining in range(electrons, 0, -1):
            time = later(time, remaining, rng)
            pixel = draw_pixel(cumulative, guide, rng)
            divide(rng.random(), cloud[0], cloud[1], along_x)
            divide(rng.random(), cloud[0], cloud[1], along_y)
            for h in range(pixels_above(pixel // shape[1], pixel % shape[1], shape, cloud, along_y, along_x, hits)):
                q = hits[h]
                awake = time - last[q] >= counters.dead_share
                if awake and counts[n, q] < counters.largest:
                    counts[n, q] += 1
                if awake or counters.paralyzable:
                    last[q] = time
    return -1


@numba.njit(cache=True)
def draw_electrons(
    expected_e: NDArray[np.floating], width: int, deposit: tuple[float, float, float], rng: np.random.Generator
) -> tuple[int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Draw the electrons of one frame in order of time.

    Args:
        expected_e: mean per pixel, (P,).
        width: pixels per row.
        deposit: most probable deposit, Moyal width and largest deposit, keV.
        rng: consumed equally for every deposit.

    Returns:
        Index of a refused mean or -1; times as fractions of the exposure, (n,); deposits, keV, (n,); (x, y), (n, 2).
    """
    cumulative, guide = np.empty(len(expected_e)), np.empty(len(expected_e), np.int64)
    refused = cumulate(expected_e, cumulative, guide)
    count = rng.poisson(cumulative[-1]) if refused < 0 else 0
    times, deposits, places = np.empty(count), np.empty(count), np.empty((count, 2))
    time = 0.0
    for i in range(count):
        time = later(time, count - i, rng)
        pixel = draw_pixel(cumulative, guide, rng)
        times[i] = time
        places[i, 0] = pixel % width + rng.random()
        places[i, 1] = pixel // width + rng.random()
        # Minus the logarithm of a chi-squared variate of one degree of freedom follows Moyal's distribution.
        moyal = -2.0 * math.log(max(abs(rng.standard_normal()), 1e-300))
        deposits[i] = min(max(deposit[0] + deposit[1] * moyal, 0.0), deposit[2])
    return refused, times, deposits, places


@numba.njit(cache=True)
def fire(
    times_ns: NDArray[np.float64],
    deposits_kev: NDArray[np.float64],
    places: NDArray[np.float64],
    shape: tuple[int, int],
    cloud: tuple[float, int, float],
    clock: tuple[float, int, float, float],
    dead: NDArray[np.bool_],
    busy_ns: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels that electrons fire: times, ns; flat indices; times over threshold, ticks; all (m,), by electron.

    Args:
        times_ns, deposits_kev, places: time, deposit and position (x, y) of the electrons, (n,), (n,), (n, 2), in order
            of time.
        shape: (H, W).
        cloud: charge spread, px; reach, px; threshold, keV.
        clock: ticks per keV; largest time over threshold; dead time after it, ns; time walk, ns keV.
        dead: pixels without signal, (H W,).
        busy_ns: end of each pixel's dead time, (H W,); updated.
    """
    side = 2 * cloud[1] + 1
    along_x, along_y = np.empty(side), np.empty(side)
    hit_ns, index = np.empty(len(times_ns) * 2 + 16), np.empty(len(times_ns) * 2 + 16, np.int64)
    tot = np.empty(len(index), np.int64)
    count = 0
    for e in range(len(times_ns)):
        column, row = int(places[e, 0]), int(places[e, 1])
        divide(places[e, 0] - column, cloud[0], cloud[1], along_x)
        divide(places[e, 1] - row, cloud[0], cloud[1], along_y)
        if count + side * side > len(index):
            more = len(index) + side * side
            hit_ns, index, tot = (
                np.append(hit_ns, np.empty(more)),
                np.append(index, np.empty(more, np.int64)),
                np.append(tot, np.empty(more, np.int64)),
            )
        for i in range(max(0, cloud[1] - row), min(side, shape[0] - row + cloud[1])):
            for j in range(max(0, cloud[1] - column), min(side, shape[1] - column + cloud[1])):
                energy_kev = deposits_kev[e] * along_y[i] * along_x[j]
                pixel = (row + i - cloud[1]) * shape[1] + column + j - cloud[1]
                time_ns = times_ns[e] + (clock[3] / energy_kev if energy_kev >= cloud[2] else 0.0)
                if energy_kev < cloud[2] or dead[pixel] or time_ns < busy_ns[pixel]:
                    continue
                over = min(max(int(energy_kev * clock[0] + 0.5), 1), clock[1])
                busy_ns[pixel] = time_ns + (over * 25.0 + clock[2] if clock[2] > 0.0 else 0.0)
                hit_ns[count], index[count], tot[count] = time_ns, pixel, over
                count += 1
    return hit_ns[:count], index[:count], tot[:count]
