"""riCOM: integrated centre of mass in real time; every probe position adds its kernel to the image around it.

Thesis chapter 3. Transfer functions and options: docs/ricom.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
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
from agents.com.trust import gradient_trust, misfit_notes
from agents.geometry import along_scan
from twin.arrays import Floats
from twin.options import Count, NonNegative, Positive, checked_options, validated

NAME = "ricom"


@validated
class Options(ComOptions):
    """Options of the kernel, besides those of the centre of mass; all can be changed while the stream runs.

    Attributes:
        kernel_px: side of the kernel in scan positions, odd. Much longer periods are suppressed.
        k_min_per_nm, k_max_per_nm: band of frequencies, cycles per nm; None for no limit.
    """

    kernel_px: Count = 61
    k_min_per_nm: NonNegative | None = None
    k_max_per_nm: Positive | None = None

    @model_validator(mode="after")
    def _odd(self) -> Self:
        check_size(self.kernel_px)
        return self


class Ricom:
    """Correlation of the kernel with the gradient map of the positions so far (eq 3.4).

    Example:
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> agent = load("ricom", {"kernel_px": 5})
        >>> beam = Metadata(energy_kev=300, pixel_mrad=2, step_nm=0.02, rotation_deg=0)
        >>> agent.start(StreamMeta(Layout((5, 7), (16, 16)), beam, transposed=False))
        >>> agent.configure(kernel_px=3)
        >>> agent.result().figures
        {'kernel_px': 3.0}
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or an option that this stream does not allow.
            ValueError: frequencies beyond the Nyquist limit of the scan.
        """
        self.shape = meta.need_grid(NAME)
        self.scale = PhaseScale.of(meta)
        self.map = ComMap(self.options, NAME)
        self.map.start(meta)
        self._begin()

    def update(self, block: Block) -> None:
        """Add the shifts of a block to the positions around them."""
        self.sum.add(block.pixel, self.map.add(block) - self._origin_px)

    def configure(self, **changes: Any) -> None:
        """Change options for the whole image, which is recomputed from the map of centres of mass.

        Raises:
            OptionError, MetaError, ValueError: as in `make` and `start`; nothing has changed.
        """
        old, new = self.options, checked_options(Options, {**asdict(self.options), **changes})
        try:
            self._apply(new)
        except ValueError:
            self._apply(old)
            raise

    def result(self) -> Reconstruction:
        """Sum so far, with its noise; NaN where no known position lies within the kernel."""
        # First, before there is an image: the test needs most memory.
        trust = gradient_trust(self.map.shift_px(), self.map.variance_px2())
        misfit = misfit_notes(self.map.shift_px(), trust)
        found = self.preview()
        image = found.images[NAME]
        variance = np.nan_to_num(self.map.variance_px2())
        # Noise of different positions is independent: variances add, weighted with the squared kernel.
        power = convolve_sum((self.sum.kernel**2).sum(axis=0)[None], variance[None])
        spread = np.where(np.isnan(image.values), np.nan, np.sqrt(np.maximum(power, 0.0)))
        return replace(found, images={NAME: replace(image, spread=spread)}, trust=trust, notes=misfit + found.notes)

    def preview(self) -> Reconstruction:
        """Sum so far without its noise and the test of residuals, which take most of the time of `result`."""
        known = np.isfinite(self.map.centre_px()[..., 0])
        reference = np.where(known[..., None], self.map.reference_px() - self._origin_px, 0.0)
        image = self.sum.image - correlate(self.sum.kernel, reference)
        reached = _reached(known, self.sum.kernel.shape[1:])
        return Reconstruction(
            images={NAME: Image(np.where(reached, image, np.nan), self.scale.unit)},
            figures={"kernel_px": float(self.options.kernel_px)},
            notes=self.scale.notes + self.map.notes,
        )

    def _apply(self, options: Options) -> None:
        self.map.configure(options)
        self.options = options
        self._begin()

    def _begin(self) -> None:
        """Compute the sum from the map with the current options."""
        options, meta = self.options, self.map.meta
        row, column = options.centre(meta)
        # Shifts are summed from a fixed origin: their reference may be known only later.
        self._origin_px = np.array([column, row])
        self.sum = RunningCorrelation(self._camera_kernel(meta), self.shape, self.map.centre_px() - self._origin_px)

    def _camera_kernel(self, meta: StreamMeta) -> Floats:
        """Kernel for shifts (column, row) in camera pixels, (2, n, n), in the unit of the image per pixel."""
        options, size, step_nm = self.options, self.options.kernel_px, 1.0
        if options.k_min_per_nm is not None or options.k_max_per_nm is not None:
            step_nm = meta.need("step_nm", NAME)
        else:
            size = min(size, 2 * max(self.shape) - 1)  # no position is farther away
        axes = along_scan(np.eye(2), self.map.rotation_deg, self.map.transposed)
        along = kernel(size, step_nm, options.k_min_per_nm, options.k_max_per_nm)
        return np.einsum("dc,cij->dij", axes, along) * (self.scale.gradient_per_px * self.scale.step_nm / step_nm)


def _reached(known: NDArray[np.bool_], kernel_shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels within the kernel of a known position."""
    if known.all():
        return known
    return scipy.ndimage.maximum_filter(known.astype(np.uint8), size=kernel_shape, mode="constant") > 0


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Ricom(checked_options(Options, options))
