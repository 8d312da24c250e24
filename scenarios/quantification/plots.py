"""Picture of an image's columns: coloured by atoms or cross-section, residuals, cross-sections, shifts of lines."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agents.base import Image
from agents.quantify.quantify import Quantified
from scenarios.calibration.plots import BELIEF, INK, TRUTH, png
from scenarios.scans.reconstruction_plots import scan_image
from twin.arrays import Floats

BINS = 40
MOST_SIGMA = 4.0


def picture(found: Quantified, image: Floats) -> bytes:
    """Draw four panels.

    Args:
        found: columns of the image.
        image: as recorded, (rows, columns).
    """
    figure = Figure(figsize=(9.6, 8.0), layout="constrained", facecolor="white")
    first, second, third, fourth = figure.subplots(2, 2).flat
    _columns(first, found, image)
    residual = np.clip(found.fit.residual, -MOST_SIGMA, MOST_SIGMA)
    scan_image(second, "image minus fit, in standard deviations", Image(residual, "1"), found.step_nm)
    _histogram(third, found)
    _lines(fourth, found)
    return png(figure)


def _columns(axes: Axes, found: Quantified, image: Floats) -> None:
    counts = found.counts
    hollow = "at the edges" if counts is None else "where not counted"
    title = f"columns where they were recorded, hollow {hollow}"
    scan_image(axes, title, Image(image, "image units"), found.step_nm)
    values = found.cross_section if counts is None else counts.atoms.astype(np.float64)
    inner = ~found.at_edge & (True if counts is None else counts.known)
    x, y = recorded_px(found)
    size = float(np.clip((0.25 * found.spacing_px * 250 / max(image.shape)) ** 2, 4.0, 80.0))
    dots = axes.scatter(x[inner], y[inner], size, values[inner], cmap="viridis", edgecolors="white", linewidths=0.3)
    axes.scatter(x[~inner], y[~inner], size, facecolors="none", edgecolors=BELIEF, linewidths=0.6)
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    bar = axes.figure.colorbar(dots, ax=axes, pad=0.03, fraction=0.046, location="left")
    bar.set_label(_label(found) if counts is None else "atoms", fontsize=8)
    if counts is not None:
        bar.locator = MaxNLocator(integer=True)
    bar.ax.tick_params(labelsize=7)


def recorded_px(found: Quantified) -> tuple[Floats, Floats]:
    """Places of the columns in the image as recorded, x and y, (N,): their true ones less the shift of their line."""
    x, y, shift_px = found.columns.x_px, found.columns.y_px, found.fit.shift_px
    lines = np.arange(shift_px.shape[1])
    line = y
    for _ in range(3):  # the line that shows a column is the one that was shifted onto it
        line = y - np.interp(line, lines, shift_px[1])
    return x - np.interp(line, lines, shift_px[0]), line


def _label(found: Quantified) -> str:
    return "cross-section, image units x " + ("px$^2$" if found.step_nm is None else "nm$^2$")


def _histogram(axes: Axes, found: Quantified) -> None:
    values = found.cross_section[~found.at_edge]
    axes.hist(values, BINS, color=BELIEF, alpha=0.6)
    if found.counts is not None:
        for mean in found.counts.means:
            axes.axvline(mean, color=TRUTH, linewidth=0.8)
    title = "cross-sections" if found.counts is None else "cross-sections; lines: mean of each number of atoms"
    axes.set(title=title, xlabel=_label(found), ylabel="columns")


def _lines(axes: Axes, found: Quantified) -> None:
    fit, scale = found.fit, 1e3 * (found.step_nm or 1e-3)
    unit = "px" if found.step_nm is None else "pm"
    if fit.axes is None:
        axes.text(0.5, 0.5, "shifts of lines were not fitted", ha="center", color=INK, transform=axes.transAxes)
        axes.set(xticks=(), yticks=())
        return
    line = np.arange(fit.shift_px.shape[1])
    for name, shift, sigma, colour in zip("xy", fit.shift_px, fit.shift_sigma_px, (BELIEF, TRUTH), strict=True):
        axes.plot(line, scale * shift, color=colour, linewidth=0.8, label=f"along {name}")
        axes.fill_between(line, scale * (shift - sigma), scale * (shift + sigma), color=colour, alpha=0.25, linewidth=0)
    axes.legend(fontsize=8)
    axes.set(title="shifts of the lines", xlabel="line", ylabel=f"shift, {unit}")
