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
from twin.matter.carbon_screen import screen_filter, unit_noise
from twin.optics import PROBE_MARGIN, Optics, check_window, probe_reach_nm

SLICE_NM = 2.5
"""Thickest film that one phase screen stands for by default."""
LOCAL_SHARES = (0.5, 0.75)
"""Sides of the film's part about a probe that a renderer may keep to, as shares of the window's."""


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


def _to_specimen(field: Tensor, grid: int, side: int) -> Tensor:
    """Inverse transform of a zero-padded square, (N, size, size) to the first `side` rows and columns of the grid."""
    return torch.fft.ifft(torch.fft.ifft(field, n=grid, dim=-1)[..., :side], n=grid, dim=-2)[..., :side, :]


def _to_diffraction(wave: Tensor, grid: int, size: int) -> Tensor:
    """Transform on the grid kept to the first `size` frequencies of each axis, (N, side, side) to (N, size, size)."""
    return torch.fft.fft(torch.fft.fft(wave, n=grid, dim=-1)[..., :size], n=grid, dim=-2)[..., :size, :]


def fresnel_propagator(
    optics: Optics, size: int, distance_nm: float, dtype: torch.dtype, side: int | None = None
) -> Tensor:
    """`exp(-i pi lambda k^2 dz)`, in the order of a field whose square starts at index 0.

    Over the whole grid, or a part of it of so many pixels a side.
    """
    side = side or optics.grid
    start = size // 2 * side / optics.grid  # index of zero angle, in the part's pixels
    pixel = (np.arange(side) - start + side // 2) % side - side // 2
    k2 = (pixel / (side * optics.sampling_nm)) ** 2
    phase = -np.pi * optics.wavelength_nm * distance_nm * (k2[:, None] + k2[None, :])
    complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
    return torch.from_numpy(np.exp(1j * phase)).to(complex_dtype)


def diffraction(
    coefficients_nm: Tensor, transmission: Tensor, basis: ApertureBasis, propagator: Tensor | None = None
) -> Tensor:
    """Diffraction intensity behind a stack of transmission functions; differentiable in the coefficients.

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
    return _behind(aperture_field(coefficients_nm, basis), transmission, transmission.shape[-1], propagator)


def _behind(
    field: Tensor, transmission: Tensor, grid: int, propagator: Tensor | None, through: Tensor | None = None
) -> Tensor:
    """Diffraction intensity (N, size, size) of an aperture's field behind transmission functions (.., side, side).

    The square of the field sits in the corner of the padded grid instead of its centre: that multiplies
    the probe by a phase ramp which the second transform undoes, so nothing has to be shifted.

    On a part of the grid only what the film scatters is cut at the part's edges. The rest of the wave goes past it
    as `through`, the phase that free space between first and last screen gives the field (None: one screen).
    """
    slices, side, size = transmission.shape[-3], transmission.shape[-1], field.shape[-1]
    if slices > 1 and propagator is None:
        raise ValueError(f"{slices} slices need a propagator between them")
    first = _to_specimen(field, grid, side)
    wave = first * transmission[:, 0]
    for i in range(1, slices):
        wave = torch.fft.ifft2(torch.fft.fft2(wave) * propagator) * transmission[:, i]
    if side == grid:
        exit_field = _to_diffraction(wave, grid, size)
    else:
        past = field if through is None else field * through
        free = first if through is None else _to_specimen(past, grid, side)
        exit_field = past + _to_diffraction(wave - free, grid, size)
    return exit_field.real**2 + exit_field.imag**2


def _to_middle(size: int, grid: int, side: int, dtype: torch.dtype) -> Tensor:
    """Phase on an aperture's square that moves the probe from the corner of the grid to the middle of a part of it."""
    ramp = np.exp(-2j * np.pi * np.arange(size) * (side // 2) / grid)
    return torch.from_numpy(ramp[:, None] * ramp[None, :]).to(dtype)


@dataclass(frozen=True)
class _Part:
    """What rendering on a part of the grid needs.

    Attributes:
        filter: see `screen_filter`.
        propagator: from one screen to the next; None with one screen.
        through: from the first screen to the last on the aperture's square; None with one screen, or the whole grid.
        focus: weight of each focal offset, and what it multiplies the aperture's field by (None: by one).
    """

    filter: Tensor
    propagator: Tensor | None
    through: Tensor | None
    focus: tuple[tuple[float, Tensor | None], ...]


class FastRenderer:
    """Phase screens with the film's structure factor; one screen per `SLICE_NM` of film by default.

    Args:
        optics: beam, grid and camera.
        day: film, focal spread, source size and camera geometry.
        slices: number of phase screens, overriding the default.
        dtype: torch.float32, or torch.float64 to check it.
        local: draw the film, and propagate through it, only about the probe, see `LOCAL_SHARES`: twice as fast near
            focus, the same but for what the probe's faint rings do further out. Its regions are other films.

    Raises:
        ValueError: slices below one.
    """

    def __init__(
        self,
        optics: Optics,
        day: Day,
        slices: int | None = None,
        dtype: torch.dtype = torch.float32,
        local: bool = False,
    ) -> None:
        self.optics, self.day, self.dtype, self.local = optics, day, dtype, local
        self.slices = slices if slices is not None else math.ceil(day.film.thickness_nm / SLICE_NM)
        if self.slices < 1:
            raise ValueError(f"slices must be at least 1, got {self.slices}")
        self.step_nm = day.film.thickness_nm / self.slices
        self.basis = aperture_basis(optics, crop_pixels(optics, day.camera), dtype)
        self._parts: dict[int, _Part] = {}

    def _part(self, side: int) -> _Part:
        """Made when first asked for."""
        if side not in self._parts:
            optics, day, size = self.optics, self.day, self.basis.size
            weights = torch.from_numpy(screen_filter(day.film, optics, self.step_nm, day.source_size_nm, side))
            between = through = None
            if self.slices > 1:
                between = fresnel_propagator(optics, size, self.step_nm, self.dtype, side)
                if side < optics.grid:
                    whole = fresnel_propagator(optics, size, self.step_nm * (self.slices - 1), self.dtype)
                    through = whole[:size, :size]
            focus = tuple((w, self._turned(offset, side)) for offset, w in focal_quadrature(day.focal_spread_nm))
            self._parts[side] = _Part(weights, between, through, focus)
        return self._parts[side]

    def _turned(self, offset_nm: float, side: int) -> Tensor | None:
        """What a focal offset, and the way to a part's middle, make of the field at the first screen."""
        if offset_nm == 0.0 and side == self.optics.grid:
            return None
        turned = aperture_field(_defocus(offset_nm, self.dtype), self.basis)[0] / self.basis.amplitude
        if side < self.optics.grid:
            turned = turned * _to_middle(self.basis.size, self.optics.grid, side, turned.dtype)
        return turned

    def side(self, state: Aberrations) -> int:
        """Pixels of the film's part that a probe needs; the whole grid unless `local`."""
        if not self.local:
            return self.optics.grid
        focus_nm = max(offset for offset, _ in focal_quadrature(self.day.focal_spread_nm))
        spread_nm = self.day.film.thickness_nm / 2 + focus_nm
        blur_nm = 2e-3 * self.optics.convergence_mrad * spread_nm
        needed = (PROBE_MARGIN * probe_reach_nm(self.optics, state) + blur_nm) / self.optics.sampling_nm
        sides = (int(share * self.optics.grid) for share in LOCAL_SHARES)
        return next((side for side in sides if side >= needed), self.optics.grid)

    def transmission(self, region_seed: int, side: int | None = None) -> Tensor:
        """Transmission functions of one film region, complex (slices, side, side), |t| = 1; side: the grid's."""
        side, rng = side or self.optics.grid, np.random.default_rng(region_seed)
        noise = np.stack([unit_noise(side, rng) for _ in range(self.slices)])
        phase = torch.fft.irfft2(torch.from_numpy(noise) * self._part(side).filter, s=(side, side)).to(self.dtype)
        return torch.complex(torch.cos(phase), torch.sin(phase))

    def intensity(self, coefficients_nm: Tensor, transmission: Tensor) -> Tensor:
        """Un-binned intensity averaged over the focal spread, (N, size, size); differentiable.

        Args:
            coefficients_nm: (N, 25), C10 from the film's mid-plane.
            transmission: (N or 1, slices, side, side), the probe in its middle unless it is the whole grid.
        """
        part, grid = self._part(transmission.shape[-1]), self.optics.grid
        # Free space of length z adds z to C10: the first screen lies before the mid-plane.
        first = _defocus((self.step_nm - self.day.film.thickness_nm) / 2, self.dtype)
        field = aperture_field(coefficients_nm + first, self.basis)
        total: Tensor | None = None
        for weight, turn in part.focus:
            here = field if turn is None else field * turn
            seen = weight * _behind(here, transmission, grid, part.propagator, part.through)
            total = seen if total is None else total + seen
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
                fine = self.intensity(coefficients, self.transmission(seed, self.side(state))[None])
                frames.append(to_camera(fine, self.optics, self.day.camera)[0])
        return torch.stack(frames).float().numpy()


def _defocus(offset_nm: float, dtype: torch.dtype) -> Tensor:
    """Coefficients of C10 alone, (1, 25)."""
    coefficients = torch.zeros((1, len(NAMES)), dtype=dtype)
    coefficients[0, 0] = offset_nm
    return coefficients
