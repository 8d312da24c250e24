"""Fourier transforms of small squares, compiled with numba.

Own code, because library transforms cannot be called from a numba kernel, and a sweep of ePIE is one kernel. Real and
imaginary parts are separate planes, which vectorises. The result is transposed, which saves a transposition: spectra
are [kx, ky] with zero frequency first.
"""

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.floating]
Integers = NDArray[np.int64]

REORDER = {"contract", "reassoc", "nsz", "arcp"}
"""Floating-point optimisations that are allowed: all, except to assume that no number is infinite or NaN."""

RADICES = (4, 2, 3, 5)
TILE = 16
"""Columns transposed at a time: a cache line in single precision."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Plan of the transform of squares of one size.

    Attributes:
        size: side N.
        radices: factors of N in the order of the passes.
        turns: real and imaginary part of the twiddle factors exp(-2 pi i j / N), (2, N).
    """

    size: int
    radices: Integers
    turns: Real


def smooth_size(size: int) -> int:
    """Smallest side of at least `size` without a prime factor above 5."""
    while _factors(size) is None:
        size += 1
    return size


@lru_cache(maxsize=16)
def plan(size: int, dtype: str = "float32") -> Plan:
    """Plan the transform of a square.

    Raises:
        ValueError: a side with a prime factor above 5; the message has the next larger side without.
    """
    factors = _factors(size)
    if factors is None:
        raise ValueError(f"a side of {size} has a prime factor above 5; the next one without is {smooth_size(size)}")
    angle = 2 * np.pi * np.arange(size) / size
    turns = np.stack([np.cos(angle), -np.sin(angle)]).astype(dtype)
    radices = np.array(factors, np.int64)
    turns.flags.writeable = radices.flags.writeable = False
    return Plan(size, radices, turns)


def _factors(size: int) -> list[int] | None:
    """Factors of `size` among `RADICES`; None if there are others."""
    factors = []
    for radix in RADICES:
        while size % radix == 0:
            factors.append(radix)
            size //= radix
    return factors if size == 1 else None


@numba.njit(cache=True, fastmath=REORDER)
def transform(re: Real, im: Real, out_re: Real, out_im: Real, radices: Integers, turns: Real) -> None:
    """`out[k, j] = sum over (m, n) of exp(-2 pi i (j m + k n) / N) (re + i im)[m, n]`, not normalised; (N, N) planes.

    The input is overwritten. Exchanging real and imaginary planes of input and output gives the inverse, times N^2.

    Stockham's self-sorting passes along the first axis (Van Loan 1992, section 1.7), a transposition, and the passes
    again: an odd number of moves between the two pairs of planes.
    """
    _along_columns(re, im, out_re, out_im, radices, turns)
    if len(radices) % 2:
        transpose(out_re, re)
        transpose(out_im, im)
        _along_columns(re, im, out_re, out_im, radices, turns)
    else:
        transpose(re, out_re)
        transpose(im, out_im)
        _along_columns(out_re, out_im, re, im, radices, turns)


@numba.njit(cache=True, fastmath=REORDER)
def transpose(source: Real, target: Real) -> None:
    """Write the transpose of `source` to `target`, tile by tile."""
    size = len(source)
    tiled = size - size % TILE
    for first in range(0, tiled, TILE):
        for i in range(size):
            for j in range(first, first + TILE):  # a fixed number: unrolled
                target[i, j] = source[j, i]
    for i in range(size):
        for j in range(tiled, size):
            target[i, j] = source[j, i]


@numba.njit(cache=True, fastmath=REORDER)
def _along_columns(re: Real, im: Real, other_re: Real, other_im: Real, radices: Integers, turns: Real) -> None:
    """Make the passes over the first axis: an odd number of them ends in `other`, an even one in `re, im`."""
    size = len(re)
    xr, xi, yr, yi = re.ravel(), im.ravel(), other_re.ravel(), other_im.ravel()
    left, stride = size, 1
    for radix in radices:
        left //= radix
        if radix == 4:
            _pass4(xr, xi, yr, yi, left, stride, turns)
        else:
            _pass(xr, xi, yr, yi, radix, left, stride, turns)
        stride *= radix
        xr, xi, yr, yi = yr, yi, xr, xi


@numba.njit(cache=True, fastmath=REORDER)
def _pass(xr: Real, xi: Real, yr: Real, yi: Real, radix: int, left: int, stride: int, turns: Real) -> None:
    """One pass of any radix r: row r p + k is the sum over j of exp(-2 pi i k (j / r + p / (r left))) row p + left j.

    A row is `stride` lines. Each output takes r products, hence small r.
    """
    size = turns.shape[1]
    length = stride * size
    for p in range(left):
        for k in range(radix):
            to = (radix * p + k) * length
            br, bi = yr[to : to + length], yi[to : to + length]
            for j in range(radix):
                turn = (k * j * (size // radix) + k * p * stride) % size
                c, s = turns[0, turn], turns[1, turn]
                of = (p + left * j) * length
                ar, ai = xr[of : of + length], xi[of : of + length]
                if j == 0:
                    for t in range(length):
                        br[t] = ar[t] * c - ai[t] * s
                        bi[t] = ar[t] * s + ai[t] * c
                else:
                    for t in range(length):
                        br[t] += ar[t] * c - ai[t] * s
                        bi[t] += ar[t] * s + ai[t] * c


@numba.njit(cache=True, fastmath=REORDER)
def _pass4(xr: Real, xi: Real, yr: Real, yi: Real, left: int, stride: int, turns: Real) -> None:
    """`_pass` of radix 4, whose four sums need no products.

    Slices instead of offsets: the compiler vectorises loops that begin at index zero.
    """
    length = stride * turns.shape[1]
    far = left * length
    for p in range(left):
        c1, s1 = turns[0, p * stride], turns[1, p * stride]
        c2, s2 = turns[0, 2 * p * stride], turns[1, 2 * p * stride]
        c3, s3 = turns[0, 3 * p * stride], turns[1, 3 * p * stride]
        of, to = p * length, 4 * p * length
        a0r, a0i = xr[of : of + length], xi[of : of + length]
        a1r, a1i = xr[of + far : of + far + length], xi[of + far : of + far + length]
        a2r, a2i = xr[of + 2 * far : of + 2 * far + length], xi[of + 2 * far : of + 2 * far + length]
        a3r, a3i = xr[of + 3 * far : of + 3 * far + length], xi[of + 3 * far : of + 3 * far + length]
        br, bi = yr[to : to + 4 * length], yi[to : to + 4 * length]
        for t in range(length):
            even_r, even_i = a0r[t] + a2r[t], a0i[t] + a2i[t]
            minus_r, minus_i = a0r[t] - a2r[t], a0i[t] - a2i[t]
            odd_r, odd_i = a1r[t] + a3r[t], a1i[t] + a3i[t]
            turned_r, turned_i = a1i[t] - a3i[t], a3r[t] - a1r[t]  # times -i
            br[t], bi[t] = even_r + odd_r, even_i + odd_i
            zr, zi = minus_r + turned_r, minus_i + turned_i
            br[t + length], bi[t + length] = zr * c1 - zi * s1, zr * s1 + zi * c1
            zr, zi = even_r - odd_r, even_i - odd_i
            br[t + 2 * length], bi[t + 2 * length] = zr * c2 - zi * s2, zr * s2 + zi * c2
            zr, zi = minus_r - turned_r, minus_i - turned_i
            br[t + 3 * length], bi[t + 3 * length] = zr * c3 - zi * s3, zr * s3 + zi * c3
