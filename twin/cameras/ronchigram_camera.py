"""The camera: from the fraction of the beam per pixel to raw counts.

Glare and background, Poisson electrons, gain and shading, modulation transfer, dark level, noise of pixels and rows,
bright spots, stuck pixels and rows, rounding and saturation, and the video signal. Rotation, scale, shift and
distortions act before binning, in `ronchigram.camera_geometry`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from twin.arrays import Array
from twin.day import CameraProperties

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Defects:
    """Pixels that do not respond to electrons; disjoint masks of shape (H, W).

    Attributes:
        hot: stuck at the camera's saturation, single pixels and whole rows.
        dead: no signal; they read the dark level.
    """

    hot: Mask
    dead: Mask


def draw_defects(camera: CameraProperties, shape: tuple[int, int], rng: np.random.Generator) -> Defects:
    """Draw hot and dead pixels independently with the camera's fractions; (H, W) masks."""
    hot = rng.random(shape) < camera.hot_fraction
    dead = (rng.random(shape) < camera.dead_fraction) & ~hot
    if camera.bright_rows:
        hot[rng.choice(shape[0], min(camera.bright_rows, shape[0]), replace=False)] = True
        dead &= ~hot
    return Defects(hot, dead)


@lru_cache(maxsize=64)
def gain_map(camera: CameraProperties, shape: tuple[int, int]) -> Array:
    """Counts per electron, (H, W): `gain` at the centre, `gain (1 + shading)` at the corner pixels.

    Quadratic in the distance from the centre; the errors of the gain reference and of the quadrants multiply it.
    """
    y, x = (np.linspace(-1.0, 1.0, n) for n in shape)
    radius2 = (x[None, :] ** 2 + y[:, None] ** 2) / 2.0
    gain = camera.gain * (1.0 + camera.shading * radius2)
    if camera.gain_error_rms or camera.quadrant_error_rms:
        rng = np.random.default_rng(camera.fixed_pattern_seed)
        quadrants = (1.0 + camera.quadrant_error_rms * rng.standard_normal((2, 2))).clip(0.0)
        gain *= (1.0 + camera.gain_error_rms * rng.standard_normal(shape)).clip(0.0)
        gain *= quadrants[(y[:, None] > 0).astype(int), (x[None, :] > 0).astype(int)]
    gain.flags.writeable = False
    return gain


@lru_cache(maxsize=64)
def modulation_transfer(mtf_nyquist: float, shape: tuple[int, int]) -> Array:
    """Gaussian transfer on the frequencies of a cosine transform, (H, W): 1 at zero, `mtf_nyquist` at Nyquist.

    Entry j of an axis of n pixels has j / n of Nyquist's frequency; the product of the axes makes it
    isotropic, so a corner of the frequency square transfers `mtf_nyquist ** 2`.
    """
    y, x = (np.arange(n) / n for n in shape)
    transfer = mtf_nyquist ** (y[:, None] ** 2 + x[None, :] ** 2)
    transfer.flags.writeable = False
    return transfer


def blur(signal: Array, mtf_nyquist: float) -> Array:
    """Blur the signal, shape (H, W), by the modulation transfer; conserves the sum.

    The cosine transform mirrors the image at its edges, so that nothing wraps around or is lost.
    """
    if mtf_nyquist == 1.0:
        return signal
    spectrum = fft.dctn(signal, norm="ortho") * modulation_transfer(mtf_nyquist, (signal.shape[0], signal.shape[1]))
    return fft.idctn(spectrum, norm="ortho", overwrite_x=True)


GLARE_SIGMA = 0.25
"""Width of the glare's Gaussian, as a fraction of the frame's side."""


def scattered(probability: Array, camera: CameraProperties) -> Array:
    """Light that glare spreads over the frame and background that is even; the fraction of the beam is conserved."""
    if camera.glare > 0.0:
        sigma = GLARE_SIGMA * max(probability.shape)
        spread = ndimage.gaussian_filter(probability, sigma, mode="reflect")
        probability = (1.0 - camera.glare) * probability + camera.glare * spread
    if camera.background > 0.0:
        probability = (1.0 - camera.background) * probability + camera.background * probability.mean()
    return probability


def _spots(camera: CameraProperties, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Counts of this frame's bright spots, round with a flat top, (H, W)."""
    counts = np.zeros(shape)
    y, x = np.indices(shape)
    for _ in range(rng.poisson(camera.spots)):
        centre_y, centre_x = rng.random(2) * shape
        size = camera.spot_counts * rng.exponential()
        counts[np.hypot(y - centre_y, x - centre_x) <= camera.spot_px / 2] += size
    return counts


def video_signal(counts: Array, gamma: float) -> Array:
    """Eight bits with automatic contrast: the darkest pixel 0, the brightest 255, raised to gamma between them."""
    low, high = counts.min(), counts.max()
    return np.asarray(255.0 * ((counts - low) / max(high - low, 1e-12)) ** gamma)


def expose(
    probability: NDArray[np.floating],
    dose_e: float,
    camera: CameraProperties,
    defects: Defects,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """One read-out: raw counts, uint16, shape (H, W).

    The blur acts on the electrons that arrived, not on their expectation: neighbouring pixels share noise, as behind a
    real scintillator. High frequencies overshoot slightly; a count below zero reads zero.

    Args:
        probability: expected fraction of the beam per pixel, (H, W), not negative.
        dose_e: electrons in the beam during the exposure.
        camera: its errors; those of its geometry are not used here.
        defects: stuck pixels, masks of the same shape.
        rng: source of the noise.
    """
    shape = (probability.shape[0], probability.shape[1])
    arriving = scattered(np.asarray(probability, dtype=np.float64), camera)
    electrons = rng.poisson(dose_e * arriving)
    signal = blur(electrons * gain_map(camera, shape), camera.mtf_nyquist)
    signal[defects.dead] = 0.0
    signal += camera.dark_level
    if camera.readout_rms > 0.0:
        signal += camera.readout_rms * rng.standard_normal(shape)
    if camera.row_rms > 0.0:
        signal += camera.row_rms * rng.standard_normal((shape[0], 1))
    if camera.spots > 0.0:
        signal += _spots(camera, shape, rng)
    signal[defects.hot] = camera.saturation
    if camera.video:
        signal = video_signal(np.clip(signal, 0, camera.saturation), camera.gamma)
    return np.clip(np.rint(signal), 0, camera.saturation).astype(np.uint16)
