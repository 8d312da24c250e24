"""Single-sideband sums over a scan, row by row: psi(Q) = sum_r exp(-2 pi i Q r) sum_K w(Q, K) I(r, K).

Each row of the scan is transformed along the fast axis, weighted and dropped. The sum is linear: rows may come in parts
and in any order, and missing positions count as zero.
"""

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from agents.ssb.weights import Integers, Singles, Trotters
from twin.arrays import Floats

Complex = NDArray[np.complex128]
Frames = NDArray[np.unsignedinteger]

Arrays = tuple[NDArray[np.int64], Integers, Integers, NDArray[np.int64], Singles, Singles]
"""`first`, `square`, `begin`, `offset`, `real`, `imag` of `Trotters`."""

PENDING = 4
"""Incomplete rows that are kept; when another one begins, the oldest is folded in as it is."""


def squares(frames: Frames, label: Integers, count: int) -> Singles:
    """Sum the counts of frames of either byte order over squares, (N, count).

    Args:
        frames: (N, H, W).
        label: square of every pixel, -1 for none, (H, W).
        count: number of squares.
    """
    rows, columns = np.flatnonzero((label >= 0).any(axis=1)), np.flatnonzero((label >= 0).any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    disc = frames[:, *window]
    if not disc.dtype.isnative:
        disc = disc.astype(disc.dtype.newbyteorder("="))
    out = np.zeros((len(frames), count), np.float32)
    _sum_squares(disc, np.ascontiguousarray(label[window]), out)
    return out


@numba.njit(cache=True)
def _sum_squares(frames: Frames, label: Integers, out: Singles) -> None:
    for n in range(frames.shape[0]):
        for y in range(frames.shape[1]):
            for x in range(frames.shape[2]):
                k = label[y, x]
                if k >= 0:
                    out[n, k] += frames[n, y, x]


@numba.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def fold_row(
    spectrum: NDArray[np.complex64],
    phase: NDArray[np.complex128],
    arrays: Arrays,
    psi: Complex,
) -> None:
    """Add one row of the scan: psi(Q) += phase(slow) * sum_K w(Q, K) * spectrum(fast, K).

    Args:
        spectrum: transform of the row along the fast axis, (fast frequencies, K).
        phase: exp(-2 pi i q y) of this row, (slow frequencies,).
        arrays: the weights.
        psi: (fast frequencies, slow frequencies).
    """
    first, square, begin, offset, real, imag = arrays
    count = psi.shape[1]
    sum_re, sum_im = np.empty(count, np.float32), np.empty(count, np.float32)
    for fast in range(spectrum.shape[0]):
        if first[fast] == first[fast + 1]:
            continue
        sum_re[:] = 0
        sum_im[:] = 0
        for run in range(first[fast], first[fast + 1]):
            value = spectrum[fast, square[run]]
            re, im = value.real, value.imag
            a, b = offset[run], offset[run + 1]
            # Slices: the compiler vectorises a loop only if no index can be negative.
            w = real[a:b]
            to_re = sum_re[begin[run] : begin[run] + b - a]
            to_im = sum_im[begin[run] : begin[run] + b - a]
            if imag.size == 0:
                for i in range(len(w)):
                    to_re[i] += w[i] * re
                    to_im[i] += w[i] * im
            else:
                v = imag[a:b]
                for i in range(len(w)):
                    to_re[i] += w[i] * re - v[i] * im
                    to_im[i] += w[i] * im + v[i] * re
        for i in range(count):
            psi[fast, i] += phase[i] * complex(sum_re[i], sum_im[i])


@numba.njit(cache=True)
def weighted_power(mean: Floats, arrays: Arrays, out: Floats) -> None:
    """Add sum_K |w(Q, K)|^2 mean(K) to `out`, (fast frequencies, slow frequencies)."""
    first, square, begin, offset, real, imag = arrays
    for fast in range(out.shape[0]):
        for run in range(first[fast], first[fast + 1]):
            for i in range(offset[run + 1] - offset[run]):
                weight = real[offset[run] + i] ** 2
                if imag.size:
                    weight += imag[offset[run] + i] ** 2
                out[fast, begin[run] + i] += weight * mean[square[run]]


class Visits:
    """The positions of a scan that have been visited.

    Attributes:
        visited: (rows, columns).
        repeated: number of positions that came more than once, each repetition counted.
    """

    def __init__(self, scan: tuple[int, int]) -> None:
        self.visited, self.repeated = np.zeros(scan, bool), 0

    def add(self, pixel: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Mark positions (row, column), (N, 2), as visited; return which of them come for the first time, (N,)."""
        flat = pixel[:, 0].astype(np.int64) * self.visited.shape[1] + pixel[:, 1]
        new = np.zeros(len(flat), bool)
        new[np.unique(flat, return_index=True)[1]] = True
        new &= ~self.visited.ravel()[flat]
        self.visited.ravel()[flat] = True
        self.repeated += len(flat) - int(new.sum())
        return new


class SidebandSum:
    """The sums of one scan with one set of weights. Memory: psi, the weights and `PENDING` rows.

    Args:
        scan: rows and columns.
        weights: weights of every spatial frequency.
        count: squares of the disc.

    Attributes:
        visited: positions in the sums, (rows, columns).
        pattern: total counts in every square, (K,).
    """

    def __init__(self, scan: tuple[int, int], weights: Trotters, count: int) -> None:
        self.scan, self.weights = scan, weights
        self.visited = np.zeros(scan, bool)
        self.pattern = np.zeros(count)
        self._psi: Complex = np.zeros(weights.response.shape, np.complex128)
        self._pending: dict[int, Singles] = {}
        self._missing: dict[int, int] = {}
        self._arrays: Arrays = (
            weights.first, weights.square, weights.begin, weights.offset, weights.real, weights.imag
        )  # fmt: skip

    def add(self, counts: Singles, pixel: NDArray[np.integer]) -> None:
        """Fold in positions that are not in the sums yet.

        Args:
            counts: counts in every square, (N, K).
            pixel: (row, column) of each position, (N, 2), without repetitions.
        """
        self.visited[pixel[:, 0], pixel[:, 1]] = True
        self.pattern += counts.sum(axis=0, dtype=np.float64)
        cuts = np.flatnonzero(np.diff(pixel[:, 0])) + 1
        for part in np.split(np.arange(len(counts)), cuts):
            if len(part):
                self._add_to_row(int(pixel[part[0], 0]), pixel[part, 1], counts[part[0] : part[-1] + 1])

    @property
    def count(self) -> int:
        """Number of positions in the sums."""
        return int(np.count_nonzero(self.visited))

    def psi(self) -> Complex:
        """The sums, less those of the mean pattern, (fast frequencies, slow frequencies).

        The transform of the outline of an incomplete scan would otherwise multiply the mean pattern.
        """
        psi: Complex = self._psi.copy()
        for row, counts in self._pending.items():
            self._fold(row, counts, psi)
        count = self.count
        if 0 < count < self.visited.size:
            flat = np.zeros_like(psi)
            mean = np.tile((self.pattern / count).astype(np.complex64), (len(psi), 1))
            fold_row(mean, np.ones(psi.shape[1], np.complex128), self._arrays, flat)
            outline = scipy.fft.rfft2(self.visited.astype(np.float64))
            psi -= flat * np.fft.fftshift(outline, axes=0).T
        return psi

    def noise(self) -> Floats:
        """Variance of psi for Poisson counts, sum_r sum_K |w|^2 I, (fast frequencies, slow frequencies)."""
        power = np.zeros(self._psi.shape)
        weighted_power(self.pattern, self._arrays, power)
        return power

    def _add_to_row(self, row: int, column: NDArray[np.integer], counts: Singles) -> None:
        columns = self.scan[1]
        if row not in self._pending and len(column) == columns:
            whole = counts
            if not np.array_equal(column, np.arange(columns)):
                whole = np.empty_like(counts)
                whole[column] = counts
            self._fold(row, whole, self._psi)
            return
        if row not in self._pending:
            if len(self._pending) == PENDING:
                oldest = next(iter(self._pending))
                self._fold(oldest, self._pending.pop(oldest), self._psi)
            self._pending[row] = np.zeros((columns, counts.shape[1]), np.float32)
            self._missing[row] = columns
        self._pending[row][column] = counts
        self._missing[row] -= len(column)
        if self._missing[row] == 0:
            self._fold(row, self._pending.pop(row), self._psi)

    def _fold(self, row: int, counts: Singles, psi: Complex) -> None:
        rows = self.scan[0]
        spectrum = scipy.fft.rfft(counts, axis=0)
        # Remove whole turns before the exponential: they would cost digits.
        turns = (np.arange(rows) - rows // 2) * row % rows / rows
        fold_row(spectrum, np.exp(-2j * np.pi * turns), self._arrays, psi)
