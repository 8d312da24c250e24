"""A dataset as HyperSpy writes it (.hspy, HDF5): scan axes in nm, camera axes in mrad.

All chunks are allocated when the file is created, and not compressed: an append changes only the counts, and a crash
leaves a readable file. For small files use zarr.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from twin.formats import dataset, placement
from twin.formats.dataset import FormatError, FrameReader, Frames, FrameWriter, Layout, Metadata, check_free
from twin.formats.disc_file import DiscFile

FORMAT_VERSION = "3.3"
TITLE = "4D-STEM"
CHUNK_BYTES = 2**20
OWN = "stemtwin"
"""Group of `original_metadata` with this package's metadata and the mask of acquired positions."""


def axes(layout: Layout, metadata: Metadata) -> list[dict[str, Any]]:
    """Return HyperSpy's axes, one per dimension in array order; scale 1 without unit where the metadata are unknown.

    Scan axes start at 0; camera axes are zero at the pixel `side // 2`, as everywhere in this package.
    """
    names = ("y", "x")[-len(layout.scan) :]
    step, pixel = metadata.step_nm or 1.0, metadata.pixel_mrad or 1.0
    scan_units = "nm" if metadata.step_nm else ""
    if len(layout.scan) == 1:
        # A list of positions: numbered, without a distance.
        names, step, scan_units = ("position",), 1.0, ""
    scan = [
        {"name": name, "size": size, "scale": step, "offset": 0.0, "units": scan_units, "navigate": True}
        for name, size in zip(names, layout.scan, strict=True)
    ]
    camera_units = "mrad" if metadata.pixel_mrad else ""
    camera = [
        {
            "name": name,
            "size": size,
            "scale": pixel,
            "offset": -pixel * (size // 2) if metadata.pixel_mrad else 0.0,
            "units": camera_units,
            "navigate": False,
        }
        for name, size in zip(("ky", "kx"), layout.camera, strict=True)
    ]
    return [{"_type": "UniformDataAxis", "is_binned": False, **axis} for axis in scan + camera]


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
        FormatError: `path` exists.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Metadata) -> None:
        check_free(path)
        self.layout, self.count = layout, 0
        self._disc = DiscFile(path)
        self._file = h5py.File(self._disc, "w")
        self._file.attrs.update({"file_format": "HyperSpy", "file_format_version": FORMAT_VERSION})
        experiment = self._file.create_group(f"Experiments/{TITLE}")
        _describe(experiment, layout, metadata)
        own = experiment.create_group(f"original_metadata/{OWN}")
        own.attrs.update({"metadata": json.dumps(metadata.plain()), "max_count": layout.ceiling})
        across = min(layout.scan[-1], max(1, CHUNK_BYTES // layout.frame_bytes))
        chunks = (*(1 for _ in layout.scan[:-1]), across, *layout.camera)
        self._frames = _create(experiment, "data", (*layout.scan, *layout.camera), chunks, layout.dtype)
        self._acquired = own.create_dataset("acquired", data=np.zeros(layout.scan, dtype=bool), chunks=layout.scan)
        self._flush()

    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        flat = placement.flat_index(self.layout, self.count, len(frames), pixel)
        placement.write(self._frames, self._acquired, self.layout, flat, frames)
        self._flush()

    def _flush(self) -> None:
        """Write what the library holds back.

        Raises:
            OSError: the disc is full.
        """
        self._file.flush()
        self._disc.check()

    def close(self) -> None:
        if not self._disc.closed:
            self._file.close()
            self._disc.close()
            self._disc.check()


class HspyReader(FrameReader):
    """Reads a dataset that `HspyWriter` or HyperSpy wrote: the first experiment with frames on a scan.

    Raises:
        FormatError: not HDF5, not of HyperSpy, or counts that are not unsigned integers.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise FormatError(f"{path}: not an HDF5 file: {error}") from None
        try:
            self._open(path)
        except BaseException:
            self._file.close()
            raise

    def _open(self, path: Path) -> None:
        experiment = self._experiment(path)
        self._frames = experiment["data"]
        shape = self._frames.shape
        own = experiment.get(f"original_metadata/{OWN}")
        limit = int(own.attrs["max_count"]) if own is not None and "max_count" in own.attrs else None
        self.layout = Layout(tuple(shape[:-2]), (shape[-2], shape[-1]), str(self._frames.dtype), limit)
        if self._frames.chunks and np.prod(self._frames.chunks, dtype=float) * 4 > 16 * dataset.BLOCK_BYTES:
            raise FormatError(f"{path}: chunks of {self._frames.chunks} do not fit into memory")
        if own is not None and "metadata" in own.attrs:
            self.metadata = Metadata.of(dataset.json_object(own.attrs["metadata"], f"{path}: metadata"), str(path))
        else:
            self.metadata = Metadata.of(_from_axes(experiment, len(shape)), str(path))
        mask = own.get("acquired") if own is not None else None
        if mask is not None and mask.shape != self.layout.scan:
            raise FormatError(f"{path}: a mask of {mask.shape} does not fit a scan of {self.layout.scan}")
        self.acquired = np.ones(self.layout.scan, dtype=bool) if mask is None else mask[...].astype(bool)

    def _experiment(self, path: Path) -> Any:
        """Return the first experiment with frames on a scan."""
        experiments = self._file.get("Experiments")
        for experiment in experiments.values() if isinstance(experiments, h5py.Group) else ():
            data = experiment.get("data") if isinstance(experiment, h5py.Group) else None
            if isinstance(data, h5py.Dataset) and data.ndim in (3, 4):
                return experiment
        raise FormatError(f"{path}: no experiment with frames on a scan")

    def _read(self, first: int, count: int) -> Frames:
        try:
            return placement.read(self._frames, self.layout, first, count)
        except OSError as error:
            raise FormatError(f"frames {first} to {first + count}: {error}") from None

    def close(self) -> None:
        self._file.close()


def _from_axes(experiment: Any, dimensions: int) -> dict[str, Any]:
    """Return scan step and camera pixel from HyperSpy's axes, where their units are known."""
    known = {}
    for key, number, units in (("step_nm", dimensions - 3, "nm"), ("pixel_mrad", dimensions - 1, "mrad")):
        axis = experiment.get(f"axis-{number}")
        if axis is not None and axis.attrs.get("units") == units and float(axis.attrs.get("scale", 0)) > 0:
            known[key] = float(axis.attrs["scale"])
    return known
