"""The book of a far session: every step of an honest twin agrees with it, and nothing else does."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.backends._session_book import SessionBook
from twin.instrument.faults import AnotherClient, BadFrame, MicroscopeFault
from twin.state import StateSpace
from twin.wire.schema import ExposureNote, Status

BEGUN = Status("a-1", 0, 0, (0.0, 0.0, 0.0), 0.0, "film 0", 1e5)


class Twin:
    """An honest twin: it counts and adds."""

    def __init__(self) -> None:
        self.now = BEGUN

    def apply(self, delta_nm: float) -> Status:
        position = tuple((np.array(self.now.cumulative_nm) + delta_nm).tolist())
        self.now = replace(self.now, inputs=self.now.inputs + 1, cumulative_nm=position)
        return self.now

    def expose(self) -> ExposureNote:
        self.now = replace(self.now, exposures=self.now.exposures + 1, clock_s=self.now.clock_s + 0.7)
        now = self.now
        told = now.session, now.inputs, now.cumulative_nm
        return ExposureNote(now.exposures, 1e5, 0.5, now.clock_s, {"dark_level": 20.0}, "", now, *told)


@given(st.lists(st.sampled_from(["apply", "lost answer", "lost input", "expose", "lost frame", "lost trigger"])))
@settings(max_examples=200, deadline=None)
def test_an_honest_twin_agrees_whatever_is_lost_on_the_way(steps: list[str]) -> None:
    twin, book = Twin(), SessionBook(BEGUN, StateSpace())
    for step in steps:
        if step in ("apply", "lost answer", "lost input"):
            book.input_sent()
            told = twin.apply(0.1) if step != "lost input" else twin.now
            if step == "apply":
                book.input_done(told)
            else:
                book.read_back(told)
            assert (book.inputs, book.input_open) == (twin.now.inputs, False)
        else:
            book.triggered()
            if step != "lost trigger":
                note = twin.expose()
                if step == "expose":
                    book.exposed(note)
    book.check(twin.now)


def in_the_middle() -> tuple[Twin, SessionBook]:
    twin, book = Twin(), SessionBook(BEGUN, StateSpace())
    book.input_sent()
    book.input_done(twin.apply(1.0))
    book.triggered()
    book.exposed(twin.expose())
    return twin, book


@pytest.mark.parametrize(
    "other",
    [
        {"session": "b-1"},
        {"inputs": 0},
        {"inputs": 2},
        {"exposures": 0},
        {"exposures": 2},
        {"cumulative_nm": (1.0, 1.0, 1.0001)},
    ],
)
def test_a_session_that_somebody_else_used_is_over_for_good(other: dict[str, object]) -> None:
    twin, book = in_the_middle()
    with pytest.raises(AnotherClient):
        book.check(replace(twin.now, **other))  # type: ignore[arg-type]
    for act in (lambda: book.check(twin.now), book.input_sent, book.triggered):
        with pytest.raises(AnotherClient):
            act()
    assert (book.triggers, book.input_open) == (1, False)


@pytest.mark.parametrize(
    ("other", "kind"), [({"clock_s": 0.1}, "went back"), ({"cumulative_nm": (1.0,)}, "of 1 coeff")]
)
def test_a_status_that_cannot_be_changes_nothing(other: dict[str, object], kind: str) -> None:
    twin, book = in_the_middle()
    with pytest.raises(MicroscopeFault, match=kind):
        book.check(replace(twin.now, **other))  # type: ignore[arg-type]
    book.check(twin.now)
    assert book.status == twin.now


def test_an_input_whose_answer_was_lost_may_count_or_not_and_no_other() -> None:
    for count in (1, 2):
        twin, book = in_the_middle()
        book.input_sent()
        told = twin.apply(2.0) if count == 2 else twin.now
        book.read_back(told)
        assert (book.inputs, book.input_open) == (count, False)
    twin, book = in_the_middle()
    book.input_sent()
    twin.apply(2.0)
    with pytest.raises(AnotherClient, match="the session has 3 inputs, and this program sent 2"):
        book.read_back(twin.apply(2.0))


def test_settings_and_clock_follow_from_the_frame_before() -> None:
    twin, book = in_the_middle()
    book.triggers += 2
    note = twin.expose()
    with pytest.raises(BadFrame, match="changed within the session"):
        book.exposed(replace(note, settings={"dark_level": 21.0}))
    with pytest.raises(BadFrame, match=r"an exposure of 0\.5 s ended 0\.3 s after"):
        book.exposed(replace(note, clock_s=1.0))
    book.exposed(note)
    with pytest.raises(AnotherClient, match="the frame is exposure 2 of the session; this program triggered 3"):
        book.exposed(note)
