"""Pictures of the page: arrays as bytes with their size and scale, packed into one binary message.

A message is the length of a JSON header (4 bytes, little-endian), the header, and the bytes of its pictures in order.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenarios.calibration.plots import log_power
from twin.aberrations import Aberrations, aberration_phase
from twin.arrays import Array
from twin.optics import Optics, probe_extent_nm
from twin.probe import QUARTER_PI_LIMIT_RAD, probe_intensity
from twin.types import Frame

OUTSIDE, CONTOUR = 255, 254
"""Bytes of a phase plate that are no phase: outside the aperture, and on the contour of pi / 4."""
PHASE_PIXELS, PROBE_PIXELS = 128, 128
PROBE_SAMPLINGS = (0.2, 0.4, 0.8)
"""Pixels of the probe's picture, in units of the coarsest that the aperture allows: the finest that shows all of it."""
MOST_PIXELS = 256
"""Longest side of a picture; larger arrays are binned."""
SPECTRUM_TOP = 0.3
"""Least top of the colour scale of a spectrum, decades over the noise."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    Attributes:
        name: tells the page where to draw it.
        values: (H, W) bytes, rows downwards.
        scale: what the page prints beside it: low, high, unit, extent.
    """

    name: str
    values: NDArray[np.uint8]
    scale: Mapping[str, Any]


def packed(kind: str, number: int, pictures: Sequence[Picture], details: Mapping[str, Any]) -> bytes:
    """Return one binary message.

    Args:
        kind: "view", "run" or "scan".
        number: of the message; the page confirms it once it is drawn.
        pictures: in the order in which their bytes follow.
        details: further plain entries of the header.

    Example:
        >>> message = packed("view", 3, [Picture("spectrum", np.zeros((2, 5), np.uint8), {})], {"clock_s": 1.0})
        >>> header, data = unpacked(message)
        >>> header["number"], header["pictures"][0]["width"], len(data)
        (3, 5, 10)
    """
    listed = [{"name": p.name, "height": p.values.shape[0], "width": p.values.shape[1], **p.scale} for p in pictures]
    header = json.dumps({"kind": kind, "number": number, **details, "pictures": listed}).encode()
    return b"".join(
        [struct.pack("<I", len(header)), header, *(np.ascontiguousarray(p.values).tobytes() for p in pictures)]
    )


def unpacked(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and bytes of a message, as the page reads it; for tests and other clients."""
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def as_bytes(values: Array, low: float, high: float) -> NDArray[np.uint8]:
    """Return values from `low` to `high` as 0 to 255; what is beyond is clipped, NaN is 0."""
    span = high - low if high > low else 1.0
    scaled: NDArray[np.uint8] = np.clip((np.nan_to_num(values, nan=low) - low) * (255.0 / span), 0, 255).astype(
        np.uint8
    )
    return scaled


def ronchigram(frame: Frame, name: str = "ronchigram") -> Picture:
    """Return a camera image between its 1st and its 99.7th percentile."""
    counts = binned(np.asarray(frame.counts, np.float32))
    low, high = (float(v) for v in np.percentile(counts, (1.0, 99.7)))
    return Picture(name, as_bytes(counts, low, high), {"low": low, "high": high, "unit": "counts"})


def spectrum(frame: Frame, name: str = "spectrum") -> Picture:
    """Return the inner half of a frame's power spectrum, decades over its shot noise."""
    power = log_power(frame)
    height, width = power.shape
    inner = power[height // 4 : height - height // 4, width // 4 : width - width // 4]
    high = max(SPECTRUM_TOP, float(np.percentile(power, 99.6)))
    return Picture(name, as_bytes(inner, 0.0, high), {"low": 0.0, "high": high, "unit": "decades over the noise"})


def probe(aberrations: Aberrations, optics: Optics) -> Picture:
    """Return the probe's intensity, from zero to its maximum, about the optic axis; a small probe is magnified."""
    airy_nm = optics.wavelength_nm / (1e-3 * optics.convergence_mrad)
    needed_nm = probe_extent_nm(optics, aberrations) + 4 * airy_nm
    fields = [fraction * airy_nm / 2 * PROBE_PIXELS for fraction in PROBE_SAMPLINGS]
    field_nm = next((field for field in fields if field >= needed_nm), fields[-1])
    intensity = probe_intensity(aberrations, optics, field_nm / PROBE_PIXELS, PROBE_PIXELS)
    return Picture("probe", as_bytes(intensity, 0.0, float(intensity.max())), {"field_nm": field_nm})


def phase_plate(aberrations: Aberrations, optics: Optics) -> Picture:
    """Return chi over the aperture, modulo 2 pi as 0 to 253, with the contour where its size is pi / 4."""
    axis = np.linspace(-1.0, 1.0, PHASE_PIXELS) * optics.convergence_mrad * 1.04
    x, y = np.meshgrid(axis, axis)
    chi = aberration_phase(aberrations, x, y, optics.wavelength_nm)
    values = np.floor(np.mod(chi + math.pi, 2 * math.pi) / (2 * math.pi) * (CONTOUR - 1e-6)).astype(np.uint8)
    flat = np.abs(chi) <= QUARTER_PI_LIMIT_RAD
    beyond = np.zeros_like(flat)
    beyond[:-1] |= ~flat[1:]
    beyond[1:] |= ~flat[:-1]
    beyond[:, :-1] |= ~flat[:, 1:]
    beyond[:, 1:] |= ~flat[:, :-1]
    values[flat & beyond] = CONTOUR
    values[np.hypot(x, y) > optics.convergence_mrad] = OUTSIDE
    return Picture("phase", values, {"unit": "rad"})


def of_probe(aberrations: Aberrations, optics: Optics) -> list[Picture]:
    """Return pictures of probe and phase plate."""
    return [probe(aberrations, optics), phase_plate(aberrations, optics)]


def of_frame(frame: Frame) -> list[Picture]:
    """Return the pictures of one frame: as it is, and its spectrum."""
    return [ronchigram(frame), spectrum(frame)]


def binned(values: Array) -> Array:
    """Return an image of at most `MOST_PIXELS` a side, averaged over equal squares; a rest at the edges is cut."""
    factor = -(-max(values.shape) // MOST_PIXELS)
    if factor == 1:
        return values
    height, width = (side // factor * factor for side in values.shape)
    squares = values[:height, :width].reshape(height // factor, factor, width // factor, factor)
    mean: Array = squares.mean(axis=(1, 3))
    return mean
