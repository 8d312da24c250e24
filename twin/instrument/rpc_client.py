"""A client of a JSON-RPC service in netstrings: one call at a time, over a line that is made anew when it broke."""

import itertools
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from twin.instrument.line import Line
from twin.wire.netstring import NetstringDecoder, Request, RpcError, build_request, parse_response

_RECEIVE = 2**16


class RpcClient:
    """A service at an address; nothing is connected before the first call.

    A line on which anything went wrong is closed: what comes late on it must not pass for the answer to another call.

    Args:
        name: of the service, for messages.
        host, port: where it is.
        timeout_s: for connecting, and for each call as a whole.
    """

    def __init__(self, name: str, host: str, port: int, timeout_s: float = 5.0) -> None:
        self.name, self.address, self._timeout_s = name, (host, port), timeout_s
        self._line = Line(name, host, port, timeout_s)
        self._decoder = NetstringDecoder()
        self._ids = itertools.count(1)

    @property
    def connected(self) -> bool:
        """Whether there is a line; the service may be gone all the same."""
        return self._line.connected

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of a call.

        Raises:
            RpcError: the service refused, with its code; or what came is no answer to this call.
            OSError: nobody there, the line broke, or nothing came in time (TimeoutError): whether the service has
                done what it was asked is not known.
        """
        which = next(self._ids)
        request = build_request(Request(method, dict(params or {}), which))
        if self._line.connect():
            self._decoder = NetstringDecoder()
        try:
            return self._ask(which, request)
        except _Refused as refused:
            raise refused.error from None
        except BaseException:
            self.close()
            raise

    def _ask(self, which: int, request: bytes) -> Any:
        deadline = monotonic() + self._timeout_s
        self._line.send(request)
        response = parse_response(self._payload(deadline))
        error = response.error
        if response.id != which:
            if error is not None and response.id is None:
                raise error
            raise RpcError(f"{self.name}: an answer to call {response.id!r} came for call {which}")
        if error is not None:
            raise _Refused(error)
        return response.result

    def _payload(self, deadline: float) -> bytes:
        while True:
            try:
                data = self._line.receive(deadline)
            except TimeoutError:
                raise TimeoutError(f"{self.name}: no answer within {self._timeout_s:g} s") from None
            payloads = self._decoder.feed(data)
            if len(payloads) > 1:
                raise RpcError(f"{self.name}: {len(payloads)} answers to one call")
            if payloads:
                return payloads[0]


def knock(host: str, port: int, token: str, timeout_s: float = 5.0) -> None:
    """Say the token to a server that wants one; all its services then let this address in.

    On a line of its own: a server that knows the address already, or wants no token, takes the word for a mistake and
    hangs up. One that does not is left alone after `timeout_s`.

    Raises:
        OSError: nobody there.
    """
    deadline = monotonic() + timeout_s
    with socket.create_connection((host, port), timeout=timeout_s) as line:
        line.sendall(f"TOKEN {token}\n".encode())
        line.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while (left_s := deadline - monotonic()) > 0:
                line.settimeout(left_s)
                if not line.recv(_RECEIVE):
                    break


class _Refused(Exception):
    """A proper answer that says no: the line is as good as before."""

    def __init__(self, error: RpcError) -> None:
        super().__init__(str(error))
        self.error = error
