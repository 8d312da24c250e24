"""iDPC: the phase from a segmented detector, by integration of its difference signals.

The segments replace the camera: opposite ones are subtracted, weighted with their mean angle, and the result is
integrated as a map of centres of mass is (Lazic, Bosch and Lazar, Ultramicroscopy 160, 265, 2016).
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from agents.com.integration import Boundary, integrate
from agents.geometry import along_scan, assumed_orientation, phase_gradient
from agents.methods.detectors.virtual import camera_grid
from twin.detectors.geometry import weights
from twin.detectors.layouts import Region, standard
from twin.optics import electron_wavelength_nm
from twin.options import NonNegative, Positive, checked_options, validated

NAME = "idpc"


@validated
class Options:
    """Settings of the segments and of the integration.

    Attributes:
        layout: segments, one of `twin.detectors.layouts.LAYOUTS`.
        centre_px: (row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2).
        boundary: "mirror", or "periodic" for a scan of whole periods of the specimen.
        k_min_per_nm, k_max_per_nm: band of frequencies, cycles per nm; None for no limit.
    """

    layout: Literal["quadrants", "annular_quadrants", "sixteen_segments"] = "quadrants"
    centre_px: tuple[float, float] | None = None
    boundary: Boundary = "mirror"
    k_min_per_nm: NonNegative | None = None
    k_max_per_nm: Positive | None = None


class Idpc:
    """Sums the segments as patterns arrive; integrates when asked.

    Example:
        >>> from agents import load
        >>> load("idpc", {"layout": "sixteen_segments"}).options.boundary
        'mirror'
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or the metadata lack something.
            AngleError: a segment extends beyond the camera.
        """
        scan, options = meta.need_grid(NAME), self.options
        self._step_nm, energy_kev = meta.need("step_nm", NAME), meta.need("energy_kev", NAME)
        layout: Mapping[str, tuple[Region, ...]] = {
            options.layout: standard(options.layout, meta.need("convergence_mrad", NAME))
        }
        grid = camera_grid(meta, options.centre_px, NAME)
        self._weights = weights(layout, grid).astype(np.float32)
        self._weights.flags.writeable = False  # read-only weights are compiled once for all blocks
        rotation, transposed, self._notes = assumed_orientation(meta.metadata.rotation_deg, meta.transposed)
        row, column = np.indices(grid.shape)
        area = self._weights.sum(axis=(1, 2))
        middle_px = [(self._weights * axis).sum(axis=(1, 2)) / area for axis in (column, row)]
        away_px = np.stack(middle_px, axis=-1) - np.array(grid.origin_px[::-1])
        self._arms = phase_gradient(
            along_scan(away_px, rotation, transposed), grid.pixel_mrad, electron_wavelength_nm(energy_kev)
        )
        self._counts = np.full((len(area), *scan), np.nan)

    def update(self, block: Block) -> None:
        """Sum the segments of the positions; a repeated position replaces the earlier one."""
        row, column = block.pixel.T
        self._counts[:, row, column] = block.sums(self._weights).T

    def result(self) -> Reconstruction:
        """The integrated phase; positions not yet visited count as undeflected."""
        total = self._counts.sum(axis=0)
        known = total > 0
        signal = np.einsum("syx,sd->yxd", self._counts, self._arms) / np.where(known, total, 1.0)[..., None]
        if known.any():
            signal -= signal[known].mean(axis=0)
        options = self.options
        phase = integrate(
            np.where(known[..., None], signal, 0.0),
            self._step_nm,
            options.boundary,
            options.k_min_per_nm,
            options.k_max_per_nm,
        )
        return Reconstruction({NAME: Image(np.where(known, phase, np.nan), "rad")}, notes=self._notes)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Idpc(checked_options(Options, options))
