"""Fuzz of the live page's websocket: `python -m benchmarks.live.fuzz [--messages 10000]`.

A server on a small twin gets messages that are good, nearly good and nonsense. Afterwards it has to answer, no knob may
be beyond its limit, and its memory may not have grown.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.live.page import BarePage
from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.server.access import Access

TOKEN = "a-token-for-the-fuzz"
SMALL = (
    *("renderer=fast", "optics.convergence_mrad=14", "optics.sampling_nm=0.05", "optics.grid=256"),
    *("optics.camera_pixels=64", "optics.binning=4"),
)
MOST_GROWTH_MIB = 200.0
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
    {"do": "scan", "scenario": "nominal", "agents": ["adf"]},
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


def main() -> None:
    """Fuzz, print the figures, and fail if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load("nominal", SMALL), 0, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server:
            page = BarePage(server.port, TOKEN)
            fuzz(page, given.messages // 10, given.seed)  # what is loaded once is no growth
            before = process.memory_info().rss / 2**20
            fuzz(page, given.messages, given.seed + 1)
            wrong = still_well(page)
            growth = process.memory_info().rss / 2**20 - before
            page.close()
    print(f"{given.messages} messages, {page.pictures} pictures, memory grew by {growth:.1f} MiB")
    if growth > MOST_GROWTH_MIB:
        wrong.append(f"memory grew by {growth:.0f} MiB")
    for words in wrong:
        print(f"wrong: {words}")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
