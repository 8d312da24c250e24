"""Attacks on the guard, by kind: interrupts, the way back, the read-back, arrays, callers, frames, the log."""

import gc
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import faulty
from numpy.typing import NDArray

from twin.instrument.audit import AuditLog, LogInUse, read
from twin.instrument.base import CameraView, to_counts
from twin.instrument.dry_run import DryRun
from twin.instrument.faults import ActuatorBusy, BadFrame, CommandTimeout, MicroscopeFault, NotInTurn, NotThere, Stopped
from twin.instrument.guard import journal
from twin.instrument.limits import Limits, spent_budget
from twin.instrument.recorder import RecordingMicroscope
from twin.instrument.recording import Recording
from twin.instrument.safety import SafeMicroscope
from twin.instrument.watch import Watch
from twin.interrupt import session
from twin.types import Frame
from twin.wire import netstring

RNG = np.random.default_rng(0)
MOVE = np.array([10.0, -4.0, 2.0])
FAR = np.array([40.0, 0.0, 0.0])


class Desk:
    """A guarded instrument and its log."""

    def __init__(
        self, folder: Path, inner: Any, sleep: Callable[[float], None] = lambda seconds: None, **limits: Any
    ) -> None:
        self.inner, self.path = inner, folder / "audit.jsonl"
        self.log = AuditLog(self.path)
        self.safe = SafeMicroscope(inner, Limits(**{"timeout_s": 5.0, "retry_wait_s": 0.01, **limits}), self.log, sleep)
        self.safe.reset(RNG)

    def entries(self, event: str) -> list[Any]:
        return [entry for entry in read(self.path) if entry["event"] == event]

    @property
    def last(self) -> str:
        return read(self.path)[-1]["event"]

    def bad_frame(self, message: str = "") -> None:
        """End the session by frames that cannot be."""
        self.inner.on_acquire = [BadFrame("the shutter is stuck")] * 9
        with pytest.raises(Stopped, match=message):
            self.safe.acquire()


def interval(entry: Any) -> list[tuple[float, float]]:
    return list(zip(entry["low_nm"], entry["high_nm"], strict=True))


def raising(error: BaseException) -> Callable[[Any], None]:
    def act(instrument: Any) -> None:
        raise error

    return act


# --- interrupts during a move --------------------------------------------------------------------


class Moving(faulty.Faulty):  # type: ignore[name-defined, misc]
    """Takes its time over a move, and notices a call that comes meanwhile."""

    takes_s, busy, overlaps = 0.1, 0, 0
    presses: tuple[tuple[int, ...], ...] = ()
    """Signals that this program gets during the next moves, in order."""

    def alone(self) -> None:
        self.overlaps += self.busy > 0

    def apply(self, delta_nm: NDArray[np.floating]) -> None:
        self.alone()
        self.busy += 1
        try:
            time.sleep(self.takes_s / 2)
            now, self.presses = self.presses[:1], self.presses[1:]
            for number in itertools.chain(*now):
                os.kill(os.getpid(), number)
            time.sleep(self.takes_s / 2)
            super().apply(delta_nm)
        finally:
            self.busy -= 1


class MovingReadBack(Moving):
    """Reads back, too."""

    def read_back_nm(self) -> NDArray[np.floating]:
        self.alone()
        return self.moved


@pytest.mark.parametrize("kind", [Moving, MovingReadBack])
@pytest.mark.parametrize("patient", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_move_waits_for_its_end_and_no_call_overlaps(
    number: signal.Signals, patient: bool, kind: type, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, kind(), step_nm={"C10": 20.0})
    desk.inner.presses = ((number,),)

    def calibrate() -> None:
        with session(patient=patient), desk.safe:
            desk.safe.apply(FAR)

    with pytest.raises(KeyboardInterrupt):
        calibrate()
    assert desk.inner.overlaps == 0
    # The second command of the ramp was not sent any more, the first one was taken back.
    assert len(desk.inner.sent) == 2
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)
    assert desk.last == "restored"


def test_many_signals_during_move_and_way_back_change_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, MovingReadBack())

    desk.inner.presses = (5 * (signal.SIGINT, signal.SIGTERM, signal.SIGHUP),) * 2

    def calibrate() -> None:
        with session(), desk.safe:
            desk.safe.apply(FAR)

    with pytest.raises(KeyboardInterrupt):
        calibrate()
    assert (desk.inner.overlaps, desk.last) == (0, "restored")
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("when", ["during a move", "between two calls", "during a frame"])
@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGHUP,), (signal.SIGTERM,) * 3])
def test_a_program_of_ones_own_is_ended_by_its_signal_after_the_way_back(
    numbers: tuple[signal.Signals, ...], when: str, tmp_path: Path
) -> None:
    """Without any session of signals around it: by default SIGTERM and SIGHUP kill a program at once."""

    def program() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        desk = Desk(tmp_path, Moving())
        with desk.safe:
            desk.inner.presses = ((), numbers) if when == "during a move" else ()
            desk.safe.apply(MOVE)
            if when == "during a frame":
                desk.inner.on_acquire = [lambda inner: [os.kill(os.getpid(), number) for number in numbers]]
                desk.safe.acquire()
            if when == "between two calls":
                for number in numbers:
                    os.kill(os.getpid(), number)
            desk.safe.apply(MOVE)

    child = os.fork()
    if child == 0:
        try:
            program()
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (130 if numbers[0] == signal.SIGINT else -numbers[0])
    lines = read(tmp_path / "audit.jsonl")
    assert lines[-1]["event"] == "restored"
    # A frame that was taken makes its place the last good one.
    goal = MOVE if when == "during a frame" else 0 * MOVE
    np.testing.assert_allclose(lines[-1]["cumulative_nm"], goal, atol=1e-9)


@pytest.mark.parametrize("kind", [Moving, MovingReadBack])
def test_an_error_that_cuts_the_wait_short_forgets_no_command(kind: type, tmp_path: Path) -> None:
    """As by a handler of somebody else: the move goes on, and its end is waited for before the way back."""

    class Alarm(Exception):
        pass

    inner = kind()
    desk = Desk(tmp_path, inner)
    before = signal.signal(signal.SIGALRM, lambda number, frame: (_ for _ in ()).throw(Alarm()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            desk.safe.apply(FAR)
        desk.safe.abort("an alarm")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert (inner.overlaps, desk.last) == (0, "restored")
    np.testing.assert_allclose(inner.moved, 0.0, atol=1e-9)


def test_a_move_that_ends_after_its_time_out_is_booked(tmp_path: Path) -> None:
    """Without read-back the late answer settles what became of the command."""
    desk = Desk(tmp_path, faulty.Faulty(), timeout_s=0.1)
    desk.safe.apply(MOVE)
    desk.inner.on_apply = [lambda instrument: time.sleep(0.15)]
    with pytest.raises(Stopped, match=r"no answer within 0.1 s.*; restored to C10 \+0 nm"):
        desk.safe.apply(MOVE)
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)


def test_an_end_that_is_asked_for_ends_a_wait_without_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.instrument.watch.GRACE_S", 0.1)
    watch, release = Watch(None), threading.Event()
    watch.ending = True
    with pytest.raises(CommandTimeout, match="no answer within"):
        watch.call(release.wait)
    release.set()
    assert watch.call(lambda: 5) == 5


# --- the way back is booked ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [faulty.Faulty, faulty.Honest, faulty.Absolute])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_busy_command_of_the_way_back_is_sent_again_and_booked_once(kind: type, number: int, tmp_path: Path) -> None:
    desk = Desk(tmp_path, kind(), step_nm={"C10": 14.0})
    desk.safe.apply(FAR)
    desk.inner.on_apply = [*[None] * number, ActuatorBusy("ramping")]
    desk.bad_frame(r"; restored to C10 \+0 nm")
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)
    assert [entry["target_nm"][0] for entry in desk.entries("restoring")][-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("arrives", [True, False])
def test_an_answer_lost_on_the_way_back_is_settled_by_the_read_back(number: int, arrives: bool, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 14.0})
    desk.safe.apply(FAR)
    silence = CommandTimeout("silence")
    desk.inner.on_apply = [*[None] * number, (silence,) if arrives else silence]
    desk.bad_frame(r"; restored to C10 \+0 nm")
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("arrives", [True, False])
def test_without_read_back_the_last_word_names_where_it_may_stand(number: int, arrives: bool, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Faulty(), step_nm={"C10": 14.0})
    desk.safe.apply(FAR)
    silence = ConnectionResetError("gone")
    desk.inner.on_apply = [*[None] * number, (silence,) if arrives else silence]
    desk.bad_frame(r"NOT restored to C10 \+0 nm, .*; it may stand at C10 .* to .* nm")
    entry = desk.entries("not restored")[0]
    low, high = interval(entry)[0]
    assert low - 1e-9 <= desk.inner.moved[0] <= high + 1e-9
    assert high - low == pytest.approx(40.0 / 3)
    assert -60.0 <= low <= high <= 60.0


def test_a_corrector_that_is_dead_on_the_way_back_gets_a_bounded_number_of_commands(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 2.0}, retries=3)
    desk.safe.apply(FAR)
    before = len(desk.entries("command"))
    desk.inner.on_apply = [ConnectionResetError("gone")] * 10_000
    desk.bad_frame("NOT restored")
    assert len(desk.entries("restoring")) <= 5
    assert before == 20
    # The read-back says after every one that it did not move.
    assert interval(desk.entries("not restored")[0])[0] == pytest.approx((40.0, 40.0))


def test_one_that_is_always_busy_on_the_way_back_does_not_hold_it_up_for_ever(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Faulty())
    desk.safe.apply(FAR)
    desk.inner.on_apply = [ActuatorBusy("ramping")] * 10_000
    desk.bad_frame(r"NOT restored to C10 \+0 nm.*ActuatorBusy: ramping")
    # Nothing has moved: that is certain, and no interval.
    assert interval(desk.entries("not restored")[0])[0] == (40.0, 40.0)
    assert len(desk.entries("restoring")) < 10


def test_a_way_back_that_fails_in_the_guard_itself_has_a_last_word(tmp_path: Path) -> None:
    waits: list[float] = []

    def broken(seconds: float) -> None:
        waits.append(seconds)
        raise MemoryError

    desk = Desk(tmp_path, faulty.Honest(), sleep=broken, settle_s=0.5)
    desk.inner.says = lambda moved: np.full(3, np.nan)
    with pytest.raises(MemoryError):
        desk.safe.apply(MOVE)
    with pytest.raises(MemoryError):
        desk.safe.abort("no memory")
    assert desk.last == "not restored"
    assert "cut short by MemoryError" in desk.entries("not restored")[0]["problem"]
    with pytest.raises(Stopped, match="cut short"):
        desk.safe.acquire()


# --- read-back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [5000.0, -5000.0, 300_000.0, 7.0, -7.0])
@pytest.mark.parametrize("step", [{}, {"C10": 20.0}])
def test_an_encoder_that_jumps_is_not_followed(jump: float, step: dict[str, float], tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), total_nm={"C10": 50.0}, step_nm=step)
    desk.safe.apply(np.array([45.0, 0.0, 0.0]))
    desk.safe.acquire()
    desk.inner.says = lambda moved: moved + np.array([jump, 0.0, 0.0])
    positions: list[float] = []
    desk.inner.on_apply = [lambda instrument: positions.append(instrument.moved[0])] * 99
    with pytest.raises(Stopped, match="NOT restored"):
        desk.safe.apply(np.array([-10.0, 0.0, 0.0]))
    positions.append(desk.inner.moved[0])
    assert max(map(abs, positions)) <= 50.0
    low, high = interval(desk.entries("not restored")[0])[0]
    assert low - 1e-9 <= desk.inner.moved[0] <= high + 1e-9


@pytest.mark.parametrize("lie", ["frozen", "at the goal", "one command late"])
def test_a_read_back_that_does_not_follow_never_says_restored_elsewhere(lie: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 20.0}, retries=1)
    past: list[NDArray[np.floating]] = [np.zeros(3)]
    says = {
        "frozen": lambda moved: np.array([20.0, 0.0, 0.0]),
        "at the goal": lambda moved: np.zeros(3),
        "one command late": lambda moved: past[-1],
    }
    desk.safe.apply(np.array([20.0, 0.0, 0.0]))
    desk.inner.says = says[lie]
    desk.inner.on_apply = [lambda instrument: past.append(instrument.moved)] * 99
    with pytest.raises(Stopped):
        desk.safe.apply(np.array([20.0, 0.0, 0.0]))
    assert abs(desk.inner.moved[0]) <= 40.0
    assert desk.last == "not restored" or abs(desk.inner.moved[0]) < 0.5


@pytest.mark.parametrize(
    "told", [np.full(3, 1e-3j), ["1", "2", "3"], None, "here", 7.0, np.zeros((3, 3)), [None] * 3, np.full(3, np.inf)]
)
def test_a_read_back_that_is_no_position_settles_nothing(told: Any, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.inner.says = lambda moved: told
    with pytest.raises(Stopped, match="does not report its position; NOT restored"):
        desk.safe.apply(MOVE)
    low, high = interval(desk.entries("not restored")[0])[0]
    assert low - 1e-9 <= desk.inner.moved[0] <= high + 1e-9


def test_one_that_stood_still_in_silence_at_the_limit_is_not_driven_beyond_it(tmp_path: Path) -> None:
    """To undo a command that was never carried out would lead to -65 nm."""
    desk = Desk(tmp_path, faulty.Honest(), total_nm={"C10": 50.0})
    desk.safe.apply(np.array([-45.0, 0.0, 0.0]))
    desk.safe.acquire()
    furthest: list[float] = []
    desk.inner.gain = 0.0

    def works_again(instrument: Any) -> None:
        instrument.gain = 1.0
        furthest.append(instrument.moved[0])

    desk.inner.on_apply = [None, *[works_again] * 20]
    with pytest.raises(Stopped, match="NOT restored"):
        desk.safe.apply(np.array([20.0, 0.0, 0.0]))
    assert min(*furthest, desk.inner.moved[0]) >= -50.0
    # The read-back that followed led back to where it said that it stood.
    np.testing.assert_allclose(desk.inner.moved, [-45.0, 0.0, 0.0], atol=1e-9)


@pytest.mark.parametrize("error", [ValueError("no"), ActuatorBusy("ramping")])
def test_a_refusal_that_moved_is_no_refusal(error: Exception, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.safe.apply(MOVE)
    desk.safe.acquire()
    desk.inner.on_apply = [(error,)]
    if isinstance(error, ValueError):
        desk.safe.apply(MOVE)  # the read-back says that it was carried out
        np.testing.assert_allclose(desk.inner.moved, 2 * MOVE)
        return
    with pytest.raises(Stopped, match="ActuatorBusy: ramping; it reads"):
        desk.safe.apply(MOVE)
    assert abs(desk.inner.moved[0]) <= 20.0


def test_a_driver_that_misses_its_corrector_ends_the_session_at_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.inner.on_apply = [NotThere("somebody else has moved it")]
    with pytest.raises(Stopped, match=r"NotThere: somebody else has moved it; restored to C10 \+0 nm"):
        desk.safe.apply(MOVE)
    assert len(desk.entries("command")) == 1


def test_a_value_error_without_read_back_is_of_unknown_outcome(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Faulty())
    desk.inner.on_apply = [(ValueError("not like this"),)]
    with pytest.raises(Stopped, match="not like this; whether it moved is not known; NOT restored"):
        desk.safe.apply(MOVE)
    assert interval(desk.entries("not restored")[0])[0] == (0.0, 10.0)


def test_a_corrector_on_its_way_is_not_taken_for_one_that_did_not_move(tmp_path: Path) -> None:
    """Two readings have to agree: the first one comes too early."""
    desk = Desk(tmp_path, faulty.Honest())
    shares = iter([0.0, 0.4, 0.9])
    desk.inner.says = lambda moved: moved * next(shares, 1.0)
    desk.inner.on_apply = [(CommandTimeout("silence"),)]
    desk.safe.apply(MOVE)
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    assert [entry["outcome"] for entry in desk.entries("fault")] == ["it had moved nevertheless"]


@pytest.mark.parametrize("command", [[-2.2, -2.7, 1.1], [2.4, 0.0, 0.0], [0.0, 0.0, -3.9]])
@pytest.mark.parametrize("share", [0.7, 0.5, 0.1])
def test_a_slow_corrector_that_reads_near_the_goal_has_not_arrived(
    command: list[float], share: float, tmp_path: Path
) -> None:
    """It was sent further from the goal than a reading can tell, and still reads close to it."""
    desk = Desk(tmp_path, faulty.Honest(), rollback="start", read_back_nm=2.0, retries=0)
    shares = iter([0.02, share, share])
    desk.inner.says = lambda moved: moved * next(shares, 1.0)
    with pytest.raises(Stopped, match="restored to"):
        desk.safe.apply(np.array(command))
    assert desk.last == "restored"
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)


# --- arrays --------------------------------------------------------------------------------------


class Greedy(faulty.Honest):  # type: ignore[name-defined, misc]
    """Scales what it is given, keeps it, fills it later; gives its own arrays away and changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[NDArray[Any]] = []
        self.buffer = np.zeros((64, 64), np.uint16)

    def spoil(self) -> None:
        for array in self.kept:
            array.flags.writeable = True
            array.fill(60000)
        self.kept.clear()

    def apply(self, delta_nm: NDArray[np.floating]) -> None:
        self.spoil()
        super().apply(np.array(delta_nm))
        delta_nm *= 1e-9
        self.kept.append(delta_nm)

    def acquire(self) -> Frame:
        frame = super().acquire()
        self.buffer.flags.writeable = True
        self.buffer[...] = frame.counts
        self.kept.append(self.buffer)
        return Frame(self.buffer, frame.dose_e, frame.exposure_s, frame.clock_s, frame.settings)

    def read_back_nm(self) -> NDArray[np.floating]:
        told = self.moved.copy()
        self.kept.append(told)
        return told


def test_a_driver_that_scales_keeps_and_fills_arrays_hurts_nobody(tmp_path: Path) -> None:
    desk, mine = Desk(tmp_path, Greedy(), step_nm={"C10": 20.0}), FAR.copy()
    desk.safe.apply(mine)
    np.testing.assert_array_equal(mine, FAR)
    np.testing.assert_allclose(desk.inner.sent, [FAR / 2] * 2)
    first = desk.safe.acquire()
    before = first.counts.copy()
    desk.safe.apply(-MOVE)
    desk.inner.spoil()
    np.testing.assert_array_equal(first.counts, before)
    desk.safe.apply(MOVE)
    desk.bad_frame("; restored")
    np.testing.assert_allclose(desk.inner.moved, FAR, atol=1e-9)
    assert desk.entries("command")[0]["delta_nm"] == (FAR / 2).tolist()
    assert desk.entries("moved")[0]["read_back_nm"] == (FAR / 2).tolist()


def test_each_command_of_a_ramp_and_of_the_way_back_is_an_array_of_its_own(tmp_path: Path) -> None:
    """A driver that keeps one buffer and adds to it sends what was asked, not the sum of what it was ever given."""
    given: list[NDArray[np.floating]] = []

    class Accumulates(faulty.Honest):  # type: ignore[name-defined, misc]
        def apply(self, delta_nm: NDArray[np.floating]) -> None:
            super().apply(np.array(delta_nm))
            given.append(delta_nm)
            for earlier in given:
                earlier += 100.0

    desk = Desk(tmp_path, Accumulates(), step_nm={"C10": 15.0})
    desk.safe.apply(FAR)
    desk.bad_frame("; restored")
    np.testing.assert_allclose(desk.inner.sent, [*[FAR / 3] * 3, *[-FAR / 3] * 3])
    lines = [entry["delta_nm"] for name in ("command", "restoring") for entry in desk.entries(name)]
    np.testing.assert_allclose(lines, desk.inner.sent)
    assert len({id(array) for array in given}) == 6


def test_what_the_guard_tells_cannot_be_used_to_change_what_it_knows(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), total_nm={"C10": 50.0}, step_nm={"C10": 25.0})
    space = desk.safe.capabilities.space
    for array in (space.input, space.zero, space.start):
        with suppress(ValueError):
            array += 1e6
    desk.safe.apply(MOVE)
    with pytest.raises(ValueError, match=r"total_nm.C10 allows \+-50 nm; got \+60 nm"):
        desk.safe.apply(np.array([50.0, 0.0, 0.0]))
    desk.bad_frame("; restored")
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)


def test_a_frame_is_a_copy_of_its_own_and_so_are_its_settings(tmp_path: Path) -> None:
    """One buffer, one mapping of settings, filled anew for every exposure."""
    counts, settings = np.zeros((64, 64), np.uint16), {"dark_level": 1.0}

    class OneBuffer(faulty.Honest):  # type: ignore[name-defined, misc]
        def acquire(self) -> Frame:
            fresh = super().acquire()
            counts[...], settings["dark_level"] = fresh.counts, float(self.exposures)
            frame = Frame(fresh.counts, fresh.dose_e, fresh.exposure_s, fresh.clock_s)
            object.__setattr__(frame, "counts", counts)
            object.__setattr__(frame, "settings", settings)
            return frame

    desk = Desk(tmp_path, OneBuffer())
    first, second = desk.safe.acquire(), desk.safe.acquire()
    np.testing.assert_array_equal(second.counts - first.counts, 1)
    assert (first.settings["dark_level"], second.settings["dark_level"]) == (1.0, 2.0)
    with pytest.raises(ValueError, match="read-only"):
        first.counts[0, 0] = 9


def test_a_controller_that_changes_its_array_meanwhile_changes_nothing(tmp_path: Path) -> None:
    mine = MOVE.copy()
    desk = Desk(tmp_path, faulty.Honest(), sleep=lambda seconds: mine.fill(1e6), settle_s=0.1, step_nm={"C10": 3.0})
    desk.inner.on_apply = [lambda instrument: mine.fill(1e6)] * 9
    desk.safe.apply(mine)
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    np.testing.assert_allclose(desk.inner.sent, [MOVE / 4] * 4)


def test_a_recording_and_a_rehearsal_keep_what_was_asked(tmp_path: Path) -> None:
    recorder = RecordingMicroscope(Greedy(), tmp_path / "run.zarr")
    recorder.reset(RNG)
    for _ in range(2):
        recorder.apply(MOVE)
        recorder.acquire()
    trace = Recording(tmp_path / "run.zarr").trace(0)
    np.testing.assert_array_equal(trace.delta_nm, [MOVE] * 2)
    np.testing.assert_array_equal(trace.cumulative_nm, [MOVE, 2 * MOVE])
    shown: list[str] = []
    rehearsal = DryRun(faulty.Honest(), Greedy(), shown.append)
    rehearsal.reset(RNG)
    rehearsal.apply(MOVE)
    assert shown[-1].endswith("would add C10 +10 nm, C12a -4 nm, C12b +2 nm")
    np.testing.assert_array_equal(MOVE, [10.0, -4.0, 2.0])


@pytest.mark.parametrize("given", [[10, -4, 2], (10.0, -4.0, 2.0), np.array([10, -4, 2], np.int32), MOVE[::-1][::-1]])
def test_an_input_in_another_form_is_the_same_input(given: Any, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.safe.apply(given)
    np.testing.assert_array_equal(desk.inner.sent, [MOVE])


@pytest.mark.parametrize("given", ["far", None, MOVE + 1j, [True, False, True], np.full(3, 1e308), [[1, 2, 3]]])
def test_what_is_no_input_is_refused_and_nothing_is_sent(given: Any, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    with pytest.raises(ValueError, match="input"):
        desk.safe.apply(given)
    assert not desk.inner.sent
    assert desk.last == "refused"
    desk.safe.apply(MOVE)


def test_a_step_that_would_take_for_ever_is_refused(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), step_nm={"C10": 1e-9})
    with pytest.raises(ValueError, match=r"safety.step_nm would divide an input into 1e\+10 commands; 10000 are"):
        desk.safe.apply(MOVE)
    assert not desk.inner.sent


# --- callers -------------------------------------------------------------------------------------


def test_calls_from_other_threads_are_served_in_turn(tmp_path: Path) -> None:
    inner = MovingReadBack()
    inner.takes_s = 0.02
    desk = Desk(tmp_path, inner)
    threads = [threading.Thread(target=desk.safe.apply, args=(MOVE / 10,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert desk.inner.overlaps == 0
    np.testing.assert_allclose(desk.inner.moved, 0.8 * MOVE)
    assert desk.entries("command")[-1]["target_nm"] == pytest.approx((0.8 * MOVE).tolist())


@pytest.mark.parametrize("verb", ["apply", "acquire", "abort", "reset"])
def test_a_driver_that_calls_its_guard_is_refused(verb: str, tmp_path: Path) -> None:
    desk, said = Desk(tmp_path, faulty.Honest()), []
    argument = {"apply": (MOVE,), "abort": ("lunch",), "reset": (RNG,)}.get(verb, ())

    def calls_back(instrument: Any) -> None:
        with pytest.raises(NotInTurn, match=r"was called from within another call of the guard") as caught:
            getattr(desk.safe, verb)(*argument)
        said.append(caught.value)

    desk.inner.on_apply = [calls_back]
    desk.safe.apply(MOVE)
    assert len(said) == 1
    np.testing.assert_allclose(desk.inner.moved, MOVE)


def test_a_program_that_calls_from_within_a_wait_is_refused(tmp_path: Path) -> None:
    inner = faulty.Honest()
    desk = Desk(tmp_path, inner, sleep=lambda seconds: desk.safe.apply(MOVE), settle_s=1.0)
    with pytest.raises(NotInTurn):
        desk.safe.apply(MOVE)
    assert len(inner.sent) == 1


# --- what a driver raises and returns ------------------------------------------------------------


class Wordless(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class NoException(BaseException):
    pass


ODD = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    NoException("x"),
    Wordless(),
    StopIteration(),
    MemoryError(),
]


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
def test_whatever_a_driver_raises_is_a_fault_of_the_session(error: BaseException, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), retries=1)
    desk.inner.on_apply = [raising(error)]  # nothing has moved: the read-back says so, and it is sent again
    desk.safe.apply(MOVE)
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    desk.inner.on_acquire = [raising(error)] * 2
    with pytest.raises(Stopped, match=rf"(BadFrame|MicroscopeFault): {type(error).__name__}.*; restored"):
        desk.safe.acquire()
    desk.inner.reset = lambda rng: raising(error)(None)
    with pytest.raises(MicroscopeFault, match=type(error).__name__):
        desk.safe.reset(RNG)
    assert read(desk.path)[-1]["outcome"] == "no session"


@pytest.mark.parametrize(
    "told",
    [
        None,
        3.0,
        "frame",
        np.zeros((64, 64), np.uint16),
        Frame(np.full((64, 64), 1j), 100.0, 0.5, 9.0),
        Frame(np.zeros((128, 128), np.uint16), 100.0, 0.5, 9.0),
        Frame(np.zeros((64, 64), object), 100.0, 0.5, 9.0),
        Frame(np.arange(4096, dtype=np.uint16).reshape(64, 64), None, 0.5, 9.0),  # type: ignore[arg-type]
        Frame(np.arange(4096, dtype=np.uint16).reshape(64, 64), 100.0, 0.5, "late"),  # type: ignore[arg-type]
        Frame(np.arange(4096, dtype=np.uint16).reshape(64, 64), 100.0, 0.5, 9.0, {"gain": "high"}),  # type: ignore[dict-item]
        Frame(np.arange(4096, dtype=np.uint16).reshape(64, 64), 100.0, 0.5, 9.0, None),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_frame_is_a_bad_frame(told: Any, tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest(), retries=0)
    desk.inner.acquire = lambda: told
    with pytest.raises(Stopped, match=r"BadFrame: .*; restored"):
        desk.safe.acquire()


@pytest.mark.parametrize("told", [None, "much", 1j, True, [1.0], -1.0, 0.0, float("nan"), 10**400])
def test_what_is_no_dose_plans_no_exposure(told: Any, tmp_path: Path) -> None:
    inner = faulty.Honest()
    inner.next_dose_e, inner.region = (lambda: told), (lambda: "here")
    desk = Desk(tmp_path, inner)
    with pytest.raises(Stopped, match="no budget can check that"):
        desk.safe.acquire()
    inner.region = lambda: told
    if told == "much":
        return
    desk.safe.reset(RNG)
    with pytest.raises(Stopped, match="has a text for its name"):
        desk.safe.acquire()
    assert inner.exposures == 0


def test_the_words_of_a_driver_are_cut_and_printable(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Faulty())
    desk.inner.on_apply = [RuntimeError("\x1b[2J" + "A" * 10**6)]
    with pytest.raises(Stopped) as caught:
        desk.safe.apply(MOVE)
    assert len(str(caught.value)) < 1200
    assert "\x1b" not in str(caught.value)
    assert desk.path.stat().st_size < 10_000


def test_the_reason_that_a_corrector_gives_is_in_the_audit_log_and_in_the_message(tmp_path: Path) -> None:
    data = {"type": "<class 'Exception'>", "message": "Measured probe diameter out of range: target=20.0 px"}
    answer = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "Server error", "data": data}}
    response = netstring.parse_response(json.dumps(answer).encode())
    desk = Desk(tmp_path, faulty.Honest())
    desk.inner.on_apply = [MicroscopeFault(f"the corrector: {response.error}")]
    desk.inner.on_apply *= 9
    with pytest.raises(Stopped, match="Measured probe diameter out of range"):
        desk.safe.apply(MOVE)
    assert all(data["message"] in fault["reason"] for fault in desk.entries("fault"))
    assert desk.entries("fault")


@pytest.mark.parametrize("image", [np.full((8, 8), 1j), np.full((8, 8), "x"), np.full((8, 8), None), None])
def test_an_image_without_numbers_makes_no_frame(image: Any) -> None:
    with pytest.raises(BadFrame):
        to_counts(image, CameraView(), 8)


# --- the log -------------------------------------------------------------------------------------


def test_a_second_session_on_one_log_is_refused_in_one_sentence(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    for log in (AuditLog(desk.path), desk.log):
        other = SafeMicroscope(faulty.Honest(), Limits(), log)
        with pytest.raises(LogInUse, match="is being written by another session: end that one") as caught:
            other.reset(RNG)
        assert "\n" not in str(caught.value)
    desk.safe.end()
    other.reset(RNG)
    assert [entry["event"] for entry in read(desk.path)] == ["reset", "end", "reset"]


def _another_program(path: Path, answers: Any) -> None:
    try:
        SafeMicroscope(faulty.Honest(), Limits(), AuditLog(path)).reset(RNG)
    except LogInUse as error:
        answers.put(str(error))
    else:
        answers.put("")


def test_another_program_is_refused_and_gets_the_log_afterwards(tmp_path: Path) -> None:
    desk, forked = Desk(tmp_path, faulty.Honest()), multiprocessing.get_context("fork")
    answers = forked.SimpleQueue()
    told = []
    for _ in range(2):
        program = forked.Process(target=_another_program, args=(desk.path, answers))
        program.start()
        told.append(answers.get())
        program.join(10.0)
        desk.safe.end()
    assert "another session" in told[0]
    assert told[1] == ""
    numbers = [entry["n"] for entry in read(desk.path)]
    assert numbers == sorted(set(numbers))


def test_numbers_come_once_also_when_fsync_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = faulty.Honest()
    inner.next_dose_e = lambda: 100.0
    desk = Desk(tmp_path, inner)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            desk.safe.apply(MOVE)
        with pytest.raises(OSError, match="No space"):
            desk.safe.acquire()
    assert (len(desk.inner.sent), desk.inner.exposures) == (0, 0)
    # The lines are on disc all the same; what follows them says that nothing was done.
    assert [entry["event"] for entry in read(desk.path)][-4:] == ["command", "not done", "exposure", "not done"]
    assert spent_budget(read(desk.path), Limits()).spent_e == 0.0
    desk.safe.apply(MOVE)
    desk.safe.abort("lunch")
    numbers = [entry["n"] for entry in read(desk.path)]
    assert numbers == sorted(set(numbers))
    again = AuditLog(desk.path)
    again.write("later")
    assert read(desk.path)[-1]["n"] > max(numbers)


@pytest.mark.parametrize("where", ["write", "fsync", "open"])
def test_a_full_disc_refuses_commands_and_not_the_way_back(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.safe.apply(MOVE)

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, where, full)
        for call in (lambda: desk.safe.apply(MOVE), desk.safe.acquire):
            with pytest.raises(OSError, match="No space"):
                call()
        assert len(desk.inner.sent) == 1
        said = desk.safe.abort("the disc is full")
    assert "restored to C10 +0 nm" in said
    assert "lines of the audit log are missing: [Errno 28] No space left on device" in said
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)


def test_a_disc_that_hangs_holds_up_no_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk, release, fsync = Desk(tmp_path, faulty.Honest()), threading.Event(), os.fsync
    desk.safe.apply(MOVE)
    monkeypatch.setattr(journal, "FORWARD_S", 0.2)
    monkeypatch.setattr(journal, "PATIENCE_S", 0.2)
    monkeypatch.setattr(os, "fsync", lambda file: (release.wait(20.0), fsync(file)))
    with pytest.raises(OSError, match="did not answer within"):
        desk.safe.apply(MOVE)
    began = time.monotonic()
    said = desk.safe.abort("the disc hangs")
    assert time.monotonic() - began < 5.0
    assert "restored to C10 +0 nm" in said
    assert "did not answer" in said
    np.testing.assert_allclose(desk.inner.moved, 0.0, atol=1e-9)
    # What was queued is written in order once the disc answers.
    release.set()
    until = time.monotonic() + 10.0
    while desk.last != "restored" and time.monotonic() < until:
        time.sleep(0.02)
    assert [entry["event"] for entry in read(desk.path)][-3:] == ["abort", "restoring", "restored"]


def test_a_session_that_nobody_ends_has_a_last_word(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.safe.apply(MOVE)
    desk.safe.reset(RNG)
    assert [entry["event"] for entry in read(desk.path)][-2:] == ["end", "reset"]
    desk.safe.apply(MOVE)
    path = desk.path
    del desk
    last = read(path)[-1]
    assert (last["event"], last["reason"]) == ("end", "the program ended without a word")


def test_a_guard_that_nobody_holds_ends_with_its_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for fails in (False, True):
        desk = Desk(tmp_path, faulty.Honest(), retries=0)
        desk.safe.apply(MOVE)
        desk.inner.on_acquire = [RuntimeError("driver") if fails else None]
        with suppress(Stopped):
            desk.safe.acquire()
        del desk
    gc.collect()
    until = time.monotonic() + 10.0
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


def test_an_end_is_the_last_word_and_comes_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, faulty.Honest())
    desk.safe.apply(MOVE)
    for _ in range(2):
        desk.safe.end()
        assert desk.safe.abort("too late") == "the session was ended"
    assert [entry["event"] for entry in read(desk.path)].count("end") == 1
    np.testing.assert_allclose(desk.inner.moved, MOVE)
    with pytest.raises(Stopped, match="the session was ended"):
        desk.safe.apply(MOVE)
