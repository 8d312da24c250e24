"""iCOM: the phase by Fourier integration of the map of centres of mass, best for a complete scan.

Thesis eq 3.5. Positions not yet visited count as undeflected. Comparison with riCOM: docs/ricom.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.com.agent import ComAgent
from agents.com.centre_map import ComOptions
from agents.com.integration import Boundary, integrate
from agents.com.phase_scale import PhaseScale
from agents.com.ricom_kernel import check_band
from agents.com.trust import gradient_trust, misfit_notes
from agents.trust import linear_spread
from twin.arrays import Floats
from twin.options import NonNegative, Positive, checked_options, validated

NAME = "icom"


@validated
class Options(ComOptions):
    """Options of the integration, besides those of the centre of mass; all can be changed while the stream runs.

    Attributes:
        boundary: "mirror", or "periodic" for a scan of whole periods of the specimen.
        k_min_per_nm, k_max_per_nm: band of frequencies, cycles per nm; None for no limit.
    """

    boundary: Boundary = "mirror"
    k_min_per_nm: NonNegative | None = None
    k_max_per_nm: Positive | None = None


class Icom(ComAgent[Options]):
    """Phase by integration of the map of centres of mass at each `result`.

    Example:
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> agent = load("icom", {"boundary": "periodic", "k_max_per_nm": 5.0})
        >>> beam = Metadata(energy_kev=300, pixel_mrad=2, step_nm=0.02, rotation_deg=0)
        >>> agent.start(StreamMeta(Layout((5, 7), (16, 16)), beam, transposed=False))
        >>> agent.result().images["icom"].unit
        'rad'
    """

    name = NAME

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or an option that this stream does not allow.
            ValueError: frequencies beyond the Nyquist limit of the scan.
        """
        meta.need_grid(NAME)
        self.scale = PhaseScale.of(meta)
        super().start(meta)

    def check(self, options: Options, meta: StreamMeta) -> None:
        """Refuse frequencies beyond the Nyquist limit of the scan."""
        if options.k_min_per_nm is not None or options.k_max_per_nm is not None:
            check_band(options.k_min_per_nm, options.k_max_per_nm, meta.need("step_nm", NAME))

    def result(self) -> Reconstruction:
        """Integrated phase, with its noise once every position is known."""
        shift_px, variance = self.map.shift_px(), self.map.variance_px2()
        known, trust = np.isfinite(shift_px[..., 0]), gradient_trust(shift_px, variance)
        phase, spread = self._integrate(np.nan_to_num(shift_px)), None
        if known.all():
            spread = linear_spread(self._integrate, np.repeat(np.sqrt(variance)[..., None], 2, axis=2))
        return Reconstruction(
            images={NAME: Image(np.where(known, phase, np.nan), self.scale.unit, spread)},
            trust=trust,
            notes=misfit_notes(shift_px, trust) + self.scale.notes + self.map.notes,
        )

    def _integrate(self, shift_px: Floats) -> Floats:
        """Integrate shifts along the scan's axes, (rows, columns, 2), zero where unknown."""
        step_nm, options = self.map.meta.metadata.step_nm or 1.0, self.options
        unit = integrate(shift_px, step_nm, options.boundary, options.k_min_per_nm, options.k_max_per_nm) / step_nm
        return unit * (self.scale.gradient_per_px * self.scale.step_nm)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Icom(checked_options(Options, options))
