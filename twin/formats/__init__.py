"""Datasets on disc: zarr, Merlin's .mib, Timepix3's .t3p, HyperSpy's .hspy and others' files, chosen by suffix.

`create(path, layout, metadata)` returns a writer of frames, `open_frames(path)` a reader; `t3p.T3pWriter` and
`t3p.T3pReader` are those of events. Modules are imported when their format is chosen.
"""

import importlib
from collections.abc import Container
from pathlib import Path

from twin.errors import nearest
from twin.formats import file_checks
from twin.formats.dataset import FormatError, FrameReader, FrameWriter, Layout, Metadata

SUFFIXES = (".zarr", ".mib", ".t3p", ".hspy")
"""Formats that are written and read."""

READERS = {
    ".zarr": ("zarr_store", "ZarrReader"),
    ".mib": ("mib", "MibReader"),
    ".t3p": ("event_frames", "EventFrameReader"),
    ".hspy": ("hspy", "HspyReader"),
    ".zspy": ("signals.zspy", "ZspyReader"),
    ".h5": ("hdf5.h5", "H5Reader"),
    ".hdf5": ("hdf5.h5", "H5Reader"),
    ".nhdf": ("hdf5.h5", "H5Reader"),
    ".emd": ("signals.rosettasciio", "RosettaReader"),
    ".dm3": ("signals.rosettasciio", "RosettaReader"),
    ".dm4": ("signals.rosettasciio", "RosettaReader"),
    ".mrc": ("signals.rosettasciio", "RosettaReader"),
    ".xml": ("signals.rosettasciio", "RosettaReader"),
    ".blo": ("signals.blo", "BloReader"),
}
"""Module and reader of every format that is read, by suffix; imported when it is chosen."""

__all__ = [
    "READERS",
    "SUFFIXES",
    "FormatError",
    "FrameReader",
    "FrameWriter",
    "Layout",
    "Metadata",
    "create",
    "open_frames",
]


def create(path: str | Path, layout: Layout, metadata: Metadata | None = None) -> FrameWriter:
    """Create a dataset and return its writer; the suffix of `path` selects the format.

    Raises:
        FormatError: unknown suffix, an existing file, or frames that the format cannot hold.
    """
    path, about = Path(path), metadata or Metadata()
    suffix = check_suffix(path)
    if not path.parent.is_dir():
        raise FormatError(f"{path.parent} is not a directory")
    if suffix == ".zarr":
        from twin.formats.zarr_store import ZarrWriter

        return ZarrWriter(path, layout, about)
    if suffix == ".mib":
        from twin.formats.mib import MibWriter

        return MibWriter(path, layout, about)
    if suffix == ".hspy":
        from twin.formats.hspy import HspyWriter

        return HspyWriter(path, layout, about)
    from twin.formats.event_frames import EventFrameWriter

    return EventFrameWriter(path, layout, about)


def open_frames(path: str | Path, tolerate: bool = False) -> FrameReader:
    """Open a dataset of frames; the suffix of `path` selects the format.

    Args:
        path: of an existing dataset.
        tolerate: read the complete part of a truncated .mib or .t3p file, and a .zarr or .hspy without its damaged
            frames (the reader's `notes` name them), instead of raising.

    Raises:
        FormatError: unknown suffix, no such file, or a file of another format.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "scan.mib"
        >>> with create(path, Layout(scan=(2, 3), camera=(8, 16)), Metadata(dwell_s=1e-3)) as writer:
        ...     writer.append(np.ones((6, 8, 16), np.uint16))
        >>> with open_frames(path) as reader:
        ...     reader.layout.scan, int(reader.read(0, 6).sum()), reader.metadata.dwell_s
        ((2, 3), 768, 0.001)
    """
    path = Path(path)
    if path.suffix == ".tpx3":
        raise FormatError(f"{path.name}: a .tpx3 file has events without frames; agents.sources.tpx3 reads them")
    suffix = check_suffix(path, READERS)
    file_checks.check_regular(path)
    module, name = READERS[suffix]
    reader: FrameReader = getattr(importlib.import_module(f"twin.formats.{module}"), name)(path, tolerate=tolerate)
    return reader


def check_suffix(path: Path, known: Container[str] = SUFFIXES) -> str:
    """Return the suffix, in lower case.

    Args:
        path: of a dataset.
        known: suffixes; those that can be written, by default.

    Raises:
        FormatError: unknown; names the nearest.
    """
    suffix = path.suffix.lower()
    if suffix not in known:
        if suffix in READERS:
            raise FormatError(f"{path.name}: {suffix} is read, not written; written are {', '.join(SUFFIXES)}")
        names = [name for name in READERS if name in known]
        raise FormatError(
            f"{path.name}: no format {suffix or '(no suffix)'}{nearest(suffix, names, 0.5)}; known: {', '.join(names)}"
        )
    return suffix
