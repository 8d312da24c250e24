"""Frames for an iterative method in bounded memory: rounded to a fraction of their noise, thinned out when full."""

import numba
import numpy as np
from numpy.typing import NDArray

from agents.epie.fourier import REORDER

Counts = NDArray[np.unsignedinteger]
Integers = NDArray[np.int64]
Codes = NDArray[np.unsignedinteger]

EXACT = 64
"""Smaller counts are stored exactly."""

PER_ROOT = 16
"""Steps per unit of sqrt(counts) for larger counts: rounding adds (1/16)^2 / 12 to a variance of 1/4, 0.13 %."""

LARGEST_COUNT = ((2**16 - 1 + EXACT) / PER_ROOT) ** 2
"""Larger counts are clipped to this, 1.7e7."""

CHUNK = 64
"""Frames that share one number of bytes per pixel."""


def encoded(counts: Counts) -> NDArray[np.uint16]:
    """Encode counts: below 64 as they are, above as 16 sqrt(counts) - 64, which continues with the same slope."""
    if counts.dtype.kind == "f":  # corrected by the camera's references: whole again, and not below zero
        counts = np.rint(np.maximum(counts, 0.0))
    root = PER_ROOT * np.sqrt(np.minimum(counts, LARGEST_COUNT), dtype=np.float64) - EXACT
    return np.where(counts < EXACT, counts, np.rint(root)).astype(np.uint16)


@numba.njit(cache=True, fastmath=REORDER)
def decode(codes: Codes, amplitude: NDArray[np.floating]) -> None:
    """Write sqrt(counts) of flat codes to `amplitude`, with an error of 1/32 at most."""
    real = amplitude.dtype.type
    exact, step = real(EXACT), real(1.0 / PER_ROOT)
    for i in range(len(codes)):
        code = real(codes[i])
        amplitude[i] = np.sqrt(code) if code < exact else (code + exact) * step


class FrameStore:
    """The frames of a scan, or an evenly spaced subset, in at most `limit_bytes`.

    A full store drops every second position, alternately by diagonals and by rows and columns: the others remain
    evenly spaced; later positions off this pattern are not stored. Codes take one byte per pixel if the counts of a
    chunk allow it, else two.

    Args:
        pixels: pixels of a frame.
        limit_bytes: limit; one chunk with two bytes per pixel is stored in any case.

    Attributes:
        arrived: frames that were added, stored or not.
        total: their total counts, (pixels,).
        halvings: how often every second position was dropped.
    """

    def __init__(self, pixels: int, limit_bytes: int) -> None:
        self.pixels, self.limit_bytes = pixels, limit_bytes
        self.arrived, self.total, self.halvings = 0, np.zeros(pixels), 0
        self._chunks: list[tuple[Integers, Codes]] = []
        self._starts: list[int] = []
        self._open_pixel = np.empty((CHUNK, 2), np.int64)
        self._open = np.empty((CHUNK, pixels), np.uint16)
        self._filled = 0

    def __len__(self) -> int:
        return self._closed + self._filled

    @property
    def nbytes(self) -> int:
        """Memory of all codes."""
        return self._open.nbytes + sum(codes.nbytes for _, codes in self._chunks)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of all frames that were added, (pixels,)."""
        return self.total / self.arrived

    @property
    def mean_counts(self) -> float:
        """Mean counts of a frame, over all frames that were added."""
        return float(self.total.sum()) / self.arrived

    @property
    def pixel(self) -> Integers:
        """(row, column) of each stored frame in the order of arrival, (n, 2)."""
        return np.concatenate([*(pixel for pixel, _ in self._chunks), self._open_pixel[: self._filled]])

    def add(self, pixel: NDArray[np.integer], counts: Counts) -> None:
        """Add frames, (n, pixels), with their (row, column), (n, 2)."""
        self.total += counts.sum(axis=0)
        self.arrived += len(pixel)
        for place, frame in zip(pixel.astype(np.int64), encoded(counts), strict=True):
            if not _stays(place[None], self.halvings)[0]:
                continue
            self._open_pixel[self._filled], self._open[self._filled] = place, frame
            self._filled += 1
            if self._filled == CHUNK:
                self._close()

    def amplitudes(self, chosen: NDArray[np.integer], out: NDArray[np.floating]) -> None:
        """Write sqrt(counts) of stored frames, by their number in order of arrival, to `out`, (len(chosen), pixels)."""
        starts = np.asarray(self._starts, np.int64)
        for i, number in enumerate(chosen):
            if number >= self._closed:
                decode(self._open[number - self._closed], out[i])
            else:
                chunk = int(np.searchsorted(starts, number, side="right")) - 1
                decode(self._chunks[chunk][1][number - starts[chunk]], out[i])

    @property
    def _closed(self) -> int:
        """Number of frames in closed chunks."""
        return self._starts[-1] + len(self._chunks[-1][0]) if self._chunks else 0

    def _close(self) -> None:
        """Close the open chunk; thin out if the limit is exceeded."""
        self._append(self._open_pixel.copy(), self._open)
        self._filled = 0
        while self.nbytes > self.limit_bytes and self._closed > 1:
            self._halve()

    def _append(self, pixel: Integers, codes: Codes) -> None:
        if not len(pixel):
            return
        small = int(codes.max(initial=0)) <= 255
        self._starts.append(self._closed)
        self._chunks.append((pixel, codes.astype(np.uint8 if small else np.uint16)))

    def _halve(self) -> None:
        """Drop every second position, chunk by chunk."""
        self.halvings += 1
        old, self._chunks, self._starts = self._chunks[::-1], [], []
        pixels: list[Integers] = []
        kept: list[Codes] = []
        while old:
            pixel, codes = old.pop()
            stays = _stays(pixel, self.halvings)
            pixels.append(pixel[stays])
            kept.append(codes[stays])
            if not old or sum(map(len, pixels)) >= CHUNK:
                self._append(np.concatenate(pixels), np.concatenate(kept))
                pixels, kept = [], []


def _stays(pixel: Integers, halvings: int) -> NDArray[np.bool_]:
    """True for positions, (n, 2), that remain after a number of halvings."""
    row, column = pixel[:, 0], pixel[:, 1]
    coarse = 1 << (halvings // 2)
    stays = (row % coarse == 0) & (column % coarse == 0)
    if halvings % 2:
        stays &= (row // coarse + column // coarse) % 2 == 0
    return stays
