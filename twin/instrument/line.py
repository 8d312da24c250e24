"""A TCP connection of a client: opened when needed, with a time-out on every wait. No protocol."""

import re
import socket
import weakref
from contextlib import suppress
from time import monotonic

_RECEIVE = 2**18
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([^\s:\[\]]+))(?::([0-9]{1,5}))?")


def split_address(text: str, port: int) -> tuple[str, int]:
    """Return host and port of HOST, HOST:PORT, [IPv6] or [IPv6]:PORT.

    Args:
        text: the address.
        port: the default.

    Raises:
        ValueError: not an address.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[3] or port) <= 65535:
        raise ValueError(f"an address is HOST, HOST:PORT or [IPV6]:PORT, with a port from 1 to 65535; got {text!r}")
    return match[1] or match[2], int(match[3] or port)


class Line:
    """A connection to an address; nothing is connected before `connect` or after `close`.

    Args:
        peer: name for messages.
        host, port: address.
        timeout_s: for connecting and for sending.
    """

    _socket: socket.socket | None = None

    def __init__(self, peer: str, host: str, port: int, timeout_s: float) -> None:
        self._peer, self._address, self._timeout_s = peer, (host, port), timeout_s

    @property
    def connected(self) -> bool:
        """Whether a connection is open; the peer may be gone all the same."""
        return self._socket is not None

    def connect(self) -> bool:
        """Connect if necessary; return whether the connection is new.

        Raises:
            OSError: no answer at this address.
        """
        if self._socket is not None:
            return False
        self._socket = socket.create_connection(self._address, timeout=self._timeout_s)
        # A microscope has no close(): its connections end with it. Not by __del__: in a garbage cycle the socket's own
        # __del__ may run first and warn that it was left open.
        self._end = weakref.finalize(self, _hang_up, self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True

    def send(self, data: bytes) -> None:
        """Send all bytes.

        Raises:
            OSError: not connected, connection lost, or the peer takes nothing (TimeoutError).
        """
        line = self._open_socket()
        line.settimeout(self._timeout_s)
        line.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """Return the bytes that arrive, at least one.

        Args:
            deadline: on the monotonic clock, s.

        Raises:
            TimeoutError: nothing arrived by then.
            OSError: not connected, connection lost, or closed by the peer (ConnectionError).
        """
        remaining_s = deadline - monotonic()
        if remaining_s <= 0:
            raise TimeoutError(f"nothing came from {self._peer} in time")
        return self._receive(remaining_s)

    def pending(self) -> bytes:
        """Return the bytes that have arrived; empty if none have.

        Raises:
            OSError: as `receive`.
        """
        try:
            return self._receive(0.0)
        except BlockingIOError:
            return b""

    def _receive(self, within_s: float) -> bytes:
        line = self._open_socket()
        line.settimeout(within_s)
        try:
            data = line.recv(_RECEIVE)
        except TimeoutError:
            raise TimeoutError(f"nothing came from {self._peer} in time") from None
        if not data:
            raise ConnectionError(f"{self._peer} closed the line")
        return data

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError(f"there is no line to {self._peer}")
        return self._socket

    def close(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            self._socket = None
            self._end()


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        line.close()
