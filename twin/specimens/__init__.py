"""Specimens by name: one file is one specimen, found by its name, built by its `make(options)`."""

import sys
from collections.abc import Mapping
from typing import Any, cast

from twin import registry
from twin.errors import StemtwinError
from twin.matter.structure import Structure
from twin.options import OptionError, checked_options


class UnknownSpecimen(StemtwinError, ValueError):
    """No specimen of that name."""


class SpecimenOptionError(StemtwinError, ValueError):
    """An option that the specimen does not have, or a value it cannot use."""


def names() -> list[str]:
    """Every specimen found, sorted."""
    return registry.names(sys.modules[__name__])


def build(name: str, options: Mapping[str, Any] | None = None) -> Structure:
    """The atoms of a specimen.

    Args:
        name: one of `names()`.
        options: fields of the `Options` of its file; the rest have defaults.

    Raises:
        UnknownSpecimen: no such file; names the nearest.
        SpecimenOptionError: an unknown option (names the nearest) or a bad value.
    """
    module, given = registry.resolve(sys.modules[__name__], name, options or {}, "a specimen", UnknownSpecimen)
    try:
        chosen = checked_options(module.Options, given)
    except OptionError as error:
        raise SpecimenOptionError(f"{name}: {error}") from error
    return cast("Structure", module.make(chosen))
