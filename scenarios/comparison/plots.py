"""Figures of a comparison, from its summary: error, share in spec, coverage, computing time. Returns PNG bytes.

One panel per scenario, one colour and dash per controller throughout, lines labelled where they end. Imports
matplotlib: import this module where a figure is wanted.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter
from scipy.optimize import isotonic_regression

from scenarios.calibration.plots import INK, LIMIT, png
from scenarios.comparison.paired import wilson_interval
from scenarios.schema import Scenario
from twin.arrays import Array

Figures = Mapping[str, Any]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a5230")
"""Okabe and Ito (2008), distinguishable for the colour-blind; without its yellow, too pale for lines."""

DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_BANDS = 4
"""With more controllers than this, bands would hide each other: bars at the last observation stand for them."""

LONGEST_LINE, TITLE_CHARACTERS = 26, {1: 56, 2: 34}
"""Characters in a line of a name, and of a title by the number of panels in a row."""
CHARACTER_IN, LINE_IN, KEY_IN = 0.068, 0.155, 0.45
"""Size of a character and a line of 8 points, and of the marker and gap beside a name of a legend, inches."""
AXES_IN = {1: 5.9, 2: 3.8}
"""Width of a panel without names, inches, by the number of panels in a row."""
MOST_BESIDE_IN = 1.3
"""Width of names up to which two panels stand in a row."""

BOUND = "Cramér-Rao bound"

STEP_LIMIT_S = 0.05
"""Limit of the computing time per observation for a controller without refinement."""


def error_curves(summary: Figures, scenarios: Mapping[str, Scenario]) -> bytes:
    """Median error norm against observations, with the 10-90 % band, the tolerance and the Cramer-Rao bound."""
    figure, panels = _panels(summary, 3.6)
    for axes, (name, of_scenario) in zip(panels, summary["scenarios"].items(), strict=True):
        controllers = of_scenario["controllers"]
        ends: dict[str, float] = {}
        for i, (controller, style) in enumerate(_styles(controllers).items()):
            k, median, low, high = _curve(controllers[controller], "median_error_nm", "p10_error_nm", "p90_error_nm")
            axes.plot(k, median, **style)
            ends[controller] = float(median[-1])
            if len(controllers) <= MOST_BANDS:
                axes.fill_between(k, low, high, color=style["color"], alpha=0.13, lw=0)
            else:
                axes.vlines(k[-1] + 0.012 * (1 + i) * k[-1], low[-1], high[-1], color=style["color"], lw=1.6)
        styles = _styles(controllers)
        if of_scenario["bound_median_nm"] is not None:
            ends[BOUND], styles[BOUND] = _floor(axes, of_scenario["bound_median_nm"]), {"color": INK, "ls": "-"}
        tolerances = sorted(set(scenarios[name].space.tolerance_nm))
        axes.axhline(tolerances[0], color=LIMIT, lw=1.2, ls=":")
        _note(axes, "tolerance" if len(tolerances) == 1 else "least tolerance", k[-1], tolerances[0], above=True)
        axes.set(yscale="log", ylabel="error norm (nm)")
        _title(axes, name)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(LogFormatter())
        _observations(axes, controllers)
        _label_ends(axes, float(k[-1]), ends, styles)
    return _finished(figure)


def in_spec_curves(summary: Figures) -> bytes:
    """Share of the runs in spec against observations, with 95 % (Wilson) intervals as bands or bars."""
    figure, panels = _panels(summary, 3.1)
    for axes, (name, of_scenario) in zip(panels, summary["scenarios"].items(), strict=True):
        controllers = of_scenario["controllers"]
        ends: dict[str, float] = {}
        for i, (controller, style) in enumerate(_styles(controllers).items()):
            k, share = _curve(controllers[controller], "in_spec")
            intervals = np.array([wilson_interval(float(s), controllers[controller]["runs"]) for s in share])
            axes.plot(k, share, **style)
            ends[controller] = float(share[-1])
            if len(controllers) <= MOST_BANDS:
                axes.fill_between(k, *intervals.T, color=style["color"], alpha=0.13, lw=0)
            else:
                axes.vlines(k[-1] + 0.012 * (1 + i) * k[-1], *intervals[-1], color=style["color"], lw=1.6)
        axes.axhline(0.95, color=LIMIT, lw=1.2, ls=":")
        _note(axes, "95 %", k[-1], 0.95, above=False)
        axes.set(ylim=(-0.03, 1.03), ylabel="runs in spec")
        _title(axes, name)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _observations(axes, controllers)
        _label_ends(axes, float(k[-1]), ends, _styles(controllers))
    return _finished(figure)


def coverage_curves(summary: Figures) -> bytes:
    """Coverage: share of runs whose credible region contains the truth; grey: 95 % sampling interval."""
    figure, panels = _panels(summary, 3.1)
    for axes, (name, of_scenario) in zip(panels, summary["scenarios"].items(), strict=True):
        controllers = of_scenario["controllers"]
        runs = min(found["runs"] for found in controllers.values())
        for nominal in (0.5, 0.9):
            half = 1.96 * np.sqrt(nominal * (1 - nominal) / runs)
            axes.axhspan(nominal - half, min(1.0, nominal + half), color=LIMIT, alpha=0.22, lw=0)
            axes.axhline(nominal, color=LIMIT, lw=1.2, ls=":")
        ends: dict[str, float] = {}
        for controller, style in _styles(controllers).items():
            for key, width in (("coverage_90", 1.7), ("coverage_50", 0.9)):
                k, share = _curve(controllers[controller], key)
                axes.plot(k, share, **{**style, "lw": width, "marker": style["marker"] if width > 1 else None})
            ends[controller] = float(controllers[controller]["by_observation"][str(int(k[-1]))]["coverage_90"])
        axes.set(ylim=(-0.03, 1.03), ylabel="coverage")
        _title(axes, f"{name}: 90 % (thick), 50 % (thin)")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _observations(axes, controllers)
        _label_ends(axes, float(k[-1]), ends, _styles(controllers))
    return _finished(figure)


def computing_time(summary: Figures) -> bytes:
    """Median controller time per observation, all scenarios together: a dot, and the range over observations."""
    controllers = summary["controllers"]
    sizes = [0.3 + LINE_IN * (_lines(name) - 1) for name in controllers]
    rows = np.cumsum(sizes) - 0.5 * np.asarray(sizes)
    figure = Figure(figsize=(9.2, 1.0 + sum(sizes)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for row, (controller, style) in zip(rows, _styles(controllers).items(), strict=True):
        _, seconds = _curve(controllers[controller], "seconds_per_step")
        shown = 1e3 * np.maximum(seconds, 1e-5)
        axes.plot([shown.min(), shown.max()], [row, row], color=style["color"], lw=2.2, alpha=0.45)
        axes.plot(np.median(shown), row, marker=style["marker"], color=style["color"], ms=6)
    axes.axvline(1e3 * STEP_LIMIT_S, color=LIMIT, lw=1.2, ls=":")
    axes.set(xscale="log", xlabel="computing time per observation (ms); dotted: 50 ms", ylim=(sum(sizes), 0.0))
    axes.set_yticks(rows, [wrapped(name) for name in controllers])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(alpha=0.25, axis="x", lw=0.5)
    return _finished(figure)


def coefficient_errors(summary: Figures, scenarios: Mapping[str, Scenario]) -> bytes:
    """Error of each coefficient after the last observation: median as marker, up to the 90th percentile as line."""
    names = list(summary["controllers"])
    figure, panels = _panels(summary, 3.1, names_beside=False)
    columns = max(1, min(5, len(names), int(figure.get_figwidth() / (_width_in(names) + KEY_IN))))
    figure.set_figheight(figure.get_figheight() + LINE_IN * sum(map(_lines, names)) / columns)
    for axes, (name, of_scenario) in zip(panels, summary["scenarios"].items(), strict=True):
        controllers, space = of_scenario["controllers"], scenarios[name].space
        width = 0.8 / len(controllers)
        for i, (controller, style) in enumerate(_styles(controllers).items()):
            x = np.arange(space.dimension) + (i - (len(controllers) - 1) / 2) * width
            errors = [controllers[controller]["per_coefficient"][c] for c in space.names]
            low, high = ([error[key] for error in errors] for key in ("median_abs_nm", "p90_abs_nm"))
            axes.vlines(x, low, high, color=style["color"], lw=1.5)
            axes.plot(x, low, ls="", marker=style["marker"], color=style["color"], ms=4, label=wrapped(controller))
        edges = np.arange(space.dimension)
        axes.hlines(space.tolerance_nm, edges - 0.45, edges + 0.45, color=LIMIT, lw=1.2, ls=":")
        axes.set(yscale="log", ylabel="|error| (nm)")
        _title(axes, name)
        axes.set_xticks(edges, list(space.names))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.grid(alpha=0.25, axis="y", lw=0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return _finished(figure)


# --- parts ---------------------------------------------------------------------------------------


def _panels(summary: Figures, height_in: float, names_beside: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with a panel per scenario, two in a row if they fit, which grows with the names beside its lines."""
    count = len(summary["scenarios"])
    names = {BOUND, *(name for found in summary["scenarios"].values() for name in found["controllers"])}
    beside_in = _width_in(sorted(names)) if names_beside else 0.0
    columns = 2 if count > 1 and beside_in <= MOST_BESIDE_IN else 1
    rows = -(-count // columns)
    width_in = AXES_IN[columns] + beside_in
    lines = sum(map(_lines, names)) if names_beside else 0
    figure = Figure(figsize=(width_in * columns, max(height_in, 0.9 + LINE_IN * lines) * rows), layout="constrained")
    figure.set_facecolor("white")
    grid = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for spare in grid[count:]:
        spare.set_visible(False)
    return figure, grid[:count]


def wrapped(name: str) -> str:
    """A controller's name with its options in lines of about `LONGEST_LINE` characters, broken behind : and ,.

    Example:
        >>> wrapped("vae_em:selection=variance,candidates=500").splitlines()
        ['vae_em:selection=variance,', 'candidates=500']
    """
    lines = [""]
    for piece in re.findall(r"[^:,]+[:,]?|[:,]", name):
        if lines[-1] and len(lines[-1]) + len(piece) > LONGEST_LINE:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line[i : i + LONGEST_LINE] for line in lines for i in range(0, len(line), LONGEST_LINE))


def _lines(name: str) -> int:
    return wrapped(name).count("\n") + 1


def _width_in(names: Iterable[str]) -> float:
    """Width of the longest line of some names, inches."""
    return CHARACTER_IN * max(len(line) for name in names for line in wrapped(name).splitlines())


def _title(axes: Axes, text: str) -> None:
    """Set a title in lines that are no wider than the panel."""
    grid = axes.get_gridspec()
    axes.set_title("\n".join(textwrap.wrap(text, TITLE_CHARACTERS[1 if grid is None else grid.ncols])))


def _styles(controllers: Sequence[str] | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker by controller; colours repeat with another dash."""
    looks = cycle(product(DASHES, zip(COLOURS, MARKERS, strict=True)))
    return {
        name: {"color": colour, "ls": dash, "marker": marker, "ms": 3.2, "lw": 1.6}
        for name, (dash, (colour, marker)) in zip(controllers, looks, strict=False)
    }


def _curve(figures: Figures, *keys: str) -> tuple[Array, ...]:
    """Observations and the figures of the keys, each (K,)."""
    by_observation = figures["by_observation"]
    k = sorted(map(int, by_observation))
    return np.array(k, float), *(np.array([by_observation[str(i)][key] for i in k], float) for key in keys)


def _floor(axes: Axes, bound_nm: Mapping[str, float]) -> float:
    """Draw the bound; where it ends, nm."""
    k = np.array(sorted(map(int, bound_nm)))
    floor = np.array([bound_nm[str(i)] for i in k])
    axes.plot(k, floor, color=INK, lw=1.2, ls=(0, (6, 2.5)), zorder=1.5)
    return float(floor[-1])


def _observations(axes: Axes, controllers: Mapping[str, Figures]) -> None:
    last = max(int(k) for found in controllers.values() for k in found["by_observation"])
    axes.set(
        xlabel="observations", xlim=(0.6, last * (1.02 + 0.012 * len(controllers) * (len(controllers) > MOST_BANDS)))
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25, lw=0.5)


def _label_ends(axes: Axes, last: float, ends: Mapping[str, float], styles: Mapping[str, Mapping[str, Any]]) -> None:
    """Names beside the right edge, moved apart where they would overlap, each led to its line's end at `last`."""
    transform = axes.transData.transform
    low, high = (transform((1.0, v))[1] for v in axes.get_ylim())
    order = sorted(ends, key=lambda name: ends[name])
    wanted = [(transform((1.0, ends[name]))[1] - low) / (high - low) for name in order]
    few = len(ends) <= 12
    line = LINE_IN * axes.figure.dpi / axes.bbox.height
    heights = _apart(wanted, [line * (_lines(name) + 0.1) for name in order])
    for name, height in zip(order, heights, strict=True):
        style = styles[name]
        leader = {
            "arrowstyle": "-",
            "color": style["color"],
            "lw": 0.7,
            "ls": style["ls"],
            "shrinkA": 1,
            "shrinkB": 2,
            "relpos": (0, 0.5),
        }
        axes.annotate(
            wrapped(name), (last, ends[name]), (1.07, height), textcoords="axes fraction", va="center",
            arrowprops=leader, fontsize=8 if few else 7, color=style["color"], annotation_clip=False, linespacing=1.0,
        )  # fmt: skip


def _apart(wanted: Sequence[float], sizes: Sequence[float]) -> Array:
    """Ascending heights moved as little as labels of these sizes need (least squares), within the axes if they fit."""
    middles = np.asarray(sizes) / 2
    steps = np.concatenate([[0.0], np.cumsum(middles[:-1] + middles[1:])])
    spaced = isotonic_regression(np.asarray(wanted) - steps).x
    placed: Array = np.clip(spaced, 0.0, max(0.0, 1.0 - steps[-1])) + steps
    return placed


def _note(axes: Axes, text: str, x: float, y: float, above: bool) -> None:
    """Small labels that end at a point of a line, readable over other lines."""
    note = axes.annotate(
        text, (x, y), (-2, 3 if above else -3), textcoords="offset points", ha="right",
        va="bottom" if above else "top", fontsize=7.5, color=INK, zorder=5,
    )  # fmt: skip
    note.set_path_effects([withStroke(linewidth=2.5, foreground="white", alpha=0.85)])


def _finished(figure: Figure) -> bytes:
    for axes in figure.axes:
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    return png(figure)
