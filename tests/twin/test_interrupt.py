"""Ctrl-C arrives, also when something on the way swallows it."""

import signal
import threading

import pytest

from twin.interrupt import check, deferred, ended_in_order, held, interruptible, remembered, requested, session


class Swallows:
    """A destructor: Python prints what is raised there and goes on."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_comes_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), remembered():
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_was_swallowed_comes_at_the_next_check() -> None:
    with remembered() as check:
        check()
        Swallows()
        with pytest.raises(KeyboardInterrupt):
            check()


def test_the_handler_is_the_old_one_afterwards() -> None:
    with remembered():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with remembered() as check:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            check()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_do_without() -> None:
    seen: list[object] = []

    def work() -> None:
        with remembered() as check:
            check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert seen == [signal.default_int_handler]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_systems_wish_to_end_is_an_interrupt(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), remembered():
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_held_is_not_cut_short(number: signal.Signals) -> None:
    done = []
    with remembered() as check:
        inside = signal.getsignal(number)
        with held():
            signal.raise_signal(number)
            done.append(number)
        assert signal.getsignal(number) is inside
        check()
    assert done == [number]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_deferred_comes_at_the_end(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with remembered():
            with deferred():
                signal.raise_signal(number)
                done.append("work")
            done.append("more")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["work"]


def test_signals_that_are_ignored_stay_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)])
def test_no_number_of_signals_cuts_deferred_work(numbers: tuple[signal.Signals, ...]) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), session(), deferred():  # noqa: PT012
        assert not requested()
        for number in numbers:
            signal.raise_signal(number)
        assert requested()
        done.append("work")
    assert done == ["work"]


def test_a_second_signal_cuts_work_that_allows_it() -> None:
    with pytest.raises(KeyboardInterrupt), deferred(until_second=True):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one has to raise")


def test_only_the_first_signal_of_a_session_raises() -> None:
    with session() as ending:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.raise_signal(number)  # the way back is not cut
        with session(), deferred():
            signal.raise_signal(signal.SIGINT)
    assert ending.exit_code == 143


def test_a_patient_session_is_asked() -> None:
    with session(patient=True) as ending:
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            ending.check()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert ending.exit_code == 129
    assert not requested()


def test_long_work_in_a_patient_session_is_cut_once() -> None:
    reached = []
    with session(patient=True):
        with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            reached.append("after")
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interruptible():
            reached.append("inside")
    assert reached == []


def test_the_way_back_is_not_asked_to_end_and_still_decides_the_exit_code() -> None:
    with session() as ending, held():
        signal.raise_signal(signal.SIGTERM)
        assert not requested()
        check()
    ending.check()
    assert ending.exit_code == 143


def test_a_signal_waits_for_deferred_work_without_a_session() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("work")
        done.append("more")
    assert done == ["work"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_inside_a_session_the_signal_is_left_to_that_one_to_end_the_program() -> None:
    with session(patient=True) as outer, ended_in_order():
        signal.raise_signal(signal.SIGTERM)
    assert outer.exit_code == 143


def test_an_interrupt_ends_a_program_by_its_exception_alone() -> None:
    with pytest.raises(KeyboardInterrupt), ended_in_order():
        signal.raise_signal(signal.SIGINT)
    with ended_in_order():
        assert not requested()


def test_a_handler_of_the_programs_own_is_called_once() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with ended_in_order(), deferred():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]


def test_a_patient_session_of_another_thread_makes_nobody_else_patient() -> None:
    begun, over = threading.Event(), threading.Event()

    def work() -> None:
        with session(patient=True):
            begun.set()
            over.wait(10)

    with session() as ending:
        thread = threading.Thread(target=work)
        thread.start()
        begun.wait(10)
        assert not ending.patient
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        over.set()
        thread.join()
