"""From camera pixels and scan steps to the unit of an integrated image: rad where the stream says enough."""

from dataclasses import dataclass

import numpy as np

from agents.base import StreamMeta
from agents.geometry import phase_gradient
from twin.optics import electron_wavelength_nm


@dataclass(frozen=True)
class PhaseScale:
    """What a shift of the centre of mass by one pixel means for the phase.

    Attributes:
        gradient_per_px: gradient of the phase per pixel of shift, rad / nm; 1 where that is not known.
        step_nm: of the scan; 1 where rad / nm or the step is not known.
        unit: of shifts integrated over the scan: "rad", or "px" for camera pixels times scan steps.
        notes: what is missing.
    """

    gradient_per_px: float
    step_nm: float
    unit: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, meta: StreamMeta) -> "PhaseScale":
        """From what is known before the first frame."""
        known = meta.metadata
        missing = [name for name in ("step_nm", "pixel_mrad", "energy_kev") if getattr(known, name) is None]
        if known.step_nm is None or known.pixel_mrad is None or known.energy_kev is None:
            return cls(
                1.0, 1.0, "px", (f"in camera pixels times scan steps, not in rad: {', '.join(missing)} not known",)
            )
        gradient = phase_gradient(np.ones(1), known.pixel_mrad, electron_wavelength_nm(known.energy_kev))
        return cls(float(gradient[0]), known.step_nm, "rad")
