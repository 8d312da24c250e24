"""A client of a JSON-RPC service in netstrings: one call at a time; it reconnects after an error."""

import itertools
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from twin.errors import printable, reason
from twin.instrument.faults import ActuatorBusy, CommandTimeout, MicroscopeFault, OutOfReach
from twin.instrument.line import Line
from twin.wire import rpc
from twin.wire.netstring import NetstringDecoder, Request, Response, RpcError, build_request, parse_response, shown

_RECEIVE = 2**16
_LONGEST_REFUSAL = 1024


class RpcClient:
    """A service at an address; nothing is connected before the first call.

    Any error but a refusal disconnects: a late answer must not be taken for that of another call.

    Args:
        name: of the service, for messages.
        host, port: its address.
        timeout_s: for each complete call, a new connection included.
    """

    def __init__(self, name: str, host: str, port: int, timeout_s: float = 5.0) -> None:
        self.name, self.address, self.timeout_s = name, (host, port), timeout_s
        self._line = Line(name, host, port, timeout_s)
        self._decoder = NetstringDecoder()
        self._ids = itertools.count(1)

    @property
    def connected(self) -> bool:
        """Whether a connection is open; the service may be gone all the same."""
        return self._line.connected

    def close(self) -> None:
        """Disconnect."""
        self._line.close()

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the result of a call.

        Raises:
            RpcError: the service refused, with its code; or the answer does not belong to this call.
            OSError: not reachable, connection lost, or no answer in time (TimeoutError): the call may or may not have
                been executed.
        """
        id = next(self._ids)
        request, deadline = build_request(Request(method, dict(params or {}), id)), monotonic() + self.timeout_s
        if self._line.connect():
            self._decoder = NetstringDecoder()
        try:
            response = self._send(id, request, deadline)
        except BaseException:
            self.close()
            raise
        if response.error is not None:
            raise response.error
        return response.result

    def command(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the result of a call to an instrument; errors become faults by kind.

        Raises:
            ActuatorBusy, OutOfReach: nothing has moved.
            CommandTimeout: no answer.
            MicroscopeFault: any other error.
        """
        try:
            return self.call(method, params)
        except RpcError as error:
            kinds = {rpc.BUSY: ActuatorBusy, rpc.OUT_OF_RANGE: OutOfReach, rpc.NOT_AVAILABLE: OutOfReach}
            raise kinds.get(error.code, MicroscopeFault)(f"{self.name}: {error}") from error
        except TimeoutError as error:
            raise CommandTimeout(str(error)) from error
        except OSError as error:
            raise MicroscopeFault(f"{self.name} at {self.address[0]}:{self.address[1]}: {reason(error)}") from error

    def _send(self, id: int, request: bytes, deadline: float) -> Response:
        self._line.send(request)
        response = parse_response(self._payload(deadline))
        if response.id != id:
            if response.error is not None and response.id is None:
                raise response.error
            says = "" if response.error is None else f"; it says: {response.error}"
            raise RpcError(f"{self.name}: the answer to call {id} has the id {shown(response.id)}{says}")
        return response

    def _payload(self, deadline: float) -> bytes:
        while True:
            try:
                data = self._line.receive(deadline)
            except TimeoutError:
                raise TimeoutError(f"{self.name}: no answer within {self.timeout_s:g} s") from None
            payloads = self._decoder.feed(data)
            if len(payloads) > 1:
                raise RpcError(f"{self.name}: {len(payloads)} answers to one call")
            if payloads:
                return payloads[0]


def send_token(host: str, port: int, token: str, timeout_s: float = 5.0) -> str:
    """Send the token to a server; all its services then admit this address. Return the server's refusal, or "".

    On a connection of its own: a server that needs no token, or has admitted the address, takes it for an error and
    disconnects. Otherwise the connection is closed after `timeout_s`.

    Raises:
        OSError: not reachable.
    """
    deadline, heard = monotonic() + timeout_s, b""
    with socket.create_connection((host, port), timeout=timeout_s) as line:
        line.sendall(f"TOKEN {token}\n".encode())
        line.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while (remaining_s := deadline - monotonic()) > 0:
                line.settimeout(remaining_s)
                data = line.recv(_RECEIVE)
                if not data:
                    break
                heard = (heard + data)[:_LONGEST_REFUSAL]
    # Anything else is the protocol of a service that took the line for a message.
    return printable(heard.decode("utf-8", "replace")) if heard.startswith(rpc.REFUSAL) else ""
