"""The optics and the film of the page to play with, as plain numbers: its renderer draws the film from them."""

from typing import Any

import numpy as np

from twin.day import Day
from twin.matter.carbon_screen import phase_psd_rad2_nm2
from twin.optics import Optics

OPTICS = Optics(energy_kev=300.0, convergence_mrad=24.0, grid=256, sampling_nm=0.03, camera_pixels=128, binning=2)
DAY = Day(focal_spread_nm=0.0, source_size_nm=0.0)
STEP_PER_NM = 0.25


def numbers() -> dict[str, Any]:
    """Return what the page's renderer needs.

    `phase_nm` is the root of the power spectral density of the film's phase, rad nm, at multiples of `step_per_nm`.

    Example:
        >>> told = numbers()
        >>> told["grid"], round(told["wavelength_nm"], 6), len(told["film"]["phase_nm"])
        (256, 0.001969, 97)
    """
    highest = np.hypot(0.5, 0.5) / OPTICS.sampling_nm
    frequencies = np.arange(0.0, highest + 2 * STEP_PER_NM, STEP_PER_NM)
    density = phase_psd_rad2_nm2(frequencies, DAY.film, OPTICS, DAY.film.thickness_nm)
    return {
        "energy_kev": OPTICS.energy_kev,
        "convergence_mrad": OPTICS.convergence_mrad,
        "wavelength_nm": OPTICS.wavelength_nm,
        "grid": OPTICS.grid,
        "sampling_nm": OPTICS.sampling_nm,
        "film": {
            "thickness_nm": DAY.film.thickness_nm,
            "step_per_nm": STEP_PER_NM,
            "phase_nm": [float(f"{value:.5g}") for value in np.sqrt(density)],
        },
    }
