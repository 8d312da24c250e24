"""What can be chosen in the page: controllers, days, scans and agents, each with its line for people."""

from typing import Any

from controller import base as controllers
from scenarios.live.scanning.agents import offered
from scenarios.schema import Scenario, library, load


def choices_of(own: Scenario, source: str, twin: bool) -> dict[str, Any]:
    """Return the choices as JSON data.

    Args:
        own: scenario of the command line, beside those of the library.
        source: file or camera for the scan panel; "" for none.
        twin: the microscope is the simulator, whose day can be chosen.
    """
    found = {name: load(name) for name in library()} | {own.name: own}
    days = {name: one for name, one in found.items() if one.scan is None} if twin else {}
    return {
        "controllers": [{"name": name, "about": controllers.describe(name)} for name in controllers.names()],
        "days": [{"name": name, "about": one.description} for name, one in days.items()],
        "scans": [
            {
                "name": name,
                "about": one.description,
                "corrected": one.scan.corrected,
                "convergence_mrad": one.scan.optics.convergence_mrad,
            }
            for name, one in found.items()
            if one.scan
        ],
        "agents": offered(),
        "source": source,
    }
