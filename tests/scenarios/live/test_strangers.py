"""Strangers and damaged messages at the live page's port: they change nothing and keep nobody out."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from fakes.strangers import HELLOS, STRANGERS, call, files_allowed, gather, heard

from benchmarks.live.fuzz import DeskMessages, Requests
from benchmarks.live.page import BarePage
from benchmarks.wire.mutations import attack
from scenarios.live import desk as desk_module
from scenarios.live import door
from scenarios.live.desk import Desk
from scenarios.live.messages import Stage
from scenarios.live.server import LiveServer
from twin.server.access import FIRST_DELAY_S
from twin.server.door import PLACES


@pytest.fixture
def open_() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def request(server: LiveServer, path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def websocket(server: LiveServer, query: str, origin: str) -> bytes:
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
    return request(server, f"/ws{query}", f"Origin: {origin}", *upgrade)


def test_nothing_changes_whatever_a_stranger_says(server: LiveServer, page: BarePage, open_: ExitStack) -> None:
    page.say(do="live", on=False)
    page.until(lambda: not page.state["microscope"]["live"])
    before, url = server.desk.plain(), f"http://127.0.0.1:{server.port}"
    elsewhere = [
        websocket(server, f"?{server.url.partition('?')[2]}", "http://evil.example"),
        websocket(server, "", url),
    ]
    for hello in (*HELLOS.values(), *elsewhere):
        line = call(open_, server.port)
        line.sendall(hello + (b"" if hello in elsewhere else b"\r\n\r\n"))
        answer = line.recv(2**12)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403")), hello
        line.close()
    assert server.desk.plain() == before
    assert len(server._hub.pages) == 1


@pytest.mark.parametrize("hello", ["", "a wrong token", "a websocket without an Origin"])
def test_a_thousand_strangers_keep_nobody_out(
    server: LiveServer, open_: ExitStack, hello: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = {
        "": b"",
        "a wrong token": request(server, "/?token=a-wrong-token"),
        "a websocket without an Origin": websocket(server, "", "").replace(b"Origin: \r\n", b""),
    }
    assert server.desk.choices  # loading the library, once in a process, is not the crowd's doing
    with files_allowed(STRANGERS + 500):
        gather(open_, server.port, said[hello])
        begun, used = time.monotonic(), time.process_time()
        with urlopen(server.url, timeout=10) as answer:
            assert answer.status == 200
        owner = BarePage(server.port, server.url.partition("token=")[2])
        # Within a second, of a processor that others use meanwhile, too.
        assert time.process_time() - used < 1.0
        assert time.monotonic() - begun < 5.0
        owner.until(lambda: owner.state["role"]["drives"] if owner.state else False, 10.0)
        owner.close()
        assert len(server._door.strangers) <= PLACES
        server.close("the end")
        open_.close()
    assert capfd.readouterr().err == ""  # neither strangers nor refusals that waited fill the log


def test_a_stranger_that_says_nothing_is_hung_up_on(
    server: LiveServer, open_: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = BarePage(server.port, server.url.partition("token=")[2])
    monkeypatch.setattr(door, "FIRST_S", 0.2)
    silent, slow = call(open_, server.port), call(open_, server.port)
    slow.sendall(b"GET / HT")
    assert heard(silent) == heard(slow) == b""
    owner.until(lambda: owner.state)  # the owner stays
    owner.close()


def test_a_stranger_cannot_spread_its_wrong_tokens_over_addresses(server: LiveServer, open_: ExitStack) -> None:
    times = []
    for k in range(2):
        line, begun = call(open_, server.port), time.monotonic()
        line.sendall(request(server, "/?token=a-wrong-token", f"X-Forwarded-For: 10.0.0.{k}", "Connection: close"))
        assert heard(line).startswith(b"HTTP/1.1 403")
        times.append(time.monotonic() - begun)
    assert times[0] >= FIRST_DELAY_S
    assert times[1] >= 2 * FIRST_DELAY_S


def test_damaged_requests_change_nothing_and_are_no_errors_of_ours(server: LiveServer) -> None:
    found = attack("page", Requests(server), 60, 7, ("uvicorn.error", "asyncio"))
    assert (found.internal, found.changed, found.wrong) == (0, 0, 0), found.examples


def test_damaged_messages_are_obeyed_or_change_nothing(tmp_path: Path) -> None:
    target = DeskMessages(tmp_path)
    found = attack("live", target, 100, 7)
    target.desk.close("the end")
    assert (found.internal, found.changed, found.wrong) == (0, 0, 0), found.examples
    assert 50 < found.refused < 100


def test_the_check_of_messages_finds_a_refusal_that_changes_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = DeskMessages(tmp_path)

    def turn(desk: Desk, message: object) -> None:
        desk.seed += 1
        raise ValueError("refused")

    monkeypatch.setitem(desk_module._ACTIONS, Stage, turn)
    target.good = [b'{"do": "stage"}']
    assert attack("live", target, 20, 7).changed > 0
