"""Phase by a network on the scan plane, from 34 virtual segments of each pattern and the conditions of the scan.

It starts from the single-sideband phase of the segments. The network sees `REACH` positions to each side: a row is
final that many rows later.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from agents.geometry import assumed_orientation
from agents.segmented.linear import reconstruct
from agents.segmented.segments import COUNT, LEAST_REACH, fractions
from agents.trust import low_dose_notes
from twin.detectors.geometry import DiffractionGrid
from twin.detectors.layouts import AngleError
from twin.optics import electron_wavelength_nm
from twin.options import checked_options, validated

if TYPE_CHECKING:
    from agents.segment_net.network import Trained

NAME = "segment_net"
SAMPLING = (0.13, 0.62)
"""Trained range of the scan step over the resolution element lambda / (2 alpha)."""
ELECTRONS = (20.0, 3e5)
"""Trained range of the electrons in a square resolution element."""
REACH = 24
"""Positions to each side that the network sees, along either axis."""


@validated
class Options:
    """Settings of the network.

    Attributes:
        weights: shipped weights by name, or a file from `stemtwin train segment_net`.
        centre_px: (row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2).
        rotation_deg: angle from the camera's +x to the scan's fast axis, towards +y; None is that of the stream.
        transposed: the camera's rows and columns are swapped; None is that of the stream.
    """

    weights: str = "segment_net"
    centre_px: tuple[float, float] | None = None
    rotation_deg: float | None = None
    transposed: bool | None = None


class SegmentNet:
    """Sums the segments as patterns arrive; the network runs when asked.

    Raises:
        WeightsError: the weights are missing or damaged.

    Example:
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> beam = Metadata(energy_kev=300, convergence_mrad=20, pixel_mrad=2, step_nm=0.02, rotation_deg=0)
        >>> agent = load("segment_net")
        >>> agent.start(StreamMeta(Layout((6, 8), (48, 48)), beam, transposed=False))
        >>> agent.result().images["phase"].unit
        'rad'
    """

    def __init__(self, options: Options) -> None:
        from agents.segment_net.network import WEIGHTS
        from learning.weights_file import find

        self.options = options
        # Now, not when the scan begins.
        self._trained: Trained = WEIGHTS.load(find(options.weights, WEIGHTS.shipped))

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or the metadata lack something.
            AngleError: the camera does not hold the bright-field disc.
        """
        scan, options = meta.need_grid(NAME), self.options
        energy_kev, alpha, step_nm, pixel_mrad = (
            meta.need(name, NAME) for name in ("energy_kev", "convergence_mrad", "step_nm", "pixel_mrad")
        )
        centre = meta.centre_px if options.centre_px is None else options.centre_px
        grid = DiffractionGrid(shape=meta.layout.camera, pixel_mrad=pixel_mrad, centre_px=centre)
        if min(grid.reach_mrad) < LEAST_REACH * alpha:
            raise AngleError(
                f"{NAME}: the camera ends at {min(grid.reach_mrad):.1f} mrad, inside the disc of {alpha:g} mrad"
            )
        rotation, transposed, self._assumed = assumed_orientation(
            meta.metadata.rotation_deg if options.rotation_deg is None else options.rotation_deg,
            meta.transposed if options.transposed is None else options.transposed,
        )
        self._weights = fractions(grid, alpha, rotation, transposed)
        self._weights.flags.writeable = False  # read-only weights are compiled once for all blocks
        self._resolution_nm = electron_wavelength_nm(energy_kev) / (2e-3 * alpha)
        self._step_nm, self._sampling = step_nm, step_nm / self._resolution_nm
        self._counts = np.full((COUNT, *scan), np.nan, np.float32)

    def update(self, block: Block) -> None:
        """Sum the segments of the positions; a repeated position replaces the earlier one."""
        row, column = block.pixel.T
        self._counts[:, row, column] = block.sums(self._weights).T

    def result(self) -> Reconstruction:
        """The network's phase, and the linear one that it began from."""
        from agents.segment_net.network import Inputs

        visited = np.isfinite(self._counts[0])
        if not visited.any():
            return Reconstruction({"phase": Image(np.full(visited.shape, np.nan), "rad")})
        linear = reconstruct(self._counts.astype(np.float64), self._sampling)
        phase = self._trained.phase(Inputs.of(linear, self._sampling, self._resolution_nm))
        electrons = linear.beam_e / self._sampling**2
        return Reconstruction(
            {
                "phase": Image(np.where(visited, phase, np.nan), "rad"),
                "sideband": Image(np.where(visited, linear.sideband.astype(np.float64), np.nan), "rad"),
            },
            {"sampling": self._sampling, "electrons_per_resolution_element": electrons, "reach_rows": float(REACH)},
            notes=(*self._assumed, *_outside(self._sampling, electrons), *low_dose_notes(linear.beam_e, self._step_nm)),
        )


def _outside(sampling: float, electrons: float) -> tuple[str, ...]:
    """Say where the scan lies outside the trained ranges."""
    found = []
    for name, value, (low, high) in (
        ("steps in a resolution element", 1 / sampling, (1 / SAMPLING[1], 1 / SAMPLING[0])),
        ("electrons in a resolution element", electrons, ELECTRONS),
    ):
        if not low <= value <= high:
            found.append(f"outside the trained range: {value:.3g} {name}, trained {low:.3g} to {high:.3g}")
    return tuple(found)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return SegmentNet(checked_options(Options, options))
