"""Options of a thing that is chosen by name: a dataclass built from plain values, and errors that help."""

import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from types import ModuleType
from typing import Any, TypeVar

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
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error


def modules(package: ModuleType) -> list[str]:
    """Names of the modules of a package, sorted; those that begin with an underscore are not offered."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")
