"""Bring a frame to another pixel and centre without losing or inventing electrons."""

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.optics import Optics


def optical_centre_px(optics: Optics) -> float:
    """Place of zero angle along either axis of the camera, in pixels from the outer edge of the first.

    Example:
        >>> round(optical_centre_px(Optics()), 3)  # zero angle lies in the first of the three grid pixels of pixel 64
        64.167
    """
    return (optics.camera_pixels * optics.binning // 2 + 0.5) / optics.binning


def overlap(pixels: int, centre_px: float, new_pixels: int, new_centre_px: float, magnification: float) -> Array:
    """Fraction of each pixel's width that falls on each new pixel, (new, old), along one axis.

    Args:
        pixels, centre_px: old pixels, and the place in them that is mapped to `new_centre_px`.
        new_pixels, new_centre_px: new pixels.
        magnification: new pixels per old pixel.

    Example:
        >>> overlap(2, 1.0, 4, 2.0, 2.0)  # every old pixel is cut into two halves
        array([[0.5, 0. ],
               [0.5, 0. ],
               [0. , 0.5],
               [0. , 0.5]])
    """
    edges = (np.arange(new_pixels + 1) - new_centre_px) / magnification + centre_px
    low, high = edges[:-1, None], edges[1:, None]
    old = np.arange(pixels)[None, :]
    return np.clip(np.minimum(high, old + 1) - np.maximum(low, old), 0.0, None)


def resampled(
    electrons: NDArray[np.int64], centre_px: tuple[float, float], camera: tuple[int, float], magnification: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:  # fmt: skip
    """Send every electron of every pixel (H, W) to a random place inside it, and count again on new pixels, (N, N).

    Electrons are kept as far as the new frame reaches, and shot noise stays shot noise: white, of the same dose. An
    interpolation would leave noise whose spectrum no camera has, and noise floors measured in it would be wrong.

    Args:
        electrons: whole numbers; negative ones (read-out noise) keep their sign.
        centre_px: (x, y) that comes to the new centre, from the outer edge of the first pixel.
        camera: the new frame's side, and the place of its centre along both axes.
        magnification: new pixels per old pixel.
        rng: consumed.
    """
    height, width = electrons.shape
    rows = overlap(height, centre_px[1], *camera, magnification)
    columns = overlap(width, centre_px[0], *camera, magnification)
    return _spread(_spread(electrons, rows, rng).T, columns, rng).T


def _spread(electrons: NDArray[np.int64], share: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Distribute rows over new rows by a multinomial draw per pixel: (H, W) and (N, H) give (N, W)."""
    result = np.zeros((len(share), electrons.shape[1]), np.int64)
    left, left_share = np.abs(electrons), np.ones(len(electrons))
    sign, old = np.sign(electrons), np.arange(len(electrons))
    for step in range(int(np.max(np.sum(share > 0, axis=0)))):
        new = np.minimum(np.argmax(share > 0, axis=0) + step, len(share) - 1)
        part = np.where(np.argmax(share > 0, axis=0) + step < len(share), share[new, old], 0.0)
        chance = np.clip(part / np.maximum(left_share, 1e-12), 0.0, 1.0)
        drawn = rng.binomial(left, chance[:, None])
        np.add.at(result, new, sign * drawn)
        left, left_share = left - drawn, left_share - part
    return result
