"""Figure of the latent space (the paper's Fig. 4): latents of states on a plane, antipodes joined."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from controller.dataset import DaySource, spectra_on
from controller.vae_em.artefact import Artefact
from controller.vae_em.network import encode_mean
from twin.arrays import Array
from twin.day import Day
from twin.state import StateSpace


def plane_states(space: StateSpace, side: int) -> Array:
    """Return states on a grid in the first two coefficients, the others zero, (side^2, n)."""
    axis = np.linspace(-1, 1, side)
    states = np.zeros((side * side, space.dimension))
    states[:, 0] = np.tile(axis, side) * space.range_nm[0]
    states[:, 1] = np.repeat(axis, side) * space.range_nm[1]
    return states


def colours(states_nm: Array, range_nm: Array) -> Array:
    """Return colours (N, 3), hue by direction and saturation by distance: antipodes differ in hue by half a turn."""
    x, y = (states_nm[:, i] / range_nm[i] for i in (0, 1))
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1.0
    saturation = np.clip(np.hypot(x, y), 0.0, 1.0)
    rgb: Array = hsv_to_rgb(np.stack([hue, 0.15 + 0.85 * saturation, np.full_like(hue, 0.85)], axis=1))
    return rgb


def principal_plane(latents: Array) -> Array:
    """Project latents (N, n_z) on their first two principal components, (N, 2)."""
    centred = latents - latents.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T


def antipodal_distance(latents: Array) -> float:
    """Return the median distance of a state's latent to its antipode's, over the median distance of random pairs.

    Args:
        latents: (N, n_z) on a grid that is its own mirror image: state k and N - 1 - k are antipodes.
    """
    mirrored = np.linalg.norm(latents - latents[::-1], axis=1)
    shuffled = np.linalg.norm(latents - np.random.default_rng(0).permutation(latents), axis=1)
    return float(np.median(mirrored) / np.median(shuffled))


@dataclass(frozen=True)
class Latents:
    """Latents of one frame per state on a grid that is its own mirror image.

    Attributes:
        states_nm: (N, n); state k and N - 1 - k are antipodes.
        values: encoder means, (N, n_z).
    """

    states_nm: Array
    values: Array

    @property
    def antipodes(self) -> float:
        """See `antipodal_distance`."""
        return antipodal_distance(self.values)


def latents_on(day: Day, trained: Artefact, space: StateSpace, side: int = 21, seed: int = 0) -> Latents:
    """Encode one frame per state of `plane_states` on a day, by the fast renderer."""
    states = plane_states(space, side)
    source = DaySource(day, trained.optics, space, np.random.default_rng(seed))
    data = spectra_on(source, states, preprocessing=trained.vae.config.preprocessing)
    return Latents(states, encode_mean(trained.vae, data.spectra))


def draw(trained: Artefact, space: StateSpace, path: Path, side: int = 21, seed: int = 0) -> float:
    """Write the figure; return the `antipodal_distance` of its latents."""
    found = latents_on(Day(), trained, space, side, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = drawing(found, space)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)
    return found.antipodes


def drawing(found: Latents, space: StateSpace) -> Figure:
    """States of one day beside their latents, in the same colours, with lines between antipodes."""
    plane, paint = principal_plane(found.values), colours(found.states_nm, space.range_nm)
    figure = Figure(figsize=(10, 4.7), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    left.scatter(found.states_nm[:, 0], found.states_nm[:, 1], c=paint, s=26)
    left.set(xlabel=f"{space.names[0]} (nm)", ylabel=f"{space.names[1]} (nm)", title="States, one frame each")
    scatter(right, plane, paint)
    right.set_title(f"Their latents; lines join x and -x\n({found.antipodes:.2f} of a random pair's distance)")
    return figure


def scatter(axes: Axes, plane: Array, paint: Array, size: float = 26) -> None:
    """Points (N, 2) in their colours (N, 3), with thin lines between antipodes."""
    for k in range(len(plane) // 2):
        axes.plot(*plane[[k, -1 - k]].T, color="0.75", lw=0.6, zorder=1)
    axes.scatter(plane[:, 0], plane[:, 1], c=paint, s=size, zorder=2)
    axes.set(xlabel="first principal latent", ylabel="second principal latent")
