"""Deflections of the beam along the axes of the scan, and the gradient of the phase that causes them.

Conventions: docs/conventions.md. Positive phase attracts the beam: it bends by `theta = lambda grad(phi) / (2 pi)`.
"""

import math

import numpy as np

from twin.arrays import Floats


def along_scan(shift_px: Floats, rotation_deg: float, transposed: bool = False) -> Floats:
    """Rotate vectors (column, row) on the camera to components along the scan's fast and slow axis, (..., 2).

    Args:
        shift_px: (..., 2), columns first.
        rotation_deg: angle from the camera's +x to the fast axis, towards +y.
        transposed: the camera's rows and columns are swapped; undone before the rotation.

    Example:
        >>> along_scan(np.array([1.0, 0.0]), rotation_deg=90.0).round(3)
        array([ 0., -1.])
    """
    x, y = shift_px[..., 0], shift_px[..., 1]
    if transposed:
        x, y = y, x
    angle = math.radians(rotation_deg)
    c, s = math.cos(angle), math.sin(angle)
    return np.stack([c * x + s * y, c * y - s * x], axis=-1)


def phase_gradient(shift_px: Floats, pixel_mrad: float, wavelength_nm: float) -> Floats:
    """Gradient of the phase, rad / nm, from the deflection of the beam in camera pixels (thesis eq 3.2 times 2)."""
    return shift_px * (pixel_mrad * 1e-3 * 2.0 * math.pi / wavelength_nm)


def assumed_orientation(rotation_deg: float | None, transposed: bool | None) -> tuple[float, bool, tuple[str, ...]]:
    """Return rotation and transpose, zero and False where they are not known, and notes on what was assumed.

    Example:
        >>> assumed_orientation(12.0, None)
        (12.0, False, ('orientation of the camera not known: taken as not transposed',))
    """
    notes = []
    if rotation_deg is None:
        notes.append("rotation of the scan against the camera not known: taken as 0 deg")
    if transposed is None:
        notes.append("orientation of the camera not known: taken as not transposed")
    return rotation_deg or 0.0, bool(transposed), tuple(notes)
