"""Which frequencies a riCOM kernel keeps: the thesis's figure 3.2, measured. Returns PNG bytes.

Imports matplotlib: import this module where a figure is wanted.
"""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.com.ricom_kernel import kernel, line_transfer, transfer
from agents.com.ricom_scatter import correlate
from scenarios.calibration.plots import png
from twin.arrays import Floats


@dataclass(frozen=True)
class Design:
    """A kernel of the figure; its limits are in cycles over the map, as in the thesis."""

    label: str
    size: int
    colour: str
    k_min: float | None = None
    k_max: float | None = None


MAP_PX = 500
"""Side of the map of centres of mass."""
CUT = MAP_PX / 41
"""Inverse size of the smaller kernel, 12.2 cycles over the map."""
DESIGNS = (
    Design("101", 101, "#1d4ed8"),
    Design("41", 41, "#6b7280"),
    Design("101, high-pass", 101, "#d97706", k_min=CUT / 2),
    Design("101, low-pass", 101, "#15803d", k_max=CUT),
    Design("101, band-pass", 101, "#be185d", k_min=CUT / 2, k_max=CUT),
)
LARGEST_K = 50
"""Cycles over the map up to which curves are drawn."""


def transfer_figure(seed: int = 0) -> bytes:
    """Weights of gradient and of phase against frequency: measured, exact, and by line integration (eqs 3.6-3.7).

    Dots are measured: the gradient of a phase of white noise, which repeats, is correlated with each kernel, and the
    spectrum of the image is compared with that of the phase. Lines are the kernel's transform. Both along the fast
    axis: kernels are square, and the waves on their curves are smaller in other directions.

    Args:
        seed: of the noise.
    """
    figure = Figure(figsize=(11.0, 5.0), layout="constrained", facecolor="white")
    stacked, faithful = figure.subplots(1, 2)
    k = np.linspace(0.25, LARGEST_K, 400)
    for level, design in enumerate(DESIGNS):
        vector_kernel = _kernel(design)
        gain = transfer(vector_kernel, k / MAP_PX, np.zeros_like(k))
        dots, measured = measured_transfer(vector_kernel, np.random.default_rng(seed))
        _curve(stacked, design, k, gain * MAP_PX / (2 * math.pi * k), 25.0 * level)
        stacked.plot(dots, measured * MAP_PX / (2 * math.pi * dots) + 25.0 * level, ".", color=design.colour, ms=4)
        stacked.axhline(25.0 * level, color="#d1d5db", lw=0.6, zorder=0)
        if design.k_min is None and design.k_max is None:
            line = line_transfer(design.size, k / MAP_PX)
            stacked.plot(k, line * MAP_PX / (2 * math.pi * k) + 25.0 * level, "--", color=design.colour, lw=0.9)
            faithful.plot(k, line, "--", color=design.colour, lw=0.9)
        _curve(faithful, design, k, gain, 0.0)
        faithful.plot(dots, measured, ".", color=design.colour, ms=4)
    for axes in (stacked, faithful):
        for cut in (CUT / 2, CUT):
            axes.axvline(cut, color="#9ca3af", lw=0.7, zorder=0)
        axes.set(xlabel=f"frequency (cycles over {MAP_PX} positions)", xlim=(0, LARGEST_K))
    stacked.set(title="Weight of the gradient, curves set 25 apart", ylabel="weight (positions)")
    faithful.set(title="Weight of the phase: 1 is faithful", ylabel="transfer")
    faithful.plot([], [], ".", color="black", label="measured")
    faithful.plot([], [], "--", color="black", lw=0.9, label="line integration, eq 3.7")
    figure.legend(*faithful.get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    return png(figure)


def measured_transfer(vector_kernel: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """What a kernel makes of a phase of white noise: the share of each wave along the fast axis that reaches the image.

    Args:
        vector_kernel: (2, n, n), for a step of one position.
        rng: for the noise.

    Returns:
        Frequencies, 1 to `LARGEST_K` cycles over the map, and the share of each.
    """
    k_y, k_x = np.meshgrid(np.fft.fftfreq(MAP_PX), np.fft.fftfreq(MAP_PX), indexing="ij")
    spectrum = np.fft.fft2(rng.standard_normal((MAP_PX, MAP_PX)))
    gradient = np.stack([np.fft.ifft2(2j * math.pi * k * spectrum).real for k in (k_x, k_y)], axis=-1)
    margin = vector_kernel.shape[1] // 2
    wide = np.pad(gradient, ((margin, margin), (margin, margin), (0, 0)), mode="wrap")
    image = correlate(vector_kernel, wide)[margin : margin + MAP_PX, margin : margin + MAP_PX]
    k = np.arange(1, LARGEST_K + 1)
    return k.astype(np.float64), (np.fft.fft2(image)[0, k] / spectrum[0, k]).real


def _kernel(design: Design) -> Floats:
    """For a step of one position."""
    limits = (None if cut is None else cut / MAP_PX for cut in (design.k_min, design.k_max))
    return kernel(design.size, 1.0, *limits)


def _curve(axes: Axes, design: Design, k: Floats, values: Floats, offset: float) -> None:
    axes.plot(k, values + offset, color=design.colour, lw=1.4, label=f"kernel {design.label}")
