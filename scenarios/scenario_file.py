"""Files of scenarios and their YAML; `schema.py` interprets it."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from twin.errors import StemtwinError, nearest


class ScenarioError(StemtwinError, ValueError):
    """A scenario that cannot be run; the message names file, key, value and the nearest valid choice."""


def library() -> list[str]:
    """Return the names of the scenarios that come with the package, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _library_files())


def description(name: str) -> str:
    """Return one line about a scenario of the library, without checking the rest of it."""
    return str(parse_yaml(read(name)[1], name).get("description", ""))


def _library_files() -> Iterator[Any]:
    folder = resources.files("scenarios") / "library"
    return (entry for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read(name_or_path: str) -> tuple[str, str]:
    """Return a label for messages and the text of a library scenario or a file.

    Raises:
        ScenarioError: no such scenario or file, or not UTF-8.
    """
    is_path = "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    if not is_path:
        for entry in _library_files():
            if entry.name == f"{name_or_path}.yaml":
                return entry.name, entry.read_text(encoding="utf-8")
        known = library()
        raise ScenarioError(
            f"{name_or_path!r} is not a scenario{nearest(name_or_path, known)};"
            f" known: {', '.join(known)}, or a .yaml file"
        )
    path = Path(name_or_path)
    try:
        return path.name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ScenarioError(f"{name_or_path}: {reason}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses a key written twice instead of silently keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, label: str) -> dict[str, Any]:
    """Return the mapping that YAML text holds; `label` opens error messages.

    Raises:
        ScenarioError: malformed, a key given twice, or no mapping.
    """
    try:
        data = yaml.load(text, _UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ScenarioError(f"{label}:{line} is not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{label}: is not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ScenarioError(f"{label}: a scenario is a mapping of keys to values, got {type(data).__name__}")
    return data
