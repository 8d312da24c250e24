"""What a pixelated camera is: validated plain data, ideal by default, and two real ones."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from twin.options import Fraction, NonNegative, Positive, validated

Positive = Positive
Fraction = Fraction
ChargeSpread = Annotated[float, Ge(0), Le(3)]


@validated
class PixelatedCamera:
    """What every camera has: pixels, some of them bad.

    Attributes:
        hot_fraction, dead_fraction: share of the pixels that answer without electrons, and of those that see nothing.
    """

    hot_fraction: Fraction = 0.0
    dead_fraction: Fraction = 0.0


@validated
class FrameCamera(PixelatedCamera):
    """A camera that is read out frame by frame; its hot pixels are stuck at the largest count.

    Attributes:
        bit_depth: of counters or digitiser; they stop at their largest count.
        readout_s: time at the end of every dwell in which the camera is read out and sees nothing.
    """

    bit_depth: Annotated[int, Ge(1), Le(32)] = 16
    readout_s: NonNegative = 0.0

    @property
    def largest_count(self) -> int:
        """Where counters or digitiser end."""
        return int(2**self.bit_depth - 1)


@validated
class CountingCamera(FrameCamera):
    """A camera that counts the electrons above a threshold, each pixel on its own.

    An electron lands anywhere in its pixel, evenly; its charge spreads as a Gaussian, and every pixel that collects
    `threshold` of it or more counts one: several, or none. A threshold of a half counts most electrons once.

    Attributes:
        charge_spread_px: rms radius of the charge cloud along an axis, pixels; 0 counts every electron in its pixel.
        threshold: share of an electron's charge.
        dead_time_s: after a hit, for how long a pixel counts nothing.
        paralyzable: a hit within the dead time extends it.
    """

    kind: Literal["counting"] = "counting"
    charge_spread_px: ChargeSpread = 0.0
    threshold: Annotated[float, Ge(0.01), Lt(1)] = 0.5
    dead_time_s: NonNegative = 0.0
    paralyzable: bool = False
    bit_depth: Literal[1, 6, 12, 24] = 12


@validated
class IntegratingCamera(FrameCamera):
    """A camera that integrates the signal of its electrons: scintillator-coupled or direct.

    Attributes:
        gain: counts per electron.
        gain_spread: relative rms of the gain from pixel to pixel, fixed per sensor.
        mtf_nyquist: modulation transfer at Nyquist (1 is perfect), Gaussian.
        dark_level: offset, counts.
        dark_per_s: dark current, counts per second of exposure.
        readout_rms: Gaussian read-out noise, counts.
    """

    kind: Literal["integrating"] = "integrating"
    gain: Positive = 1.0
    gain_spread: Annotated[float, Ge(0), Lt(0.3)] = 0.0
    mtf_nyquist: Annotated[float, Gt(0), Le(1)] = 1.0
    dark_level: NonNegative = 0.0
    dark_per_s: NonNegative = 0.0
    readout_rms: NonNegative = 0.0


@validated
class EventCamera(PixelatedCamera):
    """A camera that sends one event per pixel hit: when (time of arrival) and how much (time over threshold).

    An electron lands anywhere in its pixel, evenly, deposits an energy, and its charge spreads as a Gaussian; every
    pixel that collects `threshold_kev` or more sends an event. The deposited energy follows Moyal's form of Landau's
    distribution (Moyal 1955), cut at the beam's own energy.

    Attributes:
        energy_kev: beam energy, the most an electron can deposit.
        deposit_kev: most probable deposited energy.
        deposit_width_kev: Moyal's width; 0 deposits the same each time.
        charge_spread_px: rms radius of the charge cloud along an axis, pixels.
        threshold_kev: least energy that a pixel sees.
        tot_per_kev: ticks of 25 ns over threshold per keV, linear.
        tot_bits: of the time over threshold; it stops at its largest value.
        toa_rms_ns: jitter of the time of arrival.
        timewalk_ns_kev: a pixel that collects E fires `timewalk_ns_kev / E` late.
        dead_time_s: for how long after the time over threshold a pixel sees nothing; 0 leaves out that time as well.
        reorder_s: events leave up to this much late, each by a delay of its own: they arrive out of order.
        hot_rate_per_s: how often a hot pixel fires on its own.
    """

    kind: Literal["event"] = "event"
    energy_kev: Positive = 300.0
    deposit_kev: Positive = 200.0
    deposit_width_kev: NonNegative = 0.0
    charge_spread_px: ChargeSpread = 0.0
    threshold_kev: Positive = 5.0
    tot_per_kev: Positive = 0.5
    tot_bits: Annotated[int, Ge(1), Le(16)] = 10
    toa_rms_ns: NonNegative = 0.0
    timewalk_ns_kev: NonNegative = 0.0
    dead_time_s: NonNegative = 0.0
    reorder_s: NonNegative = 0.0
    hot_rate_per_s: NonNegative = 1e4

    @model_validator(mode="after")
    def _energies(self) -> Self:
        if not self.threshold_kev < self.deposit_kev <= self.energy_kev:
            raise ValueError(
                f"threshold_kev {self.threshold_kev} < deposit_kev {self.deposit_kev} <= energy_kev {self.energy_kev}"
                " must hold"
            )
        if self.threshold_kev < 0.01 * self.energy_kev:
            raise ValueError(
                f"threshold_kev {self.threshold_kev} is below 1 % of the beam's {self.energy_kev} keV: too many pixels"
            )
        return self


Camera = CountingCamera | IntegratingCamera | EventCamera
