"""Groups of codes: k-means and Gaussian mixtures by scikit-learn, and how many there are."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture

from agents.codes.base import CodeError, checked_examples
from twin.arrays import Array, Floats

Method = Literal["kmeans", "mixture"]
Rule = Literal["silhouette", "elbow", "bic"]
STARTS = 3
"""Starts of k-means and of the mixture; the best is kept."""
SHARED = 2000
"""Codes that the silhouette is measured on."""
RIDGE = 1e-6
"""Added to the variances of a mixture, in units of the codes' mean variance."""
SOFTEST = 1e-12


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of codes, largest first.

    Attributes:
        label: group of each code, (N,).
        responsibility: probability of each group for each code, (N, K).
        centres: (K, k).
    """

    label: NDArray[np.int64]
    responsibility: Floats
    centres: Floats

    def __len__(self) -> int:
        return len(self.centres)


def grouped(codes: Array, count: int, method: Method = "mixture", seed: int = 0) -> Groups:
    """Divide codes (N, k) into `count` groups.

    "kmeans" is Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii 2007), its responsibilities those of
    round Gaussians of the mean spread about the centres; "mixture" has Gaussians of full covariances.

    Raises:
        CodeError: fewer codes than groups.

    Example:
        >>> codes = np.repeat([[0.0], [9.0]], [20, 10], axis=0) + np.linspace(0, 1, 30)[:, None]
        >>> found = grouped(codes, 2, "kmeans")
        >>> found.label.tolist() == [0] * 20 + [1] * 10, len(found)
        (True, 2)
    """
    values = checked_examples(codes, max(2, count))
    if method == "kmeans":
        fitted = k_means(values, count, seed)
        centres, label = fitted.cluster_centers_, fitted.labels_
        variance = max(fitted.inertia_ / values.size, SOFTEST)
        distance = ((values[:, None] - centres) ** 2).sum(axis=2) / (2 * variance)
        weight = np.exp(-(distance - distance.min(axis=1, keepdims=True)))
        responsibility = weight / weight.sum(axis=1, keepdims=True)
    else:
        fitted = mixture(values, count, seed)
        centres, responsibility = fitted.means_, fitted.predict_proba(values)
        label = responsibility.argmax(axis=1)
    order = np.argsort(-np.bincount(label, minlength=count), kind="stable")
    return Groups(np.argsort(order)[label].astype(np.int64), responsibility[:, order], centres[order])


def k_means(codes: Array, count: int, seed: int = 0) -> KMeans:
    """Fit k-means, the best of several starts; of codes that are alike some groups stay empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # says so to a programmer
        return KMeans(count, n_init=STARTS, random_state=seed).fit(codes)


def mixture(codes: Array, count: int, seed: int = 0, starts: int = STARTS) -> GaussianMixture:
    """Fit `count` Gaussians of full covariances to codes (N, k), the best of some starts."""
    values = np.asarray(codes, np.float64)
    ridge = max(RIDGE * float(values.var(axis=0).mean()), SOFTEST)
    made = GaussianMixture(count, covariance_type="full", n_init=starts, reg_covar=ridge, random_state=seed)
    return made.fit(values)


def silhouette(codes: Array, label: NDArray[np.integer]) -> float:
    """Mean silhouette of at most `SHARED` codes (Rousseeuw 1987); 0 for a single group."""
    if len(np.unique(label)) < 2:
        return 0.0
    step = -(-len(label) // SHARED)
    if len(np.unique(label[::step])) < 2 or len(label[::step]) <= len(np.unique(label[::step])):
        step = 1
    return float(silhouette_score(np.asarray(codes)[::step], label[::step]))


@dataclass(frozen=True)
class Numbers:
    """How well each number of groups describes the codes.

    Attributes:
        counts: numbers that were tried.
        inertia: sum of squared distances from the centres of k-means.
        silhouette: mean silhouette of k-means; 0 for one group.
        bic: Bayesian information criterion of the mixture; the smallest is best.
    """

    counts: tuple[int, ...]
    inertia: tuple[float, ...]
    silhouette: tuple[float, ...]
    bic: tuple[float, ...]

    def best(self, rule: Rule) -> int:
        """Number of groups by a rule."""
        if rule == "silhouette":
            return self.counts[int(np.argmax(self.silhouette))]
        return self.counts[int(np.argmin(self.bic))] if rule == "bic" else elbow(self.counts, self.inertia)


def numbers(codes: Array, most: int, seed: int = 0, mixtures: bool = True) -> Numbers:
    """Try 1 to `most` groups of at most `SHARED` codes.

    Args:
        codes: (N, k).
        most: largest number; there are always fewer groups than codes.
        seed: seed of the starts.
        mixtures: fit mixtures, too, for the information criterion, which is NaN otherwise.

    Raises:
        CodeError: fewer than three codes.
    """
    values = checked_examples(codes, 3)
    values = values[:: -(-len(values) // SHARED)]
    counts = tuple(range(1, min(most, len(values) - 1) + 1))
    inertia, outline, bic = [], [], []
    for count in counts:
        fitted = k_means(values, count, seed)
        inertia.append(float(fitted.inertia_))
        outline.append(silhouette(values, fitted.labels_))
        bic.append(float(mixture(values, count, seed).bic(values)) if mixtures else float("nan"))
    return Numbers(counts, tuple(inertia), tuple(outline), tuple(bic))


def elbow(counts: Sequence[int], inertia: Sequence[float]) -> int:
    """The number at which a falling curve bends most: farthest below the line between its ends, in the logarithm.

    Example:
        >>> elbow([1, 2, 3, 4, 5, 6], [1000, 400, 30, 28, 26, 25])
        3
    """
    if len(counts) != len(inertia):
        raise CodeError(f"{len(counts)} numbers of groups do not fit {len(inertia)} sums")
    height = np.log(np.maximum(inertia, SOFTEST))
    line = np.interp(counts, [counts[0], counts[-1]], [height[0], height[-1]])
    return counts[int(np.argmax(line - height))]
