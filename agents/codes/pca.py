"""Principal components, by scikit-learn: of all examples at once, or of blocks as they arrive."""

from collections.abc import Iterable
from typing import Self

import numpy as np
from sklearn.decomposition import PCA, IncrementalPCA

from agents.codes.base import CodeError, checked_examples, checked_targets
from twin.arrays import Array, Floats
from twin.options import Count, Seed, validated


@validated
class Options:
    """Settings.

    Attributes:
        size: number of components.
        seed: seed of the randomised decomposition of large sets.
    """

    size: Count = 4
    seed: Seed = 0


class Pca:
    """The `size` directions of the largest variance, largest first; each with its largest entry positive.

    Attributes:
        variance_ratio: part of the variance along each direction, (k,).
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._mean: Floats | None = None

    def fit(self, examples: Array, targets: Array | None = None) -> Self:
        """Find the directions; targets, if given, are fitted linearly to the components of their examples."""
        values = checked_examples(examples, self.options.size + 1)
        wanted = checked_targets(targets, values)
        self._check(values.shape[1])
        found = PCA(self.options.size, random_state=self.options.seed).fit(values)
        self._take(found.mean_, found.components_, found.explained_variance_ratio_)
        if wanted is not values:
            codes = self.encode(values)
            self._target_mean = wanted.mean(axis=0)
            self._target_axes = np.linalg.lstsq(codes, wanted - self._target_mean, rcond=None)[0]
        return self

    def fit_blocks(self, blocks: Iterable[Array]) -> Self:
        """Find the directions from blocks of examples (N, D) as they arrive, in bounded memory (Ross et al. 2008).

        Blocks of fewer examples than components wait for the next one; a few at the very end are left out.

        Raises:
            CodeError: fewer examples than components in all.
        """
        found, waiting = IncrementalPCA(self.options.size), np.empty((0, 0))
        for block in blocks:
            values = checked_examples(block)
            waiting = values if not len(waiting) else np.concatenate([waiting, values])
            if len(waiting) > self.options.size:
                self._check(waiting.shape[1])
                found.partial_fit(waiting)
                waiting = np.empty((0, 0))
        if not hasattr(found, "components_"):
            raise CodeError(f"{self.options.size} components need more than {self.options.size} examples")
        self._take(found.mean_, found.components_, found.explained_variance_ratio_)
        return self

    def _check(self, length: int) -> None:
        if self.options.size > length:
            raise CodeError(
                f"examples of {length} values have at most {length} components; size is {self.options.size}"
            )

    def _take(self, mean: Floats, axes: Floats, ratio: Floats) -> None:
        largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
        self._mean, self._axes = mean, axes * np.sign(largest)[:, None]
        self._target_mean, self._target_axes = self._mean, self._axes
        self.variance_ratio = ratio

    def encode(self, examples: Array) -> Floats:
        """Components (N, k)."""
        if self._mean is None:
            raise CodeError("this code is not fitted yet")
        return np.asarray((checked_examples(examples, 1, len(self._mean)) - self._mean) @ self._axes.T)

    def decode(self, codes: Array) -> Floats:
        """Examples (N, D) in the plane of the components."""
        return np.asarray(np.asarray(codes, np.float64) @ self._target_axes + self._target_mean)


def options_of(_: str) -> type[Options]:
    """Options of the method."""
    return Options


def make(_: str, options: Options) -> Pca:
    """Build the code; see `agents.codes.base.load`."""
    return Pca(options)
