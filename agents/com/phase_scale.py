"""Scale of an integrated image: rad if the metadata suffice, else camera pixels times scan steps."""

from dataclasses import dataclass

import numpy as np

from agents.base import StreamMeta
from agents.geometry import phase_gradient
from twin.optics import electron_wavelength_nm


@dataclass(frozen=True)
class PhaseScale:
    """Gradient of the phase for a shift of the centre of mass by one pixel.

    Attributes:
        gradient_per_px: gradient of the phase per pixel of shift, rad / nm; 1 if unknown.
        step_nm: scan step; 1 if the gradient or the step is unknown.
        unit: unit of the integrated shift: "rad", or "px" for camera pixels times scan steps.
        notes: missing metadata.
    """

    gradient_per_px: float
    step_nm: float
    unit: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, meta: StreamMeta) -> "PhaseScale":
        """Compute the scale from the metadata of a stream."""
        known = meta.metadata
        missing = [name for name in ("step_nm", "pixel_mrad", "energy_kev") if getattr(known, name) is None]
        if known.step_nm is None or known.pixel_mrad is None or known.energy_kev is None:
            return cls(
                1.0, 1.0, "px", (f"in camera pixels times scan steps, not in rad: {', '.join(missing)} not known",)
            )
        gradient = phase_gradient(np.ones(1), known.pixel_mrad, electron_wavelength_nm(known.energy_kev))
        return cls(float(gradient[0]), known.step_nm, "rad")
