"""Where streams come from: one file per kind of source, and `open_source`, which picks one.

Every module here has `make(where, options)`: `where` is what follows the scheme, or the path.
"""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Len
from pydantic import BeforeValidator

from agents.base import StreamMeta
from agents.source import Source, SourceError
from twin.formats.dataset import FormatError, Metadata
from twin.suggest import nearest


def _sides(given: Any) -> Any:
    """`64,48`, as it is easily typed, for `[64, 48]`; what each of them is, is checked afterwards."""
    if isinstance(given, str):
        return [side.strip() for side in given.split(",")]
    return [given] if isinstance(given, int) else given


Shape = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(1, 2), BeforeValidator(_sides)]
"""(rows, columns), or (N,) for a list."""

Camera = Annotated[tuple[Annotated[int, Gt(0)], Annotated[int, Gt(0)]], BeforeValidator(_sides)]
"""(H, W)."""

BY_SCHEME = {"merlin": "merlin", "csr": "csr"}
BY_SUFFIX = {".mib": "files", ".zarr": "files", ".hspy": "files", ".t3p": "t3p"}


def open_source(spec: str | Path, meta: Mapping[str, Any] | None = None, **options: Any) -> Source:
    """A source by URL (`merlin://host:port`, `csr://host:port`) or by the suffix of a file.

    Args:
        spec: URL or path.
        meta: what the operator knows better than the stream: any key of `Metadata`, and `transposed`.
        options: of the kind of source; see the `Options` in its module.

    Raises:
        SourceError: nothing of that kind, nothing there, or no such stream.
        OptionError: an option that this kind of source does not have, or a bad value.
    """
    scheme, separator, where = str(spec).partition("://")
    if separator:
        if scheme not in BY_SCHEME:
            known = ", ".join(f"{name}://" for name in BY_SCHEME)
            raise SourceError(f"{spec}: no source {scheme}://{nearest(scheme, BY_SCHEME)}; known: {known}")
        module = BY_SCHEME[scheme]
    else:
        suffix = Path(spec).suffix
        if suffix not in BY_SUFFIX:
            raise SourceError(
                f"{spec}: no source for {suffix or '(no suffix)'}{nearest(suffix, BY_SUFFIX, 0.5)};"
                f" known: {', '.join(BY_SUFFIX)}, and URLs of {', '.join(BY_SCHEME)}"
            )
        module, where = BY_SUFFIX[suffix], str(spec)
    source: Source = importlib.import_module(f"agents.sources.{module}").make(where, options)
    try:
        source.meta = told(source.meta, meta or {})
    except BaseException:
        source.close()
        raise
    return source


def told(meta: StreamMeta, known: Mapping[str, Any]) -> StreamMeta:
    """The same with what the operator says in place of what the stream says.

    Raises:
        SourceError: an unknown key (names the nearest) or a value out of range.
    """
    ours = dict(known)
    transposed = ours.pop("transposed", meta.transposed)
    if not isinstance(transposed, bool | None):
        raise SourceError(f"transposed is true or false; got {transposed!r}")
    keys = [*Metadata.__dataclass_fields__, "transposed"]
    for key in ours:
        if key not in keys:
            raise SourceError(f"{key} is nothing that a stream can tell{nearest(key, keys)}; known: {', '.join(keys)}")
    try:
        metadata = Metadata.of({**meta.metadata.plain(), **ours}, "meta")
    except FormatError as error:
        raise SourceError(str(error)) from error
    return replace(meta, metadata=metadata, transposed=transposed)


def endpoint(where: str, port: int) -> tuple[str, int]:
    """Host and port of `host:port`, `host` or `[::1]:port`; `port` where none is given.

    Raises:
        SourceError: no host, or no port number.
    """
    host, colon, digits = where.rstrip("/").rpartition(":")
    if not colon or (host.startswith("[") and not host.endswith("]")):
        host, digits = where.rstrip("/"), str(port)
    if not host or not (digits.isascii() and digits.isdigit() and 0 < int(digits[:6]) < 65536):
        raise SourceError(f"{where!r} is not host:port, with a port of 1 to 65535")
    return host.strip("[]"), int(digits)
