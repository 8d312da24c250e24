"""Shifts of the lines of a scan as an autoregressive series, and its parameters from an image.

The series is that of `twin.scan.errors`: D[j] = phi D[j-1] + a[j], a normal of rms sigma (Friedrich 2023, eqs
2.14-2.15).
"""

from dataclasses import dataclass

import numpy as np

from twin.arrays import Floats

LARGEST_CORRELATION = 0.98
SMALLEST_PX = 1e-3
"""Rms below which the shifts of a line move no column by anything that can be seen."""
START_PX = 0.3
START_CORRELATION = 0.5


@dataclass(frozen=True)
class Series:
    """Parameters of the shifts along one axis.

    Attributes:
        sigma_px: rms innovation of each line.
        correlation: of neighbouring lines, phi.
    """

    sigma_px: float = START_PX
    correlation: float = START_CORRELATION

    def precision(self, lines: int) -> Floats:
        """Inverse covariance of the shifts, tridiagonal, px^-2, (lines, lines)."""
        diagonal = np.full(lines, 1.0 + self.correlation**2)
        diagonal[[0, -1]] = 1.0
        if lines == 1:
            diagonal[:] = 1.0 - self.correlation**2
        matrix = np.diag(diagonal)
        beside = np.arange(lines - 1)
        matrix[beside, beside + 1] = matrix[beside + 1, beside] = -self.correlation
        return matrix / self.sigma_px**2


Axes = tuple[Series, Series]
"""Series along x, the fast axis, and along y."""


def prior_precision(axes: Axes, lines: int) -> Floats:
    """Inverse covariance of all shifts, those along x first, px^-2, (2 lines, 2 lines)."""
    matrix = np.zeros((2 * lines, 2 * lines))
    for number, series in enumerate(axes):
        part = slice(number * lines, (number + 1) * lines)
        matrix[part, part] = series.precision(lines)
    return matrix


def reestimated(mean_px: Floats, covariance_px2: Floats, correlation: float | None = None) -> Series:
    """Series that maximises the expected likelihood of shifts known by mean and covariance: the M-step.

    Shumway and Stoffer, J. Time Series Analysis 3 (1982) 253, for a scalar state.

    Args:
        mean_px: posterior mean of the shifts, (lines,).
        covariance_px2: their posterior covariance, (lines, lines).
        correlation: if it is known.
    """
    moments = np.outer(mean_px, mean_px) + covariance_px2
    diagonal = np.diagonal(moments)
    now, before, across = diagonal[1:].sum(), diagonal[:-1].sum(), np.diagonal(moments, 1).sum()
    limit = LARGEST_CORRELATION
    if correlation is None:
        correlation = float(np.clip(across / before, -limit, limit)) if before > 0 else 0.0
    first = (1.0 - correlation**2) * diagonal[0]
    variance = (now - 2 * correlation * across + correlation**2 * before + first) / len(mean_px)
    return Series(max(float(np.sqrt(max(variance, 0.0))), SMALLEST_PX), correlation)


def learned(information: Floats, pull: Floats, axes: Axes, rounds: int, free: bool = True) -> tuple[Axes, Floats]:
    """Expectation-maximisation of both series for a linearised image.

    Args:
        information: of the image about the shifts, px^-2, (2 lines, 2 lines).
        pull: information times the shifts that the image alone would prefer, px^-1, (2 lines,).
        axes: series to begin with.
        rounds: number of steps.
        free: estimate the correlations, too.

    Returns:
        The series, and the mean of the shifts under them, px, (2 lines,).
    """
    lines = len(pull) // 2
    mean, covariance = posterior(information, pull, axes)
    for _ in range(rounds):
        parts = (slice(0, lines), slice(lines, None))
        x, y = (
            reestimated(mean[part], covariance[part, part], None if free else series.correlation)
            for part, series in zip(parts, axes, strict=True)
        )
        axes = (x, y)
        mean, covariance = posterior(information, pull, axes)
    return axes, mean


def posterior(information: Floats, pull: Floats, axes: Axes) -> tuple[Floats, Floats]:
    """Mean, px, (2 lines,), and covariance, px^2, (2 lines, 2 lines), of the shifts."""
    from scipy.linalg import cho_factor, cho_solve

    lines = len(pull) // 2
    factor = cho_factor(information + prior_precision(axes, lines), lower=True)
    return cho_solve(factor, pull), cho_solve(factor, np.eye(2 * lines))
