"""What a stored 4D dataset is: its layout, its metadata, and what every reader and writer of one does.

The formats themselves are one module each. Frames are counted in the order in which they lie in the file.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, field_validator

from twin.errors import StemtwinError
from twin.options import NonNegative, Positive, validated
from twin.scan.plan import ScanPlan
from twin.suggest import nearest

Frames = NDArray[np.unsignedinteger]
Positive = Positive

DTYPES = ("uint8", "uint16", "uint32")
LARGEST_SIDE = 16384
"""Pixels along one side of a frame; a header that claims more is broken."""
LARGEST_SCAN = 2**31
"""Positions of a scan; a header that claims more is broken."""
BLOCK_BYTES = 64 * 2**20
"""What a block holds unless the caller says otherwise, and a chunk at most."""


class FormatError(StemtwinError, ValueError):
    """A file that cannot be read to its end, or data that a format cannot hold.

    Attributes:
        complete: whole frames (or records) in the file before the fault.
    """

    def __init__(self, message: str, complete: int = 0) -> None:
        super().__init__(message)
        self.complete = complete


@dataclass(frozen=True)
class Layout:
    """Shape of a dataset: `scan` positions of one frame of shape `camera` each.

    Attributes:
        scan: (rows, columns), or (N,) for a list of positions.
        camera: (H, W), y before x.
        dtype: of the counts: "uint8", "uint16" or "uint32".
        max_count: the largest count that can occur; None for what the dtype holds.
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
        """Frames of the whole scan."""
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
        """Frames that fit into `BLOCK_BYTES`, at least one."""
        return max(1, BLOCK_BYTES // self.frame_bytes)


class Beam(Protocol):
    """What a stream tells of the optics."""

    @property
    def energy_kev(self) -> float:
        """Of the beam."""
        ...

    @property
    def convergence_mrad(self) -> float:
        """Half angle."""
        ...

    @property
    def camera_pixel_mrad(self) -> float:
        """Angle of one camera pixel."""
        ...

    @property
    def camera_pixels(self) -> int:
        """Along a side of the camera."""
        ...


@validated
class Metadata:
    """What is known about a dataset; None where it is not.

    Attributes:
        step_nm: distance of neighbouring scan positions.
        dwell_s: time per position.
        rotation_deg: of the scan against the camera.
        energy_kev, convergence_mrad: the beam.
        pixel_mrad: angle of one camera pixel.
        dose_e: electrons per position.
        provenance: anything else, plain JSON: what made the data, from which scenario, seed and version.
    """

    step_nm: Positive | None = None
    dwell_s: Positive | None = None
    rotation_deg: float | None = None
    energy_kev: Positive | None = None
    convergence_mrad: Positive | None = None
    pixel_mrad: Positive | None = None
    dose_e: NonNegative | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @field_validator("provenance")
    @classmethod
    def _plain(cls, provenance: dict[str, Any]) -> dict[str, Any]:
        # By way of text, so that what is read back equals what was written (tuples are lists in JSON).
        try:
            plain: dict[str, Any] = json.loads(json.dumps(provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"provenance must be plain JSON: {error}") from None
        return plain

    @classmethod
    def of_scan(cls, plan: ScanPlan, optics: Beam, provenance: Mapping[str, Any]) -> Self:
        """What an operator knows of a scan: plan, beam and camera angle; no step where positions are listed."""
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
        """What is known, as JSON data."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, plain: Mapping[str, Any], label: str) -> Self:
        """The inverse of `plain`; `label` opens the error message.

        Raises:
            FormatError: an unknown key (names the nearest) or a value out of range.
        """
        known = list(cls.__dataclass_fields__)
        for key in plain:
            if key not in known:
                raise FormatError(f"{label}: {key} is not a metadata key{nearest(key, known)}")
        try:
            return cls(**plain)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise FormatError(f"{label}: {problem['loc'][0]}: {problem['msg']}") from None


class FrameReader(ABC):
    """A dataset opened for reading, whatever its format. Use it in a `with`, or close it.

    Attributes:
        layout, metadata: of the dataset.
        acquired: which scan positions have their frame, bool, shape `layout.scan`.
    """

    layout: Layout
    metadata: Metadata
    acquired: NDArray[np.bool_]

    @abstractmethod
    def read(self, first: int, count: int) -> Frames:
        """Frames `first` to `first + count`, shape (count, H, W).

        Raises:
            FormatError: outside the dataset, or the file is broken there.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    @property
    def extent(self) -> int:
        """Frames up to the last acquired one; all of them when the scan is complete."""
        there = np.flatnonzero(self.acquired)
        return int(there[-1]) + 1 if there.size else 0

    def blocks(self, frames: int | None = None) -> Iterator[tuple[int, Frames]]:
        """(index of the first frame, (n, H, W)) from the first frame to the last acquired one.

        Args:
            frames: frames per block; None for blocks of at most `BLOCK_BYTES`.
        """
        step = self.layout.block if frames is None else frames
        if step < 1:
            raise ValueError(f"a block holds at least one frame; got {step}")
        for first in range(0, self.extent, step):
            yield first, self.read(first, min(step, self.extent - first))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class FrameWriter(ABC):
    """A dataset being written. Frames are on disc when `append` returns; a crash later leaves them readable.

    Attributes:
        layout: what the file has room for.
        count: frames appended so far.
    """

    layout: Layout
    count: int

    def append(self, frames: Frames, pixel: NDArray[np.integer] | None = None) -> None:
        """The next frames in read-out order.

        Args:
            frames: counts, (n, H, W), unsigned.
            pixel: where each belongs in the image, (row, column), shape (n, 2); None for raster order.

        Raises:
            FormatError: wrong shape or type, a count above `layout.ceiling`, or no room left; nothing was written.
        """
        check_frames(frames, self.layout, self.count)
        self._write(frames, pixel)
        self.count += len(frames)

    @abstractmethod
    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        """Frames that belong into this dataset to disc, or an error and nothing."""

    @abstractmethod
    def close(self) -> None:
        """No more frames."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def check_frames(frames: Frames, layout: Layout, count: int) -> None:
    """Refuse frames that do not belong into a dataset of `layout` that holds `count` already.

    Raises:
        FormatError: names what was given and what is expected.
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


def check_span(first: int, count: int, reader: FrameReader) -> None:
    """Refuse to read outside a dataset.

    Raises:
        FormatError: names the frames there are.
    """
    if first < 0 or count < 0 or first + count > reader.layout.count:
        raise FormatError(f"frames {first} to {first + count} of a dataset of {reader.layout.count}")


def check_free(path: Path) -> None:
    """Refuse to write over a dataset.

    Raises:
        FormatError: something is there already.
    """
    if path.exists():
        raise FormatError(f"{path} exists; choose another name or remove it")
