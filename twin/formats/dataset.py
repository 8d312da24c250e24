"""A stored 4D dataset: its layout, its metadata, and the base classes of its readers and writers.

Each format is one module. Frames are numbered in the order of the file.
"""

import json
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from twin.errors import StemtwinError, nearest, printable, reason
from twin.formats.closing import Closing
from twin.options import NonNegative, OptionError, Positive, checked_options, validated
from twin.scan.plan import ScanPlan
from twin.text import json_text

Frames = NDArray[np.unsignedinteger]

DTYPES = ("uint8", "uint16", "uint32")
LARGEST_SIDE = 16384
"""Pixels along one side of a frame; a header that claims more is invalid."""
LARGEST_SCAN = 2**31
"""Positions of a scan; a header that claims more is invalid."""
BLOCK_BYTES = 64 * 2**20
"""Default size of a block, and largest size of a chunk."""


class FormatError(StemtwinError, ValueError):
    """A file that cannot be read to its end, or data that a format cannot hold.

    Attributes:
        complete: complete frames (or records) in the file before the fault.
        lost: number of frames that the fault takes with it, from `complete` on.
    """

    def __init__(self, message: str, complete: int = 0, lost: int = 1) -> None:
        super().__init__(message)
        self.complete, self.lost = complete, lost


@dataclass(frozen=True)
class Layout:
    """Shape of a dataset: `scan` positions of one frame of shape `camera` each.

    Attributes:
        scan: (rows, columns), or (N,) for a list of positions.
        camera: (H, W), y before x.
        dtype: of the counts: "uint8", "uint16" or "uint32".
        max_count: the largest count that can occur; None: the limit of the dtype.
    """

    scan: tuple[int, ...]
    camera: tuple[int, int]
    dtype: str = "uint16"
    max_count: int | None = None

    def __post_init__(self) -> None:
        if len(self.scan) not in (1, 2) or len(self.camera) != 2:
            raise FormatError(f"a dataset is (rows, columns) or (N,) frames of (H, W); got {self.scan}, {self.camera}")
        if any(side < 1 for side in self.scan) or self.count > LARGEST_SCAN:
            raise FormatError(f"a scan has 1 to {LARGEST_SCAN} positions; got {self.scan}")
        if any(not 1 <= side <= LARGEST_SIDE for side in self.camera):
            raise FormatError(f"a frame has 1 to {LARGEST_SIDE} pixels along a side; got {self.camera}")
        if self.dtype not in DTYPES:
            raise FormatError(
                f"counts are {', '.join(DTYPES)}; got {self.dtype!r}{nearest(self.dtype, DTYPES, cutoff=0.4)}"
            )
        if self.max_count is not None and not 1 <= self.max_count <= np.iinfo(self.dtype).max:
            raise FormatError(f"max_count {self.max_count} does not fit {self.dtype}, 1 to {np.iinfo(self.dtype).max}")

    @property
    def count(self) -> int:
        """Number of frames of the scan."""
        return math.prod(self.scan)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame in memory."""
        return math.prod(self.camera) * np.dtype(self.dtype).itemsize

    @property
    def ceiling(self) -> int:
        """The largest count that can occur."""
        return int(np.iinfo(self.dtype).max) if self.max_count is None else self.max_count

    @property
    def block(self) -> int:
        """Number of frames that fit into `BLOCK_BYTES`, at least one."""
        return max(1, BLOCK_BYTES // self.frame_bytes)


class Beam(Protocol):
    """Optics of a stream."""

    @property
    def energy_kev(self) -> float:
        """Beam energy."""
        ...

    @property
    def convergence_mrad(self) -> float:
        """Convergence semi-angle."""
        ...

    @property
    def camera_pixel_mrad(self) -> float:
        """Angle of one camera pixel."""
        ...

    @property
    def camera_pixels(self) -> int:
        """Pixels along a side of the camera."""
        ...


@validated
class Metadata:
    """Metadata of a dataset; None where unknown.

    Attributes:
        step_nm: distance of neighbouring scan positions.
        dwell_s: time per position.
        rotation_deg: of the scan against the camera.
        energy_kev, convergence_mrad: the beam.
        pixel_mrad: angle of one camera pixel.
        centre_px: (row, column) of zero angle; None: (H // 2, W // 2).
        dose_e: electrons per position.
        provenance: plain JSON: the origin of the data, for example scenario, seed and version.
    """

    step_nm: Positive | None = None
    dwell_s: Positive | None = None
    rotation_deg: float | None = None
    energy_kev: Positive | None = None
    convergence_mrad: Positive | None = None
    pixel_mrad: Positive | None = None
    centre_px: tuple[float, float] | None = None
    dose_e: NonNegative | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @field_validator("provenance")
    @classmethod
    def _plain(cls, provenance: dict[str, Any]) -> dict[str, Any]:
        # Through text, so that the value read back equals the value written (tuples become lists in JSON).
        try:
            plain: dict[str, Any] = json.loads(json.dumps(provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"provenance must be plain JSON: {error}") from None
        return plain

    @classmethod
    def of_scan(cls, plan: ScanPlan, optics: Beam, provenance: Mapping[str, Any]) -> Self:
        """Return the metadata of a scan: plan, beam and camera angle; without a step for a list of positions."""
        return cls(
            step_nm=None if plan.pattern == "list" else plan.step_nm,
            dwell_s=plan.dwell_s,
            rotation_deg=plan.rotation_deg,
            energy_kev=optics.energy_kev,
            convergence_mrad=optics.convergence_mrad,
            pixel_mrad=optics.camera_pixel_mrad,
            dose_e=plan.dose_e,
            provenance=dict(provenance),
        )

    def plain(self) -> dict[str, Any]:
        """Return the known values as plain JSON data."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, plain: Mapping[str, Any], label: str) -> Self:
        """Build from plain values, the inverse of `plain`; `label` opens an error message.

        Raises:
            FormatError: an unknown key (names the nearest) or an invalid value.
        """
        try:
            return checked_options(cls, plain)
        except OptionError as error:
            raise FormatError(f"{label}: {error}") from None


class FrameReader(Closing):
    """A dataset opened for reading, of any format.

    Attributes:
        layout, metadata: of the dataset.
        acquired: whether each scan position has its frame, bool, shape `layout.scan`.
        notes: one sentence for each statement of the file that cannot be used, and for each damaged part left out.
        tolerate: `blocks` goes on without damaged frames, and notes them.
    """

    layout: Layout
    metadata: Metadata
    acquired: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    tolerate: bool = False

    def read(self, first: int, count: int) -> Frames:
        """Return frames `first` to `first + count`, shape (count, H, W).

        Raises:
            FormatError: outside the dataset, or the file is damaged there.
        """
        if first < 0 or count < 0 or first + count > self.layout.count:
            raise FormatError(f"frames {first} to {first + count} of a dataset of {self.layout.count}")
        return self._read(first, count)

    @abstractmethod
    def _read(self, first: int, count: int) -> Frames:
        """Return frames within the dataset."""

    @property
    def extent(self) -> int:
        """Number of frames up to the last acquired one."""
        backwards = self.acquired.ravel()[::-1]
        last = int(np.argmax(backwards))
        return backwards.size - last if backwards[last] else 0

    def blocks(self, frames: int | None = None) -> Iterator[tuple[int, Frames]]:
        """Yield (index of the first frame, frames (n, H, W)) up to the last acquired frame.

        Args:
            frames: per block; None: blocks of at most `BLOCK_BYTES`.

        Raises:
            FormatError: the file is damaged, and not `tolerate`.
        """
        step = self.layout.block if frames is None else frames
        if step < 1:
            raise ValueError(f"a block holds at least one frame; got {step}")
        for first in range(0, self.extent, step):
            last = min(first + step, self.extent)
            if self.tolerate:
                yield from self._whole(first, last)
            else:
                yield first, self.read(first, last - first)

    def _whole(self, first: int, last: int) -> Iterator[tuple[int, Frames]]:
        """Yield the frames from `first` to before `last` that can be read; note the others."""
        while first < last:
            try:
                frames = self.read(first, last - first)
            except FormatError as error:
                broken = max(error.complete, first) if error.complete < last else first
                if broken > first:
                    yield from self._whole(first, broken)
                after = min(broken + max(1, error.lost), last)
                self._leave_out(broken, after, str(error))
                first = after
            else:
                yield first, frames
                return

    def _leave_out(self, first: int, last: int, why: str) -> None:
        self.acquired.reshape(-1)[first:last] = False
        if why not in self.notes:
            self.notes += (why,)


class FrameWriter(Closing):
    """A dataset being written. Frames are on disc when `append` returns, and survive a later crash.

    Attributes:
        layout: of the complete dataset.
        count: frames appended so far.
    """

    layout: Layout
    count: int

    def append(self, frames: Frames, pixel: NDArray[np.integer] | None = None) -> None:
        """Append frames in read-out order.

        Args:
            frames: counts, (n, H, W), unsigned.
            pixel: position in the image, (row, column), shape (n, 2); None for raster order.

        Raises:
            FormatError: wrong shape or type, a count above `layout.ceiling`, or too many frames; nothing was written.
        """
        check_frames(frames, self.layout, self.count)
        self._write(frames, pixel)
        self.count += len(frames)

    @abstractmethod
    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        """Write checked frames to disc, or raise and write nothing."""


def check_frames(frames: Frames, layout: Layout, count: int) -> None:
    """Refuse frames that do not fit a dataset of `layout` after its first `count` frames.

    Raises:
        FormatError: names the given and the expected value.
    """
    if frames.ndim != 3 or frames.shape[1:] != layout.camera:
        raise FormatError(f"frames have shape (n, {layout.camera[0]}, {layout.camera[1]}); got {frames.shape}")
    if not np.issubdtype(frames.dtype, np.unsignedinteger):
        raise FormatError(f"counts are unsigned integers; got {frames.dtype}")
    if count + len(frames) > layout.count:
        raise FormatError(f"{len(frames)} frames after {count} do not fit a scan of {layout.scan}: {layout.count}")
    largest = int(frames.max(initial=0))
    if largest > layout.ceiling:
        worst = count + int(np.argmax(frames.reshape(len(frames), -1).max(axis=1)))
        raise FormatError(f"frame {worst} counts up to {largest}; this dataset holds at most {layout.ceiling}")


def json_object(text: Any, label: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        FormatError: not one; begins with `label`.
    """
    try:
        plain = json_text.loads(text)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{label} is not a JSON object: {printable(error)}") from None
    if not isinstance(plain, dict):
        raise FormatError(f"{label} is not a JSON object")
    return plain


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn whatever a library raises at a file's contents into one sentence that names the file.

    Raises:
        FormatError: instead of any other error.
    """
    try:
        yield
    except FormatError as error:
        if path.name in str(error):
            raise
        raise FormatError(f"{path}: {error}", error.complete, error.lost) from None
    except Exception as error:
        raise FormatError(f"{path}: damaged, or not of this format: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the number of the system's, or its type."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else reason(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def numbers(what: str, first: int, last: int) -> str:
    """Return "frame 3", or "frames 3 to 5"; `last` included."""
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"


def check_free(path: Path) -> None:
    """Refuse to overwrite a dataset.

    Raises:
        FormatError: the path exists, a link that leads nowhere included.
    """
    if os.path.lexists(path):
        raise FormatError(f"{path} exists; choose another name or remove it")
