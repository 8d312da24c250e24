"""A share of the random sessions of the guard: no violation, and the judge sees one where there is one."""

import numpy as np
import pytest

from benchmarks.guard import __main__ as program
from benchmarks.guard.kinds import KINDS
from benchmarks.guard.sessions import VIOLATIONS, Session
from twin.instrument.guard.gate import Gate
from twin.instrument.guard.way_back import WayBack


def test_two_thousand_random_sessions_break_no_promise() -> None:
    found = program.sessions(2000, seed=20_000_000, kinds=list(KINDS))
    assert len(KINDS) >= 12
    assert {kind: counts["sessions"] > 0 for kind, counts in found.items()} == dict.fromkeys(KINDS, True)
    total = {name: sum(counts[name] for counts in found.values()) for name in VIOLATIONS}
    assert total == dict.fromkeys(VIOLATIONS, 0)
    # Sessions end in every way, and most failures are undone.
    ends = {name: sum(counts[name] for counts in found.values()) for name in ("end", "restored", "not restored")}
    assert min(ends.values()) > 100
    assert ends["restored"] > ends["not restored"]


@pytest.mark.parametrize(
    ("kind", "promise", "gate", "broken"),
    [
        ("honest", "beyond total", Gate, ("check_total", lambda self, interval: None)),
        ("honest", "beyond step", Gate, ("pieces", lambda self, delta_nm: [np.array(delta_nm)])),
        ("read-back lies", "restored elsewhere", WayBack, ("_arrived", lambda self, position: True)),
    ],
)
def test_a_guard_that_breaks_a_promise_is_seen(
    kind: str, promise: str, gate: type, broken: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, *broken)
    if promise == "beyond step":
        monkeypatch.setattr(Gate, "check_step", lambda self, delta_nm: None)
    if promise == "beyond total":
        monkeypatch.setattr("twin.state.StateSpace.check_input", lambda self, delta_nm, cumulative_nm: cumulative_nm)
    seen = sum(Session(kind, seed).run().violations[promise] for seed in range(40))
    assert seen > 0


def test_the_table_names_kinds_and_promises(capsys: pytest.CaptureFixture[str]) -> None:
    printed = program.table(program.sessions(3, seed=5, kinds=["honest", "busy"]))
    assert printed.splitlines()[0].split("  ")[0] == "kind of driver"
    assert [line.split("  ")[0] for line in printed.splitlines()[1:]] == ["honest", "busy", "all"]
    assert all(name in printed for name in VIOLATIONS)
