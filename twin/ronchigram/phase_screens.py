"""Fast Ronchigrams: a film of a few phase screens under an aberrated probe, in torch.

`I(k) = |F[T(r) psi(r)]|^2`. The transforms are pruned to the aperture going in and to the camera coming out. Full
multislice through an atomic model is in `multislice.py`; both obey `renderer.Renderer`.

Sub-window: near focus the probe is much smaller than the window, and most of the film is drawn and transformed for
nothing. `FastRenderer(sub_window=True)` draws the film only on a square about the probe and takes it as vacuum outside.
The exit wave is then the wave that vacuum alone would give, known in closed form on the aperture, plus a difference
that vanishes outside the square; only the difference is computed there. The scattering of the probe's tails outside the
square is neglected.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twin.aberrations import NAMES, Aberrations
from twin.day import Day, IlluminationProperties
from twin.matter.carbon_screen import screen_filter, unit_noise
from twin.matter.crystals import crystal_phases, crystallites_phase
from twin.matter.region import CRYSTALLITES, phase_scale, region_rng, vacuum
from twin.optics import PROBE_MARGIN, Optics, aperture_phases, check_window, focal_quadrature, probe_reach_nm
from twin.ronchigram.aperture import aperture_amplitude, widest
from twin.ronchigram.camera_geometry import crop_pixels, to_camera
from twin.ronchigram.renderer import FrameByFrame

SLICE_NM = 2.5
"""Thickest film that one phase screen represents by default."""
SUB_WINDOWS = (0.5, 0.75)
"""Sides of the sub-windows, as fractions of the window's; a few sizes, so that their filters are made once."""


@dataclass(frozen=True)
class ApertureBasis:
    """Phase per nm of every coefficient on the pixels inside the aperture.

    Attributes:
        pixels: flat indices into the (size, size) square, shape (P,).
        radians_per_nm: shape (25, P), in the order of `NAMES`.
        size: side of the square; zero angle at size // 2.
        amplitude: aperture value that makes the whole beam 1 after both transforms; (P,) where it is uneven.
    """

    pixels: Tensor
    radians_per_nm: Tensor
    size: int
    amplitude: float | Tensor


@lru_cache(maxsize=16)
def aperture_basis(optics: Optics, size: int, dtype: torch.dtype) -> ApertureBasis:
    """Pixels inside the aperture and the phase per nm of every coefficient there."""
    inside, basis = aperture_phases(optics, optics.angles_mrad(size))
    pixels = torch.from_numpy(np.flatnonzero(inside.ravel()))
    return ApertureBasis(pixels, torch.from_numpy(basis).to(dtype), size, 1.0 / math.sqrt(int(inside.sum())))


def illuminated_basis(
    optics: Optics, illumination: IlluminationProperties, size: int, dtype: torch.dtype
) -> ApertureBasis:
    """`aperture_basis` of the real aperture, with its shape and profile."""
    if not illumination.shaped:
        return aperture_basis(optics, size, dtype)
    basis = aperture_basis(widest(optics, illumination), size, dtype)
    amplitude = aperture_amplitude(optics, illumination, optics.angles_mrad(size))
    return replace(basis, amplitude=torch.from_numpy(amplitude.ravel()[basis.pixels.numpy()]).to(dtype))


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
    """Inverse transform of the aperture's square, (N, size, size), zero-padded to the grid; its first (side, side)."""
    return torch.fft.ifft(torch.fft.ifft(field, n=grid, dim=-1)[..., :side], n=grid, dim=-2)[..., :side, :]


def _to_diffraction(wave: Tensor, grid: int, size: int) -> Tensor:
    """Transform of (N, side, side), zero-padded to the grid; its first (size, size) frequencies."""
    return torch.fft.fft(torch.fft.fft(wave, n=grid, dim=-1)[..., :size], n=grid, dim=-2)[..., :size, :]


def fresnel_propagator(
    optics: Optics, size: int, distance_nm: float, dtype: torch.dtype, side: int | None = None
) -> Tensor:
    """`exp(-i pi lambda k^2 dz)`, in the order of a field whose square of `size` frequencies starts at index 0.

    Of a window of `side` pixels, by default the whole grid. `scan.diffraction.band_limited_propagator` is its
    counterpart in numpy, cut at the band limit of multislice.
    """
    side = side or optics.grid
    start = size // 2 * side / optics.grid  # index of zero angle, in the window's pixels
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
    return _far_field(aperture_field(coefficients_nm, basis), transmission, transmission.shape[-1], propagator)


def _far_field(
    field: Tensor, transmission: Tensor, grid: int, propagator: Tensor | None, vacuum: Tensor | None = None
) -> Tensor:
    """Diffraction intensity (N, size, size) of an aperture's field behind transmission functions (.., side, side).

    The square of the field sits in the corner of the padded grid instead of its centre: that multiplies the probe by
    a phase ramp which the second transform undoes, so nothing has to be shifted.

    In a sub-window (side < grid) the far field is that of vacuum plus the transform of film minus vacuum. `vacuum` is
    the propagator from the first screen to the last on the aperture's square (None: one screen).
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
        unscattered = field if vacuum is None else field * vacuum
        free = first if vacuum is None else _to_specimen(unscattered, grid, side)
        exit_field = unscattered + _to_diffraction(wave - free, grid, size)
    return exit_field.real**2 + exit_field.imag**2


def _centring_ramp(size: int, grid: int, side: int, dtype: torch.dtype) -> Tensor:
    """Phase ramp on the aperture's square that moves the probe from the corner of the grid to a sub-window's centre."""
    ramp = np.exp(-2j * np.pi * np.arange(size) * (side // 2) / grid)
    return torch.from_numpy(ramp[:, None] * ramp[None, :]).to(dtype)


@dataclass(frozen=True)
class _Window:
    """Constants of rendering in a window of one size, the whole grid or a sub-window.

    Attributes:
        filter: see `screen_filter`.
        propagator: from one screen to the next; None with one screen.
        vacuum: propagator from the first screen to the last; None with one screen or the whole grid.
        foci: weight and phase factor, see `_focus_phase`, of every focal offset.
    """

    filter: Tensor
    propagator: Tensor | None
    vacuum: Tensor | None
    foci: tuple[tuple[float, Tensor | None], ...]


class FastRenderer(FrameByFrame):
    """Phase screens with the film's structure factor; one screen per `SLICE_NM` of film by default.

    Args:
        optics: beam, grid and camera.
        day: film, focal spread, source size and camera geometry.
        slices: number of phase screens, overriding the default.
        dtype: torch.float32, or torch.float64 to check it.
        sub_window: compute on a sub-window about the probe: twice as fast near focus; neglects the probe's tails. The
            same seed gives a different film than the full window.

    Raises:
        ValueError: slices below one.
    """

    def __init__(
        self,
        optics: Optics,
        day: Day,
        slices: int | None = None,
        dtype: torch.dtype = torch.float32,
        sub_window: bool = False,
    ) -> None:
        self.optics, self.day, self.dtype, self.sub_window = optics, day, dtype, sub_window
        self.slices = slices if slices is not None else math.ceil(day.film.thickness_nm / SLICE_NM)
        if self.slices < 1:
            raise ValueError(f"slices must be at least 1, got {self.slices}")
        self.step_nm = day.film.thickness_nm / self.slices
        self._widest = widest(optics, day.illumination)
        self.basis = illuminated_basis(optics, day.illumination, crop_pixels(optics, day.camera), dtype)
        self._even = replace(self.basis, amplitude=1.0 / math.sqrt(len(self.basis.pixels)))
        self._windows: dict[int, _Window] = {}

    def _window(self, side: int) -> _Window:
        """The window of one size, made on first use."""
        if side not in self._windows:
            optics, day, size = self.optics, self.day, self.basis.size
            weights = torch.from_numpy(
                screen_filter(day.film, optics, self.step_nm, day.source_size_nm, side, day.illumination)
            )
            between = vacuum = None
            if self.slices > 1:
                between = fresnel_propagator(optics, size, self.step_nm, self.dtype, side)
                if side < optics.grid:
                    whole = fresnel_propagator(optics, size, self.step_nm * (self.slices - 1), self.dtype)
                    vacuum = whole[:size, :size]
            foci = tuple((w, self._focus_phase(offset, side)) for offset, w in focal_quadrature(day.focal_spread_nm))
            self._windows[side] = _Window(weights, between, vacuum, foci)
        return self._windows[side]

    def _focus_phase(self, offset_nm: float, side: int) -> Tensor | None:
        """Phase factor for a defocus offset and a shift to the centre of the sub-window; None: one."""
        if offset_nm == 0.0 and side == self.optics.grid:
            return None
        phase = aperture_field(_defocus(offset_nm, self.dtype), self._even)[0] / self._even.amplitude
        if side < self.optics.grid:
            phase = phase * _centring_ramp(self.basis.size, self.optics.grid, side, phase.dtype)
        return phase

    def side(self, state: Aberrations) -> int:
        """Side of the smallest sub-window that holds the probe, pixels; without `sub_window` the whole grid."""
        if not self.sub_window:
            return self.optics.grid
        focus_nm = max(offset for offset, _ in focal_quadrature(self.day.focal_spread_nm))
        spread_nm = self.day.film.thickness_nm / 2 + focus_nm
        blur_nm = 2e-3 * self.optics.convergence_mrad * spread_nm
        needed = (PROBE_MARGIN * probe_reach_nm(self.optics, state) + blur_nm) / self.optics.sampling_nm
        sides = (int(fraction * self.optics.grid) for fraction in SUB_WINDOWS)
        return next((side for side in sides if side >= needed), self.optics.grid)

    def transmission(self, region_seed: int, side: int | None = None, grown_nm: float = 0.0) -> Tensor:
        """Transmission functions of one film region, complex (slices, side, side), |t| = 1; by default of the grid.

        Args:
            region_seed: seed of the region.
            side: pixels of the window.
            grown_nm: contamination of the region.
        """
        side, film = side or self.optics.grid, self.day.film
        phase = self._film_phase(region_seed, side)
        scale = phase_scale(film, side, grown_nm)
        if scale is not None:
            phase = phase * torch.as_tensor(scale, dtype=self.dtype)
        if film.crystallites_per_um2 > 0.0:
            rng = region_rng(region_seed, CRYSTALLITES)
            blur_nm = math.hypot(film.thermal_rms_nm, self.day.source_size_nm)
            particles = crystallites_phase(film, self.optics, side, self.optics.sampling_nm, blur_nm, rng)
            phase[-1] += torch.from_numpy(particles).to(self.dtype)
        hole = vacuum(film, side, self.optics.sampling_nm, region_seed)
        if hole is not None:
            phase = phase.masked_fill(torch.from_numpy(hole), 0.0)
        return torch.complex(torch.cos(phase), torch.sin(phase))

    def _film_phase(self, region_seed: int, side: int) -> Tensor:
        """Phase of an even film, (slices, side, side), rad."""
        rng = np.random.default_rng(region_seed)
        if self.day.film.crystal != "none":
            layers = crystal_phases(self.day, self.optics, side, self.slices, rng)
            return torch.from_numpy(layers).to(self.dtype)
        noise = np.stack([unit_noise(side, rng) for _ in range(self.slices)])
        return torch.fft.irfft2(torch.from_numpy(noise) * self._window(side).filter, s=(side, side)).to(self.dtype)

    def intensity(self, coefficients_nm: Tensor, transmission: Tensor) -> Tensor:
        """Un-binned intensity averaged over the focal spread, (N, size, size); differentiable.

        Args:
            coefficients_nm: (N, 25), C10 from the film's mid-plane.
            transmission: (N or 1, slices, side, side); in a sub-window, the probe is at its centre.
        """
        window, grid = self._window(transmission.shape[-1]), self.optics.grid
        # Free space of length z adds z to C10: the first screen lies before the mid-plane.
        first = _defocus((self.step_nm - self.day.film.thickness_nm) / 2, self.dtype)
        field = aperture_field(coefficients_nm + first, self.basis)
        total: Tensor | None = None
        for weight, phase in window.foci:
            focused = field if phase is None else field * phase
            intensity = weight * _far_field(focused, transmission, grid, window.propagator, window.vacuum)
            total = intensity if total is None else total + intensity
        assert total is not None
        return total

    def check(self, aberrations: Aberrations) -> None:
        """See `FrameByFrame.check`."""
        check_window(self._widest, aberrations)

    def frame(self, aberrations: Aberrations, region_seed: int, grown_nm: float = 0.0) -> NDArray[np.float32]:
        """See `FrameByFrame.frame`. One frame at a time stays in the processor's cache; a batch does not."""
        coefficients = torch.from_numpy(aberrations.array()).to(self.dtype)[None]
        with torch.no_grad():
            region = self.transmission(region_seed, self.side(aberrations), grown_nm)[None]
            frame = to_camera(self.intensity(coefficients, region), self.optics, self.day.camera)[0]
        return frame.float().numpy()


def _defocus(offset_nm: float, dtype: torch.dtype) -> Tensor:
    """C10 alone, as coefficients (1, 25)."""
    coefficients = torch.zeros((1, len(NAMES)), dtype=dtype)
    coefficients[0, 0] = offset_nm
    return coefficients
