"""Intended probe positions and times: scan patterns in read-out order on the scan's own clock.

Actual positions are in `scan/errors.py`. No physics, only numpy.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from twin.arrays import Floats
from twin.errors import check_known
from twin.options import validated

Integers = NDArray[np.int32]
Pattern = Literal["raster", "serpentine", "subsampled", "list"]
Side = Annotated[int, Gt(0), Le(2**20)]
Pause = Annotated[float, Ge(0), Le(1e5)]
Place = Annotated[float, Ge(-1e9), Le(1e9)]
"""Along one axis, nm: up to a metre, so that no sum overflows."""

SHORTEST_DWELL_S = 1e-12
LONGEST_SCAN_S = 1e10
"""About 300 years: a camera's calendar still reaches the end."""


@validated
class ScanPlan:
    """Settings of a scan.

    Positions lie on a grid of `rows` x `columns` around `centre_nm`; columns run along the fast axis, which
    `rotation_deg` rotates from +x towards +y. A list has no grid: its shape is (1, N), and every position is a line
    of its own, since the beam jumps there.

    Limits: a step of 1e-6 to 1e6 nm, places up to 1e9 nm, a dwell of 1e-12 s or more, times up to 1e5 s each and 1e10 s
    in all. Everything that is computed from a plan is therefore finite.

    Times: each line waits `settle_s`, then dwells on its positions without gaps. Between two lines of a raster or a
    sub-sampled scan the beam flies back for `flyback_s`; serpentine scans and lists have no flyback.

    Attributes:
        pattern: "raster", "serpentine" (odd lines backwards), "subsampled" (part of a raster) or "list".
        rows, columns: positions along the slow and the fast axis; not used by a list.
        step_nm: distance of neighbouring positions; not used by a list.
        fraction: fraction of the grid that a sub-sampled scan visits.
        subsample: omit random "pixels" of every line, or whole "lines".
        pattern_seed: seed of a sub-sampled pattern.
        positions_nm: positions of a list, (x, y) from the centre along the scan's axes.
        dwell_s: dwell time per position.
        flyback_s: return to the start of the next line.
        settle_s: wait at the start of each line, including the first.
        rotation_deg: rotation of the scan axes against the specimen's.
        centre_nm: (x, y) of the middle of the grid in the specimen; None is the origin until `placed` sets it to the
            middle of a specimen.
        dose_e: electrons of the beam per position.

    Example:
        >>> plan = ScanPlan(rows=3, columns=4, step_nm=0.1, dwell_s=1e-3, flyback_s=2e-3)
        >>> plan.shape, plan.count
        ((3, 4), 12)
        >>> round(duration_s(plan) * 1e3)  # 12 dwells and 2 flybacks, ms
        16
        >>> [len(path) for path in paths(plan, block=5)]
        [5, 5, 2]
    """

    pattern: Pattern = "raster"
    rows: Side = 64
    columns: Side = 64
    step_nm: Annotated[float, Ge(1e-6), Le(1e6)] = 0.02
    fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    subsample: Literal["pixels", "lines"] = "pixels"
    pattern_seed: Annotated[int, Ge(0), Lt(2**64)] = 0
    positions_nm: tuple[tuple[Place, Place], ...] = ()
    dwell_s: Annotated[float, Gt(0), Le(1e5)] = 1e-3
    flyback_s: Pause = 0.0
    settle_s: Pause = 0.0
    rotation_deg: Annotated[float, Ge(-360), Le(360)] = 0.0
    centre_nm: tuple[Place, Place] | None = None
    dose_e: Annotated[float, Gt(0), Le(1e15)] = 1e4

    @field_validator("pattern", mode="before")
    @classmethod
    def _known_pattern(cls, pattern: Any) -> Any:
        check_known(pattern, get_args(Pattern), "a scan pattern")
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pattern == "list" and not self.positions_nm:
            raise ValueError("a list scan needs positions_nm, at least one (x, y)")
        if self.pattern != "list" and self.positions_nm:
            raise ValueError(f"positions_nm belongs to pattern list; this one is {self.pattern}")
        if self.pattern != "subsampled" and self.fraction != 1.0:
            raise ValueError(f"fraction {self.fraction:g} belongs to pattern subsampled; this one is {self.pattern}")
        if self.count == 0:
            raise ValueError(
                f"fraction {self.fraction:g} of {self.rows} x {self.columns} by {self.subsample} visits nothing"
            )
        return self

    @model_validator(mode="after")
    def _finite(self) -> Self:
        if self.dwell_s < SHORTEST_DWELL_S:
            raise ValueError(f"dwell_s {self.dwell_s:g} s is below {SHORTEST_DWELL_S:g} s, the shortest")
        rows, columns = self.shape
        lines = columns if self.pattern == "list" else rows
        seconds = self.count * self.dwell_s + lines * (self.settle_s + self.flyback_s)
        if seconds > LONGEST_SCAN_S:
            raise ValueError(
                f"this scan would take {seconds:.3g} s; {LONGEST_SCAN_S:g} s is the limit: fewer positions, a shorter"
                " dwell_s, settle_s or flyback_s"
            )
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image; (1, N) for a list."""
        return (1, len(self.positions_nm)) if self.pattern == "list" else (self.rows, self.columns)

    @property
    def count(self) -> int:
        """Number of positions visited."""
        if self.pattern == "subsampled" and self.subsample == "lines":
            return round(self.fraction * self.rows) * self.columns
        rows, columns = self.shape
        return round(self.fraction * rows * columns)

    @property
    def origin_nm(self) -> Floats:
        """Centre of the pattern, (x, y), shape (2,); zero if none is given."""
        return np.zeros(2) if self.centre_nm is None else np.array(self.centre_nm)


@plain_dataclass(frozen=True, eq=False)
class ScanPath:
    """Consecutive positions of a scan, in read-out order; read-only arrays of one length N.

    Attributes:
        first: index of the first position in read-out order.
        intended_nm: (N, 2), (x, y) in the specimen.
        pixel: (N, 2), (row, column) in the image.
        line: (N,), number of the line among those visited, from 0; not the row of the image.
        start_s, end_s: (N,), start and end of the dwell since the scan began.
        plan: the whole scan.
    """

    first: int
    intended_nm: Floats
    pixel: Integers
    line: Integers
    start_s: Floats
    end_s: Floats
    plan: ScanPlan

    def __post_init__(self) -> None:
        for array in (self.intended_nm, self.pixel, self.line, self.start_s, self.end_s):
            array.flags.writeable = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A pickled array comes back writeable: paths from another process stay read-only too.
        self.__dict__.update(state)
        self.__post_init__()

    def __len__(self) -> int:
        return len(self.line)


class Extent(NamedTuple):
    """A rectangle along the specimen's axes, nm."""

    left_nm: float
    right_nm: float
    top_nm: float
    bottom_nm: float


def paths(plan: ScanPlan, block: int) -> Iterator[ScanPath]:
    """Iterate over the scan in blocks of at most `block` positions, in read-out order; memory scales with the block.

    Blocks ignore lines; only the last may be shorter.

    Raises:
        ValueError: `block` is not positive.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1 position, got {block}")
    return (path(plan, first, min(first + block, plan.count)) for first in range(0, plan.count, block))


def path(plan: ScanPlan, first: int, stop: int) -> ScanPath:
    """Positions `first` to `stop` (excluded) in read-out order.

    Raises:
        ValueError: not 0 <= first < stop <= plan.count.
    """
    if not 0 <= first < stop <= plan.count:
        raise ValueError(f"positions {first} to {stop} are not within the scan's 0 to {plan.count}")
    index = np.arange(first, stop)
    line, pixel = _lines_and_pixels(plan, index)
    if plan.pattern == "list":
        offset_nm = np.array(plan.positions_nm[first:stop], dtype=np.float64).reshape(-1, 2)
    else:
        middle = (np.array([plan.columns, plan.rows]) - 1) / 2
        offset_nm = plan.step_nm * (pixel[:, ::-1] - middle)
    intended_nm = plan.origin_nm + along(offset_nm, scan_axes(plan))
    start_s = plan.dwell_s * index + plan.settle_s * (line + 1) + _flyback_s(plan) * line
    return ScanPath(
        first, intended_nm, pixel.astype(np.int32), line.astype(np.int32), start_s, start_s + plan.dwell_s, plan
    )


def scan_axes(plan: ScanPlan) -> Floats:
    """Unit vectors of the fast and of the slow axis as rows, (x, y) each, shape (2, 2).

    `rotation_deg` rotates the fast axis from +x towards +y (clockwise in an image with rows downwards).
    """
    angle = math.radians(plan.rotation_deg)
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [-s, c]])


def along(components: Floats, axes: Floats) -> Floats:
    """Vectors (N, 2) from their components (N, 2) along two axes, which are rows of (2, 2).

    Not a matrix product: its rounding may depend on N, and a scan must not depend on how it is cut into blocks.
    """
    return components[:, :1] * axes[0] + components[:, 1:] * axes[1]


def duration_s(plan: ScanPlan) -> float:
    """Time from the start of the scan to the end of its last dwell; no flyback follows."""
    return float(path(plan, plan.count - 1, plan.count).end_s[0])


def extent_nm(plan: ScanPlan) -> Extent:
    """Bounding rectangle of the grid or list; of a sub-sampled scan, of the whole grid."""
    if plan.pattern == "list":
        corners = np.array(plan.positions_nm)
    else:
        half = plan.step_nm * (np.array([plan.columns, plan.rows]) - 1) / 2
        corners = half * np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)])
    x, y = (plan.origin_nm + along(corners, scan_axes(plan))).T
    return Extent(float(x.min()), float(x.max()), float(y.min()), float(y.max()))


def placed(plan: ScanPlan, width_nm: float, height_nm: float) -> ScanPlan:
    """Return the plan, centred in a specimen of that size unless it has a centre."""
    if plan.centre_nm is not None:
        return plan
    return replace(plan, centre_nm=(width_nm / 2, height_nm / 2))


def check_dwell(plan: ScanPlan, readout_s: float) -> None:
    """Refuse a dwell time that the camera's read-out fills: nothing would be exposed.

    Raises:
        ValueError: with both times.
    """
    if plan.dwell_s <= readout_s:
        relation = "all taken up by" if plan.dwell_s == readout_s else "shorter than"
        raise ValueError(
            f"dwell_s {plan.dwell_s:g} s is {relation} the camera's read-out of {readout_s:g} s;"
            f" use dwell_s > {readout_s:g}"
        )


ROUNDING_NM = 1e-9
"""Tolerance for rounding of a scan that touches the specimen's edge."""


def check_extent(plan: ScanPlan, width_nm: float, height_nm: float) -> None:
    """Refuse a scan that leaves a specimen spanning 0 to `width_nm` along x and 0 to `height_nm` along y.

    Raises:
        ValueError: with both extents and a remedy.
    """
    extent = extent_nm(plan)
    for axis, low, high, size in (
        ("x", extent.left_nm, extent.right_nm, width_nm),
        ("y", extent.top_nm, extent.bottom_nm, height_nm),
    ):
        if low < -ROUNDING_NM or high > size + ROUNDING_NM:
            if high - low > size:
                advice = f"it is {high - low:g} nm wide: fewer positions or a smaller step_nm would fit"
            else:
                advice = f"centre_nm ({width_nm / 2:g}, {height_nm / 2:g}) is the middle of the specimen"
            raise ValueError(
                f"the scan goes from {low:g} to {high:g} nm along {axis}; the specimen spans 0 to {size:g} nm; {advice}"
            )


def _flyback_s(plan: ScanPlan) -> float:
    return plan.flyback_s if plan.pattern in ("raster", "subsampled") else 0.0


def _lines_and_pixels(plan: ScanPlan, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Line, (N,), and (row, column), (N, 2), of the positions with these indices in read-out order."""
    if plan.pattern == "list":
        return index, np.stack([np.zeros_like(index), index], axis=1)
    if plan.pattern == "subsampled" and plan.subsample == "pixels":
        return _scattered(plan, index)
    line, column = np.divmod(index, plan.columns)
    row = line
    if plan.pattern == "serpentine":
        column = np.where(line % 2 == 1, plan.columns - 1 - column, column)
    elif plan.pattern == "subsampled":
        row = _visited_rows(plan.rows, round(plan.fraction * plan.rows), plan.pattern_seed)[line]
    return line, np.stack([row, column], axis=1)


def _scattered(plan: ScanPlan, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lines and pixels of a random mask.

    Positions are spread evenly over the rows: floor(r count / rows) come before row r. Within a row, all choices of
    that many columns are equally likely; the choice depends only on the seed and the row.
    """
    rows, count = plan.rows, plan.count
    row = ((index + 1) * rows - 1) // count
    before = row * count // rows
    in_row = (row + 1) * count // rows - before
    column = np.empty_like(index)
    for r in np.unique(row):
        members = row == r
        visited = _visited_columns(plan.columns, int(in_row[members][0]), plan.pattern_seed, int(r))
        column[members] = visited[(index - before)[members]]
    # With fewer positions than rows, no row has more than one; empty rows are not lines.
    return (row if count >= rows else index), np.stack([row, column], axis=1)


@lru_cache(maxsize=4)
def _visited_columns(columns: int, count: int, seed: int, row: int) -> NDArray[np.int64]:
    """Columns of one row of a random mask, ascending, shape (count,)."""
    return np.sort(np.random.default_rng([seed, 0, row]).permutation(columns)[:count])


@lru_cache(maxsize=4)
def _visited_rows(rows: int, count: int, seed: int) -> NDArray[np.int64]:
    """Rows of a scan sub-sampled by lines, ascending, shape (count,)."""
    return np.sort(np.random.default_rng([seed, 1]).permutation(rows)[:count])
