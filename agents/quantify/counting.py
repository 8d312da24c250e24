"""Number of atoms in each column from its cross-section: by a mixture of normals, or by a simulated library."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.quantify.errors import QuantifyError
from twin.arrays import Floats

MOST_ATOMS = 30
"""Components that a mixture is tried with, at most."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Atoms of columns.

    Attributes:
        atoms: most probable number, (N,).
        probability: of that number, (N,).
        sigma: standard deviation of the number under all probabilities, (N,).
        unlike: probability that no number of atoms explains the cross-section, (N,).
        means: cross-section of 1, 2, ... atoms, or of the components of the mixture, (K,).
        first: atoms of the first component.
        icl: integrated classification likelihood by number of components, from one on; empty for a library.
    """

    atoms: NDArray[np.int64]
    probability: Floats
    sigma: Floats
    unlike: Floats
    means: Floats
    first: int
    icl: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """Columns that are more probably of some number of atoms than of none, (N,)."""
        return self.unlike < 0.5


SPREAD = 0.004
"""Relative spread of cross-sections of columns alike beyond their standard errors: background, neighbours, model."""


def by_library(cross_section: Floats, sigma: Floats, library: Floats, spread: float = SPREAD) -> Counts:
    """Compare cross-sections with those of simulated columns of 1, 2, ... atoms.

    Every number of the library is as probable as any other beforehand. A cross-section far from all of them, in
    standard deviations, belongs to none.

    Args:
        cross_section: measured, (N,).
        sigma: their standard errors, (N,).
        library: of 1, 2, ... atoms in the same units, rising, (K,).
        spread: relative error of the library.

    Raises:
        QuantifyError: a library that does not rise.

    Example:
        >>> import numpy as np
        >>> found = by_library(np.array([2.1, 4.8]), np.array([0.2, 0.2]), np.arange(1.0, 8.0))
        >>> found.atoms.tolist()
        [2, 5]
    """
    means = np.asarray(library, np.float64)
    if means.ndim != 1 or not len(means) or not np.all(np.diff(means) > 0) or means[0] <= 0:
        raise QuantifyError("a library holds positive cross-sections of 1, 2, ... atoms that rise with their number")
    variance = sigma[:, None] ** 2 + (spread * means) ** 2
    share = _shares(cross_section, means, variance, np.full(len(means), -np.log(len(means))))
    return _counts(share, means, 1, np.empty(0))


def by_mixture(
    cross_section: Floats,
    sigma: Floats,
    most: int = MOST_ATOMS,
    first: int = 1,
    used: NDArray[np.bool_] | None = None,
) -> Counts:
    """Counts from the cross-sections alone: normals of one common width, as many as the ICL prefers.

    De Backer et al., Ultramicroscopy 134 (2013) 23: ICL(K) = -2 log L + 2 E + 2 K log N with the entropy E of the
    assignment. Each column's own standard error adds to the common width.

    Args:
        cross_section: measured, (N,).
        sigma: their standard errors, (N,).
        most: largest number of components.
        first: number of atoms in the thinnest columns, which cannot be found from the image.
        used: columns that make the mixture, (N,); the others are only assigned. None uses all.

    Raises:
        QuantifyError: fewer than four columns.
    """
    every, every_sigma = np.asarray(cross_section, np.float64), np.asarray(sigma, np.float64)
    chosen = np.ones(len(every), np.bool_) if used is None else used
    values, sigma = every[chosen], every_sigma[chosen]
    if len(values) < 4:
        raise QuantifyError(f"counting by a mixture needs at least 4 columns, got {len(values)}")
    scores, fits = [], []
    for components in range(1, min(most, len(values) // 2) + 1):
        means, width, weights, score = _fitted_mixture(values, sigma, components)
        variance = sigma[:, None] ** 2 + width**2
        share = _shares(values, means, variance, np.log(weights))
        entropy = -float(np.sum(share * np.log(np.maximum(share, 1e-300))))
        scores.append(-2 * score + 2 * entropy + 2 * components * np.log(len(values)))
        fits.append((means, width, weights))
    means, width, weights = fits[int(np.argmin(scores))]
    share = _shares(every, means, every_sigma[:, None] ** 2 + width**2, np.log(weights))
    return _counts(share, means, first, np.array(scores))


STARTS, STEPS = 4, 300


def _fitted_mixture(values: Floats, sigma: Floats, components: int) -> tuple[Floats, float, Floats, float]:
    """Means, common width, weights and log likelihood of the best of a few starts, evenly spread or by quantiles."""
    spread = np.linspace(values.min(), values.max(), 2 * components + 1)[1::2]
    quantiles = np.quantile(values, (np.arange(components) + 0.5) / components)
    starts = [spread + t * (quantiles - spread) for t in np.linspace(0, 1, STARTS)]
    return max((_climb(values, sigma, start) for start in starts), key=lambda found: found[3])


def _climb(values: Floats, sigma: Floats, means: Floats) -> tuple[Floats, float, Floats, float]:
    """Expectation-maximisation from given means; for a common width beside known standard errors."""
    components = len(means)
    width = max(float(np.std(values)) / (2 * components), 1e-9 * float(np.ptp(values)) + 1e-300)
    weights, score = np.full(components, 1 / components), -np.inf
    for _ in range(STEPS):
        variance = sigma[:, None] ** 2 + width**2
        logs = -0.5 * ((values[:, None] - means) ** 2 / variance + np.log(2 * np.pi * variance)) + np.log(weights)
        top = logs.max(axis=1, keepdims=True)
        total = np.exp(logs - top).sum(axis=1)
        after = float(np.sum(np.log(total) + top[:, 0]))
        share = np.exp(logs - top) / total[:, None]
        if after - score < 1e-6 * abs(after):
            return means, width, weights, after
        score = after
        weights = np.maximum(share.mean(axis=0), 1e-12)
        pull = share / variance
        means = (pull * values[:, None]).sum(axis=0) / np.maximum(pull.sum(axis=0), 1e-300)
        # The part of each deviation that the common width explains (latent normal).
        kept = width**2 / variance
        square = (kept * (values[:, None] - means)) ** 2 + kept * sigma[:, None] ** 2
        width = max(float(np.sqrt(np.sum(share * square) / len(values))), 1e-6 * float(np.std(values)) + 1e-300)
    return means, width, weights, score


UNLIKE = 1e-3
"""Probability beforehand that a column is like none of the components: overlapping, of another element, on a step."""


def _shares(values: Floats, means: Floats, variance: Floats, log_weights: Floats) -> Floats:
    """Probability of each component for each value, (N, K); what is left of one is that of none of them.

    A column like none has any cross-section up to twice the largest.
    """
    logs = -0.5 * ((values[:, None] - means) ** 2 / variance + np.log(2 * np.pi * variance)) + log_weights
    none = np.full((len(values), 1), np.log(UNLIKE / (2 * np.abs(means).max())))
    every = np.hstack([logs + np.log1p(-UNLIKE), none])
    share = np.exp(every - every.max(axis=1, keepdims=True))
    return np.asarray(share[:, :-1] / share.sum(axis=1, keepdims=True))


def _counts(share: Floats, means: Floats, first: int, icl: Floats) -> Counts:
    order = np.argsort(means)
    means, share = means[order], share[:, order]
    atoms = np.arange(len(means)) + first
    any_of_them = share.sum(axis=1)
    within = share / np.maximum(any_of_them, 1e-300)[:, None]
    mean = within @ atoms
    spread = np.sqrt(np.maximum(within @ atoms.astype(np.float64) ** 2 - mean**2, 0.0))
    best = np.argmax(share, axis=1)
    return Counts(atoms[best], share[np.arange(len(share)), best], spread, 1.0 - any_of_them, means, first, icl)
