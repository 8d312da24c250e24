"""The virtual microscope. Importing it registers the Gymnasium environments and loads nothing heavy."""

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

from twin.aberrations import Aberrations
from twin.optics import Optics
from twin.state import SECOND_ORDER, StateSpace

if TYPE_CHECKING:
    from twin.day import Day
    from twin.scan.plan import ScanPlan
    from twin.simulated import SimulatedMicroscope

__all__ = ["Aberrations", "Day", "Optics", "ScanPlan", "SimulatedMicroscope", "StateSpace"]

_LAZY = {"Day": "twin.day", "ScanPlan": "twin.scan.plan", "SimulatedMicroscope": "twin.simulated"}
"""Module by name, imported on first use: pydantic and SciPy take most of a second."""

MAX_OBSERVATIONS = 40
"""Steps of one episode: twice as many as a converged calibration takes."""

MAX_SCAN_STEPS = 1024
"""More than any scan of the default plan, which ends by itself."""

gymnasium.register(
    "stemtwin/Calibration-v0", "twin.envs.calibration:CalibrationEnv", max_episode_steps=MAX_OBSERVATIONS
)
gymnasium.register(
    "stemtwin/Calibration7D-v0",
    "twin.envs.calibration:CalibrationEnv",
    max_episode_steps=MAX_OBSERVATIONS,
    kwargs={"space": SECOND_ORDER},
)
gymnasium.register(
    "stemtwin/CalibrationSurrogate-v0", "twin.envs.thon_rings:SurrogateEnv", max_episode_steps=MAX_OBSERVATIONS
)
gymnasium.register("stemtwin/Scan4D-v0", "twin.envs.scan:ScanEnv", max_episode_steps=MAX_SCAN_STEPS)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
