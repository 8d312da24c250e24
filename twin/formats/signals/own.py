"""Our own metadata in a HyperSpy file, and what of them still holds when another program changed the data.

HyperSpy keeps them as they were written: after a crop, a rebinning or a transposition, axes and data are right and
these are old.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import Layout, Metadata, json_object
from twin.formats.signals.axes import Axis

OWN = "stemtwin"
"""Group of `original_metadata` with this package's metadata and the mask of acquired positions."""
POSITION = "position"
"""Name of the axis of a list of positions."""


def axes(layout: Layout, metadata: Metadata) -> list[dict[str, Any]]:
    """Return HyperSpy's axes, one per dimension in array order; scale 1 without unit where the metadata are unknown.

    Scan axes start at 0; camera axes are zero at the centre of the pattern, by default pixel `side // 2`.
    """
    names = ("y", "x")[-len(layout.scan) :]
    step, pixel = metadata.step_nm or 1.0, metadata.pixel_mrad or 1.0
    scan_units = "nm" if metadata.step_nm else ""
    if len(layout.scan) == 1:
        # A list of positions: numbered, without a distance.
        names, step, scan_units = (POSITION,), 1.0, ""
    scan = [
        {"name": name, "size": size, "scale": step, "offset": 0.0, "units": scan_units, "navigate": True}
        for name, size in zip(names, layout.scan, strict=True)
    ]
    camera_units = "mrad" if metadata.pixel_mrad else ""
    centre = metadata.centre_px or tuple(side // 2 for side in layout.camera)
    camera = [
        {
            "name": name,
            "size": size,
            "scale": pixel,
            "offset": -pixel * zero if metadata.pixel_mrad else 0.0,
            "units": camera_units,
            "navigate": False,
        }
        for name, size, zero in zip(("ky", "kx"), layout.camera, centre, strict=True)
    ]
    return [{"_type": "UniformDataAxis", "is_binned": False, **axis} for axis in scan + camera]


@dataclass(frozen=True, eq=False)
class Own:
    """What this package wrote.

    Attributes:
        metadata: as written.
        max_count: largest possible count, or None.
        acquired: the mask of acquired positions, or None.
    """

    metadata: Metadata
    max_count: int | None
    acquired: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Kept:
    """What of it still holds.

    Attributes:
        metadata: without what the axes state.
        max_count: largest possible count, or None.
        acquired: whether each position has its frame, of the scan's shape.
        notes: one sentence for each entry that was dropped.
    """

    metadata: Metadata
    max_count: int | None
    acquired: NDArray[np.bool_]
    notes: tuple[str, ...]


def still_true(own: Own, scan: Sequence[Axis], camera: Sequence[Axis]) -> Kept:
    """Return what of `own` holds for data with these axes.

    Args:
        own: as written.
        scan, camera: axes of the data, forwards, in the order of the array.
    """
    written = own.metadata
    turned_scan = [axis.name for axis in scan] == ["x", "y"]
    turned_camera = [axis.name for axis in camera] == ["kx", "ky"]
    shape = tuple(axis.size for axis in scan)
    was = _written_axes(own, scan, camera)
    listed = len(scan) == 1 and scan[0].name == POSITION and not scan[0].unit
    binned_scan = any(not _close(axis.scale, old.scale) for axis, old in zip(scan, was[: len(scan)], strict=True))
    binned_camera = any(not _close(axis.scale, old.scale) for axis, old in zip(camera, was[len(scan) :], strict=True))
    kept, notes = replace(written, step_nm=written.step_nm if listed else None, pixel_mrad=None, centre_px=None), []
    if binned_scan and (written.dose_e is not None or written.dwell_s is not None):
        kept = replace(kept, dose_e=None, dwell_s=None)
        notes.append("dose and dwell time are unknown: the scan was rebinned or thinned after it was recorded")
    if written.rotation_deg is not None and turned_scan != turned_camera:
        kept = replace(kept, rotation_deg=None)
        notes.append("rotation_deg is unknown: rows and columns of scan or camera were swapped after the recording")
    elif written.rotation_deg is not None and turned_scan:
        kept = replace(kept, rotation_deg=-written.rotation_deg)
    acquired = _mask(own.acquired, scan, shape, was, turned_scan)
    if acquired is None:
        notes.append("which positions have their frame is unknown: the scan was cut or rebinned; all are read")
        acquired = np.ones(shape, dtype=bool)
    changed = binned_scan or binned_camera
    return Kept(kept, None if changed else own.max_count, acquired, tuple(notes))


def _written_axes(own: Own, scan: Sequence[Axis], camera: Sequence[Axis]) -> list[Axis]:
    """Return the axes as they were written, with today's names and sizes: only scales and offsets tell anything."""
    layout = Layout(tuple(axis.size for axis in scan) or (1,), (camera[0].size, camera[1].size))
    plain = axes(layout, own.metadata)[-len(scan) - len(camera) :]
    return [Axis.of(entry, number, entry["size"]) for number, entry in enumerate(plain)]


def _close(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-6)


def _mask(
    mask: NDArray[np.bool_] | None,
    scan: Sequence[Axis],
    shape: tuple[int, ...],
    was: Sequence[Axis],
    turned: bool,
) -> NDArray[np.bool_] | None:
    """Return the mask cut as the scan was: a position is acquired if all that it was made of are. None: unknown."""
    if mask is None or (mask.ndim == len(shape) and mask.all()):
        return np.ones(shape, dtype=bool)
    if mask.ndim != len(shape):
        return None
    mask = mask.T if turned else mask
    for number, (axis, old) in enumerate(zip(scan, was, strict=False)):
        if axis.scale is None or not old.scale:
            return None
        every, first = axis.scale / old.scale, axis.offset / old.scale
        # Rebinning puts the coordinate of a position into the middle of those that it was made of.
        begin = [math.floor(first - (every - 1) / 2 + k * every + 0.5 + 1e-6) for k in range(axis.size)]
        end = [max(b + 1, math.floor(b + every + 1e-6)) for b in begin]
        if begin[0] < 0 or end[-1] > mask.shape[number]:
            begin = [math.floor(first + k * every + 0.5) for k in range(axis.size)]
            end = [b + 1 for b in begin]
        if begin[0] < 0 or end[-1] > mask.shape[number]:
            return None
        mask = np.stack(
            [mask.take(range(b, e), axis=number).all(axis=number) for b, e in zip(begin, end, strict=True)], axis=number
        )
    return mask


def own_of(plain: Mapping[str, Any], label: str) -> Own:
    """Return this package's metadata of a file.

    Args:
        plain: `metadata` (JSON text), `max_count`, `acquired`; any may be absent.
        label: opens an error message.

    Raises:
        FormatError: not as this package writes them.
    """
    text = plain.get("metadata", "{}")
    metadata = Metadata.of(json_object(text, f"{label}: metadata"), label)
    limit = plain.get("max_count")
    mask = plain.get("acquired")
    return Own(
        metadata,
        None if limit is None else int(np.asarray(limit).item()),
        None if mask is None else np.asarray(mask[...]).astype(bool),
    )
