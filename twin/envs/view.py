"""The picture that `CalibrationEnv` renders: Ronchigram, power spectrum, estimate and error curve.

For humans: it may show the truth. Draws on a given matplotlib figure; imports matplotlib only to make one.
"""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame, Truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SIZE_INCH = (10.5, 9.0)
DPI = 80
STUCK_SIGMA = 8.0
ERROR_TITLE = "Worst coefficient against its tolerance"
LEAST_RATIO = 0.01
"""Lower limit of the error curve; smaller values are drawn at the edge."""
# Okabe and Ito's colours: distinct in print and to colour-blind readers.
BELIEF, TRUTH, REST = "#0072B2", "#D55E00", "#7F7F7F"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Belief:
    """An estimate of the start x0, nm: mean and standard deviation, each of shape (n,)."""

    mean_nm: Array
    std_nm: Array


@dataclass(frozen=True)
class Moment:
    """One observation: the frame and, if known, the truth and the estimate after it."""

    frame: Frame
    cumulative_nm: Array
    truth: Truth | None = None
    belief: Belief | None = None

    def start_nm(self) -> Array | None:
        """Current state minus the cumulative input, (n,); with drift it is not x[0]."""
        return None if self.truth is None else self.truth.state_nm - self.cumulative_nm


@dataclass
class Story:
    """An episode so far, in order of observation."""

    optics: Optics
    space: StateSpace
    moments: list[Moment] = field(default_factory=list)


def log_power_spectrum(counts: NDArray[np.integer]) -> Array:
    """log10 of the power spectrum of a Hann-windowed frame, (H, W), zero frequency at the centre.

    For display: stuck pixels are replaced by the median of their neighbours, and speckle is smoothed by one pixel.
    """
    height, width = counts.shape
    image = counts.astype(np.float64)
    median = ndimage.median_filter(image, size=3, mode="nearest")
    image = np.where(np.abs(image - median) > STUCK_SIGMA * np.sqrt(median + 4.0), median, image)
    window = np.outer(np.hanning(height + 1)[:height], np.hanning(width + 1)[:width])
    level = float(np.sum(window * image) / np.sum(window))
    power = np.abs(np.fft.fftshift(np.fft.fft2(window * (image - level)))) ** 2
    return np.log10(ndimage.gaussian_filter(power, 1.0) + 1e-12)


def draw(figure: "Figure", story: Story) -> None:
    """Redraw the whole picture: Ronchigram, power spectrum, estimate, error curve."""
    figure.clear()
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.25, 1.0))[:, 0]
    now = story.moments[-1]
    ronchigram, spectrum = upper.subplots(1, 2)
    _ronchigram(ronchigram, now.frame, story.optics)
    _spectrum(spectrum, now.frame, story.optics)
    estimate, errors = lower.subplots(1, 2)
    _estimate(estimate, now, story.space)
    _errors(errors, story)
    dose = sum(moment.frame.dose_e for moment in story.moments) / 1e6
    figure.suptitle(
        f"Observation {len(story.moments)}   |   {dose:.3g} million electrons   |   {now.frame.clock_s:.1f} s",
        fontsize=12,
    )


def _ronchigram(ax: "Axes", frame: Frame, optics: Optics) -> None:
    half = optics.camera_pixels * optics.camera_pixel_mrad / 2
    # The grey scale spans the disc, without stuck pixels and the dark around it.
    lit = frame.counts[frame.counts > 0.5 * np.median(frame.counts)]
    low, high = np.percentile(lit, (0.5, 99.8)) if lit.size else (0.0, 1.0)
    image = ax.imshow(frame.counts, cmap="gray", vmin=low, vmax=max(high, low + 1), extent=(-half, half, half, -half))
    ax.figure.colorbar(image, ax=ax, label="counts", pad=0.02, shrink=0.85)
    ax.set(title="Ronchigram", xlabel="angle x (mrad)", ylabel="angle y (mrad)")


def _spectrum(ax: "Axes", frame: Frame, optics: Optics) -> None:
    spectrum = log_power_spectrum(frame.counts)
    half = 0.5 / optics.camera_pixel_mrad
    low, high = np.percentile(spectrum, (20.0, 99.7))
    image = ax.imshow(spectrum, cmap="magma", vmin=low, vmax=max(high, low + 0.1), extent=(-half, half, half, -half))
    ax.figure.colorbar(image, ax=ax, label="log10 power", pad=0.02, shrink=0.85)
    ax.set(title="Its power spectrum", xlabel="frequency x (1/mrad)", ylabel="frequency y (1/mrad)")


def _estimate(ax: "Axes", now: Moment, space: StateSpace) -> None:
    rows = np.arange(space.dimension)
    truth = now.start_nm()
    ax.axvline(0.0, color=REST, linewidth=0.8)
    if now.belief is not None:
        mean, std = now.belief.mean_nm / space.start, now.belief.std_nm / space.start
        ax.errorbar(mean, rows, xerr=2 * std, fmt="none", ecolor=BELIEF, elinewidth=1.5, capsize=3, label="±2σ")
        ax.barh(rows, 2 * std, left=mean - std, height=0.34, color=BELIEF, alpha=0.35, label="±1σ")
        ax.plot(mean, rows, "o", color=BELIEF, markersize=5, label="estimate")
        for row, m, s in zip(rows, now.belief.mean_nm, now.belief.std_nm, strict=True):
            ax.text(1.3, float(row), f" {m:+.1f} ± {s:.1f} nm", va="center", fontsize=9, clip_on=False)
    if truth is not None:
        ax.plot(truth / space.start, rows, "D", color=TRUTH, markersize=8, fillstyle="none", label="truth")
    ax.set(xlim=(-1.25, 1.25), ylim=(space.dimension - 0.4, -0.6), xticks=(-1.0, -0.5, 0.0, 0.5, 1.0))
    ax.set_yticks(rows, [f"{name} (±{s:g} nm)" for name, s in zip(space.names, space.start_nm, strict=True)])
    ax.set(xlabel="fraction of the start range", title="Start x0" if now.belief else "Start x0 (no estimate yet)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def _worst(values_nm: Array, space: StateSpace) -> float:
    return float(np.max(np.abs(values_nm) / space.tolerance))


def _errors(ax: "Axes", story: Story) -> None:
    space = story.space
    error, sigma, rest = (np.full(len(story.moments), np.nan) for _ in range(3))
    for k, moment in enumerate(story.moments):
        start = moment.start_nm()
        if moment.belief is not None:
            sigma[k] = _worst(moment.belief.std_nm, space)
            if start is not None:
                error[k] = _worst(moment.belief.mean_nm - start, space)
        if moment.truth is not None:
            rest[k] = _worst(moment.truth.state_nm, space)
    number = np.arange(1, len(story.moments) + 1)
    curves = (
        (error, "o-", BELIEF, "error of the estimate"),
        (sigma, "--", BELIEF, "its own σ"),
        (rest, "s:", REST, "aberration in force"),
    )
    for values, style, colour, label in curves:
        if np.any(np.isfinite(values)):
            ax.plot(number, np.maximum(values, LEAST_RATIO), style, color=colour, markersize=4, label=label)
    ax.axhspan(LEAST_RATIO / 10, 1.0, color="#009E73", alpha=0.12, linewidth=0)
    known = np.concatenate([error, sigma, rest])
    top = float(np.nanmax(known)) if np.any(np.isfinite(known)) else 1.0
    ax.set(yscale="log", ylim=(LEAST_RATIO / 1.3, max(10.0, 1.5 * top)), xlim=(0.5, max(10, len(number)) + 0.5))
    ax.text(0.02, 0.03, "in spec: below 1", transform=ax.transAxes, fontsize=9, color="#00664B")
    ax.set(title=ERROR_TITLE, xlabel="observation", ylabel="|nm| / tolerance")
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(ncols=3, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def rgb(story: Story) -> NDArray[np.uint8]:
    """The picture as pixels, (height, width, 3); needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCH, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure, story)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


class Window:
    """The picture on the screen, redrawn in place. Without a display it logs one warning and draws nothing."""

    def __init__(self) -> None:
        import matplotlib
        from matplotlib import pyplot
        from matplotlib.backends.registry import BackendFilter, backend_registry

        self._figure: Figure | None = None
        backend = matplotlib.get_backend().lower()
        if backend in backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE):
            # Not an exception: the same script must run on a machine without a screen.
            _log.warning(
                "render_mode='human' shows nothing: matplotlib's backend here is %s, which has no window."
                " Use render_mode='rgb_array', or start with a display.",
                backend,
            )
            return
        self._figure = pyplot.figure("stemtwin", figsize=SIZE_INCH, dpi=DPI, layout="constrained")
        self._figure.show()

    def show(self, story: Story) -> None:
        """Redraw and process the window's events."""
        if self._figure is None:
            return
        draw(self._figure, story)
        self._figure.canvas.draw_idle()
        self._figure.canvas.flush_events()

    def close(self) -> None:
        """Close the window; may be called twice."""
        if self._figure is not None:
            from matplotlib import pyplot

            pyplot.close(self._figure)
            self._figure = None
