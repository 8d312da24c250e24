"""From a raw frame to the frame that controllers are trained on: cleaned, on the reference camera, at a trained dose.

A frame of the trained camera without anything to clean passes as it is, byte for byte.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from controller import preprocess
from controller.canonical import cleaning, disc, units
from controller.canonical.disc import Disc
from controller.canonical.resampling import optical_centre_px, resampled
from twin.arrays import Array
from twin.optics import Optics
from twin.types import Frame

PEDESTAL = 100.0
"""Dark level of a prepared frame: counts below zero survive rounding."""
FULL = 60000.0
"""Largest count of a prepared frame."""


@dataclass(frozen=True)
class Prepared:
    """A frame ready for a controller.

    Attributes:
        frame: on the reference camera; the raw frame itself where nothing had to be done.
        disc: as found in the raw frame; None where no edge is seen.
        shadow: obscured fraction of the disc.
        background: counts outside the disc over the level inside, before any correction; 0 without a disc.
        dose_e: effective dose by the shot noise, electrons.
    """

    frame: Frame
    disc: Disc | None
    shadow: float
    background: float
    dose_e: float


BACKGROUND = 0.15
"""Background outside the disc, as a fraction of the level inside, from which it is subtracted. Films scatter less."""
TRAINED_DOSE_E, THINNED_DOSE_E = 3.4e6, 2e6
"""Effective dose above which electrons are left out at random, and the dose that remains."""


def prepare(frame: Frame, optics: Optics, reference: Optics) -> Prepared:
    """Clean a frame of `optics` and bring it to the camera of `reference`.

    Args:
        frame: as the camera gave it.
        optics: beam and camera, as stated.
        reference: camera of the result, see `units.on_reference_camera`.

    Raises:
        ValueError: the frame has another shape than the camera, or holds no signal.
    """
    preprocess.check_shape(frame, optics.camera_pixels)
    stated = preprocess.above_dark(frame)
    raw = cleaning.not_below_dark(stated)
    preprocess.windowed_sum(raw)
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(frame.counts).tobytes()))
    counts = cleaning.without_stripes(cleaning.without_spots(cleaning.without_bright_lines(raw)))
    found = disc.find(preprocess.remove_defects(counts))
    background, shadow = 0.0, 0.0
    if found is not None:
        background = outside(counts, found) / max(found.level, 1e-9)
        if abs(background) > BACKGROUND:
            counts = counts - background * found.level
            found = replace(found, level=found.level * (1.0 - background))
        counts, shadow = cleaning.without_shadow(counts, found, rng)
        counts = cleaning.level_illumination(counts, found)
    counts = _on_reference(counts, found, (optics, reference), frame.dose_e, rng)
    dose_e = effective_dose_e(counts)
    if dose_e > TRAINED_DOSE_E:
        counts = thinned(counts, max(dose_e, frame.dose_e), rng)
    if counts is not stated:
        frame = _as_frame(counts, frame, min(frame.dose_e, TRAINED_DOSE_E))
    return Prepared(units.with_beam(frame, optics, reference), found, shadow, background, dose_e)


def outside(counts: Array, found: Disc) -> float:
    """Median count well outside the disc; 0 where the frame does not reach there."""
    height, width = counts.shape
    x = np.arange(width)[None, :] + 0.5 - found.centre_px[0]
    y = np.arange(height)[:, None] + 0.5 - found.centre_px[1]
    beyond = np.hypot(x, y) > 1.15 * found.radius_px + 2
    return float(np.median(counts[beyond])) if beyond.sum() > 0.01 * counts.size else 0.0


FAR_PX = 4.5
"""Displacement of the disc, on the reference camera, from which it is moved back. Training days reach 4.2."""


def _on_reference(
    counts: Array, found: Disc | None, cameras: tuple[Optics, Optics], stated_e: float, rng: np.random.Generator
) -> Array:
    """Resample to the reference camera, a displaced disc to its middle; the same array where neither is needed."""
    optics, reference = cameras
    magnification = units.disc_radius_px(reference) / units.disc_radius_px(optics)
    nominal = optical_centre_px(optics)
    centre = (nominal, nominal)
    if found is not None and magnification * np.hypot(*np.subtract(found.centre_px, centre)) > FAR_PX:
        centre = found.centre_px
    elif units.same_camera(optics, reference):
        return counts
    electrons = np.rint(preprocess.remove_defects(counts) / gain(counts, stated_e)).astype(np.int64)
    camera = (reference.camera_pixels, optical_centre_px(reference))
    return resampled(electrons, centre, camera, magnification, rng).astype(np.float64)


def gain(counts: Array, stated_e: float) -> float:
    """Counts per electron by the frame's shot noise; film in its high frequencies makes it seem larger.

    The noise behind a window carries the sum of window^2 times counts times gain. Where the stated dose gives a smaller
    gain, that is taken, down to a quarter.
    """
    cleaned = preprocess.remove_defects(counts)
    window = preprocess.hann_window(len(counts))
    level = preprocess.noise_floor(preprocess.spectrum(cleaned)).level
    by_noise = level / max(float(np.sum(window**2 * np.maximum(cleaned, 0.0))), 1e-9)
    by_dose = float(cleaned.sum()) / stated_e
    return max(min(by_noise, by_dose), by_noise / 4, 1e-6)


DISC_SHARE = 0.706
"""Area of the disc over that of the frame, on the reference camera: the shot noise is that of a frame lit all over."""


def effective_dose_e(counts: Array) -> float:
    """Electrons by the frame's shot noise, whatever the gain; film at high frequency makes it seem less."""
    cleaned = preprocess.remove_defects(counts)
    power = preprocess.per_dose(preprocess.spectrum(cleaned), preprocess.windowed_sum(cleaned))
    return DISC_SHARE * preprocess.REFERENCE_DOSE_E / preprocess.noise_floor(power).level


def thinned(counts: Array, dose_e: float, rng: np.random.Generator) -> Array:
    """Keep each electron of a frame (H, W) with the probability that leaves `THINNED_DOSE_E`."""
    share = THINNED_DOSE_E / dose_e
    per_electron = max(float(counts.sum()), 1.0) / dose_e
    electrons = np.maximum(np.rint(counts / per_electron), 0.0).astype(np.int64)
    return rng.binomial(electrons, share).astype(np.float64)


def _as_frame(counts: Array, frame: Frame, dose_e: float) -> Frame:
    brightest = float(counts.max())
    if brightest > FULL:
        counts = counts * (FULL / brightest)
    values = np.clip(np.rint(counts + PEDESTAL), 0, 65535).astype(np.uint16)
    return Frame(values, dose_e, frame.exposure_s, frame.clock_s, {**frame.settings, "dark_level": PEDESTAL})
