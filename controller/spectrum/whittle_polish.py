"""Another controller's estimate, moved to the nearest maximum of the Whittle likelihood of all frames' spectra.

The parametric spectrum (`spectrum.model`) describes thin films only: on a day within its assumptions it is more precise
than a network, on other days it is biased.
"""

from dataclasses import replace

import numpy as np

from controller.base import Controller, Estimate
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.fit import Mode, Observation
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

ITERATIONS = 6
"""Scoring steps per frame."""
INFLATION, BIAS_NM = 3.0, 0.3
"""Variance inflation and model error per component, as for `spectrum_ml`, which fits the same model."""
NEAR = 5.0
"""Largest Mahalanobis distance between estimate and maximum; a maximum further off belongs to another mode."""


class WhittlePolished:
    """Propose and update as the inner controller; climb from its estimate to the maximum of the likelihood."""

    def __init__(self, optics: Optics, space: StateSpace, inner: Controller, stop_probability: float) -> None:
        self.inner, self.stop_probability = inner, stop_probability
        self.grid = spectrum_model.grid(optics)
        self.space, self.places = space, spectrum_fit.first_order(space)
        self._forget()

    def _forget(self) -> None:
        self.cumulative_nm: Array = self.space.zero
        self.observations: list[Observation] = []
        self.mode: Mode | None = None

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything."""
        self.space, self.places = space, spectrum_fit.first_order(space)
        self.inner.reset(space, rng)
        self._forget()

    def propose(self) -> Array:
        """Return the inner controller's input."""
        return self.inner.propose()

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Update the inner controller, then climb from its estimate once the sign is decided."""
        self.cumulative_nm = self.cumulative_nm + delta_nm
        self.inner.update(delta_nm, frame)
        self.observations.append(Observation(self.cumulative_nm[self.places], spectrum_model.periodogram(frame)))
        inner = self.inner.estimate()
        self.mode = self._climbed(inner) if inner.sign_decided else None

    def _climbed(self, inner: Estimate) -> Mode | None:
        """Return the maximum near an estimate, if there is one."""
        start = inner.mean_nm[self.places]
        theta = spectrum_fit.starting_theta(start) if self.mode is None else self.mode.theta.copy()
        theta[:3] = start
        mode = spectrum_fit.fit(theta, self.observations, self.grid, self.space.start[self.places], ITERATIONS)
        offset = mode.state_nm - start
        cov = inner.cov_nm2[np.ix_(self.places, self.places)] + self._covariance(mode)
        return mode if offset @ np.linalg.solve(cov, offset) < NEAR**2 else None

    def _covariance(self, mode: Mode) -> Array:
        return INFLATION * mode.covariance[:3, :3] + BIAS_NM**2 * np.eye(3)

    def estimate(self) -> Estimate:
        """Return the inner estimate, with state and covariance of the maximum in the first order if there is one."""
        inner = self.inner.estimate()
        if self.mode is None:
            return inner
        mean, cov = inner.mean_nm.copy(), inner.cov_nm2.copy()
        limit = self.space.start[self.places]
        mean[self.places] = np.clip(self.mode.state_nm, -limit, limit)
        cov[self.places, :] = cov[:, self.places] = 0.0
        cov[np.ix_(self.places, self.places)] = self._covariance(self.mode)
        return replace(inner, mean_nm=mean, cov_nm2=cov, samples_nm=None, weights=None)

    @property
    def done(self) -> bool:
        """Whether every component is in spec with probability `stop_probability`."""
        return self.estimate().in_spec(self.space, self.stop_probability)
