"""Figures of merit that need no training, of a Ronchigram or a scanned image; larger for a better aligned beam.

A Ronchigram of a thin amorphous film is a shadow image whose magnification grows without limit towards focus, and a
weak phase object in focus shows no contrast. The pattern is therefore *flattest* at the null, the reverse of a
scanned image, and its figures of merit are negative: the criterion behind minimum-contrast focusing and behind
"maximise the flat area of the Ronchigram". A scanned image is sharpest at the null; its figure of merit is positive.
"""

import math
from functools import lru_cache
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from controller import preprocess
from twin.arrays import Array
from twin.optics import Optics
from twin.types import Frame

Contrast = Literal["gradient", "image", "scan"]
"""Quantity whose normalised variance is measured. That of the "image", the published choice for scanned images, rises
within 15 nm of the null and is constant beyond; that of the "gradient" keeps rising with the aberrations. "scan" is for
frames that are scanned images themselves, see `sharpness`."""

GRADIENT_PX, SCORE_PX = (4.0, 24.0), (4.0, 36.0)
"""Bands in frequency pixels, between the disc's own transform and shot noise alone."""
VISIBLE = 2.0
"""Power, in units of the shot noise, above which the film counts as visible at a frequency."""


@lru_cache(maxsize=4)
def disc_square(optics: Optics) -> slice:
    """Rows (and columns) of the largest centred square inside the bright-field disc, two pixels from its edge."""
    half = int((optics.convergence_mrad / optics.camera_pixel_mrad - 2) / math.sqrt(2))
    centre = optics.camera_pixels // 2
    return slice(centre - half, centre + half)


def normalised_variance(frame: Frame, optics: Optics) -> float:
    """Variance over squared mean inside the disc, without shot noise (Pattison et al. 2024, for scanned images).

    The contribution of shot noise, one over the electrons per pixel at the nominal dose, is subtracted; read-out noise
    and the camera's shading, the same in every frame of a run, are not.

    Raises:
        ValueError: the frame holds no signal.
    """
    inside = disc_square(optics)
    square = preprocess.signal(frame)[inside, inside]
    mean = float(square.mean())
    if not mean > 0:
        raise ValueError("the frame holds no signal above its dark level")
    disc_px = math.pi * (optics.convergence_mrad / optics.camera_pixel_mrad) ** 2
    return float(square.var()) / mean**2 - disc_px / frame.dose_e


def sharpness(frame: Frame) -> float:
    """Variance over squared mean of a scanned image, without its noise (Pattison et al. 2024, BEACON).

    Detector counts need no settings: their noise is Poisson noise, and the mean counts from `dark_level`. An image in
    other units needs the settings `image_noise`, its rms noise, and `image_norm`, which replaces the mean, in counts.

    Raises:
        ValueError: the image holds no signal.
    """
    counts = np.asarray(frame.counts, np.float64)
    mean = frame.settings.get("image_norm", float(counts.mean()) - frame.settings.get("dark_level", 0.0))
    if not mean > 0:
        raise ValueError("the image holds no signal above its dark level")
    noise = frame.settings.get("image_noise", math.sqrt(mean))
    return (float(counts.var()) - noise**2) / mean**2


def contrast(frame: Frame, optics: Optics, of: Contrast = "gradient") -> float:
    """Minus the normalised variance of a Ronchigram, minus its rms gradient, or plus a scanned image's sharpness.

    Raises:
        ValueError: the frame holds no signal, or is a Ronchigram of another shape than the camera's.
    """
    if of == "scan":
        return sharpness(frame)
    preprocess.check_shape(frame, optics.camera_pixels)
    return -(normalised_variance(frame, optics) if of == "image" else rms_gradient(frame))


def rms_gradient(frame: Frame) -> float:
    """Root-mean-square gradient over the mean, per camera pixel, of the film signal above the shot noise.

    By Parseval's theorem from the power spectrum of the windowed frame, over the visible frequencies of `GRADIENT_PX`.
    The squared gradient is an autofocus function of scanned images (Groen, Young and Ligthart 1985), there maximised.

    Raises:
        ValueError: as `preprocess.power_spectrum`.
    """
    power, radius, visible = _visible(frame, *GRADIENT_PX)
    # The spectrum is scaled so that its sum over the whole plane, two halves, is 1e6 normalised variances.
    variance = 2 * power[visible] / preprocess.REFERENCE_DOSE_E
    return float(np.sqrt(np.sum(variance * (2 * math.pi * radius[visible] / len(power)) ** 2)))


def spectrum_score(frame: Frame) -> float:
    """Minus the fraction of the frequencies in `SCORE_PX` at which the film is visible above the shot noise.

    The film's features on the camera become smaller as the aberrations grow, so the visible spectrum widens.

    Raises:
        ValueError: as `preprocess.power_spectrum`.
    """
    _, radius, visible = _visible(frame, *SCORE_PX)
    return -float(visible.sum() / np.sum((radius >= SCORE_PX[0]) & (radius <= SCORE_PX[1])))


def _visible(frame: Frame, low_px: float, high_px: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Normalised power without shot noise, frequency in pixels, and where in the band the film is visible; (H, W / 2).

    Frequencies with noise alone would dominate any sum: at 2e5 electrons they hide the film altogether.
    """
    spectrum = preprocess.power_spectrum(frame)
    power = preprocess.KNEE * np.sinh(spectrum.values.astype(np.float64))
    radius = _radius(*power.shape)
    return power, radius, (power > VISIBLE * spectrum.floor) & (radius >= low_px) & (radius <= high_px)


@lru_cache(maxsize=4)
def _radius(height: int, width: int) -> Array:
    """Frequency in pixels on a half plane (height, width) with zero frequency at (height // 2, 0)."""
    return cast(Array, np.hypot(np.arange(height)[:, None] - height // 2, np.arange(width)))
