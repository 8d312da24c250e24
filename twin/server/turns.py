"""The order in which the clients of a port are served, one at a time."""

import threading

from twin.server.connection import Connection


class Turns:
    """Clients that wait, and the one that is served; threads share it.

    Args:
        latest_first: the client that came last is next, not the one that came first.
    """

    def __init__(self, latest_first: bool = False) -> None:
        self._latest_first = latest_first
        self._waiting: dict[Connection, int] = {}  # and when they came: 1, 2, ...
        self._served: Connection | None = None
        self._came, self._served_came = 0, 0
        self._changed = threading.Condition()

    def enter(self, connection: Connection) -> None:
        """Begin to wait."""
        with self._changed:
            self._came += 1
            self._waiting[connection] = self._came

    def take(self, connection: Connection, within_s: float) -> bool:
        """Wait for the turn; return whether it has come."""
        with self._changed:
            if not self._is_next(connection):
                self._changed.wait(within_s)
            if not self._is_next(connection):
                return False
            self._served, self._served_came = connection, self._waiting.pop(connection)
            return True

    def leave(self, connection: Connection) -> None:
        """End the turn, or the wait, of a client."""
        with self._changed:
            self._waiting.pop(connection, None)
            if self._served is connection:
                self._served = None
            self._changed.notify_all()

    def may_ask(self, connection: Connection) -> bool:
        """Whether a client that waits may ask the one that is served to give way: only if it came later."""
        with self._changed:
            return self._waiting.get(connection, 0) > self._served_came

    def drop_first(self) -> bool:
        """Hang up on the client that has waited longest; return whether there is one."""
        with self._changed:
            if not self._waiting:
                return False
            first = next(iter(self._waiting))
            del self._waiting[first]
        first.hang_up()
        return True

    def _is_next(self, connection: Connection) -> bool:
        if self._served is not None or connection not in self._waiting:
            return False
        order = list(self._waiting)
        return connection is (order[-1] if self._latest_first else order[0])
