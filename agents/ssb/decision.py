"""The single-sideband sums of a scan before and after the orientation of the camera is decided.

Weights need the orientation. While it is unknown the first rows are held (`Undecided`); once their sidebands determine
it, they are summed with the rows that follow (`Decided`).
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from agents.ssb import image as ssb_image
from agents.ssb import orientation as ssb_orientation
from agents.ssb.accumulate import SidebandSum
from agents.ssb.experiment import Experiment
from agents.ssb.image import PhaseSpectrum
from agents.ssb.orientation import Orientation
from agents.ssb.weights import BrightField, Singles, trotters
from twin.aberrations import Aberrations

Pixels = NDArray[np.integer]

HOLD_ROWS = (16, 32, 64)
"""Held rows after which an unknown orientation is searched for; after the last, the likeliest one is taken."""

HOLD_BYTES = 64 * 2**20
"""Memory of the held rows; fewer rows of a wide scan are held."""

CERTAIN_DEG = 2.0
"""Standard error of the rotation at which the search ends."""


@dataclass(frozen=True, eq=False)
class Setup:
    """All that the weights depend on, except the orientation.

    Attributes:
        experiment: beam, scan and camera.
        disc: the bright-field disc of a camera that is not transposed.
        aberrations: of the probe, to be corrected.
        triple_overlap: see `ssb.weights.trotters`.
    """

    experiment: Experiment
    disc: BrightField
    aberrations: Aberrations
    triple_overlap: bool

    def oriented_disc(self, orientation: Orientation) -> BrightField:
        """The disc along the axes of the microscope."""
        return self.disc.swapped() if orientation.transposed else self.disc

    def empty_sum(self, orientation: Orientation) -> SidebandSum:
        """Compute the weights for an orientation."""
        experiment, disc = self.experiment, self.oriented_disc(orientation)
        weights = trotters(
            disc,
            experiment.scan,
            experiment.lowest_mrad,
            orientation.rotation_deg,
            self.aberrations,
            experiment.wavelength_nm,
            self.triple_overlap,
        )
        return SidebandSum(experiment.scan, weights, len(disc))


class Decided:
    """Sums with a known orientation.

    Args:
        setup: see `Setup`.
        orientation: of the camera against the scan.
        earlier: phase of the positions before the aberrations were changed.
    """

    def __init__(self, setup: Setup, orientation: Orientation, earlier: PhaseSpectrum | None = None) -> None:
        self.setup, self.orientation, self.earlier = setup, orientation, earlier
        self.sums = setup.empty_sum(orientation)

    def add(self, counts: Singles, pixel: Pixels) -> "Decided":
        """Fold in positions: counts of every square, (N, K), and (row, column), (N, 2)."""
        if len(pixel):
            self.sums.add(counts, pixel)
        return self

    def with_aberrations(self, aberrations: Aberrations, cutoff: float) -> "Decided":
        """Correct the positions to come for other aberrations."""
        earlier = self.phase(cutoff) if self.sums.count else self.earlier
        return Decided(replace(self.setup, aberrations=aberrations), self.orientation, earlier)

    def decided(self) -> "Decided":
        """Itself."""
        return self

    def phase(self, cutoff: float) -> PhaseSpectrum:
        """The phase of all positions, those before a change of aberrations included."""
        if not self.sums.count and self.earlier is not None:
            return self.earlier
        spectrum = ssb_image.phase_spectrum(self.sums, self.setup.disc.share, cutoff)
        return spectrum if self.earlier is None else self.earlier + spectrum


@dataclass(eq=False)
class Undecided:
    """Held rows of a scan whose orientation is not known.

    Attributes:
        setup: see `Setup`.
        rotation_deg, transposed: the part of the orientation that is known, else None.
        held: counts of every square and (row, column) of the positions so far, in parts.
    """

    setup: Setup
    rotation_deg: float | None
    transposed: bool | None
    held: list[tuple[Singles, Pixels]] = field(default_factory=list)
    _guess: Decided | None = None

    def add(self, counts: Singles, pixel: Pixels) -> "Undecided | Decided":
        """Hold positions up to the next search for the orientation; fold all in once it is found."""
        while len(pixel):
            searches = self._searches()
            room = next(count for count in searches if count > self._count) - self._count
            self.held.append((counts[:room], pixel[:room]))
            self._guess = None
            counts, pixel = counts[room:], pixel[room:]
            if self._count in searches:
                orientation = self._search(last=self._count == searches[-1])
                if orientation is not None:
                    return self._summed(orientation).add(counts, pixel)
        return self

    def with_aberrations(self, aberrations: Aberrations, cutoff: float) -> "Undecided":
        """Search and correct with other aberrations."""
        return replace(self, setup=replace(self.setup, aberrations=aberrations), _guess=None)

    def decided(self) -> Decided:
        """The sums for the likeliest orientation so far."""
        if self._guess is None:
            orientation = self._search(last=True)
            assert orientation is not None
            self._guess = self._summed(orientation)
        return self._guess

    @property
    def _count(self) -> int:
        return sum(len(pixel) for _, pixel in self.held)

    def _summed(self, orientation: Orientation) -> Decided:
        decided = Decided(self.setup, orientation)
        for counts, pixel in self.held:
            decided.add(counts, pixel)
        return decided

    def _searches(self) -> list[int]:
        """Numbers of held positions at which the orientation is searched for, rising."""
        rows, columns = self.setup.experiment.scan
        affordable = max(4, HOLD_BYTES // (4 * len(self.setup.disc) * columns))
        return sorted({min(held_rows, affordable, rows) * columns for held_rows in HOLD_ROWS})

    def _search(self, last: bool) -> Orientation | None:
        """The likeliest orientation; None if it is uncertain and not the last search."""
        counts, pixel = (np.concatenate(parts) for parts in zip(*self.held, strict=True))
        experiment, disc, aberrations = self.setup.experiment, self.setup.disc, self.setup.aberrations
        columns, frequency_mrad = experiment.scan[1], experiment.frequency_mrad
        spectrum = ssb_orientation.spectrum(counts, pixel, columns, frequency_mrad, experiment.convergence_mrad)
        likeliest = ssb_orientation.likeliest(
            spectrum, disc, aberrations, experiment.wavelength_nm, self.rotation_deg, self.transposed
        )
        if not last and not (likeliest.certain and not likeliest.sigma_deg > CERTAIN_DEG):
            return None
        if self.rotation_deg is not None:
            # Without evidence a camera that is not transposed is the likelier one.
            return likeliest if likeliest.certain else replace(likeliest, transposed=bool(self.transposed))
        return ssb_orientation.upright(
            likeliest,
            counts,
            pixel,
            self.setup.oriented_disc(likeliest),
            (columns, frequency_mrad),
            aberrations,
            experiment.wavelength_nm,
        )


def begin(setup: Setup, rotation_deg: float | None, transposed: bool | None) -> Undecided | Decided:
    """Empty sums; `Undecided` if rotation or transpose is None."""
    if rotation_deg is None or transposed is None:
        return Undecided(setup, rotation_deg, transposed)
    return Decided(setup, Orientation(rotation_deg, transposed))
