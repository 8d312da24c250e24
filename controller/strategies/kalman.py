"""Calibration held against drift: a Gaussian sum filter on the amortised posterior of each frame.

After a Kalman filter with a drift state (arXiv 2601.20561), here for measurements of ambiguous sign
(`posterior/gaussian_sum.py`), started from `neural_posterior`'s particles. Assumes exact, known inputs, a random walk
at about the rates given, and days like the training days. The estimate is the current state minus the cumulative
input, which drift may carry out of the start box.
"""

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import Field

from controller import preprocess
from controller.base import Estimate, StopOptions, StopsInSpec
from controller.canonical import units
from controller.posterior import artefact, gaussian_sum
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.frames import summarise
from controller.posterior.gaussian_sum import GaussianSum, Motion
from controller.posterior.information import most_informative
from controller.posterior.likelihood import UNINFORMATIVE
from controller.posterior.network import packed
from controller.strategies import neural_posterior
from controller.strategies.neural_posterior import NeuralPosterior
from twin.aberrations import index
from twin.arrays import Array
from twin.day import DRIFT_PRESETS, DriftProperties
from twin.drift import by_coefficient
from twin.optics import Optics
from twin.options import Count, NonNegative, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

SUPPORT, QUERIES = 48, 32
"""States and inputs between which the expected information is evaluated."""
LONGEST_SEARCH = 10
"""Frames after which the filter takes over even if the particles do not agree."""
MARGIN = 3.0
"""Inputs keep every component within the tolerance by this many standard deviations at the next frame."""
LOST = 4
"""Consecutive frames that disagree with the prediction before the search starts again."""


@validated
class Options(StopOptions):
    """Settings of the drift-aware tracker.

    Attributes:
        weights: shipped weights of `neural_posterior` by name, or a path; by default those that suit the beam.
        candidates: number of particles of the search.
        startup: frames before the filter may take over from the particles.
        rate_nm_per_sqrt_s: random walk, by coefficient or radial order as in a day's `drift`; the others do not drift.
        speed_nm_per_s: rms drift velocity of each component, tracked with the state; 0 for no velocity.
        persistence_s: correlation time of the velocity.
        inflation: factor on the frames' covariances, because errors are common to the frames of a day (docs/drift.md).
        dither_nm: while tracking, inputs keep the expected state within this distance of zero: inside the tolerance,
            and far enough to determine the sign.
        hypotheses: maximum number of Gaussians.
    """

    weights: str = "posterior"
    candidates: Annotated[int, Ge(32)] = 600
    startup: Count = 4
    rate_nm_per_sqrt_s: dict[str, NonNegative] = Field(default_factory=lambda: dict(DRIFT_PRESETS["commercial"]))
    speed_nm_per_s: NonNegative = 0.0
    persistence_s: Positive = 600.0
    inflation: Annotated[float, Ge(1)] = 1.5
    dither_nm: NonNegative = 5.0
    hypotheses: Annotated[int, Ge(2)] = 8

    def __post_init__(self) -> None:
        DriftProperties(rate_nm_per_sqrt_s=self.rate_nm_per_sqrt_s)  # refuses unknown coefficients

    def motion(self, space: StateSpace) -> Motion:
        """Drift of the calibrated coefficients."""
        rates = by_coefficient(self.rate_nm_per_sqrt_s)
        return Motion(rates[[index(name) for name in space.names]], self.speed_nm_per_s, self.persistence_s)


class Kalman(StopsInSpec):
    """Search with particles, then track with a Gaussian sum: predict, update by the frame, keep near zero.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> tracker = make(Optics(), FIRST_ORDER, {"rate_nm_per_sqrt_s": {"C10": 0.5}})
        >>> tracker.reset(FIRST_ORDER, np.random.default_rng(0))
        >>> tracker.propose().tolist()  # no input before the first frame
        [0.0, 0.0, 0.0]
        >>> tracker.motion.rate_nm_per_sqrt_s.tolist()
        [0.5, 0.0, 0.0]
    """

    def __init__(self, space: StateSpace, trained: PosteriorArtefact, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Start a search, without any frame."""
        self.space, self.rng = space, rng
        self.motion = self.options.motion(space)
        self.input_nm, self.clock_s, self.interval_s = space.zero, 0.0, 0.0
        self._search()

    def _search(self) -> None:
        """Start with particles over the whole start box."""
        settings = neural_posterior.Options(candidates=self.options.candidates)
        self.search = NeuralPosterior(self.space, self.trained, settings)
        self.search.reset(self.space, self.rng)
        self.search.input_nm = self.input_nm
        self.belief: GaussianSum | None = None
        self.mismatches, self.started_s = 0, 0.0
        self.innovations2: list[float] = []

    def propose(self) -> Array:
        """The particles' choice during the search; then the most informative input that keeps the state near zero."""
        if self.belief is None:
            return self.search.propose()
        inputs = self._near_null(gaussian_sum.predict(self.belief, self.motion, self.interval_s))
        drawn = self.belief.draw(SUPPORT, self.rng)[:, : self.space.dimension]
        return most_informative(drawn, inputs, self.trained) - self.input_nm

    def _near_null(self, belief: GaussianSum) -> Array:
        """Cumulative inputs that bring the expected state within the dither of zero, (Q, n).

        Closer where the uncertainty would otherwise let a component leave the tolerance.
        """
        n = self.space.dimension
        _, mean, cov = gaussian_sum.summarise(belief)
        direction = self.rng.standard_normal((QUERIES, n))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        aim = direction * self.options.dither_nm * np.sqrt(self.rng.random((QUERIES, 1)))
        room = np.maximum(self.space.tolerance - MARGIN * np.sqrt(np.diag(cov)[:n]), 0.0)
        return np.clip(np.clip(aim, -room, room) - mean[:n], -self.space.input, self.space.input)

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Update the particles or, once these agree, the filter by the frame's posterior."""
        self.input_nm = self.input_nm + delta_nm
        self.interval_s, self.clock_s = max(0.0, frame.clock_s - self.clock_s), frame.clock_s
        if self.belief is None:
            self.search.update(delta_nm, frame)
            self._start_tracking(frame)
        else:
            self._track(self.belief, frame)

    def _start_tracking(self, frame: Frame) -> None:
        """Hand over to the filter when the particles agree, or after `LONGEST_SEARCH` frames."""
        count = len(self.search.frames)
        self.started_s = frame.clock_s if count == 1 else self.started_s
        sure = self.search.estimate().in_spec(self.space, self.options.stop_probability)
        if count < self.options.startup or not (sure or count >= LONGEST_SEARCH):
            return
        particles = self.search.particles
        start = gaussian_sum.from_particles(
            particles.candidates.states_nm, particles.probability, self.motion, self.space
        )
        # The particles average over the search; an equally weighted mean lags by a third of the walk's variance.
        self.belief = gaussian_sum.predict(start, self.motion, (frame.clock_s - self.started_s) / 3)

    def _track(self, belief: GaussianSum, frame: Frame) -> None:
        """Predict to the frame's time and update by it; after `LOST` mismatches in a row, search again."""
        measured = gaussian_sum.measurement(self._read(frame), self.trained.first, self.options.inflation)
        predicted = gaussian_sum.predict(belief, self.motion, self.interval_s)
        step = gaussian_sum.update(
            predicted, measured, self.trained.states, self.trained.first, self.input_nm, UNINFORMATIVE,
            self.options.hypotheses,
        )  # fmt: skip
        self.belief = step.belief
        self.innovations2.append(step.innovation2)
        self.mismatches = self.mismatches + 1 if step.missed > 0.5 else 0
        if self.mismatches >= LOST:
            self._search()

    def _read(self, frame: Frame) -> NDArray[np.float32]:
        """Mixture of the frame's posterior, see `posterior.network.packed`."""
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        features, _ = summarise(
            self.trained, *preprocess.whole_and_patches(frame), units.beam_of(frame, self.trained.optics)
        )
        return packed(self.trained.network.mixture(features))[0]

    def estimate(self) -> Estimate:
        """Moments of the more probable mode of the current state minus the cumulative input."""
        if self.belief is None:
            return self.search.estimate()
        probability, mean, cov = gaussian_sum.summarise(self.belief)
        n = self.space.dimension
        return Estimate(mean[:n], cov[:n, :n], probability)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Kalman:
    """Build the controller; see `controller.load`."""
    chosen = checked_options(Options, options)
    return Kalman(space, artefact.load_for(chosen.weights, optics, space), chosen)


def suited(options: dict[str, Any], optics: Optics) -> dict[str, Any]:
    """Options with the shipped weights for a beam, unless others are chosen."""
    return {"weights": artefact.weights_for(optics), **options}


def trained_optics(options: dict[str, Any]) -> Optics:
    """Return the optics of the chosen weights."""
    return artefact.WEIGHTS.optics(checked_options(Options, options).weights)
