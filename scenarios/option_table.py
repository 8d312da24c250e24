"""Options of a class made by `twin.options.validated` as a table: name, default, unit, limits, meaning."""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

UNITS = {
    "nm": "nm", "a": "A", "nm2": "nm2", "mrad": "mrad", "deg": "degrees", "kev": "keV", "e": "electrons", "s": "s",
    "ms": "ms", "ns": "ns", "hz": "Hz", "px": "pixels", "bytes": "bytes", "mib": "MiB",
    "kelvin": "K", "s_per_nm": "s/nm",
    "per_nm3": "1/nm3", "nm_per_s": "nm/s", "nm_per_sqrt_s": "nm/sqrt(s)",
}  # fmt: skip
"""Unit by the end of an option's name."""
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Row(NamedTuple):
    """One option."""

    name: str
    default: str
    unit: str
    limits: str
    meaning: str


def rows(options: type, preset: Mapping[str, Any] | None = None, fixed: Collection[str] = ()) -> list[Row]:
    """Return one row per option that is not fixed; the defaults are the preset's where it sets them.

    Example:
        >>> from controller.merit.search import SearchOptions
        >>> row = rows(SearchOptions)[-1]
        >>> row.name, row.unit, row.limits
        ('stop_nm', 'nm', '> 0')
    """
    hints, texts = get_type_hints(options, include_extras=True), explained(options)
    return [
        Row(
            item.name,
            _written((preset or {}).get(item.name, _default(item))),
            unit_of(item.name),
            limits_of(hints[item.name]),
            texts.get(item.name, ""),
        )
        for item in fields(options)
        if item.name not in fixed
    ]


def explained(options: type) -> dict[str, str]:
    """Explanations of the fields of a dataclass, from the `Attributes:` sections of its docstring and its bases'.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Options:
        ...     '''Settings.
        ...
        ...     Attributes:
        ...         days, weeks: simulated time; a twentieth
        ...             is held out.
        ...     '''
        ...
        ...     days: int = 3
        ...     weeks: int = 1
        >>> explained(Options)["weeks"]
        'Simulated time; a twentieth is held out.'
    """
    found: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        for names, text in re.findall(r"^    (\w+(?:, \w+)*): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), re.sub(r"\s+", " ", text[0].upper() + text[1:]))
    return found


def unit_of(name: str) -> str:
    """Return the unit that the name of an option ends in; empty for a bare number.

    Example:
        >>> unit_of("step_nm"), unit_of("rate_nm_per_sqrt_s"), unit_of("frames")
        ('nm', 'nm/sqrt(s)', '')
    """
    ends = [end for end in UNITS if name == end or name.endswith(f"_{end}")]
    return UNITS[max(ends, key=len)] if ends else ""


def limits_of(hint: Any) -> str:
    """Return the limits or the choices of a type hint, in words.

    Example:
        >>> from twin.options import Count, Positive
        >>> limits_of(Count), limits_of(Literal["a", "b"]), limits_of(Positive)
        ('>= 1', 'a or b', '> 0')
    """
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    found = dict(_limits(hint))
    return ", ".join(f"{sign} {value:g}" for sign, value in found.items())


def _limits(hint: Any) -> Iterator[tuple[str, float]]:
    from twin.options import LARGEST

    for part in getattr(hint, "__metadata__", ()):
        for name, sign in SIGNS.items():
            value = getattr(part, name, None)
            if isinstance(value, int | float) and value != LARGEST:
                yield sign, value
    for part in get_args(hint):
        if hasattr(part, "__metadata__") and getattr(hint, "__metadata__", None) is None:
            yield from _limits(part)


def _written(value: Any) -> str:
    """Return a value as it is written in a scenario or on the command line.

    Example:
        >>> _written(None), _written(True), _written((3, 4)), _written("adf")
        ('null', 'true', '[3, 4]', 'adf')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_written(part)}' for key, part in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)


def _default(item: Field[Any]) -> Any:
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else "has to be given"
