"""A beam that a phase deflects, as a stream of frames: by construction, its centre of mass is the phase's gradient."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from agents.base import StreamMeta
from agents.block import FrameBlock
from agents.geometry import phase_gradient
from twin.formats.dataset import Layout, Metadata
from twin.optics import electron_wavelength_nm

STEP_NM, PIXEL_MRAD, ENERGY_KEV = 0.02, 2.0, 300.0
BLOB_PX = 1.6


def deflected(gradient, rotation_deg=0.0, transposed=False, camera=(15, 18), dose_e=None, seed=0):
    """Expected frames of a round beam, or Poisson counts of them, (rows * columns, H, W).

    Args:
        gradient: of the phase along the scan's axes, (rows, columns, 2), rad / nm.
        rotation_deg: the scan's fast axis is turned by it from the camera's +x towards its +y.
        transposed: the camera swaps rows and columns after that.
        dose_e: electrons per frame; None for expected counts of a million.
    """
    per_px = phase_gradient(np.ones(1), PIXEL_MRAD, electron_wavelength_nm(ENERGY_KEV))[0]
    fast, slow = np.moveaxis(gradient.reshape(-1, 2), 1, 0) / per_px
    c, s = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    x, y = c * fast - s * slow, s * fast + c * slow
    if transposed:
        x, y = y, x
    row, column = np.arange(camera[0]) - camera[0] // 2, np.arange(camera[1]) - camera[1] // 2
    along_y = np.exp(-((row - y[:, None]) ** 2) / (2 * BLOB_PX**2))
    along_x = np.exp(-((column - x[:, None]) ** 2) / (2 * BLOB_PX**2))
    expected = along_y[:, :, None] * along_x[:, None, :]
    expected /= expected.sum(axis=(1, 2), keepdims=True)
    if dose_e is None:
        return np.round(1e6 * expected).astype(np.uint32)
    return np.random.default_rng(seed).poisson(dose_e * expected).astype(np.uint16)


def waves(k_per_nm, shape, amplitude=0.3, seed=0):
    """A phase of plane waves, rad, and its gradient, rad / nm."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape) * STEP_NM
    phase, gradient = np.zeros(shape), np.zeros((*shape, 2))
    for k_x, k_y in k_per_nm:
        angle = 2 * math.pi * (k_x * x + k_y * y + rng.random())
        phase += amplitude * np.cos(angle)
        gradient -= (amplitude * 2 * math.pi * np.sin(angle))[..., None] * np.array([k_x, k_y])
    return phase, gradient


def feed(agent, frames, shape, order=None, block=50):
    """Frames into an agent, in the order of these flat positions."""
    order = np.arange(shape[0] * shape[1]) if order is None else np.asarray(order)
    pixel = np.stack(np.divmod(order, shape[1]), axis=1)
    for first in range(0, len(order), block):
        part = slice(first, first + block)
        agent.update(FrameBlock(frames[order[part]], pixel[part]))
    return agent


def meta(shape, camera=(15, 18), **known):
    """Of such a stream; with `known` instead of the usual metadata."""
    usual = {"step_nm": STEP_NM, "pixel_mrad": PIXEL_MRAD, "energy_kev": ENERGY_KEV, "rotation_deg": 0.0}
    return StreamMeta(Layout(shape, camera), Metadata(**(usual | known)), transposed=False)


@pytest.fixture(scope="session")
def beam():
    """The functions of this file."""
    return SimpleNamespace(deflected=deflected, waves=waves, feed=feed, meta=meta, step_nm=STEP_NM, blob_px=BLOB_PX)
