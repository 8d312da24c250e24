"""Dectris cameras (Arina): a master file `*_master.h5` with links to the files of frames beside it.

The master file says how many frames there are, and a third file beside it, if it is there, how many a line has; else a
square number is taken for a square scan, as RosettaSciIO does, and said.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from twin.formats.closing import released_on_error
from twin.formats.dataset import FormatError, told
from twin.formats.hdf5.checked import check_data, external_links, open_hdf5
from twin.formats.signals.axes import Axis
from twin.formats.signals.reader import Signal, SignalReader

DETECTOR = "entry/instrument/detector"


class Stack:
    """Datasets of frames, (n, H, W) each, one after the other.

    Args:
        parts: at least one; of one frame shape and type.
        scan: (rows, columns), or (N,).
    """

    def __init__(self, parts: Sequence[h5py.Dataset], scan: tuple[int, ...]) -> None:
        self._parts, self._scan = parts, scan
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape, self.dtype = (*scan, *parts[0].shape[1:]), parts[0].dtype

    def __getitem__(self, where: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        """Return frames of one row, (n, H, W)."""
        row = where[0] if len(self._scan) == 2 else 0
        across = where[len(self._scan) - 1]
        start, stop, _ = across.indices(self._scan[-1])
        start, stop = row * self._scan[-1] + start, row * self._scan[-1] + stop
        pieces = []
        for part, end in zip(self._parts, self._ends, strict=True):
            begin = int(end) - len(part)
            if start < end and stop > begin:
                pieces.append(part[max(start - begin, 0) : min(stop, int(end)) - begin])
        return np.concatenate(pieces) if len(pieces) != 1 else pieces[0]


class DectrisReader(SignalReader):
    """Reads a master file, or a file of frames, in blocks.

    Raises:
        FormatError: damaged, a link that leads elsewhere than to a file beside it, or compressed with a filter that is
            not installed.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        self.tolerate = tolerate
        self._files = [open_hdf5(path, links=True)]
        with released_on_error(self._release_all), told(path):
            parts = self._parts(path)
            count = sum(len(part) for part in parts)
            about = _stem_metadata(path)
            scan, note = _scan(count, about)
            stack = Stack(parts, scan)
            step = float(about["Pixel Size"]) if about.get("IsPixelSizeCalibrated") else None
            axes = [
                Axis(name, size, step or 1.0, 0.0, "nm" if step else "", True)
                for name, size in zip(("y", "x"), scan, strict=False)
            ] + [
                Axis(name, size, 1.0, 0.0, "", False) for name, size in zip(("ky", "kx"), stack.shape[-2:], strict=True)
            ]
            stored = sum(part.id.get_storage_size() for part in parts)
            signal = Signal(path.stem, stack, axes, _instrument(self._files[0]), stored_bytes=stored)
            super().__init__(path, signal, self._release_all)
        self.notes += () if note is None else (f"{path.name}: {note}",)

    def _parts(self, path: Path) -> list[h5py.Dataset]:
        """Return the datasets of frames, in the order of their names.

        Raises:
            FormatError: none, of different shapes, or elsewhere.
        """
        links = external_links(path)
        data = self._files[0]["entry/data"]
        parts: list[h5py.Dataset] = []
        for name in sorted(data):
            elsewhere = links.pop(f"/entry/data/{name}", None)
            part = data[name] if elsewhere is None else self._linked(path, elsewhere, data.get(name, getlink=True).path)
            if isinstance(part, h5py.Dataset) and part.ndim == 3 and len(part):
                check_data(path, part)
                parts.append(part)
        if links:
            where, file = next(iter(links.items()))
            raise FormatError(f"{path}: {where} is a link to another file, {file}, which is not opened")
        if len({(part.shape[1:], part.dtype) for part in parts}) != 1:
            raise FormatError(f"{path}: no frames in entry/data, or frames of different shapes")
        return parts

    def _linked(self, path: Path, name: str, where: str) -> Any:
        """Open a file beside this one, and return what is at `where` in it."""
        if Path(name).name != name or not (path.parent / name).is_file():
            raise FormatError(f"{path}: its frames are in {name}, which is not a file beside it")
        self._files.append(open_hdf5(path.parent / name))
        return self._files[-1][where]

    def _release_all(self) -> None:
        for file in self._files:
            file.close()


def _stem_metadata(path: Path) -> dict[str, Any]:
    """Return the numbers of `STEM Metadata` in NAME.h5 beside NAME_master.h5; empty without such a file."""
    beside = path.with_name(path.name.replace("_master", ""))
    if beside == path or not beside.is_file():
        return {}
    with open_hdf5(beside) as file, told(beside):
        group = file.get("STEM Metadata")
        values = {} if group is None else {name: np.asarray(value) for name, value in group.attrs.items()}
        return {name: value.item() for name, value in values.items() if value.size == 1 and value.dtype.kind in "fiu"}


def _scan(count: int, about: Mapping[str, Any]) -> tuple[tuple[int, ...], str | None]:
    """Return the shape of the scan, and a note if it is not stated."""
    stated = (int(about.get("NumPixelsY", 0)), int(about.get("NumPixelsX", 0)) + int(about.get("NumPixelsPrescan", 0)))
    if math.prod(stated) == count:
        return stated, None
    side = math.isqrt(count)
    if side > 1 and side * side == count:
        return (side, side), f"the shape of the scan is not stated: {count} frames are taken for {side} x {side}"
    return (count,), f"the shape of the scan is not stated: {count} frames are read as a list of positions"


def _instrument(file: h5py.File) -> dict[str, Any]:
    """Return energy (eV in the file) and time of a frame in HyperSpy's places and units."""
    found: dict[str, Any] = {}
    for place, name, factor in (
        (f"{DETECTOR}/detectorSpecific/photon_energy", "beam_energy", 1e-3),
        (f"{DETECTOR}/frame_time", "dwell_time", 1.0),
    ):
        item = file.get(place)
        if isinstance(item, h5py.Dataset) and item.size == 1 and item.dtype.kind in "fiu":
            found[name] = float(np.asarray(item[()]).item()) * factor
    return {"TEM": found}
