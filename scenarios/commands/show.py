"""`stemtwin show`: the full scenario, with the origin of every value."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import typer

from scenarios.commands.arguments import AsJson, Overrides, Scenario, Seed
from scenarios.commands.refusal import refusals

DEFAULT = "default"
COMMENT_COLUMN = 48


def show(scenario: Scenario = "day_a", seed: Seed = 0, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print all values of a scenario and where each comes from. The output is a scenario file.

    A scenario with a severity is shown with the day that the seed draws.
    """
    from scenarios.schema import load

    with refusals():
        chosen = load(scenario, overrides or ())
        sources = origins(scenario, overrides or ())
        plain = chosen.for_seed(seed).resolved()
    if chosen.severity is not None:
        sources["day"] = f"drawn by seed {seed} at severity {chosen.severity:g}"
    if as_json:
        flat = {key: origin(key, sources) for key, _ in leaves(plain)}
        typer.echo(json.dumps({"scenario": plain, "sources": flat}))
        return
    for line in lines(plain, sources):
        typer.echo(line)


def origins(scenario: str, overrides: Any) -> dict[str, str]:
    """Return the file or the override behind every value that is given, by dotted key."""
    from scenarios.scenario_file import parse_yaml, read

    label, text = read(scenario)
    found = {key: label for key, _ in leaves(parse_yaml(text, label))}
    found.setdefault("name", f"name of {label}")
    for override in overrides:
        key = override.partition("=")[0].strip()
        found = {known: source for known, source in found.items() if not f"{known}.".startswith(f"{key}.")}
        found[key] = f"--set {key}"
    return found


def leaves(plain: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything that is not a mapping with entries.

    Example:
        >>> list(leaves({"task": {"observations": 3}, "controllers": {}}))
        [('task.observations', 3), ('controllers', {})]
    """
    for key, value in plain.items():
        where = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{where}.")
        else:
            yield where, value


def origin(key: str, sources: Mapping[str, str]) -> str:
    """Return what set a value: the source of the longest key at or above it."""
    parts = key.split(".")
    above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((sources[where] for where in above if where in sources), DEFAULT)


def lines(plain: Mapping[str, Any], sources: Mapping[str, str], above: str = "", indent: int = 0) -> Iterator[str]:
    """Yield lines of YAML, each value with its origin as a comment."""
    for key, value in plain.items():
        where, head = f"{above}{key}", f"{'':{indent}}{_text(key)}:"
        if isinstance(value, Mapping) and value:
            yield head
            yield from lines(value, sources, f"{where}.", indent + 2)
        else:
            yield f"{head + ' ' + _text(value):{COMMENT_COLUMN}}  # {origin(where, sources)}"


def _text(value: Any) -> str:
    """Return YAML on one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
