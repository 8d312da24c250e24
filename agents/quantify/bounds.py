"""Lower bounds of the errors of columns under shot noise, with and without shifts of the lines."""

import math

import numpy as np

from agents.quantify.columns import PARAMETERS, Columns, expectation
from agents.quantify.line_shifts import Axes, prior_precision
from agents.quantify.normal import normal_equations
from twin.arrays import Floats


def column_bound(columns: Columns, shape: tuple[int, int], axes: Axes | None = None, least: float = 0.0) -> Floats:
    """Cramer-Rao bound of each column's x, y, height and logarithm of width as a covariance, (N, 4, 4).

    The inverse of the Fisher information of independent Poisson counts, eqs 2.26-2.27 of Friedrich 2023, with the
    background as one more parameter. With `axes` the shifts of the lines are unknown, too, and drawn from these series:
    the Bayesian bound of Van Trees (Detection, Estimation and Modulation Theory I, 1968, section 2.4.3) at no shift.

    Args:
        columns: true columns; heights and background in electrons per pixel.
        shape: rows and columns of the image.
        axes: series of the lines' shifts.
        least: smallest expectation in electrons that counts.
    """
    rows = shape[0]
    expected = expectation(columns, np.zeros((2, rows)), shape)
    weight = 1.0 / np.maximum(expected.values, max(least, 1e-12))
    nothing = np.zeros(PARAMETERS * len(columns))
    residual, shared = np.zeros(shape), np.ones((1, *shape))
    equations = normal_equations(expected, residual, weight, shared, (nothing, nothing), lines=axes is not None)
    information = equations.reduced.copy()
    if axes is not None:
        information[: 2 * rows, : 2 * rows] += prior_precision(axes, rows)
    return equations.columns_covariance(np.asarray(np.linalg.inv(information), np.float64), PARAMETERS)


def cross_section_sigma(columns: Columns, covariance: Floats) -> Floats:
    """Standard error of each cross-section from the covariance of its parameters (eqs 2.28-2.29), (N,).

    Args:
        columns: the columns.
        covariance: of x, y, height and logarithm of width, (N, 4, 4).
    """
    by_height = columns.volume * columns.width_px**2
    by_logarithm = 2 * columns.volume * columns.height * columns.width_px**2
    variance = (
        by_height**2 * covariance[:, 2, 2]
        + 2 * by_height * by_logarithm * covariance[:, 2, 3]
        + by_logarithm**2 * covariance[:, 3, 3]
    )
    return np.sqrt(np.maximum(variance, 0.0))


def mean_distance(covariance: Floats) -> Floats:
    """Mean length of an error in the plane that is normal with these covariances of x and y, (N, 2, 2) to (N,).

    sqrt(2 / pi) s1 E(1 - s2^2 / s1^2) with the principal deviations s1 >= s2 and the complete elliptic integral.
    """
    from scipy.special import ellipe

    variance = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    small, large = variance[:, 0], np.maximum(variance[:, 1], 1e-300)
    return np.asarray(np.sqrt(2 / math.pi * large) * ellipe(1.0 - small / large))
