"""Optimum of a figure of merit while too few points are measured for a fit."""

import numpy as np

from twin.arrays import Array


def merit_centre(points: Array, values: Array) -> Array:
    """Mean of points (P, n) weighted by exp(value / standard deviation of the values), shape (n,)."""
    spread = float(np.std(values))
    weights = np.exp((values - np.max(values)) / spread) if spread > 0 else np.ones(len(values))
    return np.asarray(weights @ points / weights.sum())
