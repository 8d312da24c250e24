"""A served twin within the test, and a proxy that delays, drops, repeats and damages messages."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from twin.server import control, corrector
from twin.server.access import Access
from twin.server.bench import Bench
from twin.server.frame_supply import FrameSupply, RonchigramSupply, ScanSupply
from twin.server.listener import Listener, Listeners
from twin.server.merlin_camera import MerlinCamera, MerlinControl, MerlinData
from twin.server.merlin_settings import Mode
from twin.simulated import SimulatedMicroscope

Action = Callable[[bytes], list[bytes]]


@contextmanager
def served(
    microscope: SimulatedMicroscope, bench: Bench | None = None, token: str | None = None, scan: bool = False
) -> Iterator[Bench]:
    """A bench with corrector, control channel and Merlin camera on free ports, as fast as it computes."""
    bench = bench or Bench(microscope, expose_truth=True)
    bench.reset_to(0)
    supplies: dict[Mode, FrameSupply] = {"RONCHIGRAM": RonchigramSupply(bench)}
    if scan:
        supplies["SCAN"] = ScanSupply(bench)
    camera, access = MerlinCamera(supplies), Access(token=token)
    services = {
        "corrector": corrector.make(bench),
        "control": control.make(bench),
        "merlin_control": MerlinControl(camera),
        "merlin_data": MerlinData(camera, paced=False),
    }
    listeners = {name: Listener(service, access=access) for name, service in services.items()}
    bench.ports |= {name: listener.port for name, listener in listeners.items()}
    with Listeners(listeners.values()):
        yield bench


def next_message(kind: str, data: bytes) -> int:
    """Return the length of the first message, 0 if it is incomplete."""
    if kind == "netstring":
        head, colon, _ = data.partition(b":")
        whole = len(head) + 2 + int(head) if colon else 0
    else:
        whole = 14 + int(data[4:14]) if len(data) >= 15 else 0
    return whole if whole <= len(data) else 0


class Cut(Exception):
    """Raised by an action to close both connections."""


def drop(message: bytes) -> list[bytes]:
    return []


def double(message: bytes) -> list[bytes]:
    return [message, message]


def corrupt(message: bytes) -> list[bytes]:
    """Change pixels in the middle of the frame; keep the header."""
    middle = len(message) // 2
    return [message[:middle] + bytes(byte ^ 0x05 for byte in message[middle : middle + 8]) + message[middle + 8 :]]


def spoil_header(message: bytes) -> list[bytes]:
    return [message.replace(b"MQ1,", b"MQ9,", 1)]


def cut_short(message: bytes) -> list[bytes]:
    return [message[: len(message) // 2]]


def hang_up(message: bytes) -> list[bytes]:
    raise Cut


def late(seconds: float) -> Action:
    def wait(message: bytes) -> list[bytes]:
        time.sleep(seconds)
        return [message]

    return wait


class Proxy:
    """Passes messages on between a client and a server.

    Attributes:
        requests, replies: actions on the next messages to and from the server, in order; then all pass. For a camera
            the text header of an acquisition does not count.
        held: a message that `hold` keeps; it is sent before the next one.
    """

    def __init__(self, kind: str, port: int) -> None:
        self._kind, self._upstream = kind, port
        self.requests: list[Action] = []
        self.replies: list[Action] = []
        self._held: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.02)
        self.port = self._server.getsockname()[1]
        self._stop = threading.Event()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def hold(self, message: bytes) -> list[bytes]:
        """Hold a message until the next one."""
        self._held.append(message)
        return []

    def answer(self, message: bytes) -> None:
        """Send a message to the latest client, instead of the server."""
        self._pairs[-1][0].sendall(message)

    def cut(self) -> None:
        """Break every connection."""
        for pair in self._pairs:
            for line in pair:
                _shut(line)
        self._pairs.clear()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self.cut()
        for thread in self._threads:
            thread.join(2.0)
        self._server.close()

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                return  # closed meanwhile
            try:
                upstream = socket.create_connection(("127.0.0.1", self._upstream), timeout=2.0)
            except OSError:
                client.close()
                continue
            self.connections += 1
            self._pairs.append((client, upstream))
            for source, sink, actions in ((client, upstream, self.requests), (upstream, client, self.replies)):
                with suppress(OSError):  # cut meanwhile; the pump then ends at once
                    source.settimeout(0.02)
                thread = threading.Thread(target=self._pump, args=(source, sink, actions), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, actions: list[Action]) -> None:
        data = b""
        try:
            while not self._stop.is_set():
                try:
                    more = source.recv(2**16)
                except TimeoutError:
                    continue
                if not more:
                    break
                data += more
                while length := next_message(self._kind, data):
                    self._pass(data[:length], sink, actions)
                    data = data[length:]
        except (OSError, Cut):
            pass
        _shut(source)
        _shut(sink)

    def _pass(self, message: bytes, sink: socket.socket, actions: list[Action]) -> None:
        is_text = self._kind == "merlin" and message[15:18] == b"HDR"
        parts = actions.pop(0)(message) if actions and not is_text else [message]
        if parts and self._held and not is_text:
            parts, self._held[:] = [*self._held, *parts], []
        for part in parts:
            sink.sendall(part)


def _shut(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


class Raw:
    """A client independent of the package: sends bytes, reads a limited number of bytes."""

    def __init__(self, port: int) -> None:
        self._line = socket.create_connection(("127.0.0.1", port), timeout=5.0)
        self._id = 0

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *error: object) -> None:
        self._line.close()

    def send(self, data: bytes) -> None:
        self._line.sendall(data)

    def read(self, most: int = 1024) -> bytes:
        return self._line.recv(most)

    def ask(self, method: str, **params: Any) -> Any:
        """Return the result or the error of a call, from one read of 1024 bytes."""
        import json

        self._id += 1
        text = json.dumps({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        self.send(f"{len(text)}:{text},".encode())
        head, _, rest = self.read(1024).partition(b":")
        assert len(rest) == int(head) + 1, "the answer does not fit into 1024 bytes"
        answer = json.loads(rest[:-1])
        assert answer["id"] == self._id
        return answer["result"] if "result" in answer else answer["error"]
