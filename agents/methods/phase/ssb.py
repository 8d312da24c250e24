"""Single-sideband ptychography: the phase of a thin specimen, row by row, corrected for known aberrations.

The scan is transformed as it comes and weighted with the overlaps of the diffracted discs (`agents.ssb.weights`);
frames are not kept. If the orientation of the camera is not known, the first rows are held until their sidebands
determine it (`agents.ssb.decision`).
"""

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from agents.base import Image, MetaError, Reconstruction, StreamMeta
from agents.block import Block
from agents.ssb import decision, forward
from agents.ssb import image as ssb_image
from agents.ssb.accumulate import Visits, squares
from agents.ssb.decision import Decided, Setup
from agents.ssb.experiment import Experiment
from agents.ssb.image import PhaseSpectrum
from agents.ssb.orientation import described
from agents.trust import misfit_notes
from twin.aberrations import Aberrations
from twin.errors import nearest
from twin.options import Fraction, OptionError, checked_options, validated

SAMPLE = 64
"""Positions whose counts are kept for the test of residuals."""

ADJUSTABLE = ("weighting", "cutoff", "aberrations")

OFF_CENTRE = 0.05
"""Shift of the disc from its assumed centre, in units of its radius, above which a note is made."""


@validated
class Options:
    """Settings.

    Attributes:
        aberrations: Krivanek coefficients in nm by name, along the axes of the microscope; the others are zero.
        rotation: "meta" (of the stream; found from the data if that does not have it), "auto" (found in any case), or
            degrees from the camera's +x to the scan's fast axis, towards +y.
        transposed: the camera's rows and columns are swapped; None is that of the stream, or found from the data.
        binning: side in camera pixels of the squares that are summed; 0 chooses the largest accurate one.
        weighting: of spatial frequencies, see `ssb.image.WEIGHTINGS`.
        cutoff: smallest overlap that is used, as a fraction of the disc.
        centre_px: (row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2).
        triple_overlap: use the region where both sidebands overlap with the disc; useful with defocus.
    """

    aberrations: Mapping[str, float] = field(default_factory=dict)
    rotation: Literal["meta", "auto"] | float = "meta"
    transposed: bool | None = None
    binning: Annotated[int, Ge(0)] = 0
    weighting: Literal["flat", "white", "overlap", "wiener"] = "wiener"
    cutoff: Fraction = 0.01
    centre_px: tuple[float, float] | None = None
    triple_overlap: bool = False

    def __post_init__(self) -> None:
        Aberrations.of(self.aberrations)

    def orientation(self, meta: StreamMeta) -> tuple[float | None, bool | None]:
        """Rotation in degrees and transpose; None if they have to be found from the data."""
        if isinstance(self.rotation, str):
            rotation = meta.metadata.rotation_deg if self.rotation == "meta" else None
        else:
            rotation = float(self.rotation)
        if self.transposed is not None:
            return rotation, self.transposed
        return rotation, None if self.rotation == "auto" else meta.transposed


class Ssb:
    """Live single-sideband ptychography (Rodenburg et al. 1993, Pennycook et al. 2015, Strauch et al. 2021).

    Example:
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> beam = Metadata(energy_kev=300, convergence_mrad=20, pixel_mrad=2, step_nm=0.02, rotation_deg=0)
        >>> agent = load("ssb", {"aberrations": {"C10": 5.0}, "weighting": "white"})
        >>> agent.start(StreamMeta(Layout((6, 8), (24, 24)), beam, transposed=False))
        >>> agent.result().images["phase"].values.shape
        (6, 8)
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def start(self, meta: StreamMeta, agent: str = "ssb") -> None:
        """Begin a new stream; `agent` is named in errors.

        Raises:
            MetaError: the metadata lack something, the disc does not fit on the camera, or there are no frames.
        """
        if not meta.has_frames:
            raise MetaError(f"{agent} needs frames; this stream has events only")
        experiment, aberrations = (
            Experiment.of(meta, self.options.centre_px, agent),
            Aberrations.of(self.options.aberrations),
        )
        disc = experiment.bright_field(self.options.binning, aberrations)
        self._visits = Visits(experiment.scan)
        self._sample = forward.Sample(experiment.scan, SAMPLE, len(disc), experiment.probe_reach_steps(aberrations))
        self._setup = Setup(experiment, disc, aberrations, self.options.triple_overlap)
        self._sums = decision.begin(self._setup, *self.options.orientation(meta))

    def update(self, block: Block) -> None:
        """Fold in positions; those that have been there before are left out."""
        disc, new = self._setup.disc, self._visits.add(block.pixel)
        counts, pixel = squares(block.frames, disc.label, len(disc)), block.pixel
        if not new.all():
            counts, pixel = counts[new], pixel[new]
        self._sample.add(counts, pixel)
        self._sums = self._sums.add(counts, pixel)

    def result(self) -> Reconstruction:
        """The phase of the positions so far, with its standard deviation and the test of residuals."""
        experiment, visited = self._setup.experiment, self._visits.visited
        if not visited.any():
            return Reconstruction({"phase": Image(np.full(experiment.scan, np.nan), "rad")})
        sums = self._sums.decided()
        spectrum = sums.phase(self.options.cutoff)
        factor = ssb_image.transfer(spectrum, sums.sums.weights, self.options.weighting)
        density = ssb_image.density(visited, experiment.resolution_nm / experiment.step_nm)
        phase = np.where(visited, ssb_image.image(factor * spectrum.phase, experiment.scan) / density, np.nan)
        noise = ssb_image.spread(factor**2 * spectrum.variance, experiment.scan, int(visited.sum()))
        spread = np.where(visited, noise / np.sqrt(density), np.nan)
        trust = forward.trust(sums, spectrum, self._sample, visited, density)
        misfit = misfit_notes(trust, float(visited.mean()))
        figures = {"positions": float(visited.sum()), "phase_spread_rad": noise, **_figures(sums)}
        return Reconstruction(
            {"phase": Image(phase, "rad", spread)},
            {name: value for name, value in figures.items() if math.isfinite(value)},
            trust,
            (*misfit, *_notes(sums, self._visits.repeated)),
        )

    @property
    def visited(self) -> NDArray[np.bool_]:
        """Positions so far, (rows, columns)."""
        return self._visits.visited

    @property
    def disc_counts(self) -> float:
        """Mean counts in the disc of the positions so far."""
        return _disc_counts(self._sums.decided())

    def spectrum(self) -> PhaseSpectrum:
        """Fourier coefficients of the phase of the positions so far, at least one, before any weighting."""
        return self._sums.decided().phase(self.options.cutoff)

    def configure(self, **changes: Any) -> None:
        """Change `weighting` and `cutoff` for the whole image, or `aberrations` for the positions to come.

        Raises:
            OptionError: another option, or a bad value.
        """
        for name in changes:
            if name not in ADJUSTABLE:
                raise OptionError(f"{name!r} cannot be changed while ssb runs{nearest(name, ADJUSTABLE)}")
        self.options = checked_options(Options, {**vars(self.options), **changes})
        if "aberrations" in changes:
            self._sums = self._sums.with_aberrations(Aberrations.of(self.options.aberrations), self.options.cutoff)


def _disc_counts(decided: Decided) -> float:
    return float(decided.sums.pattern.sum()) / max(decided.sums.count, 1)


def _figures(decided: Decided) -> dict[str, float]:
    orientation, sums, disc = decided.orientation, decided.sums, decided.setup.disc
    return {
        "rotation_deg": orientation.rotation_deg,
        "rotation_sigma_deg": orientation.sigma_deg,
        "transposed": float(orientation.transposed),
        "finest_period_nm": decided.setup.experiment.resolution_nm,
        "disc_counts": _disc_counts(decided),
        "squares": float(len(disc)),
        "binning_px": float(disc.binning),
        "weights_mib": sums.weights.bytes / 2**20,
    }


def _notes(decided: Decided, repeated: int) -> tuple[str, ...]:
    """Remarks for the operator on orientation, sampling, centring and repeated positions."""
    experiment, sums, notes = decided.setup.experiment, decided.sums, []
    if not math.isnan(decided.orientation.evidence):
        notes.append(described(decided.orientation))
    if experiment.frequency_mrad < 4 * experiment.convergence_mrad:
        notes.append(
            f"steps of {experiment.step_nm:g} nm are too coarse: frequencies from {500 / experiment.step_nm / 1e3:.3g}"
            f" to {2e-3 * experiment.convergence_mrad / experiment.wavelength_nm:.3g} /nm are aliased"
        )
    if sums.count:
        x_mrad, y_mrad = ssb_image.off_centre(sums.pattern, decided.setup.disc)
        if math.hypot(x_mrad, y_mrad) > OFF_CENTRE * experiment.convergence_mrad:
            notes.append(
                f"the disc is shifted from its assumed centre by {x_mrad / experiment.pixel_mrad:+.1f} columns and"
                f" {y_mrad / experiment.pixel_mrad:+.1f} rows or more; see centre_px"
            )
    if repeated:
        notes.append(f"{repeated} repeated positions were left out")
    if decided.earlier is not None:
        notes.append("aberrations were changed while it ran: earlier rows are corrected for the former ones")
    return tuple(notes)


def make(options: Mapping[str, Any]) -> Ssb:
    """Build the agent; see `agents.load`."""
    return Ssb(checked_options(Options, options))
