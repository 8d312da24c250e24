"""Errors of the Ronchigram's camera."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from twin.options import Fraction, NonNegative, Positive, Seed, validated


@validated
class CameraProperties:
    """Camera errors, hidden from the controller; each off by default.

    Attributes:
        rotation_deg: rotation of the detector's axes against the corrector's.
        mirrored: whether the image is mirrored, x against -x, before it is turned.
        scale: magnification error; 1.01 images everything 1 % larger.
        shift_px: (x, y) displacement of the disc, camera pixels.
        ellipticity: relative difference of the magnifications along two directions at right angles.
        ellipticity_deg: direction of the larger one, from +x towards +y.
        barrel: relative displacement towards the centre, at half the frame's side from it (pincushion: negative).
        glare: fraction of the light that lens or scintillator spread over a quarter of the frame's side.
        background: fraction of the beam that arrives evenly spread over the frame.
        gain: counts per electron.
        shading: relative gain change from centre to corner.
        gain_error_rms: error of the gain reference, relative, from pixel to pixel.
        quadrant_error_rms: error of the gain of each of the four quadrants, relative.
        fixed_pattern_seed: which gain errors.
        mtf_nyquist: modulation transfer at Nyquist (1 is perfect), Gaussian.
        dark_level: offset, counts.
        dark_error: stated minus actual offset, counts.
        readout_rms: Gaussian read-out noise, counts.
        row_rms: noise that all pixels of a row share, counts.
        hot_fraction, dead_fraction: fractions of pixels stuck at the largest count and of pixels without signal.
        bright_rows: rows stuck at the largest count.
        spots: bright spots (cosmic rays, X-rays) in a frame, on average.
        spot_px: their diameter, pixels.
        spot_counts: counts at their centre.
        saturation: largest count.
        video: whether the image passes through 8 bits with automatic contrast: darkest 0, brightest 255.
        gamma: exponent of the video signal.
    """

    rotation_deg: float = 0.0
    mirrored: bool = False
    scale: Annotated[float, Gt(0.5), Lt(2)] = 1.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    ellipticity: Annotated[float, Gt(-0.5), Lt(0.5)] = 0.0
    ellipticity_deg: float = 0.0
    barrel: Annotated[float, Gt(-0.2), Lt(0.2)] = 0.0
    glare: Fraction = 0.0
    background: Fraction = 0.0
    gain: Positive = 1.0
    shading: Annotated[float, Gt(-1), Lt(1)] = 0.0
    gain_error_rms: Fraction = 0.0
    quadrant_error_rms: Fraction = 0.0
    fixed_pattern_seed: Seed = 0
    mtf_nyquist: Annotated[float, Gt(0), Le(1)] = 1.0
    dark_level: NonNegative = 0.0
    dark_error: float = 0.0
    readout_rms: NonNegative = 0.0
    row_rms: NonNegative = 0.0
    hot_fraction: Fraction = 0.0
    dead_fraction: Fraction = 0.0
    bright_rows: Annotated[int, Ge(0)] = 0
    spots: NonNegative = 0.0
    spot_px: Positive = 3.0
    spot_counts: Positive = 5000.0
    saturation: Annotated[int, Gt(0), Le(65535)] = 65535
    video: bool = False
    gamma: Positive = 1.0

    @property
    def told_dark_level(self) -> float:
        """Dark level that the camera states, counts; a video signal has none."""
        return 0.0 if self.video else self.dark_level + self.dark_error

    @property
    def undistorted(self) -> bool:
        """Whether every pixel of the camera sees the angles that an ideal one would."""
        turned = self.rotation_deg != 0.0 or self.mirrored or self.shift_px != (0.0, 0.0)
        return not turned and self.scale == 1.0 and self.ellipticity == 0.0 and self.barrel == 0.0
