"""Who may see the page: the token, the names under which the server is called, and what a browser may do with a page.

A page of another site cannot open the websocket (Origin), nor reach the server under a name of its own (Host).
Connections that have not shown the token have few places and little time, so that they keep nobody else out.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from uvicorn.protocols.http.h11_impl import H11Protocol

from twin.server.access import OPENING, Access, is_loopback
from twin.server.door import PLACES, first_of_the_crowd

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = "/static/"
"""Files without secrets, which a browser asks for without the token."""
LONGEST_QUERY = 512
FIRST_S = 30.0
"""Longest time of a connection without a request that has the token."""
NEEDS_TOKEN = "a token is needed: use the whole address that the command printed"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
"""A report has its style and pictures within it, and no script."""


class Strangers:
    """Connections that have not shown the token, in the order of their arrival. Belongs to the server's event loop.

    When all `PLACES` are taken, the address with the most of them loses its oldest, as at the other ports.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], tuple[asyncio.Transport, asyncio.TimerHandle]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def arrive(self, client: tuple[str, int], line: asyncio.Transport) -> None:
        """Give a new connection a place."""
        for left in [each for each, (other, _) in self._lines.items() if other.is_closing()]:
            self.admit(left)
        while len(self._lines) >= PLACES:
            clients = list(self._lines)
            self._turn_out(clients[first_of_the_crowd([address for address, _ in clients])])
        due = asyncio.get_running_loop().call_later(FIRST_S, self._turn_out, client)
        self._lines[client] = line, due

    def admit(self, client: tuple[str, int]) -> None:
        """Take a connection that has shown the token, or has left, for a stranger no more."""
        if client in self._lines:
            self._lines.pop(client)[1].cancel()

    def _turn_out(self, client: tuple[str, int]) -> None:
        line, _ = self._lines[client]
        self.admit(client)
        line.abort()


class Visitor(H11Protocol):
    """A connection, as uvicorn serves it, that begins as one of the door's strangers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as H11Protocol's
        super().connection_made(transport)
        if self.client is None:  # gone already
            transport.abort()
        else:
            self.config.app.strangers.arrive(self.client, transport)  # type: ignore[union-attr]


class Door:
    """An ASGI application that lets in who has the token, and nobody else.

    Args:
        app: behind the door.
        access: address and token.
        port: that the server listens on.

    Attributes:
        strangers: connections without the token; they come by `Visitor`.
        closing: set when the server ends: refusals that wait are told at once.
    """

    def __init__(self, app: App, access: Access, port: int) -> None:
        self._app, self._access = app, access
        self.strangers, self.closing = Strangers(), asyncio.Event()
        local = is_loopback(access.host)
        self._names = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")} if local else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        problem, client = self.problem(scope), scope.get("client") or ("", 0)
        if problem:
            if problem is NEEDS_TOKEN:
                await self._wait(self._access.delay_s(str(client[0])), receive)
            await _refuse(scope, send, problem)
            return
        if not self._is_open(scope):
            self.strangers.admit((str(client[0]), int(client[1])))
        await self._app(scope, receive, _with_headers(scope, send))

    async def _wait(self, seconds: float, receive: Receive) -> None:
        """Wait; no longer than the client stays, or the server does."""
        ends = [asyncio.create_task(end) for end in (_left(receive), self.closing.wait())]
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    def problem(self, scope: Scope) -> str:
        """Return why a request is refused; empty if it is not."""
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get("host", "")
        if self._names is not None and host not in self._names:
            return "this server is called 127.0.0.1 or localhost"
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "a page of another site has no business here"
        if scope["type"] == "websocket" and origin is None:
            return "a websocket needs an Origin"
        return "" if self._is_open(scope) or self._has_token(scope) else NEEDS_TOKEN

    def _is_open(self, scope: Scope) -> bool:
        return scope["type"] == "http" and scope["path"].startswith(OPEN_PATHS)

    def _has_token(self, scope: Scope) -> bool:
        query = scope.get("query_string", b"")
        if len(query) > LONGEST_QUERY:
            return False
        given = parse_qs(query.decode("latin-1")).get("token", [""])[0]
        # Per request: the address is never admitted for good, as other users of this computer share it.
        return self._access.opens(OPENING + given.encode(), "")


async def _left(receive: Receive) -> bool:
    """Return when the client has disconnected."""
    while not (await receive())["type"].endswith(".disconnect"):
        pass
    return True


async def _refuse(scope: Scope, send: Send, problem: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": problem})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": problem.encode()})


def _with_headers(scope: Scope, send: Send) -> Send:
    """Add to every answer what a browser may do with it."""
    policy = REPORT_POLICY if scope["path"] == "/report" else POLICY
    extra = [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    ]

    async def sending(event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [*event.get("headers", []), *extra]
        await send(event)

    return sending
