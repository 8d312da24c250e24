"""Settings as data: frozen dataclasses that refuse what they cannot use, and errors that name the nearest choice."""

import math
import re
from collections.abc import Mapping
from dataclasses import field, fields
from itertools import takewhile
from typing import Annotated, Any, ClassVar, TypeVar, cast, dataclass_transform, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from twin.errors import StemtwinError, nearest, printable

Options = TypeVar("Options")

LARGEST = 1e15
"""Size of the largest number that an option takes: beyond it sums lose their last digits, and products overflow."""
SMALLEST = 1e-15
"""The smallest positive number: below it quotients overflow."""


def _not_tiny(value: float) -> float:
    if value < SMALLEST:
        raise ValueError(f"a number from {SMALLEST:g} on is expected, got {value:g}")
    return value


Positive = Annotated[float, Gt(0), Le(LARGEST), AfterValidator(_not_tiny)]
NonNegative = Annotated[float, Ge(0), Le(LARGEST)]
Probability = Annotated[float, Gt(0), Lt(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Count = Annotated[int, Ge(1)]
Seed = Annotated[int, Ge(0)]
Bytes = Annotated[int, Gt(0)]
Port = Annotated[int, Ge(1), Le(65535)]


class OptionError(StemtwinError, ValueError):
    """An option that the thing does not have, or a value it cannot use."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, Field))
def validated(kind: type[Options]) -> type[Options]:
    """Make a class a frozen dataclass of keyword arguments that pydantic checks.

    Unknown names, other types, NaN, infinities and true or false for a number are refused; limits stand in the
    annotation (`Positive`, `Annotated[int, Ge(3)]`). `checked_options` turns a refusal into one sentence.

    Example:
        >>> @validated
        ... class Exposure:
        ...     time_s: Positive = 0.1
        >>> checked_options(Exposure, {"time_s": 2})
        Exposure(time_s=2.0)
        >>> checked_options(Exposure, {"time_s": -1})
        Traceback (most recent call last):
        twin.options.OptionError: time_s: input should be greater than 0, got -1
    """
    numbers = _numbers(kind)  # by name: a validator of every field would be one of a discriminator, too
    if numbers:
        kind._numbers_in_reach = field_validator(*numbers, mode="before")(_in_reach)  # type: ignore[attr-defined]
    made = dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)(kind)
    return cast("type[Options]", made)


def _in_reach(value: Any) -> Any:
    """Refuse true and false, which pydantic takes for 1 and 0, and numbers beyond `LARGEST`, at any depth."""
    if isinstance(value, bool):
        raise ValueError(f"a number is expected, got {value}")
    _check_reach(value)
    return value


def _check_reach(value: Any) -> None:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            _check_reach(part)
        return
    if isinstance(value, str):  # pydantic reads "1e308", which YAML 1.1 takes for text
        try:
            value = float(value)
        except ValueError:
            return
    number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if number and abs(value) > LARGEST:
        raise ValueError(f"a number up to {LARGEST:g} in size is expected, got {printable(str(value), 30)}")


def _numbers(kind: type[Any]) -> list[str]:
    """Names of the fields that take a number and no truth value."""
    takes = {name: set(_types(hint)) for name, hint in get_type_hints(kind).items() if get_origin(hint) is not ClassVar}
    return [name for name, types in takes.items() if types & {int, float} and bool not in types]


def _types(hint: Any) -> list[Any]:
    """All alternatives of a type hint, `Annotated` and `Literal` ones too."""
    parts = get_args(hint)
    if not parts:
        return [hint if isinstance(hint, type) else type(hint)]
    return [leaf for part in parts for leaf in _types(part)]


def checked_options(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """An options dataclass from plain values.

    Raises:
        OptionError: an unknown option (names the nearest), or a value it cannot take.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            suggestion = nearest(str(key), known)
            raise OptionError(
                f"{printable(repr(key), 60)} is not an option here{suggestion}; known: {', '.join(known)}"
            )
    try:
        return kind(**given)
    except ValidationError as error:
        raise OptionError(first_problem(error)) from error
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error


QUANTITY = r"[-+]?[\d.]+(?:[eE][-+]?\d+)? ?[a-zA-Zµ%°]{1,4}"
"""A number and its unit."""


def first_problem(error: ValidationError) -> str:
    """One line: the option and what was expected of it; pydantic's own text has several, and a web address."""
    where, message = located_problem(error)
    return f"{where}: {message}" if where else message


def located_problem(error: ValidationError) -> tuple[str, str]:
    """Dotted name of the first value that was refused ("" for the whole), and what was expected of it."""
    problems = error.errors(include_url=False)
    first = problems[0]
    # A value that may be of several types is refused once by each: their places differ in the type's name at the end.
    same = [p for p in problems if p["loc"][:1] == first["loc"][:1] and p["input"] is first["input"]]
    place = first["loc"] if len(same) == 1 else _common_start([p["loc"] for p in same])
    where = ".".join(str(part) for part in place)
    if first["type"] == "missing":
        return where, "has to be given"
    messages = list(dict.fromkeys(p["msg"].removeprefix("Value error, ").partition(", unable")[0] for p in same))
    if first["type"] == "value_error":
        return where, messages[0]
    expected = " or ".join(m if k == 0 else m.removeprefix("Input should be ") for k, m in enumerate(messages))
    if re.fullmatch(QUANTITY, str(first["input"])):
        expected += " without a unit"
    return where, f"{expected[0].lower()}{expected[1:]}, got {printable(repr(first['input']), 60)}"


def _common_start(places: list[tuple[int | str, ...]]) -> list[int | str]:
    together = takewhile(lambda parts: len(set(parts)) == 1, zip(*places, strict=False))
    return [parts[0] for parts in together]
