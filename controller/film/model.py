"""Differentiable model, in torch, of Ronchigrams of one region: film, aberrations and nuisance parameters.

Cheaper than `ronchigram/phase_screens.py`, whose film statistics it uses as prior: with one sample per camera pixel
the window is lambda / (camera pixel), 4.3 nm, so only frames near the null, whose probe fits, can be used. The search
is in `film/fit.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from twin.aberrations import TERMS, index
from twin.arrays import Array
from twin.day import FilmProperties
from twin.matter.carbon_screen import screen_filter
from twin.optics import Optics, focal_quadrature, probe_extent_nm
from twin.state import StateSpace

RESIDUALS = {"C21a": 60.0, "C21b": 60.0, "C23a": 60.0, "C23b": 60.0, "C30": 1000.0}
"""Prior standard deviation of the uncalibrated aberrations, nm."""

DAY = {
    "focal": (0.0, 0.2),
    "thickness": (0.0, 0.2),
    "rotation_rad": (0.0, 0.05),
    "log_scale": (0.0, 0.02),
    "shift_x_px": (0.0, 2.0),
    "shift_y_px": (0.0, 2.0),
    "log_gain": (0.0, 1.0),
    "shading": (0.0, 0.2),
    "blur": (0.0, 0.15),
}
"""Prior mean and standard deviation of the nuisance parameters. Focal spread and thickness are `FOCAL_NM` and
`THICKNESS_NM` times exp(tanh(value)), which bounds the search; `blur` is minus the log of the camera's transfer at the
Nyquist frequency that `exposure` has left."""

FOCAL_NM, THICKNESS_NM = 1.5, 4.5

UNITS = {
    **{"C1": 0.3, "C2": 5.0, "C3": 100.0, "C4": 2e3, "C5": 4e4},
    **{"focal": 0.1, "thickness": 0.1, "rotation_rad": 0.005, "log_scale": 0.001},
    **{"shift_x_px": 0.05, "shift_y_px": 0.05, "log_gain": 0.003, "shading": 0.02, "blur": 0.02},
}
"""Units of the search: steps that change the frames by about their noise. Aberrations by order, nm."""

PROBE_SHARE = 0.6
"""Largest probe diameter of a usable frame, as a fraction of the window."""

GUARD = 1.25
"""Width of the grid over that of the camera, so that few electrons scattered beyond the camera wrap onto the disc."""

EDGE_STEEPNESS = 10.0
"""Logistic slope of the aperture's edge, per pixel."""


@dataclass(frozen=True)
class FilmModel:
    """Everything that stays fixed during a run.

    Attributes:
        optics: energy, aperture, and a grid with one pixel per camera pixel.
        space: the calibrated coefficients.
        slices: phase screens.
        focus: (offset, weight) of the focal quadrature, offsets in units of the focal spread.
        filter: film phase per unit noise on the half plane of frequencies, (grid, grid // 2 + 1).
        coefficients: names of all fitted aberrations, the calibrated ones first.
        parameters: names of all fitted parameters except the film.
        prior_mean, prior_std, unit: of the parameters, (P,).
    """

    optics: Optics
    space: StateSpace
    slices: int
    focus: tuple[tuple[float, float], ...]
    filter: Tensor
    coefficients: tuple[str, ...]
    parameters: tuple[str, ...]
    prior_mean: Tensor
    prior_std: Tensor
    unit: Tensor


def model(optics: Optics, space: StateSpace, slices: int = 2) -> FilmModel:
    """Build the model for an instrument and a task; one slice also means a single focus, five times as fast."""
    grid = 2 * math.ceil(GUARD * optics.camera_pixels / 2)
    window_nm = optics.wavelength_nm / (optics.camera_pixel_mrad * 1e-3)
    near = replace(optics, grid=grid, sampling_nm=window_nm / grid, binning=1)
    film = FilmProperties()
    filtering = torch.from_numpy(screen_filter(film, near, film.thickness_nm / slices, 0.03))
    coefficients = space.names + tuple(name for name in RESIDUALS if name not in space.names)
    parameters = coefficients + tuple(DAY)
    start = dict(zip(space.names, space.start_nm, strict=True))
    mean = [DAY[name][0] if name in DAY else 0.0 for name in parameters]
    std = [DAY[name][1] if name in DAY else start.get(name, RESIDUALS.get(name, 1.0)) for name in parameters]
    unit = [UNITS[name] if name in DAY else UNITS[name[:2]] for name in parameters]
    focus = tuple(focal_quadrature(1.0 if slices > 1 else 0.0))
    return FilmModel(
        near, space, slices, focus, filtering, coefficients, parameters, *map(torch.tensor, (mean, std, unit))
    )


def usable(model: FilmModel, state_nm: Array) -> bool:
    """Return whether the probe at a state (n,) fits the model's window."""
    extent = probe_extent_nm(model.optics, model.space.to_aberrations(state_nm))
    return extent < PROBE_SHARE * model.optics.window_nm


def expected(model: FilmModel, film: Tensor, values: Tensor, inputs_nm: Tensor) -> Tensor:
    """Expected signal of frames at cumulative inputs, as a fraction of the beam per camera pixel; differentiable.

    Args:
        model: see `model`.
        film: unit noise, (slices, grid, grid).
        values: parameters, (P,).
        inputs_nm: (K, n).

    Returns:
        (K, H, W), in the camera's axes: the aberrations are rotated and scaled, not the image.
    """
    hidden = dict(zip(model.parameters, values, strict=True))
    inside, amplitude, basis = _aperture(model, hidden)
    count, grid = len(model.coefficients), model.optics.grid
    coefficients = values[:count] + torch.nn.functional.pad(inputs_nm, (0, count - inputs_nm.shape[1]))
    step_nm = THICKNESS_NM * torch.exp(torch.tanh(hidden["thickness"])) / model.slices
    focal_nm = FOCAL_NM * torch.exp(torch.tanh(hidden["focal"]))
    defocus = basis[-1]
    # C10 counts from the film's middle; the first screen lies before it.
    chi = coefficients @ basis[:-1] - defocus * step_nm * (model.slices - 1) / 2
    screens, between = _screens(model, film), _propagator(model, step_nm)
    total = torch.zeros(())
    for offset, weight in model.focus:
        phase = -(chi + defocus * focal_nm * offset)
        disc = torch.polar(amplitude.expand_as(phase), phase)
        field = torch.zeros((len(phase), grid * grid), dtype=disc.dtype).index_copy(1, inside, disc)
        wave = torch.fft.ifft2(torch.fft.ifftshift(field.reshape(-1, grid, grid), dim=(-2, -1))) * screens[0]
        for screen in screens[1:]:
            wave = torch.fft.ifft2(torch.fft.fft2(wave) * between) * screen
        exit_field = torch.fft.fft2(wave)
        total = total + weight * (exit_field.real**2 + exit_field.imag**2)
    return _on_camera(model, total, hidden)


def _aperture(model: FilmModel, hidden: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices of the pixels in the disc, (N,), their amplitude, (N,), and the phase basis, rad/nm, (C + 1, N).

    The last row of the basis is defocus, for focal spread and depth, whether or not C10 is among the coefficients.
    """
    optics = model.optics
    axis = torch.arange(optics.grid, dtype=torch.float32) - optics.grid // 2
    scale = torch.exp(hidden["log_scale"])
    px, py = (axis[None, :] - hidden["shift_x_px"]) / scale, (axis[:, None] - hidden["shift_y_px"]) / scale
    cos, sin = torch.cos(hidden["rotation_rad"]), torch.sin(hidden["rotation_rad"])
    x, y = (cos * px - sin * py) * optics.pixel_mrad, (sin * px + cos * py) * optics.pixel_mrad
    edge_px = ((optics.convergence_mrad - torch.hypot(x, y)) / optics.pixel_mrad * scale).flatten()
    inside = torch.nonzero(edge_px.detach() > -2.0)[:, 0]
    # Steep, because `_on_camera` spreads the edge over a pixel; no step, so that scale and shift have a gradient.
    lit = torch.sigmoid(EDGE_STEEPNESS * edge_px[inside])
    beam_px = math.pi * (optics.convergence_mrad / optics.pixel_mrad * scale) ** 2
    basis = _basis((*model.coefficients, "C10"), x.flatten()[inside], y.flatten()[inside], optics.wavelength_nm)
    return inside, torch.sqrt(lit / beam_px), basis


def _basis(names: Sequence[str], x_mrad: Tensor, y_mrad: Tensor, wavelength_nm: float) -> Tensor:
    """Phase of aberrations at angles (N,), rad/nm, shape (C, N): `twin.aberrations.aberration_basis` in torch."""
    omega = torch.complex(x_mrad, y_mrad) * 1e-3
    radius2 = (x_mrad**2 + y_mrad**2) * 1e-6
    rows = []
    for name in names:
        term = TERMS[index(name)]
        field = radius2 ** ((term.n + 1 - term.m) // 2) * (omega**term.m if term.m else torch.ones_like(omega))
        part = field.imag if term.component == "b" else field.real
        rows.append(2.0 * math.pi / wavelength_nm / (term.n + 1) * part)
    return torch.stack(rows)


def _screens(model: FilmModel, film: Tensor) -> Tensor:
    """Transmission functions of the film, complex (slices, grid, grid)."""
    size = (model.optics.grid, model.optics.grid)
    phase = torch.fft.irfft2(torch.fft.rfft2(film, norm="ortho") * model.filter, s=size)
    return torch.polar(torch.ones_like(phase), phase)


def _propagator(model: FilmModel, distance_nm: Tensor) -> Tensor:
    """`exp(-i pi lambda k^2 dz)`, (grid, grid), in the order of an FFT."""
    k = torch.fft.fftfreq(model.optics.grid, model.optics.sampling_nm)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    return torch.polar(torch.ones_like(k2), -math.pi * model.optics.wavelength_nm * distance_nm * k2)


def _on_camera(model: FilmModel, intensity: Tensor, hidden: dict[str, Tensor]) -> Tensor:
    """Integrate over pixels, blur and amplify: intensity (K, grid, grid) in the order of an FFT to (K, H, W)."""
    grid, camera = model.optics.grid, model.optics.camera_pixels
    y, x = torch.fft.fftfreq(grid)[:, None], torch.fft.rfftfreq(grid)[None, :]
    transfer = torch.sinc(y) * torch.sinc(x) * torch.exp(-hidden["blur"] * 4 * (y**2 + x**2))
    image = torch.fft.irfft2(torch.fft.rfft2(intensity) * transfer, s=(grid, grid))
    first = grid // 2 - camera // 2
    cut = torch.fft.fftshift(image, dim=(-2, -1))[:, first : first + camera, first : first + camera]
    axis = torch.arange(camera, dtype=torch.float32) - camera // 2
    radius2 = (axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * (camera / 2) ** 2)
    return torch.exp(hidden["log_gain"]) * (1 + hidden["shading"] * radius2) * cut
