"""Datasets on disc: zarr, Merlin's .mib, Timepix3's .t3p and HyperSpy's .hspy, chosen by suffix.

`create(path, layout, metadata)` gives a writer of frames, `open_frames(path)` a reader; events have their own pair,
`t3p.T3pWriter` and `t3p.T3pReader`. Modules are imported when their format is chosen.
"""

from pathlib import Path

from twin.formats.dataset import FormatError, FrameReader, FrameWriter, Layout, Metadata
from twin.suggest import nearest

SUFFIXES = (".zarr", ".mib", ".t3p", ".hspy")

__all__ = ["SUFFIXES", "FormatError", "FrameReader", "FrameWriter", "Layout", "Metadata", "create", "open_frames"]


def create(path: str | Path, layout: Layout, metadata: Metadata | None = None) -> FrameWriter:
    """A writer for frames, by the suffix of `path`; nothing may be there yet.

    Raises:
        FormatError: unknown suffix, something is there, or the format cannot hold such frames.
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
    """A reader of frames, by the suffix of `path`.

    Args:
        path: of an existing dataset.
        tolerate: read what is whole of a .mib or .t3p file that is cut off, instead of refusing it.

    Raises:
        FormatError: unknown suffix, nothing there, or not such a file.
    """
    path = Path(path)
    suffix = check_suffix(path)
    if not path.exists():
        raise FormatError(f"{path} does not exist")
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
    """The suffix, if it is a known one.

    Raises:
        FormatError: it is not; names the nearest.
    """
    if path.suffix not in SUFFIXES:
        raise FormatError(
            f"{path.name}: no format {path.suffix or '(no suffix)'}{nearest(path.suffix, SUFFIXES, 0.5)};"
            f" known: {', '.join(SUFFIXES)}"
        )
    return path.suffix
