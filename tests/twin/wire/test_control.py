"""What goes over the control channel: floats to the bit, sessions from a seed; whatever else comes is refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.optics import Optics
from twin.state import SECOND_ORDER, StateSpace
from twin.types import Capabilities, Truth
from twin.wire import control, netstring
from twin.wire.netstring import Request, Response, RpcError

numbers = st.floats(allow_nan=False, allow_infinity=False)
lengths = st.floats(-1e9, 1e9)
times = st.floats(0, 1e9)
doses = st.floats(0, 1e15, exclude_min=True)
exposures = st.floats(0, 1e5, exclude_min=True)


def over_the_wire(result: Any) -> Any:
    raw = netstring.build_response(Response(1, result))
    return netstring.parse_response(raw.partition(b":")[2][:-1]).result


@given(st.lists(lengths, min_size=3, max_size=3), st.integers(0, 10**6), times, doses)
@settings(max_examples=150, deadline=None)
def test_a_status_arrives_to_the_bit(cumulative: list[float], count: int, clock_s: float, dose_e: float) -> None:
    status = control.Status("a-1", count, count, tuple(cumulative), clock_s, "film 3", dose_e)
    again = control.parse_status(over_the_wire(status.plain()))
    assert again == status
    assert np.array(again.cumulative_nm).tobytes() == np.array(cumulative).tobytes()


@given(lengths, doses, exposures, times, st.floats(0, 65535))
@settings(max_examples=100, deadline=None)
def test_an_exposure_arrives_to_the_bit(
    value_nm: float, dose_e: float, exposure_s: float, waited_s: float, dark_level: float
) -> None:
    clock_s = exposure_s + waited_s / 2
    status = control.Status("a-1", 2, 3, (value_nm,), clock_s)
    for known in ({}, {"session": "a-1", "inputs": 2, "cumulative_nm": (value_nm,), "plan": "0f" * 32}):
        told = {"dark_level": dark_level}
        note = control.ExposureNote(3, dose_e, exposure_s, clock_s, told, "ab" * 32, status, **known)
        assert control.parse_exposure(over_the_wire(note.plain())) == note


@given(st.lists(numbers, min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_an_input_arrives_to_the_bit(delta: list[float]) -> None:
    request = netstring.build_request(Request("apply", {"delta_nm": delta, "input": 7}, 1))
    told = netstring.parse_request(request.partition(b":")[2][:-1])
    found, which = control.parse_delta(told.params, 3)
    assert which == 7
    assert found.tobytes() == np.array(delta).tobytes()


def test_capabilities_and_truth_arrive() -> None:
    for space in (StateSpace(), SECOND_ORDER):
        told = Capabilities("a twin", Optics(convergence_mrad=21.4), space, (128, 128), 4095, True)
        assert control.parse_capabilities(over_the_wire(control.capabilities_plain(told))) == told
    truth = control.parse_truth(over_the_wire(control.truth_plain(Truth(np.array([0.1]), np.array([1 / 3])))), 1)
    assert (truth.state_nm, truth.initial_nm) == (0.1, 1 / 3)


def test_a_session_is_drawn_as_the_simulator_draws_it() -> None:
    words = control.draw_entropy(np.random.default_rng(5))
    assert words == np.random.default_rng(5).integers(2**32, size=4).tolist()
    assert control.parse_reset(over_the_wire({"entropy": words})) == tuple(words)
    assert control.parse_reset({"seed": 5, "entropy": None}) == 5


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "a seed or entropy, one of them"),
        ({"seed": 1, "entropy": [1, 2, 3, 4]}, "one of them"),
        ({"seed": -1}, "seed is a whole number from 0"),
        ({"seed": 1.0}, "not 1.0"),
        ({"seed": True}, "not True"),
        ({"entropy": [1, 2, 3]}, "list of 4 numbers, not a list of 3"),
        ({"entropy": [1, 2, 3, 2**32]}, r"entropy\[3\] is a whole number from 0 to 4294967295"),
        ({"entropy": "1234"}, "not '1234'"),
    ],
)
def test_a_session_from_nothing_is_refused(params: dict[str, Any], words: str) -> None:
    with pytest.raises(RpcError, match=words):
        control.parse_reset(params)


WHERE = control.Status("a-1", 1, 1, (1.0, 2.0, 3.0), 4.0)
STATUS = WHERE.plain()


@pytest.mark.parametrize(
    ("parse", "result", "words"),
    [
        (control.parse_status, None, "an object with session, inputs, .*, not None"),
        (
            control.parse_status,
            {**STATUS, "cumulative_nm": [1, "2", 3]},
            r"status\.cumulative_nm\.1: input should be a number, got '2'",
        ),
        (control.parse_status, {**STATUS, "inputs": -1}, r"inputs: input should be greater than or equal to 0, got -1"),
        (control.parse_status, {**STATUS, "session": 3}, "session: input should be a text, got 3"),
        (control.parse_status, {k: v for k, v in STATUS.items() if k != "clock_s"}, "clock_s is missing"),
        (control.parse_exposure, {"number": 1}, "dose_e, exposure_s, clock_s, settings, sha256, status is missing"),
        (control.parse_capabilities, {"name": "x"}, "optics"),
        (control.ports_of, {"service": "ftp"}, "not the control channel of a twin"),
        (
            control.ports_of,
            {"service": "stemtwin control", "version": 2},
            "the control channel has version 2, this client 1",
        ),
        (control.ports_of, {"service": "stemtwin control", "version": 1, "ports": {"a": 0}}, "ports.a"),
    ],
)
def test_answers_that_cannot_be_are_refused(parse: Any, result: Any, words: str) -> None:
    with pytest.raises(RpcError, match=words):
        parse(result)


def test_optics_that_cannot_be_are_refused() -> None:
    told = control.capabilities_plain(Capabilities("x", Optics(), StateSpace(), (128, 128), 4095))
    for wrong in ({"optics": {"energy_kev": -1}}, {"optics": {"bogus": 1}}, {"space": {"names": 3}}, {"max_count": 0}):
        with pytest.raises(RpcError):
            control.parse_capabilities(over_the_wire({**told, **wrong}))


# --- fuzz ----------------------------------------------------------------------------------------


def test_ten_thousand_spoilt_answers_are_understood_or_refused() -> None:
    note = control.ExposureNote(1, 1e5, 0.5, 1.0, {"dark_level": 20.0}, "ab" * 32, WHERE).plain()
    told = control.capabilities_plain(Capabilities("a twin", Optics(), StateSpace(), (128, 128), 4095))
    cases = [
        (control.parse_status, STATUS),
        (control.parse_exposure, note),
        (control.parse_capabilities, told),
        (control.ports_of, {"service": "stemtwin control", "version": 1, "ports": {"corrector": 7072}}),
    ]
    raw = [json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode() for _, result in cases]
    rng = np.random.default_rng(1)
    good, bad = 0, []
    for case in range(12_000):
        parse, payload = cases[case % len(cases)][0], bytearray(raw[case % len(cases)])
        for _ in range(int(rng.integers(1, 3))):
            place = int(rng.integers(40, len(payload)))
            if rng.random() < 0.5:
                payload[place] = int(rng.choice(np.frombuffer(b'0123456789-.e,:[]{}"xE', np.uint8)))
            else:
                del payload[place : place + int(rng.integers(1, 5))]
        try:
            parse(netstring.parse_response(bytes(payload)).result)
        except RpcError as error:
            bad.append(len(str(error)))
        else:
            good += 1
    assert len(bad) > 5000
    assert min(bad) > 5
    assert max(bad) < 800
    assert good > 500
