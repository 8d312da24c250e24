"""Lists on the command line: names separated by commas, each with options of its own, `a:x=1,y=2,b`."""

import re
from collections.abc import Collection, Iterable
from typing import Any

from twin.errors import StemtwinError, printable
from twin.text import yaml_text

_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^\[{]*[\]}])")


class ChoiceError(StemtwinError, ValueError):
    """A list with a syntax error."""


def split_list(text: str) -> list[str]:
    """Return the parts of a comma-separated list, stripped; commas within brackets do not separate."""
    return [part.strip() for part in _COMMA_OUTSIDE_BRACKETS.split(text) if part.strip()]


def split_choices(text: str, what: str, flag: str) -> tuple[str, ...]:
    """Return the names of a list with their options: `a:x=1,y=2,b` are a with two options, and b.

    A part with an equals sign before any colon is an option of the name before it.

    Args:
        text: the list.
        what: noun for messages, singular.
        flag: option of the command line, for messages.

    Raises:
        ChoiceError: an empty list, or an option without a name.

    Example:
        >>> split_choices("ricom:kernel=41,pad=2,adf", "agent", "--agents")
        ('ricom:kernel=41,pad=2', 'adf')
    """
    found: list[str] = []
    for part in split_list(text):
        name, colon, _ = part.partition(":")
        if "=" in name:
            if not found:
                raise ChoiceError(f"{flag} {text}: {part!r} follows no {what}")
            found[-1] += ("," if ":" in found[-1] else ":") + part
        else:
            found.append(name + colon + part[len(name) + 1 :])
    if not found:
        raise ChoiceError(f"{flag} takes names separated by commas, got none; see stemtwin list {what}s")
    return tuple(found)


def name_and_options(choice: str, flag: str) -> tuple[str, dict[str, Any]]:
    """Split one choice, `name:key=value,key=value`, into its name and its options, with values as YAML reads them.

    Raises:
        ChoiceError: an option that is not key=value, or one that YAML cannot read.
    """
    name, _, text = choice.partition(":")
    return name.strip(), options(split_list(text), f"{flag} {choice}")


def options(parts: Iterable[str], label: str) -> dict[str, Any]:
    """Return options from `key=value` parts; `label` opens the error message.

    Raises:
        ChoiceError: as in `name_and_options`.
    """
    found: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ChoiceError(f"{label}: {part!r} is not key=value")
        if key in found:
            raise ChoiceError(f"{label}: {key} is given twice")
        try:
            found[key] = _value(value)
        except yaml_text.YamlError as error:
            raise ChoiceError(f"{label}: {printable(value, 60)} is not a YAML value: {error}") from None
    return found


def of_source(meta: Iterable[str], how: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata and options of a source from the `key=value` parts of --meta and --option.

    Raises:
        ChoiceError: as in `name_and_options`, or an option that no source has.
    """
    given, found = options(meta, "--meta"), options(how, "--option")
    for name in ("spec", "meta"):
        if name in found:  # would be taken for an argument of `open_source`
            raise ChoiceError(f"--option {name}: no source has such an option; metadata of the stream goes with --meta")
    return given, found


def _value(text: str) -> Any:
    """Parse YAML, with numbers such as 1e3 as numbers, which YAML 1.1 takes for text."""
    value = yaml_text.loads(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def check_controllers(overrides: Iterable[str], controllers: Collection[str]) -> None:
    """Refuse `--set` of an option of a controller that does not run: it would be without effect.

    Args:
        overrides: `key.key=value` each.
        controllers: names of those that run.

    Raises:
        ChoiceError: naming the controller.

    Example:
        >>> check_controllers(["controllers.vae_em.hard=true"], ["vae_em"])
    """
    for override in overrides:
        section, *rest = override.partition("=")[0].strip().split(".")
        if section == "controllers" and len(rest) > 1 and rest[0] not in controllers:
            other = printable(rest[0], 40)
            raise ChoiceError(
                f"--set {printable(override, 60)}: {other} does not run here; controllers: {', '.join(controllers)}"
            )
