"""Limits hold, faults are retried or end the session at its last good state, and the log says which."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import faulty
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twin.instrument.audit import AuditLog, read
from twin.instrument.dry_run import DryRun
from twin.instrument.faults import (
    ActuatorBusy,
    BadFrame,
    CommandTimeout,
    DoseExhausted,
    MicroscopeFault,
    OutOfReach,
    Stopped,
)
from twin.instrument.limits import DoseBudget, Limits, check_frame, spent_budget
from twin.instrument.safety import SafeMicroscope
from twin.instrument.watch import Watch
from twin.options import checked_options
from twin.types import Frame

SPACE = faulty.SPACE
RNG = np.random.default_rng(0)
MOVE = np.array([10.0, -4.0, 2.0])


class Desk:
    """A guarded instrument, its log, and the seconds it waited."""

    def __init__(self, folder: Path, inner: Any, **limits: Any) -> None:
        self.inner, self.slept, self.path = inner, [], folder / "audit.jsonl"
        settings = {"timeout_s": None, "retry_wait_s": 0.25, **limits}
        self.log = AuditLog(self.path)
        self.safe = SafeMicroscope(inner, Limits(**settings), self.log, self.slept.append)
        self.safe.reset(RNG)

    def events(self) -> list[str]:
        return [entry["event"] for entry in read(self.path)]

    def faults(self) -> list[str]:
        return [entry["kind"] for entry in read(self.path) if entry["event"] == "fault"]

    def good(self, delta: NDArray[np.floating]) -> None:
        self.safe.apply(delta)
        self.safe.acquire()


# --- limits --------------------------------------------------------------------------------------


def test_without_faults_it_is_the_instrument(tmp_path: Path) -> None:
    desk, bare = Desk(tmp_path, faulty.Honest()), faulty.Honest()
    bare.reset(RNG)
    for delta in (MOVE, -2 * MOVE):
        desk.safe.apply(delta)
        bare.apply(delta)
        assert desk.safe.acquire() == bare.acquire()
    np.testing.assert_array_equal(desk.inner.moved, bare.moved)
    assert desk.events() == ["reset"] + 2 * ["command", "moved", "exposure", "frame"]


@pytest.mark.parametrize(
    ("limits", "delta", "message"),
    [
        ({"total_nm": {"C12a": 5.0}}, [0.0, -5.1, 0.0], r"safety.total_nm.C12a allows \+-5 nm; got -5.1 nm"),
        ({"step_nm": {"C10": 8.0}, "ramp": False}, [8.5, 0.0, 0.0], r"safety.step_nm.C10 allows \+-8 nm; got \+8.5"),
        ({}, [60.5, 0.0, 0.0], r"C10.*limit is \+-60"),
        ({}, [float("nan"), 0.0, 0.0], "finite"),
        ({}, [0.0], r"shape \(3,\)"),
    ],
)
def test_beyond_a_limit_nothing_is_sent_and_the_log_says_why(
    limits: dict[str, Any], delta: list[float], message: str, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, faulty.Honest(), **limits)
    with pytest.raises(ValueError, match=message):
        desk.safe.apply(np.array(delta))
    assert not desk.inner.sent
    assert desk.events() == ["reset", "refused"]
    desk.good(np.array([1.0, 1.0, 1.0]))


def test_a_large_input_is_sent_in_equal_pieces(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 4.0}, settle_s=0.5)
    desk.safe.apply(MOVE)
    assert len(desk.inner.sent) == 3
    for part in desk.inner.sent:
        np.testing.assert_allclose(part, MOVE / 3)
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    assert desk.slept == [0.5] * 3
    assert desk.events()[1:] == ["command", "moved"] * 3


@given(st.lists(st.tuples(*[st.floats(-70, 70)] * 3), max_size=6))
def test_whatever_is_asked_no_command_and_no_position_is_beyond_its_limit(inputs: list[tuple[float, ...]]) -> None:
    inner = faulty.Honest()
    limits = Limits(total_nm={"C10": 25.0, "C12b": 10.0}, step_nm={"C10": 6.0, "C12a": 9.0}, timeout_s=None)
    safe = SafeMicroscope(inner, limits, sleep=lambda _: None)
    safe.reset(RNG)
    for delta in inputs:
        try:
            safe.apply(np.array(delta))
        except ValueError:
            continue
        assert np.all(np.abs(inner.moved) <= np.array([25.0, 30.0, 10.0]) + 1e-6)
    assert all(np.all(np.abs(part) <= np.array([6.0, 9.0, 60.0]) + 1e-6) for part in inner.sent)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'C12' is not a calibrated coefficient .*step_nm.*did you mean C12"):
        SafeMicroscope(faulty.Faulty(), Limits(step_nm={"C12": 1.0}))
    for bad, message in (
        ({"step_nm": {"C10": 0.0}}, r"step_nm.C10: input should be greater than 0, got 0.0"),
        ({"dose_e": float("nan")}, "dose_e: .*finite.*, got nan"),
        ({"settle_s": -1.0}, "settle_s: input should be greater than or equal to 0, got -1.0"),
        ({"rollback": "home"}, "rollback: input should be 'last_good' or 'start', got 'home'"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_options(Limits, bad)


# --- dose ----------------------------------------------------------------------------------------


def test_the_exposure_that_would_exceed_the_budget_is_not_taken(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), dose_e=350.0, first_dose_e=100.0)
    for _ in range(3):
        desk.good(MOVE / 10)
    desk.safe.apply(MOVE)
    message = r"DoseExhausted: dose_e allows 350 e; 300 e are spent and 100 e would follow; restored to C10 \+3 nm"
    with pytest.raises(Stopped, match=message):
        desk.safe.acquire()
    assert desk.inner.exposures == 3
    np.testing.assert_allclose(desk.inner.moved, 0.3 * MOVE)


def test_a_known_dose_counts_before_the_first_exposure_and_regions_count_apart() -> None:
    class Knowing(faulty.Faulty):  # type: ignore[name-defined, misc]
        planned, where = 100.0, "a"

        def next_dose_e(self) -> float:
            return self.planned

        def region(self) -> str:
            return self.where

    inner = Knowing()
    safe = SafeMicroscope(inner, Limits(region_dose_e=150.0, timeout_s=None), sleep=lambda _: None)
    safe.reset(RNG)
    safe.acquire()
    inner.where = "b"
    safe.acquire()
    inner.where = "a"
    with pytest.raises(Stopped, match="region_dose_e of a allows 150 e; 100 e are spent and 100 e would follow"):
        safe.acquire()
    inner.planned = 200.0
    safe.reset(RNG)
    with pytest.raises(Stopped, match="0 e are spent and 200 e would follow"):
        safe.acquire()
    assert inner.exposures == 2


def test_an_exposure_that_failed_is_booked_as_if_it_had_not() -> None:
    budget = DoseBudget(Limits(dose_e=250.0))
    budget.book("here", 100.0)
    inner = faulty.Faulty()
    inner.on_acquire = [None, CommandTimeout("silence")]
    safe = SafeMicroscope(inner, Limits(dose_e=250.0, first_dose_e=100.0, timeout_s=None), sleep=lambda _: None)
    safe.reset(RNG)
    safe.acquire()
    with pytest.raises(Stopped, match="200 e are spent"):
        safe.acquire()
    assert inner.exposures == 2


@pytest.mark.parametrize("told", [float("nan"), float("inf"), -100.0, 0.0, 1e-300, 20.0, 450.0])
def test_a_dose_that_cannot_be_ends_the_session_and_spends_the_larger_also_for_the_next_program(
    told: float, tmp_path: Path
) -> None:
    inner = Lasting()
    inner.next_dose_e = lambda: 100.0
    desk = Desk(tmp_path, inner, dose_e=3000.0)
    desk.good(MOVE)
    inner.dose_e = told
    desk.safe.apply(MOVE)
    with pytest.raises(Stopped, match=r"BadFrame: the frame tells a dose of .*; restored to"):
        desk.safe.acquire()
    # An exposure of which no frame is written counts as planned for the next program.
    assert spent_budget(read(desk.path), Limits()).spent_e == 400.0
    lines = desk.path.read_text().splitlines()
    assert all(json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines)


@pytest.mark.parametrize(("told", "frames", "next_e"), [(40.0, 5, 100.0), (100.0, 5, 100.0), (250.0, 2, 250.0)])
def test_the_larger_of_planned_and_told_is_booked(told: float, frames: int, next_e: float) -> None:
    inner = faulty.Faulty()
    inner.next_dose_e, inner.dose_e = (lambda: 100.0), told
    safe = SafeMicroscope(inner, Limits(dose_e=500.0, timeout_s=None), sleep=lambda _: None)
    safe.reset(RNG)
    for _ in range(frames):
        safe.acquire()
    with pytest.raises(Stopped, match=f"500 e are spent and {next_e:g} e would follow"):
        safe.acquire()


@pytest.mark.parametrize("told", [110.0, 150.0, 200.0, 290.0])
def test_an_instrument_that_announces_too_little_does_not_outspend_its_budget(told: float) -> None:
    inner = faulty.Faulty()
    inner.next_dose_e, inner.dose_e = (lambda: 100.0), told
    safe = SafeMicroscope(inner, Limits(dose_e=560.0, timeout_s=None), sleep=lambda _: None)
    safe.reset(RNG)
    with suppress(Stopped):
        for _ in range(9):
            safe.acquire()
    assert inner.exposures * told <= 560.0
    assert (inner.exposures + 1) * told > 560.0


def test_a_first_exposure_of_unknown_cost_needs_the_operators_figure() -> None:
    for limit in ({"dose_e": 1e9}, {"region_dose_e": 1e9}):
        with pytest.raises(ValueError, match=r"give that of the first one, safety\.first_dose_e"):
            SafeMicroscope(faulty.Faulty(), Limits(**limit))
    inner = faulty.Faulty()
    safe = SafeMicroscope(inner, Limits(dose_e=1e3, first_dose_e=2e3), sleep=lambda _: None)
    safe.reset(RNG)
    with pytest.raises(Stopped, match="0 e are spent and 2000 e would follow"):
        safe.acquire()
    assert inner.exposures == 0


@pytest.mark.parametrize("planned", [float("nan"), float("inf"), -1.0])
def test_an_exposure_of_unknown_cost_is_not_taken(planned: float) -> None:
    inner = faulty.Faulty()
    inner.next_dose_e = lambda: planned
    safe = SafeMicroscope(inner, Limits(dose_e=1e9, timeout_s=None), sleep=lambda _: None)
    safe.reset(RNG)
    with pytest.raises(Stopped, match="no budget can check that"):
        safe.acquire()
    assert inner.exposures == 0


def test_a_log_of_before_with_doses_that_are_none_is_read_as_planned() -> None:
    log = [{"event": "reset"}]
    for dose in (float("nan"), "inf", -5.0):
        log += [{"event": "exposure", "region": "a", "planned_e": 7.0}, {"event": "frame", "dose_e": dose}]
    assert spent_budget(log, Limits()).spent_e == 21.0


# --- faults of the corrector ---------------------------------------------------------------------


def test_a_busy_corrector_is_waited_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.inner.on_apply = [ActuatorBusy("ramping"), ActuatorBusy("ramping")]
    desk.good(MOVE)
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    assert desk.faults() == ["ActuatorBusy", "ActuatorBusy"]
    assert desk.slept.count(0.25) == 2


def test_one_that_stays_busy_ends_the_session_at_the_last_good_state(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 5.0})
    desk.good(MOVE)
    desk.inner.on_apply = [None, *[ActuatorBusy("ramping")] * 3]
    with pytest.raises(Stopped, match=r"ActuatorBusy: ramping; restored to C10 \+10 nm, C12a -4 nm, C12b \+2 nm"):
        desk.safe.apply(MOVE)  # the first of two pieces arrives
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    assert desk.events()[-2:] == ["restoring", "restored"]
    for call in (desk.safe.acquire, lambda: desk.safe.apply(MOVE)):
        with pytest.raises(Stopped, match="ramping"):
            call()
    desk.safe.reset(RNG)
    desk.good(MOVE)


@pytest.mark.parametrize("kind", [faulty.Honest, faulty.Absolute])
@pytest.mark.parametrize("error", [CommandTimeout("silence"), ConnectionResetError("gone"), KeyError("vendor bug")])
def test_after_silence_the_corrector_is_asked(kind: type, error: Exception, tmp_path: Path) -> None:
    desk = Desk(tmp_path, kind())
    desk.good(MOVE)
    desk.inner.on_apply = [(error,)]  # it moves, then says nothing
    desk.good(MOVE / 2)
    np.testing.assert_allclose(desk.inner.moved, 1.5 * MOVE)
    assert [e["outcome"] for e in read(desk.path) if "outcome" in e] == ["it had moved nevertheless"]
    desk.inner.on_apply = [error]  # it does not move
    before = desk.inner.moved
    desk.good(MOVE / 4)
    np.testing.assert_allclose(desk.inner.moved, before + MOVE / 4)


@pytest.mark.parametrize("kind", [faulty.Honest, faulty.Absolute])
def test_one_that_stopped_half_way_is_brought_back(kind: type, tmp_path: Path) -> None:
    desk = Desk(tmp_path, kind())
    desk.good(MOVE)
    desk.inner.gain = 0.5
    desk.inner.on_apply = [(CommandTimeout("silence"),)]

    def repaired(instrument: Any) -> None:
        instrument.gain = 1.0

    desk.inner.on_apply.append(repaired)
    with pytest.raises(Stopped, match=r"it stands at .*; restored to"):
        desk.safe.apply(MOVE)
    np.testing.assert_allclose(desk.inner.moved, MOVE, atol=0.5)


def test_without_a_read_back_silence_is_not_called_restored(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Faulty())
    desk.good(MOVE)
    desk.inner.on_apply = [(CommandTimeout("silence"),)]
    with pytest.raises(Stopped, match=r"whether it moved is not known; NOT restored to .*: whether the last command"):
        desk.safe.apply(MOVE)
    assert desk.events()[-1] == "not restored"
    assert read(desk.path)[-1]["goal_nm"] == MOVE.tolist()


@pytest.mark.parametrize("gain", [1.03, 0.96, -1.0])
def test_a_corrector_that_lies_by_a_few_percent_is_caught_and_brought_back(gain: float, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.good(np.array([1.0, 1.0, 1.0]))
    desk.inner.gain = gain
    with pytest.raises(Stopped, match=r"NotThere: C10 was sent to \+21.000 nm and reads .* allows 0.5 nm; restored to"):
        desk.safe.apply(np.array([20.0, 0.0, 0.0]))
    np.testing.assert_allclose(desk.inner.moved, 1.0, atol=1e-9)
    assert desk.faults() == ["NotThere"]


@pytest.mark.parametrize("told", [np.zeros(2), np.array([1.0, np.nan, 0.0]), np.zeros((3, 1))])
def test_a_read_back_that_is_no_position_is_none(told: NDArray[np.floating], tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.good(MOVE)
    desk.inner.says = lambda moved: told
    with pytest.raises(Stopped, match=r"NotThere: the corrector does not report its position; NOT restored"):
        desk.safe.apply(MOVE)
    # What was sent was taken back all the same.
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    assert desk.events()[-1] == "not restored"


def test_one_that_does_not_move_is_caught(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.inner.gain = 0.0
    with pytest.raises(Stopped, match=r"reads \+0.000 nm.*restored to C10 \+0 nm"):
        desk.safe.apply(MOVE)


def test_a_slow_corrector_is_given_time(tmp_path: Path) -> None:
    inner, readings = faulty.Honest(), []

    def slowly(moved: NDArray[np.floating]) -> NDArray[np.floating]:
        readings.append(moved)
        return 0.0 * moved if len(readings) < 3 else moved

    inner.says = slowly
    desk = Desk(tmp_path, inner)
    desk.good(MOVE)
    assert len(readings) == 3
    assert not desk.faults()


def test_what_cannot_be_restored_is_said(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.good(MOVE)
    desk.inner.on_apply = [OutOfReach("beyond the lens"), *[ConnectionResetError("gone")] * 5]
    desk.inner.says = lambda moved: moved + 50.0
    with pytest.raises(Stopped, match=r"OutOfReach: beyond the lens; NOT restored to C10 \+10 nm.*"):
        desk.safe.apply(MOVE)
    assert desk.events()[-1] == "not restored"


def test_a_refusal_by_the_instrument_moves_nothing_and_the_session_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.inner.on_apply = [ValueError("not today")]
    with pytest.raises(ValueError, match="not today"):
        desk.safe.apply(MOVE)
    desk.good(MOVE)
    assert "refused" in desk.events()


def test_a_refusal_within_a_ramp_ends_the_session(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 5.0})
    desk.inner.on_apply = [None, ValueError("not today")]
    with pytest.raises(Stopped, match=r"in the middle of a ramp: not today; restored to C10 \+0 nm"):
        desk.safe.apply(MOVE)
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)


# --- faults of the camera ------------------------------------------------------------------------


def bad_frames() -> dict[str, Callable[[Any], Frame]]:
    shape, zeros = (64, 64), np.zeros((64, 64), np.uint16)
    spoilt = np.ones(shape)
    spoilt[3, 4] = np.nan
    return {
        "wrong shape": lambda inner: inner.frame(np.arange(64 * 32, dtype=np.uint16).reshape(64, 32)),
        "transposed list": lambda inner: inner.frame(np.arange(64, dtype=np.uint16)),
        "not finite": lambda inner: inner.frame(spoilt),
        "floats": lambda inner: inner.frame(np.arange(64.0 * 64).reshape(shape)),
        "all zero": lambda inner: inner.frame(zeros),
        "constant": lambda inner: inner.frame(zeros + np.uint16(77)),
        "beyond the camera": lambda inner: inner.frame(np.arange(64 * 64, dtype=np.uint16).reshape(shape)),
        "stale": lambda inner: inner.frame(clock_s=1.0),
        "clock not a number": lambda inner: inner.frame(clock_s=float("nan")),
    }


@pytest.mark.parametrize("name", sorted(bad_frames()))
def test_a_frame_that_cannot_be_is_taken_again_and_given_up_after_three(name: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.good(MOVE)
    desk.inner.on_acquire = [bad_frames()[name](desk.inner)]
    desk.safe.apply(MOVE)
    frame = desk.safe.acquire()
    check_frame(frame, desk.inner.capabilities, 1.0)
    kind = "StaleFrame" if "stale" in name or "clock" in name else "BadFrame"
    assert desk.faults() == [kind]
    desk.inner.on_acquire = [bad_frames()[name](desk.inner) for _ in range(3)]
    desk.safe.apply(-MOVE / 2)
    with pytest.raises(Stopped, match=rf"{kind}: .*; restored to C10 \+20 nm"):
        desk.safe.acquire()
    np.testing.assert_allclose(desk.inner.moved, 2 * MOVE)
    assert desk.faults() == [kind] * 5
    assert len([entry for entry in read(desk.path) if entry["event"] == "frame"]) == 2


def test_the_frame_before_is_no_new_frame_whatever_its_clock_says(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    first = desk.safe.acquire()
    desk.inner.on_acquire = [desk.inner.frame(first.counts.copy(), clock_s=2.0)]
    assert desk.safe.acquire().clock_s == 3.0
    assert desk.faults() == ["StaleFrame"]
    latest = desk.safe.acquire().counts
    desk.inner.on_acquire = [desk.inner.frame(latest.copy(), clock_s=5.0 + k) for k in range(3)]
    with pytest.raises(Stopped, match="equals the previous one, byte for byte"):
        desk.safe.acquire()


def test_a_camera_that_raises_is_asked_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.inner.on_acquire = [RuntimeError("driver"), OSError("cable")]
    desk.safe.acquire()
    assert desk.faults() == ["BadFrame", "BadFrame"]


# --- the way back --------------------------------------------------------------------------------


@pytest.mark.parametrize(("rollback", "goal"), [("last_good", MOVE), ("start", 0 * MOVE)])
def test_where_a_session_is_left_is_the_operators_choice(
    rollback: str, goal: NDArray[np.floating], tmp_path: Path
) -> None:
    desk = Desk(tmp_path, faulty.Faulty(), rollback=rollback, step_nm={"C10": 4.0})
    desk.good(MOVE)
    desk.safe.apply(MOVE)
    desk.safe.abort("lunch")
    np.testing.assert_allclose(desk.inner.moved, goal, atol=1e-9)
    assert max(abs(part[0]) for part in desk.inner.sent) <= 4.0 + 1e-9
    assert desk.events()[-1] == "restored"
    desk.safe.abort("again")
    assert desk.events().count("abort") == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("a bug")])
def test_leaving_a_with_by_an_exception_restores(error: BaseException, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())

    def session() -> None:
        with desk.safe:
            desk.good(MOVE)
            desk.safe.apply(MOVE)
            raise error

    with pytest.raises(type(error)):
        session()
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    assert type(error).__name__ in next(e["reason"] for e in read(desk.path) if e["event"] == "abort")


@pytest.mark.parametrize("kind", [faulty.Honest, faulty.Absolute])
@pytest.mark.parametrize("retries", [0, 2])
def test_an_interrupt_within_a_command_is_followed_by_the_way_back(kind: type, retries: int, tmp_path: Path) -> None:
    """The driver is not stopped by it and arrives after all."""
    desk = Desk(tmp_path, kind(), timeout_s=5.0, retries=retries)
    desk.good(MOVE)

    def pressed(instrument: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)

    desk.inner.on_apply = [pressed]
    with pytest.raises(KeyboardInterrupt):
        desk.safe.apply(MOVE)
    desk.safe.abort("interrupted")
    assert desk.events()[-1] == "restored"
    np.testing.assert_allclose(desk.inner.moved, MOVE, atol=1e-9)


def test_ctrl_c_waits_for_the_way_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 4.0})
    desk.good(MOVE)
    desk.safe.apply(MOVE)
    desk.inner.on_apply = [lambda instrument: signal.raise_signal(signal.SIGINT)] * 2
    desk.safe.abort("interrupted")
    assert desk.events()[-1] == "restored"
    np.testing.assert_allclose(desk.inner.moved, MOVE)


def test_leaving_a_with_in_order_stays_where_it_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    with desk.safe:
        desk.good(MOVE)
        desk.safe.apply(MOVE)
    np.testing.assert_allclose(desk.inner.moved, 2 * MOVE)
    assert desk.events()[-1] == "end"


def test_a_hanging_driver_is_not_waited_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Faulty(), timeout_s=0.1, retries=0)
    desk.good(MOVE)
    desk.inner.on_apply = [faulty.hang]
    began = time.monotonic()
    with pytest.raises(Stopped, match=r"CommandTimeout: no answer within 0.1 s.*NOT restored.*not returned"):
        desk.safe.apply(MOVE)
    assert time.monotonic() - began < 0.9


def test_a_watch_hands_on_results_and_errors_and_recovers() -> None:
    watch = Watch(5.0)
    assert watch.call(lambda: 3) == 3
    with pytest.raises(BadFrame, match="spoilt"):
        watch.call(lambda: (_ for _ in ()).throw(BadFrame("spoilt")))
    short = Watch(0.05)
    with pytest.raises(CommandTimeout):
        short.call(lambda: time.sleep(0.12))
    time.sleep(0.12)
    assert short.call(lambda: 4) == 4


# --- resuming, rehearsing, the log ---------------------------------------------------------------


class Lasting(faulty.Honest):  # type: ignore[name-defined, misc]
    def session(self) -> dict[str, Any]:
        return {"origin": self.origin.tolist()}

    def take_up(self, session: Any, clock_s: float) -> None:
        self.origin, self.clock = np.array(session["origin"]), clock_s


def taken_up(desk: Desk, cumulative_nm: NDArray[np.floating], **limits: Any) -> SafeMicroscope:
    """As by another program, after the first one was killed: its lock on the log is gone."""
    desk.log.end()
    settings = {"timeout_s": None, "retry_wait_s": 0.0, **limits}
    again = SafeMicroscope(desk.inner, Limits(**settings), AuditLog(desk.path), lambda _: None)
    again.resume(desk.inner.session(), cumulative_nm, desk.inner.clock)
    return again


def test_a_resumed_session_goes_to_its_state_within_the_limits_and_is_verified(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Lasting())
    desk.good(MOVE)
    desk.inner.position = desk.inner.position + 15.0
    desk.inner.sent.clear()
    again = taken_up(desk, MOVE, step_nm={"C12a": 4.0})
    np.testing.assert_allclose(desk.inner.sent, [[-3.75] * 3] * 4)
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    assert desk.events()[-9:] == ["resume", *["command", "moved"] * 4]
    assert again.acquire().clock_s == 2.0
    again.apply(MOVE)
    again.abort("lunch")
    np.testing.assert_allclose(desk.inner.moved, MOVE, atol=1e-9)


def test_a_corrector_that_does_not_arrive_at_the_resumed_state_is_left_where_it_stood(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Lasting())
    desk.good(MOVE)
    desk.inner.position, desk.inner.gain = desk.inner.position + 15.0, 0.9
    with pytest.raises(Stopped, match=r"C10 was sent to \+10.000 nm and reads \+11.500 nm.*restored to C10 \+25 nm"):
        taken_up(desk, MOVE)
    np.testing.assert_allclose(desk.inner.moved, MOVE + 15.0, atol=1e-9)


@pytest.mark.parametrize(
    ("elsewhere", "cumulative", "words"),
    [(300.0, 10.0, r"total_nm.C12b allows \+-30 nm; got \+302"), (0.0, 70.0, r"C10.*limit is \+-60")],
)
def test_a_session_beyond_its_range_is_not_taken_up(
    elsewhere: float, cumulative: float, words: str, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, Lasting())
    desk.good(MOVE)
    desk.inner.position = desk.inner.position + elsewhere
    desk.inner.sent.clear()
    with pytest.raises(OutOfReach, match=words):
        taken_up(desk, np.array([cumulative, 0.0, 0.0]))
    assert not desk.inner.sent


def test_a_budget_outlives_the_program(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Lasting(), dose_e=450.0, first_dose_e=100.0)
    desk.good(MOVE)
    desk.safe.reset(RNG)
    desk.good(MOVE)
    desk.inner.on_acquire = [CommandTimeout("silence")]  # booked, and the next one good
    desk.good(MOVE)
    again = taken_up(desk, 2 * MOVE, dose_e=450.0, first_dose_e=100.0)
    assert next(entry for entry in read(desk.path) if entry["event"] == "resume")["spent_e"] == 300.0
    again.acquire()
    with pytest.raises(Stopped, match="400 e are spent and 100 e would follow"):
        again.acquire()


def test_a_log_that_ends_within_an_exposure_counts_it() -> None:
    log: list[dict[str, Any]] = [
        {"event": "exposure", "region": "a", "planned_e": 1.0},
        {"event": "reset"},
        {"event": "exposure", "region": "a", "planned_e": 10.0},
        {"event": "frame", "dose_e": 12.0},
        {"event": "exposure", "region": "b", "planned_e": 12.0},
        {"event": "fault"},
        {"event": "exposure", "region": "a", "planned_e": 12.0},
    ]
    budget = spent_budget(log, Limits(region_dose_e=25.0))
    assert (budget.spent_e, budget.largest_e) == (36.0, 12.0)
    budget.check("b", 13.0)
    with pytest.raises(DoseExhausted, match="region_dose_e of a allows 25 e; 24 e are spent and 13 e"):
        budget.check("a", 13.0)


def test_a_dry_run_shows_everything_and_touches_nothing(tmp_path: Path) -> None:
    instrument, stand_in, shown = faulty.Faulty(), faulty.Faulty(), []
    desk = Desk(tmp_path, DryRun(instrument, stand_in, shown.append), step_nm={"C10": 5.0})
    desk.good(MOVE)
    assert (instrument.exposures, instrument.sent) == (0, [])
    assert stand_in.exposures == 1
    assert shown == [
        "faulty, dry run: would begin a session",
        "faulty, dry run: would add C10 +5 nm, C12a -2 nm, C12b +1 nm",
        "faulty, dry run: would add C10 +5 nm, C12a -2 nm, C12b +1 nm",
        "faulty, dry run: would expose 0.5 s, 100 e",
    ]
    assert read(desk.path)[0]["instrument"] == "faulty, dry run"


def test_without_a_log_nothing_is_sent_but_everything_is_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.good(MOVE)
    desk.safe.apply(MOVE)

    def full(self: AuditLog, event: str, **details: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(AuditLog, "write", full)
    for call in (lambda: desk.safe.apply(MOVE), desk.safe.acquire):
        with pytest.raises(OSError, match="no space"):
            call()
    assert (len(desk.inner.sent), desk.inner.exposures) == (2, 1)
    desk.safe.abort("no log")
    np.testing.assert_allclose(desk.inner.moved, MOVE)


def test_an_instrument_that_cannot_be_reached_is_a_fault(tmp_path: Path) -> None:
    inner = faulty.Honest()
    inner.reset = lambda rng: (_ for _ in ()).throw(ConnectionRefusedError("nobody there"))
    with pytest.raises(MicroscopeFault, match="ConnectionRefusedError: nobody there"):
        Desk(tmp_path, inner)
    assert read(tmp_path / "audit.jsonl")[-1]["outcome"] == "no session"


def test_a_kill_in_the_middle_of_a_command_is_in_the_log(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
import numpy as np
from twin.instrument.audit import AuditLog
from twin.instrument.limits import Limits, spent_budget
from twin.instrument.safety import SafeMicroscope
sys.path.append(sys.argv[2])
from fakes.faulty import Faulty
inner = Faulty()
safe = SafeMicroscope(inner, Limits(timeout_s=None), AuditLog(Path(sys.argv[1])))
safe.reset(np.random.default_rng(0))
safe.acquire()
inner.on_apply = [lambda instrument: os.kill(os.getpid(), signal.SIGKILL)]
safe.apply(np.array([1.0, 2.0, 3.0]))
"""
    path, tests = tmp_path / "audit.jsonl", Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, str(path), str(tests)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [entry["event"] for entry in read(path)] == ["reset", "exposure", "frame", "command"]
    assert read(path)[-1]["target_nm"] == [1.0, 2.0, 3.0]
