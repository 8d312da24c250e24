"""JSON within limits; what `json` refuses and what it chokes on become one kind of error."""

import json
import math
import re
from typing import Any

from twin.text import MOST_DIGITS, Limits

RECORD = Limits(bytes=2**28, depth=40)
"""Limits of a file that a command wrote, such as the summary of a run or the description of a scan."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # never fails, so that no text takes quadratic time
_BRACKET = re.compile(r"[\[\]{}]")


def loads(text: str | bytes | bytearray, limits: Limits = RECORD, finite: bool = True) -> Any:
    """Return the value of a JSON text.

    Args:
        text: JSON, UTF-8.
        limits: of its size and depth.
        finite: refuse NaN and infinities, which Python writes and JSON does not have.

    Raises:
        json.JSONDecodeError: not UTF-8, not JSON, too large, too deep, NaN, an infinity, a number beyond double
            precision, or one of more than `MOST_DIGITS` characters.

    Example:
        >>> loads('{"frames": 3}')
        {'frames': 3}
        >>> loads("[" * 5000)
        Traceback (most recent call last):
        json.decoder.JSONDecodeError: lists and objects are at most 40 deep: line 1 column 41 (char 40)
    """
    if len(text) > limits.bytes:
        raise json.JSONDecodeError(f"{len(text)} bytes; at most {limits.bytes} are read", "", 0)
    if not isinstance(text, str):
        try:
            text = bytes(text).decode("utf-8")
        except UnicodeDecodeError as error:
            raise json.JSONDecodeError("not UTF-8 text", "", error.start) from None
    _check_depth(text, limits.depth)
    constant = _no_constant if finite else float
    try:
        return json.loads(text, parse_constant=constant, parse_int=_whole, parse_float=_number)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # of the three functions above
        raise json.JSONDecodeError(str(error), text, 0) from None


def _check_depth(text: str, deepest: int) -> None:
    """Check the depth before the parser recurses; brackets within strings do not count."""
    if text.count("[") + text.count("{") <= deepest:
        return
    depth = 0
    bare = _STRING.sub(lambda found: " " * len(found.group()), text)
    for found in _BRACKET.finditer(bare):
        depth += 1 if found.group() in "[{" else -1
        if depth > deepest:
            raise json.JSONDecodeError(f"lists and objects are at most {deepest} deep", text, found.start())


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {MOST_DIGITS} are read")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:24]} is beyond double precision")
    return value
