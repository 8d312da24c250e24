"""The public names of stemtwin in one place: `from stemtwin import calibrate, load_scenario`.

The code is in five packages, `twin`, `learning`, `controller`, `agents` and `scenarios`; this one only re-exports.
Importing it registers the Gymnasium environments and loads nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stemtwin.ownership import foreign

if TYPE_CHECKING:
    from agents.base import Agent
    from agents.base import load as load_agent
    from agents.sources import open_source
    from controller.base import Controller, Estimate
    from controller.base import load as load_controller
    from scenarios.calibration.run import calibrate
    from scenarios.comparison.run import compare
    from scenarios.schema import Scenario
    from scenarios.schema import load as load_scenario
    from twin.aberrations import Aberrations
    from twin.day import Day
    from twin.errors import StemtwinError
    from twin.optics import Optics
    from twin.scan.plan import ScanPlan
    from twin.simulated import SimulatedMicroscope
    from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace

__all__ = [
    "FIRST_ORDER", "SECOND_ORDER", "Aberrations", "Agent", "Controller", "Day", "Estimate", "Optics", "ScanPlan",
    "Scenario", "SimulatedMicroscope", "StateSpace", "StemtwinError", "calibrate", "compare", "load_agent",
    "load_controller", "load_scenario", "open_source",
]  # fmt: skip

_PLACES = {
    "Agent": "agents.base",
    "load_agent": "agents.base:load",
    "open_source": "agents.sources",
    "Controller": "controller.base",
    "Estimate": "controller.base",
    "load_controller": "controller.base:load",
    "calibrate": "scenarios.calibration.run",
    "compare": "scenarios.comparison.run",
    "Scenario": "scenarios.schema",
    "load_scenario": "scenarios.schema:load",
    "Aberrations": "twin.aberrations",
    "Day": "twin.day",
    "StemtwinError": "twin.errors",
    "Optics": "twin.optics",
    "ScanPlan": "twin.scan.plan",
    "SimulatedMicroscope": "twin.simulated",
    "FIRST_ORDER": "twin.state",
    "SECOND_ORDER": "twin.state",
    "StateSpace": "twin.state",
}
"""Module of each public name, with its name there where that differs."""

if not foreign():
    importlib.import_module("twin")  # registers the environments


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'stemtwin' has no attribute {name!r}")
    if problem := foreign():
        raise ImportError(problem)
    module, _, there = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), there or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def main() -> None:
    """Entry point of the console script: the command, unless packages of others hide ours."""
    import sys

    if problem := foreign():
        sys.exit(f"stemtwin: {problem}")
    from scenarios.cli import main as command

    command()
