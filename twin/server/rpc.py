"""A service that speaks JSON-RPC in netstrings: it passes requests to a handler and returns results or errors."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from twin.errors import printable
from twin.options import first_problem
from twin.server.bounded_log import BoundedLog
from twin.server.connection import ClientGone, Connection, Patience
from twin.wire import rpc
from twin.wire.netstring import (
    INTERNAL_ERROR,
    NetstringDecoder,
    Request,
    Response,
    RpcError,
    build_response,
    parse_request,
)

log = logging.getLogger("twin.server")

CODES = ((PermissionError, rpc.NOT_AVAILABLE), (ValueError, rpc.OUT_OF_RANGE), (RuntimeError, rpc.FAILED))
"""Codes of a handler's errors."""
MOST_REQUEST = 2**16
"""Largest request, bytes."""

Handle = Callable[[Request], Any]
"""Takes a request, returns its result as plain JSON. Errors: see `answer`."""


class RpcService:
    """A `listener.Service` around a handler.

    Args:
        name: for messages.
        handle: called in the client's thread.
        patience: time-outs.
    """

    silent = latest_first = False

    def __init__(self, name: str, handle: Handle, patience: Patience | None = None) -> None:
        self.name, self._handle = name, handle
        self.patience = patience or Patience()
        self._faults = BoundedLog(log, name)

    def serve(self, connection: Connection) -> None:
        """Answer until the client disconnects; after an invalid netstring, send an error and disconnect."""
        decoder = NetstringDecoder(MOST_REQUEST)
        try:
            for payload in connection.payloads(decoder.feed):
                reply = answer(self._handle, payload, self._faults)
                if reply is not None:
                    connection.send(reply)
        except RpcError as error:
            with suppress(ClientGone):
                connection.send(build_response(Response(None, error=error)))
            raise

    def refuse(self, connection: Connection) -> None:
        """Answer that another client is being served."""
        error = RpcError(f"{self.name} serves another client; try again later", rpc.BUSY)
        with suppress(ClientGone):
            connection.send(build_response(Response(None, error=error)))

    def turned_away(self, words: str) -> bytes:
        return build_response(Response(None, error=RpcError(f"{self.name}: {words}", rpc.NOT_AVAILABLE)))

    def give_way(self) -> bool:
        return False


def answer(handle: Handle, payload: bytes, faults: BoundedLog | None = None) -> bytes | None:
    """Return the answer to a payload as a netstring; None for a notification.

    Errors of the handler are sent: RpcError as it is, those of `CODES` with their code. Any other error is a bug, and
    so is a result that cannot be sent: the log has the details, the client a short message.

    Args:
        handle: of the service.
        payload: of one netstring.
        faults: log of our own errors.
    """
    faults = faults or BoundedLog(log, "rpc")
    try:
        request = parse_request(payload)
    except RpcError as error:
        return build_response(Response(error.id, error=error))
    try:
        reply = build_response(Response(request.id, _checked(handle(request))))
    except RpcError as error:
        if error.code == INTERNAL_ERROR:
            faults.warning("%s: %s", printable(request.method, 60), error, trace=True)
        reply = build_response(Response(request.id, error=error))
    except (PermissionError, ValueError, RuntimeError) as error:
        code = next(code for kind, code in CODES if isinstance(error, kind))
        words = first_problem(error) if isinstance(error, ValidationError) else str(error)
        reply = build_response(Response(request.id, error=RpcError(words, code)))
    except Exception:
        faults.warning("%s failed", printable(request.method, 60), trace=True)
        bug = RpcError(f"{printable(request.method, 60)} failed on the server", INTERNAL_ERROR)
        reply = build_response(Response(request.id, error=bug))
    return None if request.notification else reply


def _checked(result: Any) -> Any:
    if result is None:
        raise TypeError("a handler returns a result")
    return result
