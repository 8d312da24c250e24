"""Joint fit of film and aberrations to Ronchigrams of one same region, with the model in `film/model.py`.

Maximum a posteriori estimate of the phase screens, with the film's power spectrum as prior, the initial state, the
residual aberrations and the nuisance parameters. The idea is that of blind ptychography (Thibault and Menzel, Nature
494 (2013) 68), with the corrector's known inputs instead of scan positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import fft, ndimage
from torch import Tensor

from controller import preprocess
from controller.film.model import FilmModel, expected
from twin.arrays import Array
from twin.types import Frame

STIFFNESS = 300.0
SOFTEST = 0.02
"""Curvature of the objective along the search directions, about that along the film's unit noise, nats; and the least
curvature that is scaled to it, as a fraction."""


@dataclass(frozen=True)
class FilmExposure:
    """A frame prepared for the fit.

    Attributes:
        signal: counts above the dark level, with the camera's transfer undone, over their sum, (H, W).
        precision: inverse variance of the signal, zero at unused pixels, (H, W).
        input_nm: cumulative input, (n,).
        radius_px, centre_px: of the disc, from its area and centre of mass; (x, y) from the camera's middle.
    """

    signal: Array
    precision: Array
    input_nm: Array
    radius_px: float
    centre_px: tuple[float, float]


def exposure(frame: Frame, input_nm: Array) -> FilmExposure:
    """Undo the camera's transfer, which makes the noise white, and estimate the variance of the noise.

    Raises:
        ValueError: the frame is not square, or no signal above the dark level.
    """
    raw = preprocess.above_dark(frame)
    counts = preprocess.remove_defects(raw)
    side, total = counts.shape[0], float(counts.sum())
    if not total > 0:
        raise ValueError("the frame holds no signal above its dark level")
    hann = preprocess.hann_window(side)
    floor = preprocess.noise_floor(preprocess.spectrum(counts))
    gain = floor.level / float(np.sum(hann**2 * counts))  # shot noise: variance = gain x counts
    f2 = np.add.outer(np.arange(side) ** 2, np.arange(side) ** 2) / 4.0  # cosine transform: half pixels
    transfer = np.maximum(np.exp(-0.5 * floor.decay * f2), 0.3)
    sharp = fft.idctn(fft.dctn(counts, norm="ortho") / transfer, norm="ortho")
    level = ndimage.gaussian_filter(counts, 2.0)
    inside = level > 0.5 * np.median(level[side // 4 : -side // 4, side // 4 : -side // 4])
    y, x = np.nonzero(inside)
    radius, centre = math.sqrt(len(x) / math.pi), (x.mean() - side // 2, y.mean() - side // 2)
    yy, xx = np.mgrid[0:side, 0:side] - side // 2
    beyond_px = np.hypot(xx - centre[0], yy - centre[1]) - radius
    variance = gain * np.maximum(level, 0.02 * level.max()) + np.where(np.abs(beyond_px) < 3.0, (0.1 * level) ** 2, 0.0)
    precision = np.where((raw == counts) & (beyond_px < 3.0), total**2 / variance, 0.0)
    return FilmExposure(
        sharp / total, precision, np.asarray(input_nm, np.float64), radius, (float(centre[0]), float(centre[1]))
    )


@dataclass(frozen=True)
class FilmFit:
    """Film and parameters at a point of the search.

    Attributes:
        film: unit noise from which the screens are filtered, (slices, grid, grid).
        values: parameters, in the order of `FilmModel.parameters`, (P,).
        misfit: chi-square per pixel of the frames.
        objective: minus log posterior, nats.
        curvature: of the objective along the parameters with the film held fixed, in units of `FilmModel.unit`, (P, P).
    """

    film: Tensor
    values: Tensor
    misfit: float = math.inf
    objective: float = math.inf
    curvature: Array | None = None


def start(model: FilmModel, state_nm: Array, exposures: Sequence[FilmExposure]) -> FilmFit:
    """Begin without a film, at a state (n,), with the mean disc of the exposures."""
    values = model.prior_mean.clone()
    values[: len(state_nm)] = torch.from_numpy(np.asarray(state_nm, np.float32))
    nominal = model.optics.convergence_mrad / model.optics.pixel_mrad
    disc = {
        "log_scale": math.log(float(np.mean([e.radius_px for e in exposures])) / nominal),
        "shift_x_px": float(np.mean([e.centre_px[0] for e in exposures])),
        "shift_y_px": float(np.mean([e.centre_px[1] for e in exposures])),
    }
    for name, value in disc.items():
        values[model.parameters.index(name)] = value
    grid = model.optics.grid
    return FilmFit(torch.zeros(model.slices, grid, grid), values)


@dataclass(frozen=True)
class FilmData:
    """Exposures as tensors: signal and precision (K, H, W), inputs (K, n)."""

    signal: Tensor
    precision: Tensor
    inputs_nm: Tensor


def stack(exposures: Sequence[FilmExposure]) -> FilmData:
    """Stack exposures to single-precision tensors."""
    parts = ([e.signal for e in exposures], [e.precision for e in exposures], [e.input_nm for e in exposures])
    return FilmData(*(torch.from_numpy(np.stack(part).astype(np.float32)) for part in parts))


def refine(model: FilmModel, fit: FilmFit, data: FilmData, iterations: int, aperture: float = 1.0) -> FilmFit:
    """Climb the posterior by L-BFGS from `fit`.

    Args:
        model: see `model`.
        fit: starting point.
        data: the frames.
        iterations: largest number of gradient evaluations.
        aperture: fraction of the disc whose pixels are fitted; near the middle the phase is small and the valley wide.
    """
    precision = _within(model, data.precision, aperture)
    film = fit.film.clone().requires_grad_()
    directions = _directions(model, fit)
    moved = torch.zeros_like(fit.values).requires_grad_()
    search = torch.optim.LBFGS(
        [film, moved], lr=1.0, max_iter=iterations, max_eval=iterations, history_size=20,
        tolerance_grad=1e-3, tolerance_change=1e-7, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        search.zero_grad()
        value = objective(model, film, fit.values + directions @ moved, data, precision)
        value.backward()
        return value

    search.step(closure)
    with torch.no_grad():
        values = (fit.values + directions @ moved).detach()
        misfit = _chi2(model, film, values, data, precision)
        value = float(objective(model, film, values, data, precision))
    point = FilmFit(film.detach(), values, misfit, value)
    return replace(point, curvature=_curvature(model, point, data, precision))


def _chi2(model: FilmModel, film: Tensor, values: Tensor, data: FilmData, precision: Tensor) -> float:
    residual = expected(model, film, values, data.inputs_nm) - data.signal
    return float((residual**2 * precision).sum() / (precision > 0).sum())


def agreement(model: FilmModel, fit: FilmFit, unseen: FilmData) -> tuple[float, float]:
    """Regress the structure of frames that were not fitted on its prediction.

    Returns:
        The regression coefficient, 1 if the film is the same and the fit correct, 0 if the frames show another film;
        and its standard deviation from shot noise.
    """
    with torch.no_grad():
        flat = expected(model, torch.zeros_like(fit.film), fit.values, unseen.inputs_nm)
        predicted = expected(model, fit.film, fit.values, unseen.inputs_nm) - flat
        weight = float((predicted**2 * unseen.precision).sum())
        product = float((predicted * (unseen.signal - flat) * unseen.precision).sum())
    return product / max(weight, 1e-12), 1.0 / math.sqrt(max(weight, 1e-12))


def _directions(model: FilmModel, fit: FilmFit) -> Tensor:
    """Return combinations of parameters that change the frames independently and about equally, (P, P).

    C10, C30, focal spread and thickness have similar effects: along single coefficients the search would be slow.
    """
    if fit.curvature is None:
        return torch.diag(model.unit)  # without a film no aberration shows
    values, vectors = np.linalg.eigh(fit.curvature)
    scaled = vectors * np.sqrt(STIFFNESS / np.maximum(values, SOFTEST * STIFFNESS))
    return model.unit[:, None] * torch.from_numpy(scaled.astype(np.float32))


def _curvature(model: FilmModel, fit: FilmFit, data: FilmData, precision: Tensor) -> Array:
    """Gauss-Newton curvature of the objective along the parameters, in units of `FilmModel.unit`, (P, P)."""
    slopes = _slopes(model, fit, data, precision)
    total = slopes.T @ slopes + torch.diag((model.unit / model.prior_std) ** 2)
    return np.asarray(total.double().numpy())


def covariance(model: FilmModel, fit: FilmFit) -> Array:
    """Covariance of the initial state, nm^2, (n, n), marginal over the other parameters but with the film held fixed.

    It is therefore too small without an inflation.
    """
    if fit.curvature is None:
        raise ValueError("a fit has no covariance before it was refined")
    n = model.space.dimension
    unit = model.unit[:n].double().numpy()
    block: Array = np.linalg.inv(fit.curvature)[:n, :n] * np.outer(unit, unit)
    return (block + block.T) / 2


def promote(model: FilmModel, fit: FilmFit) -> FilmFit:
    """Spread the phase of a one-slice fit equally over the slices of `model`."""
    if len(fit.film) == model.slices:
        return fit
    film = (fit.film / math.sqrt(model.slices)).repeat(model.slices, 1, 1)
    return replace(fit, film=film)


def _slopes(model: FilmModel, fit: FilmFit, data: FilmData, precision: Tensor) -> Tensor:
    """Change of the frames, in standard deviations of their noise, per unit of each parameter, (pixels, P)."""
    with torch.no_grad():
        base = expected(model, fit.film, fit.values, data.inputs_nm)
        root = torch.sqrt(precision)
        columns = []
        for step in torch.diag(model.unit):
            moved = expected(model, fit.film, fit.values + step, data.inputs_nm)
            columns.append(((moved - base) * root).flatten())
    return torch.stack(columns, 1)


def _within(model: FilmModel, precision: Tensor, aperture: float) -> Tensor:
    if aperture >= 1.0:
        return precision
    axis = torch.arange(precision.shape[-1]) - precision.shape[-1] // 2
    radius = torch.hypot(axis[:, None].float(), axis[None, :].float())
    return precision * (radius < aperture * model.optics.convergence_mrad / model.optics.pixel_mrad)


def objective(model: FilmModel, film: Tensor, values: Tensor, data: FilmData, precision: Tensor) -> Tensor:
    """Minus log posterior up to a constant, nats."""
    residual = expected(model, film, values, data.inputs_nm) - data.signal
    prior = ((values - model.prior_mean) / model.prior_std) ** 2
    return 0.5 * ((residual**2 * precision).sum() + (film**2).sum() + prior.sum())
