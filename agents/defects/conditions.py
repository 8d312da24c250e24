"""Conditions of a dark-field image: what differs from day to day between a simulation and the microscope."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Conditions:
    """Conditions of one image.

    Attributes:
        step_nm: distance of pixels.
        dose_e_per_nm2: electrons of the beam.
        c10_nm: defocus is minus C10.
        source_nm: rms of the source's Gaussian image along its longer axis.
        roundness: shorter over longer axis of that blur.
        jitter_nm: rms innovation of each line's shift, along both axes.
        jitter_correlation: correlation of the shifts of neighbouring lines.
        smear_px: half width at half maximum of the detector's decay (half Lorentzian), in pixels.
        contamination: rms of the scattering from dirt, over the mean of the specimen's.
        contamination_nm: correlation length of the dirt.
        readout: rms of the read-out noise, over the mean shot noise.
        shear: largest strain of the scan, by slow drift and the coils.
    """

    step_nm: float = 0.02
    dose_e_per_nm2: float = 3e5
    c10_nm: float = 0.0
    source_nm: float = 0.035
    roundness: float = 1.0
    jitter_nm: float = 0.0
    jitter_correlation: float = 0.5
    smear_px: float = 0.0
    contamination: float = 0.0
    contamination_nm: float = 1.0
    readout: float = 0.0
    shear: float = 0.0


CLEAN = Conditions(dose_e_per_nm2=1e10, source_nm=0.0)
"""Of a simulation as it comes: no noise, no source, no dirt."""


@dataclass(frozen=True)
class Interval:
    """Values between two limits, evenly spread or evenly spread in the logarithm."""

    low: float
    high: float
    logarithmic: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        """One value."""
        if self.logarithmic:
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def narrowed(self, low: float, high: float) -> "Interval":
        """The part between two values; where nothing is left, the nearest limit."""
        ends = np.clip([low, high], self.low, self.high)
        return Interval(float(ends[0]), float(ends[1]), self.logarithmic)


Ranges = Mapping[str, Interval]
"""Interval of each condition."""

RANDOM: Ranges = {
    "step_nm": Interval(0.016, 0.03),
    "dose_e_per_nm2": Interval(8e4, 5e6, logarithmic=True),
    "c10_nm": Interval(-5.0, 5.0),
    "source_nm": Interval(0.015, 0.06),
    "roundness": Interval(0.6, 1.0),
    "jitter_nm": Interval(0.0, 0.025),
    "jitter_correlation": Interval(0.2, 0.9),
    "smear_px": Interval(0.0, 1.2),
    "contamination": Interval(0.0, 0.6),
    "contamination_nm": Interval(0.4, 2.5, logarithmic=True),
    "readout": Interval(0.0, 1.0),
    "shear": Interval(0.0, 0.03),
}
"""Conditions of the days that a network is to work on."""


def drawn(ranges: Ranges, rng: np.random.Generator) -> Conditions:
    """Draw each condition from its interval.

    Example:
        >>> found = drawn(RANDOM, np.random.default_rng(1))
        >>> 8e4 <= found.dose_e_per_nm2 <= 5e6
        True
    """
    return Conditions(**{field.name: ranges[field.name].draw(rng) for field in fields(Conditions)})


def only(conditions: Conditions) -> Ranges:
    """Intervals that hold these conditions alone."""
    return {name: Interval(value, value) for name, value in asdict(conditions).items()}
