"""The hidden parameters of one operating day, by what they belong to; all plain, validated data."""

from twin.day.camera import CameraProperties
from twin.day.corrector import DRIFT_PRESETS, ActuatorProperties, DriftProperties
from twin.day.day import Day
from twin.day.film import MATERIALS, FilmProperties
from twin.day.illumination import IlluminationProperties
from twin.day.kinds import KINDS
from twin.day.scan import ScanProperties
from twin.day.spreads import INSTRUMENT_SPREADS, SPREADS

__all__ = [
    "DRIFT_PRESETS",
    "INSTRUMENT_SPREADS",
    "KINDS",
    "MATERIALS",
    "SPREADS",
    "ActuatorProperties",
    "CameraProperties",
    "Day",
    "DriftProperties",
    "FilmProperties",
    "IlluminationProperties",
    "ScanProperties",
]
