"""The seam of codes: `fit` learns from examples, `encode` gives few numbers for each, `decode` the example again.

Methods by name: pca, autoencoder, denoising, vae, rvae (`load`). Examples are rows (N, D).
"""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np

from twin.arrays import Array, Floats
from twin.errors import StemtwinError, check_known
from twin.options import checked_options

METHODS = {
    "pca": "Principal components: the best linear code.",
    "autoencoder": "Autoencoder: two networks with a bottleneck; a curved surface through the data.",
    "denoising": "Denoising autoencoder: from a noisy example to a clean one.",
    "vae": "Variational autoencoder: codes that fill a Gaussian without gaps.",
    "rvae": "Rotationally invariant variational autoencoder: the angle of an image apart from its content.",
}
"""Methods and their description."""


class CodeError(StemtwinError, ValueError):
    """Examples that a code cannot be learned from, or that do not fit the code."""


class Code(Protocol):
    """A code of examples.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> examples = rng.standard_normal((50, 1)) * np.array([[1.0, 2.0, 0.0]])
        >>> code = load("pca", {"size": 1}).fit(examples)
        >>> code.encode(examples).shape, bool(np.allclose(code.decode(code.encode(examples)), examples))
        ((50, 1), True)
    """

    def fit(self, examples: Array, targets: Array | None = None) -> Self:
        """Learn from examples (N, D).

        Args:
            examples: rows.
            targets: what the code of each is to be decoded to, as clean for noisy; None is the examples themselves.

        Raises:
            CodeError: too few examples, values that are no numbers, or targets of another shape.
        """
        ...

    def encode(self, examples: Array) -> Floats:
        """Codes (N, k) of examples (N, D).

        Raises:
            CodeError: not fitted, or of another length.
        """
        ...

    def decode(self, codes: Array) -> Floats:
        """Examples (N, D) of codes (N, k)."""
        ...


def load(method: str, options: Mapping[str, Any] | None = None) -> Code:
    """Build a code by the name of its method.

    Raises:
        CodeError: no such method; names the nearest.
        OptionError: an unknown option, or a bad value.

    Example:
        >>> load("pka")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        agents.codes.base.CodeError: 'pka' is not a code (did you mean pca?); known: pca, autoencoder, ...
    """
    check_known(method, METHODS, "a code", CodeError)
    module = importlib.import_module(f"agents.codes.{_module(method)}")
    code: Code = module.make(method, checked_options(module.options_of(method), options or {}))
    return code


def _module(method: str) -> str:
    return "pca" if method == "pca" else "rotation" if method == "rvae" else "autoencoder"


def checked_examples(examples: Array, least: int = 1, length: int | None = None) -> Floats:
    """Examples as float64.

    Raises:
        CodeError: not (N, D), fewer than `least`, of another length than `length`, or not finite.
    """
    values = np.asarray(examples, np.float64)
    if values.ndim != 2:
        raise CodeError(f"examples are rows (N, D); got an array of shape {values.shape}")
    if len(values) < least:
        raise CodeError(f"a code of this size is learned from at least {least} examples; got {len(values)}")
    if length is not None and values.shape[1] != length:
        raise CodeError(f"this code was learned from examples of {length} values; got {values.shape[1]}")
    if not np.isfinite(values).all():
        raise CodeError(f"{np.count_nonzero(~np.isfinite(values))} values of the examples are not finite numbers")
    return values


def checked_targets(targets: Array | None, examples: Floats) -> Floats:
    """Targets as float64; the examples where there are none.

    Raises:
        CodeError: of another shape than the examples, or not finite.
    """
    if targets is None:
        return examples
    if np.shape(targets) != examples.shape:
        raise CodeError(f"targets of shape {np.shape(targets)} do not fit examples of shape {examples.shape}")
    return checked_examples(targets)


def squared_error(code: Code, examples: Array, truth: Array | None = None) -> Floats:
    """Mean squared difference of each example's reconstruction from the truth, by default from the example, (N,)."""
    wanted = examples if truth is None else truth
    return np.asarray(((code.decode(code.encode(examples)) - wanted) ** 2).mean(axis=1))
