"""Parallax: aberrations and phase from one defocused scan, by the shifts between the images of the disc's parts.

Tilt-corrected bright field (Spoth, Nguyen, Muller and Kourkoutis, Microsc. Microanal. 23 (S1), 804, 2017; Varnavides et
al., arXiv 2309.05250), with the aberrations of highest likelihood instead of shifts measured one by one: at a low dose
the image of one part shows nothing.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from agents.base import Agent, Image, MetaError, Reconstruction, StreamMeta
from agents.block import Block
from agents.geometry import assumed_orientation
from agents.parallax.fit import FIRST_ORDER, Fitted, fit
from agents.parallax.likelihood import DiscImages, aligned, phase_spectrum
from agents.ssb.accumulate import squares
from agents.ssb.experiment import Experiment
from agents.ssb.image import image, spread, wiener
from twin.aberrations import Aberrations
from twin.errors import nearest
from twin.options import OptionError, Positive, checked_options, validated

NAME = "parallax"
SQUARES_PER_RADIUS = 16.0
"""Parts of the disc along its radius."""
FURTHER = ("C21a", "C21b", "C23a", "C23b")
"""Coefficients that are fitted on request, besides defocus and twofold astigmatism."""
LEAST_GAIN = 25.0
"""Log-likelihood over that of an empty image, nats, below which nothing was seen."""


@validated
class Options:
    """Settings of the parts of the disc and of the fit.

    Attributes:
        fit: fitted coefficients; they begin with C10, C12a, C12b. Empty: the aberrations are taken as told.
        aberrations: what is told of the aberrations, nm by name, along the axes of the microscope.
        reach_nm: largest difference of the defocus from the one told.
        binning: side in camera pixels of the parts of the disc; 0 chooses some sixteen along its radius.
        centre_px: (row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2).
    """

    fit: tuple[str, ...] = FIRST_ORDER
    aberrations: Mapping[str, float] = field(default_factory=dict)
    reach_nm: Positive = 500.0
    binning: Annotated[int, Ge(0)] = 0
    centre_px: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        Aberrations.of(self.aberrations)
        if self.fit and self.fit[:3] != FIRST_ORDER:
            raise OptionError(f"fit begins with {', '.join(FIRST_ORDER)}, or is empty; got {', '.join(self.fit)}")
        for name in self.fit[3:]:
            if name not in FURTHER:
                raise OptionError(f"{name!r} cannot be fitted{nearest(name, FURTHER)}")


class Parallax:
    """Keeps an image of every part of the disc; fits the aberrations once the scan is complete.

    Example:
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> beam = Metadata(energy_kev=300, convergence_mrad=20, pixel_mrad=2, step_nm=0.2, rotation_deg=0)
        >>> agent = load("parallax", {"aberrations": {"C10": 150.0}, "fit": ()})
        >>> agent.start(StreamMeta(Layout((6, 8), (24, 24)), beam, transposed=False))
        >>> agent.result().images["phase"].values.shape
        (6, 8)
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: the metadata lack something, the disc does not fit on the camera, or there are no frames.
        """
        if not meta.has_frames:
            raise MetaError(f"{NAME} needs frames; this stream has events only")
        self._experiment = experiment = Experiment.of(meta, self.options.centre_px, NAME)
        radius_px = experiment.convergence_mrad / experiment.pixel_mrad
        binning = self.options.binning or max(1, round(radius_px / SQUARES_PER_RADIUS))
        self._disc = experiment.bright_field(binning, Aberrations.of(self.options.aberrations))
        self._rotation_deg, self._transposed, self._notes = assumed_orientation(
            meta.metadata.rotation_deg, meta.transposed
        )
        self._counts: NDArray[np.float32] = np.zeros((*experiment.scan, len(self._disc)), np.float32)
        self._visited = np.zeros(experiment.scan, bool)
        self._found: tuple[DiscImages, Fitted] | None = None

    def update(self, block: Block) -> None:
        """Keep the counts of the positions; a repeated position replaces the earlier one."""
        row, column = block.pixel.T
        self._counts[row, column] = squares(block.frames, self._disc.label, len(self._disc))
        self._visited[row, column] = True
        self._found = None

    def finish(self) -> None:
        """Fit the aberrations of the whole scan."""
        if self._visited.all() and self._found is None:
            images, told = self._images(), Aberrations.of(self.options.aberrations)
            self._found = images, fit(images, self.options.fit, told, self.options.reach_nm)

    def result(self) -> Reconstruction:
        """Phase and aligned image; before `finish`, with the aberrations that were told."""
        known = self._visited
        if not known.any():
            return Reconstruction({"phase": Image(np.full(known.shape, np.nan), "rad")}, notes=self._notes)
        if self._found is None:
            images, told = self._images(), Aberrations.of(self.options.aberrations)
            return self._reconstruction(images, told, {}, ("the aberrations are fitted once the scan is complete",))
        images, found = self._found
        return self._reconstruction(images, found.all, _figures(found), _remarks(found))

    def _images(self) -> DiscImages:
        """The images so far; where a position is missing, the mean."""
        counts = np.where(self._visited[..., None], self._counts, self._counts[self._visited].mean(axis=0))
        disc = self._disc.swapped() if self._transposed else self._disc
        images = np.ascontiguousarray(counts.transpose(2, 0, 1), np.float32)
        return DiscImages.of(images, disc, self._experiment, self._rotation_deg)

    def _reconstruction(
        self, images: DiscImages, aberrations: Aberrations, figures: Mapping[str, float], notes: tuple[str, ...]
    ) -> Reconstruction:
        spectrum, scan, known = phase_spectrum(images, aberrations), self._experiment.scan, self._visited
        factor = wiener(spectrum)
        noise = spread(factor**2 * spectrum.variance, scan, int(known.sum()))
        phase = np.where(known, image(factor * spectrum.phase, scan), np.nan)
        bright = np.where(known, aligned(images, aberrations), np.nan)
        shown = {"phase": Image(phase, "rad", np.where(known, noise, np.nan)), "bright_field": Image(bright, "1")}
        return Reconstruction(shown, {"phase_spread_rad": noise, **figures}, notes=(*notes, *self._notes))


def _figures(found: Fitted) -> dict[str, float]:
    """Coefficients with their standard errors, as far as there are any."""
    figures = {"log_likelihood": found.log_likelihood}
    for name, value, sigma in zip(found.names, found.values_nm, found.sigma_nm, strict=True):
        figures[f"{name}_nm"] = float(value)
        if np.isfinite(sigma):
            figures[f"{name}_sigma_nm"] = float(sigma)
    return figures


def _remarks(found: Fitted) -> tuple[str, ...]:
    """What an operator should know of the fit."""
    if not found.names:
        return ()
    if found.log_likelihood < LEAST_GAIN:
        return ("nothing is seen in the parts of the disc: more dose, or more defocus",)
    if not np.isfinite(found.sigma_nm).all():
        return ("the likelihood has no maximum where the search ended: give aberrations, or a larger reach_nm",)
    return ()


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Parallax(checked_options(Options, options))
