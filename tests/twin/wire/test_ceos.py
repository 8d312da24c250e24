"""What goes to a corrector: names, factors, metres, and the meaning of `value`; whatever else comes is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.aberrations import Aberrations
from twin.wire import ceos, netstring, rpc
from twin.wire.netstring import INVALID_PARAMS, UNKNOWN_METHOD, Request, RpcError

lengths = st.floats(-1e5, 1e5, allow_nan=False)


def call(method: str, **params: object) -> ceos.Call:
    return ceos.parse_call(Request(method, params))


def test_the_value_is_what_is_taken_away() -> None:
    # Spelled out from docs/conventions.md: C1 is C10, A1 is C12; B2 = C21 / 3, S3 = C32 / 4.
    for name, value, change in (
        ("C1", [5e-9], {"C10": -5.0}),
        ("C1", [5e-9, 0.0], {"C10": -5.0}),
        ("A1", [1e-9, -2e-9], {"C12a": -1.0, "C12b": 2.0}),
        ("B2", [10e-9, 20e-9], {"C21a": -30.0, "C21b": -60.0}),
        ("A2", [10e-9, 20e-9], {"C23a": -10.0, "C23b": -20.0}),
        ("S3", [1e-6, 0.0], {"C32a": -4000.0}),
        ("C3", [1e-6], {"C30": -1000.0}),
    ):
        asked = call("correctAberration", name=name, value=value)
        assert isinstance(asked, ceos.CorrectAberration)
        np.testing.assert_allclose(asked.change.array(), Aberrations.of(change).array(), rtol=1e-12, atol=1e-12)


def test_a_target_is_what_is_left() -> None:
    asked = call("correctAberration", name="A1", value=[5e-9, 5e-9], target=[1e-9, 7e-9], select="fine")
    assert isinstance(asked, ceos.CorrectAberration)
    assert asked.change["C12a"] == pytest.approx(-4.0)
    assert asked.change["C12b"] == pytest.approx(2.0)
    assert asked.select == "fine"
    nothing = call("correctAberration", name="C1", value=[5e-9], target=[5e-9])
    assert isinstance(nothing, ceos.CorrectAberration)
    assert nothing.change == Aberrations()


@given(st.sampled_from(ceos.NAMES), lengths, lengths)
@settings(max_examples=150, deadline=None)
def test_a_change_arrives_as_it_was_meant(name: str, x: float, y: float) -> None:
    wanted = (x, 0.0 if name in ceos.ROUND else y)
    sent = netstring.parse_request(netstring.build_request(ceos.correction(name, wanted)).partition(b":")[2][:-1])
    asked = ceos.parse_call(sent)
    assert isinstance(asked, ceos.CorrectAberration)
    expected = ceos.from_ceos({name: wanted})
    np.testing.assert_allclose(asked.change.array(), expected.array(), rtol=1e-12, atol=1e-12)
    # A corrector that adds the value instead gets the other sign.
    x_m, y_m = ceos.correction(name, wanted, "offset").params["value"]
    np.testing.assert_allclose((x_m * 1e9, y_m * 1e9), wanted, rtol=1e-12, atol=1e-12)


def test_results_are_metres_and_short() -> None:
    found = dict.fromkeys(ceos.NAMES, (-123456.789012345, 987654.321098765))
    result = ceos.aberrations_result(found, dict.fromkeys(ceos.NAMES, 1234.5678))
    assert result["aberrations"]["C1"] == [-1.234568e-4, 9.876543e-4]
    assert result["std"]["A1"] == 1.23e-6
    text = netstring.build_response(netstring.Response(2**31, result))
    assert len(text) <= ceos.SHORT_BYTES
    received = json.loads(text.partition(b":")[2][:-1])["result"]["aberrations"]
    assert set(received) == set(ceos.NAMES)
    for name, pair_m in received.items():
        np.testing.assert_allclose(np.array(pair_m) / 1e-9, found[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "params", "code", "words"),
    [
        ("measureC1A2", {}, UNKNOWN_METHOD, r"did you mean measureC1A1\?"),
        ("measureC1A1", {"angle": 1}, INVALID_PARAMS, "'angle' is not a parameter of measureC1A1; known: none"),
        ("acquireTableau", {"angle": 18}, INVALID_PARAMS, "needs the parameter tabType"),
        ("acquireTableau", {"tabType": "fest", "angle": 18}, INVALID_PARAMS, r"did you mean Fast\?"),
        ("acquireTableau", {"tabType": "Fast", "maxFit": "B9"}, INVALID_PARAMS, "the aberration is C1, A1"),
        ("acquireTableau", {"tabtype": "Fast", "angle": 18}, INVALID_PARAMS, r"did you mean tabType\?"),
        ("acquireTableau", {"tabType": "Fast", "angle": 0.018}, rpc.OUT_OF_RANGE, "1 to 100 mrad, got 0.018"),
        ("acquireTableau", {"tabType": "Fast", "angle": "18"}, INVALID_PARAMS, "angle is a number, not '18'"),
        ("acquireTableau", {"tabType": "Fast", "angle": True}, INVALID_PARAMS, "angle is a number, not True"),
        ("correctAberration", {"value": [1e-9]}, INVALID_PARAMS, "needs the parameter name"),
        ("correctAberration", {"name": "WD", "value": [0, 0]}, rpc.NOT_AVAILABLE, "WD is image shift or beam tilt"),
        ("correctAberration", {"name": "A11", "value": [0, 0]}, INVALID_PARAMS, r"did you mean A1\?"),
        ("correctAberration", {"name": 3, "value": [0, 0]}, INVALID_PARAMS, "the aberration is C1, A1, .*, not 3"),
        ("correctAberration", {"name": "A1", "value": [1e-9]}, INVALID_PARAMS, "value of A1 is a list of 2 numbers"),
        ("correctAberration", {"name": "A1", "value": 1e-9}, INVALID_PARAMS, "list of 2 numbers, not 1e-09"),
        ("correctAberration", {"name": "C1", "value": [1e-9, 1e-9]}, INVALID_PARAMS, "C1 is round"),
        ("correctAberration", {"name": "C1", "value": []}, INVALID_PARAMS, "list of 1 to 2 numbers, not a list of 0"),
        ("correctAberration", {"name": "C1", "value": [None]}, INVALID_PARAMS, r"value of C1\[0\] is a number"),
        ("correctAberration", {"name": "C1", "value": [10**400]}, INVALID_PARAMS, "finite, not a number beyond"),
        ("correctAberration", {"name": "C1", "value": [5.0]}, rpc.OUT_OF_RANGE, "is in metres; got 5"),
        ("correctAberration", {"name": "A1", "value": [0, 0], "target": [1e-9]}, INVALID_PARAMS, "two components"),
        ("correctAberration", {"name": "C1", "value": [0], "select": "coarser"}, INVALID_PARAMS, "mean coarse"),
    ],
)
def test_what_a_corrector_cannot_do_is_refused_with_what_it_can(
    method: str, params: dict[str, object], code: int, words: str
) -> None:
    with pytest.raises(RpcError, match=words) as caught:
        call(method, **params)
    assert caught.value.code == code


# --- what public clients send ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "value_nm", "target_nm"),
    [
        # BEACON: every parameter, pairs for round ones, no select as null.
        ({"name": "C1", "value": [1e-9, 0], "target": [0, 0], "select": None}, (1.0, 0.0), (0.0, 0.0)),
        ({"name": "A1", "value": [1e-9, 2e-9], "target": [0, 0], "select": ""}, (1.0, 2.0), (0.0, 0.0)),
        ({"name": "B2", "value": [0, 0], "target": [0, 0], "select": "condenser"}, (0.0, 0.0), (0.0, 0.0)),
        # asyncroscopy: only what differs from nothing; one number for a round one; text that was split.
        ({"name": "C3", "value": [-0.34e-9]}, (-0.34, 0.0), (0.0, 0.0)),
        ({"name": "A1", "value": [0.0]}, (0.0, 0.0), (0.0, 0.0)),
        ({"name": "A1"}, None, (0.0, 0.0)),
        ({"name": "A1", "target": [1e-9, 2e-9], "select": "objective"}, None, (1.0, 2.0)),
    ],
)
def test_corrections_of_public_clients_are_taken(
    params: dict[str, object], value_nm: tuple[float, float] | None, target_nm: tuple[float, float]
) -> None:
    asked = call("correctAberration", **params)
    assert isinstance(asked, ceos.CorrectAberration)
    assert asked.value_nm == (None if value_nm is None else pytest.approx(value_nm))
    assert asked.target_nm == pytest.approx(target_nm)
    said = " ".join(asked.notes)
    assert ("latest measurement" in said) == (value_nm is None)
    assert ("makes no difference" in said) == bool(params.get("select"))


@pytest.mark.parametrize(
    ("params", "kind", "angle", "order"),
    [
        ({"tabType": "fast", "angle": 18}, "Fast", 18.0, 2),
        ({"tabType": "Fast", "angle": 18.0}, "Fast", 18.0, 2),
        ({"tabType": "STANDARD", "angle": 0}, "Standard", 18.0, 3),
        ({"tabType": "Enhanced"}, "Enhanced", 34.0, 5),
        ({"tabType": "Enhanced", "angle": 30, "maxFit": "B2"}, "Enhanced", 30.0, 2),
        ({"tabType": "Fast", "angle": 18, "maxFit": "A5"}, "Fast", 18.0, 2),
    ],
)
def test_tableaus_of_public_clients_are_taken(params: dict[str, object], kind: str, angle: float, order: int) -> None:
    asked = call("acquireTableau", **params)
    assert isinstance(asked, ceos.AcquireTableau)
    assert (asked.tab_type, asked.angle_mrad, asked.highest_order) == (kind, angle, order)
    assert bool(asked.notes) == (not params.get("angle"))


def test_a_correction_without_a_value_needs_a_measurement() -> None:
    asked = call("correctAberration", name="A1", target=[1e-9, 0])
    assert isinstance(asked, ceos.CorrectAberration)
    with pytest.raises(RpcError, match="no value for aberration A1 available") as caught:
        _ = asked.change
    assert caught.value.code == rpc.NOT_AVAILABLE
    change = asked.measured({"A1": (5.0, -3.0)}).change
    assert (change["C12a"], change["C12b"]) == pytest.approx((-4.0, 3.0))


# --- fuzz ----------------------------------------------------------------------------------------

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ceos.NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PARAMS = st.dictionaries(
    st.sampled_from(["name", "value", "target", "select", "tabType", "angle", "x"]), JUNK, max_size=5
)


@given(st.sampled_from([*ceos.METHODS, "x"]), PARAMS)
@settings(max_examples=400, deadline=None)
def test_any_parameters_are_a_call_or_a_clear_refusal(method: str, params: dict[str, object]) -> None:
    try:
        asked = call(method, **params)
    except RpcError as error:
        words = str(error)
    else:
        words = str(asked)
        if isinstance(asked, ceos.CorrectAberration):
            assert np.all(np.isfinite(asked.measured({asked.name: (1.0, 2.0)}).change.array()))
    assert 5 < len(words) < 600


def test_twenty_thousand_spoilt_requests_are_answered_or_refused() -> None:
    rng = np.random.default_rng(0)
    whole = [
        b'{"jsonrpc":"2.0","id":1,"method":"correctAberration","params":{"name":"A1","value":[1e-9,2e-9]}}',
        b'{"jsonrpc":"2.0","id":"a","method":"acquireTableau","params":{"tabType":"Fast","angle":18}}',
        b'{"jsonrpc":"2.0","id":2,"method":"measureC1A1"}',
    ]
    calls, refusals = 0, []
    for case in range(20_000):
        payload = bytearray(whole[case % len(whole)])
        for _ in range(int(rng.integers(1, 3))):
            place = int(rng.integers(len(payload)))
            kind = int(rng.integers(4))
            if kind == 0:
                payload[place] = int(rng.integers(256))
            elif kind == 1:
                payload[place] = int(rng.choice(np.frombuffer(b'0123456789-.e,:[]{}" aAC', np.uint8)))
            elif kind == 2:
                del payload[place : place + int(rng.integers(1, 6))]
            else:
                payload[place:place] = payload[: int(rng.integers(1, 12))]
        try:
            ceos.parse_call(netstring.parse_request(bytes(payload)))
        except RpcError as error:
            refusals.append(len(str(error)))
        else:
            calls += 1
    assert len(refusals) > 10_000
    assert min(refusals) > 5
    assert max(refusals) < 800
    assert calls > 100
