"""A served twin whose answers a test changes on their way: a far side that lies, field by field."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from fakes import served

KINDS = {"corrector": "netstring", "control": "netstring", "merlin_control": "merlin", "merlin_data": "merlin"}

Lie = Callable[[str, bytes], bytes]
"""Takes the method that was called ("" for frames) and the message of the server, returns what the client gets."""


class Liar(served.Proxy):  # type: ignore[name-defined, misc]
    """A proxy that changes every message to the client while `lie` is set."""

    def __init__(self, kind: str, port: int) -> None:
        self.lie: Lie | None = None
        self._method = ""
        super().__init__(kind, port)

    def _pass(self, message: bytes, sink: socket.socket, actions: list[Any]) -> None:
        if actions is self.requests:
            self._method = method_of(self._kind, message)
        elif self.lie is not None:
            message = self.lie(self._method, message)
        sink.sendall(message)


def method_of(kind: str, message: bytes) -> str:
    if kind == "netstring":
        return str(json.loads(message.partition(b":")[2][:-1])["method"])
    return message[15:].decode().split(",")[1]


def netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


def merlin(payload: bytes) -> bytes:
    return b"MPX,%010d," % (len(payload) + 1) + payload


def answered(method: str, change: Callable[[dict[str, Any]], Any]) -> Lie:
    """Change the whole answer, a JSON object or bytes, to one method."""

    def lie(called: str, message: bytes) -> bytes:
        if called != method:
            return message
        changed = change(json.loads(message.partition(b":")[2][:-1]))
        return changed if isinstance(changed, bytes) else netstring(json.dumps(changed).encode())

    return lie


def told(method: str, **changes: Any) -> Lie:
    """Replace values of the result by name; `a__b` is b within a; a function gets the old value; ... removes it."""

    def change(answer: dict[str, Any]) -> dict[str, Any]:
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = answer["result"]
            for parent in parents:
                place = place[parent]
            if value is ...:
                del place[last]
            else:
                place[last] = value(place.get(last)) if callable(value) else value
        return answer

    return answered(method, change)


def both(*lies: Lie) -> Lie:
    def lie(method: str, message: bytes) -> bytes:
        for one in lies:
            message = one(method, message)
        return message

    return lie


def frames(change: Callable[[bytes], bytes]) -> Lie:
    """Change every frame of the data port, with its prefix; text headers and replies pass."""
    return lambda method, message: message if method or message[15:18] == b"HDR" else change(message)


class Rig:
    """A served twin with a liar before every service."""

    def __init__(self, bench: Any, liars: dict[str, Liar]) -> None:
        self.bench, self.liars = bench, liars

    def options(self) -> dict[str, Any]:
        ports = {name: liar.port for name, liar in self.liars.items()}
        names = {"port": "control", "corrector_port": "corrector", "camera_port": "merlin_control"}
        return {**{key: ports[name] for key, name in names.items()}, "data_port": ports["merlin_data"]}

    def honest(self) -> None:
        for liar in self.liars.values():
            liar.lie = None


@contextmanager
def rigged(microscope: Any) -> Iterator[Rig]:
    with ExitStack() as stack:
        bench = stack.enter_context(served.served(microscope))
        yield Rig(bench, {name: stack.enter_context(Liar(kind, bench.ports[name])) for name, kind in KINDS.items()})
