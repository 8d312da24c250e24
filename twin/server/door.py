"""The door of a port: takes connections, and lets in those that know the token and behave as the protocol says.

Whoever is not in yet occupies one of `PLACES` and no thread. When all are taken, the address with the most of them
loses its oldest, so that strangers, however many, keep nobody else out. Nothing that happens here reaches a service.
"""

import errno
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from twin.server.access import LONGEST_LINE, OPENING, Access
from twin.server.bounded_log import BoundedLog
from twin.server.connection import TICK_S, say_goodbye
from twin.server.service import Service

PLACES = 64
"""Connections per port that are not in yet."""
BACKLOG = 1024
"""Connections that the system keeps until the door takes them; it drops further ones, whose client then tries again
after a second."""

NEEDS_TOKEN = "this server needs a token: send the line TOKEN and the token first, once per address"
WRONG_TOKEN = "stemtwin: wrong token"

_AT_ONCE = 64
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Stage = Literal["token", "first byte", "quiet", "answer"]


@dataclass(eq=False)
class Stranger:
    """A connection that is not in yet.

    Attributes:
        line: non-blocking socket.
        address, peer: of the other side, without and with its port.
        stage: what it owes: the line with the token, its first byte, or silence; or it owes nothing and waits for its
            answer.
        due: local time at which the stage ends.
        heard: the line with the token so far.
        answer: last words.
    """

    line: socket.socket
    address: str
    peer: str
    stage: Stage
    due: float
    heard: bytearray = field(default_factory=bytearray)
    answer: bytes = b""


def first_of_the_crowd(addresses: Sequence[str]) -> int:
    """Return the place of the first connection of the address that has the most; it loses its place.

    Args:
        addresses: of all connections, in the order of their arrival.

    Example:
        >>> first_of_the_crowd(["10.0.0.7", "10.0.0.9", "10.0.0.9"])
        1
    """
    counts = Counter(addresses)
    return addresses.index(max(counts, key=counts.__getitem__))


class Door:
    """The loop of a port; one thread calls `run`.

    Args:
        service: of the port.
        server: listening socket; closed by the caller.
        access: whom to admit.
        let_in: called with the socket, the address and the name of the peer of each client that is let in.
        log: of the port.
    """

    def __init__(
        self,
        service: Service,
        server: socket.socket,
        access: Access,
        let_in: Callable[[socket.socket, str, str], None],
        log: BoundedLog,
    ) -> None:
        self._service, self._server, self._access, self._let_in, self._log = service, server, access, let_in, log
        self._strangers: dict[Stranger, None] = {}  # in the order of their arrival
        self._selector = selectors.DefaultSelector()
        server.setblocking(False)

    def run(self, stopping: threading.Event) -> None:
        """Take connections until told to stop; then close those that are not in."""
        self._selector.register(self._server, selectors.EVENT_READ)
        try:
            while not stopping.is_set():
                for key, _ in self._selector.select(self._wait_s()):
                    if key.data is None:
                        self._accept(stopping)
                    elif key.data in self._strangers:  # not turned out meanwhile
                        self._hear(key.data)
                self._end_overdue()
                self._log.tell()
        finally:
            for stranger in list(self._strangers):
                self._close(stranger)
            self._selector.close()
            self._log.tell(at_once=True)

    def _wait_s(self) -> float:
        first = min((stranger.due for stranger in self._strangers), default=monotonic() + TICK_S)
        return min(TICK_S, max(0.0, first - monotonic()))

    # --- arriving --------------------------------------------------------------------------------

    def _accept(self, stopping: threading.Event) -> None:
        for _ in range(_AT_ONCE):
            try:
                line, where = self._server.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if not stopping.is_set():
                    self._log.warning("cannot accept clients: %s", error)
                    if error.errno in _OUT_OF_FILES and self._strangers:
                        self._close(next(iter(self._strangers)))
                    stopping.wait(TICK_S)
                return
            host = str(where[0])
            self._receive(line, host, f"[{host}]:{where[1]}" if ":" in host else f"{host}:{where[1]}")

    def _receive(self, line: socket.socket, address: str, peer: str) -> None:
        """Give a new connection a place."""
        while len(self._strangers) >= PLACES:
            # Who has shown the token keeps the place: a crowd may still be arriving behind it.
            unknown = [each for each in self._strangers if each.stage in ("token", "answer")] or list(self._strangers)
            oldest = unknown[first_of_the_crowd([each.address for each in unknown])]
            self._turn_out(oldest, f"{len(self._strangers)} connections wait to be let in")
        line.setblocking(False)
        stranger = Stranger(line, address, peer, "token", monotonic() + self._service.patience.message_s)
        if self._access.admits(address):
            self._admit(stranger)
        self._strangers[stranger] = None
        self._selector.register(line, selectors.EVENT_READ, stranger)

    def _admit(self, stranger: Stranger) -> None:
        """What a client with the token owes before it is let in: silence, or its first byte."""
        patience = self._service.patience
        if self._service.silent:
            stranger.stage, stranger.due = "quiet", monotonic() + patience.quiet_s
        else:
            stranger.stage, stranger.due = "first byte", monotonic() + min(patience.first_s, patience.idle_s)

    # --- listening -------------------------------------------------------------------------------

    def _hear(self, stranger: Stranger) -> None:
        try:
            data = stranger.line.recv(LONGEST_LINE, socket.MSG_PEEK)
            if not data:
                self._close(stranger)
            elif stranger.stage == "first byte":
                self._enter(stranger)
            elif stranger.stage == "quiet":
                self._turn_out(stranger, f"sent {data[:24]!r} to a port that only sends")
            elif stranger.stage == "token":
                self._hear_token(stranger, data)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close(stranger)
        except Exception:
            self._log.warning("%s: the door failed", stranger.peer, trace=True)
            self._close(stranger)

    def _hear_token(self, stranger: Stranger, data: bytes) -> None:
        """Take the line with the token, and not a byte more: the rest belongs to the service."""
        end = data.find(b"\n") + 1
        stranger.heard += stranger.line.recv(end or len(data))
        heard = bytes(stranger.heard)
        if not heard.startswith(OPENING[: len(heard)]):
            self._answer(stranger, "needs the token first", self._service.turned_away(NEEDS_TOKEN), 0.0)
        elif end and self._access.opens(heard, stranger.address):
            self._admit(stranger)
        elif end or len(heard) > LONGEST_LINE:
            delay_s = self._access.delay_s(stranger.address)
            self._answer(stranger, "sent a wrong token", WRONG_TOKEN.encode() + b"\n", delay_s)

    # --- leaving ---------------------------------------------------------------------------------

    def _enter(self, stranger: Stranger) -> None:
        self._forget(stranger)
        self._let_in(stranger.line, stranger.address, stranger.peer)

    def _answer(self, stranger: Stranger, why: str, answer: bytes, delay_s: float) -> None:
        """Turn a connection away, with words that it gets after a delay; it is heard no more."""
        self._log.warning("%s %s", stranger.peer, why)
        self._selector.unregister(stranger.line)
        stranger.stage, stranger.answer, stranger.due = "answer", answer, monotonic() + delay_s

    def _end_overdue(self) -> None:
        now = monotonic()
        for stranger in [stranger for stranger in self._strangers if stranger.due <= now]:
            if stranger.stage == "quiet":
                self._enter(stranger)
            elif stranger.stage == "answer":
                self._close(stranger, stranger.answer)
            elif stranger.stage == "token":
                self._answer(stranger, "sent no token", self._service.turned_away(NEEDS_TOKEN), 0.0)
            else:
                self._turn_out(stranger, "sent nothing")

    def _turn_out(self, stranger: Stranger, why: str) -> None:
        self._log.warning("%s disconnected: %s", stranger.peer, why)
        self._close(stranger)

    def _close(self, stranger: Stranger, words: bytes = b"") -> None:
        self._forget(stranger)
        say_goodbye(stranger.line, words)

    def _forget(self, stranger: Stranger) -> None:
        self._strangers.pop(stranger, None)
        with suppress(KeyError, ValueError):
            self._selector.unregister(stranger.line)
