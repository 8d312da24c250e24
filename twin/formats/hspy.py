"""A dataset as HyperSpy writes it (.hspy, HDF5): scan axes in nm, camera axes in mrad.

All chunks are allocated when the file is created, and not compressed: an append changes only the counts, and a crash
leaves a readable file. For small files use zarr.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from twin.formats import placement
from twin.formats.closing import released_on_error
from twin.formats.dataset import FormatError, Frames, FrameWriter, Layout, Metadata, check_free, told
from twin.formats.hdf5.checked import check_data, open_hdf5
from twin.formats.hdf5.chunk_file import ChunkFile
from twin.formats.hdf5.disc_file import DiscFile
from twin.formats.signals.axes import Axis
from twin.formats.signals.own import OWN, axes, own_of
from twin.formats.signals.reader import Signal, SignalReader, choose

FORMAT_VERSION = "3.3"
TITLE = "4D-STEM"
STRUCTURE_BYTES = 2**20
"""Room for what is not counts."""
CHUNK_BYTES = 2**20


def _describe(experiment: h5py.Group, layout: Layout, metadata: Metadata) -> None:
    """Create the groups that HyperSpy expects."""
    experiment.attrs.update({"package": OWN, "package_version": "0.1"})
    for number, axis in enumerate(axes(layout, metadata)):
        experiment.create_group(f"axis-{number}").attrs.update(axis)
    experiment.create_group("attributes").attrs.update({"_lazy": False, "ragged": False})
    experiment.create_group("learning_results")
    about = experiment.create_group("metadata")
    about.create_group("General").attrs["title"] = TITLE
    about.create_group("Signal").attrs["signal_type"] = ""
    instrument = about.create_group("Acquisition_instrument/TEM")
    # HyperSpy's names and units.
    for name, value in (
        ("beam_energy", metadata.energy_kev),
        ("convergence_angle", metadata.convergence_mrad),
        ("dwell_time", metadata.dwell_s),
    ):
        if value is not None:
            instrument.attrs[name] = value


def _create(group: h5py.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> Any:
    """Create a dataset whose chunks are allocated at once; unwritten ones read zero (a sparse file)."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunks)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    space = h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), kind, space, dcpl=plist))


class HspyWriter(FrameWriter):
    """Writes `path`.

    Raises:
        FormatError: `path` exists, or its disc has no room for the whole scan.
        OSError: the disc refuses.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Metadata) -> None:
        check_free(path)
        need, free = layout.count * layout.frame_bytes + STRUCTURE_BYTES, shutil.disk_usage(path.parent).free
        if need > free:
            raise FormatError(f"{path}: the scan takes {need / 1e9:.3g} GB, and its disc has {free / 1e9:.3g} GB free")
        self.layout, self.count = layout, 0
        disc = DiscFile(path)
        try:
            with disc, h5py.File(disc, "w") as file:
                _create_all(file, layout, metadata)
            disc.check()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._frames = ChunkFile(
            path, f"Experiments/{TITLE}/data", f"Experiments/{TITLE}/original_metadata/{OWN}/acquired"
        )

    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        flat = placement.flat_index(self.layout, self.count, len(frames), pixel)
        placement.write(self._frames, self._frames.acquired, self.layout, flat, frames)

    def close(self) -> None:
        self._frames.close()


def _create_all(file: h5py.File, layout: Layout, metadata: Metadata) -> None:
    """Create everything but the counts."""
    file.attrs.update({"file_format": "HyperSpy", "file_format_version": FORMAT_VERSION})
    experiment = file.create_group(f"Experiments/{TITLE}")
    _describe(experiment, layout, metadata)
    own = experiment.create_group(f"original_metadata/{OWN}")
    own.attrs.update({"metadata": json.dumps(metadata.plain()), "max_count": layout.ceiling})
    own.create_dataset("acquired", data=np.zeros(layout.scan, dtype=bool), chunks=layout.scan)
    across = min(layout.scan[-1], max(1, CHUNK_BYTES // layout.frame_bytes))
    chunks = (*(1 for _ in layout.scan[:-1]), across, *layout.camera)
    _create(experiment, "data", (*layout.scan, *layout.camera), chunks, layout.dtype)


class HspyReader(SignalReader):
    """Reads a dataset that `HspyWriter` or HyperSpy wrote: the experiment with the most scan axes.

    Axes and beam are what the file's axes and HyperSpy's metadata state; this package's own metadata add what those
    cannot hold.

    Args:
        path: of the file.
        tolerate: leave out frames that cannot be read, and note them, instead of raising.

    Raises:
        FormatError: not HDF5, damaged, data in other files, not of HyperSpy, or values that are not counts.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        file = open_hdf5(path)
        self.tolerate = tolerate
        with released_on_error(file.close), told(path):
            signal = choose(path, experiments(path, file))
            check_data(path, signal.data)
            super().__init__(path, signal, file.close)


def experiments(path: Path, file: Any) -> list[Signal]:
    """Return the signals of a file in HyperSpy's layout, HDF5 or zarr.

    Raises:
        FormatError: none, or none that can be read and has a scan of rows and columns.
    """
    held = file.get("Experiments", {})
    signals: list[Signal] = []
    faults: list[FormatError] = []
    for name in held:
        experiment = held[name]
        if not hasattr(experiment, "keys") or "data" not in experiment or not hasattr(experiment["data"], "shape"):
            continue
        try:
            signals.append(_signal(str(name), experiment))
        except FormatError as error:
            faults.append(FormatError(f"{path}: {name}: {error}"))
    if faults and not any(len(signal.axes) == 4 for signal in signals):
        raise faults[0]
    if not signals:
        raise FormatError(f"{path}: no experiment with frames on a scan; HyperSpy keeps them in the group Experiments")
    return signals


def _signal(name: str, experiment: Any) -> Signal:
    data = experiment["data"]
    described = [
        Axis.of(_plain(experiment[f"axis-{number}"]) if f"axis-{number}" in experiment else {}, number, size)
        for number, size in enumerate(data.shape)
    ]
    own = _inside(experiment, f"original_metadata/{OWN}")
    instrument = _inside(experiment, "metadata/Acquisition_instrument")
    return Signal(
        name,
        data,
        described,
        {} if instrument is None else _plain(instrument, depth=3),
        None if own is None else own_of(_plain(own), f"original_metadata/{OWN}"),
    )


def _inside(group: Any, where: str) -> Any:
    """Return a group within another, or None."""
    for part in where.split("/"):
        if not hasattr(group, "keys") or part not in group:
            return None
        group = group[part]
    return group if hasattr(group, "keys") else None


def _plain(group: Any, depth: int = 1) -> dict[str, Any]:
    """Return attributes and arrays of a group, and its groups to a depth."""
    plain: dict[str, Any] = dict(group.attrs)
    for key in group:
        item = group[key]
        if hasattr(item, "shape"):
            plain[key] = item
        elif depth > 1:
            plain[key] = _plain(item, depth - 1)
    return plain
