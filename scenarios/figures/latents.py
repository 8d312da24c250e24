"""Figs. 1, 4 and 5: spectra at opposite states, and the latents of a VAE of two aberrations on one day and on several.

Frames are those of the fast renderer, one per state. Imports torch and matplotlib where figures are drawn.
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from controller import preprocess
from controller.dataset import DaySource
from scenarios.schema import load
from twin.arrays import Array
from twin.day import Day
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

if TYPE_CHECKING:
    from controller.vae_em.artefact import Artefact
    from controller.vae_em.latent_figure import Latents

PLANE = StateSpace(("C10", "C12a"), (60.0, 30.0), (60.0, 30.0), (10.0, 10.0))
"""Defocus and one component of two-fold astigmatism, as in the paper's pictures."""
WEIGHTS = "vae_plane"
"""VAE with two latents, trained on `PLANE` on the nominal day."""
SIDE = 11
"""States along each axis of the plane; odd, so that the null is one of them."""
DAYS = ("nominal", "day_a", "day_b", "day_c")
STATES_NM = ((0.0, 0.0), (70.0, 0.0), (-70.0, 0.0), (30.0, 30.0), (-30.0, -30.0))
"""States of Fig. 1; each pair of neighbours after the first is x and -x."""
LOWEST = 4
"""Frequencies, in pixels from the centre, that belong to the disc and not to the film."""


@cache
def trained() -> "Artefact":
    """The shipped VAE with two latents."""
    from controller.vae_em import artefact

    return artefact.load_for(WEIGHTS, Optics(), PLANE)


@cache
def latents_on(day: str, side: int = SIDE) -> "Latents":
    """Latents of one frame per state of the plane on a library day."""
    from controller.vae_em import latent_figure

    return latent_figure.latents_on(load(day).day, trained(), PLANE, side)


# --- Fig. 1 --------------------------------------------------------------------------------------


def spectra() -> bytes:
    """Draw Ronchigrams and their spectra at the null and at two pairs of opposite states (Fig. 1)."""
    from matplotlib.figure import Figure

    from scenarios.calibration.plots import png

    source = DaySource(Day(), Optics(), PLANE, np.random.default_rng(0))
    frames = [source.frame(np.array(state)) for state in STATES_NM]
    powers = [_power(frame) for frame in frames]
    figure = Figure(figsize=(11.0, 4.9), layout="constrained", facecolor="white")
    # The disc's own peak at the lowest frequencies would hide the rings that carry the aberrations.
    brightest = float(np.percentile([power[_film(len(power))] for power in powers], 99.9))
    nyquist, reach = 0.5 / Optics().camera_pixel_mrad, Optics().camera_pixel_mrad * Optics().camera_pixels / 2
    for column, (state, frame, power, axes) in enumerate(
        zip(STATES_NM, frames, powers, figure.subplots(2, len(STATES_NM)).T, strict=True)
    ):
        axes[0].imshow(frame.counts, cmap="gray", extent=(-reach, reach, reach, -reach))
        axes[0].set(title=f"C10 {state[0]:+g}, C12a {state[1]:+g} nm", xlabel="angle x (mrad)")
        axes[1].imshow(power, cmap="magma", vmin=0, vmax=brightest, extent=(-nyquist, nyquist, nyquist, -nyquist))
        alike = "" if column in (0, 1, 3) else f", r = {correlation(powers[column - 1], power):.2f} with -x"
        axes[1].set(title=f"spectrum{alike}", xlabel="frequency x (1/mrad)")
        axes[1].set(xlim=(-nyquist / 2, nyquist / 2), ylim=(nyquist / 2, -nyquist / 2))
    return png(figure)


def _power(frame: Frame) -> Array:
    counts = preprocess.signal(frame)
    return preprocess.normalise(preprocess.spectrum(counts), preprocess.windowed_sum(counts))[0]


def correlation(first: Array, second: Array) -> float:
    """Correlation of two spectra (H, H), without the disc's own frequencies at the centre."""
    film = _film(len(first))
    return float(np.corrcoef(first[film], second[film])[0, 1])


def _film(pixels: int) -> NDArray[np.bool_]:
    axis = np.arange(pixels) - pixels // 2
    return np.hypot(axis[:, None], axis[None, :]) > LOWEST


# --- Figs. 4 and 5 -------------------------------------------------------------------------------


def nominal_day() -> bytes:
    """Draw states and their latents on the nominal day (Fig. 4)."""
    from controller.vae_em import latent_figure
    from scenarios.calibration.plots import png

    return png(latent_figure.drawing(latents_on("nominal"), PLANE))


def several_days() -> bytes:
    """Draw the latents of several days on one pair of axes (Fig. 5)."""
    from matplotlib.figure import Figure

    from controller.vae_em import latent_figure
    from scenarios.calibration.plots import png

    found = {day: latents_on(day) for day in DAYS}
    figure = Figure(figsize=(11.0, 3.4), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(DAYS), sharex=True, sharey=True)
    centre = found["nominal"].values.mean(0)
    for axes, (day, latents) in zip(panels, found.items(), strict=True):
        paint = latent_figure.colours(latents.states_nm, PLANE.range_nm)
        latent_figure.scatter(axes, latents.values - centre, paint, size=14)
        axes.set(title=f"{day}: antipodes at {latents.antipodes:.2f}", xlabel="first latent", ylabel="second latent")
        axes.label_outer()
    return png(figure)
