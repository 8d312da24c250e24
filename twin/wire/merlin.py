"""Messages of a Merlin (Medipix3) camera's data port, as bytes. No sockets, no threads.

A message is `MPX,` + ten digits + `,` + payload; the number is the payload's length plus one. A text header (HDR)
comes first, then one frame per message: an MQ1 header and big-endian pixels (`twin.formats.merlin_header`). Decoding
is in `merlin_decoder.py`, the control port in `merlin_commands.py`.
"""

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from twin.errors import StemtwinError
from twin.formats import merlin_header as mh
from twin.formats import merlin_pixels
from twin.formats.dataset import FormatError, Frames

Bytes = NDArray[np.uint8]

DATA_PORT = 6342
PREFIX_BYTES = 15
MOST_TEXT = 2**20
"""Largest text header, bytes; those of cameras have some thousands."""
MOST_FRAME = 2**26
"""Default limit of a frame with its header, bytes: 4096 x 4096 pixels of 32 bits."""

PREFIX = re.compile(rb"MPX,[0-9]{10},")


class WireError(StemtwinError, ValueError):
    """Bytes that no Merlin sends, or more than a limit allows."""


def prefix(length: int) -> bytes:
    """Return the prefix of a payload of `length` bytes."""
    return b"MPX,%010d," % (length + 1)


def message(payload: bytes) -> bytes:
    """Return a payload with its prefix."""
    return prefix(len(payload)) + payload


def payload_length(raw: bytes, limit: int) -> int:
    """Return the length of the payload that a prefix announces, bytes.

    Raises:
        WireError: not a prefix, or a length of zero or above `limit`.
    """
    if len(raw) != PREFIX_BYTES or not PREFIX.fullmatch(raw):
        raise WireError(f"a message begins with MPX and ten digits, not with {raw[:PREFIX_BYTES]!r}")
    length = int(raw[4:14]) - 1
    if not 1 <= length <= limit:
        raise WireError(f"a message of {length} bytes; 1 to {limit} are allowed")
    return length


def acquisition_message(acquisition: mh.Acquisition, assembly: str = "1x1") -> bytes:
    """Return the first message of an acquisition."""
    return message(mh.build_hdr(acquisition, assembly))


def frame_messages(frames: Frames, header: mh.MerlinHeader, begun_s: float = 0.0, dwell_s: float = 0.0) -> Bytes:
    """Return messages of consecutive frames, one per row, (n, bytes), contiguous.

    Args:
        frames: counts, (n, H, W).
        header: of the first frame; the numbers of the others continue from its `sequence`.
        begun_s: camera time of the first frame.
        dwell_s: from one frame to the next.

    Raises:
        FormatError: frames that do not match the header.
    """
    payload = merlin_pixels.encode(frames, header)
    front = PREFIX_BYTES + header.length
    rows = np.empty((len(frames), front + header.payload_bytes), np.uint8)
    rows[:, front:] = payload
    mark = "@TIME@"
    pattern = mh.build_header(replace(header, sequence=0, time=mark))
    before, middle, after = _cut(pattern.rstrip(b"\0"), mark.encode())
    start = prefix(header.length + header.payload_bytes) + b"MQ1,"
    for k in range(len(frames)):
        time = mh.stamp(begun_s + k * dwell_s).encode()
        second = time.replace(b" ", b"T") if after else b""
        head = b"".join((start, b"%06d" % (header.sequence + k), before, time, middle, second, after))
        if len(head) >= front:
            raise FormatError(f"a header takes {len(head) - PREFIX_BYTES + 1} bytes; the limit is {header.length}")
        rows[k, :front] = np.frombuffer(head.ljust(front, b"\0"), np.uint8)
    return rows


def _cut(pattern: bytes, mark: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a header, after its number, at its first and, if present, second time stamp."""
    before, *rest = pattern[len(b"MQ1,000000") :].split(mark)
    return before, rest[0], rest[1] if len(rest) > 1 else b""
