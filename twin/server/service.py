"""What a port of a server does with a client that was let in."""

from typing import Protocol

from twin.server.connection import Connection, Patience


class Service(Protocol):
    """A service on a port. `serve` runs in the client's thread, for one client at a time.

    Attributes:
        name: for messages.
        patience: time-outs.
        silent: clients of this protocol only listen. One that sends anything is disconnected before it is served.
        latest_first: of those that wait, the client that came last is served next.
    """

    @property
    def name(self) -> str: ...

    @property
    def patience(self) -> Patience: ...

    @property
    def silent(self) -> bool: ...

    @property
    def latest_first(self) -> bool: ...

    def serve(self, connection: Connection) -> bool | None:
        """Serve a client until it disconnects. A ValueError is the client's error, any other the server's.

        Returns:
            Whether the client has got everything and may stay for `patience.linger_s`, while the next one is served.
        """
        ...

    def refuse(self, connection: Connection) -> None:
        """Answer, if the protocol has a message for it, that another client is being served."""
        ...

    def turned_away(self, words: str) -> bytes:
        """Return a sentence as a message of the protocol, for a client that is not admitted; empty without one."""
        ...

    def give_way(self) -> bool:
        """Let go of the present client if it only waits, because another one waits too; return whether it will go."""
        ...
