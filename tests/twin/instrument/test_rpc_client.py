"""The client of a JSON-RPC service, against servers that answer anything."""

import socket
import threading
from contextlib import AbstractContextManager
from itertools import repeat

import pytest
from fakes.listening import listening

from twin.instrument.rpc_client import RpcClient, send_token
from twin.wire import rpc
from twin.wire.netstring import RpcError, frame


def answering(*answers: bytes | None) -> AbstractContextManager[int]:
    """A server that gives these answers, one to every request; None hangs up. Says on which port."""
    left = list(answers)

    def answer(line: socket.socket, over: threading.Event) -> None:
        line.settimeout(0.05)
        while not over.is_set():
            try:
                if not line.recv(65536):
                    return
            except TimeoutError:
                continue
            told = left.pop(0) if left else None
            if told is None:
                return
            line.sendall(told)

    return listening(repeat(answer))


def result(which: int, text: bytes = b'"ok"') -> bytes:
    return frame(b'{"jsonrpc":"2.0","id":%d,"result":%b}' % (which, text))


def test_calls_have_numbers_and_share_a_line() -> None:
    with answering(result(1), result(2, b"[1,2]")) as port:
        client = RpcClient("it", "127.0.0.1", port)
        assert not client.connected
        assert client.call("a") == "ok"
        assert client.call("b", {"x": 1}) == [1, 2]
        assert client.connected
        client.close()


def test_a_refusal_leaves_the_line_as_it_is() -> None:
    refusal = frame(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"busy"}}')
    with answering(refusal, result(2)) as port:
        client = RpcClient("it", "127.0.0.1", port)
        with pytest.raises(RpcError, match="busy") as caught:
            client.call("a")
        assert caught.value.code == rpc.BUSY
        assert client.connected
        assert client.call("b") == "ok"
        client.close()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (result(7), RpcError, "the answer to call 1 has the id 7"),
        (
            frame(b'{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no beam"}}'),
            RpcError,
            "id 7; it says: no beam",
        ),
        (result(1) + result(2), RpcError, "2 answers to one call"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", RpcError, "begins with its length"),
        (b"999999999:", RpcError, "at most 1048576 are allowed"),
        (frame(b"{}"), RpcError, "not an answer in JSON-RPC"),
        (frame(b'{"jsonrpc":"2.0","id":1}'), RpcError, "a result or an error"),
        (frame(b'{"jsonrpc":"2.0","id":1,"result":NaN}'), RpcError, "NaN is not JSON"),
        (frame(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"another client"}}'), RpcError, "another"),
        (b"5:", TimeoutError, r"it: no answer within 0\.2 s"),
        (None, ConnectionError, "it closed the line|reset"),
    ],
)
def test_whatever_else_comes_is_an_error_and_the_next_call_has_a_new_line(
    answer: bytes | None, error: type[Exception], words: str
) -> None:
    with answering(answer, result(2)) as port:
        client = RpcClient("it", "127.0.0.1", port, timeout_s=0.2)
        with pytest.raises(error, match=words):
            client.call("a")
        assert not client.connected
        assert client.call("b") == "ok"
        client.close()


def test_an_answer_that_is_late_is_not_taken_for_the_next_one() -> None:
    """The first call gives up; what comes for it afterwards has no line to come on."""
    with answering(b"", result(2, b'"second"')) as port:
        client = RpcClient("it", "127.0.0.1", port, timeout_s=0.1)
        with pytest.raises(TimeoutError):
            client.call("a")
        assert client.call("b") == "second"
        client.close()


def test_nobody_there_is_an_os_error() -> None:
    with answering() as port:
        pass
    with pytest.raises(OSError, match="refused"):
        RpcClient("it", "127.0.0.1", port).call("a")
    with pytest.raises(OSError, match="refused"):
        send_token("127.0.0.1", port, "a-long-enough-token")


def test_a_refused_token_is_told_in_the_servers_words() -> None:
    with answering(b"stemtwin: wrong \x1b[2Jtoken\n" + b"x" * 5000) as port:
        words = send_token("127.0.0.1", port, "a-long-enough-token", timeout_s=0.3)
    assert words.startswith("stemtwin: wrong ?[2Jtoken")
    assert words.isprintable()
    assert len(words) <= 300
    for other in (frame(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}'), b"", None):
        with answering(other) as port:
            assert send_token("127.0.0.1", port, "a-long-enough-token", timeout_s=0.3) == ""


def test_an_id_of_a_megabyte_is_not_repeated() -> None:
    answer = frame(b'{"jsonrpc":"2.0","id":"' + b"x" * 10**5 + b'","result":1}')
    with answering(answer) as port, pytest.raises(RpcError, match="has the id 'xxx") as caught:
        RpcClient("it", "127.0.0.1", port).call("a")
    assert len(str(caught.value)) < 200
