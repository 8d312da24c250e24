"""A TCP port with a service behind it: who may connect, one client at a time, and nobody is waited for forever.

Knows no protocol. A thread accepts, every client has a thread of its own; `stop` ends them from any other one.
"""

import hmac
import ipaddress
import logging
import select
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Protocol, Self, TypeVar

from twin.errors import StemtwinError

log = logging.getLogger("twin.server")

LOOPBACK = "127.0.0.1"
SHORTEST_TOKEN = 12
MOST_WAITING = 8
"""Clients of one service at a time, the one that is served included; more are hung up on at once."""
STOP_S = 1.0
"""So long the end of a server waits for its threads."""
_TICK_S = 0.05
"""How often waiting threads look whether they should stop."""
_RECEIVE = 2**16
_SEND = 2**20
_TOKEN_LINE = 256

Payload = TypeVar("Payload")


class Stopping(Exception):
    """The server is being stopped; a service lets it pass."""


class ClientGone(ConnectionError):
    """The client hung up, said nothing for too long, or took nothing for too long."""


class AccessError(StemtwinError, ValueError):
    """A server that would be open to others without saying so."""


@dataclass(frozen=True)
class Patience:
    """How long a client is waited for, s.

    Attributes:
        message_s: from the first byte of a message to its last: a line that trickles is cut.
        idle_s: between two messages. Peers that vanished are found sooner, by keep-alive.
        send_s: without the client's taking a byte.
        turn_s: a newcomer for its turn, while another client is served; a client that hangs up and comes back at once
            may be a little early.
    """

    message_s: float = 5.0
    idle_s: float = 600.0
    send_s: float = 20.0
    turn_s: float = 1.0


class Connection:
    """One client's line; used by the service's thread alone.

    Args:
        line: connected.
        peer: for messages.
        patience: with this client.
        stopping: set from outside; every wait then ends with `Stopping`.
    """

    def __init__(self, line: socket.socket, peer: str, patience: Patience, stopping: threading.Event) -> None:
        self.peer, self.patience = peer, patience
        self._line, self._stopping = line, stopping
        line.settimeout(_TICK_S)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(line)

    def receive(self, most: int = _RECEIVE, within_s: float | None = None) -> bytes:
        """What the client sent, up to `most` bytes; empty when it hung up.

        Args:
            most: bytes.
            within_s: wait at most so long; `patience.idle_s` unless given.

        Raises:
            ClientGone: nothing came, or the line broke.
            Stopping: see there.
        """
        wait_s = self.patience.idle_s if within_s is None else within_s
        deadline = monotonic() + wait_s
        while True:
            self.check()
            try:
                return self._line.recv(most)
            except TimeoutError:
                if monotonic() > deadline:
                    raise ClientGone(f"nothing came for {wait_s:g} s") from None
            except OSError as error:
                self.check()
                raise ClientGone(str(error)) from error

    def payloads(self, feed: Callable[[bytes], list[Payload]], idle_s: float | None = None) -> Iterator[Payload]:
        """Whole messages, one by one, until the client hangs up.

        Args:
            feed: of a decoder: bytes in, messages that are complete now out; what it raises passes through.
            idle_s: between two messages; `patience.idle_s` unless given.

        Raises:
            ClientGone: silence, or a message that is not whole within `patience.message_s`.
            Stopping: see there.
        """
        begun: float | None = None
        while True:
            # Of a message that has begun, the rest is due soon.
            within_s = idle_s if begun is None else max(0.0, begun + self.patience.message_s - monotonic())
            data = self.receive(within_s=within_s)
            if not data:
                return
            found = feed(data)
            yield from found
            # By the first byte: a byte every now and then does not keep a message going.
            begun = None if found else monotonic() if begun is None else begun
            if begun is not None and monotonic() - begun > self.patience.message_s:
                raise ClientGone(f"a message was not whole after {self.patience.message_s:g} s")

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """All of it, however slowly the client takes it; nothing is copied.

        Raises:
            ClientGone: the client took nothing for `patience.send_s`, or the line broke.
            Stopping: in the middle of it.
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
        """The client has hung up. What it sends where nothing is expected is thrown away."""
        try:
            readable, _, _ = select.select([self._line], [], [], 0.0)
            return bool(readable) and self._line.recv(_RECEIVE) == b""
        except (OSError, ValueError):
            return True

    def check(self) -> None:
        """Let a service that computes for long find out that it should stop.

        Raises:
            Stopping: see there.
        """
        if self._stopping.is_set():
            raise Stopping

    def pause(self, seconds: float) -> None:
        """Wait, if nothing happens meanwhile.

        Raises:
            Stopping: see there.
        """
        if self._stopping.wait(seconds):
            raise Stopping

    def hang_up(self) -> None:
        """End every wait on this line, from any thread."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the line; what was sent still arrives."""
        with suppress(OSError):
            self._line.close()


class Service(Protocol):
    """What is behind a port. `serve` runs in the client's thread, for one client at a time.

    Attributes:
        name: for messages.
        patience: with clients.
    """

    @property
    def name(self) -> str: ...

    @property
    def patience(self) -> Patience: ...

    def serve(self, connection: Connection) -> None:
        """Talk to a client until it hangs up. A ValueError is a client's mistake; anything else is ours."""
        ...

    def refuse(self, connection: Connection) -> None:
        """Tell a client in the protocol's own words that another one is being served, where it has such words."""
        ...


class Access:
    """Where a server listens and whom it lets in.

    Everybody on this machine, unless there is a token: then a client's first line has to be `TOKEN <token>`, once per
    address. All services that share this object let that address in from then on, so that software which knows
    nothing of tokens can follow.

    Args:
        host: address to listen on; any but a loopback one needs a token.
        token: at least 12 printable characters without a space.

    Raises:
        AccessError: no token where one is needed, or a weak one.
    """

    def __init__(self, host: str = LOOPBACK, token: str | None = None) -> None:
        if token is None and not _is_loopback(host):
            raise AccessError(f"{host} is open to others: that needs a token (or use {LOOPBACK})")
        if token is not None and not (len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable()):
            raise AccessError(f"a token has {SHORTEST_TOKEN} printable ASCII characters or more; got {len(token)}")
        if token is not None and " " in token:
            raise AccessError("a token has no spaces")
        self.host = host
        self._token = token
        self._known: set[str] = set()

    def admit(self, connection: Connection, address: str) -> None:
        """Let a client in, or raise.

        Raises:
            ClientGone: it does not say the token in time, or says something else.
            Stopping: see there.
        """
        if self._token is None or address in self._known:
            return
        # Byte by byte: what follows belongs to the service.
        line, deadline = b"", monotonic() + connection.patience.message_s
        while not line.endswith(b"\n") and len(line) < _TOKEN_LINE:
            byte = connection.receive(1, max(0.0, deadline - monotonic()))
            if not byte:
                raise ClientGone("hung up before it gave the token")
            line += byte
        if not hmac.compare_digest(line.strip(), b"TOKEN " + self._token.encode()):
            raise ClientGone("gave a wrong token")
        self._known.add(address)


class Running(ABC):
    """Serves clients from `start` to `stop`, or for as long as a `with` lasts."""

    @abstractmethod
    def start(self) -> Self:
        """Begin to accept clients."""

    @abstractmethod
    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Hang up on everybody; whether all threads ended in time. One that still computes ends with its result."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()


class Listener(Running):
    """A service on a port.

    Args:
        service: behind it.
        port: 0 takes a free one.
        access: where, and for whom.

    Raises:
        OSError: the port cannot be had.
    """

    def __init__(self, service: Service, port: int = 0, access: Access | None = None) -> None:
        self.service, self._access = service, access or Access()
        self._server = socket.create_server((self._access.host, port), backlog=MOST_WAITING)
        self._server.settimeout(_TICK_S)
        self.port: int = self._server.getsockname()[1]
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._clients: dict[threading.Thread, Connection] = {}
        self._books = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name=f"{service.name} port", daemon=True)

    def start(self) -> Self:
        self._accepting.start()
        return self

    def stopping(self) -> None:
        """Begin to stop, for several listeners at once; `stop` waits."""
        self._stopping.set()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        self._stopping.set()
        deadline = monotonic() + timeout_s
        if self._accepting.is_alive():
            self._accepting.join(timeout_s)
        self._server.close()
        with self._books:
            clients = dict(self._clients)
        for connection in clients.values():
            connection.hang_up()
        for thread in clients:
            thread.join(max(0.0, deadline - monotonic()))
        late = [thread for thread in clients if thread.is_alive()]
        if late:
            # No warning: nothing of theirs is lost, and a program that ends does not wait for them.
            log.info("%s: %d clients' threads are still busy after %g s", self.service.name, len(late), timeout_s)
        return not late

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                line, address = self._server.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopping.is_set():
                    log.error("%s: cannot accept clients: %s", self.service.name, error)
                    self._stopping.wait(1.0)
                continue
            with self._books:
                crowded = len(self._clients) >= MOST_WAITING
            if crowded:
                log.warning("%s: %s:%d hung up on: %d clients already", self.service.name, *address[:2], MOST_WAITING)
                line.close()
                continue
            connection = Connection(line, f"{address[0]}:{address[1]}", self.service.patience, self._stopping)
            thread = threading.Thread(
                target=self._talk, args=(connection, address[0]), name=f"{self.service.name} client", daemon=True
            )
            with self._books:
                self._clients[thread] = connection
            thread.start()

    def _talk(self, connection: Connection, address: str) -> None:
        """A client from beginning to end."""
        name, peer, has_turn = self.service.name, connection.peer, False
        try:
            self._access.admit(connection, address)
            has_turn = self._await_turn(connection)
            if has_turn:
                log.info("%s: %s connected", name, peer)
                self.service.serve(connection)
                log.info("%s: %s hung up", name, peer)
        except Stopping:
            log.info("%s: %s was served until the server stopped", name, peer)
        except (ClientGone, ValueError) as error:
            log.warning("%s: %s: %s", name, peer, error)
        except Exception:
            log.exception("%s: %s: the service failed", name, peer)
        finally:
            # Before the next client's turn: two lines are never open to one service.
            connection.close()
            if has_turn:
                self._turn.release()
            with self._books:
                self._clients.pop(threading.current_thread(), None)

    def _await_turn(self, connection: Connection) -> bool:
        """Whether the client before hung up in time; if not, this one was refused."""
        deadline = monotonic() + connection.patience.turn_s
        while not self._turn.acquire(timeout=_TICK_S):
            connection.check()
            if monotonic() > deadline:
                log.warning("%s: %s refused: another client is being served", self.service.name, connection.peer)
                self.service.refuse(connection)
                return False
        if self._stopping.is_set():
            # The client before was hung up on: this is nobody's turn any more.
            self._turn.release()
            raise Stopping
        return True


class Listeners(Running):
    """Several that start and stop together; `stop` waits for all of them no longer than for one.

    Args:
        listeners: not started yet. They are stopped even where they never were.
    """

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> Listener:
        """One more, before the start; returns it."""
        self._listeners.append(listener)
        return listener

    def start(self) -> Self:
        for listener in self._listeners:
            listener.start()
        return self

    def stop(self, timeout_s: float = STOP_S) -> bool:
        deadline = monotonic() + timeout_s
        for listener in self._listeners:
            listener.stopping()
        ended = [listener.stop(max(0.0, deadline - monotonic())) for listener in self._listeners]
        return all(ended)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keep_alive(line: socket.socket) -> None:
    """Have the system find out within about 20 s that a peer has vanished, where it can."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
