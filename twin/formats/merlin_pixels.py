"""Pixels of the Merlin (Medipix3) camera: conversion between bytes and frames, processed and raw (R64).

Raw data are the chip's 64-bit big-endian words, with pixels in order from the least significant end: 64 pixels of
1 bit, 8 of 6 bits (a byte each) or 4 of 12 bits (two bytes each). 24-bit frames are two 12-bit frames, the more
significant one first. A quad sends its four chips side by side, [4 | 3 | 2 | 1] of

    1 | 2
    --+--
    3 | 4       the lower two rotated by 180 degrees.

Source of the orders: the decoder of a public client (LiberTEM).
"""

import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import FormatError, Frames
from twin.formats.merlin_header import PIXEL_BYTES, MerlinHeader

Bytes = NDArray[np.uint8]


def dtype(header: MerlinHeader) -> np.dtype[np.unsignedinteger]:
    """Return the dtype of `decode`."""
    if header.pixel in PIXEL_BYTES:
        return np.dtype(f"u{PIXEL_BYTES[header.pixel]}")
    return np.dtype({12: "u2", 24: "u4"}.get(header.depth or 0, "u1"))


def decode(payload: Bytes, header: MerlinHeader) -> Frames:
    """Return frames, shape (n, H, W), from their bytes, shape (n, `header.payload_bytes`)."""
    count = len(payload)
    if header.pixel in PIXEL_BYTES:
        size = PIXEL_BYTES[header.pixel]
        native = np.dtype(f"u{size}")
        pixels = np.ascontiguousarray(payload).view(np.dtype(f">u{size}")).astype(native, copy=False)
        return pixels.reshape(count, *header.image_shape)
    if header.depth == 24:
        high, low = np.ascontiguousarray(payload.reshape(count, 2, -1)).transpose(1, 0, 2)
        upper, lower = (_unpack(np.ascontiguousarray(part), 12).astype(np.uint32) for part in (high, low))
        whole: Frames = np.bitwise_or(upper << np.uint32(12), lower)
        return whole.reshape(count, *header.image_shape)
    plane = _unpack(np.ascontiguousarray(payload), header.depth or 0).reshape(count, header.height, header.width)
    return _assemble(plane) if header.chips == 4 else plane


def encode(frames: Frames, header: MerlinHeader) -> Bytes:
    """Return the bytes, shape (n, `header.payload_bytes`), of frames, shape (n, H, W); the inverse of `decode`.

    Raises:
        FormatError: the frames do not match the header, or exceed its counter.
    """
    if frames.shape[1:] != header.image_shape:
        raise FormatError(f"the header has frames of {header.image_shape}; got {frames.shape[1:]}")
    bits = header.depth if header.depth is not None else 8 * PIXEL_BYTES[header.pixel]
    largest = int(frames.max(initial=0))
    if largest >= 1 << bits:
        raise FormatError(f"a counter of {bits} bits ends at {(1 << bits) - 1}; the frames count up to {largest}")
    if len(frames) == 0:
        return np.zeros((0, header.payload_bytes), np.uint8)
    if header.pixel in PIXEL_BYTES:
        words = np.ascontiguousarray(frames, dtype=np.dtype(f">u{PIXEL_BYTES[header.pixel]}"))
        return words.reshape(len(frames), -1).view(np.uint8)
    if header.depth == 24:
        planes = np.stack([frames >> 12, frames & 0xFFF], axis=1)
        return _pack(planes.reshape(len(frames), -1), 12)
    plane = _take_apart(frames) if header.chips == 4 else frames
    return _pack(np.ascontiguousarray(plane).reshape(len(frames), -1), header.depth or 0)


def _unpack(words: Bytes, depth: int) -> Frames:
    """Return pixels, shape (n, m), of raw words, shape (n, bytes)."""
    count = len(words)
    if depth == 12:
        return words.view(">u2").astype(np.uint16).reshape(count, -1, 4)[:, :, ::-1].reshape(count, -1)
    reversed_words = words.reshape(count, -1, 8)[:, :, ::-1].reshape(count, -1)
    return reversed_words if depth == 6 else np.unpackbits(reversed_words, axis=1, bitorder="little")


def _pack(pixels: Frames, depth: int) -> Bytes:
    """Return raw words, shape (n, bytes), of pixels, shape (n, m); the inverse of `_unpack`."""
    count = len(pixels)
    if depth == 12:
        reversed_words = pixels.astype(">u2").reshape(count, -1, 4)[:, :, ::-1]
        return np.ascontiguousarray(reversed_words).reshape(count, -1).view(np.uint8)
    small = pixels.astype(np.uint8)
    packed = small if depth == 6 else np.packbits(small, axis=1, bitorder="little")
    return packed.reshape(count, -1, 8)[:, :, ::-1].reshape(count, -1)


def _assemble(side_by_side: Frames) -> Frames:
    """Return the quad image, (n, 2 s, 2 s), of chips side by side, (n, s, 4 s)."""
    fourth, third, second, first = np.split(side_by_side, 4, axis=2)
    upper = np.concatenate([first, second], axis=2)
    lower = np.concatenate([third[:, ::-1, ::-1], fourth[:, ::-1, ::-1]], axis=2)
    return np.concatenate([upper, lower], axis=1)


def _take_apart(image: Frames) -> Frames:
    """Return chips side by side, (n, s, 4 s), of a quad image, (n, 2 s, 2 s)."""
    upper, lower = np.split(image, 2, axis=1)
    first, second = np.split(upper, 2, axis=2)
    third, fourth = np.split(lower[:, ::-1, ::-1], 2, axis=2)[::-1]
    return np.concatenate([fourth, third, second, first], axis=2)
