"""The wrapper of every controller: canonical frames and units in, checked claims out.

The controller inside sees the optics it was made for. Its inputs and estimates are translated by the phase at the
edge of the aperture (`canonical.units`), its frames are prepared (`canonical.preparation`) and examined (`gate`). With
the optics of its weights and frames like those of the training days nothing is changed.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from controller.base import Controller, Estimate
from controller.canonical import units
from controller.canonical.preparation import Prepared, prepare
from controller.checks.gate import NO_SPECIMEN, UNCERTAIN, FrameGate
from controller.checks.residual import Opinion, residual
from controller.preprocess import NoSignal
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

LEAST_FRAMES = 3
"""Usable frames that a claim needs: fewer leave the mirror image possible."""
MOVED_NM = 2.0
"""Distance between inputs, nm at the reference optics, that tells a state from its mirror image."""
NEAR_EDGE = 2.5
"""Standard deviations from the edge of the start box within which the spectra are fitted."""
PERSISTENT = 0.5
"""Largest change of a claim by the frame after it, as a fraction of the tolerance, that confirms it."""
UNDECIDED = 0.8
"""Largest sign probability that is reported while all frames have the same input."""
REPEATED_AFTER = 1.5
"""A second opinion or a cause is sought again when the run is this many times as long."""
ENOUGH_REFUSED = 4
"""Frames refused in a row after which the run should stop."""
PROBE = 0.4
"""Change of defocus after a frame without a specimen, as a fraction of the largest input."""
IN_FOCUS_NM = 20.0
"""Aberrations, in nm at the reference optics, below which a thin film may not show."""
SCATTERED_IN_SPEC = 0.95
"""Probability of being in spec that a claim needs once the frames are known to scatter."""
RADIUS_OFF, CUT, SHADOW = 0.07, 0.3, 0.15
"""Deviation of the disc's radius from the stated one, cut and obscured fractions above which a claim is not made."""


class CheckedController:
    """A controller behind preparation, gate and checks; `controller.load` returns one.

    Attributes:
        inner: the controller, for `reference` optics.
        refused: reasons of the frames refused since the last usable one.
        usable: number of frames that were used.

    Example:
        >>> from controller.base import load
        >>> from twin.state import FIRST_ORDER
        >>> controller = load("two_ronchigram", Optics(energy_kev=200.0, convergence_mrad=25.0), FIRST_ORDER)
        >>> empty = np.random.default_rng(0).poisson(120.0, (128, 128)).astype(np.uint16)
        >>> controller.update(controller.propose(), Frame(empty, dose_e=1e6, exposure_s=0.5, clock_s=0.0))
        >>> controller.estimate().reason
        'no specimen is seen, only an evenly lit disc'
    """

    def __init__(
        self, inner: Controller, optics: Optics, reference: Optics, space: StateSpace, reads_ronchigrams: bool
    ) -> None:
        self.inner, self.optics, self.reference = inner, optics, reference
        self.reads_ronchigrams = reads_ronchigrams
        self._begin(space)

    @property
    def options(self) -> Any:
        """Options of the controller inside; None if it has none."""
        return getattr(self.inner, "options", None)

    def _begin(self, space: StateSpace) -> None:
        self.space = space
        self.factor = units.scale(space.names, self.optics, self.reference)
        self.to_reference = units.scale(space.names, self.optics, units.REFERENCE)
        self.gate, self.refused, self.usable = FrameGate(self.reference), list[str](), 0
        self.pending_nm, self.input_nm = space.zero, space.zero
        self.inputs_nm: list[Array] = []
        self.seen: Prepared | None = None
        self.residual, self.opinion, self.opinion_at = residual(self.optics, space.names), Opinion(), 0
        self.exposed_nm, self.cause, self.cause_at = space.zero, "", 0
        self.claimed_nm: Array | None = None
        self.confirmed = False

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything and start a run in `space`."""
        self._begin(space)
        self.inner.reset(units.scaled(space, self.factor), rng)

    def propose(self) -> Array:
        """Return the inner controller's input; after a refused frame stay, or change the focus if nothing was seen."""
        if self.refused:
            return self._elsewhere()
        wanted = self.inner.propose()
        if np.all(self.factor == 1.0) and not self.pending_nm.any():
            return wanted
        total = np.clip(self.input_nm - self.pending_nm + wanted / self.factor, -self.space.input, self.space.input)
        return total - self.input_nm

    def _elsewhere(self) -> Array:
        """Return no input, or a defocus to either side in turn, where a thin film may show better."""
        if self.refused[-1] != NO_SPECIMEN or "C10" not in self.space.names:
            return self.space.zero
        place, reach = self.space.names.index("C10"), self.space.input
        target = self.input_nm.copy()
        step = PROBE * reach[place] * (1 if len(self.refused) % 2 else -2)
        target[place] += step if abs(target[place] + step) <= reach[place] else -step
        return np.clip(target, -reach, reach) - self.input_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Prepare and examine the frame; pass it on, with all input since the last one passed on, or refuse it.

        Raises:
            ValueError: a frame of another shape than the camera's.
        """
        delta = np.asarray(delta_nm, np.float64)
        self.exposed_nm, self.input_nm = self.input_nm, self.input_nm + delta
        self.pending_nm = self.pending_nm + delta
        if not self.reads_ronchigrams:
            self._pass_on(frame)
            return
        try:
            prepared = prepare(frame, self.optics, self.reference)
        except NoSignal as error:
            self.refused.append(str(error))
            return
        if reason := self.gate.examine(frame, prepared, self._expects_focus()):
            self.refused.append(reason)
            return
        self._pass_on(prepared.frame)
        self.seen, self.refused = prepared, []
        self.usable += 1
        self.inputs_nm.append(self.input_nm)
        if self.residual is not None:
            self.residual = self.residual.append(self.input_nm, self.exposed_nm, prepared.frame)
        self._examine()

    def _examine(self) -> None:
        """Compare the claim with the one before this frame, and get a second opinion where one is due.

        A claim that changes with a new frame at another input came from wrong inputs.
        """
        before, self.claimed_nm, self.confirmed = self.claimed_nm, None, False
        estimate = _unscaled(self.inner.estimate(), self.factor)
        if self.inner.done:
            self.claimed_nm = estimate.mean_nm
            changed = None if before is None else np.abs(estimate.mean_nm - before)
            self.confirmed = changed is not None and bool(np.all(changed <= PERSISTENT * self.space.tolerance))
        if self.residual is None or self.usable < LEAST_FRAMES:
            return
        if self._is_due(estimate):
            self.opinion, self.opinion_at = self.residual.opinion(estimate.mean_nm), self.usable
        if not (self.opinion.objection or estimate.misfit):
            self.cause = ""
        elif self.usable > LEAST_FRAMES and self.usable >= REPEATED_AFTER * self.cause_at:
            self.cause, self.cause_at = self.residual.cause(estimate.mean_nm), self.usable

    def _is_due(self, estimate: Estimate) -> bool:
        """Whether a second opinion is due, which takes as long as a few steps.

        It is at a confirmed claim, or as soon as a definite estimate could have been confirmed; again when the run is
        longer by half; at every frame after an opinion that objected or added scatter; and near the edge of the box,
        where the start may lie outside.
        """
        definite = estimate.sign_decided and bool(np.all(estimate.std_nm < self.space.tolerance))
        claimed = self.confirmed or (definite and self.usable > LEAST_FRAMES)
        again = self.opinion != Opinion() or at_edge(estimate, self.space, NEAR_EDGE) != ""
        return again or (claimed and self.usable >= REPEATED_AFTER * self.opinion_at)

    def _pass_on(self, frame: Frame) -> None:
        applied, self.pending_nm = self.pending_nm, self.space.zero
        self.inner.update(applied * self.factor, frame)

    def _expects_focus(self) -> bool:
        """Whether a specimen has been seen and the state, of either sign, may be near focus within its uncertainty."""
        if self.usable == 0:
            return False
        estimate, first = self.inner.estimate(), self.space.is_first_order
        if estimate.samples_nm is not None and estimate.weights is not None:
            likely = estimate.weights > 0.01 * estimate.weights.max()
            states, spread = estimate.samples_nm[likely], self.space.zero
        else:
            states, spread = np.array([estimate.mean_nm, -estimate.mean_nm]), 2 * estimate.std_nm
        away = (np.abs(states + self.input_nm * self.factor) - spread) / self.factor * self.to_reference
        return bool(np.any(np.all(away[:, first] < IN_FOCUS_NM, axis=1)))

    def estimate(self) -> Estimate:
        """Return the inner estimate in the units of the instrument, with what the checks have found."""
        estimate = self.inner.estimate()
        if not np.all(self.factor == 1.0):
            estimate = _unscaled(estimate, self.factor)
        if not self.reads_ronchigrams:
            return estimate
        if self.usable and estimate.sign_probability > UNDECIDED and not self._moved():
            estimate = replace(estimate, sign_probability=UNDECIDED)
        estimate = self._with_scatter(estimate)
        reason = self._reason(estimate)
        if not reason:
            return estimate
        unlike = bool(self.geometry() or self.opinion.objection or self.cause or self.halt)
        return replace(estimate, reason=reason, misfit=estimate.misfit or unlike)

    def _with_scatter(self, estimate: Estimate) -> Estimate:
        """Widen C10 by what its scatter from frame to frame leaves open."""
        if not self.opinion.scatter:
            return estimate
        place, covariance = self.space.names.index("C10"), estimate.cov_nm2.copy()
        covariance[place, place] += self.opinion.defocus_nm**2
        return replace(estimate, cov_nm2=covariance)

    def _moved(self) -> bool:
        """Whether usable frames were taken at inputs far enough apart."""
        inputs = np.array(self.inputs_nm) * self.to_reference
        return len(inputs) > 1 and bool(np.linalg.norm(inputs - inputs[0], axis=1).max() > MOVED_NM)

    def _reason(self, estimate: Estimate) -> str:
        if self.refused:
            return self.refused[-1]
        if self.usable and len(self.gate.seen) >= LEAST_FRAMES and not self.gate.shows_specimen:
            return UNCERTAIN
        if self.opinion.objection or self.cause:
            parts = at_edge(estimate, self.space, NEAR_EDGE), self.opinion.objection, self.cause
            return "; ".join(text for text in parts if text)
        if self.opinion.scatter and not estimate.in_spec(self.space, SCATTERED_IN_SPEC):
            return self.opinion.scatter
        return self.geometry() or at_edge(estimate, self.space)

    def geometry(self) -> str:
        """What is wrong with the disc of the last usable frame; empty if nothing is."""
        if self.seen is None or self.seen.disc is None:
            return ""
        stated, found = units.disc_radius_px(self.optics), self.seen.disc
        if abs(found.radius_px / stated - 1) > RADIUS_OFF:
            return (
                f"the disc has a radius of {found.radius_px:.1f} pixels; {self.optics.convergence_mrad:g} mrad at"
                f" {self.optics.camera_pixel_mrad:.3g} mrad per pixel make {stated:.1f}:"
                " check aperture and camera length"
            )
        if found.cut > CUT:
            return f"the camera cuts off {100 * found.cut:.0f} % of the disc's edge: centre the disc"
        if self.seen.shadow > SHADOW:
            return f"{100 * self.seen.shadow:.0f} % of the disc are in shadow: check the aperture"
        return ""

    @property
    def halt(self) -> str:
        """Why the run should stop: too many frames in a row were refused. Empty while it may go on.

        Example:
            >>> from controller.base import load
            >>> from twin.state import FIRST_ORDER
            >>> load("two_ronchigram", Optics(), FIRST_ORDER).halt
            ''
        """
        if len(self.refused) < ENOUGH_REFUSED:
            return ""
        advice = "move the stage to a thin amorphous region" if self.refused[-1] == NO_SPECIMEN else "check the camera"
        return f"{len(self.refused)} frames in a row cannot be used: {self.refused[-1]}; {advice}"

    @property
    def done(self) -> bool:
        """The inner stop rule, confirmed by another frame, from `LEAST_FRAMES` usable ones on, if no check objects."""
        if not self.reads_ronchigrams:
            return self.inner.done
        if self.usable < LEAST_FRAMES or self.refused or not self._moved() or not self.confirmed:
            return False
        # What a misfit of its own means for the claim is the inner stop rule's: joint estimation takes over at one.
        return not self.estimate().reason


def at_edge(estimate: Estimate, space: StateSpace, deviations: float = 1.0) -> str:
    """Name the component whose estimate lies within `deviations` standard deviations of the edge; empty if none."""
    room = space.start - np.abs(estimate.mean_nm)
    near = (room < deviations * estimate.std_nm) & (room > -1e-6) & (estimate.std_nm < 0.25 * space.start)
    if not near.any():
        return ""
    worst = int(np.argmax(np.where(near, -room / space.start, -np.inf)))
    return (
        f"{space.names[worst]} of {estimate.mean_nm[worst]:+.1f} nm lies at the edge of its box of"
        f" +-{space.start[worst]:g} nm: the start may be outside; widen space.start_nm"
    )


def _unscaled(estimate: Estimate, factor: Array) -> Estimate:
    samples = None if estimate.samples_nm is None else estimate.samples_nm / factor
    covariance = estimate.cov_nm2 / np.outer(factor, factor)
    return replace(estimate, mean_nm=estimate.mean_nm / factor, cov_nm2=covariance, samples_nm=samples)
