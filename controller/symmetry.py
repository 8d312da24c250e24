"""Effect of reflections of the camera on power spectra and aberration coefficients, to augment training data."""

import math

import numpy as np
import torch
from torch import Tensor

from twin.aberrations import TERMS, index
from twin.arrays import Array


def mirrored(spectra: Tensor, flip: Tensor) -> Tensor:
    """Reverse y of half-plane spectra (N, H, W) where `flip` (N,) is true; zero frequency at row H / 2."""
    height = spectra.shape[1]
    return torch.where(flip[:, None, None], spectra[:, (-torch.arange(height)) % height], spectra)


def mirror_matrix(names: tuple[str, ...]) -> Array:
    """Effect of y -> -y on the coefficients, (n, n): every sine component changes sign."""
    return np.diag([-1.0 if TERMS[index(name)].component == "b" else 1.0 for name in names])


def transposition_matrix(names: tuple[str, ...]) -> Array:
    """Effect of exchanging x and y on the coefficients, (n, n).

    phi -> pi/2 - phi: cos(m phi) becomes cos(m pi/2) cos(m phi) + sin(m pi/2) sin(m phi).
    """
    matrix = np.zeros((len(names), len(names)))
    for column, name in enumerate(names):
        term = TERMS[index(name)]
        cos, sin = math.cos(term.m * math.pi / 2), math.sin(term.m * math.pi / 2)
        pair = {"": {"": 1.0}, "a": {"a": cos, "b": sin}, "b": {"a": sin, "b": -cos}}[term.component]
        for component, factor in pair.items():
            partner = name[:-1] + component if component else name
            if partner in names:
                matrix[names.index(partner), column] = round(factor)
    return matrix


def whole_plane(half: Tensor) -> Tensor:
    """Complete half-plane spectra (N, H, W) to (N, H, 2 W) by inversion symmetry; zero frequency at (H / 2, W)."""
    height = half.shape[1]
    inverted = half[:, (-torch.arange(height)) % height][:, :, 1:].flip(2)
    return torch.cat([inverted[:, :, :1], inverted, half], 2)  # -Nyquist is not in the half plane: its neighbour


def transposed(spectra: Tensor, swap: Tensor) -> Tensor:
    """Exchange x and y of half-plane spectra (N, H, H / 2) where `swap` (N,) is true."""
    height = spectra.shape[1]
    exchanged = whole_plane(spectra).transpose(1, 2)[:, :, height // 2 :]
    return torch.where(swap[:, None, None], exchanged, spectra)
