"""Maximum likelihood of the film's power spectrum over all frames (Whittle 1953; model in `spectrum.model`).

Assumes a thin amorphous film, first-order aberrations, exact inputs and a day that stays as it is; focal spread,
source, thickness, camera scale and rotation are fitted. The sign comes from frames with a known input between them.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.stats import qmc

from controller import preprocess
from controller.base import Estimate, StopsInSpec, embed, uniform_prior
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.fit import Mode, Observation
from twin.optics import Optics
from twin.options import Count, NonNegative, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1.0]])


@validated
class Options:
    """Settings of `spectrum_ml`.

    Attributes:
        particles: initial states scored on the first frame, from which the modes are sought.
        modes: how many of them are refined.
        iterations: scoring steps per mode on each of the first two frames; later ones start warm and take three.
        offset_nm: how far from the null later frames are taken, cycling through the coefficients and their signs.
        inflation: of the fitted covariance; the curvature alone covered too little on the two simulated days it was
            tried on.
        bias_nm: standard deviation of the model's own error per component, added to the covariance.
        stop_probability: done when all components are within tolerance with this probability.
    """

    particles: Annotated[int, Ge(16)] = 1024
    modes: Annotated[int, Ge(2)] = 8
    iterations: Count = 6
    offset_nm: Positive = 15.0
    inflation: Annotated[float, Ge(1)] = 3.0
    bias_nm: NonNegative = 0.3
    stop_probability: Positive = 0.99


class SpectrumMl(StopsInSpec):
    """Multi-start on the first frame; then each mode climbs the likelihood of everything seen so far."""

    def __init__(self, optics: Optics, space: StateSpace, options: Options) -> None:
        self.options = options
        self.grid = spectrum_model.grid(optics)
        self.pixels = optics.camera_pixels
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything; `space` must hold C10, C12a and C12b."""
        self.space, self.rng = space, rng
        self.places = spectrum_fit.first_order(space)
        self.box_nm = space.start[self.places]
        self.cumulative_nm: Array = space.zero
        self.seen: list[Observation] = []
        self.modes: list[Mode] = []

    def propose(self) -> Array:
        """To the best mode's null, a known offset beside it; the mirror mode then lies twice its distance away."""
        if not self.modes:
            return self.space.zero
        offset = DIRECTIONS[(len(self.seen) - 1) % len(DIRECTIONS)] * self.options.offset_nm
        target = self.space.zero
        target[self.places] = offset - self.modes[0].state_nm
        return np.clip(target, -self.space.input, self.space.input) - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Add the frame to the likelihood and refit.

        Raises:
            ValueError: a frame of another shape than the camera's, or without signal.
        """
        self.cumulative_nm = self.cumulative_nm + delta_nm
        preprocess.check_shape(frame, self.pixels)
        measured = spectrum_model.periodogram(frame)
        self.seen.append(Observation(self.cumulative_nm[self.places], measured))
        early = len(self.seen) <= 2
        starts = self._starts() if early else [mode.theta for mode in self.modes]
        iterations = self.options.iterations if early else 3  # warm starts
        self.modes = spectrum_fit.fit_modes(starts, self.seen, self.grid, self.box_nm, iterations)

    def _starts(self) -> list[Array]:
        """The best and well separated of quasi-random states, on the frames so far at the nominal day."""
        draws = qmc.Halton(3, rng=self.rng).random(self.options.particles)
        states = (2 * draws - 1) * self.box_nm
        starts = spectrum_fit.scanned(states, self.seen, self.grid, self.options.modes)
        # On one frame every mode has a mirror image, which quasi-random states may have missed.
        mirrored = [spectrum_fit.mirrored(mode).theta for mode in self.modes]
        return starts + [mode.theta for mode in self.modes] + mirrored

    def estimate(self) -> Estimate:
        """Moments over the modes of the more probable sign; the uniform prior before the first frame."""
        if not self.modes:
            return uniform_prior(self.space)
        mean, covariance, probability = spectrum_fit.moments(self.modes)
        bias = self.options.bias_nm**2 * np.eye(3)
        return embed(mean, self.options.inflation * covariance + bias, probability, self.space, self.places)


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> SpectrumMl:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
        ValueError: the state lacks one of C10, C12a, C12b.
    """
    return SpectrumMl(optics, space, checked_options(Options, options))
