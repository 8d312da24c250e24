"""Rows of the table: what departs from a training day, named as in `twin.day.KINDS` where a day can express it.

Beside those stand what only a bench can do (a start outside the box, an aperture that is not the stated one), days with
several small faults, and other microscopes: optics and cameras.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from controller.canonical import units
from twin.day import KINDS as OF_DAYS
from twin.day import Day
from twin.day.kinds import with_kinds
from twin.optics import Optics
from twin.state import FIRST_ORDER, StateSpace

Change = Callable[[Day], Day]


@dataclass(frozen=True)
class Kind:
    """One row.

    Attributes:
        departures: names in `twin.day.KINDS`.
        strength: factor on the severity of the departures.
        change: of the day, after all else.
        told: optics that the controller is given.
        actual: optics of the microscope; None: the stated ones.
        start_nm: half-range of the start per component where it leaves the box, the first of them never inside it.
        readable: the frames determine the state; otherwise the controller should say that something is wrong.
    """

    departures: tuple[str, ...] = ()
    strength: float = 1.0
    change: Change | None = None
    told: Optics = units.REFERENCE
    actual: Optics | None = None
    start_nm: tuple[float, ...] | None = None
    readable: bool = True

    @property
    def space(self) -> StateSpace:
        """The first order, with ranges and tolerances of the same phases at the edge of the aperture for all optics."""
        return units.scaled(FIRST_ORDER, 1.0 / units.scale(FIRST_ORDER.names, self.told, units.REFERENCE))

    def day(self, severity: float, rng: np.random.Generator) -> Day:
        """Draw the day."""
        drawn = with_kinds(Day.random(rng, severity), self.departures, self.strength * severity, rng)
        return drawn if self.change is None else self.change(drawn)


def camera(pixels: int, binning: int, radius_px: float, energy_kev: float = 300.0, mrad: float = 28.0) -> Optics:
    """Optics whose disc has a given radius on a camera of a given size, both in pixels."""
    beam = Optics(energy_kev=energy_kev, convergence_mrad=mrad)
    sampling_nm = beam.wavelength_nm * radius_px * binning / (mrad * 1e-3 * beam.grid)
    return replace(beam, sampling_nm=sampling_nm, camera_pixels=pixels, binning=binning)


def _beam(energy_kev: float, mrad: float) -> Optics:
    return units.beam_on_camera(energy_kev, mrad)


def _unordered_film(day: Day) -> Day:
    """Independent atoms, S(q) = 1, in a thick film seen by a small source."""
    film = replace(day.film, thickness_nm=12.0, hard_core_nm=1e-3)
    return replace(day, film=film, source_size_nm=0.017, focal_spread_nm=1.7)


def _turned_corrector(degrees: float) -> Change:
    return lambda day: replace(day, actuator=replace(day.actuator, rotation_deg=degrees))


def _cut(pixels: float) -> Change:
    return lambda day: replace(day, camera=replace(day.camera, shift_px=(pixels, 0.0)))


def _coma(length_nm: float) -> Change:
    return lambda day: replace(day, residual_nm={**(day.residual_nm or {}), "C21a": length_nm})


UNREADABLE = {"vacuum", "late_frames", "reversed_corrector", "mirrored_camera", "crystal"}
"""Kinds of days whose frames do not tell the state."""

SMALL_FAULTS = ("uneven_film", "ellipticity", "gain_reference", "glare", "row_noise", "spots", "turned_camera")

DAYS = {"none": Kind()} | {name: Kind((name,), readable=name not in UNREADABLE) for name in OF_DAYS}
OTHERS = {
    "film_without_order_12_nm": Kind(change=_unordered_film),
    "small_faults": Kind(SMALL_FAULTS, strength=0.3),
    "coma_300_nm": Kind(change=_coma(300.0)),
    "disc_cut_12_px": Kind(change=_cut(12.0)),
    "corrector_turned_90_deg": Kind(change=_turned_corrector(90.0), readable=False),
    "corrector_turned_45_deg": Kind(change=_turned_corrector(45.0), readable=False),
    "aperture_told_wrong": Kind(actual=Optics(convergence_mrad=24.0), readable=False),
    "far_start": Kind(start_nm=(120.0, 60.0, 60.0), readable=False),
}
BEAMS = (
    (300, 28),
    (300, 21),
    (300, 15),
    (300, 35),
    (200, 25),
    (200, 35),
    (200, 18),
    (120, 28),
    (80, 30),
    (80, 22),
    (60, 33),
    (60, 40),
)
OPTICS = {f"{kev}_kv_{mrad}_mrad": Kind(told=_beam(float(kev), float(mrad))) for kev, mrad in BEAMS}
CAMERAS = {
    f"camera_{pixels}_px_disc_{radius:.0f}_px": Kind(told=camera(pixels, binning, radius))
    for pixels, binning, radius in ((64, 6, 30.0), (128, 4, 50.0), (256, 2, 100.0), (256, 2, 112.0), (512, 1, 200.0))
}
KINDS: dict[str, Kind] = DAYS | OTHERS | OPTICS | CAMERAS
"""Kinds by name."""
GROUPS: dict[str, tuple[str, ...]] = {
    "days": tuple(DAYS), "others": tuple(OTHERS), "optics": tuple(OPTICS), "cameras": tuple(CAMERAS)
}  # fmt: skip
"""Names by group."""
