"""The camera: from the fraction of the beam per pixel to raw counts.

Poisson electrons, gain and shading, modulation transfer, dark level, read-out noise, stuck pixels, rounding and
saturation. Rotation, scale and shift act before binning, in `phase_screens.to_camera`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from twin.arrays import Array
from twin.day import CameraProperties

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Defects:
    """Pixels that do not respond to electrons; disjoint masks of shape (H, W).

    Attributes:
        hot: stuck at the camera's saturation.
        dead: no signal; they read the dark level.
    """

    hot: Mask
    dead: Mask


def draw_defects(camera: CameraProperties, shape: tuple[int, int], rng: np.random.Generator) -> Defects:
    """Draw hot and dead pixels independently with the camera's fractions; (H, W) masks."""
    hot = rng.random(shape) < camera.hot_fraction
    dead = (rng.random(shape) < camera.dead_fraction) & ~hot
    return Defects(hot, dead)


@lru_cache(maxsize=64)
def gain_map(camera: CameraProperties, shape: tuple[int, int]) -> Array:
    """Counts per electron, (H, W): `gain` at the centre, `gain (1 + shading)` at the corner pixels.

    Quadratic in the distance from the centre.
    """
    y, x = (np.linspace(-1.0, 1.0, n) for n in shape)
    radius2 = (x[None, :] ** 2 + y[:, None] ** 2) / 2.0
    gain = camera.gain * (1.0 + camera.shading * radius2)
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
        camera: its errors; rotation, scale and shift are not used here.
        defects: stuck pixels, masks of the same shape.
        rng: source of the noise.
    """
    shape = (probability.shape[0], probability.shape[1])
    electrons = rng.poisson(dose_e * np.asarray(probability, dtype=np.float64))
    signal = blur(electrons * gain_map(camera, shape), camera.mtf_nyquist)
    signal[defects.dead] = 0.0
    signal += camera.dark_level
    if camera.readout_rms > 0.0:
        signal += camera.readout_rms * rng.standard_normal(shape)
    signal[defects.hot] = camera.saturation
    return np.clip(np.rint(signal), 0, camera.saturation).astype(np.uint16)
