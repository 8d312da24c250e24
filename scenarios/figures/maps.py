"""Fig. 6: the prior mean of the latent map, and the map that a run of VAE-EM learns on another day."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scenarios.figures.latents import PLANE, SIDE, WEIGHTS, latents_on, trained
from scenarios.schema import load
from twin.arrays import Array
from twin.optics import Optics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from controller.vae_em.em import LearnedMap

DAY, OBSERVATIONS, SEED = "day_b", 20, 1
FINE = 41
"""Points along each axis at which the maps are drawn."""


class Learned(NamedTuple):
    """A run's map over the plane.

    Attributes:
        map: after the last observation, on a grid of states (N, 2).
        visited_nm: states of the observations, (T, 2).
    """

    map: "LearnedMap"
    visited_nm: Array


def run(states_nm: Array, observations: int = OBSERVATIONS) -> Learned:
    """Calibrate on the day with two aberrations and the VAE of two latents; return what was learned of the map."""
    from controller.base import build
    from controller.strategies.vae_em import VaeEm
    from twin.simulated import SimulatedMicroscope

    controller = build("vae_em", Optics(), PLANE, {"weights": WEIGHTS})
    assert isinstance(controller, VaeEm)
    microscope = SimulatedMicroscope(Optics(), PLANE, load(DAY).day, "fast")
    controller.reset(PLANE, np.random.default_rng(SEED))
    microscope.reset(np.random.default_rng(SEED))
    for _ in range(observations):
        delta = controller.propose()
        microscope.apply(delta)
        controller.update(delta, microscope.acquire())
    start = microscope.truth().state_nm - controller.input_nm
    return Learned(controller.learned_map(states_nm), start + controller.data.inputs_nm)


def learned() -> bytes:
    """Draw prior mean, learned map, its deviation, the true deviation and its standard deviation (Fig. 6)."""
    from matplotlib.figure import Figure

    from controller.vae_em.latent_figure import plane_states
    from scenarios.calibration.plots import png

    measured, fine = latents_on(DAY, SIDE), FINE**2
    found = run(np.concatenate([plane_states(PLANE, FINE), measured.states_nm]))
    prior = found.map.prior_mean
    true = trained().prior.observe(measured.values).T - prior[:, fine:]
    columns = {
        "prior mean": prior[:, :fine],
        f"learned, {OBSERVATIONS} frames of {DAY}": found.map.mean[:, :fine],
        "learned deviation": found.map.deviation[:, :fine],
        "true deviation, one frame each": true,
        "standard deviation": found.map.std[:, :fine],
    }
    figure = Figure(figsize=(12.0, 4.8), layout="constrained", facecolor="white")
    grid = figure.subplots(len(prior), len(columns), sharex=True, sharey=True)
    for row, panels in enumerate(grid):
        gap = float(np.percentile(np.abs(true[row]), 98))
        limits = (*[float(np.abs(prior[row]).max())] * 2, gap, gap, None)
        images = [_panel(*each) for each in zip(panels, (v[row] for v in columns.values()), limits, strict=True)]
        for k in (1, 3, 4):  # neighbours on one scale share its bar
            figure.colorbar(images[k], ax=panels[k], shrink=0.8)
        for axes, title in zip(panels, columns, strict=True):
            axes.scatter(*found.visited_nm.T, s=4, c="black", lw=0)
            axes.set_title(title if row == 0 else "")
        panels[0].set_ylabel(f"axis {row + 1}\n{PLANE.names[1]} (nm)")
    for axes in grid[-1]:
        axes.set_xlabel(f"{PLANE.names[0]} (nm)")
    return png(figure)


def _panel(axes: "Axes", values: Array, limit: float | None) -> "AxesImage":
    """Show values on a grid of the plane, as they are; positive ones without a limit on a scale of their own."""
    side = math.isqrt(len(values))
    reach = PLANE.range_nm * (1 + 1 / (side - 1))
    scale = {"cmap": "viridis", "vmin": 0.0} if limit is None else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    return axes.imshow(
        values.reshape(side, side), origin="lower", aspect="auto", extent=(-reach[0], reach[0], -reach[1], reach[1]),
        **scale,  # type: ignore[arg-type]
    )  # fmt: skip
