"""A line of a client: every wait has an end, and an address is what it says."""

import gc
import socket
import sys
import threading
import time
import types

import pytest

from twin.instrument.line import Line, split_address


@pytest.fixture
def server() -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0))
    made.settimeout(5.0)
    return made


def test_a_line_is_made_once_and_anew_after_it_was_closed(server: socket.socket) -> None:
    line = Line("it", *server.getsockname(), timeout_s=1.0)
    with server:
        assert [line.connected, line.connect(), line.connect(), line.connected] == [False, True, False, True]
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"abc")
            assert line.receive(time.monotonic() + 5.0) == b"abc"
            assert line.pending() == b""
            line.send(b"def")
            assert peer.recv(10) == b"def"
            with pytest.raises(TimeoutError, match="nothing came from it in time"):
                line.receive(time.monotonic() + 0.05)
            with pytest.raises(TimeoutError):
                line.receive(time.monotonic() - 1.0)
        with pytest.raises(ConnectionError, match="it closed the line"):
            line.receive(time.monotonic() + 5.0)
        with pytest.raises(ConnectionError, match="it closed the line"):
            line.pending()
        line.close()
        with pytest.raises(ConnectionError, match="there is no line to it"):
            line.send(b"x")
        assert line.connect()
        line.close()


def test_a_peer_that_takes_nothing_is_given_up(server: socket.socket) -> None:
    line = Line("it", *server.getsockname(), timeout_s=0.2)
    with server:
        line.connect()
        # A short wait for an answer before is no reason to send in a hurry, nor a long one to send for ever.
        with pytest.raises(TimeoutError):
            line.receive(time.monotonic() + 0.01)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            line.send(bytes(2**26))
        assert time.monotonic() - begun < 5.0
        line.close()


def test_a_line_that_nobody_closes_ends_in_silence(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cycle of garbage the socket's finaliser comes first: it was made first."""
    unraisable: list[str] = []
    with server:
        made = [socket.create_connection(server.getsockname())]
        monkeypatch.setattr(socket, "create_connection", lambda address, timeout: made.pop())
        owner = types.SimpleNamespace(line=Line("it", *server.getsockname(), timeout_s=1.0))
        owner.line.connect()
        owner.line.owner = owner
        peer, _ = server.accept()
        monkeypatch.setattr(sys, "unraisablehook", lambda about: unraisable.append(str(about.exc_value)))
        del owner
        gc.collect()
        with peer:
            peer.settimeout(5.0)
            assert peer.recv(1) == b""
    assert unraisable == []


def test_a_line_ends_with_its_owner(server: socket.socket) -> None:
    with server:
        line = Line("it", *server.getsockname(), timeout_s=1.0)
        line.connect()
        peer, _ = server.accept()
        with peer:
            peer.settimeout(5.0)
            del line
            assert peer.recv(1) == b""


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.7", ("10.0.0.7", 7)),
        ("lab.example:9095", ("lab.example", 9095)),
        ("[::1]", ("::1", 7)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
    ],
)
def test_an_address_is_a_host_and_perhaps_a_port(text: str, address: tuple[str, int]) -> None:
    assert split_address(text, 7) == address


@pytest.mark.parametrize("text", ["", ":80", "a:", "a:0", "a:65536", "a:x", "a:٣", "::1", "[::1", "a b", "a:1:2"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an address is HOST, HOST:PORT"):
        split_address(text, 7)


def test_a_token_is_not_waited_over_for_ever(server: socket.socket) -> None:
    """A server that takes the token and then sends a byte now and then."""
    from twin.instrument.rpc_client import send_token

    stop = threading.Event()

    def drip() -> None:
        peer, _ = server.accept()
        with peer:
            while not stop.wait(0.05):
                try:
                    peer.sendall(b".")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    with server:
        thread.start()
        begun = time.monotonic()
        send_token(*server.getsockname(), "a-long-enough-token", timeout_s=0.3)
        assert time.monotonic() - begun < 3.0
        stop.set()
        thread.join(5.0)
