"""A page without a browser: confirms every picture, keeps the latest of everything."""

import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from scenarios.live.pictures import unpacked


class BarePage:
    """A connection to a live server.

    Args:
        port: of the server on this machine.
        token: of its address.
        confirms: confirm every picture, as a page does once it is drawn.

    Attributes:
        state: the latest state.
        heard: the latest of each other kind of message.
        views: headers of the latest pictures.
        pictures: number of all pictures.
    """

    def __init__(self, port: int, token: str, confirms: bool = True) -> None:
        self._line = ExitStack()
        origin = f"http://127.0.0.1:{port}"
        self.socket: ClientConnection = self._line.enter_context(
            connect(f"ws://127.0.0.1:{port}/ws?token={token}", origin=Origin(origin), max_size=None)
        )
        self.confirms = confirms
        self.state: dict[str, Any] = {}
        self.heard: dict[str, Any] = {}
        self.views: deque[dict[str, Any]] = deque(maxlen=100)
        self.pictures = 0

    def say(self, **message: Any) -> None:
        """Send a message."""
        self.socket.send(json.dumps(message))

    def until(self, holds: Callable[[], Any], seconds: float = 120.0) -> None:
        """Take messages until a condition holds.

        Raises:
            TimeoutError: it does not hold in time.
        """
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds:g} s; run: {self.state.get('run')}; heard: {self.heard}")
            try:
                self.take(self.socket.recv(timeout=1.0))
            except TimeoutError:
                continue

    def drain(self, seconds: float) -> None:
        """Take what arrives for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self.take(self.socket.recv(timeout=left))
            except TimeoutError:
                return

    def take(self, message: str | bytes) -> None:
        """Take one message."""
        if isinstance(message, bytes):
            header, _ = unpacked(message)
            self.views.append(header)
            self.pictures += 1
            if self.confirms:
                self.say(do="seen", kind=header["kind"], number=header["number"])
            return
        told = json.loads(message)
        if told["kind"] == "state":
            self.state = told
        else:
            self.heard[told["kind"]] = told

    def close(self) -> None:
        """Leave."""
        self._line.close()
