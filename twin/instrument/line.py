"""A TCP line of a client: made when it is needed, with an end to every wait. Knows no protocol."""

import re
import socket
import weakref
from contextlib import suppress
from time import monotonic

_RECEIVE = 2**18
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([^\s:\[\]]+))(?::([0-9]{1,5}))?")


def split_address(text: str, port: int) -> tuple[str, int]:
    """Host and port of HOST, HOST:PORT, [IPv6] or [IPv6]:PORT.

    Args:
        text: the address.
        port: where it has none.

    Raises:
        ValueError: it is none.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or not 1 <= int(found[3] or port) <= 65535:
        raise ValueError(f"an address is HOST, HOST:PORT or [IPV6]:PORT, with a port from 1 to 65535; got {text!r}")
    return found[1] or found[2], int(found[3] or port)


class Line:
    """A connection to an address; nothing is connected before `connect`, and not any more after `close`.

    Args:
        peer: who is there, for messages.
        host, port: where.
        timeout_s: for connecting, and for sending.
    """

    _socket: socket.socket | None = None

    def __init__(self, peer: str, host: str, port: int, timeout_s: float) -> None:
        self._peer, self._address, self._timeout_s = peer, (host, port), timeout_s

    @property
    def connected(self) -> bool:
        """Whether there is a line; the peer may be gone all the same."""
        return self._socket is not None

    def connect(self) -> bool:
        """Make a line if there is none; whether it is a new one.

        Raises:
            OSError: nobody there.
        """
        if self._socket is not None:
            return False
        self._socket = socket.create_connection(self._address, timeout=self._timeout_s)
        # Nobody closes a microscope: its lines end with it. Not by __del__: where both are garbage of one cycle, the
        # socket's own may come first, and it complains of having been left open.
        self._end = weakref.finalize(self, _hang_up, self._socket)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True

    def send(self, data: bytes) -> None:
        """All of it.

        Raises:
            OSError: the line broke, there is none, or the peer takes nothing (TimeoutError).
        """
        line = self._there()
        line.settimeout(self._timeout_s)
        line.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """What has come, at least a byte.

        Args:
            deadline: on the monotonic clock.

        Raises:
            TimeoutError: nothing came until then, or it has passed.
            OSError: the line broke, there is none, or the peer hung up (ConnectionError).
        """
        left_s = deadline - monotonic()
        if left_s <= 0:
            raise TimeoutError(f"nothing came from {self._peer} in time")
        return self._receive(left_s)

    def pending(self) -> bytes:
        """What has come already; empty if nothing has.

        Raises:
            OSError: as `receive`.
        """
        try:
            return self._receive(0.0)
        except BlockingIOError:
            return b""

    def _receive(self, within_s: float) -> bytes:
        line = self._there()
        line.settimeout(within_s)
        try:
            data = line.recv(_RECEIVE)
        except TimeoutError:
            raise TimeoutError(f"nothing came from {self._peer} in time") from None
        if not data:
            raise ConnectionError(f"{self._peer} closed the line")
        return data

    def _there(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError(f"there is no line to {self._peer}")
        return self._socket

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket = None
            self._end()


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):
        line.close()
