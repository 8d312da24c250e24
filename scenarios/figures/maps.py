"""Fig. 6: the prior mean of the latent map, and the map that a run of VAE-EM learns on another day."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scenarios.figures.latents import PLANE, SIDE, WEIGHTS, latents_on, trained
from scenarios.schema import load
from twin.arrays import Array
from twin.optics import Optics

if TYPE_CHECKING:
    from controller.vae_em.em import LearnedMap

DAY, OBSERVATIONS, SEED = "day_b", 20, 1


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

    from scenarios.calibration.plots import png

    measured = latents_on(DAY, SIDE)
    found = run(measured.states_nm)
    prior = found.map.prior_mean
    true = trained().prior.observe(measured.values).T - prior
    columns = {
        "prior mean": prior,
        f"learned, {OBSERVATIONS} frames of {DAY}": found.map.mean,
        "learned deviation": found.map.deviation,
        "true deviation, one frame each": true,
        "standard deviation": found.map.std,
    }
    figure = Figure(figsize=(12.0, 4.8), layout="constrained", facecolor="white")
    grid = figure.subplots(len(prior), len(columns), sharex=True, sharey=True)
    for row, panels in enumerate(grid):
        level = float(np.abs(prior[row]).max())
        gap = float(np.percentile(np.abs(true[row]), 98))
        for axes, (title, values), limit in zip(panels, columns.items(), (level, level, gap, gap, gap), strict=True):
            image = _panel(axes, values[row], limit)
            axes.scatter(*found.visited_nm.T, s=5, c="black", lw=0)
            axes.set_title(title if row == 0 else "")
            if title in ("learned, 20 frames of day_b", "standard deviation"):
                figure.colorbar(image, ax=axes, shrink=0.8)
        panels[0].set_ylabel(f"axis {row + 1}\n{PLANE.names[1]} (nm)")
    for axes in grid[-1]:
        axes.set_xlabel(f"{PLANE.names[0]} (nm)")
    return png(figure)


def _panel(axes, values: Array, limit: float):  # type: ignore[no-untyped-def]
    """Show values on the grid of the plane, as measured and not smoothed."""
    reach = PLANE.range_nm * (1 + 1 / (SIDE - 1))
    return axes.imshow(
        values.reshape(SIDE, SIDE), origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto",
        extent=(-reach[0], reach[0], -reach[1], reach[1]),
    )  # fmt: skip
