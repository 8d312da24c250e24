"""iDPC against a map of deflections that is known."""

import numpy as np
import pytest

from agents.base import StreamMeta, load
from agents.block import FrameBlock
from twin.formats.dataset import Layout, Metadata


@pytest.mark.parametrize(("rotation_deg", "transposed"), [(0.0, False), (90.0, False), (0.0, True)])
def test_a_deflected_disc_gives_its_phase(rotation_deg: float, transposed: bool) -> None:
    rows, columns, side = 16, 20, 40
    x = np.arange(columns)
    phase = np.cos(2 * np.pi * x / 10) * np.ones((rows, 1))
    slope = -np.sin(2 * np.pi * x / 10) * np.ones((rows, 1))
    # The fast axis of the scan on the camera: +x, or +y where the camera is turned or transposed.
    along_y = rotation_deg == 90.0 or transposed
    frames = np.zeros((rows * columns, side, side), np.uint16)
    v, u = np.indices((side, side)) - 20.0
    for frame, shift in zip(frames, slope.ravel(), strict=True):
        moved = (u, v - 1.5 * shift) if along_y else (u - 1.5 * shift, v)
        frame[np.hypot(*moved) <= 10.0] = 10
    beam = Metadata(energy_kev=300, convergence_mrad=20, pixel_mrad=2, step_nm=0.02, rotation_deg=rotation_deg)
    agent = load("idpc", {"layout": "quadrants"})
    agent.start(StreamMeta(Layout((rows, columns), (side, side)), beam, transposed=transposed))
    agent.update(FrameBlock(frames, np.argwhere(np.ones((rows, columns)))))
    assert np.corrcoef(agent.result().images["idpc"].values.ravel(), phase.ravel())[0, 1] > 0.98
