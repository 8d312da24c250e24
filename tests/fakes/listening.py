"""A server on a free port of this machine whose side of every connection a test writes."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

Script = Callable[[socket.socket, threading.Event], object]
"""What the server does with one connection; the event is set when the test is over."""


@contextmanager
def listening(scripts: Iterable[Script]) -> Iterator[int]:
    """Serve connections in their order, each by the next script, and close it behind it; yields the port.

    Once no script is left, nobody accepts a connection. An OSError ends a script, and so does a wait of 5 s.
    """
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.02)
    over = threading.Event()

    def accepted() -> socket.socket | None:
        while not over.is_set():
            with suppress(TimeoutError):
                return server.accept()[0]
        return None

    def serve() -> None:
        for script in scripts:
            line = accepted()
            if line is None:
                return
            line.settimeout(5.0)
            with line, suppress(OSError):
                script(line, over)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        over.set()
        thread.join(10.0)
        server.close()
        assert not thread.is_alive()
