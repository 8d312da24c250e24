"""Figures of one run: Ronchigrams and their spectra, the posterior, the error curve. Returns PNG bytes.

Imports matplotlib: import this module where a figure is wanted.
"""

import io
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from scipy import ndimage
from scipy.stats import chi2

from controller.base import Estimate
from controller.checks.saturation import saturated
from controller.preprocess import noise_floor, remove_defects, spectrum
from scenarios.calibration.results import Step
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

DPI = 160
INK, TRUTH, BELIEF, LIMIT = "#1b2733", "#c2410c", "#1d4ed8", "#8a94a0"
STYLE = {"axes.edgecolor": LIMIT, "axes.labelcolor": INK, "axes.titlesize": 10, "axes.labelsize": 9}


def ronchigrams(before: Frame, after: Frame | None, optics: Optics) -> bytes:
    """Camera images, then power spectra on one colour scale; before and, if there is one, after the correction."""
    frames = [before] if after is None else [before, after]
    powers = [log_power(frame) for frame in frames]
    # The disc's own peak at the lowest frequencies would hide the rings that carry the aberrations.
    limits = (0.0, max(0.3, float(np.percentile(powers, 99.6))))
    figure = _figure(9.2, 2.65)
    axes = figure.subplots(1, 4)
    for panel in axes:
        panel.set_visible(False)
    for i, (frame, power) in enumerate(zip(frames, powers, strict=True)):
        word = ("before", "after")[i]
        pixel, unit = (1.0, "scan pixels") if is_scan_image(frame) else (optics.camera_pixel_mrad, "mrad")
        kind = "Scan image" if is_scan_image(frame) else "Ronchigram"
        share = saturated(frame)
        _image(axes[i], frame, pixel, unit, f"{kind} {word}" + (f", {100 * share:.2g} % saturated" if share else ""))
        _spectrum(axes[2 + i], power, pixel, unit, f"Spectrum {word}", limits)
    return png(figure)


def posterior(estimate: Estimate, truth_nm: Array, space: StateSpace) -> bytes:
    """Where the initial state is believed to be: the whole start box above, around the estimate below."""
    pairs = _pairs(space)
    figure = _figure(3.05 * len(pairs), 5.9)
    axes = figure.subplots(2, len(pairs), squeeze=False)
    for column, (i, j) in enumerate(pairs):
        for row, zoomed in enumerate((False, True)):
            _belief(axes[row, column], estimate, truth_nm, space, (i, j), zoomed)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return png(figure)


def error_curve(steps: tuple[Step, ...], space: StateSpace) -> bytes:
    """Error norm against its own forecast, and every component with its band of two standard deviations."""
    figure = _figure(9.2, 3.0 + 2.1 * ((space.dimension - 1) // 4))
    rows = 1 + (space.dimension - 1) // 4
    width = min(space.dimension, 4)
    grid = figure.add_gridspec(rows, 2 + width, wspace=0.1)
    _norm(figure.add_subplot(grid[:, :2]), steps, space)
    for i, name in enumerate(space.names):
        axes = figure.add_subplot(grid[i // 4, 2 + i % 4])
        _component(axes, steps, i, name, space.tolerance_nm[i])
    return png(figure)


def _figure(width_in: float, height_in: float) -> Figure:
    return Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")


def png(figure: Figure) -> bytes:
    """The finished figure in the house style."""
    for axes in figure.axes:
        axes.tick_params(labelsize=8, colors=INK)
        axes.title.set_fontsize(9.5)
        for side in axes.spines.values():
            side.set_color(LIMIT)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def is_scan_image(frame: Frame) -> bool:
    """Whether a frame is an image of a scan, see `scans.imaging`, and no Ronchigram."""
    return "image_norm" in frame.settings


def _image(axes: Axes, frame: Frame, pixel: float, unit: str, title: str) -> None:
    """Rows run downwards, as the camera reads them: y grows from top to bottom."""
    height, width = (0.5 * pixel * n for n in frame.counts.shape)
    low, high = np.percentile(frame.counts, (1.0, 99.7))
    axes.imshow(frame.counts, cmap="gray", vmin=low, vmax=high, extent=(-width, width, height, -height))
    axes.set(title=title, xlabel=f"{'angle ' if unit == 'mrad' else ''}x ({unit})", visible=True)
    axes.locator_params(nbins=5)


def log_power(frame: Frame) -> Array:
    """log10 of the power spectrum over its shot noise, (H, W): 0 is noise alone. Smoothed by a pixel for the eye.

    Zero everywhere for a frame without signal, as of a beam that is off.
    """
    counts = remove_defects(frame.counts - frame.settings.get("dark_level", 0.0))
    if not counts.any():
        return np.zeros(counts.shape)
    power = ndimage.gaussian_filter(spectrum(counts), 1.0)
    return np.log10(np.maximum(power, 1e-12) / max(noise_floor(spectrum(counts)).level, 1e-12))


def _spectrum(axes: Axes, power: Array, pixel: float, unit: str, title: str, limits: tuple[float, float]) -> None:
    """The inner half of the frequencies, where the film's contrast is."""
    nyquist = 0.5 / pixel
    extent = (-nyquist, nyquist, nyquist, -nyquist)
    axes.imshow(power, cmap="magma", vmin=limits[0], vmax=limits[1], extent=extent)
    axes.set(title=title, xlabel=f"frequency x (1/{unit})", visible=True)
    axes.set(xlim=(-nyquist / 2, nyquist / 2), ylim=(nyquist / 2, -nyquist / 2))
    axes.locator_params(nbins=4)


def _pairs(space: StateSpace) -> list[tuple[int, int]]:
    """All pairs of up to three coefficients; beyond that, neighbours, which holds every (a, b) pair."""
    if space.dimension == 1:
        return [(0, 0)]
    if space.dimension <= 3:
        return list(combinations(range(space.dimension), 2))
    return [(0, 1), *((i, i + 1) for i in range(1, space.dimension - 1, 2))]


def _belief(
    axes: Axes, estimate: Estimate, truth_nm: Array, space: StateSpace, pair: tuple[int, int], zoomed: bool
) -> None:
    """One panel: posterior samples, credible ellipse, estimate and truth; `zoomed` around the last two."""
    chosen = list(pair)
    if estimate.samples_nm is not None and len(estimate.samples_nm):
        x, y = estimate.samples_nm[:, chosen].T
        relative = np.ones(x.size) if estimate.weights is None else estimate.weights * x.size
        size = np.clip(14.0 * np.sqrt(relative), 1.0, 120.0)
        axes.scatter(x, y, s=size, color=BELIEF, alpha=0.3, lw=0)
        axes.plot([], [], "o", color=BELIEF, alpha=0.5, ms=5, label="posterior")
    axes.add_patch(_ellipse(estimate.mean_nm[chosen], estimate.cov_nm2[np.ix_(chosen, chosen)]))
    axes.plot(*estimate.mean_nm[chosen], "x", color=INK, ms=8, mew=1.8, label="estimate and its 90 % region")
    if np.all(np.isfinite(truth_nm)):
        axes.plot(*truth_nm[chosen], "+", color=TRUTH, ms=13, mew=2.0, label="truth")
    if zoomed:
        half = np.fmax(3.5 * estimate.std_nm, 1.3 * np.abs(truth_nm - estimate.mean_nm))[chosen]
        centre = estimate.mean_nm[chosen]
    else:
        half, centre = 1.05 * space.start[chosen], np.zeros(2)
    limits = np.stack([centre - half, centre + half])
    axes.set(xlim=tuple(limits[:, 0]), ylim=tuple(limits[:, 1]))
    axes.set(xlabel=f"{space.names[pair[0]]} (nm)", ylabel=f"{space.names[pair[1]]} (nm)")
    axes.set_title("around the estimate" if zoomed else "whole start box")


def _ellipse(mean_nm: Array, cov_nm2: Array) -> Ellipse:
    """Boundary of the marginal 90 % region of two coefficients."""
    values, vectors = np.linalg.eigh(cov_nm2)
    radii = np.sqrt(np.maximum(values, 0.0) * chi2.ppf(0.9, 2))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    return Ellipse((mean_nm[0], mean_nm[1]), 2 * radii[1], 2 * radii[0], angle=angle, fill=False, color=INK, lw=1.2)


def _norm(axes: Axes, steps: tuple[Step, ...], space: StateSpace) -> None:
    k = [step.observation for step in steps]
    forecast = [float(np.linalg.norm(step.std_nm)) for step in steps]
    error = [step.error_nm for step in steps]
    axes.semilogy(k, error, "o-", color=TRUTH, ms=4, lw=1.6, label="error")
    axes.semilogy(k, forecast, "--", color=BELIEF, lw=1.4, label="posterior std (rms)")
    axes.axhline(min(space.tolerance_nm), color=LIMIT, lw=1.2, ls=":", label="tolerance")
    drawn = np.maximum([*error, *forecast, *space.tolerance_nm], 1e-3)
    decades = np.floor(np.log10(drawn.min())), np.ceil(np.log10(1.2 * drawn.max()))
    axes.set(
        title="Error norm and posterior standard deviation",
        xlabel="observations",
        ylabel="nm",
        ylim=tuple(10.0**d for d in decades),
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(alpha=0.25, which="both", lw=0.5)
    axes.legend(fontsize=8, frameon=False)


def _component(axes: Axes, steps: tuple[Step, ...], i: int, name: str, tolerance_nm: float) -> None:
    k = [step.observation for step in steps]
    error = np.array([step.error_component_nm[i] for step in steps])
    band = 2 * np.array([step.std_nm[i] for step in steps])
    axes.fill_between(k, -band, band, color=BELIEF, alpha=0.18, lw=0, label="posterior, 2 std")
    axes.plot(k, error, "o-", color=TRUTH, ms=3, lw=1.3)
    for limit in (-tolerance_nm, tolerance_nm):
        axes.axhline(limit, color=LIMIT, lw=1.2, ls=":")
    axes.axhline(0.0, color=LIMIT, lw=0.6)
    axes.set(title=f"{name} error (nm)", xlabel="observations", ylim=(-2.2 * tolerance_nm, 2.2 * tolerance_nm))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
