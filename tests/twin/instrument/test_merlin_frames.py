"""The client that triggers single frames, against cameras that start again, flood, repeat themselves and dawdle."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.sources import csr as csr_source
from agents.sources import merlin as merlin_source
from twin.backends import remote
from twin.formats import merlin_header as mh
from twin.formats.dataset import Layout
from twin.formats.mib import frame_header
from twin.instrument.faults import BadFrame, CommandTimeout, MicroscopeFault, StaleFrame
from twin.instrument.line import Line
from twin.instrument.merlin_frames import TriggeredCamera
from twin.wire import merlin
from twin.wire.merlin_commands import BUSY, OK, CommandDecoder, Reply, build_reply, parse_command

LAYOUT = Layout((1,), (8, 8), "uint16", 4095)
Answer = Callable[["Camera"], bytes]


def frame(number: int, value: int) -> bytes:
    """A message whose pixels are all `value`."""
    header = frame_header(LAYOUT, 12, False, 0.25)
    counts = np.full((1, 8, 8), value, np.uint16)
    return merlin.frame_messages(counts, replace(header, sequence=number)).tobytes()


class Camera:
    """A camera on loopback: every trigger exposes, and shows how many exposures there were.

    Attributes:
        answers: what goes out for the next triggers, first first; then a frame.
        dawdles_s: wait before every reply.
        stopped: somebody else has ended the acquisition; the next trigger is refused.
    """

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.stopped, self.number, self.exposures, self.lines = False, 0, 0, 0
        self.dawdles_s = 0.0
        self._servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.control, self.data = (server.getsockname()[1] for server in self._servers)
        self._stop = threading.Event()
        self._out: Any = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def next(self) -> bytes:
        """A frame of a new exposure."""
        self.number, self.exposures = self.number + 1, self.exposures + 1
        return frame(self.number, self.exposures)

    def send(self, data: bytes) -> None:
        with suppress(OSError):
            self._out.sendall(data)

    def _serve(self) -> None:
        for server, seconds in zip(self._servers, (2.0, 0.02), strict=True):
            server.settimeout(seconds)
        while not self._stop.is_set():
            try:
                self._out, _ = self._servers[1].accept()
                self.lines += 1
                control, _ = self._servers[0].accept()
            except OSError:
                continue
            with control, self._out, suppress(OSError):
                self._talk(control)

    def _talk(self, control: socket.socket) -> None:
        control.settimeout(0.02)
        decoder = CommandDecoder()
        while not self._stop.is_set():
            try:
                data = control.recv(4096)
            except TimeoutError:
                continue
            if not data:
                return
            for payload in decoder.feed(data):
                command = parse_command(payload)
                self._stop.wait(self.dawdles_s)
                refused = command.name == "SOFTTRIGGER" and self.stopped
                control.sendall(build_reply(Reply(command.verb, command.name, None, BUSY if refused else OK)))
                if command.name == "STARTACQUISITION":
                    self.stopped, self.number = False, 0
                    self.send(merlin.acquisition_message(mh.Acquisition(10, 1)))
                elif command.name == "SOFTTRIGGER" and not refused:
                    self.send(self.answers.pop(0)(self) if self.answers else self.next())

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)
        for server in self._servers:
            server.close()


@contextmanager
def looking(timeout_s: float = 1.0, frame_timeout_s: float = 1.0) -> Iterator[tuple[Camera, TriggeredCamera]]:
    camera = Camera()
    client = TriggeredCamera("127.0.0.1", camera.control, camera.data, timeout_s, frame_timeout_s)
    try:
        yield camera, client
    finally:
        client.close()
        camera.close()


def shown(client: TriggeredCamera) -> int:
    return int(client.expose().counts[0, 0])


def test_every_trigger_gives_its_frame() -> None:
    with looking() as (camera, client):
        assert [shown(client) for _ in range(20)] == list(range(1, 21))
        assert camera.lines == 1


def test_an_acquisition_that_somebody_ended_is_begun_again_and_its_numbers_count_anew() -> None:
    with looking() as (camera, client):
        assert [shown(client) for _ in range(5)] == [1, 2, 3, 4, 5]
        camera.stopped = True
        begun = time.monotonic()
        assert [shown(client) for _ in range(6)] == [6, 7, 8, 9, 10, 11]
        assert time.monotonic() - begun < 1.0
        assert camera.number == 6
        assert camera.lines == 1


def test_what_came_before_the_trigger_is_not_its_frame() -> None:
    with looking() as (camera, client):
        shown(client)
        camera.send(frame(50, 77) + frame(51, 78))
        time.sleep(0.05)
        assert shown(client) == 2


def test_a_camera_that_does_not_wait_for_its_trigger_is_not_listened_to_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = iter(range(100, 10**6))
    with looking(timeout_s=0.3) as (_, client):
        shown(client)
        begun = time.monotonic()
        with monkeypatch.context() as patched:
            patched.setattr(Line, "pending", lambda line: frame(next(numbers), 9))
            with pytest.raises(BadFrame, match="without a trigger"):
                client.expose()
        assert 0.3 < time.monotonic() - begun < 2.0
        assert shown(client) == 2


def test_a_late_frame_does_not_pass_for_the_next_one_after_a_bad_one() -> None:
    """Garbage first, its frame 0.2 s later: by then the next exposure has been asked for."""
    with looking() as (camera, client):
        shown(client)

        def dawdle(one: Camera) -> bytes:
            one.exposures += 1
            line = one._out

            def late() -> None:
                with suppress(OSError):
                    line.sendall(frame(2, 99))

            threading.Timer(0.2, late).start()
            return frame(2, 98).replace(b"MQ1,", b"MQ9,", 1)

        camera.answers = [dawdle, lambda one: (time.sleep(0.3), one.next())[1]]
        with pytest.raises(BadFrame, match="was skipped"):
            client.expose()
        assert [shown(client), shown(client)] == [3, 4]
        assert camera.lines == 2


def test_a_frame_that_comes_again_is_named_and_silence_is_silence() -> None:
    with looking(frame_timeout_s=0.2) as (camera, client):
        shown(client)
        camera.answers = [lambda one: frame(1, 1), lambda one: b""]
        with pytest.raises(StaleFrame, match="frame 1 arrived again, and no other"):
            client.expose()
        with pytest.raises(CommandTimeout, match="no frame in time"):
            client.expose()
        assert shown(client) == 2


def test_nobody_there_is_a_fault_with_its_address() -> None:
    with looking() as (camera, client):
        pass
    with pytest.raises(MicroscopeFault, match=f"127.0.0.1:{camera.control}"):
        client.expose()


# --- the time that it may take in all --------------------------------------------------------------


def test_a_camera_that_answers_each_command_just_in_time_does_not_add_up() -> None:
    with looking(timeout_s=0.5) as (camera, client):
        camera.dawdles_s = 0.3  # six commands before the first frame
        begun = time.monotonic()
        with pytest.raises(MicroscopeFault, match="no complete reply within"):
            client.expose()
        assert time.monotonic() - begun < 1.5


def test_one_that_dawdles_at_the_trigger_has_the_same_time_in_all() -> None:
    with looking(timeout_s=0.5) as (camera, client):
        shown(client)
        camera.stopped, camera.dawdles_s = True, 0.3  # refused, then begun again: seven commands
        begun = time.monotonic()
        with pytest.raises(CommandTimeout, match="no complete reply"):
            client.expose()
        assert time.monotonic() - begun < 1.5
        camera.dawdles_s = 0.0
        assert shown(client) >= 2


def test_by_default_every_silence_of_a_far_side_is_a_fault_within_15_s() -> None:
    chosen = remote.Options()
    camera_s = chosen.timeout_s + chosen.frame_timeout_s
    channel_s = 2 * chosen.timeout_s  # a call is repeated once, over a new connection
    assert max(camera_s, channel_s, merlin_source.Options().start_timeout_s, csr_source.Options().start_timeout_s) <= 15
    assert max(merlin_source.Options().timeout_s, csr_source.Options().timeout_s) <= 15
