"""The electron-optical setting: beam, aperture, computing grid and camera angles."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import NAMES, Aberrations, aberration_basis
from twin.errors import StemtwinError

# CODATA 2022 (exact where the SI fixes them).
PLANCK_J_S = 6.62607015e-34
LIGHT_M_S = 2.99792458e8
CHARGE_C = 1.602176634e-19
ELECTRON_MASS_KG = 9.1093837139e-31

LIMITS = {
    "energy_kev": (0.1, 5000.0),
    "convergence_mrad": (0.01, 200.0),
    "grid": (8, 4096),
    "sampling_nm": (1e-4, 100.0),
    "camera_pixels": (2, 4096),
    "binning": (1, 4096),
}
"""Least and largest values of `Optics`: slow electrons to the largest microscopes built, paraxial angles, waves
that fit into memory."""

PROBE_MARGIN = 1.1
"""Width of the window over that of the geometric probe: the worst corner then loses less than 2e-3."""


class AliasingError(StemtwinError, ValueError):
    """The computing window cannot hold the probe."""


def electron_wavelength_nm(energy_kev: float) -> float:
    """Relativistic de Broglie wavelength of the beam."""
    energy = energy_kev * 1e3 * CHARGE_C
    momentum = math.sqrt(2 * ELECTRON_MASS_KG * energy * (1 + energy / (2 * ELECTRON_MASS_KG * LIGHT_M_S**2)))
    return PLANCK_J_S / momentum * 1e9


@dataclass(frozen=True)
class Optics:
    """Beam and sampling; angles in mrad, lengths in nm.

    Attributes:
        energy_kev: beam energy.
        convergence_mrad: probe semi-angle.
        grid: pixels of the square computing grid (fast path).
        sampling_nm: pixel of that grid; the window is `grid * sampling_nm`.
        camera_pixels: side of the square camera.
        binning: reciprocal grid pixels per camera pixel.

    Raises:
        AliasingError: the aperture exceeds the grid's largest angle.
        ValueError: a value that is not positive or outside `LIMITS`, or a camera larger than the grid.

    Example:
        >>> optics = Optics(energy_kev=200.0, convergence_mrad=25.0)
        >>> round(optics.wavelength_nm * 1e3, 3)  # pm
        2.508
        >>> round(optics.window_nm, 1), round(optics.camera_pixel_mrad, 3)
        (12.8, 0.588)
    """

    energy_kev: float = 300.0
    convergence_mrad: float = 28.0
    grid: int = 512
    sampling_nm: float = 0.025
    camera_pixels: int = 128
    binning: int = 3

    def __post_init__(self) -> None:
        for label, (least, largest) in LIMITS.items():
            value = getattr(self, label)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"optics.{label} must be positive, got {value!r}")
            if not least <= value <= largest:
                size = f"; one wave would take {8e-9 * value**2:.2g} GB" if label == "grid" and value > largest else ""
                nearest = least if value < least else largest
                raise ValueError(
                    f"optics.{label} must be from {least:g} to {largest:g}, got {value:.10g}{size};"
                    f" nearest: {nearest:g}"
                )
        if self.camera_pixels * self.binning > self.grid:
            raise ValueError(
                f"the camera spans {self.camera_pixels} x {self.binning} grid pixels; the grid has {self.grid};"
                f" use grid >= {self.camera_pixels * self.binning} or binning <= {self.grid // self.camera_pixels}"
            )
        if self.convergence_mrad >= self.max_angle_mrad:
            raise AliasingError(
                f"convergence_mrad {self.convergence_mrad} exceeds the grid's {self.max_angle_mrad:.1f} mrad;"
                f" use sampling_nm <= {self.wavelength_nm / 2e-3 / self.convergence_mrad:.4f}"
            )

    @property
    def wavelength_nm(self) -> float:
        """Relativistic de Broglie wavelength."""
        return electron_wavelength_nm(self.energy_kev)

    @property
    def interaction_rad_per_v_nm(self) -> float:
        """Interaction parameter sigma = 2 pi m e lambda / h^2 (Kirkland 2010, eq 5.6), rad / (V nm)."""
        energy = self.energy_kev * 1e3 * CHARGE_C
        mass = ELECTRON_MASS_KG + energy / LIGHT_M_S**2
        return 2 * math.pi * mass * CHARGE_C * self.wavelength_nm * 1e-9 / PLANCK_J_S**2 * 1e-9

    @property
    def window_nm(self) -> float:
        """Side of the square real-space window."""
        return self.grid * self.sampling_nm

    @property
    def pixel_mrad(self) -> float:
        """One reciprocal pixel of the grid."""
        return self.wavelength_nm / self.window_nm * 1e3

    @property
    def camera_pixel_mrad(self) -> float:
        """One camera pixel."""
        return self.pixel_mrad * self.binning

    @property
    def max_angle_mrad(self) -> float:
        """Half the reciprocal extent of the grid."""
        return self.wavelength_nm / (2 * self.sampling_nm) * 1e3

    def angles_mrad(self, pixels: int) -> NDArray[np.float64]:
        """Angles of a centred axis of `pixels` grid pixels, zero at index pixels // 2."""
        return np.asarray((np.arange(pixels) - pixels // 2) * self.pixel_mrad, np.float64)


def probe_extent_nm(optics: Optics, aberrations: Aberrations) -> float:
    """Geometric size of the probe along the wider window axis: range of the ray displacements over the aperture.

    The range along x and y counts, because the window is a square that repeats: a probe displaced from the axis (by
    coma) fits as well as one on it, and a diagonal is longer than a side.
    """
    return float(np.ptp(_ray_displacements_nm(optics, aberrations), axis=1).max())


def probe_reach_nm(optics: Optics, aberrations: Aberrations) -> float:
    """Side of the smallest square about the axis that holds the geometric probe."""
    return 2 * float(np.abs(_ray_displacements_nm(optics, aberrations)).max())


def _ray_displacements_nm(optics: Optics, aberrations: Aberrations) -> NDArray[np.float64]:
    """`grad chi * lambda / 2 pi` along x and y for rays over the aperture, (2, R)."""
    present = aberrations.nonzero()
    if not present:
        return np.zeros((2, 1))
    phi = np.linspace(0.0, 2 * np.pi, 180, endpoint=False)
    radii = np.linspace(0.25, 1.0, 7)[:, None] * optics.convergence_mrad
    step = 1e-4 * optics.convergence_mrad
    values = np.asarray(list(present.values()))

    def chi(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tensordot(values, aberration_basis(tuple(present), x, y, optics.wavelength_nm), axes=1)

    x, y = radii * np.cos(phi), radii * np.sin(phi)
    slope_x = (chi(x + step, y) - chi(x - step, y)) / (2 * step)
    slope_y = (chi(x, y + step) - chi(x, y - step)) / (2 * step)
    return np.stack([slope_x.ravel(), slope_y.ravel()]) * 1e3 * optics.wavelength_nm / (2 * np.pi)


def focal_quadrature(rms_nm: float) -> list[tuple[float, float]]:
    """(offset_nm, weight) of the focal spread: three-point Gauss-Hermite, or one point at zero spread."""
    if rms_nm == 0.0:
        return [(0.0, 1.0)]
    step = math.sqrt(3.0) * rms_nm
    return [(0.0, 2 / 3), (-step, 1 / 6), (step, 1 / 6)]


def aperture_phases(optics: Optics, axis_mrad: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    """The aperture on a square of angles.

    Args:
        optics: energy and convergence angle.
        axis_mrad: angles along x and along y, (m,).

    Returns:
        Which pixels lie inside the aperture, (m, m), and the phase of every coefficient there, rad/nm, (25, P), in
        the order of `NAMES`.
    """
    x, y = np.meshgrid(axis_mrad, axis_mrad)
    inside = np.hypot(x, y) <= optics.convergence_mrad
    return inside, aberration_basis(NAMES, x[inside], y[inside], optics.wavelength_nm)


def check_window(optics: Optics, aberrations: Aberrations) -> None:
    """Refuse aberrations whose probe the window cannot hold: it must be 1.1 times as wide as the geometric probe.

    An aperture below the grid's step of angles is refused, too: no angle would lie in it but zero.

    Raises:
        AliasingError: with the window needed and a grid that would do.
    """
    if optics.convergence_mrad < optics.pixel_mrad:
        raise AliasingError(
            f"convergence_mrad {optics.convergence_mrad:g} is below the {optics.pixel_mrad:.2g} mrad between the grid's"
            " angles: is it in mrad? A larger optics.grid has finer ones"
        )
    needed = PROBE_MARGIN * probe_extent_nm(optics, aberrations)
    if needed > optics.window_nm:
        grid = 2 ** math.ceil(math.log2(needed / optics.sampling_nm))
        c10 = abs(aberrations["C10"])
        raise AliasingError(
            f"C10 of {c10:.0f} nm with the other aberrations needs a window of {needed:.1f} nm;"
            f" the grid spans {optics.window_nm:.1f} nm. Use optics.grid={grid} or narrow the range."
        )
