"""Arithmetic of complex images whose real and imaginary parts are planes of their own, (2, N, N); compiled."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from agents.epie.fourier import REORDER

Real = NDArray[np.floating]
Scalar = np.floating[Any]


@numba.njit(cache=True, fastmath=REORDER | {"nnan"})
def peak(modes: Real) -> Scalar:
    """Largest intensity, summed over the modes, of (K, 2, N, N)."""
    flat = modes.reshape(len(modes), 2, -1)
    best = modes.dtype.type(0)
    if len(modes) == 1:
        re, im = flat[0, 0], flat[0, 1]
        for j in range(len(re)):
            square = re[j] * re[j] + im[j] * im[j]
            best = square if square > best else best
        return best
    total = np.zeros(flat.shape[2], modes.dtype)
    for m in range(len(modes)):
        add_squares(modes[m], total)
    for j in range(len(total)):
        best = total[j] if total[j] > best else best
    return best


@numba.njit(cache=True, fastmath=REORDER)
def add_squares(planes: Real, total: Real) -> None:
    """Add |planes|^2 to `total`, (N, N)."""
    flat, to = planes.reshape(2, -1), total.ravel()
    re, im = flat[0], flat[1]
    for j in range(len(to)):
        to[j] += re[j] * re[j] + im[j] * im[j]


@numba.njit(cache=True, fastmath=REORDER)
def multiply_real(planes: Real, factor: Real, out: Real) -> None:
    """Write planes * factor to `out`; the factor is real, (N, N)."""
    flat, f, to = planes.reshape(2, -1), factor.ravel(), out.reshape(2, -1)
    re, im, wr, wi = flat[0], flat[1], to[0], to[1]
    for j in range(len(f)):
        wr[j] = re[j] * f[j]
        wi[j] = im[j] * f[j]


@numba.njit(cache=True, fastmath=REORDER)
def multiply(a: Real, b: Real, out: Real) -> None:
    """Write a b to `out`."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] = ar[j] * br[j] - ai[j] * bi[j]
        wi[j] = ar[j] * bi[j] + ai[j] * br[j]


@numba.njit(cache=True, fastmath=REORDER)
def multiply_conjugate(a: Real, b: Real, scale: Scalar, out: Real) -> None:
    """Write scale conj(a) b to `out`."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] = scale * (ar[j] * br[j] + ai[j] * bi[j])
        wi[j] = scale * (ar[j] * bi[j] - ai[j] * br[j])


@numba.njit(cache=True, fastmath=REORDER)
def add_conjugate(a: Real, b: Real, scale: Scalar, out: Real) -> None:
    """Add scale conj(a) b to `out`."""
    fa, fb, to = a.reshape(2, -1), b.reshape(2, -1), out.reshape(2, -1)
    ar, ai, br, bi, wr, wi = fa[0], fa[1], fb[0], fb[1], to[0], to[1]
    for j in range(len(ar)):
        wr[j] += scale * (ar[j] * br[j] + ai[j] * bi[j])
        wi[j] += scale * (ar[j] * bi[j] - ai[j] * br[j])
