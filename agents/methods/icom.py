"""iCOM: the phase by Fourier integration of the map of centres of mass, best once the scan is complete.

Thesis eq 3.5. Positions that have not come count as undeflected. How it compares with riCOM: docs/ricom.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.com.agent import ComAgent
from agents.com.centre_map import ComOptions
from agents.com.integration import Boundary, integrate
from agents.com.phase_scale import PhaseScale
from agents.com.ricom_kernel import check_band
from agents.com.trust import gradient_trust
from agents.trust import linear_spread
from twin.options import NonNegative, Positive, checked_options, validated

Floats = NDArray[np.float64]

NAME = "icom"


@validated
class Options(ComOptions):
    """Settings of the integration, beside those of the centre of mass; all can be changed while the stream runs.

    Attributes:
        boundary: "mirror" for a scan like any other, "periodic" for one that continues at its opposite edge.
        k_min_per_nm, k_max_per_nm: frequencies that are kept, cycles per nm; None for no limit.
    """

    boundary: Boundary = "mirror"
    k_min_per_nm: NonNegative | None = None
    k_max_per_nm: Positive | None = None


class Icom(ComAgent[Options]):
    """Holds the map of centres of mass; integrates when someone looks."""

    name = NAME

    def start(self, meta: StreamMeta) -> None:
        """Forget the old stream.

        Raises:
            MetaError: a list of positions, or a setting that this stream does not allow.
            ValueError: frequencies that the scan's step cannot hold.
        """
        meta.need_grid(NAME)
        self.scale = PhaseScale.of(meta)
        super().start(meta)

    def check(self, options: Options, meta: StreamMeta) -> None:
        if options.k_min_per_nm is not None or options.k_max_per_nm is not None:
            check_band(options.k_min_per_nm, options.k_max_per_nm, meta.need("step_nm", NAME))

    def result(self) -> Reconstruction:
        shift_px, variance = self.map.shift_px(), self.map.variance_px2()
        known = np.isfinite(shift_px[..., 0])
        phase, spread = self._integrate(np.nan_to_num(shift_px)), None
        if known.all():
            spread = linear_spread(self._integrate, np.repeat(np.sqrt(variance)[..., None], 2, axis=2))
        return Reconstruction(
            images={NAME: Image(np.where(known, phase, np.nan), self.scale.unit, spread)},
            trust=gradient_trust(shift_px, variance),
            notes=self.scale.notes + self.map.notes,
        )

    def _integrate(self, shift_px: Floats) -> Floats:
        """The image of shifts along the scan's axes, (rows, columns, 2), zero where not known."""
        step_nm, options = self.map.meta.metadata.step_nm or 1.0, self.options
        unit = integrate(shift_px, step_nm, options.boundary, options.k_min_per_nm, options.k_max_per_nm) / step_nm
        return unit * (self.scale.gradient_per_px * self.scale.step_nm)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return Icom(checked_options(Options, options))
