"""Atomic columns as two-dimensional Gaussians: plain data, and the expected image with its derivatives."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numba
import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats

REACH = 4.5
"""Radius within which a column is computed, in its widths: beyond it, it has 4e-5 of its height."""
HALO_WIDTH, HALO_REACH = 1.8, 6.0
"""Width of the halo of a column, and the radius within which it is computed, in widths of the column."""
PARAMETERS = 4
"""Of one column: x, y, height, logarithm of the width."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns and background of an image (Friedrich 2023, eq 2.19).

    Attributes:
        x_px, y_px: beta of eq 2.19, column and row of each, (N,); pixel centres have whole numbers.
        height: eta, in units of the image, (N,).
        width_px: rho, (N,).
        background: zeta, of all pixels.
        halo: part of each height that belongs to a Gaussian `HALO_WIDTH` times as wide: real columns fall off more
            slowly than Gaussians, by aberrations of the beam.
    """

    x_px: Floats
    y_px: Floats
    height: Floats
    width_px: Floats
    background: float
    halo: float = 0.0

    def __len__(self) -> int:
        return len(self.x_px)

    @property
    def places(self) -> Floats:
        """x and y, (N, 2)."""
        return np.stack([self.x_px, self.y_px], axis=1)

    @property
    def cross_section(self) -> Floats:
        """Volume of each column, of a Gaussian 2 pi eta rho^2 (eq 2.20), image units times pixels, (N,)."""
        return self.volume * self.height * self.width_px**2

    @property
    def volume(self) -> float:
        """Volume of a column of height 1 and width 1."""
        return 2 * math.pi * (1.0 + self.halo * (HALO_WIDTH**2 - 1.0))

    def scaled(self, factor: float) -> Self:
        """The same columns in an image that is brighter by a factor."""
        return replace(self, height=factor * self.height, background=factor * self.background)

    def only(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The chosen columns."""
        x, y, height, width = (a[chosen] for a in (self.x_px, self.y_px, self.height, self.width_px))
        return replace(self, x_px=x, y_px=y, height=height, width_px=width)


@dataclass(frozen=True, eq=False)
class Expectation:
    """Expected image of columns and its derivatives.

    Attributes:
        values: expected image, (rows, columns).
        by_line_x, by_line_y: derivative of each pixel by the shift of its line along x and y, (rows, columns).
        by_width: derivative by the logarithm of all widths, (rows, columns).
        by_halo: derivative by the halo's part, (rows, columns).
        first: where each column's pixels begin in `pixel`, (N + 1,).
        pixel: flat numbers of the pixels that a column reaches, one column after the other, (P,).
        derivative: of these pixels by x, y, height and logarithm of the width of that column, (4, P).
    """

    values: Floats
    by_line_x: Floats
    by_line_y: Floats
    by_width: Floats
    by_halo: Floats
    first: NDArray[np.int64]
    pixel: NDArray[np.int64]
    derivative: Floats


def expectation(columns: Columns, shift_px: Floats, shape: tuple[int, int]) -> Expectation:
    """Expected image (eq 2.19) of lines that are shifted, with all derivatives.

    Args:
        columns: the columns.
        shift_px: actual minus intended position of the beam, along x and y, of each line, (2, rows).
        shape: rows and columns.
    """
    first, boxes = _boxes(columns, shift_px, shape)
    pixel = np.empty(first[-1], np.int64)
    derivative = np.empty((PARAMETERS, first[-1]))
    planes = np.zeros((5, *shape))
    planes[0] = columns.background
    parameters = np.stack([columns.x_px, columns.y_px, columns.height, columns.width_px])
    shift_px = np.ascontiguousarray(shift_px)
    _fill(parameters, columns.halo, shift_px, boxes, first, pixel, derivative, planes)
    values, by_line_x, by_line_y, by_width, by_halo = planes
    return Expectation(values, by_line_x, by_line_y, by_width, by_halo, first, pixel, derivative)


def _boxes(columns: Columns, shift_px: Floats, shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start of each column's pixels, (N + 1,), and its box: first and last row, first and last column, (N, 4)."""
    rows, across = shape
    wander = np.abs(shift_px).max(axis=1, initial=0.0)
    reach = (HALO_REACH if columns.halo else REACH) * columns.width_px
    low = np.stack([columns.y_px - reach - wander[1], columns.x_px - reach - wander[0]])
    high = np.stack([columns.y_px + reach + wander[1], columns.x_px + reach + wander[0]])
    last = np.array([[rows], [across]])
    begin = np.clip(np.floor(low), 0, last).astype(np.int64)
    end = np.clip(np.ceil(high) + 1, begin, last).astype(np.int64)
    count = np.prod(end - begin, axis=0)
    boxes = np.stack([begin[0], end[0], begin[1], end[1]], axis=1)
    return np.concatenate([[0], np.cumsum(count)]), boxes


@numba.njit(cache=True)
def _fill(parameters, halo, shift_px, boxes, first, pixel, derivative, planes):  # type: ignore[no-untyped-def]
    """Fill pixels, derivatives and planes: values, by line along x and y, by width, by halo."""
    across, broad = planes.shape[2], 1.0 / HALO_WIDTH**2
    for n in range(boxes.shape[0]):
        x, y, height, width = parameters[0, n], parameters[1, n], parameters[2, n], parameters[3, n]
        precision = 1.0 / (width * width)
        at = first[n]
        for row in range(boxes[n, 0], boxes[n, 1]):
            dy = row + shift_px[1, row] - y
            along_y = np.exp(-0.5 * dy * dy * precision)
            halo_y = np.exp(-0.5 * dy * dy * precision * broad) if halo != 0.0 else 0.0
            for column in range(boxes[n, 2], boxes[n, 3]):
                dx = column + shift_px[0, row] - x
                narrow = along_y * np.exp(-0.5 * dx * dx * precision)
                wide = halo_y * np.exp(-0.5 * dx * dx * precision * broad) if halo != 0.0 else 0.0
                shape = narrow + halo * (wide - narrow)
                value = height * shape
                slope = height * (narrow + halo * (wide * broad - narrow)) * precision
                by_x = slope * dx
                by_y = slope * dy
                by_width = slope * (dx * dx + dy * dy)
                pixel[at] = row * across + column
                derivative[0, at] = by_x
                derivative[1, at] = by_y
                derivative[2, at] = shape
                derivative[3, at] = by_width
                planes[0, row, column] += value
                planes[1, row, column] -= by_x
                planes[2, row, column] -= by_y
                planes[3, row, column] += by_width
                planes[4, row, column] += height * (wide - narrow)
                at += 1
