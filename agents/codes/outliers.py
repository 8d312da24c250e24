"""Examples unlike a reference: by the error of their reconstruction and by the place of their code.

A threshold comes from reference examples that the code was not learned from, at a stated rate of false alarms.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.mixture import GaussianMixture

from agents.codes.base import Code, CodeError, checked_examples
from agents.codes.clusters import mixture
from twin.arrays import Array, Floats


@dataclass(frozen=True, eq=False)
class Scores:
    """How unlike the reference each example is.

    Attributes:
        error: mean squared error of the reconstruction, (N,).
        distance: Mahalanobis distance of the code from the nearest group of reference codes, (N,).
    """

    error: Floats
    distance: Floats


@dataclass(frozen=True, eq=False)
class Reference:
    """What usual examples look like.

    Attributes:
        code: learned from half of them.
        groups: Gaussians of full covariance of their codes.
        errors, distances: scores of the other half, sorted, (M,).
    """

    code: Code
    groups: GaussianMixture
    errors: Floats
    distances: Floats

    def scores(self, examples: Array) -> Scores:
        """Scores of examples (N, D)."""
        return _scores(self.code, self.groups, examples)

    def rarity(self, examples: Array) -> Floats:
        """Fraction of reference examples that are at least as unlike the others, (N,): by the rarer of both scores.

        Doubled, as either of two scores may be rare by chance (Bonferroni); at most 1.
        """
        found = self.scores(examples)
        return np.minimum(1.0, 2 * np.minimum(_above(self.errors, found.error), _above(self.distances, found.distance)))


def _above(usual: Floats, values: Floats) -> Floats:
    """Fraction of usual values that are at least as large; at least one part in their number + 1."""
    rest = len(usual) - np.searchsorted(usual, values, side="left")
    return np.asarray((rest + 1.0) / (len(usual) + 1.0))


def _scores(code: Code, groups: GaussianMixture, examples: Array) -> Scores:
    values = checked_examples(examples)
    codes = code.encode(values)
    error = ((code.decode(codes) - values) ** 2).mean(axis=1)
    squared = np.stack([
        (((codes - mean) @ root) ** 2).sum(axis=1)
        for mean, root in zip(groups.means_, groups.precisions_cholesky_, strict=True)
    ])  # fmt: skip
    return Scores(error, np.sqrt(squared.min(axis=0)))


def learned(code: Code, first: Array, second: Array, groups: int = 1, seed: int = 0) -> Reference:
    """Learn a code and its groups from usual examples, and the scores of usual examples from others.

    Args:
        code: not fitted yet.
        first: usual examples that are learned from, (N, D).
        second: usual examples that the scores are taken from, (M, D); they must not share noise with the first.
        groups: Gaussians that describe the codes.
        seed: seed of the groups.

    Raises:
        CodeError: too few examples.

    Example:
        >>> from agents.codes.base import load
        >>> rng = np.random.default_rng(1)
        >>> usual = rng.standard_normal((400, 1)) @ np.ones((1, 8)) + 0.1 * rng.standard_normal((400, 8))
        >>> reference = learned(load("pca", {"size": 1}), usual[:200], usual[200:])
        >>> odd = np.array([[0, 0, 3.0, 0, 0, 0, 0, 0], [50.0] * 8])  # off the line, and on it but far away
        >>> bool((reference.rarity(odd) < 0.02).all())
        True
    """
    values, others = checked_examples(first, 2), checked_examples(second, 2)
    if len(values) < 2 * groups:
        raise CodeError(f"{groups} groups of codes need at least {2 * groups} reference examples; got {len(values)}")
    code.fit(values)
    found = mixture(code.encode(values), groups, seed, starts=1)
    usual = _scores(code, found, others)
    return Reference(code, found, np.sort(usual.error), np.sort(usual.distance))
