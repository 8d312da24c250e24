"""Drivers and programs that do what nobody asked for: forks, lazy values, answers by return value, changed limits."""

import os
import signal
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import faulty

from benchmarks.guard.odd_drivers import LazySettings
from twin.instrument.audit import AuditLog, LogInUse, read
from twin.instrument.faults import ActuatorBusy, CommandTimeout, NotInTurn, OutOfReach, Stopped
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.state import StateSpace

RNG = np.random.default_rng(0)
MOVE = np.array([10.0, -4.0, 2.0])

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
forks = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def guarded(folder: Path, inner: Any, **limits: Any) -> tuple[SafeMicroscope, Path]:
    """A session of an instrument, and its log."""
    path = folder / "audit.jsonl"
    chosen = Limits(**{"timeout_s": 5.0, "retry_wait_s": 0.01, **limits})
    safe = SafeMicroscope(inner, chosen, AuditLog(path), lambda seconds: None)
    safe.reset(RNG)
    return safe, path


def events(path: Path) -> list[str]:
    return [entry["event"] for entry in read(path)]


# --- forked processes ------------------------------------------------------------------------------


def child(act: Callable[[], object]) -> int:
    """Do something in a forked process that ends as a program does, with what runs at its exit; its exit code."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            import weakref

            weakref.finalize._exitfunc()  # type: ignore[attr-defined]
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@forks
def test_a_forked_process_that_ends_says_no_last_word_and_keeps_the_log_locked(tmp_path: Path) -> None:
    safe, path = guarded(tmp_path, faulty.Honest())
    safe.apply(MOVE)
    assert child(lambda: None) == 0
    assert events(path) == ["reset", "command", "moved"]
    with pytest.raises(LogInUse):
        AuditLog(path).begin()
    safe.apply(MOVE)
    safe.end()
    assert events(path)[-1] == "end"


@forks
@pytest.mark.parametrize("verb", ["apply", "acquire", "abort", "end", "reset"])
def test_a_forked_process_moves_and_ends_nothing(verb: str, tmp_path: Path) -> None:
    safe, path = guarded(tmp_path, faulty.Honest())
    safe.apply(MOVE)
    calls = {"apply": (MOVE,), "abort": ("why",), "reset": (RNG,)}

    def act() -> None:
        with pytest.raises(NotInTurn, match=f"{verb}\\(\\) was called in a forked process; .* process {os.getppid()}"):
            getattr(safe, verb)(*calls.get(verb, ()))

    assert child(act) == 0
    assert events(path) == ["reset", "command", "moved"]


@forks
def test_a_forked_process_that_leaves_the_with_by_an_error_brings_nothing_back(tmp_path: Path) -> None:
    safe, path = guarded(tmp_path, faulty.Honest())
    with safe:
        safe.apply(MOVE)

        def act() -> None:
            safe.__exit__(RuntimeError, RuntimeError("in the child"), None)

        assert child(act) == 0
        assert events(path) == ["reset", "command", "moved"]
    assert events(path)[-1] == "end"


@forks
def test_a_driver_that_forks_and_comes_back_twice_leaves_no_second_program(tmp_path: Path) -> None:
    codes: list[int] = []

    def fork(instrument: Any) -> None:
        process = os.fork()
        if process:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

    inner = faulty.Honest()
    safe, path = guarded(tmp_path, inner)
    inner.on_apply = [fork]
    safe.apply(MOVE)
    assert codes == [1]
    assert events(path) == ["reset", "command", "moved"]
    np.testing.assert_allclose(inner.moved, MOVE)


# --- lazy values -----------------------------------------------------------------------------------


class Lazy:
    """An array that is made when somebody looks at it."""

    flags = types.SimpleNamespace(writeable=False)

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        return self._make()


def raising(error: BaseException) -> Callable[[], Any]:
    def make() -> Any:
        raise error

    return make


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), MemoryError(), StopIteration()])
def test_a_lazy_position_that_fails_is_a_fault_of_the_session(error: BaseException, tmp_path: Path) -> None:
    inner = faulty.Honest()
    safe, path = guarded(tmp_path, inner, retries=0)
    inner.says = lambda moved: Lazy(raising(error))
    with pytest.raises(Stopped, match="the corrector does not report its position"):
        safe.apply(MOVE)
    assert events(path)[-1] == "not restored"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_a_lazy_frame_that_fails_is_a_fault_of_the_session(error: BaseException, tmp_path: Path) -> None:
    inner = faulty.Honest()
    safe, path = guarded(tmp_path, inner, retries=0)
    inner.frame = lambda: replace(faulty.Honest().frame(), counts=Lazy(raising(error)))
    with pytest.raises(Stopped, match=type(error).__name__):
        safe.acquire()
    assert events(path)[-1] == "restored"


@pytest.mark.parametrize("kind", ["position", "frame"])
def test_a_lazy_value_that_hangs_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    inner = faulty.Honest()
    safe, _ = guarded(tmp_path, inner, retries=0, timeout_s=0.1)
    slow = Lazy(lambda: time.sleep(0.6))
    inner.says = lambda moved: slow
    inner.frame = lambda: replace(faulty.Honest().frame(), counts=slow)
    begun = time.monotonic()
    with pytest.raises(Stopped):
        safe.apply(MOVE) if kind == "position" else safe.acquire()
    assert time.monotonic() - begun < 5.0


def test_settings_that_cannot_be_read_are_a_fault(tmp_path: Path) -> None:
    inner = faulty.Honest()
    safe, _ = guarded(tmp_path, inner, retries=0)
    inner.frame = lambda: replace(faulty.Honest().frame(), settings=LazySettings())
    with pytest.raises(Stopped, match="KeyboardInterrupt"):
        safe.acquire()


# --- answers by return value -----------------------------------------------------------------------


async def nothing() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("told", "words"),
    [(False, "returned False"), (np.bool_(False), "returned False"), ("coroutine", "returned a coroutine")],
)
@pytest.mark.parametrize("kind", [faulty.Faulty, faulty.Honest])
def test_a_failure_that_is_returned_is_none_the_less_one(kind: type, told: Any, words: str, tmp_path: Path) -> None:
    inner = kind()
    safe, path = guarded(tmp_path, inner, retries=0)
    inner.apply = lambda delta_nm: nothing() if told == "coroutine" else told
    with pytest.raises(Stopped, match=words):
        safe.apply(MOVE)
    assert events(path)[-1] == ("not restored" if kind is faulty.Faulty else "restored")


def test_a_driver_whose_reset_failed_begins_no_session(tmp_path: Path) -> None:
    inner = faulty.Honest()
    inner.reset = lambda rng: nothing()
    with pytest.raises(Exception, match=r"reset\(\) returned a coroutine, which nobody runs"):
        guarded(tmp_path, inner)
    assert read(tmp_path / "audit.jsonl")[-1]["outcome"] == "no session"


# --- moves that show late --------------------------------------------------------------------------


def late(inner: Any) -> None:
    """Let the next reading show the place before the move."""
    before = inner.moved
    readings = [before]
    inner.says = lambda moved: readings.pop() if readings else moved


class After:
    """Raises after the move, which shows one reading late."""

    def __init__(self, inner: Any, error: Exception) -> None:
        inner_apply = inner.apply

        def apply(delta_nm: Any) -> None:
            late(inner)
            inner_apply(delta_nm)
            inner.apply = inner_apply
            raise error

        inner.apply = apply


@pytest.mark.parametrize("error", [ActuatorBusy("ramping"), OutOfReach("the lens ends here")])
def test_a_refusal_whose_move_shows_late_is_not_sent_again(error: Exception, tmp_path: Path) -> None:
    inner = faulty.Honest()
    safe, path = guarded(tmp_path, inner, total_nm={"C10": 12.0})
    After(inner, error)
    with pytest.raises(Stopped):
        safe.apply(MOVE)
    assert np.all(np.abs(inner.moved) <= 12.0)
    assert events(path)[-1] == "not restored"


@pytest.mark.parametrize("error", [ActuatorBusy("ramping"), CommandTimeout("gone"), ValueError("no")])
def test_the_way_back_is_not_over_before_a_late_move_has_shown(error: Exception, tmp_path: Path) -> None:
    inner = faulty.Honest()
    safe, path = guarded(tmp_path, inner)
    safe.apply(MOVE)
    After(inner, error)
    safe.abort("the end")
    word = read(path)[-1]
    assert word["event"] != "restored" or np.allclose(inner.moved, 0.0, atol=0.5)


# --- limits ----------------------------------------------------------------------------------------


def test_limits_that_the_program_changes_afterwards_are_those_of_the_beginning(tmp_path: Path) -> None:
    limits = Limits(total_nm={"C10": 12.0}, step_nm={"C10": 12.0}, ramp=False)
    safe = SafeMicroscope(faulty.Honest(), limits)
    limits.total_nm["C10"] = limits.step_nm["C10"] = 1e6  # type: ignore[index]
    safe.reset(RNG)
    with pytest.raises(ValueError, match=r"safety\.total_nm\.C10 allows \+-12 nm"):
        safe.apply(np.array([20.0, 0.0, 0.0]))


def test_an_instrument_that_widens_itself_stays_within_what_it_said_first() -> None:
    inner = faulty.Honest()
    inner.capabilities = replace(inner.capabilities, space=StateSpace())
    safe = SafeMicroscope(inner, Limits())
    object.__setattr__(inner.capabilities.space, "input_nm", (1e6, 1e6, 1e6))
    inner.capabilities = replace(inner.capabilities, max_count=65535)
    safe.reset(RNG)
    with pytest.raises(ValueError, match="60"):
        safe.apply(np.array([100.0, 0.0, 0.0]))
    assert safe.capabilities.max_count == 4000


# --- masked values ---------------------------------------------------------------------------------


def test_a_masked_position_is_none_and_a_masked_frame_is_bad(tmp_path: Path) -> None:
    """A driver masks what it does not know; under the mask stands anything."""
    inner = faulty.Honest()
    inner.read_back_nm = lambda: np.ma.masked_array(inner.moved, [True, False, False])
    safe, path = guarded(tmp_path, inner, retries=0)
    with pytest.raises(Stopped, match=r"the corrector does not report its position.*NOT restored"):
        safe.apply(MOVE)
    assert "a masked value is no position" in next(each for each in read(path) if each["event"] == "fault")["reason"]
    inner = faulty.Honest()
    safe, _ = guarded(tmp_path, inner, retries=0)
    good = inner.frame()
    inner.frame = lambda: replace(good, counts=np.ma.masked_less(good.counts, 20))
    with pytest.raises(Stopped, match="pixels of the frame are masked; restored"):
        safe.acquire()


# --- figures of a frame ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"settings": {"dark_level": -1e9}}, "dark_level of a frame lies in 0 to"),
        ({"settings": {"dark_level": np.nan}}, "dark_level of a frame lies in 0 to"),
        ({"settings": {"dark_level": 300.0}}, "below its dark level of 300"),
        ({"settings": {"dwell_\x1b[2J": np.inf}}, r"dwell_\?\[2J of a frame is a finite number; got inf"),
        ({"settings": {f"k{k}": 1.0 for k in range(30_000)}}, "tells 30000 settings; 64 are allowed"),
        ({"exposure_s": 0.0}, r"an exposure of 0\.0 s"),
        ({"exposure_s": -1.0}, r"an exposure of -1\.0 s"),
        ({"exposure_s": np.nan}, "an exposure of nan s"),
        ({"exposure_s": 1e308}, r"an exposure of 1e\+308 s"),
        ({"dose_e": 300.0}, "a factor of 3 is allowed"),
    ],
)
def test_figures_of_a_local_camera_are_believed_no_more_than_those_of_a_far_one(
    wrong: dict[str, Any], words: str, tmp_path: Path
) -> None:
    inner = faulty.Honest()
    inner.next_dose_e = lambda: 90.0
    safe, path = guarded(tmp_path, inner, retries=0)
    good = inner.frame
    inner.frame = lambda: replace(good(), **wrong)
    with pytest.raises(Stopped, match=words):
        safe.acquire()
    assert events(path)[-1] == "restored"


# --- interrupts of the driver's own ----------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_driver_itself_sends_waits_for_its_move(number: int, tmp_path: Path) -> None:
    arrived: list[int] = []
    before = signal.signal(number, lambda *_: arrived.append(1))
    try:
        inner = faulty.Honest()
        safe, path = guarded(tmp_path, inner)
        inner.on_apply = [lambda instrument: signal.raise_signal(number)]
        safe.apply(MOVE)
        assert arrived == [1]
    finally:
        signal.signal(number, before)
    assert events(path) == ["reset", "command", "moved"]
