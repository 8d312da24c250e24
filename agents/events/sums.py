"""Sums over the events of each position, without frames; compiled.

The events of position k are `indptr[k]` to `indptr[k + 1]`. `weight` has the counts of each event, (n,), or is None if
each counts one. Pixels beyond the camera are ignored.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats

Pixels = NDArray[np.unsignedinteger]
Weight = NDArray[np.unsignedinteger] | None


@numba.njit(cache=True)
def moments(indptr: NDArray[np.int64], pixel: Pixels, weight: Weight, width: int, out: Floats) -> int:
    """Write the sums of 1, column, row, and column^2 + row^2 over the events of each position to `out`, (N, 4).

    Return the largest pixel: a check of each event against the camera would take too long.

    The row is a product instead of a quotient. This is exact below 2^28 pixels, where (pixel + 1/2) / width is farther
    from an integer than its rounding error. Integer sums are exact.
    """
    inverse, largest = 1.0 / width, np.int64(-1)
    for k in range(len(indptr) - 1):
        counts, columns, rows, squares = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        for i in range(indptr[k], indptr[k + 1]):
            p = np.int64(pixel[i])
            largest = max(largest, p)
            y = np.int64((p + 0.5) * inverse)
            x = p - y * width
            if weight is None:
                counts += 1
                columns += x
                rows += y
                squares += x * x + y * y
            else:
                w = np.int64(weight[i])
                counts += w
                columns += w * x
                rows += w * y
                squares += w * (x * x + y * y)
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = counts, columns, rows, squares
    return int(largest)


@numba.njit(cache=True)
def moments_inside(
    indptr: NDArray[np.int64], pixel: Pixels, weight: Weight, inside: NDArray[np.uint8], width: int, out: Floats
) -> None:
    """Compute `moments` of the pixels where `inside`, (H W,), is one."""
    inverse = 1.0 / width
    for k in range(len(indptr) - 1):
        counts, columns, rows, squares = np.int64(0), np.int64(0), np.int64(0), np.int64(0)
        for i in range(indptr[k], indptr[k + 1]):
            p = np.int64(pixel[i])
            w = np.int64(inside[p]) if p < len(inside) else np.int64(0)
            if weight is not None:
                w *= np.int64(weight[i])
            y = np.int64((p + 0.5) * inverse)
            x = p - y * width
            counts += w
            columns += w * x
            rows += w * y
            squares += w * (x * x + y * y)
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = counts, columns, rows, squares


@numba.njit(cache=True)
def sums(indptr: NDArray[np.int64], pixel: Pixels, weight: Weight, images: NDArray[np.float32], out: Floats) -> None:
    """Write the counts weighted with each image, (D, H W), to `out`, (N, D)."""
    for k in range(len(indptr) - 1):
        for d in range(images.shape[0]):
            total = 0.0
            for i in range(indptr[k], indptr[k + 1]):
                p = np.int64(pixel[i])
                if p < images.shape[1]:
                    w = 1.0 if weight is None else np.float64(weight[i])
                    total += w * np.float64(images[d, p])
            out[k, d] = total


@numba.njit(cache=True)
def frames(indptr: NDArray[np.int64], pixel: Pixels, weight: Weight, out: NDArray[np.uint32]) -> None:
    """Add the counts of each position to `out`, (N, H W)."""
    for k in range(len(indptr) - 1):
        for i in range(indptr[k], indptr[k + 1]):
            p = np.int64(pixel[i])
            if p < out.shape[1]:
                out[k, p] += np.uint32(1) if weight is None else np.uint32(weight[i])
