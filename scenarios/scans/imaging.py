"""A microscope whose exposures are scanned images, for controllers that maximise sharpness (as BEACON does).

The controller gets images as `Frame`s; a controller that reads Ronchigrams cannot use them.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from agents.base import Agent, Image
from agents.sources.twin_scan import TwinScan
from twin.arrays import Array
from twin.scan.plan import ScanPlan
from twin.scan.setup import ScanSetup
from twin.simulated import SimulatedMicroscope
from twin.types import Capabilities, Frame, ScanBlock, Truth

MAX_COUNT = 65535


class ImagingMicroscope:
    """`Microscope` around one that scans: `acquire` runs a scan and returns the first image of an agent.

    Every image shows the same region of the specimen, so that only the aberrations change between images.

    Args:
        inner: set up for scans.
        setup: its scan's optics and camera.
        plan: a small scan; there is one per exposure.
        agent: reconstructs the image; restarted for each.

    Raises:
        ValueError: the microscope cannot scan, or has no camera for it.
    """

    def __init__(self, inner: SimulatedMicroscope, setup: ScanSetup, plan: ScanPlan, agent: Agent) -> None:
        if not inner.capabilities.can_scan or setup.camera is None:
            raise ValueError("images need a microscope that is set up to scan with a camera")
        self.inner, self.setup, self.plan, self.agent = inner, setup, plan, agent
        self._clock_s = 0.0

    @property
    def capabilities(self) -> Capabilities:
        inner = self.inner.capabilities
        return replace(inner, name=f"{inner.name}, imaging", camera_shape=self.plan.shape, max_count=MAX_COUNT)

    def reset(self, rng: np.random.Generator) -> None:
        self.inner.reset(rng)

    def apply(self, delta_nm: Array) -> None:
        self.inner.apply(delta_nm)

    def acquire(self) -> Frame:
        """Run one scan and return its image."""
        source = TwinScan(self._scanned(), self.plan, self.setup.optics, frames=True)
        self.agent.start(source.meta)
        for block in source.blocks():
            self.agent.update(block)
        image = next(iter(self.agent.result().images.values()))
        plan = self.plan
        return encoded(image, plan.dose_e * plan.count, plan.dwell_s * plan.count, self._clock_s)

    def _scanned(self) -> Iterator[ScanBlock]:
        for block in self.inner.scan(self.plan, block=self.plan.shape[1]):
            self._clock_s = float(block.clock_s[-1])
            yield block

    def truth(self) -> Truth:
        """Return the hidden state; for the scorer only."""
        return self.inner.truth()


def encoded(image: Image, dose_e: float, exposure_s: float, clock_s: float) -> Frame:
    """Encode an image as a frame of 16-bit counts, with the settings that `controller.merit.contrast.sharpness` reads.

    Electrons and detector counts stay as they are. Any other image is scaled to the range; `image_norm` then makes its
    sharpness the variance in its own unit squared, and `image_noise` is the rms of its spread. Pixels without data
    take the mean.

    Raises:
        ValueError: the image has no data.
    """
    values, settings = np.asarray(image.values, np.float64), {}
    known = np.isfinite(values)
    if not known.any():
        raise ValueError("the agent's image has nothing but NaN")
    values = np.where(known, values, values[known].mean())
    if image.unit in ("e", "counts") and values.min() >= 0 and values.max() <= MAX_COUNT:
        counts = values
    else:
        low = float(values.min())
        scale = max(float(values.max()) - low, np.finfo(float).tiny * MAX_COUNT) / MAX_COUNT
        counts = (values - low) / scale
        spread = 0.0 if image.spread is None else float(np.sqrt(np.nanmean(image.spread**2)))
        settings = {"image_norm": 1.0 / scale, "image_noise": spread / scale}
    return Frame(np.rint(counts).astype(np.uint16), dose_e, exposure_s, clock_s, settings)
