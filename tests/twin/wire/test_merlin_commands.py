"""Commands to a Merlin camera and its replies, as bytes spelled out by hand, as clients send them, and spoilt."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.wire import merlin_commands as commands
from twin.wire.merlin import WireError
from twin.wire.merlin_commands import Command, Reply


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        (b"GET,IMAGEX", Command("GET", "IMAGEX")),
        (b"GET,IMAGEX,0", Command("GET", "IMAGEX")),
        (b"SET,numframestoacquire,17", Command("SET", "NUMFRAMESTOACQUIRE", "17")),
        (b"CMD,STARTACQUISITION", Command("CMD", "STARTACQUISITION")),
        (b"cmd,SOFTTRIGGER,0", Command("CMD", "SOFTTRIGGER")),
    ],
)
def test_commands_are_read_as_clients_send_them(payload: bytes, command: Command) -> None:
    assert commands.parse_command(payload) == command
    assert commands.CommandDecoder().feed(commands.build_command(command)) == [
        ",".join(filter(None, [command.verb, command.name, command.value])).encode()
    ]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"SAT,A,1", "did you mean SET"),
        (b"SET,A", "takes a name and a value; got 1"),
        (b"GET", "no name"),
        (b"GET,", "no name"),
        (b"CMD,A,B,C", "takes a name; got 3"),
        (b"GET,A\xff", "plain text"),
        (b"GET,A\0", "plain text"),
    ],
)
def test_commands_that_are_none_are_refused(payload: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        commands.parse_command(payload)


@pytest.mark.parametrize("value", ["1,2", "a\nb", "é", ""])
def test_a_value_cannot_break_out_of_its_message(value: str) -> None:
    with pytest.raises(WireError, match="cannot be part"):
        commands.build_command(Command("SET", "HVBIAS", value))


replies = st.one_of(
    st.builds(
        Reply,
        st.just("GET"),
        st.sampled_from(["IMAGEX", "HVBIAS"]),
        st.from_regex(r"[0-9.]{0,6}", fullmatch=True),
        st.integers(0, 3),
    ),
    st.builds(Reply, st.sampled_from(["SET", "CMD"]), st.just("HVBIAS"), st.none(), st.integers(0, 3)),
)


@given(st.lists(replies, max_size=5), st.integers(1, 40), st.booleans())
@settings(max_examples=200, deadline=None)
def test_replies_come_back_even_from_a_simulator_that_counts_one_too_few(
    sent: list[Reply], piece: int, one_too_few: bool
) -> None:
    data = b""
    for reply in sent:
        raw = commands.build_reply(reply)
        data += b"MPX,%010d," % (len(raw) - 15) + raw[15:] if one_too_few else raw
    decoder = commands.ReplyDecoder()
    payloads = [payload for k in range(0, len(data), piece) for payload in decoder.feed(data[k : k + piece])]
    assert list(map(commands.parse_reply, payloads)) == sent


def test_a_reply_says_its_status() -> None:
    assert commands.parse_reply(b"GET,IMAGEX,256,0") == Reply("GET", "IMAGEX", "256", 0)
    assert commands.parse_reply(b"SET,HVBIAS,3").status == commands.OUT_OF_RANGE
    for bad in (b"GET,IMAGEX,0", b"SET,HVBIAS,4", b"SET,HVBIAS,00", b"HVBIAS,0"):
        with pytest.raises(WireError):
            commands.parse_reply(bad)


@pytest.mark.parametrize(
    ("decoder", "parse"),
    [(commands.CommandDecoder, commands.parse_command), (commands.ReplyDecoder, commands.parse_reply)],
)
def test_ten_thousand_spoilt_control_lines_give_one_kind_of_error(decoder: type, parse: Callable[[bytes], Any]) -> None:
    rng = np.random.default_rng(1)
    good = [
        commands.build_command(Command("SET", "HVBIAS", "120")),
        commands.build_reply(Reply("GET", "IMAGEX", "256", 0)),
    ]
    begun, refused = time.perf_counter(), 0
    for _ in range(10_000):
        data = bytearray(b"".join(good[k] for k in rng.integers(0, 2, 2)))
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        try:
            for payload in decoder().feed(bytes(data)):
                parse(payload)
        except WireError:
            refused += 1
    assert refused > 5_000
    assert time.perf_counter() - begun < 20


def test_a_command_without_end_is_refused_before_it_is_stored() -> None:
    with pytest.raises(WireError, match="1 to 4096"):
        commands.CommandDecoder().feed(b"MPX,0000999999," + b"A" * 100)
