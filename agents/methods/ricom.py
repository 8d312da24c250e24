"""riCOM: integrated centre of mass in real time, every probe position adding its kernel to the image around it.

Thesis chapter 3. Which frequencies a kernel keeps and what the settings do: docs/ricom.md.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from pydantic import model_validator

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from agents.com.centre_map import ComMap, ComOptions
from agents.com.phase_scale import PhaseScale
from agents.com.ricom_kernel import check_size, kernel
from agents.com.ricom_scatter import RunningCorrelation, convolve_sum, correlate
from agents.com.trust import gradient_trust
from agents.geometry import along_scan
from twin.options import Count, NonNegative, Positive, checked_options, validated

Floats = NDArray[np.float64]

NAME = "ricom"


@validated
class Options(ComOptions):
    """Settings of the kernel, beside those of the centre of mass; all can be changed while the stream runs.

    Attributes:
        kernel_px: scan positions along a side of the kernel, odd. Periods much longer than it are suppressed.
        k_min_per_nm, k_max_per_nm: frequencies that are kept, cycles per nm; None for no limit.
    """

    kernel_px: Count = 61
    k_min_per_nm: NonNegative | None = None
    k_max_per_nm: Positive | None = None

    @model_validator(mode="after")
    def _odd(self) -> Self:
        check_size(self.kernel_px)
        return self


class Ricom:
    """The image is the correlation of the kernel with the gradient map of what has arrived (eq 3.4), at any moment."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        """Forget the old stream.

        Raises:
            MetaError: a list of positions, or a setting that this stream does not allow.
            ValueError: frequencies that the scan's step cannot hold.
        """
        self.shape = meta.need_grid(NAME)
        self.scale = PhaseScale.of(meta)
        self.map = ComMap(self.options, NAME)
        self.map.start(meta)
        self._begin()

    def update(self, block: Block) -> None:
        self.sum.add(block.pixel, self.map.add(block) - self._origin_px)

    def configure(self, **changes: Any) -> None:
        """Other settings from now on, for the whole image: it is made again from the map of centres of mass.

        Raises:
            OptionError, MetaError, ValueError: as on making and starting; nothing has changed.
        """
        old, new = self.options, checked_options(Options, {**asdict(self.options), **changes})
        try:
            self._apply(new)
        except ValueError:
            self._apply(old)
            raise

    def result(self) -> Reconstruction:
        # First, while there is no image yet: the test needs most memory.
        trust = gradient_trust(self.map.shift_px(), self.map.variance_px2())
        known = np.isfinite(self.map.centre_px()[..., 0])
        reference = np.where(known[..., None], self.map.reference_px() - self._origin_px, 0.0)
        image = self.sum.image - correlate(self.sum.kernel, reference)
        variance = np.nan_to_num(self.map.variance_px2())
        # Noise of different positions has nothing in common: variances add, weighted with the squared kernel.
        power = convolve_sum((self.sum.kernel**2).sum(axis=0)[None], variance[None])
        reached = _reached(known, self.sum.kernel.shape[1:])
        spread = np.where(reached, np.sqrt(np.maximum(power, 0.0)), np.nan)
        return Reconstruction(
            images={NAME: Image(np.where(reached, image, np.nan), self.scale.unit, spread)},
            figures={"kernel_px": float(self.options.kernel_px)},
            trust=trust,
            notes=self.scale.notes + self.map.notes,
        )

    def _apply(self, options: Options) -> None:
        self.map.configure(options)
        self.options = options
        self._begin()

    def _begin(self) -> None:
        """The sum from what the map holds, with the settings in force."""
        options, meta = self.options, self.map.meta
        row, column = options.centre(meta)
        # Shifts are summed from a fixed origin; what they should count from may only be known later.
        self._origin_px = np.array([column, row])
        self.sum = RunningCorrelation(self._camera_kernel(meta), self.shape, self.map.centre_px() - self._origin_px)

    def _camera_kernel(self, meta: StreamMeta) -> Floats:
        """The kernel for shifts (column, row) on the camera in px: (2, n, n), in the image's unit per px."""
        options, size, step_nm = self.options, self.options.kernel_px, 1.0
        if options.k_min_per_nm is not None or options.k_max_per_nm is not None:
            step_nm = meta.need("step_nm", NAME)
        else:
            size = min(size, 2 * max(self.shape) - 1)  # the rest reaches no position from any other
        axes = along_scan(np.eye(2), self.map.rotation_deg, self.map.transposed)
        along = kernel(size, step_nm, options.k_min_per_nm, options.k_max_per_nm)
        return np.einsum("dc,cij->dij", axes, along) * (self.scale.gradient_per_px * self.scale.step_nm / step_nm)


def _reached(known: NDArray[np.bool_], kernel_shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels that have a known position within the kernel's reach."""
    if known.all():
        return known
    return scipy.ndimage.maximum_filter(known.astype(np.uint8), size=kernel_shape, mode="constant") > 0


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return Ricom(checked_options(Options, options))
