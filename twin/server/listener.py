"""A TCP port of a service: access control, one client at a time, time-outs on every wait.

No protocol. One thread accepts, every client has a thread of its own; `stop`, from any other thread, ends them.
"""

import hmac
import ipaddress
import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from twin.errors import StemtwinError
from twin.server.connection import TICK_S, ClientGone, Connection, Patience, Stopping

log = logging.getLogger("twin.server")

LOOPBACK = "127.0.0.1"
SHORTEST_TOKEN = 12
MOST_WAITING = 8
"""Clients of one service at a time, including the one being served; further ones are disconnected at once."""
STOP_S = 1.0
"""Longest wait for the threads when a server stops."""
_TOKEN_LINE = 256


class AccessError(StemtwinError, ValueError):
    """A server that other machines could reach without a token, or a weak token."""


class Service(Protocol):
    """A service on a port. `serve` runs in the client's thread, for one client at a time.

    Attributes:
        name: for messages.
        patience: time-outs.
    """

    @property
    def name(self) -> str: ...

    @property
    def patience(self) -> Patience: ...

    def serve(self, connection: Connection) -> None:
        """Serve a client until it disconnects. A ValueError is the client's error, any other the server's."""
        ...

    def refuse(self, connection: Connection) -> None:
        """Answer, if the protocol has a message for it, that another client is being served."""
        ...


class Access:
    """Access control: the address to listen on, and the clients to admit.

    Without a token every program on this machine is admitted. With one, the first line of a client must be
    `TOKEN <token>`, once per address: all services that share this object then admit that address, so that software
    without support for tokens can follow.

    Args:
        host: address to listen on; any other than loopback needs a token.
        token: at least 12 printable ASCII characters without a space.

    Raises:
        AccessError: no token where one is needed, or a weak one.
    """

    def __init__(self, host: str = LOOPBACK, token: str | None = None) -> None:
        if token is None and not _is_loopback(host):
            raise AccessError(f"{host} is open to other machines: that needs a token (or use {LOOPBACK})")
        if token is not None and not (len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable()):
            raise AccessError(f"a token has {SHORTEST_TOKEN} printable ASCII characters or more; got {len(token)}")
        if token is not None and " " in token:
            raise AccessError("a token has no spaces")
        self.host = host
        self._token = token
        self._known: set[str] = set()

    def admit(self, connection: Connection, address: str) -> None:
        """Admit a client, or raise.

        Raises:
            ClientGone: no token in time, or a wrong one.
            Stopping: the server stops.
        """
        if self._token is None or address in self._known:
            return
        # Byte by byte: the bytes that follow belong to the service.
        line, deadline = b"", monotonic() + connection.patience.message_s
        while not line.endswith(b"\n") and len(line) < _TOKEN_LINE:
            byte = connection.receive(1, max(0.0, deadline - monotonic()))
            if not byte:
                raise ClientGone("disconnected before it sent the token")
            line += byte
        if not hmac.compare_digest(line.strip(), b"TOKEN " + self._token.encode()):
            raise ClientGone("sent a wrong token")
        self._known.add(address)


class Running(ABC):
    """Serves clients from `start` to `stop`, or within a `with`."""

    @abstractmethod
    def start(self) -> Self:
        """Accept clients from now on."""

    @abstractmethod
    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Disconnect all clients; return whether all threads ended in time. A thread that computes ends after it."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()


class Listener(Running):
    """A service on a port.

    Args:
        service: of the port.
        port: 0 takes a free one.
        access: address, and access control.

    Raises:
        OSError: the port is not available.
    """

    def __init__(self, service: Service, port: int = 0, access: Access | None = None) -> None:
        self.service, self._access = service, access or Access()
        self._server = socket.create_server((self._access.host, port), backlog=MOST_WAITING)
        self._server.settimeout(TICK_S)
        self.port: int = self._server.getsockname()[1]
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._clients: dict[threading.Thread, Connection] = {}
        self._clients_lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name=f"{service.name} port", daemon=True)

    def start(self) -> Self:
        self._accepting.start()
        return self

    def stopping(self) -> None:
        """Begin to stop, without waiting."""
        self._stopping.set()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        self._stopping.set()
        deadline = monotonic() + timeout_s
        if self._accepting.is_alive():
            self._accepting.join(timeout_s)
        self._server.close()
        with self._clients_lock:
            clients = dict(self._clients)
        for connection in clients.values():
            connection.hang_up()
        for thread in clients:
            thread.join(max(0.0, deadline - monotonic()))
        late = [thread for thread in clients if thread.is_alive()]
        if late:
            # No warning: no data are lost, and a program that ends does not wait for daemon threads.
            log.info("%s: threads of %d clients are still busy after %g s", self.service.name, len(late), timeout_s)
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
            with self._clients_lock:
                crowded = len(self._clients) >= MOST_WAITING
            if crowded:
                log.warning("%s: %s:%d disconnected: %d clients already", self.service.name, *address[:2], MOST_WAITING)
                line.close()
                continue
            connection = Connection(line, f"{address[0]}:{address[1]}", self.service.patience, self._stopping)
            thread = threading.Thread(
                target=self._talk, args=(connection, address[0]), name=f"{self.service.name} client", daemon=True
            )
            with self._clients_lock:
                self._clients[thread] = connection
            thread.start()

    def _talk(self, connection: Connection, address: str) -> None:
        """Admit and serve one client."""
        name, peer, has_turn = self.service.name, connection.peer, False
        try:
            self._access.admit(connection, address)
            has_turn = self._await_turn(connection)
            if has_turn:
                log.info("%s: %s connected", name, peer)
                self.service.serve(connection)
                log.info("%s: %s disconnected", name, peer)
        except Stopping:
            log.info("%s: %s was served until the server stopped", name, peer)
        except (ClientGone, ValueError) as error:
            log.warning("%s: %s: %s", name, peer, error)
        except Exception:
            log.exception("%s: %s: the service failed", name, peer)
        finally:
            # Before the next client's turn: a service never has two open connections.
            connection.close()
            if has_turn:
                self._turn.release()
            with self._clients_lock:
                self._clients.pop(threading.current_thread(), None)

    def _await_turn(self, connection: Connection) -> bool:
        """Return whether the previous client disconnected in time; otherwise refuse this one."""
        deadline = monotonic() + connection.patience.turn_s
        while not self._turn.acquire(timeout=TICK_S):
            connection.check()
            if monotonic() > deadline:
                log.warning("%s: %s refused: another client is being served", self.service.name, connection.peer)
                self.service.refuse(connection)
                return False
        if self._stopping.is_set():
            self._turn.release()
            raise Stopping
        return True


class Listeners(Running):
    """Listeners that start and stop together; `stop` waits for all of them no longer than for one.

    Args:
        listeners: not started yet; `stop` also closes those that never were.
    """

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Listener) -> Listener:
        """Add a listener before the start, and return it."""
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
