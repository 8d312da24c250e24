"""Whether the packages that Python finds under our names are ours.

Other distributions install packages of the same names, for example `agents` of openai-agents.
"""

from functools import lru_cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

OPENINGS = {
    "twin": "The virtual microscope.",
    "learning": "Learning for controllers and agents",
    "controller": "Closed-loop calibration controllers",
    "agents": "Streaming reconstruction agents",
    "scenarios": "Experiments: scenarios",
}
"""First words of the docstring of each of our packages: a package of another distribution has others."""


@lru_cache(maxsize=1)
def foreign() -> str:
    """Return one sentence about the first package that is not ours, or an empty text."""
    for name, opening in OPENINGS.items():
        where = _found(name)
        if where is None:
            return f"its package {name} is missing; install stemtwin again"
        try:
            ours = where.read_text(encoding="utf-8").startswith(f'"""{opening}')
        except (OSError, UnicodeDecodeError):
            ours = False
        if not ours:
            return (
                f"another package called {name!r}{_owner(name)} hides the one of stemtwin ({where.parent});"
                " install stemtwin in an environment of its own"
            )
    return ""


def _found(name: str) -> Path | None:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin is None:  # a folder without __init__.py
        return Path(next(iter(spec.submodule_search_locations or ()), name)) / "__init__.py"
    return Path(spec.origin)


def _owner(name: str) -> str:
    others = sorted(set(packages_distributions().get(name, ())) - {"stemtwin"})
    return f" of {', '.join(others)}" if others else ""
