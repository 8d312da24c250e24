"""Files of scenarios and their YAML; `schema.py` interprets it."""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from twin.errors import StemtwinError, nearest, printable
from twin.formats import READERS, file_checks
from twin.formats.dataset import FormatError
from twin.text import yaml_text


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
            f"{printable(repr(name_or_path), 60)} is not a scenario{_meant(name_or_path, known)};"
            f" known: {', '.join(known)}, or a .yaml file"
        )
    return Path(name_or_path).name, read_text(Path(name_or_path))


def _meant(name: str, known: list[str]) -> str:
    """Return what a name of no scenario may have been meant to be, or ''."""
    if (Path(name) / "config.yaml").is_file():
        return f" (did you mean {name}/config.yaml?)"
    if Path(name).exists() and Path(name).suffix:
        return f": `stemtwin stream {name}` reads data" if Path(name).suffix.lower() in READERS else ""
    return nearest(name, known)


def read_text(path: Path, what: str = "a scenario") -> str:
    """Return the text of a YAML file; a device or a pipe, which may have no end, is not opened.

    Args:
        path: of the file.
        what: it is, with its article, for messages.

    Raises:
        ScenarioError: no such file, not a regular one, larger than YAML may be, or not UTF-8.
    """
    try:
        return file_checks.read_text(path, yaml_text.SCENARIO.bytes, what)
    except FormatError as error:
        raise ScenarioError(str(error)) from None


def parse_yaml(text: str, label: str) -> dict[str, Any]:
    """Return the mapping that YAML text holds; `label` opens error messages.

    Raises:
        ScenarioError: malformed, a key given twice, or no mapping.
    """
    try:
        data = yaml_text.loads(text)
    except yaml_text.YamlError as error:
        line = f" line {error.line}" if error.line else ""
        raise ScenarioError(f"{label}:{line} is not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ScenarioError(f"{label}: a scenario is a mapping of keys to values, got {type(data).__name__}")
    for key in data:
        if not isinstance(key, str):
            raise ScenarioError(f"{label}: a key is text, got {key!r}")
    return data
