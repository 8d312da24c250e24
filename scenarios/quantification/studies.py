"""The thesis's three studies of columns (Friedrich 2023, section 2.3): their beams, and images with their errors."""

import numpy as np

from agents.quantify.line_shifts import Series
from agents.quantify.smear import Smear, smeared
from twin.arrays import Floats
from twin.day import ScanProperties
from twin.scan.fast_image import distorted_image
from twin.scan.plan import ScanPlan
from twin.zcontrast.profile import ZContrast

BULK = ZContrast(c10_nm=-8.874, c30_nm=4e4, c50_nm=1e7, source_nm=0.0297)
"""Table 2.1 of the thesis; the source's FWHM is 0.07 nm."""
SPHERE = ZContrast(
    convergence_mrad=21.0, c10_nm=-10.868, c30_nm=4e4, c50_nm=1e7, inner_mrad=42, outer_mrad=220, source_nm=0.0318
)
AXES = (Series(sigma_px=0.5, correlation=0.5), Series(sigma_px=0.25, correlation=0.5))
"""Table 2.2 of the thesis, in steps."""
TAIL = Smear("half_lorentzian", 3.0)
MARGIN = 8
"""Pixels that a perfect image has on each side beyond the scan."""


def exposed(image: Floats, dose_e_a2: float, step_nm: float, rng: np.random.Generator) -> Floats:
    """Electrons of an image given as part of the beam, for a dose per square angstrom."""
    return rng.poisson(image * dose_e_a2 * (10 * step_nm) ** 2).astype(np.float64)


def distorted(wide: Floats, dose_e_a2: float, step_nm: float, rng: np.random.Generator) -> Floats:
    """Electrons under the distortions of Table 2.2; the tail acts after the shot noise.

    Args:
        wide: part of the beam, with `MARGIN` pixels on each side.
        dose_e_a2: electrons per square angstrom.
        step_nm: distance of pixels.
        rng: of distortions and noise.
    """
    rows, columns = (n - 2 * MARGIN for n in wide.shape)
    plan = ScanPlan(rows=rows, columns=columns, step_nm=step_nm, dwell_s=5e-7)
    scan = ScanProperties(jitter_x_nm=AXES[0].sigma_px * step_nm, jitter_y_nm=AXES[1].sigma_px * step_nm)
    moved = np.maximum(distorted_image(wide, plan, scan, rng, order=5, margin=MARGIN), 0.0)
    scale = dose_e_a2 * (10 * step_nm) ** 2
    return smeared(rng.poisson(moved * scale).astype(np.float64), TAIL.weights(columns), moved[:, 0] * scale)
