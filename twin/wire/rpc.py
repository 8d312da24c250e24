"""What our JSON-RPC services have in common: error codes, and methods and parameters checked by name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from twin.suggest import nearest
from twin.wire.netstring import INVALID_PARAMS, UNKNOWN_METHOD, Request, RpcError

BUSY, OUT_OF_RANGE, NOT_AVAILABLE, NO_SESSION, FAILED = -32001, -32002, -32003, -32004, -32005
"""Of the range that JSON-RPC 2.0 leaves to servers: nothing has moved, except perhaps with FAILED."""


def check_call(request: Request, methods: Mapping[str, Sequence[str]]) -> None:
    """Refuse a method or a parameter that the service does not have.

    Args:
        request: the call.
        methods: names of the parameters by method; one that ends in "?" may be left out.

    Raises:
        RpcError: names the nearest valid choice.
    """
    if request.method not in methods:
        known = ", ".join(methods)
        raise RpcError(
            f"{shown(request.method)} is not a method{nearest(request.method[:40], methods)}; known: {known}",
            UNKNOWN_METHOD,
            id=request.id,
        )
    names = [name.removesuffix("?") for name in methods[request.method]]
    for name in request.params:
        if name not in names:
            raise RpcError(
                f"{shown(name)} is not a parameter of {request.method}{nearest(name[:40], names)};"
                f" known: {', '.join(names) or 'none'}",
                INVALID_PARAMS,
                id=request.id,
            )
    for name in methods[request.method]:
        if not name.endswith("?") and name not in request.params:
            raise RpcError(f"{request.method} needs the parameter {name}", INVALID_PARAMS, id=request.id)


def number(value: Any, label: str) -> float:
    """A finite number.

    Raises:
        RpcError: it is none; a Boolean is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RpcError(f"{label} is a number, not {shown(value)}", INVALID_PARAMS)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise RpcError(f"{label} is finite, not {shown(value)}", INVALID_PARAMS)
    return found


def numbers(value: Any, label: str, least: int, most: int) -> tuple[float, ...]:
    """A list of `least` to `most` finite numbers.

    Raises:
        RpcError: it is none.
    """
    if not isinstance(value, list) or not least <= len(value) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise RpcError(f"{label} is a list of {count} numbers, not {shown(value)}", INVALID_PARAMS)
    return tuple(number(item, f"{label}[{k}]") for k, item in enumerate(value))


def whole(value: Any, label: str, least: int, most: int) -> int:
    """A whole number in a range.

    Raises:
        RpcError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RpcError(f"{label} is a whole number from {least} to {most}, not {shown(value)}", INVALID_PARAMS)
    return value


def choice(value: Any, label: str, known: Sequence[str]) -> str:
    """One of some texts.

    Raises:
        RpcError: it is none of them; names the nearest.
    """
    if value not in known:
        hint = nearest(value[:40], known) if isinstance(value, str) else ""
        raise RpcError(f"{label} is {', '.join(known)}, not {shown(value)}{hint}", INVALID_PARAMS)
    return str(value)


def shown(value: Any) -> str:
    """A value for a message; long ones are cut, and a number with thousands of digits is not written out."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**40:
        return "a number beyond 1e40"
    if isinstance(value, str | bytes):
        value = value[:60]
    elif isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
