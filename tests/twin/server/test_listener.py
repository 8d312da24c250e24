"""The listener: who is let in, who is cut off, and that it ends when it is told to."""

import logging
import socket
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from twin.server.access import Access
from twin.server.connection import Connection, Patience
from twin.server.listener import MOST_WAITING, Listener, Listeners

TOKEN = "correct-horse-battery"


def lines(data: bytes, rest: bytearray) -> list[bytes]:
    rest += data
    *whole, left = bytes(rest).split(b"\n")
    rest[:] = left
    return whole


class Echo:
    """Sends lines back, with the number of the connection in front; `flood` sends without end."""

    name = "echo"
    silent = latest_first = False

    def __init__(self, **patience: float) -> None:
        self.patience = Patience(**patience)
        self.served = 0

    def serve(self, connection: Connection) -> None:
        self.served += 1
        number, rest = self.served, bytearray()
        for line in connection.payloads(lambda data: lines(data, rest)):
            if line == b"flood":
                while True:
                    connection.send(bytes(2**20))
            if line == b"bad":
                raise ValueError("a client's mistake")
            if line == b"crash":
                raise KeyError("ours")
            connection.send(b"%d %b\n" % (number, line))

    def refuse(self, connection: Connection) -> None:
        connection.send(b"busy\n")

    def turned_away(self, words: str) -> bytes:
        return f"sorry: {words}\n".encode()

    def give_way(self) -> bool:
        return False


def serve(stack: ExitStack, access: Access | None = None, **patience: float) -> tuple[Echo, Listener]:
    service = Echo(**patience)
    return service, stack.enter_context(Listener(service, 0, access))


def call(stack: ExitStack, listener: Listener) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), timeout=5))


def ask(line: socket.socket, data: bytes) -> bytes:
    line.sendall(data)
    return line.recv(100)


def cut_after(line: socket.socket) -> float:
    """Seconds until the other side hangs up."""
    begun = time.monotonic()
    try:
        while line.recv(2**16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - begun


def test_messages_come_back_however_they_are_cut(open_: ExitStack) -> None:
    _, listener = serve(open_)
    line = call(open_, listener)
    assert listener.port > 0
    assert ask(line, b"one\n") == b"1 one\n"
    line.sendall(b"tw")
    time.sleep(0.02)
    assert ask(line, b"o\n") == b"1 two\n"


@pytest.mark.parametrize("state", ["idle", "within a message", "flooded", "waiting for its turn"])
def test_it_stops_within_a_second_whatever_its_client_does(open_: ExitStack, state: str) -> None:
    service, listener = serve(open_, turn_s=30)
    line = call(open_, listener)
    assert ask(line, b"here\n") == b"1 here\n"
    waiting = [line, call(open_, listener)] if state == "waiting for its turn" else [line]
    line.sendall({"within a message": b"half", "flooded": b"flood\n"}.get(state, b"\n"))
    time.sleep(0.1)
    begun = time.monotonic()
    assert listener.stop()
    assert time.monotonic() - begun < 1.0
    assert all(cut_after(each) < 1.0 for each in waiting)
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", listener.port), timeout=1)
    assert service.served == 1


def test_a_line_that_trickles_is_cut_though_bytes_keep_coming(
    open_: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    _, listener = serve(open_, message_s=0.3)
    line, begun = call(open_, listener), time.monotonic()
    with pytest.raises(ConnectionError):  # noqa: PT012  (the cut shows at the next send or the one after)
        while time.monotonic() - begun < 3:
            line.sendall(b"x")
            time.sleep(0.02)
    assert 0.25 < time.monotonic() - begun < 1.0
    assert "0.3 s" in caplog.text or "nothing arrived" in caplog.text


def test_a_silent_client_is_cut_and_makes_room(open_: ExitStack) -> None:
    _, listener = serve(open_, idle_s=0.3)
    silent, half = call(open_, listener), call(open_, listener)
    assert ask(half, b"here\n") == b"1 here\n"
    assert 0.2 < cut_after(silent) < 1.0
    assert cut_after(half) < 1.0
    assert ask(call(open_, listener), b"next\n") == b"2 next\n"


def test_a_client_that_takes_nothing_is_cut(open_: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    _, listener = serve(open_, send_s=0.3)
    greedy = call(open_, listener)
    greedy.sendall(b"flood\n")
    time.sleep(0.6)
    assert ask(call(open_, listener), b"next\n") == b"2 next\n"
    assert "took nothing for 0.3 s" in caplog.text


def test_a_second_client_is_refused_in_words_and_never_mixed_in(open_: ExitStack) -> None:
    service, listener = serve(open_, turn_s=0.1)
    first = call(open_, listener)
    assert ask(first, b"one\n") == b"1 one\n"
    second = call(open_, listener)
    assert ask(second, b"two\n") == b"busy\n"
    assert cut_after(second) < 1.0
    assert ask(first, b"three\n") == b"1 three\n"
    assert service.served == 1


def test_a_client_that_hangs_up_and_comes_back_at_once_is_never_refused(open_: ExitStack) -> None:
    _, listener = serve(open_)
    for k in range(1, 30):
        with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line:
            assert ask(line, b"x\n") == b"%d x\n" % k


def test_more_clients_than_may_wait_are_hung_up_on(open_: ExitStack) -> None:
    service, listener = serve(open_, turn_s=20)
    crowd = [call(open_, listener) for _ in range(MOST_WAITING)]
    for line in crowd:
        line.sendall(b"x\n")
    time.sleep(0.2)
    one_more = call(open_, listener)
    one_more.sendall(b"x\n")
    assert cut_after(one_more) < 1.0
    for line in crowd:
        line.close()
    deadline = time.monotonic() + 3
    while service.served < MOST_WAITING and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ask(call(open_, listener), b"x\n").endswith(b" x\n")


def test_mistakes_are_logged_and_the_next_client_is_served(open_: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    _, listener = serve(open_)
    for word in (b"bad\n", b"crash\n"):
        line = call(open_, listener)
        line.sendall(word)
        assert cut_after(line) < 1.0
    assert ask(call(open_, listener), b"x\n") == b"3 x\n"
    mistake, crash = (r for r in caplog.records if r.levelno >= logging.WARNING)
    assert "a client's mistake" in mistake.getMessage()
    assert mistake.exc_info is None
    assert crash.exc_info is not None


def test_a_token_opens_all_services_of_a_server_to_an_address(open_: ExitStack) -> None:
    access = Access(token=TOKEN)
    _, first = serve(open_, access, message_s=0.5)
    _, second = serve(open_, access, message_s=0.5)
    for wrong in (b"TOKEN wrong-horse-battery\n", b"hello\n", TOKEN.encode() + b"\n", b"T" * 1000):
        line = call(open_, first)
        line.sendall(wrong)
        assert cut_after(line) < 1.5
    assert cut_after(call(open_, second)) < 1.5  # says nothing
    assert ask(call(open_, first), f"TOKEN {TOKEN}\r\nhello\n".encode()) == b"1 hello\n"
    assert ask(call(open_, second), b"follows\n") == b"1 follows\n"


def test_random_bytes_end_their_own_line_only(open_: ExitStack) -> None:
    rng = np.random.default_rng(4)
    service, listener = serve(open_, message_s=0.05)
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line:
            line.sendall(rng.bytes(int(rng.integers(1, 5000))))
    deadline = time.monotonic() + 3
    while service.served < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ask(call(open_, listener), b"x\n").endswith(b" x\n")


class Deaf(Echo):
    """Computes on, whoever asks it to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.done = threading.Event(), threading.Event()

    def serve(self, connection: Connection) -> None:
        self.begun.set()
        self.done.wait(30)


def test_several_stop_in_the_time_of_one(open_: ExitStack) -> None:
    services = [Deaf() for _ in range(4)]
    every = [Listener(service) for service in services]
    together = Listeners(every[:3])
    assert together.add(every[3]) is every[3]
    with together:
        for service, listener in zip(services, every, strict=True):
            call(open_, listener).sendall(b"x\n")
            assert service.begun.wait(10)
        begun = time.monotonic()
        assert not together.stop(1.0)
        assert time.monotonic() - begun < 3.0
        for service in services:
            service.done.set()
        assert together.stop(10.0)
    for listener in every:
        with pytest.raises(OSError, match="refused"):
            call(open_, listener)


def test_what_never_started_lets_its_port_go() -> None:
    listener = Listener(Echo())
    assert Listeners([listener]).stop()
    again = Listener(Echo(), listener.port)
    assert again.port == listener.port
    assert again.stop()


def test_threads_are_gone_after_the_end() -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        _, listener = serve(stack)
        assert ask(call(stack, listener), b"x\n") == b"1 x\n"
    deadline = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
