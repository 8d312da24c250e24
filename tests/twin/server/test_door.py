"""The door of a port: who is let in, what strangers are told, and that they keep nobody else out."""

import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from fakes.counting import counting_bench
from fakes.strangers import HELLOS, STRANGERS, ask, call, files_allowed, gather, heard

from benchmarks.wire.mutations import bench_state, make_bench
from twin.instrument.rpc_client import send_token
from twin.server import access as rules
from twin.server.access import Access, AccessError
from twin.server.bench import Bench
from twin.server.bounded_log import BoundedLog
from twin.server.connection import Connection, Patience
from twin.server.control import make as control_service
from twin.server.corrector import make as corrector_service
from twin.server.door import PLACES
from twin.server.event_stream import EventStream
from twin.server.frame_supply import ScanSupply
from twin.server.listener import Listener, Listeners
from twin.server.merlin_camera import MerlinCamera, MerlinControl, MerlinData
from twin.server.service import Service
from twin.wire.merlin_commands import Command

TOKEN = "correct-horse-battery"


class Talk:
    """Answers every byte with an exclamation mark."""

    name = "talk"
    silent = latest_first = False

    def __init__(self, **patience: float) -> None:
        self.patience, self.served = Patience(**patience), 0

    def serve(self, connection: Connection) -> None:
        self.served += 1
        while data := connection.receive():
            connection.send(b"!" * len(data))

    def refuse(self, connection: Connection) -> None:
        connection.send(b"busy")

    def turned_away(self, words: str) -> bytes:
        return words.encode()

    def give_way(self) -> bool:
        return False


# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org", "::"])
def test_other_hosts_need_a_token(host: str) -> None:
    with pytest.raises(AccessError, match=f"{re.escape(host)} is open to other machines"):
        Access(host)
    Access(host, TOKEN)


@pytest.mark.parametrize("token", ["", "short", "twelve chars!", "unbroken\u00e9wordsss", "with\nnewline-in-it"])
def test_weak_tokens_are_refused(token: str) -> None:
    with pytest.raises(AccessError, match="token"):
        Access("127.0.0.1", token)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert Access(host).admits("127.0.0.1")


def test_ten_thousand_wrong_tokens_open_nothing() -> None:
    rng = np.random.default_rng(3)
    good, refused = f"TOKEN {TOKEN}\n".encode(), 0
    for k in range(10_000):
        data = bytearray(good * int(rng.integers(1, 3)))
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        if k % 10 == 0:
            data = bytearray(rng.bytes(int(rng.integers(0, 2000))))
        access, first = Access(token=TOKEN), bytes(data).split(b"\n")[0]
        opened = access.opens(first, "10.0.0.1")
        assert opened == (first.strip() == good.strip()) == access.admits("10.0.0.1")
        refused += not opened
    assert refused > 5000


def test_answers_to_wrong_tokens_come_later_and_later_for_their_address_alone() -> None:
    now = [0.0]
    access = Access(token=TOKEN, clock=lambda: now[0])
    assert [access.delay_s("10.0.0.1") for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert access.delay_s("10.0.0.2") == 0.25
    for _ in range(10_000):
        assert access.delay_s("10.0.0.1") == 4.0
    now[0] = rules.FORGET_S + 1.0
    assert access.delay_s("10.0.0.1") == 0.25


def test_a_right_token_clears_its_address() -> None:
    access = Access(token=TOKEN)
    assert [access.delay_s("10.0.0.1") for _ in range(3)][-1] == 1.0
    assert access.opens(f"TOKEN {TOKEN}\r\n".encode(), "10.0.0.1")
    assert access.delay_s("10.0.0.1") == 0.25


def test_the_memory_of_wrong_tokens_is_bounded() -> None:
    access = Access(token=TOKEN)
    for k in range(3 * rules.MOST_ADDRESSES):
        access.delay_s(f"10.{k // 65536}.{k // 256 % 256}.{k % 256}")
    assert len(access._wrong) == rules.MOST_ADDRESSES


def test_a_flood_of_warnings_is_counted_instead_of_written(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = BoundedLog(logging.getLogger("twin.server"), "port", most=3, period_s=60.0, clock=lambda: now[0])
    for k in range(1000):
        log.warning("stranger %d", k)
    assert [record.getMessage() for record in caplog.records] == [f"port: stranger {k}" for k in range(3)]
    log.tell()
    assert len(caplog.records) == 3
    now[0] = 61.0
    log.tell()
    assert caplog.records[-1].getMessage() == "port: 997 further warnings within 60 s"
    log.warning("stranger %d", 1000)
    assert caplog.records[-1].getMessage() == "port: stranger 1000"
    log.tell(at_once=True)
    assert len(caplog.records) == 5


# --- tokens --------------------------------------------------------------------------------------


def test_a_wrong_token_is_answered_in_words_and_late_the_right_one_at_once(open_: ExitStack) -> None:
    service, access = Talk(), Access(token=TOKEN)
    listener = open_.enter_context(Listener(service, access=access))
    begun = time.monotonic()
    for delay_s in (0.25, 0.5):
        sent = time.monotonic()
        line = call(open_, listener.port)
        assert ask(line, b"TOKEN wrong-horse-battery\nand more") == b"stemtwin: wrong token\n"
        assert heard(line) == b""
        assert delay_s <= time.monotonic() - sent < delay_s + 1.0
    late = call(open_, listener.port)
    late.sendall(b"TOKEN wrong-horse-battery\n")  # to be answered after another second
    owner, begun = call(open_, listener.port), time.monotonic()
    assert ask(owner, f"TOKEN {TOKEN}\nhello".encode()) == b"!" * 5
    assert time.monotonic() - begun < 0.5
    assert service.served == 1


def test_our_client_hears_the_words_and_the_right_token_opens(open_: ExitStack) -> None:
    access = Access(token=TOKEN)
    port = open_.enter_context(Listener(Talk(), access=access)).port
    for _ in range(2):
        assert send_token("127.0.0.1", port, "wrong-horse-battery") == "stemtwin: wrong token"
    assert not access.admits("127.0.0.1")
    assert send_token("127.0.0.1", port, TOKEN) == ""
    assert access.admits("127.0.0.1")


def test_a_token_may_come_byte_by_byte_but_not_for_ever(open_: ExitStack) -> None:
    listener = open_.enter_context(Listener(Talk(message_s=1.5), access=Access(token=TOKEN)))
    slow, owner = call(open_, listener.port), call(open_, listener.port)
    for byte in f"TOKEN {TOKEN}\n".encode():
        owner.sendall(bytes([byte]))
        time.sleep(0.01)
    assert ask(owner, b"hi") == b"!!"
    slow.sendall(b"TOKEN ")
    begun = time.monotonic()
    assert b"needs a token" in heard(slow)
    assert time.monotonic() - begun < 2.5


@pytest.mark.parametrize("sent", [b"hello", b"GET / HTTP/1.1\r\n\r\n", bytes.fromhex("160301"), b"TOKENS\n", b"\n"])
def test_others_are_told_that_a_token_is_needed(open_: ExitStack, sent: bytes) -> None:
    service = Talk()
    listener = open_.enter_context(Listener(service, access=Access(token=TOKEN)))
    line = call(open_, listener.port)
    line.sendall(sent)
    assert heard(line) == b"this server needs a token: send the line TOKEN and the token first, once per address"
    assert service.served == 0


def test_a_json_client_without_a_token_gets_a_json_error(open_: ExitStack) -> None:
    listener = open_.enter_context(Listener(control_service(counting_bench()), access=Access(token=TOKEN)))
    told = ask(call(open_, listener.port), b'47:{"jsonrpc":"2.0","id":1,"method":"getInfo"}    ,')
    assert b'"code":-32003' in told
    assert b"this server needs a token" in told


def test_a_token_opens_the_event_port_and_the_rest_is_silence(open_: ExitStack) -> None:
    bench = counting_bench()
    listener = open_.enter_context(Listener(EventStream(bench, paced=False, armed=True), access=Access(token=TOKEN)))
    noisy = call(open_, listener.port)
    noisy.sendall(f"TOKEN {TOKEN}\nGET / HTTP/1.1\r\n".encode())
    assert heard(noisy) == b""
    assert bench.microscope.scans == 0
    assert len(call(open_, listener.port).recv(100)) >= 32
    assert bench.microscope.scans == 1


def test_addresses_of_version_six(open_: ExitStack) -> None:
    try:
        listener = open_.enter_context(Listener(Talk(), access=Access("::1", TOKEN)))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert ask(call(open_, listener.port, "::1"), f"TOKEN {TOKEN}\nhello".encode()) == b"!" * 5
    assert ask(call(open_, listener.port, "::1"), b"again") == b"busy"


# --- strangers -----------------------------------------------------------------------------------


@pytest.fixture
def crowd(open_: ExitStack) -> Iterator[None]:
    with files_allowed(STRANGERS + 500):
        yield
        open_.close()


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize(("token", "hello"), [(TOKEN, b""), (TOKEN, b"TOKEN wrong-horse-battery\n"), (None, b"")])
def test_a_thousand_strangers_keep_nobody_out(
    open_: ExitStack, caplog: pytest.LogCaptureFixture, token: str | None, hello: bytes
) -> None:
    service = Talk()
    listener = open_.enter_context(Listener(service, access=Access(token=token)))
    gather(open_, listener.port, hello)
    begun = time.monotonic()
    owner = call(open_, listener.port)
    assert ask(owner, (f"TOKEN {TOKEN}\n" if token else "").encode() + b"hello") == b"!" * 5
    assert time.monotonic() - begun < 1.0
    assert service.served == 1
    assert len(listener._door._strangers) <= PLACES
    assert len(caplog.records) < 50
    assert listener.stop()


@pytest.mark.usefixtures("crowd")
def test_a_thousand_silent_clients_do_not_wear_out_the_data_port(open_: ExitStack) -> None:
    with (
        Listener(EventStream(counting_bench(), paced=False, armed=True), access=Access(token=TOKEN)) as first,
        ExitStack() as clients,
    ):
        # What a process compiles at its first scan, which takes seconds, is not the crowd's doing.
        assert len(ask(call(clients, first.port), f"TOKEN {TOKEN}\n".encode())) >= 32
    bench = counting_bench()
    listener = open_.enter_context(Listener(EventStream(bench, paced=False, armed=True), access=Access(token=TOKEN)))
    gather(open_, listener.port, b"")
    begun = time.monotonic()
    owner = call(open_, listener.port)
    assert len(ask(owner, f"TOKEN {TOKEN}\n".encode())) >= 32
    assert time.monotonic() - begun < 1.0
    assert bench.microscope.scans == 1


def test_a_client_is_served_by_a_process_with_a_thousand_files_open(open_: ExitStack) -> None:
    with files_allowed(1600):
        for _ in range(1100):
            open_.enter_context(Path(os.devnull).open("rb"))  # noqa: SIM115
        service = EventStream(counting_bench(), paced=False, armed=True)
        listener = open_.enter_context(Listener(service, access=Access(token=TOKEN)))
        assert len(ask(call(open_, listener.port), f"TOKEN {TOKEN}\n".encode())) >= 32
        open_.close()


def test_the_crowd_of_one_address_loses_its_own_places_only(open_: ExitStack) -> None:
    listener = open_.enter_context(Listener(Talk(), access=Access(token=TOKEN)))
    neighbour = socket.socket()
    open_.callback(neighbour.close)
    neighbour.bind(("127.0.0.2", 0))
    neighbour.settimeout(10)
    neighbour.connect(("127.0.0.1", listener.port))
    flood = [call(open_, listener.port) for _ in range(2 * PLACES)]
    time.sleep(0.2)
    assert flood[0].recv(1) == b""
    assert ask(neighbour, f"TOKEN {TOKEN}\nhello".encode()) == b"!" * 5


def test_idle_strangers_are_hung_up_on_after_a_while(open_: ExitStack) -> None:
    listener = open_.enter_context(Listener(Talk(message_s=0.3, first_s=0.3), access=Access(token=TOKEN)))
    assert b"needs a token" in heard(call(open_, listener.port))
    assert ask(call(open_, listener.port), f"TOKEN {TOKEN}\nx".encode()) == b"!"
    begun = time.monotonic()
    assert heard(call(open_, listener.port)) == b""
    assert time.monotonic() - begun < 1.0


def test_any_service_may_stand_behind_the_door() -> None:
    services: list[Service] = [Talk(), control_service(counting_bench()), EventStream(counting_bench())]
    assert [service.silent for service in services] == [False, False, True]
    assert all(isinstance(service.turned_away("no"), bytes) for service in services)


# --- every port of a twin ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[dict[str, int], Bench]]:
    """All five services of one microscope."""
    bench = make_bench()
    camera = MerlinCamera({"SCAN": ScanSupply(bench)})
    camera.answer(Command("CMD", "STARTACQUISITION"))  # armed: the next data client gets a scan
    services: dict[str, Service] = {
        "control": control_service(bench),
        "corrector": corrector_service(bench),
        "merlin_control": MerlinControl(camera),
        "merlin_data": MerlinData(camera, paced=False),
        "events": EventStream(bench, paced=False, armed=True),
    }
    listeners = {name: Listener(service) for name, service in services.items()}
    with Listeners(listeners.values()):
        yield {name: listener.port for name, listener in listeners.items()}, bench


@pytest.mark.parametrize("hello", HELLOS)
@pytest.mark.parametrize("port", ["control", "corrector", "merlin_control", "merlin_data", "events"])
def test_nothing_changes_whatever_a_stranger_says_on_any_port(
    open_: ExitStack, ports: tuple[dict[str, int], Bench], port: str, hello: str
) -> None:
    numbers, bench = ports
    before = bench_state(bench)
    line = call(open_, numbers[port])
    if HELLOS[hello]:
        line.sendall(HELLOS[hello])
        answer = heard(line)
        assert answer == b"" or b'"error"' in answer
    line.close()
    time.sleep(0.02)
    assert bench_state(bench) == before
