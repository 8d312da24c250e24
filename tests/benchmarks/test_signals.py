"""Two signals, one after the other, in the middle of a session: the instrument is brought back."""

import sys

import numpy as np
import pytest

from benchmarks.signals import FSYNC_S, GAPS_S, PHASE_S, SIGNALS, Case, cases, interrupted, main, small

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

RNG = np.random.default_rng(20)
SHARE = [
    Case(one, other, float(RNG.choice(GAPS_S)), float(RNG.choice(FSYNC_S))) for one in SIGNALS for other in SIGNALS
]


def test_every_pair_of_signals_at_every_gap_is_a_case() -> None:
    every = list(cases())
    assert len(every) == len(set(every)) == 9 * 7 * 2


@pytest.mark.parametrize("case", SHARE, ids=lambda case: f"{case.first.name}-{case.second.name}")
def test_an_instrument_is_brought_back_after_two_signals(case: Case) -> None:
    assert interrupted(case, float(RNG.uniform(0.0, PHASE_S)), small())[1] == ""


def test_the_benchmark_sees_an_instrument_that_was_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # Signals that kill at once: no way back.
    monkeypatch.setattr("benchmarks.signals.run_program", lambda app: app())
    monkeypatch.setattr("scenarios.calibration.run.interrupt.session", _unhandled)
    assert interrupted(Case(SIGNALS[1], SIGNALS[1], 0.0, 0.0), 0.05, small())[1] != ""


def _unhandled(patient: bool = False) -> object:
    from contextlib import nullcontext

    from twin.interrupt import Ending

    return nullcontext(Ending())


def test_the_table_has_every_pair_and_names_what_was_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = iter([(129, "at 5.0 nm"), *[(130, "")] * 125])
    monkeypatch.setattr("benchmarks.signals.interrupted", lambda *_: next(outcomes))
    assert main([]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "SIGINT, SIGINT after 0 ms, fsync 0 s: at 5.0 nm"
    assert [line.split("  ")[0] for line in printed[2:11]] == [
        f"{one.name}, {two.name}" for one in SIGNALS for two in SIGNALS
    ]
    assert printed[11].split() == ["all", "126", "125", "1", "129:", "1,", "130:", "125"]
