"""Resampling of a scan to its true grid, once the shifts of its lines are known.

The signal of a position is divided between the neighbouring points of the grid, so that images and frames keep their
sums. Points where lines lie close together receive more, as the specimen did: `ShiftMap.exposure`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.quantify.errors import QuantifyError
from twin.arrays import Floats

REACH_PX, SHARPNESS = 1.5, 3
"""Distance up to which a line is shared out, and the power of the triangular kernel: of those tried, the one that
brings back most of a jittered wave of 6 to 20 px."""
ROUNDS = 4
"""Steps of the balance; more make the exposure less even for no better places."""
LARGEST_TILT = 20.0
SMALLEST = 1e-4
"""Shares below it are left out."""


@dataclass(frozen=True, eq=False)
class ShiftMap:
    """Where the lines of a scan belong on the true grid.

    Attributes:
        shift_px: actual minus intended position of the beam along x and y, of each line, (2, rows).
        lines: share of each recorded line (second index) in each line of the grid (first), (rows, rows); every column
            sums to one.
    """

    shift_px: Floats
    lines: Floats

    @classmethod
    def of(cls, shift_px: Floats) -> "ShiftMap":
        """Map of given shifts.

        Raises:
            QuantifyError: not two finite numbers per line.
        """
        shift = np.asarray(shift_px, np.float64)
        if shift.ndim != 2 or shift.shape[0] != 2 or shift.shape[1] < 2 or not np.isfinite(shift).all():
            raise QuantifyError(f"shifts are finite numbers of shape (2, rows), x before y; got shape {shift.shape}")
        return cls(shift, line_shares(np.arange(shift.shape[1]) + shift[1]))

    def targets(self, row: int, columns: int) -> tuple[NDArray[np.int64], Floats]:
        """Where the positions of one recorded line go.

        Args:
            row: the recorded line.
            columns: positions of a line.

        Returns:
            (line, column) of the K places of the grid that share each position, (columns, K, 2), and their shares,
            (columns, K), which sum to one.
        """
        lines = np.flatnonzero(self.lines[:, row])
        first, share = _columns(float(self.shift_px[0, row]), columns)
        beside = np.stack([first, np.minimum(first + 1, columns - 1)], axis=1)
        place = np.empty((columns, len(lines), 2, 2), np.int64)
        place[..., 0], place[..., 1] = lines[None, :, None], beside[:, None, :]
        parts = self.lines[lines, row][None, :, None] * np.stack([1 - share, share], axis=1)[:, None, :]
        return place.reshape(columns, -1, 2), parts.reshape(columns, -1)

    def exposure(self, columns: int) -> Floats:
        """Positions of the scan that each place of the grid received, (rows, columns)."""
        return self.image(np.ones((self.shift_px.shape[1], columns)))

    def image(self, recorded: Floats) -> Floats:
        """An image of the scan on the true grid, (rows, columns); its sum is kept.

        Example:
            >>> import numpy as np
            >>> shift_px = np.array([[0.5, 0.0, -0.5], [0.0, 0.0, 0.0]])
            >>> ShiftMap.of(shift_px).image(np.eye(3)).round(2).tolist()
            [[0.48, 0.49, 0.0], [0.02, 1.03, 0.02], [0.0, 0.49, 0.48]]
        """
        rows, columns = recorded.shape
        moved = np.zeros((rows, columns))
        for row in range(rows):
            first, share = _columns(self.shift_px[0, row], columns)
            np.add.at(moved[row], first, (1 - share) * recorded[row])
            np.add.at(moved[row], np.minimum(first + 1, columns - 1), share * recorded[row])
        return self.lines @ moved


def _columns(shift_px: float, columns: int) -> tuple[NDArray[np.int64], Floats]:
    """First of the two columns that share each position, and the share of the second; beyond the edge, all at it."""
    place = np.clip(np.arange(columns) + shift_px, 0, columns - 1)
    first = np.minimum(place.astype(np.int64), columns - 1)
    return first, place - first


def line_shares(place_px: Floats) -> Floats:
    """Shares of lines at given places in the lines of a regular grid, (rows, rows); every column sums to one.

    The kernel is tilted for each line of the grid until the mean position of the lines that it receives is its own.
    Images are then right to first order. Weights by distance alone would not be, because lines are unevenly spaced.

    Args:
        place_px: place of each recorded line, (rows,); those beyond the grid count to its first or last line.
    """
    rows = len(place_px)
    apart = np.clip(place_px, 0, rows - 1)[None, :] - np.arange(rows)[:, None]
    kernel = np.maximum(1.0 - np.abs(apart) / REACH_PX, 0.0) ** SHARPNESS
    shares, tilt = kernel / kernel.sum(axis=0), np.zeros(rows)
    for _ in range(ROUNDS):
        total = np.maximum(shares.sum(axis=1), SMALLEST)
        mean = (shares * apart).sum(axis=1) / total
        variance = (shares * apart**2).sum(axis=1) / total - mean**2
        step = np.clip(0.7 * mean / np.maximum(variance, 0.02), -2.0, 2.0)
        tilt = np.clip(tilt - step, -LARGEST_TILT, LARGEST_TILT)
        shares = kernel * np.exp(tilt[:, None] * apart)
        shares /= shares.sum(axis=0)
    shares[shares < SMALLEST] = 0.0
    return np.asarray(shares / shares.sum(axis=0))
