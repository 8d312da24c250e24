"""Another controller's estimate, moved to the nearest maximum of the Whittle likelihood of all frames' spectra.

The parametric spectrum (`spectrum.model`) knows the physics of a thin film exactly and nothing of thick ones: on a day
that it describes it is sharper than a network, on another it is biased.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controller.base import Controller, Estimate
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.fit import Mode, Observation
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

ITERATIONS = 6
INFLATION, BIAS_NM = 3.0, 0.3
"""Of the fitted covariance, and per component: as for `spectrum_ml`, which fits the same model."""
NEAR = 5.0
"""A maximum further than so many of the other estimate's deviations is another one: the estimate is left alone."""


class WhittlePolished:
    """Asks and learns as the inner controller does; its estimate is climbed from there."""

    def __init__(self, optics: Optics, space: StateSpace, inner: Controller, stop_probability: float) -> None:
        self.inner, self.stop_probability = inner, stop_probability
        self.grid = spectrum_model.grid(optics)
        self.space, self.places = space, spectrum_fit.first_order(space)
        self._forget()

    def _forget(self) -> None:
        self.cumulative_nm: Array = self.space.zero
        self.seen: list[Observation] = []
        self.mode: Mode | None = None

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything."""
        self.space, self.places = space, spectrum_fit.first_order(space)
        self.inner.reset(space, rng)
        self._forget()

    def propose(self) -> Array:
        """The inner controller's input."""
        return self.inner.propose()

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Tell the inner controller, then climb from its estimate once the sign is decided."""
        self.cumulative_nm = self.cumulative_nm + delta_nm
        self.inner.update(delta_nm, frame)
        self.seen.append(Observation(self.cumulative_nm[self.places], spectrum_model.periodogram(frame)))
        belief = self.inner.estimate()
        self.mode = self._climbed(belief) if belief.sign_decided else None

    def _climbed(self, belief: Estimate) -> Mode | None:
        """The maximum near an estimate, if there is one."""
        start = belief.mean_nm[self.places]
        theta = spectrum_fit.starting_theta(start) if self.mode is None else self.mode.theta.copy()
        theta[:3] = start
        found = spectrum_fit.fit(theta, self.seen, self.grid, self.space.start[self.places], ITERATIONS)
        offset = found.state_nm - start
        cov = belief.cov_nm2[np.ix_(self.places, self.places)] + self._covariance(found)
        return found if offset @ np.linalg.solve(cov, offset) < NEAR**2 else None

    def _covariance(self, mode: Mode) -> Array:
        return INFLATION * mode.covariance[:3, :3] + BIAS_NM**2 * np.eye(3)

    def estimate(self) -> Estimate:
        """The maximum's state and curvature where there is one; the inner estimate of everything else."""
        belief = self.inner.estimate()
        if self.mode is None:
            return belief
        mean, cov = belief.mean_nm.copy(), belief.cov_nm2.copy()
        limit = self.space.start[self.places]
        mean[self.places] = np.clip(self.mode.state_nm, -limit, limit)
        cov[self.places, :] = cov[:, self.places] = 0.0
        cov[np.ix_(self.places, self.places)] = self._covariance(self.mode)
        return replace(belief, mean_nm=mean, cov_nm2=cov, samples_nm=None, weights=None)

    @property
    def done(self) -> bool:
        """Every component in spec with the wanted probability."""
        return self.estimate().in_spec(self.space, self.stop_probability)
