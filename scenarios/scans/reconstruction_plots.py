"""Figures of agents' results: images with a scale bar, and trust, figures and notes as text.

For pages, files and windows.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from agents.base import Image, Reconstruction, Trust
from scenarios.calibration.plots import INK, png
from twin.arrays import Floats

PANEL_INCH = 3.0
MOST_COLUMNS = 4
MOST_PANELS = 16
CLIP_PERCENT = 0.2
"""Percentage of pixels that saturate at either end: one stray pixel must not set the grey scale."""
UNKNOWN = "#c7d2e3"
"""Colour of positions without data: no grey."""


def png_of(label: str, reconstruction: Reconstruction, step_nm: float | None, verdict: str = "") -> bytes:
    """Draw one agent on a figure of its own.

    Args:
        label: of the agent.
        reconstruction: its result.
        step_nm: pixel of the scan's grid; None if unknown.
        verdict: added to the title.
    """
    panels = _panels(reconstruction)
    rows, columns = _grid(max(len(panels), 2))  # the words need the width of two
    words = [*doubts(reconstruction), *_left_out(reconstruction, panels)]
    height = 0.92 * PANEL_INCH * rows + 0.35 + 0.16 * (1 + len(words))
    figure = Figure(figsize=(PANEL_INCH * columns, height), layout="constrained", facecolor="white")
    figure.suptitle(label + (f"   {verdict}" if verdict else ""), fontsize=11, color=INK)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    for panel, (title, image) in zip(axes, panels, strict=False):
        scan_image(panel, title, image, step_nm)
    wrapped = "\n".join(fill(line, 40 * columns) for line in words)
    figure.supxlabel(wrapped, fontsize=8, color=INK, x=0.01, ha="left")
    return png(figure)


def overview(figure: Figure, results: Mapping[str, Reconstruction], step_nm: float | None, title: str = "") -> None:
    """Draw the first image of every agent side by side on a cleared figure.

    Args:
        figure: of any size and backend.
        results: by label.
        step_nm: pixel of the scan's grid.
        title: above it all.
    """
    figure.clear()
    first = [(label, next(iter(found.images.items()))) for label, found in results.items() if found.images]
    rows, columns = _filling(len(first), *figure.get_size_inches())
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes[len(first) :]:
        panel.set_visible(False)
    for panel, (label, (name, image)) in zip(axes, first, strict=False):
        trust = results[label].trust
        mark = "" if trust is None or trust.fits else "  (does not fit)"
        scan_image(panel, (label if label == name else f"{label}: {name}") + mark, image, step_nm)
    if title:
        figure.suptitle(title, fontsize=10, color=INK)


def before_and_after(before: Reconstruction, after: Reconstruction | None, truth: Floats, step_nm: float) -> bytes:
    """Draw the first image of an agent before and after, each on its own grey scale, and the true phase."""
    panels = [(f"{name}, before", image) for name, image in list(before.images.items())[:1]]
    if after is not None:
        panels += [(f"{name}, after", image) for name, image in list(after.images.items())[:1]]
    panels.append(("true phase", Image(truth, "rad")))
    figure = Figure(figsize=(PANEL_INCH * len(panels), 2.6), layout="constrained", facecolor="white")
    for axes, (title, image) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        scan_image(axes, title, image, step_nm)
    return png(figure)


def scan_image(axes: Axes, title: str, image: Image, step_nm: float | None) -> None:
    """Draw one image in grey with a scale bar; pixels without data are bluish."""
    values = np.atleast_2d(image.values)
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, (CLIP_PERCENT, 100 - CLIP_PERCENT)) if known.size else (0.0, 1.0)
    if known.size and not high > low:
        low, high = known.min(), known.max()  # few pixels differ from all others
    if not high > low:
        # A constant: mid-grey, on a scale of its own size.
        low, high = low - (abs(low) or 1.0), low + (abs(low) or 1.0)
    axes.set_facecolor(UNKNOWN)
    shown = axes.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set(title=title, xticks=(), yticks=())
    axes.title.set_fontsize(9)
    bar = axes.figure.colorbar(shown, ax=axes, pad=0.03, fraction=0.046)
    bar.set_label("" if image.unit == "1" else image.unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    pixel_nm = image.step_nm if image.step_nm is not None else step_nm
    if pixel_nm is not None and values.shape[0] > 1:
        _scale_bar(axes, values.shape, pixel_nm)


def trust_line(trust: Trust | None) -> str:
    """State in one line whether a reconstruction explains the data."""
    if trust is None:
        return "trust: no verdict (no model to test, or too little data for a test)"
    verdict = "fits the data" if trust.fits else "DOES NOT FIT the data"
    missed = ""
    if trust.unexplained is not None and trust.unexplained > 1:
        missed = "; deviations exceed the specimen's own signal"
    elif trust.unexplained is not None and trust.unexplained_sigma is not None:
        missed = f"; {100 * trust.unexplained:.2g} +- {100 * trust.unexplained_sigma:.1g} % of the signal not explained"
    return (
        f"trust: {verdict} (p = {trust.probability:.2g}){missed}; residuals of mean {trust.mean:+.2f}, variance"
        f" {trust.variance:.2f}, neighbours' correlation {trust.correlation:+.2f}; model: {trust.model}"
    )


def doubts(reconstruction: Reconstruction) -> list[str]:
    """Return trust, figures and notes as lines."""
    lines = [trust_line(reconstruction.trust)]
    if reconstruction.figures:
        lines.append("   ".join(f"{name} {value:.4g}" for name, value in reconstruction.figures.items()))
    return [*lines, *reconstruction.notes]


def _grid(count: int) -> tuple[int, int]:
    """Return rows and columns for `count` panels, as even as `MOST_COLUMNS` allows."""
    rows = max(math.ceil(count / MOST_COLUMNS), 1)
    return rows, max(math.ceil(count / rows), 1)


def _filling(count: int, width: float, height: float) -> tuple[int, int]:
    """Return the rows and columns that make square panels largest in a figure of a given size."""
    grids = [(math.ceil(count / columns), columns) for columns in range(1, max(count, 1) + 1)]
    return max(((max(rows, 1), columns) for rows, columns in grids), key=lambda g: min(height / g[0], width / g[1]))


def _panels(reconstruction: Reconstruction) -> list[tuple[str, Image]]:
    """Return images, each followed by its spread; without spreads if that exceeds `MOST_PANELS`."""
    panels: list[tuple[str, Image]] = []
    spreads = sum(image.spread is not None for image in reconstruction.images.values())
    if len(reconstruction.images) + spreads > MOST_PANELS:
        return list(reconstruction.images.items())[:MOST_PANELS]
    for name, image in reconstruction.images.items():
        panels.append((name, image))
        if image.spread is not None:
            panels.append((f"spread of {name}", Image(image.spread, image.unit, step_nm=image.step_nm)))
    return panels


def _left_out(reconstruction: Reconstruction, panels: Sequence[tuple[str, Image]]) -> list[str]:
    """Return a line about images and spreads that are not shown."""
    shown = {name for name, _ in panels}
    images = [name for name in reconstruction.images if name not in shown]
    spreads = [f"spread of {name}" for name, image in reconstruction.images.items() if image.spread is not None]
    spreads = [name for name in spreads if name not in shown]
    parts = [f"{len(left)} {kind}" for left, kind in ((images, "images"), (spreads, "spreads")) if left]
    return [f"not shown, for lack of room: {' and '.join(parts)}"] if parts else []


def round_length_nm(width_nm: float) -> float:
    """Return the longest 1, 2 or 5 times a power of ten within a third of the width, nm."""
    goal = width_nm / 3
    decade = 10.0 ** math.floor(math.log10(goal))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= goal * (1 + 1e-9)))


def _scale_bar(axes: Axes, shape: Sequence[int], pixel_nm: float) -> None:
    rows, columns = shape[0], shape[1]
    length_nm = round_length_nm(columns * pixel_nm)
    x, y, thick = 0.05 * columns - 0.5, 0.93 * rows - 0.5, 0.022 * rows
    style: dict[str, Any] = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.6}
    axes.add_patch(Rectangle((x, y), length_nm / pixel_nm, thick, **style))
    label = f"{length_nm:g} nm" if length_nm >= 0.1 else f"{1e3 * length_nm:g} pm"
    outline = {"facecolor": "black", "alpha": 0.55, "edgecolor": "none", "pad": 1.2}
    axes.text(x, y - 0.02 * rows, label, color="white", fontsize=7, va="bottom", bbox=outline)
