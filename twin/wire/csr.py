"""The sparse stream of LiberTEM's Timepix3 camera (asi-tpx3): encoder and decoder of its messages. No sockets.

Every message begins with 32 bytes, little-endian, enumerations one byte each. The first byte is the kind:

    0 acquisition start: version, format (0 counts, 1 time over threshold), scan 2 x u16, type of the boundaries, camera
      2 x u16, type of the indices, sequence u32
    1 scan start: sequence u32, length u64; that many bytes of JSON follow
    2 chunk: type of the values, frames u32, entries u32, offsets of indices and values u32 each; the boundaries
      (frames + 1), the indices and the values follow, offsets counted from the first byte after the header
    3 scan end, 4 acquisition end: sequence u32

Types: 2 u8, 3 u16, 4 u32, 5 u64. Source: the public client LiberTEM-rs, and bytes that it wrote.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.errors import StemtwinError, printable
from twin.text import json_text
from twin.wire.rpc import REFUSAL

HEADER = 32
PORT = 8283
LARGEST_SIDE = 16384
"""Pixels along one side of a camera; a header that claims more is invalid."""
TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u1"), 3: np.dtype("<u2"), 4: np.dtype("<u4"), 5: np.dtype("<u8")}
FORMATS: tuple[Literal["counts"], Literal["tot"]] = ("counts", "tot")

_ACQUISITION, _SCAN, _CHUNK, _END = (
    struct.Struct("<BBBHHBHHBI"),
    struct.Struct("<BIQ"),
    struct.Struct("<BBIIII"),
    struct.Struct("<BI"),
)
Unsigned = NDArray[np.unsignedinteger]


class CsrError(StemtwinError, ValueError):
    """An invalid stream. The beginning of the next message is unknown: nothing after it can be read."""


@dataclass(frozen=True)
class Limits:
    """Limits of a message; a header that claims more is invalid.

    Attributes:
        metadata_bytes: JSON of one scan.
        chunk_bytes: boundaries, indices and values of one chunk.
    """

    metadata_bytes: int = 2**20
    chunk_bytes: int = 256 * 2**20


@dataclass(frozen=True)
class AcquisitionStart:
    """Start of an acquisition: what all its scans have in common.

    Attributes:
        scan: (rows, columns).
        camera: (H, W).
        sequence: the acquisition's number.
        format: of the values: counts, or the time over threshold of one event each.
        indptr_type, index_type: of boundaries and pixels, unsigned.
        version: of the protocol.
    """

    scan: tuple[int, int]
    camera: tuple[int, int]
    sequence: int = 1
    format: Literal["counts", "tot"] = "counts"
    indptr_type: np.dtype[Any] = TYPES[4]
    index_type: np.dtype[Any] = TYPES[4]
    version: int = 7


@dataclass(frozen=True)
class ScanStart:
    """Start of a scan.

    Attributes:
        sequence: the scan's number.
        metadata: JSON of the sender.
    """

    sequence: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Events of the next N positions in the order of read-out.

    Attributes:
        indptr: events of position k are `indptr[k]` to `indptr[k + 1]`, (N + 1,).
        index: pixel y W + x, (n,).
        value: counts or time over threshold, (n,).
    """

    indptr: Unsigned
    index: Unsigned
    value: Unsigned

    def __len__(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True)
class ScanEnd:
    """End of a scan; the same sequence as its start."""

    sequence: int = 1


@dataclass(frozen=True)
class AcquisitionEnd:
    """End of an acquisition; the same sequence as its start."""

    sequence: int = 1


Message = AcquisitionStart | ScanStart | Chunk | ScanEnd | AcquisitionEnd


def encode(message: Message) -> bytes:
    """Return a message as bytes. The types of a chunk must be those of the acquisition's start.

    Raises:
        CsrError: values that the format cannot hold.
    """
    try:
        if isinstance(message, AcquisitionStart):
            return _padded(_ACQUISITION.pack(
                0, message.version, FORMATS.index(message.format), *message.scan, _code(message.indptr_type),
                *message.camera, _code(message.index_type), message.sequence,
            ))  # fmt: skip
        if isinstance(message, ScanStart):
            text = json.dumps(dict(message.metadata)).encode() if message.metadata else b""
            return _padded(_SCAN.pack(1, message.sequence, len(text))) + text
        if isinstance(message, Chunk):
            return _encode_chunk(message)
        return _padded(_END.pack(3 if isinstance(message, ScanEnd) else 4, message.sequence))
    except struct.error as error:
        raise CsrError(f"{type(message).__name__} does not fit its header: {error}") from None


def _encode_chunk(chunk: Chunk) -> bytes:
    parts = [
        np.ascontiguousarray(part).astype(part.dtype.newbyteorder("<"))
        for part in (chunk.indptr, chunk.index, chunk.value)
    ]
    # Each array begins at a multiple of its item size, so that a receiver can read it in place.
    indices = _aligned(parts[0].nbytes, parts[1].itemsize)
    values = _aligned(indices + parts[1].nbytes, parts[2].itemsize)
    header = _CHUNK.pack(2, _code(parts[2].dtype), len(chunk), len(chunk.index), indices, values)
    payload = bytearray(values + parts[2].nbytes)
    for place, part in zip((0, indices, values), parts, strict=True):
        payload[place : place + part.nbytes] = part.tobytes()
    return _padded(header) + bytes(payload)


class CsrDecoder:
    """Decodes the stream: bytes in, messages out. Each byte is copied once, into its message.

    Either pass bytes to `feed`, or let a socket write into `space()` and pass the number of bytes to `filled`. The size
    that a header claims is checked against the limits before it is allocated.

    Args:
        limits: of one message.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._start: AcquisitionStart | None = None
        self._scan: int | None = None
        self._remaining = 0
        self._header: tuple[Any, ...] | None = None
        self._buffer, self._filled = np.empty(HEADER, np.uint8), 0
        self._broken = False

    @property
    def idle(self) -> bool:
        """Whether the stream is between two acquisitions, where it may end."""
        return self._start is None and self._header is None and self._filled == 0

    def space(self) -> memoryview:
        """Return the buffer for the next bytes; never empty."""
        return self._buffer.data[self._filled :]

    def filled(self, count: int) -> Message | None:
        """Return the message that `count` bytes in `space()` complete, if any.

        Raises:
            CsrError: an invalid message, now or in an earlier call.
        """
        if self._broken:
            raise CsrError("nothing can be read after an invalid message")
        self._filled += count
        if self._filled < len(self._buffer):
            return None
        try:
            return self._message()
        except CsrError:
            self._broken = True
            raise

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Yield the messages that these bytes complete; iterate to the end.

        Raises:
            CsrError: as `filled`.
        """
        rest = memoryview(data).cast("B")
        while len(rest):
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            rest = rest[count:]
            message = self.filled(count)
            if message is not None:
                yield message

    def _message(self) -> Message | None:
        """Decode a full buffer: return a message, or prepare for its payload."""
        message: Message | None
        if self._header is not None:
            message = self._with_payload(self._header)
        else:
            kind, words = int(self._buffer[0]), self._buffer.tobytes()
            if words.startswith(REFUSAL):
                raise CsrError(f"the sender refuses: {printable(words[len(REFUSAL) :].decode('ascii', 'replace'))}")
            if kind > 4:
                raise CsrError(f"a message of kind {kind}; known: 0 to 4")
            read = (self._acquisition_start, self._scan_start, self._chunk, self._scan_end, self._acquisition_end)
            message = read[kind]()
            if message is None:
                return None
        self._header, self._buffer, self._filled = None, np.empty(HEADER, np.uint8), 0
        return message

    def _await(self, header: tuple[Any, ...], size: int) -> None:
        self._header, self._buffer, self._filled = header, np.empty(size, np.uint8), 0

    def _acquisition_start(self) -> Message:
        read = _ACQUISITION.unpack_from(self._buffer.data)
        _, version, kind, rows, columns, indptr, height, width, index, sequence = read
        if self._start is not None:
            raise CsrError(f"acquisition {sequence} starts within acquisition {self._start.sequence}")
        if kind >= len(FORMATS):
            raise CsrError(f"format {kind} is not known; known: 0 counts, 1 time over threshold")
        if not (rows and columns) or not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
            raise CsrError(f"a scan of {rows} x {columns} with a camera of {height} x {width}")
        self._start = AcquisitionStart(
            (rows, columns), (height, width), sequence, FORMATS[kind], _type(indptr), _type(index), version
        )
        return self._start

    def _scan_start(self) -> Message | None:
        _, sequence, length = _SCAN.unpack_from(self._buffer.data)
        if self._start is None or self._scan is not None:
            raise CsrError(f"scan {sequence} starts {'within another' if self._start else 'without an acquisition'}")
        if length > self._limits.metadata_bytes:
            raise CsrError(f"metadata of {length} bytes; the limit is {self._limits.metadata_bytes}")
        self._scan, self._remaining = sequence, self._start.scan[0] * self._start.scan[1]
        if length:
            self._await((sequence,), length)
            return None
        return ScanStart(sequence)

    def _chunk(self) -> None:
        _, code, frames, entries, indices, values = _CHUNK.unpack_from(self._buffer.data)
        if self._start is None or self._scan is None:
            raise CsrError("a chunk outside a scan")
        if not 0 < frames <= self._remaining:
            raise CsrError(f"a chunk of {frames} positions; {self._remaining} of the scan are left")
        value = _type(code)
        size = values + entries * value.itemsize
        boundaries = (frames + 1) * self._start.indptr_type.itemsize
        if indices < boundaries or values < indices + entries * self._start.index_type.itemsize:
            raise CsrError(f"indices at {indices} and values at {values} leave no room for {frames} and {entries}")
        if size > self._limits.chunk_bytes:
            raise CsrError(f"a chunk of {size} bytes; the limit is {self._limits.chunk_bytes}")
        self._await((value, frames, entries, indices, values), size)

    def _scan_end(self) -> Message:
        (_, sequence) = _END.unpack_from(self._buffer.data)
        if self._scan != sequence:
            raise CsrError(f"scan {sequence} ends, but scan {self._scan} is running")
        self._scan = None
        return ScanEnd(sequence)

    def _acquisition_end(self) -> Message:
        # Within a scan too: that is a stop by the operator.
        (_, sequence) = _END.unpack_from(self._buffer.data)
        if self._start is None or self._start.sequence != sequence:
            running = None if self._start is None else self._start.sequence
            raise CsrError(f"acquisition {sequence} ends, but acquisition {running} is running")
        self._start = self._scan = None
        return AcquisitionEnd(sequence)

    def _with_payload(self, header: tuple[Any, ...]) -> Message:
        if len(header) == 1:
            return ScanStart(header[0], _json(self._buffer.tobytes()))
        assert self._start is not None
        value, frames, entries, indices, values = header
        chunk = Chunk(
            np.frombuffer(self._buffer, self._start.indptr_type, frames + 1),
            np.frombuffer(self._buffer, self._start.index_type, entries, indices),
            np.frombuffer(self._buffer, value, entries, values),
        )
        if chunk.indptr[0] != 0 or chunk.indptr[-1] != entries or np.any(chunk.indptr[1:] < chunk.indptr[:-1]):
            raise CsrError(f"boundaries do not rise from 0 to {entries}")
        pixels = self._start.camera[0] * self._start.camera[1]
        if entries and int(chunk.index.max()) >= pixels:
            raise CsrError(f"an event hits pixel {chunk.index.max()}; the camera has {pixels}")
        self._remaining -= frames
        return chunk


def _json(text: bytes) -> dict[str, Any]:
    try:
        read = json_text.loads(text, finite=False)
    except (ValueError, RecursionError) as error:
        raise CsrError(f"the scan's metadata are not JSON: {error}") from None
    if not isinstance(read, dict):
        raise CsrError(f"the scan's metadata are a {type(read).__name__}; an object was expected")
    return read


def _padded(header: bytes) -> bytes:
    return header.ljust(HEADER, b"\0")


def _aligned(place: int, size: int) -> int:
    return -(-place // size) * size


def _type(code: int) -> np.dtype[Any]:
    if code not in TYPES:
        raise CsrError(f"type {code} is not known; known: 2 u8, 3 u16, 4 u32, 5 u64")
    return TYPES[code]


def _code(kind: np.dtype[Any]) -> int:
    for code, known in TYPES.items():
        if known == kind.newbyteorder("<"):
            return code
    raise CsrError(f"{kind} cannot be sent; known: u8, u16, u32, u64")
