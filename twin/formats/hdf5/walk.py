"""Read the structure of an HDF5 file from end to end: `python walk.py FILE` prints it as JSON.

HDF5 can crash or loop for ever on a damaged file, deaf to Ctrl-C. Whoever wants to open a file runs this first, in a
process of its own (`twin.formats.hdf5.checked`). Imports h5py alone, so that it starts fast.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import h5py

MOST_OBJECTS = 100_000
"""Groups and datasets of a file."""
MOST_DEPTH = 64
"""Groups within groups."""
MOST_BYTES = 2**31
"""Memory of the process, where the system can limit it."""


class Refused(Exception):
    """The file is not one that can be read; the message says why, without the name of the file."""


def walk(path: str) -> dict[str, str]:
    """Visit all groups, datasets, attributes and chunks, and return the external links: {path of the link: file}.

    Raises:
        Refused: data in other files, a group within itself, chunks outside the file, or what HDF5 cannot read.
    """
    links: dict[str, str] = {}
    try:
        with h5py.File(path, "r") as file:
            size = os.path.getsize(path)
            for name, item in _objects(file, links):
                _read_attributes(item)
                if isinstance(item, h5py.Dataset):
                    _check_data(name, item, size)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"HDF5 cannot read it: {_line(error)}") from None
    return links


def _objects(file: h5py.File, links: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield (path, object) of all groups and datasets; add external links to `links`.

    Raises:
        Refused: a group that contains itself, or too many or too deep.
    """
    stack: list[tuple[str, Any, tuple[Any, ...]]] = [("/", file["/"], ())]
    count, seen = 0, set()
    while stack:
        name, item, above = stack.pop()
        here = h5py.h5o.get_info(item.id).addr
        if here in above:
            raise Refused(f"the group {name} contains itself")
        if here in seen:
            continue
        seen.add(here)
        count += 1
        if count > MOST_OBJECTS or len(above) > MOST_DEPTH:
            raise Refused(f"more than {MOST_OBJECTS} groups and datasets, or {MOST_DEPTH} groups deep, at {name}")
        yield name, item
        if isinstance(item, h5py.Group):
            stack += list(_children(name, item, (*above, here), links))[::-1]


def _children(
    name: str, group: h5py.Group, above: tuple[Any, ...], links: dict[str, str]
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    for key in group:
        inside = f"{name.rstrip('/')}/{key}"
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            links[inside] = link.filename
            continue
        try:
            item = group[key]
        except (KeyError, OSError, RuntimeError):
            if isinstance(link, h5py.SoftLink):
                continue  # leads nowhere, or to itself: whoever needs it is told
            raise
        if item.file.filename != group.file.filename:
            raise Refused(f"the link {inside} leads to another file, {item.file.filename}, which is not opened")
        yield inside, item, above


def _read_attributes(item: Any) -> None:
    """Read all attributes: what loops or crashes does it here. One that cannot be read is refused by who needs it."""
    for key in item.attrs:
        try:
            item.attrs[key]
        except Exception:
            continue


def _check_data(name: str, data: h5py.Dataset, size: int) -> None:
    """Refuse counts that are not in this file.

    Raises:
        Refused: external storage, a virtual dataset, or a chunk outside the file.
    """
    plist = data.id.get_create_plist()
    if plist.get_external_count():
        raise Refused(f"the data of {name} lie in another file (external storage), which is not opened")
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise Refused(f"{name} is a virtual dataset of other files, which are not opened")
    if layout == h5py.h5d.CHUNKED and data.size:
        data.id.get_num_chunks()
        data.id.chunk_iter(lambda chunk: _check_chunk(name, chunk, size))


def _check_chunk(name: str, chunk: Any, size: int) -> None:
    if chunk.byte_offset is not None and chunk.byte_offset + chunk.size > size:
        raise Refused(f"the chunk {chunk.chunk_offset} of {name} ends beyond the file: the file is cut off or damaged")


def _line(error: BaseException) -> str:
    """Return an error's first line, never empty."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def limit(seconds: int) -> None:
    """Limit the memory and the processor time of this process, where the system can."""
    try:
        import resource
    except ImportError:
        return
    for what, most in ((resource.RLIMIT_AS, MOST_BYTES), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(what)[1]
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (soft, hard))


def main() -> None:
    """Print {"links": ...} or {"fault": ...}."""
    limit(int(sys.argv[2]))
    try:
        answer: dict[str, Any] = {"links": walk(sys.argv[1])}
    except Refused as refused:
        answer = {"fault": str(refused)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
