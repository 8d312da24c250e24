"""Figures of a scan: every detector's image and the mean diffraction pattern. Returns PNG bytes.

Imports matplotlib: import this module where a figure is wanted.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scenarios.calibration.plots import png
from twin.arrays import Array

if TYPE_CHECKING:
    from scenarios.scan_section import ScanSection


PANEL_INCH = 3.1
MOST_COLUMNS = 4
NOT_VISITED = "#30414f"
"""Colour of positions without data: no grey, which would look like a count."""

DECADES = 4.0
"""Range of the logarithmic grey scale of a diffraction pattern."""


def signals(by_name: Mapping[str, Array], mean_frame: Array | None, section: "ScanSection") -> bytes:
    """Draw one panel per detector, and the mean frame of the camera if there is one.

    Args:
        by_name: counts by detector, (rows, columns) or (1, N); NaN at positions without data.
        mean_frame: counts per frame, (H, W), or None.
        section: the plan and the camera's angles.
    """
    count = len(by_name) + (mean_frame is not None)
    rows = math.ceil(count / MOST_COLUMNS)
    columns = math.ceil(count / rows)
    figure = Figure(figsize=(PANEL_INCH * columns, 0.86 * PANEL_INCH * rows), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes[count:]:
        panel.set_visible(False)
    for panel, (name, image) in zip(axes, by_name.items(), strict=False):
        if section.plan.pattern == "list":
            _curve(panel, image[0], name)
        else:
            scan_image(panel, image, section.plan.step_nm, name)
    if mean_frame is not None:
        diffraction(axes[len(by_name)], mean_frame, section.optics.camera_pixel_mrad, "mean diffraction pattern")
    return png(figure)


def scan_image(axes: Axes, image: Array, step_nm: float, title: str, label: str = "counts") -> None:
    """Draw an image over the scan's own axes, row 0 at the top as it was read out."""
    rows, columns = image.shape
    extent = (0.0, columns * step_nm, rows * step_nm, 0.0)
    axes.set_facecolor(NOT_VISITED)
    shown = axes.imshow(image, cmap="gray", extent=extent, interpolation="nearest")
    axes.set(title=title, xlabel="fast axis (nm)", ylabel="slow axis (nm)")
    _bar(axes, shown, label)


def diffraction(axes: Axes, pattern: Array, pixel_mrad: float, title: str, label: str = "log10 counts") -> None:
    """Draw a diffraction pattern on a logarithmic scale of `DECADES` below its largest value."""
    half = pattern.shape[0] * pixel_mrad / 2
    top = max(float(np.max(pattern)), 1e-12)
    shown = axes.imshow(
        np.log10(np.maximum(pattern, top * 10.0**-DECADES)),
        cmap="inferno",
        extent=(-half, half, half, -half),
        interpolation="nearest",
    )
    axes.set(title=title, xlabel="angle x (mrad)", ylabel="angle y (mrad)")
    _bar(axes, shown, label)


def _curve(axes: Axes, values: Array, title: str) -> None:
    axes.plot(np.arange(len(values)), values, ".-", color="#1d4ed8", lw=0.8, ms=3)
    axes.set(title=title, xlabel="position", ylabel="counts")


def _bar(axes: Axes, shown: Any, label: str) -> None:
    bar = axes.figure.colorbar(shown, ax=axes, pad=0.03, fraction=0.046)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
