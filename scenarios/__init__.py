"""Experiments: scenarios, their runs and reports, the command line.

The functions for programs are `load_scenario`, `calibrate` and `compare`; they are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenarios.calibration.run import calibrate
    from scenarios.comparison.run import compare
    from scenarios.schema import load as load_scenario

__all__ = ["calibrate", "compare", "load_scenario"]

_PLACES = {
    "calibrate": "scenarios.calibration.run",
    "compare": "scenarios.comparison.run",
    "load_scenario": "scenarios.schema",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'scenarios' has no attribute {name!r}")
    module = importlib.import_module(_PLACES[name])
    return module.load if name == "load_scenario" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
