"""Datasets on disc: zarr, Merlin's .mib, Timepix3's .t3p and HyperSpy's .hspy, chosen by suffix.

`create(path, layout, metadata)` returns a writer of frames, `open_frames(path)` a reader; `t3p.T3pWriter` and
`t3p.T3pReader` are those of events. Modules are imported when their format is chosen.
"""

from pathlib import Path

from twin.errors import nearest
from twin.formats import file_checks
from twin.formats.dataset import FormatError, FrameReader, FrameWriter, Layout, Metadata

SUFFIXES = (".zarr", ".mib", ".t3p", ".hspy")

__all__ = ["SUFFIXES", "FormatError", "FrameReader", "FrameWriter", "Layout", "Metadata", "create", "open_frames"]


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
        tolerate: read the complete part of a truncated .mib or .t3p file, instead of raising.

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
    suffix = check_suffix(path)
    file_checks.check_regular(path)
    if suffix == ".zarr":
        from twin.formats.zarr_store import ZarrReader

        return ZarrReader(path)
    if suffix == ".mib":
        from twin.formats.mib import MibReader

        return MibReader(path, tolerate=tolerate)
    if suffix == ".hspy":
        from twin.formats.hspy import HspyReader

        return HspyReader(path)
    from twin.formats.event_frames import EventFrameReader

    return EventFrameReader(path, tolerate=tolerate)


def check_suffix(path: Path) -> str:
    """Return the suffix.

    Raises:
        FormatError: unknown; names the nearest.
    """
    if path.suffix not in SUFFIXES:
        raise FormatError(
            f"{path.name}: no format {path.suffix or '(no suffix)'}{nearest(path.suffix, SUFFIXES, 0.5)};"
            f" known: {', '.join(SUFFIXES)}"
        )
    return path.suffix
