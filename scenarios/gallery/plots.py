"""Figures of the gallery: scenes to PNG bytes, one function per section.

Imports matplotlib: import this module where a figure is wanted.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scenarios.calibration.plots import BELIEF, INK, TRUTH, png
from scenarios.gallery.scenes import (
    PROBE_SAMPLING_NM,
    SRTIO3_NM,
    FastScan,
    Histogram,
    Jitter,
    ProbeView,
    windowed_power,
)
from scenarios.scans.plots import scan_image
from twin.arrays import Array
from twin.optics import Optics

ANGLES = "angle (mrad)"


def ronchigrams(
    frames: NDArray[np.float32], defocus_nm: Sequence[float], astigmatism_nm: Sequence[float], optics: Optics
) -> bytes:
    """Rows of astigmatism, columns of defocus; one grey scale."""
    rows, columns = frames.shape[:2]
    figure = _figure(2.2 * columns + 0.6, 2.2 * rows + 0.5)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    half = optics.camera_pixels * optics.camera_pixel_mrad / 2
    lit = frames[frames > 0.3 * frames.max() / 4]
    low, high = 0.0, float(np.percentile(lit, 99.7))
    for i, a in enumerate(astigmatism_nm):
        for j, c in enumerate(defocus_nm):
            axes[i, j].imshow(frames[i, j], cmap="gray", vmin=low, vmax=high, extent=(-half, half, half, -half))
            axes[i, j].set_title(f"C10 {_signed(c)} nm, C12a {_signed(a)} nm")
    _outer_labels(axes, ANGLES, ANGLES)
    return png(figure)


def probes(views: Sequence[ProbeView]) -> bytes:
    """Intensity on one scale of square roots, so that tails show."""
    columns = 4
    rows = -(-len(views) // columns)
    figure = _figure(2.45 * columns + 0.7, 2.55 * rows + 0.2)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shown = None
    for panel, view in zip(axes.flat, views, strict=True):
        half = 1e3 * PROBE_SAMPLING_NM * view.intensity.shape[0] / 2
        shown = panel.imshow(
            np.sqrt(view.intensity), cmap="magma", vmin=0.0, vmax=1.0, extent=(-half, half, half, -half)
        )
        panel.set_title(view.label)
        text = f"Strehl {view.strehl:.2f}\nd50 {1e3 * view.d50_nm:.0f} pm"
        panel.text(0.04, 0.96, text, transform=panel.transAxes, va="top", color="white", fontsize=8)
    _outer_labels(axes, "x (pm)", "y (pm)")
    assert shown is not None
    figure.colorbar(shown, ax=axes, label="square root of intensity, perfect peak = 1", shrink=0.7, pad=0.01)
    return png(figure)


def cbeds(
    patterns: Mapping[float, Mapping[float, Array]], optics: Mapping[float, Optics], shown_mrad: Mapping[float, float]
) -> bytes:
    """Rows of convergence angle, columns of thickness; logarithmic, each row on one scale.

    Args:
        patterns: (M, M) by convergence angle and thickness.
        optics, shown_mrad: beam and largest angle shown, by convergence angle.
    """
    columns = max(len(row) for row in patterns.values())
    figure = _figure(3.1 * columns + 0.8, 3.15 * len(patterns))
    axes = figure.subplots(len(patterns), columns, squeeze=False)
    for line, (alpha, row) in zip(axes, patterns.items(), strict=True):
        top = max(float(pattern.max()) for pattern in row.values())
        image = None
        for panel, (thickness, pattern) in zip(line, row.items(), strict=True):
            pixel = optics[alpha].pixel_mrad
            half = pattern.shape[0] * pixel / 2
            image = panel.imshow(
                np.maximum(pattern, 1e-12),
                norm=LogNorm(top * 1e-5, top),
                cmap="inferno",
                extent=(-half, half, half, -half),
            )
            limit = min(shown_mrad[alpha], half)
            panel.set(xlim=(-limit, limit), ylim=(limit, -limit), xlabel=ANGLES, ylabel=ANGLES)
            panel.set_title(f"{alpha:g} mrad, {10 * thickness:.3g} Å")
        assert image is not None
        figure.colorbar(image, ax=line, label="share of the beam per pixel", shrink=0.8, pad=0.01)
    return png(figure)


def detector_images(cells: Mapping[str, Array], atoms: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    """Every detector's image over some cells, and profiles through the columns.

    Args:
        cells: images in shares of the beam over 2 x 2 cells, by name, (M, M).
        atoms: columns (x, y) in cells, by element.
    """
    figure = _figure(3.15 * len(cells) + 0.2, 5.7)
    axes = figure.subplots(2, len(cells), height_ratios=(1.3, 1.0))
    side = next(iter(cells.values())).shape[0]
    step = 2 * SRTIO3_NM / side
    for panel, (name, image) in zip(axes[0], cells.items(), strict=True):
        scan_image(panel, image, step, name, "share of the beam")
        panel.set(xlabel="x (nm)", ylabel="y (nm)")
        for (label, places), colour in zip(atoms.items(), (BELIEF, TRUTH, "#15803d"), strict=False):
            x, y = SRTIO3_NM * np.array(places).T + step / 2
            panel.plot(x, y, "o", ms=13, mfc="none", mec=colour, mew=1.3, label=label)
    axes[0, 0].legend(fontsize=8, loc="lower right", framealpha=0.9, markerscale=0.6)
    lines = {"Sr – O – Sr": 0, "O – Ti – O": side // 4}
    for panel, (name, image) in zip(axes[1], cells.items(), strict=True):
        for (label, row), colour in zip(lines.items(), (BELIEF, TRUTH), strict=True):
            panel.plot(step * (np.arange(side) + 0.5), image[row], color=colour, lw=1.4, label=label)
        panel.set(xlabel="x (nm)", ylabel="share of the beam", title=f"{name.split()[0]}, along x")
        panel.set_ylim(bottom=0.0, top=1.25 * float(image.max()))
        panel.grid(alpha=0.3, lw=0.5)
    axes[1, -1].legend(fontsize=7.5, frameon=False, loc="upper center", ncols=2, handlelength=1.2)
    return png(figure)


def histogram(scene: Histogram) -> bytes:
    """Draw the noise image and the histogram of counts, with the expectation of eqs 2.12-2.13."""
    figure = _figure(9.2, 3.5)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.7))
    shown = left.imshow(scene.image[:128, :128], cmap="gray", vmax=float(np.percentile(scene.image, 99.8)))
    left.set(title="one quarter of the image", xlabel="x (pixels)", ylabel="y (pixels)")
    figure.colorbar(shown, ax=left, label="counts", shrink=0.85)
    top = int(np.percentile(scene.image, 99.95))
    low = int(scene.image.min()) - 10
    width = 4
    right.hist(
        scene.image.ravel(), bins=np.arange(low, top, width) - 0.5, color="#b9c4cf", label="cascade, stage by stage"
    )
    at = np.arange(low, top, dtype=np.float64)
    right.plot(
        at, width * scene.image.size * scene.density(at), color=BELIEF, lw=1.3, label="two-step model, eqs 2.12-2.13"
    )
    right.set_yscale("log")
    right.set(ylim=(3.0, None), title="Single electrons are resolved", xlabel="counts", ylabel="pixels")
    for k in range(1, 6):
        place = scene.chain.offset + k * scene.chain.counts_per_electron
        right.axvline(place, color=INK, lw=0.5, ls=":")
        right.annotate(f"{k} e", (place, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -10),
                       textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    right.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1.0, 0.93))
    return png(figure)


def jitter(scene: Jitter) -> bytes:
    """Images above their power spectra, and the spectrum of the lines' own shift."""
    figure = _figure(13.0, 5.4)
    panels, side = figure.subfigures(1, 2, squeeze=False, width_ratios=(4.2, 1.25))[0]
    axes = panels.subplots(2, len(scene.images))
    for column, (label, image) in zip(axes.T, scene.images.items(), strict=True):
        column[0].imshow(image, cmap="gray", extent=_extent(image, scene.step_nm), interpolation="nearest")
        column[0].set(title=label, xlabel="x (nm)")
        _power(column[1], windowed_power(image, padded=4), scene.step_nm, "1/nm", 7.0)
    axes[0, 0].set_ylabel("y (nm)")
    axes[1, 0].set_ylabel("frequency y (1/nm)")
    curve = side.subplots()
    curve.loglog(scene.frequency, 1e6 * scene.measured, color="#8a94a0", lw=1.0, label="scan engine, 32768 lines")
    curve.loglog(scene.frequency, 1e6 * scene.expected, color=BELIEF, lw=1.5, label="AR(1), closed form")
    curve.set(title="Shift of the lines", xlabel="cycles per line", ylabel="power density (pm² per cycle/line)")
    curve.legend(fontsize=8, frameon=False)
    curve.grid(alpha=0.3, lw=0.5, which="both")
    return png(figure)


def fast_scan(scene: FastScan) -> bytes:
    """Images of single electrons, their spectra, and the damping along the fast axis."""
    figure = _figure(10.4, 5.4)
    panels, side = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.35, 1.0))[0]
    axes = panels.subplots(2, 2)
    for column, (label, image) in zip(axes.T, scene.images.items(), strict=True):
        column[0].imshow(image[:64, :64], cmap="gray", vmax=float(np.percentile(image, 99.9)), interpolation="nearest")
        column[0].set(title=label, xlabel="fast axis (pixels)", ylabel="slow axis (pixels)")
        _power(column[1], scene.power[label], 1.0, "cycles per pixel", 0.5)
        column[1].set_ylabel("frequency y (cycles per pixel)")
    curve = side.subplots()
    curve.plot(scene.frequency, scene.measured, color="#8a94a0", lw=1.2, label="slow over fast detector")
    curve.plot(scene.frequency, scene.expected, color=BELIEF, lw=1.5, label="half-Lorentzian and read-out, closed form")
    curve.set(title="Damping along the fast axis", xlabel="cycles per pixel", ylabel="power ratio", ylim=(0, 1.1))
    curve.legend(fontsize=8, frameon=False)
    curve.grid(alpha=0.3, lw=0.5)
    return png(figure)


def _signed(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _figure(width_in: float, height_in: float) -> Figure:
    return Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")


def _extent(image: Array, step: float) -> tuple[float, float, float, float]:
    rows, columns = image.shape
    return 0.0, columns * step, rows * step, 0.0


def _power(axes: Axes, power: Array, step: float, unit: str, limit: float) -> None:
    """A power spectrum on a logarithmic scale over four decades at most."""
    half = 0.5 / step
    logarithm = np.log10(power + 1e-30)
    high = float(np.percentile(logarithm, 99.95))
    low = max(high - 4.0, float(np.percentile(logarithm, 2.0)))
    axes.imshow(
        logarithm, cmap="magma", vmin=low, vmax=high, extent=(-half, half, half, -half), interpolation="nearest"
    )
    axes.set(xlim=(-limit, limit), ylim=(limit, -limit), xlabel=f"frequency x ({unit})")


def _outer_labels(axes: NDArray[np.object_], x: str, y: str) -> None:
    for panel in axes[-1]:
        panel.set_xlabel(x)
    for panel in axes[:, 0]:
        panel.set_ylabel(y)
