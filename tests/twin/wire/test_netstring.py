"""JSON-RPC in netstrings against bytes spelled out by hand, and against whatever a client may send."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.wire import netstring
from twin.wire.netstring import NetstringDecoder, Request, Response, RpcError

names = st.text(min_size=1, max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
ids = st.none() | st.integers() | names


def payload_of(raw: bytes) -> bytes:
    (payload,) = NetstringDecoder().feed(raw)
    return payload


# --- netstrings ----------------------------------------------------------------------------------


def test_a_netstring_is_its_length_a_colon_the_bytes_and_a_comma() -> None:
    assert netstring.frame(b"hello") == b"5:hello,"
    assert netstring.frame("é".encode()) == b"2:\xc3\xa9,"
    assert NetstringDecoder().feed(b"5:hello,0:,2:a") == [b"hello", b""]


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_payloads_come_back_however_the_bytes_are_cut(payloads: list[bytes], piece: int) -> None:
    data = b"".join(netstring.frame(payload) for payload in payloads)
    decoder = NetstringDecoder()
    assert [p for k in range(0, len(data), piece) for p in decoder.feed(data[k : k + piece])] == payloads


@pytest.mark.parametrize("piece", [1, 100])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"5:hello;", "ends with a comma, not with ';'"),
        (b"hello", "begins with its length"),
        (b":hello,", "begins with its length"),
        (b"05:hello,", "begins with its length"),
        (b"-1:,", "begins with its length"),
        (b" 5:hello,", "begins with its length"),
        ("٣:abc,".encode(), "begins with its length"),
        (b'{"jsonrpc":"2.0"}\n', "begins with its length"),
        (b"101:", "at most 100 are allowed"),
        (b"99999999999999999999999:", "begins with its length|at most 100"),
    ],
)
def test_what_is_no_netstring_is_refused_and_stays_refused(data: bytes, words: str, piece: int) -> None:
    decoder = NetstringDecoder(limit=100)
    with pytest.raises(RpcError, match=words):
        _ = [decoder.feed(data[k : k + piece]) for k in range(0, len(data), piece)]
    with pytest.raises(RpcError, match="after an invalid netstring"):
        decoder.feed(b"5:hello,")


def test_a_length_without_end_is_refused_before_it_is_stored() -> None:
    decoder = NetstringDecoder(limit=10**6)
    with pytest.raises(RpcError):
        _ = [decoder.feed(b"1") for _ in range(20)]


# --- JSON-RPC ------------------------------------------------------------------------------------


def test_a_request_as_a_client_of_a_corrector_sends_it() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"acquireTableau","params":{"tabType":"Fast","angle":18}}'
    request = Request("acquireTableau", {"tabType": "Fast", "angle": 18}, 1)
    assert netstring.parse_request(raw) == request
    assert netstring.build_request(request) == b"%d:%b," % (len(raw), raw)


@given(names, st.dictionaries(names, values, max_size=4), ids, st.booleans())
@settings(max_examples=150, deadline=None)
def test_requests_come_back(method: str, params: dict[str, Any], about: Any, notification: bool) -> None:
    request = Request(method, params, None if notification else about, notification)
    assert netstring.parse_request(payload_of(netstring.build_request(request))) == request


@given(values, ids)
@settings(max_examples=150, deadline=None)
def test_results_come_back(result: Any, about: Any) -> None:
    assert netstring.parse_response(payload_of(netstring.build_response(Response(about, result)))) == Response(
        about, result
    )


def test_errors_come_back_with_code_and_data() -> None:
    error = RpcError("C9 is not an aberration", netstring.INVALID_PARAMS, {"known": ["C1", "A1"]})
    raw = payload_of(netstring.build_response(Response(7, error=error)))
    assert raw == (
        b'{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"C9 is not an aberration",'
        b'"data":{"known":["C1","A1"]}}}'
    )
    back = netstring.parse_response(raw).error
    assert back is not None
    assert (str(back), back.code, back.data, back.id) == (str(error), error.code, error.data, 7)


def told(error: dict[str, Any]) -> str:
    raw = json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, **error}}).encode()
    return str(netstring.parse_response(raw).error)


PROBE = "Measured probe diameter out of range: target=20.0 px, measured=25.5 px"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"type": "<class 'Exception'>", "message": PROBE}, PROBE),  # as a real CEOS server answers
        (PROBE, PROBE),
        ([PROBE, "line 3"], PROBE),
        ({"type": "x", "args": [PROBE]}, PROBE),
        ({"data": {"message": PROBE}}, PROBE),
        ({"reason": "no beam"}, "no beam"),
        ({"detail": "no beam", "traceback": "File x"}, "no beam"),
        ({"message": "Server error", "reason": "no beam"}, "no beam"),
        ({"exception": {"message": "no beam"}}, "no beam"),
        ({"errors": [{"message": "no beam"}]}, "no beam"),
        ([{"data": {"msg": "no beam"}}], "no beam"),
        ({"Message": "no beam", "code": 17}, "no beam"),
        ({"traceback": ["File x, line 3", "BeamError: no beam\n"]}, "BeamError: no beam"),
        ({"type": "x", "traceback": "Traceback\n  File x\nBeamError: no beam"}, "BeamError: no beam"),
        ({"measured_px": 25.5, "target_px": 20, "code": 3}, "measured_px 25.5, target_px 20"),
        ({"type": "<class 'TimeoutError'>", "message": ""}, "<class 'TimeoutError'>"),
    ],
)
def test_the_reason_of_an_error_reaches_the_operator(data: Any, reason: str) -> None:
    assert told({"message": "Server error", "data": data}) == f"Server error: {reason}"


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": -32000, "message": "Server error", "reason": "no beam"}},  # beside the data
        {"error": {"code": -32000, "message": "Server error", "data": "no beam"}, "result": None},
        {"error": {"code": -32000, "message": "Server error", "data": {"message": "no beam", "std": float("nan")}}},
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_an_answer_that_is_nearly_one_is_read(answer: dict[str, Any], batch: bool) -> None:
    body = {"jsonrpc": "2.0", "id": 1, **answer}
    response = netstring.parse_response(json.dumps([body] if batch else body).encode())
    assert (response.id, response.error.code, str(response.error)) == (1, -32000, "Server error: no beam")


@pytest.mark.parametrize(
    "answer",
    [
        {"jsonrpc": "2.0", "id": 1, "error": "no beam"},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": "-32000", "message": "no beam"}},
        {"jsonrpc": "2.0", "id": 1, "error": {"message": "Server error", "data": "no beam"}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": None, "data": {"message": "no beam"}}},
        {"jsonrpc": "2.0", "id": 1, "result": 1, "error": {"code": 1, "message": "no beam"}},
        {"id": 1, "error": {"code": 1, "message": "no beam"}},
        [{"jsonrpc": "2.0", "id": k, "error": {"code": 1, "message": "no beam"}} for k in (1, 2)],
        "no beam",
    ],
)
def test_an_answer_that_is_none_is_refused_with_what_it_says(answer: Any) -> None:
    with pytest.raises(RpcError, match=r"; it says: (Server error: )?no beam$"):
        netstring.parse_response(json.dumps(answer).encode())


@pytest.mark.parametrize(
    "data", [None, 3, [], {}, {"code": 7}, {"message": ""}, {"message": "Server error"}, [1, None]]
)
def test_an_error_without_a_reason_is_told_as_it_is(data: Any) -> None:
    assert told({"message": "Server error", "data": data}) == "Server error"


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]0;title\x07\x1b[2J\r\nok" + "A" * 100_000,
        "\u202egnp.exe" * 300,
        "a\nb\tc" * 200,
        "\x00\x9b31m" * 1000,
        "",
        " \n ",
    ],
)
def test_what_a_server_says_is_one_printable_line_of_some_hundred_characters(text: str) -> None:
    for words in (
        told({"message": text}),
        told({"message": "no", "data": {"message": text}}),
        told({"message": text, "data": text}),
    ):
        assert words.isprintable()
        assert 1 <= len(words) <= 520


@pytest.mark.parametrize(
    ("raw", "code", "about", "words"),
    [
        (b"{", -32700, None, "not JSON"),
        (b"\xff", -32700, None, "UTF-8"),
        (b"[1]", -32600, None, "one JSON object.*list"),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}', -32700, None, "there twice"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":NaN}}', -32700, None, "NaN is not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":' + b"9" * 5000 + b"}}", -32700, None, "not JSON"),
        (b'{"id":1,"method":"a"}', -32600, 1, "jsonrpc is '2.0'"),
        (b'{"jsonrpc":"2.0","id":true,"method":"a"}', -32600, None, "id is a text or a whole number"),
        (b'{"jsonrpc":"2.0","id":"x"}', -32600, "x", "has a method"),
        (b'{"jsonrpc":"2.0","id":3,"method":"a","params":[1]}', -32600, 3, "go by name"),
        (b'{"jsonrpc":"2.0","id":3,"methd":"a","method":"a"}', -32600, 3, "did you mean method"),
    ],
)
def test_a_request_that_is_none_says_what_to_answer(raw: bytes, code: int, about: Any, words: str) -> None:
    with pytest.raises(RpcError, match=words) as caught:
        netstring.parse_request(raw)
    assert (caught.value.code, caught.value.id) == (code, about)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":""}}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"id":1,"result":1}',
    ],
)
def test_an_answer_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(RpcError):
        netstring.parse_response(raw)


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_depth_is_bounded(bracket: bytes) -> None:
    begun = time.perf_counter()
    with pytest.raises(RpcError, match="deeper than 32"):
        netstring.parse_json(bracket * 100_000)
    assert time.perf_counter() - begun < 1.0
    assert netstring.parse_json(b'{"a":' + b"[" * 31 + b"]" * 31 + b"}")


@pytest.mark.parametrize("hidden", [b'"' + b"]" * 5000 + b'",', b'"\\"]",' * 5000, b'"]",' * 5000])
def test_brackets_in_strings_hide_no_depth(hidden: bytes) -> None:
    with pytest.raises(RpcError, match="deeper than 32"):
        netstring.parse_json(b'{"a":[' + hidden + b"[" * 40 + b"]" * 40 + b"]}")
    assert netstring.parse_json(b'{"a":["' + b"[{" * 5000 + b'"]}')


def test_half_a_character_is_no_text() -> None:
    assert netstring.parse_json(rb'{"a":"\ud83d\ude00"}') == {"a": "\U0001f600"}
    for half in (rb'{"a":["\ud83d"]}', rb'{"\uDE00":1}'):
        with pytest.raises(RpcError, match="not JSON"):
            netstring.parse_json(half)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_what_json_cannot_say_is_not_sent(value: Any) -> None:
    with pytest.raises(RpcError, match="cannot be sent") as caught:
        netstring.build_response(Response(1, value))
    assert caught.value.code == netstring.INTERNAL_ERROR
    with pytest.raises(RpcError, match="at most 50 are allowed"):
        netstring.build_response(Response(1, "x" * 100), limit=50)


def mutations(seed: int, cases: int) -> Iterator[bytes]:
    """Two good messages with a few bytes changed, cut out or doubled."""
    rng = np.random.default_rng(seed)
    good = [
        netstring.build_request(Request("correctAberration", {"name": "C1", "value": [1e-9, 0.0]}, 1)),
        netstring.build_response(Response(1, {"aberrations": {"C1": [1e-9], "A1": [2e-9, -1e-9]}})),
        netstring.build_response(Response(2, error=RpcError("busy", 1))),
    ]
    alphabet = b'0123456789:,{}[]"\\eE+-.nulltrue\xff\x00'
    for _ in range(cases):
        data = bytearray(b"".join(good[k] for k in rng.integers(0, 3, 2)))
        for place in rng.random(rng.integers(1, 5)):
            at, kind = int(place * len(data)), rng.integers(3)
            if kind == 0:
                data[at] = alphabet[rng.integers(len(alphabet))]
            elif kind == 1:
                del data[at : at + int(rng.integers(20))]
            else:
                data[at:at] = data[at : at + int(rng.integers(20))]
            data = data or bytearray(b"0:,")
        yield bytes(data)


def read(data: bytes) -> tuple[int, int]:
    """How many readings were taken, and how many refused."""
    taken = refused = 0
    try:
        payloads = NetstringDecoder(limit=1000).feed(data)
    except RpcError:
        return 0, 1
    for payload in payloads:
        for parse in (netstring.parse_request, netstring.parse_response):
            try:
                parse(payload)
                taken += 1
            except RpcError:
                refused += 1
    return taken, refused


def test_ten_thousand_spoilt_messages_give_one_kind_of_error() -> None:
    taken, refused, slowest = 0, 0, 0.0
    for data in mutations(0, 10_000):
        begun = time.perf_counter()
        yes, no = read(data)
        slowest = max(slowest, time.perf_counter() - begun)
        taken, refused = taken + yes, refused + no
    assert refused > 5_000
    assert taken > 1_000
    assert slowest < 1.0


def test_spoilt_messages_do_not_swell() -> None:
    tracemalloc.start()
    for data in mutations(1, 300):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
