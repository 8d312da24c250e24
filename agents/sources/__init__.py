"""Sources of streams: one file per kind of source, and `open_source`, which chooses one.

Every module has `make(where, options)`; `where` is the part of the URL after the scheme, or the path.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Len
from pydantic import BeforeValidator

from agents.base import StreamMeta
from agents.source import Source, SourceError
from twin.errors import check_known, nearest, reason
from twin.formats import READERS
from twin.formats.dataset import FormatError, Metadata
from twin.formats.file_checks import check_regular
from twin.optics import LIMITS as OPTICS_LIMITS
from twin.options import OptionError, checked_options


def _sides(given: Any) -> Any:
    """Accept `64,48` and `64` for `[64, 48]` and `[64]`; the sides are checked afterwards."""
    if isinstance(given, str):
        return [side.strip() for side in given.split(",")]
    return [given] if isinstance(given, int) else given


Shape = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(1, 2), BeforeValidator(_sides)]
"""(rows, columns), or (N,) for a list of positions."""

Camera = Annotated[tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]], BeforeValidator(_sides)]
"""(H, W)."""

REFERENCES = ("bad_pixels", "bad_rows", "bad_columns", "dark", "gain", "centre_px")
"""Options of every source: the references of its camera."""

BY_SCHEME = {"merlin": "merlin", "csr": "csr", "spectra": "spectra"}
BY_SUFFIX = dict.fromkeys(READERS, "files") | {".mib": "mib", ".t3p": "t3p", ".tpx3": "tpx3"}


def open_source(spec: str | Path, meta: Mapping[str, Any] | None = None, **options: Any) -> Source:
    """Open a source by URL (`merlin://host:port`, `csr://host:port`) or by the suffix of a file.

    Args:
        spec: URL or path.
        meta: entries that replace those of the stream: any key of `Metadata`, and `transposed`.
        options: options of the kind of source, see `Options` in its module; and references of the camera, see
            `twin.references.camera_reference.ReferenceOptions`.

    Raises:
        SourceError: no such kind of source, no such file or server, or no valid stream.
        OptionError: an unknown option or a bad value.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from twin.formats import Layout, create
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with create(f"{folder}/scan.mib", Layout((2, 3), (8, 8))) as writer:
        ...         writer.append(np.ones((6, 8, 8), np.uint16))
        ...     with open_source(f"{folder}/scan.mib", meta={"energy_kev": 300}) as source:
        ...         positions = [block.pixel.tolist() for block in source.blocks()]
        >>> source.meta.layout.scan, source.meta.metadata.energy_kev, positions
        ((2, 3), 300.0, [[[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]])
    """
    module, where = kind_of(spec)
    references = {key: options.pop(key) for key in REFERENCES if key in options}
    made = importlib.import_module(f"agents.sources.{module}")
    for key in options:
        if key not in made.Options.__dataclass_fields__ and nearest(key, REFERENCES, 0.8):
            raise OptionError(f"{key!r} is not an option here{nearest(key, REFERENCES, 0.8)}")
    source: Source = made.make(where, options)
    try:
        if references:
            source = _corrected(source, references)
        source.meta = overridden(source.meta, meta or {})
    except BaseException:
        source.close()
        raise
    return source


def kind_of(spec: str | Path) -> tuple[str, str]:
    """Module of the source that `spec` asks for, and where it reads; nothing is opened.

    Raises:
        SourceError: no such kind of source, no such file, or a pipe or a device.

    Example:
        >>> kind_of("merlin://camera:6342")
        ('merlin', 'camera:6342')
    """
    scheme, separator, where = str(spec).partition("://")
    if separator:
        if scheme not in BY_SCHEME:
            known = ", ".join(f"{name}://" for name in BY_SCHEME)
            raise SourceError(f"{spec}: no source {scheme}://{nearest(scheme, BY_SCHEME)}; known: {known}")
        return BY_SCHEME[scheme], where
    suffix = Path(spec).suffix.lower()
    if suffix not in BY_SUFFIX:
        raise SourceError(
            f"{spec}: no source for {suffix or '(no suffix)'}{_meant(str(spec), suffix)};"
            f" known: {', '.join(BY_SUFFIX)}, and URLs of {', '.join(BY_SCHEME)}"
        )
    try:
        check_regular(Path(spec))
    except FormatError as error:
        raise SourceError(str(error)) from None
    return BY_SUFFIX[suffix], str(spec)


def _meant(spec: str, suffix: str) -> str:
    """Return what a source of no known kind may have been meant to be, or ''."""
    address = re.fullmatch(r"(?:(?:merlin|csr|spectra):/?)?([\w.\-]+:\d{1,5})/?", spec)
    if address:
        return f" (a camera is merlin://{address[1]})"
    if suffix in (".npy", ".npz"):
        return " (an array does not say what its axes are: write it with twin.formats.create)"
    return nearest(suffix, BY_SUFFIX, 0.7)


def _corrected(source: Source, references: Mapping[str, Any]) -> Source:
    """Return a source with the references of its camera applied."""
    from agents.sources.corrected import CorrectedSource
    from twin.references.camera_reference import ReferenceOptions

    return CorrectedSource(source, checked_options(ReferenceOptions, references))


def overridden(meta: StreamMeta, entries: Mapping[str, Any]) -> StreamMeta:
    """Replace entries of the metadata.

    Raises:
        SourceError: an unknown key (the message suggests the nearest) or a value out of range.
    """
    given = dict(entries)
    transposed = given.pop("transposed", meta.transposed)
    if not isinstance(transposed, bool | None):
        raise SourceError(f"transposed is true or false; got {transposed!r}")
    for key in given:
        check_known(key, [*Metadata.__dataclass_fields__, "transposed"], "a key of the metadata", SourceError)
    try:
        metadata = Metadata.of({**meta.metadata.plain(), **given}, "meta")
    except FormatError as error:
        raise SourceError(str(error)) from error
    for key, unit in (("energy_kev", "keV"), ("convergence_mrad", "mrad")):
        value, (low, high) = getattr(metadata, key), OPTICS_LIMITS[key]
        if key in given and value is not None and not low <= value <= high:
            closest = low if value < low else high
            raise SourceError(f"meta: {key} is in {unit}, {low:g} to {high:g}, got {value:g}; nearest: {closest:g}")
    return replace(meta, metadata=metadata, transposed=transposed)


def endpoint(where: str, port: int) -> tuple[str, int]:
    """Split `host:port`, `host` or `[::1]:port` into host and port; `port` is the default.

    Raises:
        SourceError: no host, or no port number.
    """
    host, colon, digits = where.rstrip("/").rpartition(":")
    if not colon or (host.startswith("[") and not host.endswith("]")):
        host, digits = where.rstrip("/"), str(port)
    if not host or not (digits.isascii() and digits.isdigit() and 0 < int(digits[:6]) < 65536):
        raise SourceError(f"{where!r} is not host:port, with a port of 1 to 65535")
    return host.strip("[]"), int(digits)


def why_not_connected(error: BaseException) -> str:
    """Return in words why a camera could not be reached.

    Example:
        >>> why_not_connected(ConnectionRefusedError(111, "Connection refused"))
        'Connection refused: nothing listens at this address'
    """
    words = reason(error)
    return f"{words}: nothing listens at this address" if isinstance(error, ConnectionRefusedError) else words
