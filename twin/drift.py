"""Slow change of the aberrations between exposures: random walk, step and wander, each off by default.

Arrays hold all coefficients in the order of `aberrations.NAMES`: calibrated and residual ones drift alike.
"""

import math
from collections.abc import Mapping

import numpy as np

from twin.aberrations import NAMES, TERMS
from twin.arrays import Array
from twin.day import DRIFT_PRESETS, DriftProperties


def by_coefficient(values: Mapping[str, float] | None) -> Array:
    """Values by radial order as text or by name as an array, (25,); a name takes precedence; zero by default."""
    given = values or {}
    return np.array([given.get(term.name, given.get(str(term.n), 0.0)) for term in TERMS])


def rates_nm_per_sqrt_s(drift: DriftProperties) -> Array:
    """Rate of the random walk, nm per root second, shape (25,): by name, by order, or from the preset."""
    preset, given = DRIFT_PRESETS.get(drift.preset or "", {}), drift.rate_nm_per_sqrt_s or {}
    return by_coefficient({**{name: rate for name, rate in preset.items() if name[1] not in given}, **given})


def draw_phases(rng: np.random.Generator) -> Array:
    """Draw the phase of each coefficient's wander for a session, rad, shape (25,), uniform."""
    return rng.uniform(0.0, 2 * math.pi, len(NAMES))


def walk_nm(seconds: float, drift: DriftProperties, rng: np.random.Generator) -> Array:
    """Random walk over an interval, nm, shape (25,): independent normals of standard deviation rate sqrt(t)."""
    return rates_nm_per_sqrt_s(drift) * math.sqrt(seconds) * rng.standard_normal(len(NAMES))


def excursion_nm(clock_s: float, drift: DriftProperties, phases_rad: Array) -> Array:
    """Step and wander at a time, nm, shape (25,), without the random walk."""
    stepped = drift.step_nm if clock_s > drift.step_at_s else None
    turn = 2 * math.pi * clock_s / drift.wander_period_s
    return by_coefficient(stepped) + by_coefficient(drift.wander_nm) * np.sin(turn + phases_rad)


def increment_nm(
    clock_s: float, seconds: float, drift: DriftProperties, phases_rad: Array, rng: np.random.Generator
) -> Array:
    """Change of every coefficient from `clock_s` to `seconds` later, nm, shape (25,)."""
    walked = walk_nm(seconds, drift, rng)
    before, after = (excursion_nm(time_s, drift, phases_rad) for time_s in (clock_s, clock_s + seconds))
    return walked + (after - before)
