"""An image in, numbers out: finds the columns, fits them, puts the scan straight and counts the atoms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from agents.quantify import peaks
from agents.quantify import smear as tails
from agents.quantify.bounds import cross_section_sigma
from agents.quantify.columns import Columns
from agents.quantify.counting import MOST_ATOMS, Counts, by_library, by_mixture
from agents.quantify.errors import QuantifyError
from agents.quantify.fit import Fit, fit
from agents.quantify.smear import Smear, likelier
from agents.quantify.step import HALOS, FitOptions, Weighting, Width, effective
from twin.arrays import Floats
from twin.options import Positive, validated

FILTERED = 0.4
"""Height of a Gaussian under the filter that finds it, over its own."""
WORTH_FITTING = 0.99
"""Weight h(0) of a detector's response above which it is taken for none."""
PLAIN_STEPS = 8
START_HALO = 0.1
STEPS_NM = (1e-6, 1e3)
SPACINGS_NM = (0.03, 3.0)
"""Between which the distances of neighbouring columns lie in any crystal."""
LARGEST_DRIFT = 0.02
"""Shift of the lines per line, as of a specimen stretched or sheared by 2 %, above which it is told."""


@validated
class QuantifyOptions:
    """How to measure columns.

    Attributes:
        spacing_nm: distance of neighbouring columns; None measures it.
        scan: "joint" fits the shifts of the lines and the detector's tail with the columns, "perfect" neither.
        tail: whether the detector may have one; a camera of frames has none.
        shape: "halo", Gaussians with a broader part, the same of all, or "gaussian", those of eq 2.19.
        weighting: "poisson", weights by shot noise, or "uniform", plain least squares.
        width: a width of each "column", or one "shared" by all.
        count: "mixture", counts from the cross-sections alone, "library" (give one), or "none".
        first: atoms in the thinnest columns, for the mixture.
        most_atoms: components that a mixture is tried with.
    """

    spacing_nm: Positive | None = None
    scan: Literal["joint", "perfect"] = "joint"
    tail: bool = True
    shape: Literal["halo", "gaussian"] = "halo"
    weighting: Weighting = "poisson"
    width: Width = "column"
    count: Literal["mixture", "library", "none"] = "mixture"
    first: Annotated[int, Ge(1), Le(1000)] = 1
    most_atoms: Annotated[int, Ge(1), Le(100)] = MOST_ATOMS


@dataclass(frozen=True, eq=False)
class Quantified:
    """Columns of an image.

    Attributes:
        fit: the fit; columns of the image come first, then those beyond its edges.
        columns: columns of the image, sorted by row, then along it.
        covariance: of x, y, height and logarithm of width of each, px and image units, (N, 4, 4).
        at_edge: whether a column is cut by the edge of the image, (N,).
        counts: atoms, or None.
        step_nm: distance of pixels, or None.
        spacing_px: distance of neighbouring columns.
        notes: what could not be had, and why.
    """

    fit: Fit
    columns: Columns
    covariance: Floats
    at_edge: np.ndarray
    counts: Counts | None
    step_nm: float | None
    spacing_px: float
    notes: tuple[str, ...]

    @property
    def cross_section(self) -> Floats:
        """Scattering cross-section, image units times nm^2, or times pixels where the step is unknown, (N,)."""
        return self.columns.cross_section * (1.0 if self.step_nm is None else self.step_nm**2)

    @property
    def cross_section_sigma(self) -> Floats:
        """Standard error of `cross_section`, (N,)."""
        sigma = cross_section_sigma(self.columns, self.covariance)
        return sigma * (1.0 if self.step_nm is None else self.step_nm**2)

    def table(self) -> dict[str, Floats]:
        """Every number of every column with its standard error, (N,) each, by the heading that names its unit."""
        columns, sigma = self.columns, np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))
        unit, scale = ("px", 1.0) if self.step_nm is None else ("nm", self.step_nm)
        area = "px2" if self.step_nm is None else "nm2"
        rows = {
            f"x_{unit}": columns.x_px * scale,
            f"x_sigma_{unit}": sigma[:, 0] * scale,
            f"y_{unit}": columns.y_px * scale,
            f"y_sigma_{unit}": sigma[:, 1] * scale,
            "height": columns.height,
            "height_sigma": sigma[:, 2],
            f"width_{unit}": columns.width_px * scale,
            f"width_sigma_{unit}": columns.width_px * sigma[:, 3] * scale,
            f"cross_section_{area}": self.cross_section,
            f"cross_section_sigma_{area}": self.cross_section_sigma,
            "at_edge": self.at_edge.astype(np.float64),
        }
        if self.counts is not None:
            known = self.counts.known
            rows["atoms"] = np.where(known, self.counts.atoms, np.nan)
            rows["atoms_sigma"] = np.where(known, self.counts.sigma, np.nan)
            rows["atoms_probability"] = self.counts.probability
        return rows


def quantify(
    image: Floats,
    step_nm: float | None = None,
    options: QuantifyOptions | None = None,
    library: Sequence[float] | None = None,
) -> Quantified:
    """Measure the atomic columns of an image.

    Args:
        image: (rows, columns), lines of the scan along rows, in electrons or any unit proportional to them, zero
            without a beam.
        step_nm: distance of pixels; None leaves lengths in pixels.
        options: how; None is the default.
        library: cross-sections of columns of 1, 2, ... atoms, in image units times nm^2, for `count="library"`.

    Returns:
        Columns with standard errors; numbers that cannot be had are missing, and a note says why.

    Raises:
        QuantifyError: no image, no lattice, too few columns, a library that is missing or of no use.

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:64, :64]
        >>> near = np.minimum(x % 12, 12 - x % 12) ** 2 + np.minimum(y % 12, 12 - y % 12) ** 2
        >>> image = np.random.default_rng(0).poisson(20 + 400 * np.exp(-near / 18.0))
        >>> found = quantify(image, step_nm=0.02, options=QuantifyOptions(count="none"))
        >>> len(found.columns), round(float(np.median(found.columns.width_px)), 1)
        (36, 2.8)
    """
    chosen = QuantifyOptions() if options is None else options
    values = peaks.checked_image(image)
    if chosen.count == "library" and (library is None or step_nm is None):
        missing = "a library of cross-sections" if library is None else "step_nm, to compare areas"
        raise QuantifyError(f"counting by a library needs {missing}")
    spacing_px = _told_spacing_px(step_nm, chosen.spacing_nm, min(values.shape))
    start, inside, smear, spacing = _start(values, spacing_px, chosen)
    found = _fitted(values, start, inside, smear, chosen)
    return _result(found, step_nm, spacing, chosen, library)


def _told_spacing_px(step_nm: float | None, spacing_nm: float | None, side_px: int) -> float | None:
    """Distance of columns as told, None if it is not; refuses what an image of that side cannot have."""
    shortest, longest = STEPS_NM
    if step_nm is not None and not shortest <= step_nm <= longest:
        raise QuantifyError(f"step_nm is the distance of pixels, from {shortest:g} to {longest:g} nm, got {step_nm!r}")
    if spacing_nm is None:
        return None
    if step_nm is None:
        raise QuantifyError(f"spacing_nm {spacing_nm:g} needs step_nm, to be known in pixels")
    spacing_px, least = spacing_nm / step_nm, peaks.SMALLEST_SPACING_PX
    if not least <= spacing_px <= side_px:
        raise QuantifyError(
            f"spacing_nm {spacing_nm:g} is {spacing_px:.3g} px; columns of this image are {least:g} to {side_px} px"
            " apart"
        )
    return spacing_px


def _start(
    image: Floats, spacing_px: float | None, options: QuantifyOptions
) -> tuple[Columns, int, Smear | None, float]:
    """Columns and the detector's response to begin with, the number of columns in the image, and their distance."""
    rough = peaks.find(image, spacing_px)
    smear = None
    if options.scan == "joint" and options.tail:
        smear, seen = tails.estimate(image, rough.width_px)
        if seen:
            image = tails.restored(image, smear.weights(image.shape[1]), tails.first_level(image))
            rough = peaks.find(image, rough.spacing_px)
    x, y = peaks.beyond_edges(rough, (image.shape[0], image.shape[1]))
    height = np.concatenate([rough.height, np.full(len(x), np.median(rough.height))]) / FILTERED
    start = Columns(
        np.concatenate([rough.x_px, x]),
        np.concatenate([rough.y_px, y]),
        height,
        np.full(len(height), rough.width_px),
        float(np.quantile(image, 0.05)),
        START_HALO if options.shape == "halo" else 0.0,
    )
    return start, len(rough.x_px), smear, rough.spacing_px


def _fitted(image: Floats, start: Columns, inside: int, smear: Smear | None, options: QuantifyOptions) -> Fit:
    """Fit with a common width first, then as chosen."""
    halo = options.shape == "halo"
    common = FitOptions(weighting=options.weighting, width="shared", halo=halo, most_steps=PLAIN_STEPS)
    rough = fit(image, start, common, smear, inside)
    own = FitOptions(weighting=options.weighting, width=options.width, halo=halo and rough.columns.halo not in HALOS)
    if options.scan == "perfect":
        return fit(image, rough.columns, own, None, inside)
    joint = replace(own, shifts=True, tail=options.tail)
    found = fit(image, rough.columns, joint, smear, inside)
    if found.smear is None:
        return found
    other = likelier(image, found.expected, effective(found.expected, found.columns.height), found.smear)
    if other.shape != found.smear.shape:
        found = fit(image, rough.columns, joint, other, inside)
    if found.smear is not None and found.smear.weights(1)[0] > WORTH_FITTING:
        found = fit(image, rough.columns, replace(joint, tail=False), None, inside)
    return found


def drift_notes(found: Fit) -> list[str]:
    """Say along which axis the fitted shifts drift by so much that distances of columns are in doubt."""
    rows, notes = found.measured.shape[0], []
    for axis, slope in zip("xy", np.polyfit(np.arange(rows), found.shift_px.T, 1)[0], strict=True):
        if abs(slope) > LARGEST_DRIFT:
            notes.append(
                f"the lines drift along {axis} by {abs(slope) * rows:.2g} px over the image: drift cannot be told from"
                f" the shape of the specimen; if the scan had none, fit without shifts (scan perfect)"
            )
    return notes


def _result(
    found: Fit, step_nm: float | None, spacing_px: float, options: QuantifyOptions, library: Sequence[float] | None
) -> Quantified:
    rows, across = found.measured.shape
    all_columns = found.columns
    own = np.arange(found.inside)
    own = own[all_columns.height[own] > 0]
    own = own[np.lexsort((all_columns.x_px[own], np.rint(all_columns.y_px[own] / (0.5 * spacing_px))))]
    columns = all_columns.only(own)
    reach = 1.5 * columns.width_px
    at_edge = (
        (columns.x_px < reach) | (columns.y_px < reach)
        | (columns.x_px > across - 1 - reach) | (columns.y_px > rows - 1 - reach)
    )  # fmt: skip
    notes = []
    if step_nm is None:
        notes.append("the distance of pixels is not known: lengths are in pixels")
    elif not SPACINGS_NM[0] < spacing_px * step_nm < SPACINGS_NM[1]:
        notes.append(f"columns of atoms are not {spacing_px * step_nm:.3g} nm apart: is step_nm {step_nm:g} right?")
    if not found.converged:
        notes.append(f"the fit had not converged after {found.steps} steps: the errors are too small")
    if found.dispersion > 2 or found.dispersion < 0.5:
        notes.append(
            f"the residuals have {found.dispersion:.3g} times the variance of shot noise: the image is not in"
            " electrons, or its columns are not Gaussian; the standard errors allow for it"
        )
    notes += drift_notes(found)
    measured = Quantified(found, columns, found.covariance[own], at_edge, None, step_nm, spacing_px, ())
    counts = None
    whole = ~at_edge
    if options.count == "mixture" and np.count_nonzero(whole) < peaks.FEWEST:
        notes.append("too few columns away from the edges to count atoms by a mixture")
    elif options.count == "mixture":
        counts = by_mixture(
            measured.cross_section, measured.cross_section_sigma, options.most_atoms, options.first, whole
        )
    elif options.count == "library" and library is not None:
        counts = by_library(measured.cross_section, measured.cross_section_sigma, np.asarray(library, np.float64))
    unknown = 0 if counts is None else int(np.count_nonzero(~counts.known & whole))
    if unknown:
        why = ": are its unit, dose and ring those of the image?" if options.count == "library" else ""
        notes.append(
            f"{unknown} of {np.count_nonzero(whole)} columns have a cross-section of no number of atoms in the"
            f" {options.count}, and are not counted{why}"
        )
    return replace(measured, counts=counts, notes=tuple(notes))
