"""An array of any order of axes and any type of whole numbers, read as frames of unsigned counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import FormatError, Frames

COUNT_TYPE = {"u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint32", "b1": "uint8"} | {
    "i1": "uint8",
    "i2": "uint16",
    "i4": "uint32",
    "i8": "uint32",
    "f2": "uint32",
    "f4": "uint32",
    "f8": "uint32",
}
"""Type of the counts for each type of stored values; larger, negative or broken values are refused frame by frame."""


def count_type(dtype: Any) -> str:
    """Return the type of the counts for stored values of a type.

    Raises:
        FormatError: not numbers.
    """
    stored = np.dtype(dtype)
    kind = f"{stored.kind}{stored.itemsize}"
    if kind not in COUNT_TYPE:
        raise FormatError(f"counts are whole numbers; these values are {stored}")
    return COUNT_TYPE[kind]


class FrameArray:
    """Frames of an array, addressed as (row, columns) or (positions,), as `placement.read` does.

    Args:
        source: array that reads slices: numpy, h5py, zarr or dask.
        scan: numbers of the scan's axes in the array, (rows, columns), (positions,) or () for one frame.
        camera: numbers of the camera's axes, (H, W).
        backwards: numbers of axes to be read in reverse.
        rounded: analogue values: round them, negative ones to zero, instead of refusing them.

    Attributes:
        shape: of the frames on the scan, (*scan, H, W); one frame is a scan of one position.
        dtype: of the counts.
    """

    def __init__(
        self,
        source: Any,
        scan: Sequence[int],
        camera: Sequence[int],
        backwards: Sequence[int] = (),
        rounded: bool = False,
    ) -> None:
        self._source, self._scan, self._camera = source, tuple(scan), tuple(camera)
        self._backwards, self._rounded = frozenset(backwards), rounded
        self.scan = tuple(int(source.shape[axis]) for axis in self._scan) or (1,)
        self.camera = (int(source.shape[camera[0]]), int(source.shape[camera[1]]))
        self.dtype = count_type(source.dtype)

    def __getitem__(self, where: tuple[int | slice, ...]) -> Frames:
        """Return frames (n, H, W) of one row.

        Raises:
            FormatError: values that are not counts; `complete` is the number of the frame.
        """
        *above, across = where
        start, stop, _ = across.indices(self.scan[-1]) if isinstance(across, slice) else (across, across + 1, 1)
        key: list[Any] = [slice(None)] * len(self._source.shape)
        if self._scan:
            *fixed, along = self._scan
            for axis, index in zip(fixed, above, strict=True):
                key[axis] = self._source.shape[axis] - 1 - index if axis in self._backwards else index
            size = self._source.shape[along]
            key[along] = slice(size - stop, size - start) if along in self._backwards else slice(start, stop)
        values = self._source[tuple(key)]
        if hasattr(values, "compute"):
            values = values.compute(scheduler="synchronous")
        first = start if len(self.scan) == 1 else int(above[0]) * self.scan[1] + start  # type: ignore[arg-type]
        return as_counts(self._in_order(np.asarray(values)), self.dtype, first, self._rounded)

    def _in_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return (n, H, W) of what was read: n first, H before W, all forwards."""
        left = [axis for axis in range(len(self._source.shape)) if axis not in self._scan[:-1]]
        order = [left.index(axis) for axis in (*self._scan[-1:], *self._camera)]
        steps = tuple(
            slice(None, None, -1 if axis in self._backwards else 1) for axis in (*self._scan[-1:], *self._camera)
        )
        values = values.transpose(order)[steps]
        return values if self._scan else values[None]


def as_counts(values: NDArray[Any], dtype: str, first: int, rounded: bool = False) -> Frames:
    """Return counts of a type, from values of any number type.

    Args:
        values: (n, H, W).
        dtype: of the counts.
        first: number of the first frame, for messages.
        rounded: round, and set negative values to zero.

    Raises:
        FormatError: a value below zero, above the type's limit or broken; `complete` is the number of its frame.
    """
    if values.dtype == np.dtype(dtype):
        return values
    if rounded:
        values = np.rint(np.maximum(np.nan_to_num(values, nan=0.0, posinf=np.inf), 0))
    if values.dtype.kind != "b" and not np.can_cast(values.dtype, dtype):
        most = np.iinfo(dtype).max
        with np.errstate(invalid="ignore"):
            wrong = ~((values >= 0) & (values <= most))
            if values.dtype.kind == "f":
                wrong |= values != np.floor(values)
        if wrong.any():
            k, row, column = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            raise FormatError(
                f"frame {first + int(k)} holds {values[k, row, column]!s} at pixel ({row}, {column});"
                f" counts are whole numbers from 0 to {most}",
                first + int(k),
            )
    return values.astype(dtype)
