"""A TCP port of a service: one client at a time, time-outs on every wait.

No protocol. One thread stands at the door (`door.py`), every client has a thread of its own; `stop`, from any other
thread, ends them.
"""

import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from time import monotonic
from types import TracebackType
from typing import Self

from twin.server.access import Access
from twin.server.bounded_log import BoundedLog
from twin.server.connection import TICK_S, ClientGone, Connection, Stopping
from twin.server.door import BACKLOG, Door
from twin.server.service import Service
from twin.server.turns import Turns

log = logging.getLogger("twin.server")

MOST_WAITING = 8
"""Clients of one service at a time, including the one being served; further ones are disconnected at once."""
YIELD_S = 0.3
"""Wait of a client before the one that is being served is asked to give way."""
STOP_S = 1.0
"""Longest wait for the threads when a server stops."""


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
        OSError: the port or the address is not available.
    """

    def __init__(self, service: Service, port: int = 0, access: Access | None = None) -> None:
        self.service, access = service, access or Access()
        self._server = listening_socket(access.host, port)
        self.port: int = self._server.getsockname()[1]
        self._log = BoundedLog(log, service.name)
        self._door = Door(service, self._server, access, self._let_in, self._log)
        self._stopping = threading.Event()
        self._turns = Turns(service.latest_first)
        self._clients: dict[threading.Thread, Connection] = {}
        self._lingering: dict[threading.Thread, Connection] = {}
        self._clients_lock = threading.Lock()
        self._accepting = threading.Thread(
            target=self._door.run, args=(self._stopping,), name=f"{service.name} port", daemon=True
        )

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

    def _let_in(self, line: socket.socket, address: str, peer: str) -> None:
        """Serve a client that the door has let in, in a thread of its own, unless there are too many."""
        if not self._has_place():
            self._log.warning("%s disconnected: %d clients already", peer, MOST_WAITING)
            line.close()
            return
        connection = Connection(line, peer, self.service.patience, self._stopping)
        thread = threading.Thread(
            target=self._talk, args=(connection,), name=f"{self.service.name} client", daemon=True
        )
        with self._clients_lock:
            self._clients[thread] = connection
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._log.warning("%s disconnected: %s", peer, error)
            with self._clients_lock:
                del self._clients[thread]
            connection.close()

    def _has_place(self) -> bool:
        """Whether there is a place for one more client; those that linger make one, and so does, where clients say
        nothing and may all be strangers, the one that has waited longest.
        """
        with self._clients_lock:
            if len(self._clients) - len(self._lingering) >= MOST_WAITING:
                return self.service.silent and self._turns.drop_first()
            while len(self._clients) >= MOST_WAITING:
                thread = next(iter(self._lingering))
                self._lingering.pop(thread).hang_up()
                del self._clients[thread]
            return True

    def _talk(self, connection: Connection) -> None:
        """Serve one client."""
        name, peer = self.service.name, connection.peer
        self._turns.enter(connection)
        try:
            if self._await_turn(connection):
                log.info("%s: %s connected", name, peer)
                if self.service.serve(connection):
                    self._linger(connection)
                log.info("%s: %s disconnected", name, peer)
        except Stopping:
            log.info("%s: %s was served until the server stopped", name, peer)
        except (ClientGone, ValueError) as error:
            self._log.warning("%s: %s", peer, error)
        except Exception:
            self._log.warning("%s: the service failed", peer, trace=True)
        finally:
            # Before the next client's turn: a service never serves over two connections.
            connection.close()
            self._turns.leave(connection)
            with self._clients_lock:
                self._clients.pop(threading.current_thread(), None)
                self._lingering.pop(threading.current_thread(), None)

    def _linger(self, connection: Connection) -> None:
        """Pass the turn on, and wait for a client that has got everything to disconnect."""
        until = monotonic() + self.service.patience.linger_s
        with self._clients_lock:
            self._lingering[threading.current_thread()] = connection
        self._turns.leave(connection)
        while not connection.gone and monotonic() < until:
            connection.pause(TICK_S)

    def _await_turn(self, connection: Connection) -> bool:
        """Return whether the previous client disconnected in time; otherwise refuse this one."""
        begun, asked = monotonic(), False
        while not self._turns.take(connection, TICK_S):
            connection.check()
            if self.service.silent and connection.gone:
                return False
            waited_s = monotonic() - begun
            if waited_s > YIELD_S and not asked and self._turns.may_ask(connection):
                asked = self.service.give_way()
            if waited_s > connection.patience.turn_s:
                self._log.warning("%s refused: another client is being served", connection.peer)
                self.service.refuse(connection)
                return False
        connection.check()
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


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port of an address or name, IPv4 or IPv6; port 0 takes a free one.

    Raises:
        OSError: not an address of this machine, or the port is taken.
    """
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(where[:2], family=family, backlog=BACKLOG)
