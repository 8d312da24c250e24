"""Fast Ronchigrams: a film of a few phase screens under an aberrated probe, in torch.

`I(k) = |F[T(r) psi(r)]|^2`. The transforms are pruned to the aperture going in and to the camera
coming out. Full multislice through an atomic model is in `multislice.py`; both obey `Renderer`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.aberrations import NAMES, Aberrations, aberration_basis
from twin.day import CameraProperties, Day
from twin.optics import Optics, check_window
from twin.specimen import screen_filter, unit_noise

SLICE_NM = 2.5
"""Thickest film that one phase screen stands for by default."""


class Renderer(Protocol):
    """From aberrations and a specimen region to what the camera should see."""

    def probability(self, aberrations: Sequence[Aberrations], region_seeds: Sequence[int]) -> NDArray[np.float32]:
        """Expected share of the beam per camera pixel (whole beam = 1), shape (N, H, W).

        Args:
            aberrations: N full states, calibrated and residual; C10 counts from the film's mid-plane.
            region_seeds: N film regions; the same seed gives the same region.

        Raises:
            AliasingError: the window cannot hold a probe.
        """
        ...


def focal_quadrature(rms_nm: float) -> list[tuple[float, float]]:
    """(offset_nm, weight) of the focal spread: three-point Gauss-Hermite, or one point at zero spread."""
    if rms_nm == 0.0:
        return [(0.0, 1.0)]
    step = math.sqrt(3.0) * rms_nm
    return [(0.0, 2 / 3), (-step, 1 / 6), (step, 1 / 6)]


def crop_pixels(optics: Optics, camera: CameraProperties) -> int:
    """Side of the un-binned square that covers the camera however it is turned, scaled and shifted."""
    side = optics.camera_pixels * optics.binning
    if _is_ideal(camera):
        return side
    turn = math.radians(camera.rotation_deg)
    reach = (abs(math.cos(turn)) + abs(math.sin(turn))) / camera.scale
    shift = max(abs(s) for s in camera.shift_px) * optics.binning * reach
    # A few common sizes: transforms like them, and days share one aperture basis.
    return min(optics.grid, 16 * math.ceil((side * reach + 2 * shift + 2) / 16))


def _is_ideal(camera: CameraProperties) -> bool:
    return camera.rotation_deg == 0.0 and camera.scale == 1.0 and camera.shift_px == (0.0, 0.0)


def to_camera(intensity: Tensor, optics: Optics, camera: CameraProperties) -> Tensor:
    """Diffraction intensity on the reciprocal grid to camera pixels, by area.

    Args:
        intensity: (N, M, M), zero angle at M // 2, pixel `optics.pixel_mrad`.
        optics: camera size and binning.
        camera: its rotation, scale and shift are applied here, before binning.

    Returns:
        (N, H, W), the share of the beam in each camera pixel.
    """
    side, bins = optics.camera_pixels * optics.binning, optics.binning
    size = intensity.shape[-1]
    if _is_ideal(camera):
        start = size // 2 - side // 2
        fine = intensity[:, start : start + side, start : start + side]
    else:
        fine = _sample(intensity, side, optics, camera)
    return fine.reshape(-1, optics.camera_pixels, bins, optics.camera_pixels, bins).sum((2, 4))


def _sample(intensity: Tensor, side: int, optics: Optics, camera: CameraProperties) -> Tensor:
    """Bilinear samples of the intensity at the camera's sub-pixels, (N, side, side), electrons conserved."""
    size = intensity.shape[-1]
    turn = math.radians(camera.rotation_deg)
    axis = torch.arange(side, dtype=intensity.dtype) - side // 2
    x = (axis[None, :] - camera.shift_px[0] * optics.binning) / camera.scale
    y = (axis[:, None] - camera.shift_px[1] * optics.binning) / camera.scale
    source_x = math.cos(turn) * x - math.sin(turn) * y
    source_y = math.sin(turn) * x + math.cos(turn) * y
    # grid_sample counts from -1 to 1 between the outer pixels' outer edges (align_corners=False).
    grid = (torch.stack([source_x, source_y], -1) + size // 2 + 0.5) * (2 / size) - 1
    batch = intensity.shape[0]
    samples = torch.nn.functional.grid_sample(
        intensity[:, None],
        grid.expand(batch, -1, -1, -1).to(intensity.dtype),
        padding_mode="zeros",
        align_corners=False,
    )
    return samples[:, 0] / camera.scale**2


@dataclass(frozen=True)
class ApertureBasis:
    """Phase per nm of every coefficient on the pixels inside the aperture.

    Attributes:
        pixels: flat indices into the (size, size) square, shape (P,).
        radians_per_nm: shape (25, P), in the order of `NAMES`.
        size: side of the square; zero angle at size // 2.
        amplitude: aperture value that makes the whole beam 1 after both transforms.
    """

    pixels: Tensor
    radians_per_nm: Tensor
    size: int
    amplitude: float


@lru_cache(maxsize=16)
def aperture_basis(optics: Optics, size: int, dtype: torch.dtype) -> ApertureBasis:
    """The aperture's pixels and the phase each coefficient makes there."""
    axis = optics.angles_mrad(size)
    x, y = np.meshgrid(axis, axis)
    inside = np.hypot(x, y) <= optics.convergence_mrad
    basis = aberration_basis(NAMES, x[inside], y[inside], optics.wavelength_nm)
    pixels = torch.from_numpy(np.flatnonzero(inside.ravel()))
    return ApertureBasis(pixels, torch.from_numpy(basis).to(dtype), size, 1.0 / math.sqrt(int(inside.sum())))


def aperture_field(coefficients_nm: Tensor, basis: ApertureBasis) -> Tensor:
    """`A exp(-i chi)`, complex (N, size, size), for coefficients (N, 25) in nm; unit total intensity."""
    used = (coefficients_nm.detach() != 0).any(0)
    terms = basis.radians_per_nm[used] if not coefficients_nm.requires_grad else basis.radians_per_nm
    coefficients = coefficients_nm[:, used] if not coefficients_nm.requires_grad else coefficients_nm
    chi = coefficients @ terms
    disc = torch.complex(torch.cos(chi), -torch.sin(chi)) * basis.amplitude
    flat = torch.zeros((len(chi), basis.size**2), dtype=disc.dtype)
    return flat.index_copy(1, basis.pixels, disc).reshape(-1, basis.size, basis.size)


def _to_specimen(field: Tensor, grid: int) -> Tensor:
    """Inverse transform of a zero-padded square, (N, size, size) to (N, grid, grid), rows first: the rest is empty."""
    return torch.fft.ifft(torch.fft.ifft(field, n=grid, dim=-1), n=grid, dim=-2)


def _to_diffraction(wave: Tensor, size: int) -> Tensor:
    """Transform kept to the first `size` frequencies of each axis, (N, grid, grid) to (N, size, size)."""
    return torch.fft.fft(torch.fft.fft(wave, dim=-1)[..., :size], dim=-2)[..., :size, :]


def fresnel_propagator(optics: Optics, size: int, distance_nm: float, dtype: torch.dtype) -> Tensor:
    """`exp(-i pi lambda k^2 dz)`, (grid, grid), in the order of a field whose square starts at index 0."""
    grid = optics.grid
    pixel = (np.arange(grid) - size // 2 + grid // 2) % grid - grid // 2
    k2 = (pixel / optics.window_nm) ** 2
    phase = -np.pi * optics.wavelength_nm * distance_nm * (k2[:, None] + k2[None, :])
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    return torch.from_numpy(np.exp(1j * phase)).to(complex_dtype)


def diffraction(
    coefficients_nm: Tensor, transmission: Tensor, basis: ApertureBasis, propagator: Tensor | None = None
) -> Tensor:
    """Diffraction intensity behind a stack of transmission functions; differentiable in the coefficients.

    The square of `basis` sits in the corner of the padded grid instead of its centre: that multiplies
    the probe by a phase ramp which the second transform undoes, so nothing has to be shifted.

    Args:
        coefficients_nm: (N, 25), at the plane of the first slice.
        transmission: complex (N or 1, slices, grid, grid).
        basis: from `aperture_basis`; its size is the output's.
        propagator: from `fresnel_propagator`, needed when there are two slices or more.

    Returns:
        (N, size, size), whole beam = 1, zero angle at size // 2.

    Raises:
        ValueError: several slices and no propagator.
    """
    slices, grid = transmission.shape[-3], transmission.shape[-1]
    if slices > 1 and propagator is None:
        raise ValueError(f"{slices} slices need a propagator between them")
    wave = _to_specimen(aperture_field(coefficients_nm, basis), grid) * transmission[:, 0]
    for i in range(1, slices):
        wave = torch.fft.ifft2(torch.fft.fft2(wave) * propagator) * transmission[:, i]
    exit_field = _to_diffraction(wave, basis.size)
    return exit_field.real**2 + exit_field.imag**2


class FastRenderer:
    """Phase screens with the film's structure factor; one screen per `SLICE_NM` of film by default.

    Args:
        optics: beam, grid and camera.
        day: film, focal spread, source size and camera geometry.
        slices: number of phase screens, overriding the default.
        dtype: torch.float32, or torch.float64 to check it.

    Raises:
        ValueError: slices below one.
    """

    def __init__(self, optics: Optics, day: Day, slices: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.optics, self.day, self.dtype = optics, day, dtype
        self.slices = slices if slices is not None else math.ceil(day.film.thickness_nm / SLICE_NM)
        if self.slices < 1:
            raise ValueError(f"slices must be at least 1, got {self.slices}")
        step_nm = day.film.thickness_nm / self.slices
        self.first_slice_nm = -day.film.thickness_nm / 2 + step_nm / 2
        self.basis = aperture_basis(optics, crop_pixels(optics, day.camera), dtype)
        self._filter = torch.from_numpy(screen_filter(day.film, optics, step_nm, day.source_size_nm))
        self._propagator = fresnel_propagator(optics, self.basis.size, step_nm, dtype) if self.slices > 1 else None
        self._focus = focal_quadrature(day.focal_spread_nm)

    def transmission(self, region_seed: int) -> Tensor:
        """Transmission functions of one film region, complex (slices, grid, grid), |t| = 1."""
        rng = np.random.default_rng(region_seed)
        noise = np.stack([unit_noise(self.optics.grid, rng) for _ in range(self.slices)])
        phase = torch.fft.irfft2(torch.from_numpy(noise) * self._filter, s=(self.optics.grid, self.optics.grid))
        phase = phase.to(self.dtype)
        return torch.complex(torch.cos(phase), torch.sin(phase))

    def intensity(self, coefficients_nm: Tensor, transmission: Tensor) -> Tensor:
        """Un-binned intensity averaged over the focal spread, (N, size, size); differentiable.

        Args:
            coefficients_nm: (N, 25), C10 from the film's mid-plane.
            transmission: (N or 1, slices, grid, grid).
        """
        total: Tensor | None = None
        for offset_nm, weight in self._focus:
            # Free space of length z adds z to C10: the first screen lies before the mid-plane.
            shift = torch.zeros(len(NAMES), dtype=self.dtype)
            shift[0] = offset_nm + self.first_slice_nm
            part = weight * diffraction(coefficients_nm + shift, transmission, self.basis, self._propagator)
            total = part if total is None else total + part
        assert total is not None
        return total

    def probability(self, aberrations: Sequence[Aberrations], region_seeds: Sequence[int]) -> NDArray[np.float32]:
        """See `Renderer.probability`. One frame at a time: the cache likes it better than a batch."""
        if len(aberrations) != len(region_seeds):
            raise ValueError(f"{len(aberrations)} aberration states for {len(region_seeds)} regions")
        frames = []
        with torch.no_grad():
            for state, seed in zip(aberrations, region_seeds, strict=True):
                check_window(self.optics, state)
                coefficients = torch.from_numpy(state.array()).to(self.dtype)[None]
                fine = self.intensity(coefficients, self.transmission(seed)[None])
                frames.append(to_camera(fine, self.optics, self.day.camera)[0])
        return torch.stack(frames).float().numpy()
