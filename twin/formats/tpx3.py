"""Raw Timepix3 files, `name.tpx3`: chunks of 8-byte packets as the read-out board sends them.

A chunk begins with `TPX3`, the number of a chip and its length. Its packets are little-endian words whose highest bits
tell their kind: hits (0xb), edges at the trigger inputs (0x6), times and control. Times count 25 ns in 30 bits, 26.8 s,
and roll over; here they are unwrapped. Facts: the manual of Serval 3.2, appendix on the raw file format.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from twin.formats import file_checks
from twin.formats.chips import PIXELS, ChipLayout
from twin.formats.closing import Closing
from twin.formats.dataset import FormatError
from twin.formats.t3p import RECORD, Events

WORD_BYTES = 8
BLOCK_WORDS = 2**17
MAGIC = 0x33585054
"""`TPX3` in the lower half of a chunk's first word."""
HIT, INTEGRATED, EDGE = 0xB, 0xA, 0x6
QUIET = (0x4, 0x5, 0x7)
"""Packets of time, of the board's control and of the chip's control; nothing here depends on them."""
RISING = {"tdc1": 0xF, "tdc2": 0xE}
"""Rising edges of the two trigger inputs."""
COUNTER_BITS = 30
PER_TICK = 8
"""An edge is timed in steps of 3.125 ns, an eighth of a tick of 25 ns."""
LOOK_WORDS = 2**20
"""Words at the beginning that are searched for the chips of the camera."""

FAULTS = ("lost_words", "integrated", "unknown", "strange_chip")


class Packets(NamedTuple):
    """The packets of a stretch of a file.

    Attributes:
        hits: records as in a .t3p file, (n,), with the pixel in the image and the time unwrapped.
        edges: kind (see `RISING`) and time in steps of 3.125 ns of each edge, (m, 2).
        lost_words: words outside any chunk, which were skipped.
        integrated: hits without a time, of a chip that integrates the charge.
        unknown: packets of another kind.
        strange_chip: hits of chips that the camera does not have.
    """

    hits: Events
    edges: NDArray[np.int64]
    lost_words: int
    integrated: int
    unknown: int
    strange_chip: int


class Tpx3Reader(Closing):
    """Reads a raw file in bounded blocks, in the order of the file.

    Args:
        path: of the .tpx3 file.
        chips: where the chips lie; None for one chip, or a quad if more than the first is found.
        tolerate: skip what lies outside a chunk, and a word that is cut off, instead of raising.

    Attributes:
        chips: as given or found.
        words: number of whole words.
        rest: bytes after the last whole word.

    Raises:
        FormatError: no such file, one that does not begin with a chunk, a word that is cut off (unless `tolerate`), or
            more chips than a quad has.
    """

    def __init__(self, path: Path, chips: ChipLayout | None = None, tolerate: bool = False) -> None:
        file_checks.check_file(path)
        self._path, self._tolerate = path, tolerate
        self.words, self.rest = divmod(path.stat().st_size, WORD_BYTES)
        if self.rest and not tolerate:
            raise FormatError(
                f"{path}: word {self.words} is cut off after {self.rest} of {WORD_BYTES} bytes; {self.words} whole"
                " words before it (tolerate reads them)",
                self.words,
            )
        self._file = path.open("rb")
        try:
            first = self._words(0, 1)
            if not len(first) or int(first[0]) & 0xFFFFFFFF != MAGIC:
                raise FormatError(f"{path}: a raw file begins with TPX3, and not with {first.tobytes()[:4]!r}")
            self.chips = self._chips() if chips is None else chips
        except BaseException:
            self._file.close()
            raise
        self.place_chips(self.chips)

    def place_chips(self, chips: ChipLayout) -> None:
        """Lay out the chips otherwise from the next block on."""
        self.chips, self._table = chips, chips.table()

    def _words(self, first: int, count: int) -> NDArray[np.uint64]:
        self._file.seek(first * WORD_BYTES)
        return np.fromfile(self._file, "<u8", count)

    def _chips(self) -> ChipLayout:
        """Return the layout for the chips in the beginning of the file.

        Raises:
            FormatError: more than four chips.
        """
        words, highest = self._words(0, LOOK_WORDS), 0
        at = 0
        while at < len(words) and int(words[at]) & 0xFFFFFFFF == MAGIC:
            highest = max(highest, int(words[at]) >> 32 & 0xFF)
            at += 1 + (int(words[at]) >> 48) // WORD_BYTES
        if highest > 3:
            raise FormatError(
                f"{self._path}: there is a chip {highest}, and no arrangement of so many is known; give chips"
            )
        return ChipLayout.named("quad" if highest else "single")

    def blocks(self, words: int = BLOCK_WORDS) -> Iterator[tuple[int, Packets]]:
        """Yield (index of the first word, packets) from the beginning.

        Raises:
            FormatError: a chunk does not begin where it should (unless `tolerate`); names the word.
        """
        if words < 1:
            raise ValueError(f"a block holds at least one word; got {words}")
        state = np.array([0, 0, -1], np.int64)
        for first in range(0, self.words, words):
            raw = self._words(first, words).astype(np.uint64, copy=False)
            yield first, self._decoded(raw, state, first)
            if len(raw) < min(words, self.words - first):
                return  # the file has become shorter

    def _decoded(self, raw: NDArray[np.uint64], state: NDArray[np.int64], first: int) -> Packets:
        hits, edges = np.empty((len(raw), 4), np.uint32), np.empty((len(raw), 2), np.int64)
        tally = np.zeros(6, np.int64)
        stray = _decode(raw, state, self._table, hits, edges, tally)
        if stray >= 0 and not self._tolerate:
            raise FormatError(
                f"{self._path}: word {first + stray} should begin a chunk with TPX3, and does not (tolerate skips to"
                " the next)",
                first + stray,
            )
        records = hits[: tally[0]].copy().view(RECORD)[:, 0]
        return Packets(records, edges[: tally[1]].copy(), *map(int, tally[2:]))

    def rising(self, name: str) -> NDArray[np.int64]:
        """Return the time of every rising edge at a trigger input, steps of 3.125 ns, (n,); reads the whole file.

        Args:
            name: of the input, "tdc1" or "tdc2".
        """
        kind = RISING[name]
        found = [packets.edges[packets.edges[:, 0] == kind, 1] for _, packets in self.blocks()]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def close(self) -> None:
        self._file.close()


@numba.njit(cache=True)
def _unwrapped(tick: int, state: NDArray[np.int64]) -> int:
    """Return a tick of 30 bits on the clock of the stream, and move that clock; state[2] is it, -1 before the first.

    Times jump by less than half the counter's range. The clock moves by an eighth of it at most: one corrupt time must
    not move it to another round.
    """
    span = 1 << 30
    if state[2] < 0:
        state[2] = tick
    step = ((tick - state[2] + (span >> 1)) & (span - 1)) - (span >> 1)
    whole = state[2] + step
    state[2] += min(max(step, -(span >> 3)), span >> 3)
    return int(whole)


@numba.njit(cache=True)
def _decode(
    raw: NDArray[np.uint64],
    state: NDArray[np.int64],
    table: NDArray[np.uint32],
    hits: NDArray[np.uint32],
    edges: NDArray[np.int64],
    tally: NDArray[np.int64],
) -> int:
    """Decode words; return the index of the first that lies outside any chunk, or -1.

    Args:
        raw: words, (n,).
        state: words left in the present chunk, its chip, and the clock; goes on from block to block.
        table: pixel of the image by chip and pixel of the chip.
        hits: result, records as four 32-bit words, (n, 4).
        edges: result, (n, 2).
        tally: result: hits, edges, and the counts of `FAULTS`.
    """
    stray = -1
    for i in range(len(raw)):
        word = raw[i]
        kind = np.int64(word >> np.uint64(60))
        if state[0] == 0:
            size = np.int64(word >> np.uint64(48))
            if (word & np.uint64(0xFFFFFFFF)) != np.uint64(MAGIC) or size % 8 != 0:
                tally[2] += 1
                stray = i if stray < 0 else stray
                continue
            state[0], state[1] = size // 8, np.int64((word >> np.uint64(32)) & np.uint64(0xFF))
            continue
        state[0] -= 1
        if kind == HIT:
            column = np.int64((word >> np.uint64(53)) & np.uint64(0x7F)) * 2
            row = np.int64((word >> np.uint64(47)) & np.uint64(0x3F)) * 4
            within = np.int64((word >> np.uint64(44)) & np.uint64(0x7))
            index = state[1] * PIXELS + (row + (within & 3)) * 256 + column + (within >> 2)
            if index >= len(table):
                tally[5] += 1
                continue
            tick = np.int64((word & np.uint64(0xFFFF)) << np.uint64(14)) | np.int64(
                (word >> np.uint64(30)) & np.uint64(0x3FFF)
            )
            time = np.uint64(_unwrapped(int(tick), state))  # before the beginning: beyond 2^63, an invalid time
            n = tally[0]
            hits[n, 0] = table[index]
            hits[n, 1], hits[n, 2] = np.uint32(time & np.uint64(0xFFFFFFFF)), np.uint32(time >> np.uint64(32))
            fine, charge = (word >> np.uint64(16)) & np.uint64(0xF), (word >> np.uint64(20)) & np.uint64(0x3FF)
            hits[n, 3] = np.uint32(fine << np.uint64(8) | charge << np.uint64(16))
            tally[0] += 1
        elif kind == EDGE:
            steps = np.int64((word >> np.uint64(9)) & np.uint64(0x7FFFFFFFF))
            n = tally[1]
            edges[n, 0] = np.int64((word >> np.uint64(56)) & np.uint64(0xF))
            edges[n, 1] = _unwrapped(int(steps >> 3) & ((1 << 30) - 1), state) * 8 + (steps & 7)
            tally[1] += 1
        elif kind == INTEGRATED:
            tally[3] += 1
        elif kind not in QUIET:
            tally[4] += 1
    return stray
