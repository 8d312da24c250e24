"""What every option of every controller, training, agent, backend, source and specimen refuses, and how.

Options are found, not listed: every class whose name ends in Options, and `CameraView`, is under this contract by
itself. A number that may be negative is named in `SIGNED`, with the reason; all others have to refuse one.
"""

import ast
import collections.abc
import importlib
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic.dataclasses import is_pydantic_dataclass

from twin.instrument.base import CameraView
from twin.options import OptionError, checked_options

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("twin", "learning", "controller", "agents", "scenarios")
SIGNED = {
    "rotation_deg",  # an angle
    "rotation",
    "angle_deg",
    "centre_px",  # places, which may lie outside the camera
    "vacuum_px",
    "start_nm",  # a state
    "offset",  # counts of a dark pixel
    "dark",
    "stigmator_nm",  # a matrix
    "park",  # a place in the scan field
    "start_s",  # a moment
    "first_frame",  # counted from the end
    "last_frame",
    "defocus_sign",  # 1 or -1
    "signs",
    "aberrations",
    "positions_nm",
    "settings",  # another program's
    "view",
    "detectors",
}
PLAIN = (int, float, str, bool)


def kinds() -> Iterator[tuple[str, type]]:
    """Classes of options by module and name; only modules that define one are imported."""
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        if "Options" not in text:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
                kind = getattr(importlib.import_module(module), node.name)
                if not is_protocol(kind):
                    yield f"{module}.{node.name}", kind
    yield "twin.instrument.base.CameraView", CameraView


def is_protocol(kind: type) -> bool:
    """Whether a class only says what options have."""
    return getattr(kind, "_is_protocol", False)


KINDS = dict(kinds())


def leaves(hint: Any) -> set[Any]:
    """Plain types, literals and the rest among the alternatives of a type; what a tuple or mapping holds is not one."""
    if get_origin(hint) is Annotated:
        return leaves(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return set().union(*(leaves(part) for part in get_args(hint)))
    return {hint}


def members(hint: Any) -> set[Any]:
    """Plain types that the elements of a tuple or mapping are made of."""
    found = set()
    for part in get_args(hint):
        found |= {part} if part in PLAIN else members(part)
    return found


def required(kind: type) -> dict[str, Any]:
    """Values for the fields that have no default: all of them texts or choices."""
    lacking = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    hints = {name: get_type_hints(kind)[name] for name in lacking}
    assert all(hint is str or get_origin(hint) is Literal for hint in hints.values())
    return {name: "somewhere" if hint is str else get_args(hint)[0] for name, hint in hints.items()}


def refused(item: Field[Any], hint: Any) -> Iterator[Any]:
    """Values that an option of this type has to refuse."""
    kinds = {get_origin(kind) or kind for kind in leaves(hint)}
    inside = set().union(*(members(kind) for kind in leaves(hint)))
    if str not in kinds:
        yield "no such thing"
    if bool not in kinds:
        yield True
    if float not in kinds:
        yield 2.5
    if not kinds & {dict, Mapping, collections.abc.Mapping} and not any(is_dataclass(kind) for kind in kinds):
        yield {"no": "such"}
    if float in kinds | inside:
        yield from (math.nan, math.inf, [math.nan, math.nan], {"C10": math.nan})
    if kinds & {int, float} and item.name not in SIGNED:
        yield -5


@pytest.mark.parametrize("label", KINDS)
def test_options_are_checked_by_the_one_mechanism(label: str) -> None:
    kind = KINDS[label]
    assert is_pydantic_dataclass(kind)
    assert kind.__pydantic_config__["extra"] == "forbid"
    assert kind.__pydantic_config__["allow_inf_nan"] is False


def complaint(label: str, option: str, value: Any) -> str | None:
    """What is wrong with the refusal of a value; None where nothing is."""
    try:
        checked_options(KINDS[label], {**required(KINDS[label]), option: value})
    except OptionError as error:
        sentence = str(error)
        good = option in sentence and "\n" not in sentence and "http" not in sentence and len(sentence) < 300
        return None if good else f"{option}={value!r}: {sentence}"
    return f"{option}={value!r} is accepted"


@pytest.mark.parametrize("label", KINDS)
def test_a_value_that_makes_no_sense_is_refused_in_one_sentence(label: str) -> None:
    hints = get_type_hints(KINDS[label], include_extras=True)
    asked = [(item.name, value) for item in fields(KINDS[label]) for value in refused(item, hints[item.name])]
    assert [words for name, value in asked if (words := complaint(label, name, value))] == []


@pytest.mark.parametrize("label", KINDS)
def test_an_unknown_option_is_refused_with_the_nearest(label: str) -> None:
    names = [item.name for item in fields(KINDS[label])]
    with pytest.raises(OptionError, match=f"did you mean {names[0]}" if names else "not an option"):
        checked_options(KINDS[label], {f"{names[0]}x" if names else "x": 1})


def test_no_option_is_declared_signed_in_vain() -> None:
    assert {item.name for kind in KINDS.values() for item in fields(kind)} >= SIGNED
