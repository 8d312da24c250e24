"""The client of the control port against cameras on loopback that answer, refuse, dawdle and hang up."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from fakes.listening import listening

from twin.instrument.merlin_control import CameraRefused, MerlinControl
from twin.wire import merlin
from twin.wire.merlin import WireError

IN_TIME = r"timed out|no complete reply within 0\.3 s"


@contextmanager
def camera(*answers: Sequence[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Answers each command with pieces of bytes, 20 ms apart, and hangs up after the last; keeps what it heard."""
    heard: list[bytes] = []

    def serve(line: socket.socket, over: threading.Event) -> None:
        for pieces in answers:
            heard.append(line.recv(1000))
            with suppress(OSError):
                for piece in pieces:
                    line.sendall(piece)
                    over.wait(0.02)

    with listening([serve]) as port:
        yield port, heard


def test_get_set_and_command() -> None:
    replies = [b"GET,IMAGEX,256,0", b"SET,HVBIAS,0", b"CMD,SOFTTRIGGER,0"]
    answers = [[merlin.message(reply)] for reply in replies]
    with camera(*answers) as (port, heard), MerlinControl("127.0.0.1", port) as control:
        assert control.get("imagex") == "256"
        control.set("HVBIAS", 120)
        control.command("SOFTTRIGGER")
    assert heard == [merlin.message(b) for b in (b"GET,imagex", b"SET,HVBIAS,120", b"CMD,SOFTTRIGGER")]


@pytest.mark.parametrize(("status", "words"), [(1, "busy"), (2, "not recognised"), (3, "out of range")])
def test_a_refusal_names_command_and_reason(status: int, words: str) -> None:
    with camera([merlin.message(b"SET,HVBIAS,%d" % status)]) as (port, _), MerlinControl("127.0.0.1", port) as control:
        with pytest.raises(CameraRefused, match=f"SET,HVBIAS,9: .*{words}") as caught:
            control.set("HVBIAS", 9)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("pieces", "error", "words"),
    [
        ([merlin.message(b"GET,IMAGEY,256,0")], WireError, "GET,IMAGEY is no reply to GET,IMAGEX"),
        ([merlin.message(b"GET,IMAGEX,256,0") * 2], WireError, "2 replies to one command"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], WireError, "begins with MPX"),
        ([], ConnectionError, "control port closed the line"),
        ([b"M", *[b""] * 100], TimeoutError, IN_TIME),
        (
            [bytes([b]) for b in b"MPX,0000000999," + b"G" * 900],
            TimeoutError,
            IN_TIME,
        ),
    ],
)
def test_what_is_no_reply_ends_in_time(pieces: list[bytes], error: type[Exception], words: str) -> None:
    with camera(pieces) as (port, _), MerlinControl("127.0.0.1", port, timeout_s=0.3) as control:
        begun = time.monotonic()
        with pytest.raises(error, match=words):
            control.get("IMAGEX")
        assert time.monotonic() - begun < 3
