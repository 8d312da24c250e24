"""Microscopes other than the simulator: one file each, found by its name.

A backend is `twin/backends/<kind>.py` with `make(options, optics, space) -> Microscope`; lists show the first line of
its docstring. `ADDRESS`, if present, names the option that follows the colon of `--microscope KIND:ADDRESS`;
`INSTRUMENT = False` marks a backend that moves no hardware. `make` connects to nothing; `reset` does.
"""

import sys
from collections.abc import Mapping
from typing import Any

from twin import registry
from twin.errors import StemtwinError, check_known, printable
from twin.optics import Optics
from twin.options import OptionError
from twin.state import StateSpace
from twin.types import Microscope

GROUP = "stemtwin.backends"
"""Entry points of backends in other packages."""
SIMULATED = "simulated"
"""The kind that is built from a day, not by a backend."""


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
        UnknownBackend: no such kind, or the simulator, which is built from a day.
        OptionError: an unknown option or a bad value.
        ValueError: the backend does not support this optics or space.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> load("nion", {"exposure_s": 0.2}, Optics(), FIRST_ORDER).capabilities.name
        'nion'
        >>> load("nion", {"exposure": 0.2}, Optics(), FIRST_ORDER)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        twin.options.OptionError: 'exposure' is not an option here (did you mean exposure_s?); known: ...
    """
    check_kind(kind)
    if kind == SIMULATED:
        raise UnknownBackend("the simulator is made from a day: SimulatedMicroscope(optics, space, day)")
    module, chosen = _resolve(kind, options)
    microscope: Microscope = module.make(chosen, optics, space)
    return microscope


def from_address(text: str) -> tuple[str, dict[str, Any]]:
    """Return kind and options of `KIND`, `KIND:ADDRESS` or `KIND://ADDRESS`.

    Raises:
        UnknownBackend: no such kind.
        OptionError: an address for a kind that takes none.
    """
    kind, _, rest = text.partition(":")
    if "." in kind or kind == "localhost":
        address = printable(text, 60)
        raise UnknownBackend(f"{address} is an address without a kind of microscope (did you mean remote:{address}?)")
    check_kind(kind)
    address = rest.removeprefix("//")
    if not address:
        return kind, {}
    option = address_option(kind)
    if option is None:
        raise OptionError(f"{text}: {kind} takes no address; write --microscope {kind}")
    return kind, {option: address}


def address_option(kind: str) -> str | None:
    """Return the option that takes the address of a kind; None for a kind without one.

    Raises:
        UnknownBackend: no such kind.
    """
    check_kind(kind)
    return None if kind == SIMULATED else getattr(_resolve(kind)[0], "ADDRESS", None)


def is_instrument(kind: str) -> bool:
    """Return whether a kind moves hardware; true unless its backend declares otherwise.

    Raises:
        UnknownBackend: no such kind.
    """
    check_kind(kind)
    return kind != SIMULATED and bool(getattr(_resolve(kind)[0], "INSTRUMENT", True))


def _resolve(kind: str, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    return registry.resolve(sys.modules[__name__], kind, options or {}, "a kind of microscope", UnknownBackend)
