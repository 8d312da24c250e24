"""JSON-RPC 2.0 in netstrings, `<length>:<JSON>,`, as CEOS correctors speak it: bytes, no sockets.

Strict: one JSON object per netstring, of bounded size and depth, without NaN or repeated keys. Nothing is evaluated; a
number that is too long is an error like any other.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twin.errors import StemtwinError, nearest
from twin.wire.reasons import words_of_error

CORRECTOR_PORT = 7072
MOST_BYTES = 2**20
"""Default limit of a JSON text, bytes."""
MOST_DEPTH = 32
"""Largest depth of nested brackets."""

PARSE_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
"""Error codes of JSON-RPC 2.0."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped surrogate, half of a character beyond 16 bits; alone it is not text and cannot be encoded."""

Id = str | int | None


class RpcError(StemtwinError, ValueError):
    """An invalid netstring or JSON-RPC message, or an answer that is an error.

    Attributes:
        code: of JSON-RPC.
        data: further data of the error, plain JSON.
        id: of the request that it answers, if known.
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
        id: repeated in the answer.
        notification: no answer is expected.
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
    """Return a netstring."""
    return b"%d:%b," % (len(payload), payload)


class NetstringDecoder:
    """Decodes netstrings: bytes in, payloads out.

    Args:
        limit: largest payload, bytes; a netstring that announces more is refused before any of it is stored.
    """

    def __init__(self, limit: int = MOST_BYTES) -> None:
        self._limit = limit
        self._data = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that are complete now.

        Raises:
            RpcError: not a netstring; earlier payloads of the same call are lost, and later calls raise too.
        """
        if self._broken:
            raise RpcError("nothing can be read after an invalid netstring")
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
        """Return the beginning and the length of the payload at `start`; None if not known yet."""
        digits = len(str(self._limit))
        colon = self._data.find(b":", start, start + digits + 1)
        raw = bytes(self._data[start : colon if colon >= 0 else start + digits + 1])
        if (raw and not raw.isdigit()) or (colon >= 0 and not raw) or (len(raw) > 1 and raw[:1] == b"0"):
            raise RpcError(f"a netstring begins with its length and a colon, not with {raw[:24]!r}")
        if (colon < 0 and len(raw) > digits) or (raw and int(raw) > self._limit):
            raise RpcError(f"a netstring of {raw.decode()} bytes or more; at most {self._limit} are allowed")
        return None if colon < 0 else (colon + 1, int(raw))


# --- JSON ----------------------------------------------------------------------------------------


def parse_json(payload: bytes) -> dict[str, Any]:
    """Parse a JSON object, strictly.

    Raises:
        RpcError: not UTF-8, not JSON, too deep, a repeated key, NaN or Infinity, a lone surrogate, or not an object.
    """
    value = _parsed(payload, _no_constant)
    if not isinstance(value, dict):
        raise RpcError(f"one JSON object per message; got {type(value).__name__}", INVALID_REQUEST)
    return value


def _parsed(payload: bytes, constant: Callable[[str], Any]) -> Any:
    """Parse JSON; `constant` is called for NaN and Infinity.

    Raises:
        RpcError: as `parse_json`, but for what is no object.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        raise RpcError(f"JSON is UTF-8; got {payload[:32]!r}") from None
    _check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=constant)
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RpcError:
        raise
    except (ValueError, RecursionError) as error:
        raise RpcError(f"not JSON: {error}") from None
    return value


def _check_depth(text: str) -> None:
    """Check the depth before the parser recurses; brackets within strings do not count."""
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MOST_DEPTH:
            raise RpcError(f"JSON deeper than {MOST_DEPTH} brackets")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise RpcError("a key is there twice")
    return unique


def _no_constant(name: str) -> Any:
    raise RpcError(f"{name} is not JSON")


def _write(value: Mapping[str, Any], limit: int) -> bytes:
    try:
        payload = json.dumps(value, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise RpcError(f"this cannot be sent as JSON: {error}", INTERNAL_ERROR) from None
    if len(payload) > limit:
        raise RpcError(f"a message of {len(payload)} bytes; at most {limit} are allowed", INTERNAL_ERROR)
    return frame(payload)


# --- requests and answers ------------------------------------------------------------------------


def build_request(request: Request, limit: int = MOST_BYTES) -> bytes:
    """Return a request as a netstring.

    Raises:
        RpcError: it cannot be sent.
    """
    id = {} if request.notification else {"id": request.id}
    return _write({"jsonrpc": "2.0", **id, "method": request.method, "params": dict(request.params)}, limit)


def build_response(response: Response, limit: int = MOST_BYTES) -> bytes:
    """Return an answer as a netstring.

    Raises:
        RpcError: it cannot be sent.
    """
    head: dict[str, Any] = {"jsonrpc": "2.0", "id": response.id}
    if response.error is None:
        return _write({**head, "result": response.result}, limit)
    data = {} if response.error.data is None else {"data": response.error.data}
    return _write({**head, "error": {"code": response.error.code, "message": str(response.error), **data}}, limit)


def parse_request(payload: bytes) -> Request:
    """Parse a request.

    Raises:
        RpcError: not JSON, or not a request; its `code` and `id` belong into the answer.
    """
    values = parse_json(payload)
    id = values.get("id")
    valid = _is_id(id)
    for wrong, reason in (
        (values.get("jsonrpc") != "2.0", f"jsonrpc is '2.0', not {shown(values.get('jsonrpc'))}"),
        (not valid, f"an id is a text or a whole number, not {shown(id)}"),
        (not (isinstance(values.get("method"), str) and values["method"]), "a request has a method, a text"),
        (not isinstance(values.get("params", {}), dict), "params are an object: they go by name"),
    ):
        if wrong:
            raise RpcError(reason, INVALID_REQUEST, id=id if valid else None)
    keys = ("jsonrpc", "id", "method", "params")
    for key in values:
        if key not in keys:
            raise RpcError(f"{shown(key)} is not part of a request{nearest(key, keys)}", INVALID_REQUEST, id=id)
    return Request(values["method"], values.get("params", {}), id, "id" not in values)


def parse_response(payload: bytes) -> Response:
    """Parse an answer; a list of one answer is that answer.

    The text of an error is printable and short, and includes the reason that a CEOS server puts into its data. An error
    may hold NaN, which becomes null, and come beside a result of null.

    Raises:
        RpcError: not JSON, or not an answer; with what it says of an error.
    """
    strange: list[str] = []
    values = _parsed(payload, strange.append)
    if isinstance(values, list) and len(values) == 1:
        values = values[0]
    if not isinstance(values, dict):
        raise _no_answer(f"one JSON object per message; got {type(values).__name__}", values)
    id, error = values.get("id"), values.get("error")
    if strange and error is None:
        raise RpcError(f"{strange[0]} is not JSON")
    if values.get("jsonrpc") != "2.0" or not _is_id(id):
        raise _no_answer(f"not an answer in JSON-RPC 2.0: {shown(payload[:64])}", error)
    if error is None:
        if "result" not in values:
            raise _no_answer("an answer has a result or an error", None, id)
        return Response(id, values["result"])
    if values.get("result") is not None:
        raise _no_answer("an answer has a result or an error", error, id)
    if not isinstance(error, dict) or not _is_whole(error.get("code")) or not isinstance(error.get("message"), str):
        raise _no_answer("an error has a code, a whole number, and a message", error, id)
    words = words_of_error(error) or "an error without a message"
    return Response(id, error=RpcError(words, error["code"], error.get("data"), id))


def _no_answer(why: str, error: Any, id: Id = None) -> RpcError:
    """Return an error of the protocol, with what the answer says of an error of the instrument."""
    told = words_of_error(error)
    says = f"; it says: {told}" if told else ""
    return RpcError(why + says, INVALID_REQUEST, id=id if _is_id(id) else None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: Any) -> bool:
    return value is None or isinstance(value, str) or _is_whole(value)


def shown(value: Any) -> str:
    """Return a value for a message, shortened if it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**40:
        return "a number beyond 1e40"
    if isinstance(value, str | bytes):
        value = value[:60]
    elif isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
