"""Error codes of the JSON-RPC services, and checks of methods and parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from twin.errors import nearest
from twin.wire.netstring import INVALID_PARAMS, UNKNOWN_METHOD, Request, RpcError, shown

BUSY, OUT_OF_RANGE, NOT_AVAILABLE, NO_SESSION, FAILED = -32001, -32002, -32003, -32004, -32005
"""Codes in the range that JSON-RPC 2.0 leaves to servers: nothing has moved, except perhaps with FAILED."""

REFUSAL = b"stemtwin: "
"""Begins the words of a server on a port whose protocol has none, and those that refuse a token."""


def check_call(request: Request, methods: Mapping[str, Sequence[str]]) -> None:
    """Refuse an unknown method or parameter.

    Args:
        request: the call.
        methods: names of the parameters by method; those that end in "?" are optional.

    Raises:
        RpcError: names the nearest valid choice.
    """
    if request.method not in methods:
        hint = nearest(request.method[:40], methods)
        message = f"{shown(request.method)} is not a method{hint}; known: {', '.join(methods)}"
        raise RpcError(message, UNKNOWN_METHOD, id=request.id)
    names = [name.removesuffix("?") for name in methods[request.method]]
    for name in request.params:
        if name not in names:
            known = f"{nearest(name[:40], names)}; known: {', '.join(names) or 'none'}"
            message = f"{shown(name)} is not a parameter of {request.method}{known}"
            raise RpcError(message, INVALID_PARAMS, id=request.id)
    for name in methods[request.method]:
        if not name.endswith("?") and name not in request.params:
            raise RpcError(f"{request.method} needs the parameter {name}", INVALID_PARAMS, id=request.id)


def number(value: Any, label: str) -> float:
    """Return a finite number.

    Raises:
        RpcError: not a number; a Boolean is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RpcError(f"{label} is a number, not {shown(value)}", INVALID_PARAMS)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise RpcError(f"{label} is finite, not {shown(value)}", INVALID_PARAMS)
    return result


def numbers(value: Any, label: str, minimum: int, maximum: int) -> tuple[float, ...]:
    """Return a list of `minimum` to `maximum` finite numbers.

    Raises:
        RpcError: not such a list.
    """
    if not isinstance(value, list) or not minimum <= len(value) <= maximum:
        count = f"{minimum}" if minimum == maximum else f"{minimum} to {maximum}"
        raise RpcError(f"{label} is a list of {count} numbers, not {shown(value)}", INVALID_PARAMS)
    return tuple(number(item, f"{label}[{k}]") for k, item in enumerate(value))


def whole(value: Any, label: str, minimum: int, maximum: int) -> int:
    """Return a whole number in a range.

    Raises:
        RpcError: not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise RpcError(f"{label} is a whole number from {minimum} to {maximum}, not {shown(value)}", INVALID_PARAMS)
    return value


def choice(value: Any, label: str, known: Sequence[str]) -> str:
    """Return one of the known texts.

    Raises:
        RpcError: unknown; names the nearest.
    """
    if value not in known:
        hint = nearest(value[:40], known, 0.5) if isinstance(value, str) else ""
        raise RpcError(f"{label} is {', '.join(known)}, not {shown(value)}{hint}", INVALID_PARAMS)
    return str(value)
