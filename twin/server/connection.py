"""A client's TCP connection on a server: a time-out on every wait, and an end to all of them when the server stops."""

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

TICK_S = 0.05
"""Interval at which waiting threads check whether to stop."""
_RECEIVE = 2**16
_SEND = 2**20

Payload = TypeVar("Payload")


class Stopping(Exception):
    """The server is being stopped; a service must not catch this."""


class ClientGone(ConnectionError):
    """The client disconnected, or neither sent nor took anything for too long."""


@dataclass(frozen=True)
class Patience:
    """Time-outs, s.

    Attributes:
        message_s: from the first byte of a message to its last.
        idle_s: between two messages. Keep-alive finds a vanished peer sooner.
        send_s: without the client taking a byte.
        turn_s: for a new client while another one is served; a client that reconnects at once may be a little early.
        first_s: from the connection to the client's first byte, where it speaks first.
        quiet_s: of a client of a silent protocol (`Service.silent`), without a byte, before it is let in: a browser, a
            TLS client or a port scanner sends or leaves by then.
        linger_s: after everything was served, for the client to disconnect; meanwhile the next one is served.
    """

    message_s: float = 5.0
    idle_s: float = 600.0
    send_s: float = 20.0
    turn_s: float = 1.0
    first_s: float = 30.0
    quiet_s: float = 0.2
    linger_s: float = 0.0


class Connection:
    """The connection of one client; only the thread of the service uses it.

    Args:
        line: connected socket.
        peer: name for messages.
        patience: time-outs.
        stopping: set by another thread; every method that waits then raises `Stopping`.
    """

    def __init__(self, line: socket.socket, peer: str, patience: Patience, stopping: threading.Event) -> None:
        self.peer, self.patience = peer, patience
        self._line, self._stopping = line, stopping
        line.settimeout(TICK_S)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(line)

    def receive(self, limit: int = _RECEIVE, within_s: float | None = None) -> bytes:
        """Return the bytes that arrive, up to `limit`; empty when the client disconnects.

        Args:
            limit: largest number of bytes.
            within_s: longest wait; by default `patience.idle_s`.

        Raises:
            ClientGone: nothing arrived, or the connection was lost.
        """
        wait_s = self.patience.idle_s if within_s is None else within_s
        deadline = monotonic() + wait_s
        while True:
            self.check()
            try:
                return self._line.recv(limit)
            except TimeoutError:
                if monotonic() > deadline:
                    raise ClientGone(f"nothing arrived for {wait_s:g} s") from None
            except OSError as error:
                self.check()
                raise ClientGone(str(error)) from error

    def payloads(self, feed: Callable[[bytes], list[Payload]], idle_s: float | None = None) -> Iterator[Payload]:
        """Yield complete messages until the client disconnects.

        Args:
            feed: of a decoder: takes bytes, returns the messages they complete; its errors pass through.
            idle_s: between two messages; by default `patience.idle_s`.

        Raises:
            ClientGone: no message, or an incomplete one after `patience.message_s`.
        """
        begun: float | None = None
        while True:
            # The rest of a message that has begun is due soon.
            within_s = idle_s if begun is None else max(0.0, begun + self.patience.message_s - monotonic())
            data = self.receive(within_s=within_s)
            if not data:
                return
            messages = feed(data)
            yield from messages
            # From the first byte: a client that sends byte by byte must not extend the time-out.
            begun = None if messages else monotonic() if begun is None else begun
            if begun is not None and monotonic() - begun > self.patience.message_s:
                raise ClientGone(f"a message was incomplete after {self.patience.message_s:g} s")

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all bytes, without a copy, however slowly the client takes them.

        Raises:
            ClientGone: the client took nothing for `patience.send_s`, or the connection was lost.
        """
        rest = memoryview(data).cast("B")
        moved = monotonic()
        while rest:
            self.check()
            try:
                rest = rest[self._line.send(rest[:_SEND]) :]
                moved = monotonic()
            except TimeoutError:
                if monotonic() - moved > self.patience.send_s:
                    raise ClientGone(f"the client took nothing for {self.patience.send_s:g} s") from None
            except OSError as error:
                self.check()
                raise ClientGone(str(error)) from error

    @property
    def gone(self) -> bool:
        """Whether a client that only listens has disconnected.

        Raises:
            ClientGone: it sent something, so it takes this port for another; the connection is closed.
        """
        try:
            # Not `select.select`, which refuses a connection of a process with a thousand files open.
            with selectors.DefaultSelector() as selector:
                selector.register(self._line, selectors.EVENT_READ)
                data = self._line.recv(_RECEIVE) if selector.select(0.0) else None
        except (OSError, ValueError):
            return True
        if data:
            self.close()
            raise ClientGone(f"sent {data[:24]!r} to a port that only sends")
        return data is not None

    def check(self) -> None:
        """Check, during a long computation, whether to stop."""
        if self._stopping.is_set():
            raise Stopping

    def pause(self, seconds: float) -> None:
        """Wait."""
        if self._stopping.wait(seconds):
            raise Stopping

    def hang_up(self) -> None:
        """End every wait on this connection; from any thread."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Disconnect; bytes already sent still arrive."""
        say_goodbye(self._line)


class Pace:
    """Offset of the instrument's clock from the local one: the first frame of an acquisition is sent at once."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def when(self, ready_s: float) -> float:
        """Return the local time at which a frame is due."""
        if self._offset is None:
            self._offset = monotonic() - ready_s
        return self._offset + ready_s

    def due(self, ready_s: NDArray[np.float64]) -> int:
        """Return how many of the next frames are due now."""
        if len(ready_s) == 0:
            return 0
        self.when(float(ready_s[0]))
        assert self._offset is not None
        return int((ready_s + self._offset <= monotonic()).sum())


def say_goodbye(line: socket.socket, words: bytes = b"") -> None:
    """Send last words, as far as they go at once, and close. Unread bytes would make the system throw words away."""
    with suppress(OSError):
        line.setblocking(False)
        line.recv(_RECEIVE)
    with suppress(OSError):
        if words:
            line.send(words)
        line.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        line.close()


def _keep_alive(line: socket.socket) -> None:
    """Let the system detect a vanished peer within about 20 s, where supported."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
