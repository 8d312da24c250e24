"""How training days depart from an even carbon film, a plain camera and the reference beam: by kind, and by beam.

A controller meets days of every kind and instruments of every beam (`controller/canonical`); what it was trained on has
to include them. Kinds that give no information on the state, or a false one, are left out.
"""

from dataclasses import dataclass, replace

import numpy as np

from controller.canonical.units import beam_on_camera
from twin.day import Day
from twin.day.kinds import with_kinds
from twin.optics import Optics

Range = tuple[float, float]

SPECIMENS = (
    "film_without_order",
    "film_ge",
    "film_sin",
    "film_sio2",
    "crystallites",
    "wedge",
    "hole_edge",
)
ILLUMINATIONS = ("illumination", "ragged_aperture", "flake", "aperture_radius", "vibration")
CAMERAS = (
    "ellipticity",
    "barrel",
    "gain_reference",
    "quadrants",
    "row_noise",
    "bright_rows",
    "spots",
    "video",
    "glare",
    "background",
    "dark_level",
    "high_dose",
)
LEARNED = SPECIMENS + ILLUMINATIONS + CAMERAS
"""Kinds of days (`twin.day.KINDS`) whose frames still tell the state, all those that a network can learn."""


@dataclass(frozen=True)
class Departures:
    """Distribution of the departures of training days; by default there are none.

    Attributes:
        share: share of the days that depart by kind.
        more: probability of each further kind on a day that has one.
        severity: uniform range of the severity of a kind.
        thickness_nm: uniform range of the thickness of the films that depart in their order.
        other_beams: share of the days with another beam, whatever the kind.
        energy_kev, convergence_mrad: ranges of those beams, uniform in the logarithm.
    """

    share: float = 0.0
    more: float = 0.35
    severity: Range = (0.2, 1.2)
    thickness_nm: Range = (3.0, 16.0)
    other_beams: float = 0.0
    energy_kev: Range = (60.0, 300.0)
    convergence_mrad: Range = (15.0, 40.0)

    def day(self, day: Day, rng: np.random.Generator) -> Day:
        """Return the day with the kinds drawn for it; consumes nothing when there are none."""
        if self.share == 0.0 or rng.random() >= self.share:
            return day
        count = 1 + int(rng.random() < self.more) + int(rng.random() < self.more**2)
        kinds = rng.choice(LEARNED, count, replace=False).tolist()
        day = with_kinds(day, kinds, float(rng.uniform(*self.severity)), rng)
        if "film_without_order" in kinds and day.film.material == "C":
            day = replace(day, film=replace(day.film, thickness_nm=float(rng.uniform(*self.thickness_nm))))
        return day

    def beam(self, optics: Optics, rng: np.random.Generator) -> Optics:
        """Return the optics of a day: another beam on the camera of `optics`, or `optics`."""
        if self.other_beams == 0.0 or rng.random() >= self.other_beams:
            return optics
        energy_kev, convergence_mrad = (
            float(np.exp(rng.uniform(*np.log(bounds)))) for bounds in (self.energy_kev, self.convergence_mrad)
        )
        return beam_on_camera(energy_kev, convergence_mrad, optics)


PLAIN = Departures()
"""No departures."""
WIDE = Departures(share=0.6, other_beams=0.45)
"""What the neural posterior is trained on: days of all kinds, beams of all microscopes."""
