"""Losses of the generator: Friedrich 2023, eqs 2.32 to 2.39 and 2.42, and the logarithm of each image's square error.

Images are (N, 1, H, W), truth first.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

LEAST_STD = 0.05
"""sigma_min of eqs 2.33 and 2.35, for images of mean one."""
WINDOWS = (2, 4, 8, 16)
GAMMA = 0.125
"""Exponent of eq 2.37, the thesis's."""
TINY = 1e-6
LEAST_ERROR = 1e-4
"""Square error, over the variance, below which it no longer matters."""


def weight(truth: Tensor) -> Tensor:
    """One over each image's standard deviation (eq 2.33), (N, 1, 1, 1)."""
    return 1.0 / torch.clamp(truth.std(dim=(1, 2, 3), keepdim=True), min=LEAST_STD)


def absolute(truth: Tensor, found: Tensor) -> Tensor:
    """Weighted absolute error (eq 2.32), one number per image, (N,)."""
    return (weight(truth) * (truth - found).abs()).mean(dim=(1, 2, 3))


def square(truth: Tensor, found: Tensor) -> Tensor:
    """Weighted square error (eq 2.34), (N,)."""
    return (weight(truth) * (truth - found) ** 2).mean(dim=(1, 2, 3))


def whitened(image: Tensor, window: int) -> Tensor:
    """Image less its local mean, over its local standard deviation (eq 2.35); only whole windows."""
    mean = avg_pool2d(image, window, stride=1)
    variance = avg_pool2d(image**2, window, stride=1) - mean**2
    first = (window - 1) // 2
    inner = image[..., first : first + mean.shape[2], first : first + mean.shape[3]]
    return (inner - mean) / torch.sqrt(torch.clamp(variance, min=LEAST_STD**2))


def whitening(truth: Tensor, found: Tensor) -> Tensor:
    """Multi-local whitening transform loss (eq 2.36), (N,)."""
    each = [(whitened(truth, n) - whitened(found, n)).abs().mean(dim=(1, 2, 3)) for n in WINDOWS]
    return torch.stack(each).mean(0)


def fourier(truth: Tensor, found: Tensor) -> Tensor:
    """Fourier space loss (eq 2.37) of the weighted difference, with a unitary transform, (N,)."""
    spectrum = torch.fft.rfft2(weight(truth) * (truth - found), norm="ortho")
    return ((spectrum.abs() ** 2 + TINY) ** (GAMMA / 2)).mean(dim=(1, 2, 3))


def mean(truth: Tensor, found: Tensor) -> Tensor:
    """Error of each image's mean (eq 2.38), (N,)."""
    return (truth.mean(dim=(1, 2, 3)) - found.mean(dim=(1, 2, 3))).abs()


def std(truth: Tensor, found: Tensor) -> Tensor:
    """Error of each image's standard deviation (eq 2.39), (N,)."""
    return (truth.std(dim=(1, 2, 3)) - found.std(dim=(1, 2, 3))).abs()


def logarithm(truth: Tensor, found: Tensor) -> Tensor:
    """Logarithm of the square error over the truth's variance, (N,): an image of any dose weighs the same."""
    return torch.log(((weight(truth) * (truth - found)) ** 2).mean(dim=(1, 2, 3)) + LEAST_ERROR)


TERMS = {
    "absolute": absolute,
    "square": square,
    "whitening": whitening,
    "fourier": fourier,
    "mean": mean,
    "std": std,
}
"""Terms of eq 2.42 by the name of their factor."""
