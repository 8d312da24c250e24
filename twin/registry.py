"""Registry of what is chosen by name: each module of a package, and each of its `PRESETS`, is one entry.

A package offers presets as `PRESETS: dict[str, Preset]` in its `__init__`. Listing and describing import no entry.
"""

import ast
import importlib
import pkgutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from twin.errors import check_known


class Preset(NamedTuple):
    """Another name for a module with some of its options set.

    Attributes:
        module: name of the module in the same package; a leading underscore hides it from `names`.
        options: set by the preset; those given by the user take precedence.
        summary: one line for lists; empty: the module's, with the options in front.
    """

    module: str
    options: Mapping[str, Any]
    summary: str = ""


def presets(package: ModuleType) -> dict[str, Preset]:
    """Presets of a package by name; empty where it has none."""
    return dict(getattr(package, "PRESETS", {}))


def names(package: ModuleType) -> list[str]:
    """Names of the entries of a package, sorted; modules that begin with an underscore are not offered.

    Example:
        >>> import twin.specimens
        >>> [name for name in names(twin.specimens) if name.startswith("s")]
        ['si_001', 'single_atoms', 'sto_001']
    """
    found = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_"]
    return sorted({*found, *presets(package)})


def describe(package: ModuleType, name: str) -> str:
    """One line on an entry: the first of its module's docstring, read without an import.

    Example:
        >>> import twin.specimens
        >>> describe(twin.specimens, "si_001").split()[0]
        'Silicon'
    """
    preset = presets(package).get(name, Preset(name, {}))
    if preset.summary:
        return preset.summary
    spec = find_spec(f"{package.__name__}.{preset.module}")
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    settings = ", ".join(f"{key}={value}" for key, value in preset.options.items())
    return f"{preset.module} with {settings}: {line}" if settings else line


def resolve(
    package: ModuleType, name: str, options: Mapping[str, Any], what: str, error: type[Exception]
) -> tuple[Any, dict[str, Any]]:
    """Import the module of an entry; return it with its options.

    Args:
        package: where to look.
        name: one of `names(package)`.
        options: the user's; they override the preset's.
        what: what the entries are, with its article, for the message.
        error: class to raise.

    Raises:
        error: no such entry; names the nearest.
    """
    check_known(name, names(package), what, error)
    preset = presets(package).get(name, Preset(name, {}))
    return importlib.import_module(f"{package.__name__}.{preset.module}"), {**preset.options, **options}
