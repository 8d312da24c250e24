"""A second opinion on a claim: a fit of the parametric spectrum that starts from it.

The model of `spectrum.model` is fitted to the frames of the run. Where the claim is right, the fit stays near it,
describes the spectra, and each frame alone agrees with it. A claim from frames that the claimed inputs cannot explain
(another place of the box, a mirror image, a camera turned or late) lies far from any fit, leaves power unexplained, or
leaves frames that contradict each other.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, t

from controller.canonical import units
from controller.checks import causes, consistency
from controller.checks.causes import FrameAtInput
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.fit import Observation
from twin.arrays import Array
from twin.optics import Optics
from twin.types import Frame

FRAMES, ITERATIONS = 6, 10
"""Latest frames fitted, and scoring steps at most: fewer leave the fit on its way on days with a small source."""
UNEXPLAINED = 6.0
"""Variance inflation (`spectrum_fit.tile_misfit`) above which the spectra are not described. At true states of days of
severity 1 its median is 1.0 and its largest of 160 was 2.9."""
FAR_NM = 8.0
"""Distance between claim and fit, in nm at the reference optics, above which they disagree; from true states of such
days the fit moves 1.3 nm (median), 7.8 nm at most."""
INFLATION, DEVIATIONS = 3.0, 4.0
"""Factor on the fit's covariance, as for `spectrum_ml`, and its standard deviations beyond which the two disagree."""
REACH_NM = 250.0
"""Largest state that the fit may reach, nm at the reference optics."""
APART = 1.4
"""`Consistency.per_degree` above which the frames disagree with each other."""
BY_HEIGHT = 0.35
"""`Consistency.astigmatic` below which the frames differ in defocus alone, as on a film of uneven height."""


@dataclass(frozen=True)
class Opinion:
    """What the second opinion finds.

    Attributes:
        objection: why the claim is doubted; empty if it is not.
        defocus_nm: standard deviation that the scatter of the frames adds to C10.
        scatter: sentence about that scatter; empty where nothing is added.
    """

    objection: str = ""
    defocus_nm: float = 0.0
    scatter: str = ""


@dataclass(frozen=True)
class Residual:
    """Frames of a run, for a second opinion.

    Attributes:
        optics: beam, on the reference camera.
        places: where C10, C12a and C12b stand in the state.
        exposures: the latest frames and their inputs.
    """

    optics: Optics
    places: tuple[int, ...]
    exposures: tuple[FrameAtInput, ...] = ()

    def append(self, input_nm: Array, before_nm: Array, frame: Frame) -> "Residual":
        """Add a prepared frame, the cumulative input (n,), nm, at it and at the exposure before it."""
        places = list(self.places)
        latest = Observation(input_nm[places], spectrum_model.periodogram(frame))
        return replace(self, exposures=(*self.exposures, FrameAtInput(latest, before_nm[places]))[-FRAMES:])

    @property
    def observations(self) -> list[Observation]:
        """The frames at their stated inputs."""
        return [each.observation for each in self.exposures]

    def cause(self, state_nm: Array) -> str:
        """Name what makes the frames agree where an estimate (n,) does not; empty if nothing tried does."""
        factor = units.scale(spectrum_fit.COEFFICIENTS, self.optics, units.REFERENCE)
        return causes.named(self.exposures, state_nm[list(self.places)], spectrum_model.grid(self.optics), factor)

    def opinion(self, state_nm: Array) -> Opinion:
        """Compare an estimate (n,) of the initial state with the fit that starts from it."""
        first = state_nm[list(self.places)]
        factor = units.scale(spectrum_fit.COEFFICIENTS, self.optics, units.REFERENCE)
        grid, box = spectrum_model.grid(self.optics), REACH_NM / factor
        start, any_film = spectrum_fit.starting_theta(first), spectrum_fit.ANY_FILM
        fitted = spectrum_fit.fit(start, self.observations, grid, box, ITERATIONS, any_film)
        frames = consistency.of_frames(fitted.theta, self.observations, grid, factor)
        apart = frames.per_degree > APART
        uneven = apart and frames.astigmatic < BY_HEIGHT and frames.misfit <= UNEXPLAINED
        added_nm = _of_mean_nm(frames) if uneven else 0.0
        offset = fitted.state_nm - first
        moved = float(np.linalg.norm(offset * factor))
        spread = INFLATION * fitted.covariance[:3, :3] + np.eye(3) + np.diag([added_nm**2, 0.0, 0.0])
        if moved > FAR_NM and offset @ np.linalg.solve(spread, offset) > DEVIATIONS**2:
            return Opinion(f"the spectra fit a state {moved / factor[0]:.0f} nm from the estimate better: {ADVICE}")
        if uneven:
            return Opinion("", added_nm, UNEVEN.format(frames.defocus_spread_nm()))
        if fitted.misfit > UNEXPLAINED:
            return Opinion(
                f"the spectra deviate {fitted.misfit:.0f} times as much as they should from the estimate: {ADVICE}"
            )
        return Opinion(CONTRADICT) if apart else Opinion()


def _of_mean_nm(frames: consistency.Consistency) -> float:
    """Standard deviation of the mean of frames whose defocus scatters, as wide as few frames make it."""
    weight = 1.0 / frames.covariance_nm2[:, 0, 0]
    effective = float(weight.sum() ** 2 / np.sum(weight**2))
    # A spread known from few frames: regions of 90 % as wide as Student's t makes them.
    student = float(t.ppf(0.95, max(len(weight) - 1, 1)) / norm.ppf(0.95))
    return frames.defocus_spread_nm() * student / effective**0.5


ADVICE = "frames, inputs and specimen do not belong together"
CONTRADICT = f"the frames contradict each other at the estimate: {ADVICE}"
UNEVEN = "the defocus differs by {:.1f} nm rms from frame to frame, as on a film of uneven height: take more frames"


def residual(optics: Optics, names: tuple[str, ...]) -> Residual | None:
    """Return an empty one for an instrument and a task; None for a task without defocus and twofold astigmatism."""
    if not set(spectrum_fit.COEFFICIENTS) <= set(names):
        return None
    places = tuple(names.index(name) for name in spectrum_fit.COEFFICIENTS)
    return Residual(units.on_reference_camera(optics), places)
