"""A scan put onto its true grid: shifts of the lines from its own dark-field image, and the frames moved by them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.quantify.resample import ShiftMap
from scenarios.folders import NotWritten, sentence
from twin.arrays import Floats
from twin.errors import StemtwinError
from twin.formats import FormatError, check_suffix
from twin.formats.dataset import check_free
from twin.formats.file_checks import check_regular
from twin.references.image_files import read_array

Progress = Callable[[int], None]
"""Called with the number of positions done."""


MOST_SHIFT_BYTES = 2**24
"""Of a file of shifts: more than a million lines."""


class UnwarpError(StemtwinError, ValueError):
    """A scan that cannot be put onto its true grid."""


@dataclass(frozen=True, eq=False)
class Unwarped:
    """A scan put onto its true grid and stored.

    Attributes:
        path: file of the frames.
        shifts: of its lines.
        counts: sum of all counts; that of the recorded ones, unless the exposure was made even.
        positions: of the grid.
        step_nm: distance of positions, or None.
        notes: remarks.
    """

    path: Path
    shifts: ShiftMap
    counts: int
    positions: int
    step_nm: float | None
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """What the command prints."""
        unit, scale = ("px", 1.0) if self.step_nm is None else ("nm", self.step_nm)
        rms = np.sqrt(np.mean(self.shifts.shift_px**2, axis=1)) * scale
        exposure = self.shifts.lines.sum(axis=1)
        return {
            "out": str(self.path),
            "positions": self.positions,
            "counts": self.counts,
            f"shift_x_rms_{unit}": float(rms[0]),
            f"shift_y_rms_{unit}": float(rms[1]),
            "exposure_of_lines": [float(exposure.min()), float(exposure.max())],
            "notes": list(self.notes),
        }


def check_target(out: Path) -> None:
    """Refuse a new file that cannot be written, before the work begins.

    Raises:
        FormatError: another suffix, a file that exists, or no folder for it.
    """
    check_suffix(out)
    check_free(out)
    if not out.parent.is_dir():
        raise FormatError(f"{out.parent} is not a directory")


def read_shifts(path: Path) -> Floats:
    """Shifts of lines from a .npy file, (2, rows) in px, or from the `columns.zarr` of `stemtwin quantify`.

    Raises:
        UnwarpError: no such file, or no shifts in it.
    """
    import zarr

    check_regular(path)
    try:
        if path.is_dir():
            group: Any = zarr.open_group(path, mode="r")
            found = group["shift_px"]
        else:
            found = read_array(path)
        if found.dtype.kind not in "iuf" or found.nbytes > MOST_SHIFT_BYTES:
            raise UnwarpError(f"{path}: shifts are numbers, two for each line; this has {found.shape}, {found.dtype}")
        return np.asarray(found, np.float64)
    except StemtwinError:
        raise
    except Exception as error:  # zarr and numpy raise anything at what is not theirs
        raise UnwarpError(
            f"{path}: shifts of lines are a .npy file or the columns.zarr of `stemtwin quantify`, and this is neither"
        ) from error


def without_trend(shift_px: Floats) -> Floats:
    """Shifts less a straight line along each axis: a slow drift looks like a sheared specimen, (2, rows).

    Example:
        >>> without_trend(np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])).round(2).tolist()
        [[0.0, 0.0, 0.0], [-0.33, 0.67, -0.33]]
    """
    line = np.arange(shift_px.shape[1])
    slope, start = np.polyfit(line, shift_px.T, 1)
    return np.asarray(shift_px - (start[:, None] + slope[:, None] * line)) + 0.0


def measured_shifts(
    spec: str, layout: str, meta: Mapping[str, Any], options: Mapping[str, Any], progress: Progress
) -> tuple[ShiftMap, tuple[str, ...]]:
    """Shifts of the lines of a scan from the columns in its ring image, and notes of the fit.

    Args:
        spec: file, see `agents.sources.open_source`.
        layout: ring: "adf" or another preset.
        meta: metadata that the file lacks.
        options: of the source.
        progress: called while it is read.

    Raises:
        UnwarpError: not all positions are there.
        QuantifyError: the image has no columns that could be fitted.
    """
    from agents.base import load
    from agents.quantify.quantify import QuantifyOptions, drift_notes, quantify
    from agents.sources import open_source
    from agents.stream import run

    with open_source(spec, meta, **options) as source:
        source.meta.need_grid("unwarp")
        streamed = run(source, {layout: load(layout)}, lambda now: progress(now.positions))
        step_nm = source.meta.metadata.step_nm
    if streamed.errors:
        raise UnwarpError(f"{spec}: no image: {streamed.errors[layout]}")
    image = streamed.results[layout].images[layout].values
    missing = int(np.count_nonzero(~np.isfinite(image)))
    if missing:
        raise UnwarpError(f"{spec}: {missing} positions are missing: shifts are fitted to a complete scan")
    found = quantify(image, step_nm, QuantifyOptions(scan="joint", count="none", tail=False))
    drifts = drift_notes(found.fit)  # which is taken out
    return ShiftMap.of(without_trend(found.fit.shift_px)), tuple(note for note in found.notes if note not in drifts)


def unwarp(
    spec: str,
    shifts: ShiftMap,
    out: Path,
    meta: Mapping[str, Any],
    options: Mapping[str, Any],
    progress: Progress,
    even: bool = False,
) -> Unwarped:
    """Write the frames of a scan on its true grid; counts are whole electrons.

    Args:
        spec: file.
        shifts: of its lines.
        out: new file; the suffix selects the format.
        meta: metadata that the file lacks.
        options: of the source.
        progress: called with positions of the grid.
        even: expose all places of the grid alike, see `UnwarpedSource`.

    Raises:
        NotWritten: the disc is full, or the file cannot be written.
    """
    from agents.sources import open_source
    from agents.sources.unwarped import UnwarpedSource
    from twin.formats import create

    written, counts = 0, 0
    with UnwarpedSource(open_source(spec, meta, **options), shifts, even=even) as source:
        known = source.meta.metadata
        try:
            with create(out, source.meta.layout, known) as writer:
                for block in source.blocks():
                    writer.append(block.frames, block.pixel)
                    written, counts = written + len(block), counts + int(block.frames.sum(dtype=np.int64))
                    progress(written)
        except OSError as error:
            raise NotWritten(f"{out} is incomplete: {sentence(error, out)}") from error
        faults = tuple(source.health.faults)
    return Unwarped(out, shifts, counts, written, known.step_nm, faults)
