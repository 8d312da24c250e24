"""Atomic columns of a dark-field image: cross-sections, atoms and residuals, once the scan is complete.

The image is that of a ring detector; the measurement is `agents.quantify`, which `stemtwin quantify` applies to a file.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.methods.detectors import _ring_image
from agents.methods.detectors._ring_image import RingAgent
from agents.quantify.errors import QuantifyError
from agents.quantify.quantify import Quantified, QuantifyOptions, quantify
from twin.arrays import Floats
from twin.options import Positive, checked_options, validated

NAME = "columns"


@validated
class Options(_ring_image.Options):
    """Settings of the ring and of the measurement.

    Attributes:
        layout: usual radii of the ring, multiples of the convergence angle.
        spacing_nm: distance of neighbouring columns; None measures it.
        scan: "joint" fits the shifts of the lines with the columns, "perfect" does not.
        width: a width of each "column", or one "shared" by all.
        count: "mixture" counts atoms from the cross-sections alone, or "none".
    """

    spacing_nm: Positive | None = None
    scan: Literal["joint", "perfect"] = "joint"
    width: Literal["column", "shared"] = "column"
    count: Literal["mixture", "none"] = "none"


class ColumnAgent(RingAgent[tuple[Quantified | str, tuple[int, ...]]]):
    """Sums the ring's counts as they arrive, and measures the columns when asked after the last position.

    Example:
        >>> from agents import load
        >>> load("columns", {"width": "shared"}).options.width
        'shared'
    """

    def __init__(self, options: Options) -> None:
        super().__init__(NAME, options)
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream; see `RingAgent.start`."""
        super().start(meta)
        self._step_nm = meta.metadata.step_nm

    def result(self) -> Reconstruction:
        """The fitted image, residuals and cross-sections; the measurement is kept until more positions arrive."""
        (found, shape), notes = self.made()
        if isinstance(found, str):
            return Reconstruction({NAME: Image(np.full(shape, np.nan), "counts")}, notes=(*notes, found))
        return _reconstruction(found, notes)

    def make(self, image: Floats) -> tuple[Quantified | str, tuple[int, ...]]:
        """Columns, or what is missing, and the shape of the image."""
        unknown = int(np.count_nonzero(np.isnan(image)))
        if unknown:
            return f"columns are measured when the scan is complete: {unknown} positions are missing", image.shape
        options = self.options
        how = QuantifyOptions(
            spacing_nm=options.spacing_nm if self._step_nm is not None else None,
            scan=options.scan,
            width=options.width,
            count=options.count,
            tail=False,  # frames are read out whole
        )
        try:
            return quantify(image, self._step_nm, how), image.shape
        except QuantifyError as error:
            return str(error), image.shape


def _reconstruction(found: Quantified, notes: tuple[str, ...]) -> Reconstruction:
    """Images on the grid of the scan: values of a column stand at its nearest position."""
    fit, columns = found.fit, found.columns
    rows, across = fit.expected.shape
    place = (
        np.clip(np.rint(columns.y_px), 0, rows - 1).astype(np.int64),
        np.clip(np.rint(columns.x_px), 0, across - 1).astype(np.int64),
    )

    def at_columns(values: Floats) -> Floats:
        image = np.full((rows, across), np.nan)
        image[place] = values
        return image

    area = "px2" if found.step_nm is None else "nm2"
    images = {
        NAME: Image(fit.expected.copy(), "counts"),
        "residual": Image(fit.residual, "1"),
        "cross_section": Image(
            at_columns(found.cross_section), f"counts {area}", at_columns(found.cross_section_sigma)
        ),
    }
    if found.counts is not None:
        atoms = at_columns(np.where(found.counts.known, found.counts.atoms, np.nan))
        images["atoms"] = Image(atoms, "1", at_columns(found.counts.sigma))
    scale, unit = (1.0, "px") if found.step_nm is None else (found.step_nm, "nm")
    figures = {
        "columns": float(len(columns)),
        f"spacing_{unit}": found.spacing_px * scale,
        f"position_sigma_{unit}": float(np.median(np.sqrt(found.covariance[:, 0, 0]))) * scale,
        "dispersion": fit.dispersion,
    }
    if fit.axes is not None:
        figures |= {f"jitter_{n}_{unit}": s.sigma_px * scale for n, s in zip("xy", fit.axes, strict=True)}
    return Reconstruction(images=images, figures=figures, notes=(*notes, *found.notes))


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return ColumnAgent(checked_options(Options, options))
