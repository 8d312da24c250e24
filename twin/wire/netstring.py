"""JSON-RPC 2.0 in netstrings, `<length>:<JSON>,`, as CEOS correctors speak it: bytes, no sockets.

Strict in what it takes: one JSON object per netstring, bounded in bytes and in depth, no NaN, no key twice. Nothing is
evaluated, and a number too long to be one is an error like any other.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twin.errors import StemtwinError
from twin.suggest import nearest

CORRECTOR_PORT = 7072
MOST_BYTES = 2**20
"""Bytes of a JSON text, unless the caller says otherwise."""
MOST_DEPTH = 32
"""Brackets within brackets."""

PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
"""As JSON-RPC 2.0 numbers them."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""One half of a character beyond 16 bits, escaped; a half by itself is no text and could not be written to a file."""

Id = str | int | None


class RpcError(StemtwinError, ValueError):
    """What is no netstring, no JSON-RPC, or answered by an error.

    Attributes:
        code: of JSON-RPC.
        data: what an error carries besides, plain JSON.
        id: of the request that it answers, where that is known.
    """

    def __init__(self, message: str, code: int = PARSE_ERROR, data: Any = None, id: Id = None) -> None:
        super().__init__(message)
        self.code, self.data, self.id = code, data, id


@dataclass(frozen=True)
class Request:
    """A call.

    Attributes:
        method: its name.
        params: by name.
        id: comes back with the answer.
        notification: nobody waits for an answer.
    """

    method: str
    params: Mapping[str, Any]
    id: Id = None
    notification: bool = False


@dataclass(frozen=True)
class Response:
    """An answer: a result, or an error."""

    id: Id
    result: Any = None
    error: RpcError | None = None


# --- netstrings ----------------------------------------------------------------------------------


def frame(payload: bytes) -> bytes:
    """A netstring."""
    return b"%d:%b," % (len(payload), payload)


class NetstringDecoder:
    """Bytes in, whole payloads out.

    Args:
        most: bytes of a payload; a netstring that announces more is refused before anything is stored.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._data = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads that are complete now.

        Raises:
            RpcError: no netstring; payloads before it in the same call are lost. The line is of no use any more:
                later calls raise too.
        """
        if self._broken:
            raise RpcError("this line was broken before")
        try:
            return self._feed(data)
        except RpcError:
            self._broken = True
            self._data.clear()
            raise

    def _feed(self, data: bytes) -> list[bytes]:
        self._data += data
        payloads, start = [], 0
        while start < len(self._data):
            head = self._head(start)
            if head is None:
                break
            begin, length = head
            if len(self._data) <= begin + length:
                break
            if self._data[begin + length] != ord(","):
                raise RpcError(f"a netstring ends with a comma, not with {chr(self._data[begin + length])!r}")
            payloads.append(bytes(self._data[begin : begin + length]))
            start = begin + length + 1
        del self._data[:start]
        return payloads

    def _head(self, start: int) -> tuple[int, int] | None:
        """Where the payload at `start` begins and how long it is; None when that is not known yet."""
        digits = len(str(self._most))
        colon = self._data.find(b":", start, start + digits + 1)
        raw = bytes(self._data[start : colon if colon >= 0 else start + digits + 1])
        if (raw and not raw.isdigit()) or (colon >= 0 and not raw) or (len(raw) > 1 and raw[:1] == b"0"):
            raise RpcError(f"a netstring begins with its length and a colon, not with {raw[:24]!r}")
        if (colon < 0 and len(raw) > digits) or (raw and int(raw) > self._most):
            raise RpcError(f"a netstring of {raw.decode()} bytes or more; at most {self._most} are allowed")
        return None if colon < 0 else (colon + 1, int(raw))


# --- JSON ----------------------------------------------------------------------------------------


def parse_json(payload: bytes) -> dict[str, Any]:
    """A JSON object, strictly.

    Raises:
        RpcError: not UTF-8, not JSON, too deep, a key twice, NaN or Infinity, half a character, or not an object.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        raise RpcError(f"JSON is UTF-8; got {payload[:32]!r}") from None
    _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RpcError:
        raise
    except (ValueError, RecursionError) as error:
        raise RpcError(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise RpcError(f"one JSON object per message; got {type(value).__name__}", INVALID_REQUEST)
    return value


def _check_depth(text: str) -> None:
    """Before the parser, which would go much deeper; brackets within strings are not counted."""
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MOST_DEPTH:
            raise RpcError(f"JSON deeper than {MOST_DEPTH} brackets")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RpcError("a key is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise RpcError(f"{name} is not JSON")


def _write(value: Mapping[str, Any], most: int) -> bytes:
    try:
        payload = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise RpcError(f"this cannot be sent as JSON: {error}", INTERNAL_ERROR) from None
    if len(payload) > most:
        raise RpcError(f"a message of {len(payload)} bytes; at most {most} are allowed", INTERNAL_ERROR)
    return frame(payload)


# --- requests and answers ------------------------------------------------------------------------


def build_request(request: Request, most: int = MOST_BYTES) -> bytes:
    """A request as a netstring.

    Raises:
        RpcError: it cannot be sent.
    """
    about = {} if request.notification else {"id": request.id}
    return _write({"jsonrpc": "2.0", **about, "method": request.method, "params": dict(request.params)}, most)


def build_response(response: Response, most: int = MOST_BYTES) -> bytes:
    """An answer as a netstring.

    Raises:
        RpcError: it cannot be sent.
    """
    about: dict[str, Any] = {"jsonrpc": "2.0", "id": response.id}
    if response.error is None:
        return _write({**about, "result": response.result}, most)
    data = {} if response.error.data is None else {"data": response.error.data}
    return _write({**about, "error": {"code": response.error.code, "message": str(response.error), **data}}, most)


def parse_request(payload: bytes) -> Request:
    """A request.

    Raises:
        RpcError: no JSON, or no request; its `code` and `id` are what to answer with.
    """
    told = parse_json(payload)
    about = told.get("id")
    known = _is_id(about)
    for wrong, why in (
        (told.get("jsonrpc") != "2.0", f"jsonrpc is '2.0', not {_shown(told.get('jsonrpc'))}"),
        (not known, f"an id is a text or a whole number, not {_shown(about)}"),
        (not (isinstance(told.get("method"), str) and told["method"]), "a request has a method, a text"),
        (not isinstance(told.get("params", {}), dict), "params are an object: they go by name"),
    ):
        if wrong:
            raise RpcError(why, INVALID_REQUEST, id=about if known else None)
    for key in told:
        if key not in ("jsonrpc", "id", "method", "params"):
            keys = ("jsonrpc", "id", "method", "params")
            raise RpcError(f"{_shown(key)} is not part of a request{nearest(key, keys)}", INVALID_REQUEST, id=about)
    return Request(told["method"], told.get("params", {}), about, "id" not in told)


def parse_response(payload: bytes) -> Response:
    """An answer.

    Raises:
        RpcError: no JSON, or no answer.
    """
    told = parse_json(payload)
    about, error = told.get("id"), told.get("error")
    if told.get("jsonrpc") != "2.0" or not _is_id(about):
        raise RpcError(f"no answer in JSON-RPC 2.0: {_shown(payload[:64])}", INVALID_REQUEST)
    if ("result" in told) == (error is not None):
        raise RpcError("an answer has a result or an error", INVALID_REQUEST, id=about)
    if error is None:
        return Response(about, told["result"])
    if not isinstance(error, dict) or not _is_whole(error.get("code")) or not isinstance(error.get("message"), str):
        raise RpcError("an error has a code, a whole number, and a message", INVALID_REQUEST, id=about)
    return Response(about, error=RpcError(error["message"], error["code"], error.get("data"), about))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return value is None or isinstance(value, str) or _is_whole(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
