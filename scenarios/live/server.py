"""The server of the live page: a door, a few files, one websocket, and the loop that draws what the pages wait for.

It writes nothing; what is written is in the folders of runs.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
from time import monotonic
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from scenarios.live import messages
from scenarios.live.desk import Desk, Settings
from scenarios.live.door import Door, Visitor
from scenarios.live.hub import MOST_PAGES, Hub, Page
from scenarios.live.pace import Pace
from scenarios.live.pictures import Picture, packed
from scenarios.page import hand_written
from twin.errors import StemtwinError, printable
from twin.instrument.faults import Stopped
from twin.server.access import Access

STATE_S = 0.05
"""Least interval between two states."""
END_S = 200.0
"""Longest wait for the end: beyond that of a calibration and its way back."""
FILES = {
    "live.js": ("live/static/live.js", "text/javascript"),
    "view.js": ("live/static/view.js", "text/javascript"),
    "live.css": ("live/static/live.css", "text/css"),
    "style.css": ("templates/style.css", "text/css"),
}
"""Files of the page: their place in the package and their type; the style of the reports is the page's, too."""
PAGE = "live/static/live.html"
NOTHING = "No scan and no calibration was under way."
TOO_MANY, ENDED = 1013, 1001
"""Codes with which a connection is closed: too many pages, the server ends."""


class LiveServer:
    """The live page on a port, in threads of its own, until `close`.

    Args:
        settings: of the command line.
        access: address and token.
        port: 0 takes a free one.

    Raises:
        OSError: the port cannot be taken.
        ValueError: the scenario's microscope is refused.
    """

    def __init__(self, settings: Settings, access: Access, token: str, port: int = 0) -> None:
        self.socket = socket.create_server((access.host, port), family=_family(access.host))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://{_shown(access.host)}:{self.port}/?token={quote(token)}"
        self._hub, self._pace = Hub(), Pace()
        self._pending: tuple[dict[str, float], Page] | None = None
        self._bench = ThreadPoolExecutor(1, "bench")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._dirty = self._wake = asyncio.Event()
        try:
            self.desk = Desk(settings, self._changed, self._show, self._hub.wanted)
        except BaseException:
            self.socket.close()
            raise
        routes = [
            Route("/", self._page),
            Route("/static/{name}", self._file),
            Route("/report", self._report),
            WebSocketRoute("/ws", self._talk),
        ]
        self._door = Door(Starlette(routes=routes), access, self.port)
        config = uvicorn.Config(
            self._door, log_config=None, log_level="error", lifespan="off", ws="websockets-sansio",
            ws_max_size=messages.LIMITS.bytes, ws_per_message_deflate=False, timeout_graceful_shutdown=3,
            server_header=False,
            # Who a client is, is its address, not what it says that it is; fewer at once than files may be open.
            http=Visitor, proxy_headers=False, backlog=512,
        )  # fmt: skip
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="live server")
        self._closed = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close("the live page ended")

    def close(self, reason: str) -> str:
        """End everything and tell the pages; an instrument is left as its limits demand. Return the end in words."""
        if self._closed or self._loop is None:
            return ""
        self._closed = True
        said = asyncio.run_coroutine_threadsafe(self._end(reason), self._loop).result(END_S)
        self._uvicorn.should_exit = True
        self._thread.join()
        self._bench.shutdown()
        self.socket.close()
        return said

    # --- the loop --------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._dirty, self._wake = asyncio.Event(), asyncio.Event()
        self._dirty.set()
        tasks = [asyncio.create_task(work()) for work in (self._draw, self._tell_state)]
        self._ready.set()
        try:
            await self._uvicorn.serve(sockets=[self.socket])
        finally:
            for task in tasks:
                task.cancel()

    async def _end(self, reason: str) -> str:
        self._hub.tell({"kind": "ending", "text": "The server is ending: the microscope is being left in order."})
        self._door.closing.set()
        said = await self._on_bench(self.desk.close, reason)
        self._hub.tell({"kind": "ended", "text": said or NOTHING})
        self._hub.show_state(self.desk.plain())
        await asyncio.sleep(STATE_S)  # for the words to leave
        for page in list(self._hub.pages.values()):
            await page.close(ENDED, "the server ends")
        return said

    async def _on_bench(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something with the microscope, in its own thread."""
        assert self._loop is not None
        return await self._loop.run_in_executor(self._bench, work, *arguments)

    def _changed(self) -> None:
        """Have the state told, and a picture drawn; from any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._dirty.set)

    def _show(self, kind: str, shown: list[Picture], details: Mapping[str, Any]) -> None:
        """Deliver pictures; from any thread."""
        number = self._hub.next_number()
        message = packed(kind, number, shown, details)
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hub.deliver, kind, number, message)

    async def _tell_state(self) -> None:
        """Tell every change of the state, the latest one if they come fast."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if await self._on_bench(self.desk.take_over):
                self._pace.anew()
                self._wake.set()
            self._hub.show_state(self.desk.plain())
            await asyncio.sleep(STATE_S)

    async def _draw(self) -> None:
        """Draw the view by hand whenever one is due and a page waits for it."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pace.wait_s(monotonic()))
            self._wake.clear()
            if self._pending is not None:
                (values, page), self._pending = self._pending, None
                if await self._do(page, messages.Knobs(values)):
                    self._pace.turned(monotonic())
            quality = self._pace.next(monotonic(), self.desk.exposes)
            if quality is None:
                continue
            if not self._hub.wanted("view"):
                await asyncio.sleep(0.002)
                continue
            try:
                await self._on_bench(self.desk.expose, quality == "draft")
            except (StemtwinError, OSError, ValueError) as error:
                self.desk.lose(isinstance(error, Stopped))
                self._hub.tell(_notice(f"no frame: {printable(error)}"))
            self._pace.exposed(quality, monotonic())

    # --- what pages say --------------------------------------------------------------------------

    async def _talk(self, websocket: WebSocket) -> None:
        """One page, from its first word to its last."""
        await websocket.accept()
        if len(self._hub.pages) >= MOST_PAGES or self._closed:
            await websocket.close(TOO_MANY, f"at most {MOST_PAGES} pages")
            return
        greeting = {"kind": "hello", **await self._on_bench(lambda: self.desk.choices)}
        page = self._hub.enter(websocket, greeting)
        self._dirty.set()
        self._pace.anew()
        self._wake.set()
        sending = asyncio.create_task(page.send())
        try:
            while True:
                await self._hear(page, await websocket.receive())
        except (WebSocketDisconnect, RuntimeError):
            return
        finally:
            sending.cancel()
            self._hub.leave(page)
            self._dirty.set()

    async def _hear(self, page: Page, event: Mapping[str, Any]) -> None:
        """Take one message.

        Raises:
            WebSocketDisconnect: it is the page's last.
        """
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", ENDED))
        try:
            message = messages.parse(event.get("text") or event.get("bytes") or "")
        except messages.MessageError as error:
            page.tell(_notice(printable(error)))
            return
        if isinstance(message, messages.Seen):
            page.seen(message.kind, message.number)
            self._wake.set()
        elif isinstance(message, messages.Drive):
            self._hub.driver = page.number
            self._dirty.set()
        elif page.number != self._hub.driver:
            page.tell(_notice("this page watches: take the controls first"))
        elif isinstance(message, messages.Knobs):
            values = {} if self._pending is None else self._pending[0]
            self._pending = {**values, **message.values}, page
            self._wake.set()
        elif await self._do(page, message):
            self._pace.anew()
            self._wake.set()

    async def _do(self, page: Page, message: Any) -> bool:
        """Have the desk do something; a refusal is told to the page. Return whether it was done."""
        try:
            await self._on_bench(self.desk.hear, message)
        except (StemtwinError, OSError, ValueError) as error:
            page.tell(_notice(printable(error)))
            self._dirty.set()
            return False
        if isinstance(message, messages.Calibrate):
            self._hub.forget("before", "run")
        elif isinstance(message, messages.Scan):
            self._hub.forget("scan")
        return True

    # --- files -----------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        return Response(hand_written(PAGE), media_type="text/html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return PlainTextResponse("no such file", 404)
        place, kind = FILES[name]
        return Response(_read(place), media_type=kind)

    async def _report(self, request: Request) -> Response:
        path = self.desk.report()
        if path is None:
            return PlainTextResponse("no calibration has been reported yet", 404)
        return Response(await asyncio.to_thread(path.read_bytes), media_type="text/html")


def _read(place: str) -> bytes:
    return (resources.files("scenarios") / place).read_bytes()


def _notice(text: str) -> dict[str, str]:
    return {"kind": "notice", "text": text}


def _shown(host: str) -> str:
    """Return a host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
