"""The pages that are open: what each of them still has to be told, and which one drives.

A page has one picture of a kind on its way at a time; a newer one replaces the one that waits. Nothing here grows.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

MOST_PAGES = 16
MOST_NOTICES = 20
KINDS = ("view", "before", "run", "scan")
"""Kinds of pictures."""


class Page:
    """One open page. Belongs to the server's event loop.

    Args:
        socket: accepted.
        number: of the page.
        greeting: the first message.
    """

    def __init__(self, socket: WebSocket, number: int, greeting: Mapping[str, Any]) -> None:
        self.socket, self.number = socket, number
        self._texts: deque[str] = deque([json.dumps(greeting)], maxlen=MOST_NOTICES)
        self._state: str | None = None
        self._waiting: dict[str, tuple[int, bytes]] = {}
        self._on_its_way: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._wake.set()

    def is_ready(self, kind: str) -> bool:
        """Whether a picture of a kind would be sent at once."""
        return kind not in self._waiting and kind not in self._on_its_way

    def tell(self, text: Mapping[str, Any]) -> None:
        """Send a short message; the oldest is dropped if the page takes none."""
        self._texts.append(json.dumps(text))
        self._wake.set()

    def show_state(self, text: str) -> None:
        """Send the state; an earlier one that still waits is replaced."""
        self._state = text
        self._wake.set()

    def offer(self, kind: str, number: int, message: bytes) -> None:
        """Send a picture once the one before has been drawn; an earlier one that still waits is replaced."""
        self._waiting[kind] = (number, message)
        self._wake.set()

    def seen(self, kind: str, number: int) -> None:
        """Note that the page has drawn a picture; a number that is not on its way counts for nothing."""
        if self._on_its_way.get(kind) == number:
            del self._on_its_way[kind]
            self._wake.set()

    async def send(self) -> None:
        """Send what waits, until the page is gone."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._texts:
                    await self.socket.send_text(self._texts.popleft())
                if self._state is not None:
                    state, self._state = self._state, None
                    await self.socket.send_text(state)
                for kind in [kind for kind in self._waiting if kind not in self._on_its_way]:
                    number, message = self._waiting.pop(kind)
                    self._on_its_way[kind] = number
                    await self.socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError, OSError):
            return

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, if it is open."""
        if self.socket.application_state is WebSocketState.CONNECTED:
            try:
                await self.socket.close(code, reason)
            except (RuntimeError, OSError):
                return


class Hub:
    """All open pages. Belongs to the server's event loop.

    The first page drives, the others watch. Whoever asks gets the controls; when the driver leaves, the page that has
    been open longest drives.
    """

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}
        self.driver: int | None = None
        self._latest: dict[str, tuple[int, bytes]] = {}
        self._count = self._pictures = 0

    def enter(self, socket: WebSocket, greeting: Mapping[str, Any]) -> Page:
        """Add a page, and show it the latest pictures."""
        self._count += 1
        page = Page(socket, self._count, {**greeting, "page": self._count})
        self.pages[page.number] = page
        if self.driver is None:
            self.driver = page.number
        for kind, (number, message) in self._latest.items():
            page.offer(kind, number, message)
        return page

    def leave(self, page: Page) -> None:
        """Remove a page."""
        self.pages.pop(page.number, None)
        if self.driver == page.number:
            self.driver = next(iter(self.pages), None)

    def wanted(self, kind: str) -> bool:
        """Whether some page waits for a picture of a kind."""
        return any(page.is_ready(kind) for page in list(self.pages.values()))

    def next_number(self) -> int:
        """Return the number of the next picture."""
        self._pictures += 1
        return self._pictures

    def deliver(self, kind: str, number: int, message: bytes) -> None:
        """Offer a picture to every page."""
        self._latest[kind] = (number, message)
        for page in self.pages.values():
            page.offer(kind, number, message)

    def forget(self, *kinds: str) -> None:
        """Show later pages no earlier pictures of these kinds."""
        for kind in kinds:
            self._latest.pop(kind, None)

    def show_state(self, state: Mapping[str, Any]) -> None:
        """Send the state to every page, with its own role."""
        for page in self.pages.values():
            role = {"page": page.number, "drives": page.number == self.driver, "pages": len(self.pages)}
            page.show_state(json.dumps({"kind": "state", **state, "role": role}))

    def tell(self, text: Mapping[str, Any]) -> None:
        """Send a short message to every page."""
        for page in self.pages.values():
            page.tell(text)
