"""HDF5 files, opened after a process of its own has read their structure to its end."""

import importlib
import json
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from twin.errors import reason
from twin.formats.dataset import FormatError
from twin.formats.hdf5 import walk
from twin.formats.signals.reader import check_chunks

LIMIT_S = 10
"""Time to read the structure of a file; a good one takes milliseconds, and 0.2 s to start the process."""
CACHE_BYTES = 128 * 2**20
"""Unpacked chunks that HDF5 keeps, at most: one chunk can hold many rows of a scan."""

_checked: dict[tuple[int, ...], dict[str, str]] = {}
"""External links by the identity of a file that was found whole in this process."""


def open_hdf5(path: Path, links: bool = False) -> h5py.File:
    """Open a file for reading whose structure is whole and whose data are its own.

    Args:
        path: of the file.
        links: accept external links; who asks for this checks where they lead.

    Raises:
        FormatError: no regular file, not HDF5, damaged, or data of other files.
    """
    outside = external_links(path)
    if outside and not links:
        where, file = next(iter(outside.items()))
        raise FormatError(f"{path}: {where} is a link to another file, {file}, which is not opened")
    try:
        return h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES)
    except OSError as error:
        raise FormatError(f"{path}: not an HDF5 file: {reason(error)}") from None


def external_links(path: Path) -> dict[str, str]:
    """Read the structure in a process of its own; return external links, {path of the link: file}.

    Raises:
        FormatError: no regular file, not HDF5, damaged, takes longer than `LIMIT_S`, or crashes HDF5.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path} is not a regular file")
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity not in _checked:
        _checked[identity] = _walk_elsewhere(path)
    return _checked[identity]


def _walk_elsewhere(path: Path) -> dict[str, str]:
    # -P: the folder of walk.py is not where modules are looked for. A session of its own: Ctrl-C is for this process.
    command = [sys.executable, "-P", str(walk.__file__), str(path.absolute()), str(LIMIT_S)]
    # NumPy would start a thread per core, for nothing.
    paths = os.pathsep.join(place for place in sys.path if place)
    environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=LIMIT_S, check=False, start_new_session=True, env=environment
        )
    except subprocess.TimeoutExpired:
        raise FormatError(f"{path}: damaged: HDF5 finds no end in its structure within {LIMIT_S} s") from None
    except OSError as error:
        raise FormatError(f"{path}: the process that checks HDF5 files does not start: {error.strerror}") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise FormatError(f"{path}: damaged: HDF5 crashes on its structure (exit code {done.returncode})") from None
    if "fault" in answer:
        raise FormatError(f"{path}: not an HDF5 file that can be read: {answer['fault']}")
    return dict(answer["links"])


def check_data(path: Path, data: h5py.Dataset) -> None:
    """Refuse data that cannot be unpacked.

    Raises:
        FormatError: chunks that do not fit into memory, or a filter of HDF5 that is not installed.
    """
    check_chunks(path, data)
    plist = data.id.get_create_plist()
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    if any(not h5py.h5z.filter_avail(entry[0]) for entry in filters):
        # Registers the filters of cameras: bitshuffle, blosc, zstd.
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")
    for number, _, _, name in filters:
        if not h5py.h5z.filter_avail(number):
            words = name.decode("utf-8", "replace").split(";")[0] or "unknown"
            raise FormatError(
                f"{path}: its counts are compressed with HDF5's filter {number} ({words}), which is not installed:"
                " pip install 'stemtwin[arina]' (or hdf5plugin)"
            )
