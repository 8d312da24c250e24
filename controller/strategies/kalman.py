"""Calibration held against drift: a mixture Kalman filter on the amortised posterior of each frame.

After a Kalman filter with a drift state (arXiv 2601.20561), here on measurements that do not know their sign
(`posterior/gaussian_sum.py`); started by `neural_posterior`'s particles. Assumes exact, known inputs, a drift that
walks at about the rates given, and days like the training days. Its estimate is of the state now less the cumulative
input, which drift may bring out of the start box.
"""

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import Field

from controller import preprocess
from controller.base import Estimate
from controller.posterior import artefact as posterior_artefact
from controller.posterior import gaussian_sum as kalman
from controller.posterior import information as posterior_information
from controller.posterior import particle_filter as posterior_filter
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.gaussian_sum import GaussianSum, Motion
from controller.strategies import neural_posterior
from controller.strategies.neural_posterior import NeuralPosterior
from twin.aberrations import index
from twin.day import DriftProperties
from twin.drift import by_coefficient
from twin.optics import Optics
from twin.options import Count, NonNegative, Positive, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

RATES = {"C10": 0.30, "C12a": 0.20, "C12b": 0.20, "C21a": 1.8, "C21b": 1.8, "C23a": 0.60, "C23b": 0.60}
"""Drift of a commercial twin, nm per root second: C1 0.30, A1 0.20, B2 0.60 (a third of C21) and A2 likewise."""

SUPPORT, QUERIES = 48, 32
STARTUP_MOST = 10
"""Frames after which the filter starts whatever the particles say."""
MARGIN = 3.0
"""Standard deviations, at the next frame, by which inputs keep every component within the tolerance."""
LOST = 4
"""So many frames in a row that do not fit the prediction: the search starts again."""


@validated
class Options:
    """Settings of the drift-aware tracker.

    Attributes:
        weights: shipped weights of `neural_posterior` by name, or a path.
        candidates: particles of the start.
        startup: frames before the filter may take over from the particles.
        rate_nm_per_sqrt_s: random walk, by coefficient or radial order as in a day's `drift`; what is left out
            stands still.
        speed_nm_per_s: rms drift velocity of each component, tracked along with the state; 0 tracks none.
        persistence_s: how long a velocity lasts.
        inflation: of the frames' covariances, whose errors are common to a day (docs/drift.md).
        dither_nm: while tracking, inputs bring the expected state this far from the null at most: nearer than the
            tolerance, and far enough to tell the sign.
        hypotheses: Gaussians kept.
        stop_probability: done when every component is in spec with this probability.
    """

    weights: str = "posterior"
    candidates: Annotated[int, Ge(32)] = 600
    startup: Count = 4
    rate_nm_per_sqrt_s: dict[str, NonNegative] = Field(default_factory=lambda: dict(RATES))
    speed_nm_per_s: NonNegative = 0.0
    persistence_s: Positive = 600.0
    inflation: Annotated[float, Ge(1)] = 1.5
    dither_nm: NonNegative = 5.0
    hypotheses: Annotated[int, Ge(2)] = 8
    stop_probability: Probability = 0.95

    def __post_init__(self) -> None:
        DriftProperties(rate_nm_per_sqrt_s=self.rate_nm_per_sqrt_s)  # refuses what is no coefficient

    def motion(self, space: StateSpace) -> Motion:
        """The drift of the calibrated coefficients."""
        rates = by_coefficient(self.rate_nm_per_sqrt_s)
        return Motion(rates[[index(name) for name in space.names]], self.speed_nm_per_s, self.persistence_s)


class Kalman:
    """Search with particles, then follow with a Gaussian sum: predict, multiply the frame in, stay near the null."""

    def __init__(self, space: StateSpace, trained: PosteriorArtefact, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """No frame, no lock."""
        self.space, self.rng = space, rng
        self.motion = self.options.motion(space)
        self.input_nm, self.clock_s, self.interval_s = space.zero, 0.0, 0.0
        self._search()

    def _search(self) -> None:
        """Particles over the whole start box."""
        settings = neural_posterior.Options(candidates=self.options.candidates)
        self.search = NeuralPosterior(self.space, self.trained, settings)
        self.search.reset(self.space, self.rng)
        self.search.input_nm = self.input_nm
        self.belief: GaussianSum | None = None
        self.strangers, self.started_s = 0, 0.0
        self.innovations2: list[float] = []

    def propose(self) -> Array:
        """While searching the particles' choice; then the most telling input among those that keep near the null."""
        if self.belief is None:
            return self.search.propose()
        inputs = self._near_null(kalman.predict(self.belief, self.motion, self.interval_s))
        drawn = self.belief.draw(SUPPORT, self.rng)[:, : self.space.dimension]
        scale, precision = self.trained.first.range_nm, self.trained.precision.precision
        gain = posterior_information.expected_information(drawn / scale, inputs / scale, precision)
        best: Array = inputs[np.argmax(gain)]
        return best - self.input_nm

    def _near_null(self, belief: GaussianSum) -> Array:
        """Cumulative inputs that bring the expected state within the dither of the null, (Q, n).

        Nearer where the belief is so wide that a component may else leave the tolerance.
        """
        n = self.space.dimension
        _, mean, cov = kalman.summarise(belief)
        direction = self.rng.standard_normal((QUERIES, n))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        aim = direction * self.options.dither_nm * np.sqrt(self.rng.random((QUERIES, 1)))
        room = np.maximum(self.space.tolerance - MARGIN * np.sqrt(np.diag(cov)[:n]), 0.0)
        return np.clip(np.clip(aim, -room, room) - mean[:n], -self.space.input, self.space.input)

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Multiply the frame's posterior into the particles or, once these agree, into the filter.

        Raises:
            ValueError: a frame of another shape than the weights' camera, or without signal.
        """
        self.input_nm = self.input_nm + delta_nm
        self.interval_s, self.clock_s = max(0.0, frame.clock_s - self.clock_s), frame.clock_s
        if self.belief is None:
            self.search.update(delta_nm, frame)
            self._start(frame)
        else:
            self._track(self.belief, frame)

    def _start(self, frame: Frame) -> None:
        """Hand over to the filter when the particles agree, or have had time enough."""
        count = len(self.search.frames)
        self.started_s = frame.clock_s if count == 1 else self.started_s
        sure = self.search.estimate().in_spec_probability(self.space.tolerance) >= self.options.stop_probability
        if count < self.options.startup or not (sure or count >= STARTUP_MOST):
            return
        states, probability = self.search.belief.candidates.states_nm, self.search.belief.probability
        found = kalman.from_particles(states, probability, self.motion, self.space)
        # The particles averaged over the search; a mean of equal weights lags by a third of the walk's variance.
        self.belief = kalman.predict(found, self.motion, (frame.clock_s - self.started_s) / 3)

    def _track(self, belief: GaussianSum, frame: Frame) -> None:
        """Predict to the frame's time, multiply it in; after too many strangers search again."""
        seen = kalman.measurement(self._read(frame), self.trained.first, self.options.inflation)
        predicted = kalman.predict(belief, self.motion, self.interval_s)
        step = kalman.update(
            predicted, seen, self.trained.states, self.trained.first, self.input_nm, posterior_filter.DOUBT,
            self.options.hypotheses,
        )  # fmt: skip
        self.belief = step.belief
        self.innovations2.append(step.innovation2)
        self.strangers = self.strangers + 1 if step.missed > 0.5 else 0
        if self.strangers >= LOST:
            self._search()

    def _read(self, frame: Frame) -> NDArray[np.float32]:
        """The frame's mixture, (K, P)."""
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        none = posterior_filter.FramePosteriors.none(self.trained, self.space)
        return none.append(*preprocess.whole_and_patches(frame), self.space.zero).mixtures[0]

    def estimate(self) -> Estimate:
        """Moments of the more probable mode of the state now, less the cumulative input."""
        if self.belief is None:
            return self.search.estimate()
        share, mean, cov = kalman.summarise(self.belief)
        n = self.space.dimension
        return Estimate(mean[:n], cov[:n, :n], share)

    @property
    def done(self) -> bool:
        """Every component in spec with the wanted probability."""
        return bool(self.estimate().in_spec_probability(self.space.tolerance) >= self.options.stop_probability)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Kalman:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
        WeightsError: weights for other optics, coefficients or ranges.
    """
    chosen = checked_options(Options, options)
    return Kalman(space, posterior_artefact.load_for(chosen.weights, optics, space), chosen)
