"""Slow change of the calibrated coefficients between exposures: a random walk, off unless the day has rates."""

import math

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import TERMS, index
from twin.day import DriftProperties
from twin.state import StateSpace

Array = NDArray[np.floating]


def rates_nm_per_sqrt_s(space: StateSpace, drift: DriftProperties) -> Array:
    """Random-walk rate of each calibrated coefficient, by its radial order, shape (n,); zero where not given."""
    by_order = drift.rate_nm_per_sqrt_s or {}
    return np.array([by_order.get(str(TERMS[index(name)].n), 0.0) for name in space.names])


def increment_nm(seconds: float, space: StateSpace, drift: DriftProperties, rng: np.random.Generator) -> Array:
    """Change of the state over an interval, nm, shape (n,): independent normals of standard deviation rate sqrt(t)."""
    return rates_nm_per_sqrt_s(space, drift) * math.sqrt(seconds) * rng.standard_normal(space.dimension)
