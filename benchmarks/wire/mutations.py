"""Damaged and nonsensical messages for every port of a served twin: no internal error, nothing changed by an error.

    python -m benchmarks.wire.mutations [--messages 100000] [--seed 0] [--port control] [--json]

Good messages are mutated (bytes, slices, numbers, JSON values, wrong lengths) and sent to each of the five services.
After every answer that is an error, and after every disconnection, the state of microscope and camera has to be the one
before it; a good message is answered rightly in between; the memory must not grow. The data ports expect no bytes: each
message goes there over a connection of its own. Exit code 1 if anything else happened.
"""

import argparse
import json
import logging
import random
import re
import socket
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self

from twin.cameras.properties import CountingCamera
from twin.day import Day
from twin.optics import Optics
from twin.scan.plan import ScanPlan
from twin.scan.setup import ScanSetup
from twin.server.bench import Bench, ScanSettings
from twin.server.control import Control
from twin.server.corrector import Corrector
from twin.server.event_stream import EventStream
from twin.server.frame_supply import RonchigramSupply, ScanSupply
from twin.server.listener import Listener
from twin.server.merlin_camera import MerlinCamera, MerlinData
from twin.server.merlin_camera import MerlinControl as CameraControl
from twin.server.rpc import MOST_REQUEST, answer
from twin.server.service import Service
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.wire import merlin, merlin_commands
from twin.wire.netstring import INTERNAL_ERROR, NetstringDecoder, RpcError, frame

MESSAGES = 100_000
PROBE_EVERY = 500
"""Messages between two good ones."""
FLAT_BYTES = 2**19
"""Growth of the memory between a fifth of the messages and the end that still counts as flat."""
ODD = (
    "-1", "0", "1e308", "-1e308", "1e-320", "1" * 400, "NaN", "Infinity", "true", "null", '""', "[]", "{}", "[[" * 40,
    "9" * 20, "-0.0", '"\\u0000"', '"\\ud800"', "1e5", "65536", "2147483648", "[1,2,3,4]", "\\", '"film 7"',
)  # fmt: skip
_NUMBER = re.compile(rb"-?[0-9.]+(?:[eE][-+]?[0-9]+)?")

Outcome = bool
"""Whether a message was refused: an error was answered, or the client disconnected."""


@dataclass
class Found:
    """What happened on one port.

    Attributes:
        port: name of the service.
        messages, refused: their numbers.
        internal: messages that caused an error of ours.
        changed: refused messages after which the state was another one.
        wrong: good messages that did not get the right answer.
        grown_bytes: growth of the memory.
        examples: of messages that did what they should not.
    """

    port: str
    messages: int = 0
    refused: int = 0
    internal: int = 0
    changed: int = 0
    wrong: int = 0
    grown_bytes: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything was as it should be."""
        return not (self.internal or self.changed or self.wrong) and self.grown_bytes < FLAT_BYTES


class Target(Protocol):
    """A port and what stands behind it."""

    good: Sequence[bytes]

    def send(self, data: bytes) -> Iterator[Outcome]:
        """Send bytes over a new connection; yield after each message in them."""
        ...

    def state(self) -> object:
        """Everything that a message may change."""
        ...

    def probe(self) -> bool:
        """Send a good message; return whether the answer is right."""
        ...

    def renew(self) -> None:
        """Begin again, now and then: what was accepted may have used everything up."""
        ...


# --- the twin ------------------------------------------------------------------------------------

SETUP = ScanSetup(
    specimen="sto_001",
    specimen_options={"width_nm": 1.562, "height_nm": 1.952, "thickness_nm": 0.39},
    optics=Optics(convergence_mrad=20.0, grid=64, sampling_nm=0.02, camera_pixels=16, binning=2),
    detectors={},
    camera=CountingCamera(readout_s=1e-5),
)


def make_bench() -> Bench:
    """A small twin that scans; nothing of it is computed here but the truth."""
    space = StateSpace(start_nm=(20.0, 10.0, 10.0), input_nm=(60.0, 40.0, 40.0))
    microscope = SimulatedMicroscope(Optics(camera_pixels=64), space, Day(), scan=SETUP)
    plan = ScanPlan(rows=2, columns=3, step_nm=0.05, dwell_s=1e-4)
    bench = Bench(microscope, ScanSettings(plan, SETUP.optics, largest_count=4095))
    bench.reset_to(0)
    return bench


def bench_state(bench: Bench) -> object:
    """The state of the microscope, and what its clients have set."""
    microscope = bench.microscope
    return (
        (bench.sessions, bench.entropy, bench.inputs, bench.exposures, bench.cumulative_nm.tobytes()),
        (bench.scan_settings, bench.stage_nm, microscope.clock_s, microscope.next_exposure, microscope.cost),
        microscope.truth().state_nm.tobytes(),
    )


class Rpc:
    """A service of JSON-RPC in netstrings.

    Args:
        bench: behind it.
        handle: of the service.
        texts: good messages.
        probe: one of them, and a part of its right answer.
    """

    def __init__(
        self, bench: Bench, handle: Callable[..., Any], texts: Sequence[str], probe: tuple[str, bytes]
    ) -> None:
        self.bench, self._handle, self._probe = bench, handle, probe
        self.good = [frame(text.encode()) for text in texts]

    def send(self, data: bytes) -> Iterator[Outcome]:
        try:
            payloads = NetstringDecoder(MOST_REQUEST).feed(data)
        except RpcError:
            yield True
            return
        for payload in payloads:
            reply = answer(self._handle, payload)
            told: dict[str, Any] = json.loads(reply.partition(b":")[2][:-1]) if reply else {"result": None}
            error = told.get("error", {})
            if error.get("code") == INTERNAL_ERROR:
                raise AssertionError(error["message"])
            yield bool(error)

    def state(self) -> object:
        of_service = vars(self._handle.__self__)  # type: ignore[attr-defined]
        own = {name: repr(of_service.get(name)) for name in ("_measured", "_latest_nm", "_last_delta_nm")}
        return bench_state(self.bench), own

    def probe(self) -> bool:
        text, part = self._probe
        return part in (answer(self._handle, text.encode()) or b"")

    def renew(self) -> None:
        self.bench.reset_to(0)


def call(method: str, **params: object) -> str:
    """A request as JSON."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


def ceos() -> Rpc:
    """The corrector."""
    texts = [
        call("getInfo"),
        call("measureC1A1"),
        call("acquireTableau", tabType="Fast", angle=18),
        call("correctAberration", name="C1", value=[1e-9]),
        call("correctAberration", name="A1", value=[1e-9, -2e-9], target=[0, 0], select="coarse"),
    ]
    bench = make_bench()
    return Rpc(bench, Corrector(bench).handle, texts, (call("getInfo"), b'"measures":["C1"'))


def control() -> Rpc:
    """The control channel."""
    plan = {**asdict(ScanPlan(rows=2, columns=2)), "positions_nm": []}
    texts = [
        call("getInfo"), call("capabilities"), call("status"), call("dose"), call("clock"), call("stage"),
        call("scanPlan"), call("truth"), call("exposure"),
        call("reset", seed=3), call("reset", entropy=[1, 2, 3, 4]),
        call("apply", delta_nm=[1.5, -2.25, 0.125]), call("apply", delta_nm=[0, 0, 1], input=1, session="x"),
        call("setStage", region="film 12"), call("setStage", region="auto", position_nm=[0.7, 1.0]),
        call("setScanPlan", plan=plan), call("setScanPlan", plan={"rows": 3, "dwell_s": 2e-4, "centre_nm": [0.7, 1.0]}),
        call("setScanPlan", plan={"pattern": "list", "positions_nm": [[0, 0], [0.1, 0]]}),
    ]  # fmt: skip
    bench = make_bench()
    return Rpc(bench, Control(bench).handle, texts, (call("getInfo"), b'"service":"stemtwin control"'))


class MerlinCommands:
    """The control port of the camera."""

    def __init__(self) -> None:
        self.bench = make_bench()
        self.camera = MerlinCamera({"SCAN": ScanSupply(self.bench), "RONCHIGRAM": RonchigramSupply(self.bench)})
        self._service = CameraControl(self.camera)
        words = (
            "GET,IMAGEX", "GET,DETECTORSTATUS", "SET,NUMFRAMESTOACQUIRE,12", "SET,COUNTERDEPTH,12", "SET,HVBIAS,90",
            "SET,STEMMODE,RONCHIGRAM", "SET,TRIGGERSTART,5",
            "CMD,STARTACQUISITION", "CMD,SOFTTRIGGER", "CMD,STOPACQUISITION",
        )  # fmt: skip
        self.good = [merlin.message(word.encode()) for word in words]

    def send(self, data: bytes) -> Iterator[Outcome]:
        try:
            payloads = merlin_commands.CommandDecoder().feed(data)
        except merlin.WireError:
            yield True
            return
        for payload in payloads:
            reply = self._service.answer(payload)
            merlin_commands.build_reply(reply)
            yield reply.status != merlin_commands.OK

    def state(self) -> object:
        hidden = [vars(self.camera)[name] for name in ("_state", "_triggers", "_stop")]
        return bench_state(self.bench), self.camera.settings, hidden

    def probe(self) -> bool:
        return self._service.answer(b"GET,IMAGEX").value in ("16", "64")

    def renew(self) -> None:
        self._service.answer(b"CMD,STOPACQUISITION")
        self._service.answer(b"GET,DETECTORSTATUS")


class Silent:
    """A port that only sends: every message over a connection of its own.

    Args:
        make: the service, of a bench.
        good: what this or another port sends.
    """

    def __init__(self, make: Callable[[Bench], Service], good: Sequence[bytes]) -> None:
        self.bench, self.good = make_bench(), good
        self._listener = Listener(make(self.bench))

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.stop()

    def send(self, data: bytes) -> Iterator[Outcome]:
        with socket.create_connection(("127.0.0.1", self._listener.port), timeout=10) as line:
            with suppress(ConnectionError):
                line.sendall(data or b"\0")
                if line.recv(100):
                    raise AssertionError("an answer from a port that expects no bytes")
            reset_at_close(line)
        yield True

    def state(self) -> object:
        return bench_state(self.bench)

    def probe(self) -> bool:
        """A client that says nothing is still connected after a while."""
        with socket.create_connection(("127.0.0.1", self._listener.port), timeout=0.02) as line:
            try:
                return line.recv(1) != b""
            except TimeoutError:
                return True

    def renew(self) -> None:
        pass


def reset_at_close(line: socket.socket) -> None:
    """Close a connection by a reset, so that no address has to rest for a minute."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


HELLOS = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\n" + frame(call("reset", seed=1).encode()),
    bytes.fromhex("16030100a50100") + bytes(160),
    b"SSH-2.0-x\r\n",
)


def merlin_data() -> Silent:
    """The data port of the camera."""

    def make(bench: Bench) -> Service:
        return MerlinData(MerlinCamera({"SCAN": ScanSupply(bench)}), paced=False)

    return Silent(make, [*HELLOS, merlin.message(b"GET,IMAGEX"), merlin.message(b"MQ1,000001,00384" + bytes(500))])


def events() -> Silent:
    """The event stream."""
    return Silent(
        lambda bench: EventStream(bench, paced=False, armed=True), [*HELLOS, bytes(32), b"\1" + bytes(31), b"\2" * 64]
    )


TARGETS: dict[str, Callable[[], Any]] = {
    "corrector": ceos,
    "control": control,
    "merlin_control": MerlinCommands,
    "merlin_data": merlin_data,
    "events": events,
}


# --- mutations -----------------------------------------------------------------------------------


def mutated(good: Sequence[bytes], rng: random.Random) -> bytes:
    """Replace a number of a good message, or damage it, or two in a row, and sometimes announce its new length."""
    if rng.random() < 0.4:
        return framed(_with_odd_number(bytearray(rng.choice(good)), rng))
    data = bytearray(rng.choice(good) + (rng.choice(good) if rng.random() < 0.1 else b""))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at, length = rng.randrange(len(data) + 1), rng.randint(1, 8)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 1 and data:
            data[at % len(data)] = rng.choice(b'0123456789-.e[]{}",:aT ')
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length] * rng.randint(1, 40)
        else:
            data[at:at] = rng.choice(ODD).encode()
    return framed(bytes(data)) if rng.random() < 0.6 else bytes(data)


def _with_odd_number(data: bytearray, rng: random.Random) -> bytes:
    numbers = list(_NUMBER.finditer(bytes(data)))
    if numbers:
        start, stop = rng.choice(numbers).span()
        data[start:stop] = (rng.choice(ODD) if rng.random() < 0.7 else f"{rng.gauss(0.0, 3.0):.6g}").encode()
    return bytes(data)


def framed(data: bytes) -> bytes:
    """Announce the length that a message has, so that the damage reaches the service."""
    if data[:1] in (b"{", b"G", b"P"):  # of the live page: a message of its websocket, a request
        return data
    if data.startswith(b"MPX"):
        return merlin.message(data[merlin.PREFIX_BYTES :])
    head, colon, rest = data.partition(b":")
    return frame(rest.removesuffix(b",")) if colon and len(head) < 8 else data


class _Faults(logging.Handler):
    """Counts errors of ours in the server's log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def attack(port: str, target: Target, messages: int, seed: int, logs: Sequence[str] = ("twin.server",)) -> Found:
    """Send mutated messages to a port and watch.

    Args:
        port: name for the figures.
        target: what stands behind it.
        messages, seed: of the mutations.
        logs: names of loggers, where an error is one of ours.
    """
    found, rng, faults = Found(port), random.Random(seed), _Faults()
    loggers = [logging.getLogger(name) for name in logs]
    for log in loggers:
        log.addHandler(faults)
    tracemalloc.start()
    early = 0
    try:
        for k in range(messages):
            if k % PROBE_EVERY == 0:
                found.wrong += not target.probe()
                target.renew()
            data, seen = mutated(target.good, rng), faults.count
            problem = _one(target, data, found)
            if faults.count > seen:
                problem = problem or "an error of ours in the log"
                found.internal += 1
            if problem and len(found.examples) < 5:
                found.examples.append(f"{problem}: {data[:300]!r}")
            if k == messages // 5:
                target.renew()
                early = tracemalloc.get_traced_memory()[0]
        found.wrong += not target.probe()
        target.renew()
        found.grown_bytes = max(0, tracemalloc.get_traced_memory()[0] - early)
    finally:
        tracemalloc.stop()
        for log in loggers:
            log.removeHandler(faults)
    found.messages = messages
    return found


def _one(target: Target, data: bytes, found: Found) -> str:
    """Send one mutated message; return what is wrong with what followed."""
    before = target.state()
    try:
        for refused in target.send(data):
            found.refused += refused
            after = target.state()
            if refused and after != before:
                found.changed += 1
                return "the state changed though the answer was an error"
            before = after
    except Exception as error:
        found.internal += 1
        return f"{type(error).__name__}: {error}"
    return ""


def attacked(port: str, messages: int, seed: int) -> Found:
    """Build the target of a port and attack it."""
    target = TARGETS[port]()
    if isinstance(target, Silent):
        with target:
            return attack(port, target, messages, seed)
    return attack(port, target, messages, seed)


def main() -> None:
    """Attack and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--messages", type=int, default=MESSAGES, help="to each port")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", choices=TARGETS, help="this one only")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.getLogger("twin.server").propagate = False
    every = []
    for port in [given.port] if given.port else TARGETS:
        begun = time.monotonic()
        found = attacked(port, given.messages, given.seed)
        every.append(found)
        if not given.json:
            print(
                f"{port:>14}: {found.messages} messages in {time.monotonic() - begun:.0f} s, {found.refused} refused,"
                f" {found.internal} internal errors, {found.changed} changed by an error, {found.wrong} wrong answers,"
                f" memory +{found.grown_bytes / 1024:.0f} KiB",
                *(f"\n    {example}" for example in found.examples),
            )
    if given.json:
        print(json.dumps([asdict(found) for found in every]))
    sys.exit(0 if all(found.good for found in every) else 1)


if __name__ == "__main__":
    main()
