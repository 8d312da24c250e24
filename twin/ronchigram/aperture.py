"""The real aperture: its shape and the profile of the illumination within it."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from twin.day import IlluminationProperties
from twin.optics import Optics


def aperture_amplitude(
    optics: Optics, illumination: IlluminationProperties, axis_mrad: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Amplitude over the aperture of real shape and profile on a square of angles, (m, m); its squares add up to 1.

    Args:
        optics: convergence angle as stated.
        illumination: departures from it.
        axis_mrad: angles along x and along y, (m,), that hold the real aperture (`widest`).
    """
    x, y = np.meshgrid(axis_mrad / optics.convergence_mrad, axis_mrad / optics.convergence_mrad)
    direction = np.arctan2(y, x)
    edge = illumination.radius_scale * (1.0 + _ragged(illumination, direction))
    intensity = (np.hypot(x, y) <= edge).astype(np.float64)
    from_brightest2 = (x - illumination.brightest[0]) ** 2 + (y - illumination.brightest[1]) ** 2
    intensity *= np.maximum(1.0 - illumination.fall_off * from_brightest2, 0.0)
    from_flake2 = (x - illumination.flake_at[0]) ** 2 + (y - illumination.flake_at[1]) ** 2
    intensity[from_flake2 < illumination.flake_share] = 0.0
    return np.asarray(np.sqrt(intensity / intensity.sum()))


RAGGED_LOBES = range(3, 13)
"""Lobes of a ragged aperture's edge; fewer would be a shift or an ellipse."""


def _ragged(illumination: IlluminationProperties, direction: NDArray[np.floating]) -> NDArray[np.floating]:
    """Deviation of the edge from a circle by direction, relative to the radius."""
    rng = np.random.default_rng(illumination.ragged_seed)
    size, phase = rng.standard_normal(len(RAGGED_LOBES)), rng.uniform(0.0, 2 * np.pi, len(RAGGED_LOBES))
    size *= illumination.ragged_rms / np.sqrt(np.sum(size**2) / 2)
    return np.asarray(sum(a * np.cos(m * direction + p) for m, a, p in zip(RAGGED_LOBES, size, phase, strict=True)))


def widest(optics: Optics, illumination: IlluminationProperties) -> Optics:
    """The optics with a convergence angle that holds the whole real aperture."""
    if not illumination.shaped:
        return optics
    reach = float(1.0 + _ragged(illumination, np.linspace(0.0, 2 * np.pi, 720)).max())
    return replace(optics, convergence_mrad=optics.convergence_mrad * illumination.radius_scale * reach)
