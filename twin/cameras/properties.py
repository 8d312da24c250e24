"""Settings of pixelated cameras: validated plain data, ideal by default."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import model_validator

from twin.options import Fraction, NonNegative, Positive, validated

ChargeSpread = Annotated[float, Ge(0), Le(3)]


@validated
class PixelatedCamera:
    """Settings of every camera: its fractions of bad pixels.

    Attributes:
        hot_fraction, dead_fraction: fractions of pixels that respond without electrons, and of those without signal.
    """

    hot_fraction: Fraction = 0.0
    dead_fraction: Fraction = 0.0


@validated
class FrameCamera(PixelatedCamera):
    """A camera read out frame by frame; its hot pixels are stuck at the largest count.

    Attributes:
        bit_depth: bits of counters or digitiser, which saturate at their largest count.
        readout_s: time at the end of every dwell in which the camera is read out and blind.
    """

    bit_depth: Annotated[int, Ge(1), Le(32)] = 16
    readout_s: NonNegative = 0.0

    @property
    def largest_count(self) -> int:
        """Saturation of counters or digitiser."""
        return int(2**self.bit_depth - 1)


@validated
class CountingCamera(FrameCamera):
    """A camera whose pixels count independently the electrons above a threshold.

    An electron lands uniformly in its pixel; its charge spreads as a Gaussian, and every pixel that collects at least
    the fraction `threshold` of it counts one: several pixels, or none. A threshold of a half counts most electrons
    once.

    Attributes:
        charge_spread_px: rms radius of the charge cloud along an axis, pixels; 0 counts every electron in its pixel.
        threshold: fraction of an electron's charge.
        dead_time_s: time after a hit in which a pixel counts nothing.
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
    """A camera that sends one event per pixel hit, with time of arrival and time over threshold.

    An electron lands uniformly in its pixel, deposits an energy, and its charge spreads as a Gaussian; every pixel that
    collects `threshold_kev` or more sends an event. The deposited energy follows Moyal's form of Landau's distribution
    (Moyal 1955), truncated at the beam energy.

    Attributes:
        energy_kev: beam energy, the largest deposit.
        deposit_kev: most probable deposited energy.
        deposit_width_kev: width of Moyal's distribution; 0: every deposit is equal.
        charge_spread_px: rms radius of the charge cloud along an axis, pixels.
        threshold_kev: lowest energy that fires a pixel.
        tot_per_kev: ticks of 25 ns over threshold per keV, linear.
        tot_bits: bits of the time over threshold, which saturates.
        toa_rms_ns: jitter of the time of arrival.
        timewalk_ns_kev: a pixel that collects E fires `timewalk_ns_kev / E` late.
        dead_time_s: time after the time over threshold in which a pixel is blind; 0: never blind.
        reorder_s: largest read-out delay; each event has its own, so that events arrive out of order.
        hot_rate_per_s: rate at which a hot pixel fires spontaneously.
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
