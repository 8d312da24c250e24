"""Linear reconstructions from segment sums: single sideband in segments, and integrated centre of mass.

They are the start of the network, which adds what they miss. Angles are in units of the convergence angle alpha,
`sampling` is the scan step over the resolution element lambda / (2 alpha).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, uniform_filter

from agents.com.integration import integrate
from agents.segmented.segments import COUNT, centroids, fractions
from twin.arrays import Floats
from twin.detectors.geometry import DiffractionGrid

Singles = NDArray[np.float32]

SAMPLES = 24
"""Samples of the disc along its radius."""
TABLE = 40
"""Intervals of the tabulated transfer along 2 alpha."""
NEIGHBOURS = 3
"""Side, in frequencies, of the square over which the power of the signal is averaged, as in `ssb.image`."""
LEAST_MEAN = 1e-5
"""Smallest fraction of the beam in a segment that is used."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear reconstruction of a scan, the input of the network.

    Attributes:
        whitened: (counts - mean) / sqrt(mean * beam) of each segment, (34, R, C): the noise has the variance 1 / beam.
        sideband: single-sideband phase by a Wiener filter, rad, (R, C).
        integrated: integrated centre of mass, rad, (R, C).
        beam_e: electrons per position on the segments.
    """

    whitened: Singles
    sideband: Singles
    integrated: Singles
    beam_e: float


@lru_cache
def transfer_table() -> Floats:
    """Transfer of a weak phase to each segment over i times the square root of its mean, (34, n, n).

    `G_s(Q) = i Phi(Q) sum over K in s of A(K) A(K - Q) - A(K) A(K + Q)` (Rodenburg, McCallum and Nellist 1993), for
    Q from -2 alpha to 2 alpha along the slow and the fast axis.
    """
    side = 2 * SAMPLES + 1
    grid = DiffractionGrid(shape=(side, side), pixel_mrad=1 / SAMPLES)
    k = (np.arange(side) - SAMPLES) / SAMPLES
    inside = np.hypot(k[:, None], k) <= 1.0
    y, x = (axis[inside] for axis in np.meshgrid(k, k, indexing="ij"))
    part = fractions(grid, 1.0)[:, inside]
    q = np.linspace(-2.0, 2.0, TABLE + 1)
    mean = np.maximum(part.sum(axis=1), 1e-9)
    found = np.empty((COUNT, TABLE + 1, TABLE + 1))
    for row, slow in enumerate(q):
        down, up = (np.hypot(y - s * slow, x[..., None].T - s * q[:, None]) <= 1.0 for s in (1.0, -1.0))
        found[:, row] = part @ (down.astype(np.float32) - up.astype(np.float32)).T / inside.sum()
    return np.asarray(found / np.sqrt(mean / inside.sum())[:, None, None], np.float64)


def transfer(shape: tuple[int, int], sampling: float) -> Singles:
    """Transfer of the frequencies of a scan, laid out as `rfft2`, (34, R, C // 2 + 1); see `transfer_table`."""
    slow, fast = (2.0 / sampling * f for f in (np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])))
    place = np.stack(np.meshgrid(slow, fast, indexing="ij"))
    known = np.hypot(*place) < 2.0
    known &= (np.abs(place[0]) < 1 / sampling) & (np.abs(place[1]) < 1 / sampling)  # Nyquist has no sign
    found = np.zeros((COUNT, *known.shape), np.float32)
    where = (place[:, known] + 2.0) * (TABLE / 4.0)
    for segment, table in zip(found, transfer_table(), strict=True):
        segment[known] = map_coordinates(table, where, order=1)
    return found


def reconstruct(counts: Floats, sampling: float, response: Singles | None = None) -> Linear:
    """Linear reconstructions of a scan.

    Args:
        counts: of each segment, (34, R, C); NaN where unknown.
        sampling: see the module.
        response: `transfer` of this scan, if it is at hand.
    """
    known = np.isfinite(counts[0])
    positions = max(int(known.sum()), 1)
    filled = np.where(known, counts, 0.0).astype(np.float32)
    mean = filled.sum(axis=(1, 2), dtype=np.float64) / positions
    beam = max(float(mean.sum()), 1e-6)
    used = mean > LEAST_MEAN * beam
    scale = np.where(used, 1.0 / np.sqrt(np.where(used, mean, 1.0) * beam), 0.0)
    whitened = ((filled - mean[:, None, None] * known) * scale[:, None, None]).astype(np.float32)
    shape = (counts.shape[1], counts.shape[2])
    found = sideband(whitened, beam, transfer(shape, sampling) if response is None else response)
    centre = np.einsum("kyx,kd->yxd", filled - (mean[:, None, None] * known), centroids()) / beam
    return Linear(whitened, found, integrate(centre * (math.pi * sampling)).astype(np.float32), beam)


def sideband(whitened: Singles, beam_e: float, response: Singles) -> Singles:
    """Phase from whitened segments: least squares at each frequency, then a Wiener filter, rad, (R, C).

    Args:
        whitened: see `Linear`.
        beam_e: electrons per position.
        response: from `transfer`.
    """
    spectrum = scipy.fft.rfft2(whitened)
    power = (response**2).sum(axis=0)
    known = power > 1e-3 * max(float(power.max()), 1e-9)
    inverse = np.where(known, 1.0 / np.where(known, power, 1.0), 0.0)
    phase = -1j * (response * spectrum).sum(axis=0) * inverse
    noise = inverse * whitened[0].size / beam_e
    around = uniform_filter(known.astype(np.float32), NEIGHBOURS, mode="constant")
    excess = np.maximum(uniform_filter(np.abs(phase) ** 2 - noise, NEIGHBOURS, mode="constant"), 0.0)
    signal = excess / np.where(around > 0, around, 1.0)
    kept = np.where(known, signal / np.maximum(signal + noise, 1e-30), 0.0)
    return np.asarray(scipy.fft.irfft2(phase * kept, s=whitened.shape[1:]), np.float32)
