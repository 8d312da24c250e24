"""Registry of what is chosen by name: each module of a package and its folders, each preset, modules of other packages.

A package offers presets as `PRESETS: dict[str, Preset]` in its `__init__`, and in `GROUP` the group of entry points by
which installed packages add modules of their own. Listing and describing import no entry.
"""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from twin.errors import StemtwinError, check_known, printable


class PluginError(StemtwinError, ImportError):
    """A module of another package cannot be imported, or lacks what an entry has to have."""


class Preset(NamedTuple):
    """Another name for a module with some of its options set.

    Attributes:
        module: name of the module in the same package; a leading underscore hides it from `names`.
        options: set by the preset; those given by the user take precedence.
        summary: one line for lists; empty: the module's, with the options in front.
        fixed: names of the options that define the preset: another value is refused.
    """

    module: str
    options: Mapping[str, Any]
    summary: str = ""
    fixed: Collection[str] = ()


def presets(package: ModuleType) -> dict[str, Preset]:
    """Presets of a package by name; empty where it has none."""
    return dict(getattr(package, "PRESETS", {}))


def plugins(package: ModuleType) -> dict[str, EntryPoint]:
    """Modules that other packages add, by name; a name that the package itself has is not replaced."""
    group = getattr(package, "GROUP", None)
    found = {} if group is None else _entry_points(group, tuple(sys.path))
    return {name: found[name] for name in found if name not in _own_names(package)}


@lru_cache(maxsize=64)
def _entry_points(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Entry points of a group by name; `path` is where packages are looked for, which may change."""
    return {point.name: point for point in entry_points(group=group)}


def modules(package: ModuleType) -> dict[str, str]:
    """Full module names of the entries of a package and of its folders, by the entry's name; imports none.

    Example:
        >>> import agents.methods
        >>> modules(agents.methods)["ssb"]
        'agents.methods.phase.ssb'
    """
    return _modules(package.__name__, list(package.__path__))


def _modules(package: str, path: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in pkgutil.iter_modules(path):
        if entry.name[0] == "_":
            continue
        full = f"{package}.{entry.name}"
        if entry.ispkg:
            found |= _modules(full, [str(Path(folder) / entry.name) for folder in path])
        else:
            found[entry.name] = full
    return found


def _own_names(package: ModuleType) -> set[str]:
    return {*modules(package), *presets(package)}


def _module_of(package: ModuleType, name: str) -> str:
    """Full name of an entry's module; a preset may name a hidden one beside the entries."""
    chosen = presets(package).get(name, Preset(name, {})).module
    return modules(package).get(chosen, f"{package.__name__}.{chosen}")


def names(package: ModuleType) -> list[str]:
    """Names of the entries of a package, sorted; modules that begin with an underscore are not offered.

    Example:
        >>> import twin.specimens
        >>> [name for name in names(twin.specimens) if name.startswith("s")]
        ['si_001', 'silicalite', 'single_atoms', 'sto_001']
    """
    return sorted({*_own_names(package), *plugins(package)})


def describe(package: ModuleType, name: str) -> str:
    """One line on an entry: the first of its module's docstring, read without an import.

    Example:
        >>> import twin.specimens
        >>> describe(twin.specimens, "si_001").split()[0]
        'Silicon'
    """
    added = plugins(package).get(name)
    if added is not None:
        return _described(added)
    preset = presets(package).get(name, Preset(name, {}))
    if preset.summary:
        return preset.summary
    line = _first_line(_module_of(package, name))
    settings = ", ".join(f"{key}={value}" for key, value in preset.options.items())
    return f"{preset.module} with {settings}: {line}" if settings else line


def _first_line(module: str) -> str:
    spec = find_spec(module)
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _described(added: EntryPoint) -> str:
    """One line on a module of another package, whatever state it is in."""
    origin = f"({_distribution(added)})"
    try:
        return f"{_first_line(added.module) or 'no description'} {origin}"
    except Exception as error:  # finding a submodule imports the package above it
        return f"cannot be found: {printable(_reason(error), 60)} {origin}"


def _distribution(added: EntryPoint) -> str:
    return added.dist.name if added.dist is not None else added.value


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def module(package: ModuleType, name: str, needs: str = "make") -> Any:
    """Import the module of an entry.

    Args:
        package: where to look.
        name: one of `names(package)`.
        needs: attribute that the module of another package has to have.

    Raises:
        PluginError: the module of another package cannot be imported or lacks `needs`.
    """
    added = plugins(package).get(name)
    if added is None:
        return importlib.import_module(_module_of(package, name))
    try:
        found = importlib.import_module(added.module)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{name} of {_distribution(added)} cannot be loaded: {_reason(error)}") from error
    if not hasattr(found, needs):
        raise PluginError(f"{name} of {_distribution(added)} cannot be used: {added.module} has no {needs}")
    return found


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
        PluginError: the module of another package cannot be used.
        OptionError: another value of an option that defines the preset; names the preset or module that has it.
    """
    check_known(name, names(package), what, error)
    preset = presets(package).get(name, Preset(name, {}))
    for key in preset.fixed:
        if options.get(key, preset.options[key]) != preset.options[key]:
            from twin.options import OptionError  # imports pydantic, which lists do without

            raise OptionError(_of_another_preset(package, name, key, options[key]))
    return module(package, name), {**preset.options, **options}


def _of_another_preset(package: ModuleType, name: str, key: str, value: Any) -> str:
    """Say that a preset has no such value of an option, and what has it."""
    preset = presets(package)[name]
    having = [other for other, one in presets(package).items() if one.module == preset.module]
    having = [other for other in having if presets(package)[other].options.get(key) == value]
    if preset.module in names(package):
        having.append(preset.module)
    instead = f"choose {having[0]}" if having else f"leave {key} out"
    return f"{name} has {key}={preset.options[key]}, got {printable(repr(value), 60)}: {instead}"
