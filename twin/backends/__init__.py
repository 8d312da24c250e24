"""Microscopes that are not the simulator: one file each, found by its name.

A backend is `twin/backends/<kind>.py` with `make(options, optics, space) -> Microscope`. Its docstring's first line
is what lists show. `ADDRESS`, if it has one, names the option that follows the colon of `--microscope KIND:ADDRESS`;
`INSTRUMENT = False` says that nothing can be harmed. Making one connects to nothing; `reset` does.
"""

import sys
from collections.abc import Mapping
from typing import Any

from twin import registry
from twin.errors import StemtwinError
from twin.optics import Optics
from twin.options import OptionError
from twin.state import StateSpace
from twin.suggest import check_known
from twin.types import Microscope

SIMULATED = "simulated"
"""The kind that needs a day and no backend."""


class UnknownBackend(StemtwinError, ValueError):
    """No backend of that kind."""


def kinds() -> list[str]:
    """Every kind of microscope, the simulator included, sorted."""
    return sorted([SIMULATED, *registry.names(sys.modules[__name__])])


def check_kind(kind: str) -> None:
    """Refuse a kind that does not exist.

    Raises:
        UnknownBackend: names the nearest.
    """
    check_known(kind, kinds(), "a kind of microscope", UnknownBackend)


def load(kind: str, options: Mapping[str, Any], optics: Optics, space: StateSpace) -> Microscope:
    """Build a backend by kind; nothing is connected yet.

    Raises:
        UnknownBackend: no such kind, or the simulator, which is made from a day.
        OptionError: an unknown option or a bad value.
        ValueError: the backend cannot serve this optics or space.
    """
    check_kind(kind)
    if kind == SIMULATED:
        raise UnknownBackend("the simulator is made from a day: SimulatedMicroscope(optics, space, day)")
    module, chosen = _resolve(kind, options)
    microscope: Microscope = module.make(chosen, optics, space)
    return microscope


def from_address(text: str) -> tuple[str, dict[str, Any]]:
    """Kind and options of `KIND`, `KIND:ADDRESS` or `KIND://ADDRESS`.

    Raises:
        UnknownBackend: no such kind.
        OptionError: an address for a kind that takes none.
    """
    kind, _, rest = text.partition(":")
    check_kind(kind)
    address = rest.removeprefix("//")
    if not address:
        return kind, {}
    option = None if kind == SIMULATED else getattr(_resolve(kind)[0], "ADDRESS", None)
    if option is None:
        raise OptionError(f"{text}: {kind} takes no address; write --microscope {kind}")
    return kind, {option: address}


def is_instrument(kind: str) -> bool:
    """Whether commands to it move something: whatever does not say otherwise is an instrument.

    Raises:
        UnknownBackend: no such kind.
    """
    check_kind(kind)
    return kind != SIMULATED and bool(getattr(_resolve(kind)[0], "INSTRUMENT", True))


def _resolve(kind: str, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    return registry.resolve(sys.modules[__name__], kind, options or {}, "a kind of microscope", UnknownBackend)
