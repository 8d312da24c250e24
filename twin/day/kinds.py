"""Departures that a random day can be given by name: films, illumination, camera, corrector and timing.

Each kind is a function of the severity: at 0 the day is unchanged, at 1 it departs as one would meet it on a real
instrument, at 2 twice as far. No shipped network has seen them in training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from twin.errors import check_known

if TYPE_CHECKING:
    from twin.day.day import Day

    AnyDay = TypeVar("AnyDay", bound=Day)

Changes = Mapping[str, Any]
"""Fields of a section of the day ("film", "camera", ...), or under "" of the day itself."""
Kind = Callable[[float, np.random.Generator], Mapping[str, Changes]]


def _angle(rng: np.random.Generator) -> float:
    return float(rng.uniform(-180.0, 180.0))


def _size(severity: float, largest: float, rng: np.random.Generator) -> float:
    """Uniform between half and all of `largest` times the severity."""
    return float(severity * largest * rng.uniform(0.5, 1.0))


def _share(severity: float, largest: float, rng: np.random.Generator, most: float = 0.9) -> float:
    return min(_size(severity, largest, rng), most)


def _signed(severity: float, largest: float, rng: np.random.Generator) -> float:
    return float(rng.choice((-1.0, 1.0))) * _size(severity, largest, rng)


def _place(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    direction = rng.uniform(0.0, 2 * np.pi)
    return float(radius * np.cos(direction)), float(radius * np.sin(direction))


def _illumination(severity: float, rng: np.random.Generator) -> Mapping[str, Changes]:
    brightest = _place(rng, 0.3 * severity)
    return {"illumination": {"fall_off": _share(severity, 0.5, rng), "brightest": brightest}}


def _ragged(severity: float, rng: np.random.Generator) -> Mapping[str, Changes]:
    rms = _share(severity, 0.02, rng, 0.15)
    return {"illumination": {"ragged_rms": rms, "ragged_seed": int(rng.integers(1000))}}


def _flake(severity: float, rng: np.random.Generator) -> Mapping[str, Changes]:
    return {"illumination": {"flake_share": _share(severity, 0.1, rng, 0.5), "flake_at": _place(rng, 0.7)}}


def _film(material: str, thinnest_nm: float = 3.0, thickest_nm: float = 20.0) -> Kind:
    def draw(severity: float, rng: np.random.Generator) -> Mapping[str, Changes]:
        return {"film": {"material": material, "thickness_nm": float(rng.uniform(thinnest_nm, thickest_nm))}}

    return draw


KINDS: dict[str, Kind] = {
    # the specimen
    "film_without_order": lambda severity, rng: {"film": {"disorder_nm": _size(severity, 0.2, rng)}},
    "film_ge": _film("Ge"),
    "film_sin": _film("SiN"),
    "film_sio2": _film("SiO2"),
    "crystallites": lambda severity, rng: {"film": {"crystallites_per_um2": _size(severity, 20000.0, rng)}},
    "crystal": lambda severity, rng: {"film": {"crystal": "si_001"}},
    "wedge": lambda severity, rng: {"film": {"wedge": _share(severity, 0.6, rng, 1.9), "wedge_deg": _angle(rng)}},
    "hole_edge": lambda severity, rng: {"film": {"edge_nm": float(rng.uniform(1.0, 6.0))}},
    "vacuum": lambda severity, rng: {"film": {"hole_share": 1.0}},
    "contamination": lambda severity, rng: {
        "film": {"contamination_nm_per_s": _size(severity, 0.5, rng)},
        "": {"same_region": True},
    },
    "uneven_film": lambda severity, rng: {"film": {"height_rms_nm": _size(severity, 8.0, rng)}},
    # the illumination
    "illumination": _illumination,
    "ragged_aperture": _ragged,
    "flake": _flake,
    "aperture_radius": lambda severity, rng: {
        "illumination": {"radius_scale": 1.0 + min(max(_signed(severity, 0.05, rng), -0.4), 0.2)}
    },
    "vibration": lambda severity, rng: {
        "illumination": {"vibration_nm": _size(severity, 0.1, rng), "vibration_deg": _angle(rng)}
    },
    # the camera
    "ellipticity": lambda severity, rng: {
        "camera": {"ellipticity": _share(severity, 0.05, rng, 0.3), "ellipticity_deg": _angle(rng)}
    },
    "barrel": lambda severity, rng: {"camera": {"barrel": min(max(_signed(severity, 0.02, rng), -0.15), 0.15)}},
    "gain_reference": lambda severity, rng: {
        "camera": {"gain_error_rms": _share(severity, 0.04, rng), "fixed_pattern_seed": int(rng.integers(10**6))}
    },
    "quadrants": lambda severity, rng: {
        "camera": {
            "quadrant_error_rms": _share(severity, 0.05, rng, 0.3),
            "fixed_pattern_seed": int(rng.integers(10**6)),
        }
    },
    "row_noise": lambda severity, rng: {"camera": {"row_rms": _size(severity, 6.0, rng)}},
    "bright_rows": lambda severity, rng: {"camera": {"bright_rows": int(np.ceil(2 * severity))}},
    "spots": lambda severity, rng: {"camera": {"spots": _size(severity, 5.0, rng)}},
    "video": lambda severity, rng: {"camera": {"video": True, "gamma": float(rng.uniform(0.6, 1.0))}},
    "glare": lambda severity, rng: {"camera": {"glare": _share(severity, 0.3, rng)}},
    "background": lambda severity, rng: {"camera": {"background": _share(severity, 0.4, rng)}},
    "dark_level": lambda severity, rng: {
        "camera": {"dark_level": 100.0, "dark_error": min(max(_signed(severity, 60.0, rng), -100.0), 100.0)}
    },
    "turned_camera": lambda severity, rng: {"camera": {"rotation_deg": _signed(severity, 15.0, rng)}},
    "mirrored_camera": lambda severity, rng: {"camera": {"mirrored": True}},
    # corrector, timing, dose
    "reversed_corrector": lambda severity, rng: {"actuator": {"reversed": ("C10",)}},
    "late_frames": lambda severity, rng: {"": {"late_frames": 1}},
    "repeated_frames": lambda severity, rng: {"": {"repeated_share": _share(severity, 0.3, rng)}},
    "high_dose": lambda severity, rng: {
        "": {"dose_e": float(10.0 ** (7.0 + min(severity, 1.0) * rng.uniform(0.0, 1.3)))}
    },
}
"""Kinds by name."""


def with_kinds(day: "AnyDay", kinds: Sequence[str], severity: float, rng: np.random.Generator) -> "AnyDay":
    """Return the day with the departures of these kinds; at severity 0 unchanged.

    Args:
        day: to depart from.
        kinds: names in `KINDS`, in the order in which they are drawn.
        severity: 0 or more.
        rng: consumed.

    Raises:
        ValueError: no such kind; names the nearest.
    """
    for name in kinds:
        check_known(name, KINDS, "a kind of day")
    for name in kinds if severity > 0 else ():
        for section, changes in KINDS[name](severity, rng).items():
            changed = {section: replace(getattr(day, section), **changes)} if section else dict(changes)
            day = replace(day, **changed)
    return day
