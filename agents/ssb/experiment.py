"""Beam, scan and camera of a single-sideband reconstruction, and the lengths and angles that follow from them."""

import math
from dataclasses import dataclass
from typing import Self

from agents.base import MetaError, StreamMeta
from agents.ssb.weights import BrightField, bright_field, suggested_binning
from twin.aberrations import Aberrations
from twin.optics import Optics, electron_wavelength_nm, probe_extent_nm

AGENT = "ssb"


@dataclass(frozen=True)
class Experiment:
    """Beam, scan and camera.

    Attributes:
        scan: rows and columns.
        energy_kev, wavelength_nm: of the electrons.
        step_nm: scan step.
        convergence_mrad: semi-angle of the beam, the radius of the bright-field disc.
        pixel_mrad: angle of a camera pixel.
        centre_px: (row, column) of zero angle.
        camera: (H, W).
    """

    scan: tuple[int, int]
    energy_kev: float
    wavelength_nm: float
    step_nm: float
    convergence_mrad: float
    pixel_mrad: float
    centre_px: tuple[float, float]
    camera: tuple[int, int]

    @classmethod
    def of(cls, meta: StreamMeta, centre_px: tuple[float, float] | None, agent: str = AGENT) -> Self:
        """Read it from the metadata of a stream; a `centre_px` of None is that of the metadata; errors name the agent.

        Raises:
            MetaError: the metadata lack something, or the scan is a list of positions.
        """
        energy_kev = meta.need("energy_kev", agent)
        return cls(
            scan=meta.need_grid(agent),
            energy_kev=energy_kev,
            wavelength_nm=electron_wavelength_nm(energy_kev),
            step_nm=meta.need("step_nm", agent),
            convergence_mrad=meta.need("convergence_mrad", agent),
            pixel_mrad=meta.need("pixel_mrad", agent),
            centre_px=meta.centre_px if centre_px is None else centre_px,
            camera=meta.layout.camera,
        )

    @property
    def frequency_mrad(self) -> float:
        """Angle of a spatial frequency of one period per scan step."""
        return 1e3 * self.wavelength_nm / self.step_nm

    @property
    def lowest_mrad(self) -> tuple[float, float]:
        """Angles of the lowest spatial frequencies of the scan, along the fast and the slow axis."""
        rows, columns = self.scan
        return self.frequency_mrad / columns, self.frequency_mrad / rows

    @property
    def resolution_nm(self) -> float:
        """Finest period that is transferred and width of the unaberrated probe, lambda / (2 alpha)."""
        return self.wavelength_nm / (2e-3 * self.convergence_mrad)

    def probe_extent_nm(self, aberrations: Aberrations) -> float:
        """Diameter of the aberrated probe in geometric optics."""
        return probe_extent_nm(Optics(energy_kev=self.energy_kev, convergence_mrad=self.convergence_mrad), aberrations)

    def probe_reach_steps(self, aberrations: Aberrations) -> int:
        """Scan steps from a position to the edge of its probe: half its extent and four widths of its diffraction."""
        return math.ceil((self.probe_extent_nm(aberrations) / 2 + 4 * self.resolution_nm) / self.step_nm)

    def bright_field(self, binning: int, aberrations: Aberrations) -> BrightField:
        """Divide the bright-field disc into squares of `binning` camera pixels; 0 chooses them.

        Raises:
            MetaError: the disc does not fit on the camera.
        """
        alpha, radius_px = self.convergence_mrad, self.convergence_mrad / self.pixel_mrad
        try:
            return bright_field(
                self.camera,
                self.centre_px,
                self.pixel_mrad,
                alpha,
                binning or suggested_binning(radius_px, aberrations, alpha, self.wavelength_nm),
            )
        except ValueError as error:
            raise MetaError(f"{AGENT}: {error}") from error
