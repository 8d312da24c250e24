"""Options of a thing that is chosen by name: a dataclass built from plain values, and errors that help."""

import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any, TypeVar

from pydantic import ValidationError

from twin.suggest import nearest

Options = TypeVar("Options")


class OptionError(ValueError):
    """An option that the thing does not have, or a value it cannot use."""


def checked_options(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """An options dataclass from plain values.

    Raises:
        OptionError: an unknown option (names the nearest), or a value it cannot take.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise OptionError(f"{key!r} is not an option here{nearest(key, known)}; known: {', '.join(known)}")
    try:
        return kind(**given)
    except ValidationError as error:
        raise OptionError(_first_problem(error)) from error
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error


def _first_problem(error: ValidationError) -> str:
    """One line: the option and what was expected of it; pydantic's own text has several, and a web address."""
    problem = error.errors(include_url=False)[0]
    where, message = ".".join(str(part) for part in problem["loc"]), problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    shown = repr(problem["input"])
    return f"{where}: {message[0].lower()}{message[1:]}, got {shown if len(shown) < 60 else shown[:57] + '...'}"


def modules(package: ModuleType) -> list[str]:
    """Names of the modules of a package, sorted; those that begin with an underscore are not offered."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")
