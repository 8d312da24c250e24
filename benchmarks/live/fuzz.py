"""Fuzz of the live page's messages: `python -m benchmarks.live.fuzz [--messages 100000]`.

A small twin gets messages that are good, nearly good and nonsense:

- past the websocket, so that every change is seen at once: a message that is refused changes nothing, none causes an
  error of ours, the memory stays flat, a good one is obeyed in between (`benchmarks.wire.mutations.attack`);
- requests at the port of a server, each over a connection of its own, with the token and without: nothing changes;
- over the websocket: afterwards the server has to obey, no knob may be beyond its limit, and its memory may not have
  grown.
"""

import argparse
import gc
import json
import random
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from benchmarks.live.page import BarePage
from benchmarks.wire.mutations import Found, Outcome, attack, reset_at_close
from scenarios.live import messages
from scenarios.live.desk import Desk, Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.errors import StemtwinError
from twin.server.access import Access

TOKEN = "a-token-for-the-fuzz"
SMALL = (
    *("renderer=fast", "optics.convergence_mrad=14", "optics.sampling_nm=0.05", "optics.grid=256"),
    *("optics.camera_pixels=64", "optics.binning=4"),
)
MOST_GROWTH_MIB = 200.0
ANSWER_S = 0.1
"""How long an answer is waited for; those to a wrong token come late on purpose."""
GOOD: tuple[dict[str, Any], ...] = (
    {"do": "knobs", "values": {"C10": 12.5}},
    {"do": "knobs", "values": {"C10": -40.0, "C12a": 9.0}},
    {"do": "expose", "dose_e": 1e5, "exposure_s": 0.2},
    {"do": "stage"},
    {"do": "day", "scenario": "nominal", "seed": 4},
    {"do": "truth", "show": True},
    {"do": "live", "on": False},
    {"do": "connect", "on": True},
    {"do": "calibrate", "controller": "random", "observations": 3},
    {"do": "run", "verb": "stop"},
    {"do": "scan_stop"},
    {"do": "scan", "scenario": "nominal", "agents": ["adf"], "beam": "microscope"},
    {"do": "configure", "agent": "ricom", "changes": {"kernel_px": 31}},
    {"do": "seen", "kind": "view", "number": 3},
    {"do": "drive"},
)
PIECES = ("0", "-", "e9", "}", "[", '"', "\x00", "é", "true", "null", "1e308", "../", "C12b")


def mutated(rng: random.Random) -> str:
    """Return a message with characters added, left out or repeated, or with longer numbers."""
    text = json.dumps(rng.choice(GOOD))
    for _ in range(rng.randint(0, 4)):
        place = rng.randrange(len(text) + 1)
        changes = (
            text[:place] + rng.choice(PIECES) + text[place:],
            text[:place] + text[place + rng.randint(1, 8) :],
            text[:place] + text,
            text.replace("1", "1" * rng.randint(1, 30)),
        )
        text = rng.choice(changes)[:8000]
    return text


class DeskMessages:
    """Messages of a page, taken as the server takes them, without the websocket: a `Target` of `attack`.

    Args:
        folder: of the runs that the messages begin.
    """

    def __init__(self, folder: Path) -> None:
        self.good: Sequence[bytes] = [json.dumps(message).encode() for message in GOOD]
        settings = Settings(load("nominal", SMALL), 0, folder)
        self.desk = Desk(settings, lambda: None, lambda kind, shown, details: None, lambda kind: False)

    def send(self, data: bytes) -> Iterator[Outcome]:
        """Take one message."""
        try:
            message = messages.parse(data)
            if not isinstance(message, messages.Seen | messages.Drive):  # these are between the pages
                self.desk.hear(message)
        except (StemtwinError, OSError, ValueError):
            yield True
            return
        yield False

    def state(self) -> object:
        """What a message may change; of a run and a scan, which go on meanwhile, which ones they are."""
        plain, desk = self.desk.plain(), self.desk
        return {**plain, "run": id(desk.calibration), "scan": id(desk.scan), "hand": id(desk.hand)}

    def probe(self) -> bool:
        """End what runs, turn a knob, and see that it was turned and that all are within their limits."""
        self._end_jobs()
        self.desk.take_over()
        self.desk.hear(messages.Knobs({"C10": 1.25}))
        knobs = self.desk.plain()["microscope"]["knobs"]
        return knobs[0]["value"] == 1.25 and all(abs(knob["value"]) <= knob["limit"] + 1e-6 for knob in knobs)

    def renew(self) -> None:
        """End what runs, and forget it with a new day."""
        self._end_jobs()
        self.desk.hear(messages.Day("nominal", 0))
        self.desk.scan = None
        gc.collect()

    def _end_jobs(self) -> None:
        for job in (self.desk.calibration, self.desk.scan):
            if job is not None:
                job.end()


class Requests:
    """Requests at the page's port: no request, however damaged, changes anything. A `Target` of `attack`.

    Args:
        server: at whose port.
    """

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        host = f"127.0.0.1:{server.port}"
        first = "\r\n".join(["GET {} HTTP/1.1", f"Host: {host}", "{}", "", ""])
        upgrade = "\r\n".join(
            [
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                f"Origin: http://{host}",
            ]
        )
        paths = ["/", "/report", "/static/live.js", "/static/../server.py", "/ws"]
        texts = [first.format(f"{path}{query}", "A: b") for path in paths for query in ("", f"?token={TOKEN}")]
        texts += [first.format(f"/ws{query}", upgrade) for query in ("", f"?token={TOKEN}", "?token=wrong")]
        texts.append(
            f"POST /?token={TOKEN} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 28\r\n\r\n" + json.dumps(GOOD[0])
        )
        self.good: Sequence[bytes] = [text.encode() for text in texts]

    def send(self, data: bytes) -> Iterator[Outcome]:
        """Send one request, and end the connection."""
        with socket.create_connection(("127.0.0.1", self._server.port), timeout=10) as line:
            line.sendall(data)
            with suppress(OSError):
                line.shutdown(socket.SHUT_WR)
                line.settimeout(ANSWER_S)
                line.recv(2**12)
            reset_at_close(line)
        yield True

    def state(self) -> object:
        """State of the microscope."""
        return self._server.desk.plain()

    def probe(self) -> bool:
        """Whether the owner gets the page."""
        with urlopen(self._server.url, timeout=10) as answer:
            return b"<html" in answer.read()

    def renew(self) -> None:
        """Let the server notice who has left."""
        time.sleep(0.2)
        gc.collect()


def fuzz(page: BarePage, messages: int, seed: int = 0) -> None:
    """Send mutated messages and bytes; take what comes meanwhile."""
    rng = random.Random(seed)
    for k in range(messages):
        page.socket.send(rng.randbytes(rng.randint(0, 300)) if rng.random() < 0.1 else mutated(rng))
        if k % 10 == 0:
            page.drain(0.01)


def still_well(page: BarePage) -> list[str]:
    """Return what is wrong with a server after a fuzz: it has to obey, and no knob is beyond its limit."""
    for _ in range(200):  # messages of the fuzz may still be under way, a calibration among them
        page.say(do="run", verb="stop")
        page.say(do="knobs", values={"C10": 1.25})
        page.drain(0.5)
        if page.state and page.state["microscope"]["knobs"][0]["value"] == 1.25:
            break
    else:
        run = page.state.get("run") or {}
        known = {key: run.get(key) for key in ("running", "begun", "paused", "finishing", "waiting", "outcome")}
        return [f"the server does not obey; its calibration: {known}; its last notice: {page.heard.get('notice')}"]
    knobs = page.state["microscope"]["knobs"]
    return [f"{knob['name']} is at {knob['value']} nm" for knob in knobs if abs(knob["value"]) > knob["limit"] + 1e-6]


def attack_desk(count: int, seed: int) -> list[str]:
    """Send mutated messages past the websocket; print the figures, and return what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        target = DeskMessages(Path(folder))
        found = attack("live", target, count, seed)
        target.desk.close("the end")
    return told(found, "messages to the desk")


def told(found: Found, what: str) -> list[str]:
    """Print the figures of an attack; return what is wrong."""
    print(
        f"{found.messages} {what}: {found.refused} refused, {found.internal} internal errors, {found.changed} changed"
        f" by a refused one, {found.wrong} wrong answers, memory +{found.grown_bytes / 1024:.0f} KiB"
    )
    return [] if found.good else found.examples or ["the memory grew, or a good message was not obeyed"]


def attack_port(count: int, seed: int) -> list[str]:
    """Send mutated requests to the page's port; print the figures, and return what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load("nominal", SMALL), 0, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server:
            found = attack("page", Requests(server), count, seed, ("uvicorn.error", "asyncio"))
    return told(found, "requests")


def attack_websocket(count: int, seed: int) -> list[str]:
    """Send mutated messages over the websocket of a server; print the figures, and return what is wrong."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load("nominal", SMALL), 0, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server:
            page = BarePage(server.port, TOKEN)
            fuzz(page, count // 10, seed)  # what is loaded once is no growth
            before = process.memory_info().rss / 2**20
            fuzz(page, count, seed + 1)
            wrong = still_well(page)
            growth = process.memory_info().rss / 2**20 - before
            page.close()
    print(f"{count} messages over the websocket, {page.pictures} pictures, memory grew by {growth:.1f} MiB")
    if growth > MOST_GROWTH_MIB:
        wrong.append(f"memory grew by {growth:.0f} MiB")
    return wrong


ATTACKS = {"desk": attack_desk, "port": attack_port, "websocket": attack_websocket}


def main() -> None:
    """Fuzz, print the figures, and fail if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--messages", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=ATTACKS)
    given = parser.parse_args()
    wrong: list[str] = []
    for name, attacked in ATTACKS.items():
        if given.only in (None, name):
            wrong += attacked(given.messages, given.seed)
    for words in wrong:
        print(f"wrong: {words}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
