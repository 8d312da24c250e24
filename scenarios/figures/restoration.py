"""Figs. 2.7 to 2.12 of Friedrich 2023 in the twin: what restoration does to positions, cross-sections and atoms.

Fewer images than the thesis's hundred, so that a figure takes a minute; `benchmarks` has the figures of the page.
"""

from functools import lru_cache, partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from agents.quantify.bounds import column_bound, cross_section_sigma
from agents.quantify.columns import Columns
from agents.quantify.fit import fit
from agents.quantify.quantify import Quantified, QuantifyOptions, quantify
from agents.quantify.step import FitOptions
from scenarios.calibration.plots import BELIEF, INK, TRUTH, png
from scenarios.figures import restoration_network
from scenarios.figures.pictures import PublishedFigure
from scenarios.quantification.studies import BULK, MARGIN, SPHERE, distorted, exposed
from twin import specimens
from twin.arrays import Floats
from twin.zcontrast.image import ColumnImages

THICKNESSES, REPEATS = (2, 5, 10, 20), 4
DOSES_E_A2 = (5e2, 5e4)
SEED = 2023


def restore(image: Floats) -> Floats:
    """An image restored by the shipped network."""
    from agents.restoration.apply import restored
    from agents.restoration.network import WEIGHTS
    from learning.weights_file import find

    return restored(image, WEIGHTS.load(find("restoration", WEIGHTS.shipped))).values


def precision() -> bytes:
    """Draw errors of x and of cross-sections against thickness, raw and restored, with the bound (Fig. 2.7)."""
    figure = Figure(figsize=(10.0, 7.0), layout="constrained", facecolor="white")
    panels = figure.subplots(len(DOSES_E_A2), 3)
    for row, dose in zip(panels, DOSES_E_A2, strict=True):
        found = np.array([_precision(atoms, dose) for atoms in THICKNESSES])
        for axes, first, title in ((row[0], 0, "x, pm"), (row[1], 3, "cross-section, %")):
            for column, label, colour in ((0, "raw", BELIEF), (1, "restored", TRUTH), (2, "bound, raw", INK)):
                style = "--" if column == 2 else "o-"
                axes.loglog(THICKNESSES, found[:, first + column], style, color=colour, label=label, markersize=4)
            axes.set(title=f"rms error of {title}, {dose:g} e/A$^2$", xlabel="atoms")
            axes.set_xticks(THICKNESSES, [f"{n}" for n in THICKNESSES])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        image = exposed(_bulk(THICKNESSES[0])[0], dose, 0.015, np.random.default_rng(SEED))
        row[2].imshow(np.concatenate([image, restore(image)], axis=1), cmap="gray")
        row[2].set(title=f"{THICKNESSES[0]} atoms, raw and restored", xticks=(), yticks=())
    panels[0, 0].legend(fontsize=8)
    return png(figure)


@lru_cache
def _bulk(atoms: int) -> tuple[Floats, Quantified]:
    """Pt [001] of some atoms, without noise, and its columns."""
    crystal = specimens.build("pt_001", {"width_nm": 3.93, "height_nm": 3.93, "thickness_nm": 0.3924 * atoms})
    image = ColumnImages.of(crystal, BULK).image((64, 64), 0.015, (1.43, 1.43))
    return image, quantify(image * 1e6, 0.015, QuantifyOptions(scan="perfect", count="none"))


def _precision(atoms: int, dose: float) -> list[float]:
    """Rms errors of x in pm, raw, restored and bound, then of cross-sections in per cent."""
    image, truth = _bulk(atoms)
    start = truth.fit.columns.scaled(dose * 2.25e-2 / 1e6)
    inner = np.zeros(len(start), np.bool_)
    inner[: truth.fit.inside] = _away_from_edges(start, 64)[: truth.fit.inside]
    errors: dict[int, list[Floats]] = {0: [], 1: []}
    for number in range(REPEATS):
        counts = exposed(image, dose, 0.015, np.random.default_rng([SEED, atoms, number]))
        for kind, values in enumerate((counts, restore(counts))):
            found = fit(values, start, FitOptions(), inside=truth.fit.inside).columns
            ratio = found.cross_section / start.cross_section - 1
            errors[kind].append(np.stack([15 * (found.x_px - start.x_px), 100 * ratio])[:, inner])
    bound = column_bound(start, image.shape)
    least = [15 * np.sqrt(bound[inner, 0, 0]), 100 * (cross_section_sigma(start, bound) / start.cross_section)[inner]]
    rms = [[float(np.sqrt(np.mean(np.stack(errors[kind])[:, part] ** 2))) for kind in (0, 1)] for part in (0, 1)]
    bounds = [float(np.sqrt(np.mean(part**2))) for part in least]
    return [*rms[0], bounds[0], *rms[1], bounds[1]]


def _away_from_edges(columns: Columns, side: int) -> np.ndarray:
    reach = 1.5 * columns.width_px
    low, high = np.minimum(columns.x_px, columns.y_px), np.maximum(columns.x_px, columns.y_px)
    return np.asarray((low > reach) & (high < side - 1 - reach))


def dislocation() -> bytes:
    """Draw the dislocation in Pt [112], raw and restored, and errors of three ways to measure it (Fig. 2.8)."""
    step_nm, side = 0.016, 128
    images = ColumnImages.of(specimens.build("pt_112_dislocation", {"width_nm": 5.0, "height_nm": 5.0}), BULK)
    corner = 2.5 - side * step_nm / 2
    wide = images.image((side + 2 * MARGIN,) * 2, step_nm, (corner - MARGIN * step_nm,) * 2)
    truth = quantify(wide[MARGIN:-MARGIN, MARGIN:-MARGIN] * 1e6, step_nm, _measured("perfect"))
    figure = Figure(figsize=(11.0, 7.0), layout="constrained", facecolor="white")
    grid = figure.subplots(len(DOSES_E_A2), 3)
    for row, dose in zip(grid, DOSES_E_A2, strict=True):
        counts = distorted(wide, dose, step_nm, np.random.default_rng([SEED, int(dose)]))
        better = restore(counts)
        for axes, values, title in ((row[0], counts, "raw"), (row[1], better, "restored")):
            axes.imshow(values, cmap="gray", vmax=float(np.quantile(values, 0.999)))
            axes.set(title=f"{title}, {dose:g} e/A$^2$", xticks=(), yticks=())
        ways = {
            "raw": quantify(counts, step_nm, _measured("perfect")),
            "restored": quantify(better, step_nm, _measured("perfect")),
            "joint fit": quantify(counts, step_nm, _measured("joint")),
        }
        errors = [1e3 * step_nm * position_error_px(found, truth) for found in ways.values()]
        row[2].bar(list(ways), errors, color=[BELIEF, TRUTH, INK])
        row[2].set(title="mean error of positions, pm")
    return png(figure)


def _measured(scan: str) -> QuantifyOptions:
    return QuantifyOptions(scan=scan, count="none")  # type: ignore[arg-type]


def position_error_px(found: Quantified, truth: Quantified) -> float:
    """Mean distance of columns from the true ones (eq 2.21), of those found within 0.4 spacings of one."""
    from scipy.spatial import cKDTree

    places = np.stack([truth.columns.x_px, truth.columns.y_px], axis=1)
    distance, near = cKDTree(places).query(np.stack([found.columns.x_px, found.columns.y_px], axis=1))
    good = (distance < 0.4 * truth.spacing_px) & ~truth.at_edge[near] & ~found.at_edge
    return float(distance[good].mean()) if good.any() else float("nan")


def particle() -> bytes:
    """Draw the sphere of 333 columns and how cross-sections follow the atoms: raw, restored, joint fit (Fig. 2.9)."""
    step_nm, side, dose, corner = 0.015, 320, 5e4, 0.35
    images = ColumnImages.of(specimens.build("pt_sphere"), SPHERE)
    wide = images.image((side + 2 * MARGIN,) * 2, step_nm, (corner - MARGIN * step_nm,) * 2)
    counts = distorted(wide, dose, step_nm, np.random.default_rng(SEED))
    better = restore(counts)
    figure = Figure(figsize=(12.0, 7.0), layout="constrained", facecolor="white")
    grid = figure.subplots(2, 3)
    for axes, values, title in zip(grid[0, :2], (counts, better), ("raw", "restored"), strict=True):
        axes.imshow(values, cmap="gray")
        axes.set(title=f"{title}, {dose:g} e/A$^2$", xticks=(), yticks=())
    grid[0, 2].axis("off")
    places = np.stack([images.labels.x_nm, images.labels.y_nm], axis=1)
    ways = (("raw", counts, "perfect"), ("restored", better, "perfect"), ("joint fit", counts, "joint"))
    for axes, (title, values, scan) in zip(grid[1], ways, strict=True):
        found = quantify(values, step_nm, _measured(scan))
        axes.scatter(*_by_atoms(found, places, images.labels.atoms, step_nm, corner), s=4, color=BELIEF)
        axes.set(title=title, xlabel="atoms", ylabel="cross-section, e nm$^2$")
    return png(figure)


def _by_atoms(found: Quantified, places: Floats, atoms: Floats, step_nm: float, corner_nm: float) -> list[Floats]:
    """True atoms, spread a little, and cross-section of the columns that were found."""
    from scipy.spatial import cKDTree

    seen = np.stack([found.columns.x_px, found.columns.y_px], axis=1) * step_nm + corner_nm
    distance, near = cKDTree(places).query(seen)
    good = distance < 0.08
    spread = np.random.default_rng(0).uniform(-0.25, 0.25, int(good.sum()))
    return [atoms[near][good] + spread, found.cross_section[good]]


def whitening() -> bytes:
    """Draw a particle on carbon under the local whitening transform of four windows (Fig. 2.12)."""
    import torch

    from agents.restoration.losses import WINDOWS, whitened

    options = {"diameter_nm": 2.5, "carbon_nm": 2.0, "side_nm": 5.0}
    structure = specimens.build("pt_on_carbon", options)
    image = ColumnImages.of(structure, BULK).image((192, 192), 0.02, (0.6, 0.6))
    tensor = torch.from_numpy(image / image.mean())[None, None]
    figure = Figure(figsize=(14.0, 3.2), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 1 + len(WINDOWS))
    panels[0].imshow(image, cmap="gray")
    panels[0].set(title="image", xticks=(), yticks=())
    for axes, window in zip(panels[1:], WINDOWS, strict=True):
        axes.imshow(whitened(tensor, window)[0, 0], cmap="gray")
        axes.set(title=f"whitened, {window} px", xticks=(), yticks=())
    return png(figure)


_figure = partial(PublishedFigure, "restoration")

FIGURES = (
    _figure(7, "precision", "Errors of positions and cross-sections against thickness", lambda _: precision()),
    _figure(8, "dislocation", "A dislocation in platinum, and errors of its columns", lambda _: dislocation()),
    _figure(9, "particle", "Cross-sections of a platinum particle on carbon", lambda _: particle()),
    _figure(10, "generator", "The generator", lambda _: restoration_network.generator()),
    _figure(11, "discriminator", "The discriminator", lambda _: restoration_network.discriminator()),
    _figure(12, "whitening", "A particle under the local whitening transform", lambda _: whitening()),
)
"""Numbered as in the thesis, after "2."."""
