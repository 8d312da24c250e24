"""Maximum likelihood of the film's power spectrum over all frames (Whittle 1953; model in `spectrum.model`).

Assumes a thin amorphous film, first-order aberrations, exact inputs and a day without drift; focal spread, source
size, thickness, camera scale and rotation are fitted. Frames with a known input between them decide the sign.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from controller.base import Estimate, StopOptions, embed, uniform_prior
from controller.spectrum import fit as spectrum_fit
from controller.spectrum.base import SpectrumController
from controller.spectrum.fit import Mode, Observation
from twin.arrays import Array
from twin.optics import Optics
from twin.options import Count, NonNegative, Positive, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1.0]])


@validated
class Options(StopOptions):
    """Settings of `spectrum_ml`.

    Attributes:
        particles: number of initial states scored on the first frame, as starting points of the modes.
        modes: number of modes refined.
        iterations: scoring steps per mode on each of the first two frames; later frames start warm and take three.
        offset_nm: distance from the null of later frames, cycling through the coefficients and their signs.
        inflation: factor on the fitted covariance; the curvature alone gave too little coverage on the two simulated
            days it was tried on.
        bias_nm: standard deviation of the model error per component, added to the covariance.
    """

    particles: Annotated[int, Ge(16)] = 1024
    modes: Annotated[int, Ge(2)] = 8
    iterations: Count = 6
    offset_nm: Positive = 15.0
    inflation: Annotated[float, Ge(1)] = 3.0
    bias_nm: NonNegative = 0.3
    stop_probability: Probability = 0.99


class SpectrumMl(SpectrumController):
    """Fit from many starting points to the first frame; then each mode climbs the likelihood of all frames so far."""

    options: Options

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything; `space` must contain C10, C12a and C12b."""
        super().reset(space, rng)
        self.box_nm = space.start[self.places]
        self.observations: list[Observation] = []
        self.modes: list[Mode] = []

    def propose(self) -> Array:
        """Return the input to a known offset from the best mode's null: its mirror image then lies twice as far off."""
        if not self.modes:
            return self.space.zero
        offset = DIRECTIONS[(len(self.observations) - 1) % len(DIRECTIONS)] * self.options.offset_nm
        target = self.space.zero
        target[self.places] = offset - self.modes[0].state_nm
        return self.input_to(target)

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Add the frame to the likelihood and refit."""
        measured = self.measure(delta_nm, frame)
        self.observations.append(Observation(self.cumulative_nm[self.places], measured))
        early = len(self.observations) <= 2
        starts = self._starts() if early else [mode.theta for mode in self.modes]
        iterations = self.options.iterations if early else 3  # warm starts
        self.modes = spectrum_fit.fit_modes(starts, self.observations, self.grid, self.box_nm, iterations)

    def _starts(self) -> list[Array]:
        """Return the best, well separated quasi-random states on the nominal day, and the modes with mirror images."""
        states = spectrum_fit.quasi_random(self.options.particles, self.box_nm, self.rng)
        starts = spectrum_fit.scanned(states, self.observations, self.grid, self.options.modes)
        # On one frame every mode has a mirror image, which quasi-random states may have missed.
        mirrored = [spectrum_fit.mirrored(mode).theta for mode in self.modes]
        return starts + [mode.theta for mode in self.modes] + mirrored

    def estimate(self) -> Estimate:
        """Return the moments over the modes of the more probable sign; the uniform prior before the first frame."""
        if not self.modes:
            return uniform_prior(self.space)
        mean, covariance, probability = spectrum_fit.moments(self.modes)
        bias = self.options.bias_nm**2 * np.eye(3)
        return embed(mean, self.options.inflation * covariance + bias, probability, self.space, self.places)


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> SpectrumMl:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"offset_nm": 10})
        >>> controller.propose().tolist()
        [0.0, 0.0, 0.0]
    """
    return SpectrumMl(optics, space, checked_options(Options, options))
