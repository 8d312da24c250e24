"""Specimens by name: every file is one specimen, built by its `make(options)`."""

import sys
from collections.abc import Mapping
from typing import Any, cast

from twin import registry
from twin.errors import StemtwinError
from twin.matter.structure import Structure
from twin.options import OptionError, checked_options

GROUP = "stemtwin.specimens"
"""Entry points of specimens in other packages."""


class UnknownSpecimen(StemtwinError, ValueError):
    """No specimen of that name."""


class SpecimenOptionError(StemtwinError, ValueError):
    """An option that the specimen does not have, or an invalid value."""


def names() -> list[str]:
    """Every specimen found, sorted."""
    return registry.names(sys.modules[__name__])


def build(name: str, options: Mapping[str, Any] | None = None) -> Structure:
    """Build a specimen.

    Args:
        name: one of `names()`.
        options: fields of the `Options` of its file; the rest have defaults.

    Raises:
        UnknownSpecimen: no such file; names the nearest.
        SpecimenOptionError: an unknown option (names the nearest) or an invalid value.

    Example:
        >>> crystal = build("sto_001", {"width_nm": 1.0, "height_nm": 1.0, "thickness_nm": 2.0})
        >>> crystal.name, len(crystal.numbers)  # 3 x 3 x 5 cells of 5 atoms
        ('SrTiO3 [001]', 225)
        >>> build("sto_100")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        twin.specimens.UnknownSpecimen: 'sto_100' is not a specimen (did you mean sto_001?); known: ...
    """
    module, given = registry.resolve(sys.modules[__name__], name, options or {}, "a specimen", UnknownSpecimen)
    try:
        chosen = checked_options(module.Options, given)
    except OptionError as error:
        raise SpecimenOptionError(f"{name}: {error}") from error
    return cast("Structure", module.make(chosen))
