"""Codes drawn in two dimensions, to look at: neighbours stay neighbours, distances and sizes mean nothing."""

import importlib
from typing import Literal

import numpy as np

from agents.codes.base import checked_examples
from learning.training import MissingPackage
from twin.arrays import Array, Floats


def view(codes: Array, method: Literal["tsne", "umap"] = "tsne", seed: int = 0) -> Floats:
    """Places (N, 2) of codes (N, k), by t-SNE (van der Maaten and Hinton 2008) or UMAP (McInnes et al. 2018).

    UMAP needs the package umap-learn.

    Raises:
        agents.codes.base.CodeError: fewer than five codes.
        MissingPackage: no umap-learn.

    Example:
        >>> view(np.arange(30.0).reshape(10, 3)).shape
        (10, 2)
    """
    values = checked_examples(codes, 5)
    if method == "umap":
        try:
            umap = importlib.import_module("umap")
        except ImportError as error:
            raise MissingPackage("method umap needs the package umap-learn; tsne needs none") from error
        made = umap.UMAP(n_neighbors=min(15, len(values) - 1), random_state=seed)
        return np.asarray(made.fit_transform(values), np.float64)
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(values) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(values), np.float64)
