"""What a page may say: one small JSON object a message, within limits, and a model for each. Nothing else is heard."""

import json
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import ConfigDict, Strict
from pydantic.dataclasses import dataclass

from scenarios.live.gate import Verb
from scenarios.live.scanning.beam import Choice
from twin.errors import StemtwinError, check_known, printable
from twin.text import Limits, json_text
from twin.wire import schema
from twin.wire.netstring import RpcError
from twin.wire.schema import Name, Nm, Number

LIMITS = Limits(bytes=8192, depth=6)
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
Flag = Annotated[bool, Strict()]
Seed = Annotated[int, Strict(), Ge(0), Le(2**31)]


class MessageError(StemtwinError, ValueError):
    """A message that is not understood; the page is told why."""


@dataclass(frozen=True, config=_CONFIG)
class Seen:
    """The page has drawn a binary message of this kind; the next one may be sent."""

    kind: Literal["view", "before", "run", "scan"]
    number: Number


@dataclass(frozen=True, config=_CONFIG)
class Knobs:
    """Bring knobs to a value, nm."""

    values: Annotated[dict[Name, Nm], MinLen(1), MaxLen(32)]


@dataclass(frozen=True, config=_CONFIG)
class Expose:
    """Expose the twin with another dose or time."""

    dose_e: Annotated[float, Strict(), Ge(1e2), Le(1e10)]
    exposure_s: Annotated[float, Strict(), Ge(1e-3), Le(100.0)]


@dataclass(frozen=True, config=_CONFIG)
class Stage:
    """Move the stage to the next region of the film."""


@dataclass(frozen=True, config=_CONFIG)
class Day:
    """Take another day: a scenario of the library and a seed, which draws the hidden state."""

    scenario: Name
    seed: Seed


@dataclass(frozen=True, config=_CONFIG)
class ShowTruth:
    """Show or hide what only the twin knows."""

    show: Flag


@dataclass(frozen=True, config=_CONFIG)
class Live:
    """Expose again and again, or only when a knob moves."""

    on: Flag


@dataclass(frozen=True, config=_CONFIG)
class Connect:
    """Begin a session by hand with the instrument, or end it where it stands."""

    on: Flag


@dataclass(frozen=True, config=_CONFIG)
class Calibrate:
    """Begin a calibration."""

    controller: Name
    observations: Annotated[int, Strict(), Ge(1), Le(1000)]
    stop: Flag = False
    paused: Flag = False


@dataclass(frozen=True, config=_CONFIG)
class Run:
    """The operator's word for the calibration."""

    verb: Verb


@dataclass(frozen=True, config=_CONFIG)
class Scan:
    """Begin a scan: of a scenario, or of the source that the command line names."""

    scenario: Name
    agents: Annotated[list[Name], MinLen(1), MaxLen(6)]
    beam: Choice = "scenario"


@dataclass(frozen=True, config=_CONFIG)
class ScanStop:
    """End the scan; results so far are kept."""


@dataclass(frozen=True, config=_CONFIG)
class Configure:
    """Change options of an agent of the scan."""

    agent: Name
    changes: Annotated[dict[Name, Any], MinLen(1), MaxLen(16)]


@dataclass(frozen=True, config=_CONFIG)
class Drive:
    """Take the controls."""


MODELS: dict[str, type] = {
    "seen": Seen,
    "knobs": Knobs,
    "expose": Expose,
    "stage": Stage,
    "day": Day,
    "truth": ShowTruth,
    "live": Live,
    "connect": Connect,
    "calibrate": Calibrate,
    "run": Run,
    "scan": Scan,
    "scan_stop": ScanStop,
    "configure": Configure,
    "drive": Drive,
}
"""Models by the value of `do`."""


def parse(text: str | bytes) -> Any:
    """Return the model of a message.

    Raises:
        MessageError: not JSON, too large, an unknown `do`, or a key or value that is refused; one sentence.

    Example:
        >>> parse('{"do": "knobs", "values": {"C10": 12.5}}')
        Knobs(values={'C10': 12.5})
        >>> parse('{"do": "knob", "values": {}}')
        Traceback (most recent call last):
        scenarios.live.messages.MessageError: 'knob' is not a message (did you mean knobs?); known: ...
    """
    try:
        told = json_text.loads(text, LIMITS)
    except json.JSONDecodeError as error:
        raise MessageError(f"a message is JSON: {printable(error)}") from None
    if not isinstance(told, dict):
        raise MessageError(f"a message is an object with `do`, got {printable(told, 60)}")
    verb = told.pop("do", None)
    check_known(verb, MODELS, "a message", MessageError)
    try:
        return schema.parse(MODELS[verb], told, verb)
    except RpcError as error:
        raise MessageError(str(error)) from None
