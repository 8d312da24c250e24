"""HyperSpy's layout in zarr (.zspy), a folder or a zip file; read only.

Version 2 of zarr has codecs that unpickle: arrays are opened after their codecs were read and found harmless.
"""

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore, ZipStore

from twin.formats.closing import released_on_error
from twin.formats.dataset import BLOCK_BYTES, FormatError, told
from twin.formats.hspy import experiments
from twin.formats.signals.reader import SignalReader, check_chunks, choose
from twin.text import json_text

NUMBERS = ("blosc", "zstd", "lz4", "gzip", "zlib", "bz2", "lzma", "shuffle", "delta", "crc32", "crc32c")
TEXTS = ("vlen-utf8", "vlen-bytes", "vlen-array", "msgpack2", "json2")
CODECS = (*NUMBERS, *TEXTS, "bytes", "transpose")
"""Codecs that only unpack numbers and texts; the last two are of version 3."""


class ZspyReader(SignalReader):
    """Reads a .zspy dataset of HyperSpy: the experiment with the most scan axes.

    Raises:
        FormatError: not of HyperSpy, damaged, or arrays in a codec that could run a program.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        self.tolerate = tolerate
        with told(path):
            check_codecs(path)
            store: Any = LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")
            with released_on_error(store.close):
                group = zarr.open_group(store, mode="r")
                signal = choose(path, experiments(path, group))
                check_chunks(path, signal.data)
                super().__init__(path, signal, store.close)


def check_codecs(path: Path) -> None:
    """Refuse arrays in a codec that does more than unpack numbers and texts.

    Raises:
        FormatError: no folder or zip file, or such an array; names it and the codec.
    """
    for name, text in _descriptions(path):
        plain = json_text.loads(text)
        if not isinstance(plain, dict):
            continue
        given = [plain.get("compressor"), *(plain.get("filters") or []), *(plain.get("codecs") or [])]
        for codec in given:
            kind = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
            if kind is not None and kind not in CODECS:
                raise FormatError(
                    f"{path}: {name} is stored with the codec {kind!r}, which is not known to be harmless, and is not"
                    " opened"
                )


def _descriptions(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, text) of all descriptions of arrays."""
    wanted = (".zarray", "zarr.json")
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.name in wanted:
                if not stat.S_ISREG(file.stat().st_mode) or file.stat().st_size > BLOCK_BYTES:
                    raise FormatError(f"{file} is not a description of an array")
                yield str(file.relative_to(path)), file.read_bytes()
        return
    if not zipfile.is_zipfile(path):
        raise FormatError(f"{path}: neither a folder nor a zip file of zarr")
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.rpartition("/")[2] in wanted:
                if entry.file_size > BLOCK_BYTES:
                    raise FormatError(f"{path}: {entry.filename} is not a description of an array")
                yield entry.filename, archive.read(entry)
