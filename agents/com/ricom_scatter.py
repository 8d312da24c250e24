"""Live riCOM: every probe position adds the kernel, weighted with its gradient, to the image around it.

Double precision costs a quarter of the speed of single precision; the image equals the offline correlation to rounding,
however often positions are replaced.
"""

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from twin.arrays import Floats

Integers = NDArray[np.int64]

RUN = 8
"""Neighbouring positions added in one pass over the rows of the image."""
LANES = 8
"""Numbers in a vector register of 64 bytes: widths are multiples of it, so that loops have no remainder."""
LARGEST_LIVE = 201**2
"""Largest number of pixels of a kernel that is added position by position. The time is proportional to the area; beyond
it a Fourier transform at each result is faster."""


@dataclass(frozen=True, eq=False)
class PaddedKernel:
    """A kernel padded for the inner loop.

    Attributes:
        x, y: components, (n, width + RUN - 1): RUN - 1 zeros, a row of the kernel, zeros. The padding lets a run of
            positions add one row of `width` numbers to the image.
        columns: columns of the kernel without padding.
    """

    x: Floats
    y: Floats
    columns: int

    @classmethod
    def of(cls, vector_kernel: Floats) -> Self:
        """Pad a kernel (2, n, m)."""
        rows, columns = vector_kernel.shape[1:]
        width = -(-(columns + RUN - 1) // LANES) * LANES
        padded = np.zeros((2, rows, width + RUN - 1))
        padded[:, :, RUN - 1 : RUN - 1 + columns] = vector_kernel
        return cls(padded[0], padded[1], columns)

    @property
    def width(self) -> int:
        """Numbers of an image row that a run of positions may change."""
        return self.x.shape[1] - RUN + 1


class RunningCorrelation:
    """Correlation of a kernel with the vectors of the positions so far, (R, C).

    A repeated position replaces its vector. Memory: 16 bytes per position, and the padded image.

    Args:
        vector_kernel: (2, n, n), n odd.
        scan: (R, C).
        vectors: vectors of earlier positions, (R, C, 2), NaN or zero elsewhere; copied.
    """

    def __init__(self, vector_kernel: Floats, scan: tuple[int, int], vectors: Floats | None = None) -> None:
        self.scan, self.kernel = scan, trimmed(vector_kernel, scan)
        self.vectors: Floats = np.zeros((*scan, 2)) if vectors is None else np.nan_to_num(vectors)
        self.live = self.kernel[0].size <= LARGEST_LIVE
        if self.live:
            self._padded = PaddedKernel.of(self.kernel)
            self._canvas = canvas(self._padded, scan)
            if vectors is not None:
                inside(self._canvas, self._padded, scan)[:] = correlate(self.kernel, self.vectors)

    def add(self, pixel: NDArray[np.integer], vectors: Floats) -> None:
        """Add positions in order of arrival.

        Args:
            pixel: (row, column) of each, (N, 2).
            vectors: (N, 2); NaN counts as zero.

        Raises:
            ValueError: a position outside the scan.
        """
        change = np.empty((len(pixel), 2))
        if not _replace(self.vectors, pixel, vectors, change):
            raise ValueError(f"positions {pixel.min(axis=0)} to {pixel.max(axis=0)} leave a scan of {self.scan}")
        if self.live:
            scatter(self._canvas, self._padded, pixel, change)

    @property
    def image(self) -> Floats:
        """A copy of the image, (R, C)."""
        if self.live:
            return inside(self._canvas, self._padded, self.scan).copy()
        return correlate(self.kernel, self.vectors)


def trimmed(vector_kernel: Floats, scan: tuple[int, int]) -> Floats:
    """Trim a kernel (2, n, n) to the extent of the scan: at most (2, 2 R - 1, 2 C - 1)."""
    middle = vector_kernel.shape[1] // 2
    up, left = min(middle, scan[0] - 1), min(middle, scan[1] - 1)
    return vector_kernel[:, middle - up : middle + up + 1, middle - left : middle + left + 1]


def canvas(kernel: PaddedKernel, scan: tuple[int, int]) -> Floats:
    """An empty image with a margin for the kernels at its edges, so that the inner loop checks no bounds."""
    return np.zeros((scan[0] + len(kernel.x) - 1, scan[1] - 1 + kernel.width))


def inside(canvas: Floats, kernel: PaddedKernel, scan: tuple[int, int]) -> Floats:
    """View of the image without the margin, (R, C)."""
    top, left = len(kernel.x) // 2, kernel.columns // 2
    return canvas[top : top + scan[0], left : left + scan[1]]


def scatter(canvas: Floats, kernel: PaddedKernel, pixel: NDArray[np.integer], vectors: Floats) -> None:
    """Add the kernels of positions to a canvas.

    Args:
        canvas: from `canvas`; changed.
        kernel: contribution of a position.
        pixel: (row, column) of each position, (N, 2), within the scan (not checked), in any order.
        vectors: weights of the kernel's components, (N, 2).
    """
    flat = np.empty(len(pixel), np.int64)
    if not _flatten(pixel, canvas.shape[1], flat):
        order = np.argsort(flat, kind="stable")
        flat, vectors = flat[order], vectors[order]
    _add(canvas, kernel.x, kernel.y, flat, vectors)


def correlate(vector_kernel: Floats, vectors: Floats) -> Floats:
    """Compute the image that `scatter` makes, by Fourier transforms.

    Args:
        vector_kernel: (2, n, m), both odd.
        vectors: (R, C, 2), zero where not visited.

    Returns:
        (R, C).
    """
    return convolve_sum(vector_kernel, np.moveaxis(vectors, 2, 0))


def convolve_sum(kernels: Floats, maps: Floats) -> Floats:
    """Sum over c of the convolutions of kernels[c], centred, with maps[c], zero beyond the edges.

    Args:
        kernels: (c, n, m), n and m odd.
        maps: (c, R, C).

    Returns:
        (R, C).
    """
    (n, m), (rows, columns) = kernels.shape[1:], maps.shape[1:]
    # Large enough to keep the cyclic convolution's wrap-around off the image.
    size = tuple(scipy.fft.next_fast_len(max(s + k // 2, k), real=True) for s, k in ((rows, n), (columns, m)))
    # One component at a time: half the memory.
    spectrum = np.zeros((size[0], size[1] // 2 + 1), np.complex128)
    for kernel, values in zip(kernels, maps, strict=True):
        spectrum += scipy.fft.rfft2(kernel, size) * scipy.fft.rfft2(values, size)
    full = scipy.fft.irfft2(spectrum, size)
    return full[n // 2 : n // 2 + rows, m // 2 : m // 2 + columns]


@numba.njit(cache=True, nogil=True)
def _replace(stored: Floats, pixel: NDArray[np.integer], vectors: Floats, change: Floats) -> bool:
    """Store vectors, NaN as zero, and write their difference from the earlier ones to `change`.

    Return False, and store nothing, if a position lies outside.
    """
    for i in range(len(pixel)):
        if not (0 <= pixel[i, 0] < stored.shape[0] and 0 <= pixel[i, 1] < stored.shape[1]):
            return False
    for i in range(len(pixel)):
        entry = stored[pixel[i, 0], pixel[i, 1]]
        for c in range(2):
            new = 0.0 if np.isnan(vectors[i, c]) else vectors[i, c]
            change[i, c] = new - entry[c]
            entry[c] = new
    return True


@numba.njit(cache=True, nogil=True)
def _flatten(pixel: NDArray[np.integer], columns: int, flat: Integers) -> bool:
    """Write the flat index of each position to `flat`; return whether the indices rise."""
    rising = True
    for i in range(len(pixel)):
        flat[i] = pixel[i, 0] * columns + pixel[i, 1]
        rising = rising and (i == 0 or flat[i] >= flat[i - 1])
    return rising


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _add(image: Floats, kernel_x: Floats, kernel_y: Floats, flat: Integers, vectors: Floats) -> None:
    """Add positions in rising order of `flat`, their flat index in the canvas: RUN columns at a time, or one by one."""
    columns = image.shape[1]
    run = np.empty((2, RUN))
    i = 0
    while i < len(flat):
        row, column = flat[i] // columns, flat[i] % columns
        stop = i + 1
        while stop < len(flat) and flat[stop] < flat[i] + RUN:
            stop += 1
        if stop - i < 3:
            _add_one(image, kernel_x, kernel_y, row, column, vectors[i, 0], vectors[i, 1])
            i += 1
            continue
        run[:] = 0.0
        for k in range(i, stop):
            run[0, flat[k] - flat[i]] += vectors[k, 0]
            run[1, flat[k] - flat[i]] += vectors[k, 1]
        _add_run(image, kernel_x, kernel_y, row, column, run)
        i = stop


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_one(
    image: Floats, kernel_x: Floats, kernel_y: Floats, row: int, column: int, along_x: float, along_y: float
) -> None:
    width = kernel_x.shape[1] - (RUN - 1)
    for i in range(kernel_x.shape[0]):
        out, x, y = image[row + i, column : column + width], kernel_x[i], kernel_y[i]
        for j in range(width):
            out[j] += along_x * x[j + 7] + along_y * y[j + 7]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_run(image: Floats, kernel_x: Floats, kernel_y: Floats, row: int, column: int, run: Floats) -> None:
    """Add RUN neighbours: their vectors stay in registers, and each pixel is read and written once."""
    a0, a1, a2, a3, a4, a5, a6, a7 = run[0]
    b0, b1, b2, b3, b4, b5, b6, b7 = run[1]
    width = kernel_x.shape[1] - (RUN - 1)
    for i in range(kernel_x.shape[0]):
        out, x, y = image[row + i, column : column + width], kernel_x[i], kernel_y[i]
        for j in range(width):
            out[j] += (
                ((a0 * x[j + 7] + b0 * y[j + 7]) + (a1 * x[j + 6] + b1 * y[j + 6]))
                + ((a2 * x[j + 5] + b2 * y[j + 5]) + (a3 * x[j + 4] + b3 * y[j + 4]))
                + ((a4 * x[j + 3] + b4 * y[j + 3]) + (a5 * x[j + 2] + b5 * y[j + 2]))
                + ((a6 * x[j + 1] + b6 * y[j + 1]) + (a7 * x[j] + b7 * y[j]))
            )
