"""Raw Timepix3 bytes, packet by packet, after the manual of Serval (appendix on the raw file format)."""

import struct
from collections.abc import Iterable

SPAN = 1 << 30


def hit(x: int, y: int, fine: int, tot: int = 5) -> int:
    """A hit at a pixel of its chip, at a time in steps of 1.5625 ns."""
    tick, ftoa = -(-fine // 16), -fine % 16
    tick %= SPAN
    address = (x // 2) << 9 | (y // 4) << 3 | (x % 2) << 2 | y % 4
    return 0xB << 60 | address << 44 | (tick & 0x3FFF) << 30 | tot << 20 | ftoa << 16 | tick >> 14


def edge(time_fine: int, kind: int = 0xF) -> int:
    """A rising edge at the first trigger input (0xe: at the second; 0xa, 0xb: falling ones)."""
    return 0x6 << 60 | kind << 56 | 1 << 44 | (time_fine // 2) % (1 << 35) << 9 | 1 << 5


CONTROL = (0x44 << 56, 0x45 << 56, 0x50 << 56 | 7, 0x71A0 << 48, 0x5C << 56)


def chunk(words: Iterable[int], chip: int = 0) -> bytes:
    """A chunk of one chip."""
    body = struct.pack(f"<{len(words := list(words))}Q", *words)
    return b"TPX3" + bytes([chip, 0]) + struct.pack("<H", len(body)) + body
