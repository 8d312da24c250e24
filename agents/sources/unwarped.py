"""A source whose frames are put onto the true grid of the scan, for all agents alike; counts stay whole electrons."""

from collections.abc import Iterator
from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from agents.block import Block, FrameBlock, Frames
from agents.quantify.resample import ShiftMap
from agents.source import Source, SourceError

WIDER = {"uint8": "uint16", "uint16": "uint32", "uint32": "uint32"}
"""Type of the counts by that of the recorded ones: a place may receive more than one frame."""


LEAST_EXPOSURE = 0.05
"""Lines of the grid that fewer recorded ones fall to are not filled up."""


class UnwarpedSource(Source):
    """Another source, with each frame shared out between the places of the true grid around its own.

    Every electron goes to one place, with the probability of that place's share: counts are kept, and their statistics
    remain those of electrons. The same electron goes to the same place however the stream is cut.

    Where lines lie close together, places of the grid receive more of them. Methods that divide by the counts (COM and
    its integrals) do not mind; those that compare positions do (SSB, ePIE): for them `even` exposes all places alike,
    so that electrons of sparse lines count at two places and some of dense ones at none. Both cannot be had: a grid on
    which every place has its exposure and every electron its place is the recorded one.

    Args:
        inner: not used otherwise; closed with this one.
        shifts: of the lines of the scan.
        seed: of the electrons' choices.
        even: the same exposure everywhere; the sum of the counts is then kept on average.

    Raises:
        SourceError: a list of positions, or shifts for another number of lines, or out of the scan.
    """

    def __init__(self, inner: Source, shifts: ShiftMap, seed: int = 0, even: bool = False) -> None:
        layout, rows = inner.meta.layout, shifts.shift_px.shape[1]
        if len(layout.scan) != 2 or layout.scan[0] != rows:
            raise SourceError(f"shifts of {rows} lines do not fit a scan of {layout.scan}")
        across, down = np.abs(shifts.shift_px).max(axis=1)
        if across >= layout.scan[1] or down >= rows:
            raise SourceError(
                f"lines are shifted by up to {across:.3g} px along them and {down:.3g} px across, out of a scan of"
                f" {rows} lines of {layout.scan[1]}"
            )
        self._inner, self._shifts, self._seed, self.health = inner, shifts, seed, inner.health
        self._even = even
        exposure = shifts.lines.sum(axis=1) if even else np.ones(rows)
        self._scale = 1.0 / np.maximum(exposure, LEAST_EXPOSURE)
        wider = replace(layout, dtype=WIDER[layout.dtype], max_count=None)
        self.meta = replace(inner.meta, layout=wider)

    def blocks(self) -> Iterator[Block]:
        """Yield lines of the true grid in their order, each when all that belongs to it has arrived."""
        (rows, columns), camera = self._inner.meta.layout.scan, self._inner.meta.layout.camera
        shape, dtype = (columns, *camera), np.dtype(self.meta.layout.dtype)
        waiting = [set(np.flatnonzero(shares).tolist()) for shares in self._shifts.lines]
        missing, following = np.full(rows, columns), 0
        growing: dict[int, Frames] = {}
        for block in self._inner.blocks():
            for row, column, frame in zip(*block.pixel.T.tolist(), block.frames, strict=True):
                self._share(row, column, frame, growing, (shape, dtype))
                missing[row] -= 1
                if missing[row] > 0:
                    continue
                for line in np.flatnonzero(self._shifts.lines[:, row]).tolist():
                    waiting[line].discard(row)
                while following < rows and not waiting[following]:
                    yield _line(growing.pop(following, np.zeros(shape, dtype)), following)
                    following += 1
        for line in sorted(growing):  # of a scan that ended early
            yield _line(growing[line], line)

    def close(self) -> None:
        self._inner.close()

    def _share(
        self,
        row: int,
        column: int,
        frame: Frames,
        growing: dict[int, Frames],
        kind: tuple[tuple[int, ...], np.dtype[np.unsignedinteger]],
    ) -> None:
        """Add the electrons of one frame to the lines that they belong to, of the shape and type `kind`."""
        shape, dtype = kind
        places, shares = self._targets(row, shape[0])
        lines, across = places[column].T.tolist()
        for line in lines:
            if line not in growing:
                growing[line] = np.zeros(shape, dtype)
        native = np.ascontiguousarray(frame, frame.dtype.newbyteorder("=")).ravel()
        key, given = (self._seed << 40) ^ (row * shape[0] + column), np.zeros(len(native), np.uint32)
        done = np.cumsum(shares[column] * self._scale[places[column, :, 0]])
        if not self._even:
            done[-1] = 1.0  # whatever rounding left
        for line, place, share in zip(lines, across, done.tolist(), strict=True):
            _add(native, share, key, given, growing[line][place].reshape(-1))

    def _targets(self, row: int, columns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places and shares of a line, kept while it is the same."""
        if getattr(self, "_row", None) != row:
            self._row, self._of_row = row, self._shifts.targets(row, columns)
        return self._of_row


def _line(frames: Frames, line: int) -> FrameBlock:
    frames.flags.writeable = False
    column = np.arange(len(frames), dtype=np.int32)
    return FrameBlock(frames, np.stack([np.full_like(column, line), column], axis=1))


@numba.njit(cache=True)
def _add(counts, done, key, given, out):  # type: ignore[no-untyped-def]
    """Add the electrons that belong to the next place, systematically drawn (Madow, Ann. Math. Stat. 20 (1949) 333).

    Of n electrons, floor(n c + u) have been given out when the shares so far sum to c, with one random u of each
    pixel: on average each place receives exactly its share, and at c = 1 all n are given out.

    Args:
        counts: of the frame, (P,).
        done: sum of the shares up to this place.
        key: number of the frame.
        given: electrons given out so far, (P,); updated.
        out: counts of the place, (P,).
    """
    for p in range(counts.size):
        n = counts[p]
        if n == 0:
            continue
        # A hash of frame and pixel as the random number (splitmix64's finaliser).
        z = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(p) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        u = np.float64(z >> np.uint64(11)) * 1.1102230246251565e-16
        now = np.uint32(np.floor(n * done + u))
        out[p] += now - given[p]
        given[p] = now
