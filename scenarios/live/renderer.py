"""Ronchigrams fast enough to follow a knob: one film region stays in memory, and a draft is drawn while it moves.

A draft is the same film projected onto one phase screen, without focal spread; a fifth of the time of a full frame.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from twin.aberrations import Aberrations
from twin.day import Day
from twin.optics import Optics, check_window
from twin.ronchigram.aperture import widest
from twin.ronchigram.camera_geometry import to_camera
from twin.ronchigram.phase_screens import FastRenderer
from twin.ronchigram.renderer import FrameByFrame


class LiveRenderer(FrameByFrame):
    """A `twin.ronchigram.renderer.Renderer` that remembers the latest film region.

    Args:
        optics, day: as for `FastRenderer`; the dose and the exposure time of the day are not used.

    Attributes:
        draft: draw drafts.

    Example:
        >>> renderer = LiveRenderer(Optics(camera_pixels=32, binning=12), Day())
        >>> full = renderer.probability([Aberrations.of({"C10": 20.0})], [7])
        >>> renderer.draft = True
        >>> draft = renderer.probability([Aberrations.of({"C10": 20.0})], [7])
        >>> draft.shape, float(np.corrcoef(full.ravel(), draft.ravel())[0, 1]) > 0.95
        ((1, 32, 32), True)
    """

    def __init__(self, optics: Optics, day: Day) -> None:
        self._optics, self._day = optics, day
        self._full = FastRenderer(optics, day)
        self._single = FastRenderer(optics, replace(day, focal_spread_nm=0.0), slices=1)
        self._widest = widest(optics, day.illumination)
        self._region: tuple[int, float] | None = None
        self.draft = False

    def check(self, aberrations: Aberrations) -> None:
        """See `FrameByFrame.check`."""
        check_window(self._widest, aberrations)

    @torch.no_grad()
    def frame(self, aberrations: Aberrations, region_seed: int, grown_nm: float = 0.0) -> NDArray[np.float32]:
        """See `FrameByFrame.frame`."""
        if self._region != (region_seed, grown_nm):
            self._screens = self._full.transmission(region_seed, grown_nm=grown_nm)
            self._projected = self._screens.prod(0, keepdim=True)
            self._region = region_seed, grown_nm
        coefficients = torch.from_numpy(aberrations.array()).float()[None]
        renderer, film = (self._single, self._projected) if self.draft else (self._full, self._screens)
        fine = renderer.intensity(coefficients, film[None])
        return to_camera(fine, self._optics, self._day.camera)[0].float().numpy()
