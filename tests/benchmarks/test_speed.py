"""The speed benchmark runs; the speeds themselves are not tested."""

import json
import sys
from importlib import import_module

import pytest

from benchmarks import speed
from benchmarks.references import Reference
from benchmarks.rounds import Figure
from benchmarks.speed import FIGURES, NEEDS, STREAMING, table

MODULES = ("streaming.com", "streaming.ricom", "streaming.events", "streaming.ssb", "streaming.merlin")
ABSENT = Reference("STEMTWIN_TEST_PYTHON", "a_module_that_is_not_there")


def test_the_em_step_is_timed() -> None:
    figure = speed.em_step()
    assert figure.ours > 0
    assert figure.ratio == pytest.approx(figure.ours / figure.reference)


@pytest.mark.parametrize("module", MODULES)
def test_every_streaming_figure_is_measured(module: str) -> None:
    """Every function without arguments that returns a `Figure`."""
    found = vars(import_module(f"benchmarks.{module}"))
    figures = {
        name
        for name, value in found.items()
        if getattr(value, "__annotations__", None) == {"return": Figure} and not name.startswith("_")
    }
    assert figures == {function for where, function in STREAMING.values() if where == module}


def test_names_of_figures_that_need_something_are_figures() -> None:
    assert set(NEEDS) < set(FIGURES)
    assert {name for name, (module, _) in STREAMING.items() if module in ("streaming.com", "streaming.ssb")} < set(
        NEEDS
    )


def test_what_is_lacking_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ABSENT.variable, raising=False)
    assert ABSENT.lacking() == f"{ABSENT.variable} is not set: it names a Python with {ABSENT.module}"
    monkeypatch.setenv(ABSENT.variable, "/no/such/python")
    assert ABSENT.lacking() == f"{ABSENT.variable}=/no/such/python: No such file or directory"
    monkeypatch.setenv(ABSENT.variable, sys.executable)
    assert ABSENT.lacking() == f"{ABSENT.variable}={sys.executable} cannot import {ABSENT.module}"
    assert Reference(ABSENT.variable, "json").lacking() is None


def test_what_lacks_its_reference_is_left_out_and_all_else_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(ABSENT.variable, raising=False)
    monkeypatch.setattr(speed, "FIGURES", {"one": lambda: Figure(2.0, 3.0, 2e6, 1e6, 0.5), "two": pytest.fail})
    monkeypatch.setattr(speed, "NEEDS", {"two": ABSENT})
    monkeypatch.setattr(sys, "argv", ["speed", "--json"])
    speed.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["one"] == {"ratio": 2.0, "goal": 3.0, "ours": 2e6, "reference": 1e6, "limit_fraction": 0.5}
    assert printed["two"] == {"left_out": ABSENT.lacking()}


def test_the_table_marks_what_misses_its_goal() -> None:
    found = {"slow": Figure(0.9, 1.0, 900.0, 1000.0, None), "fast": Figure(2.0, 1.0, 3.2e8, 1.6e8, 0.75)}
    _, slow, fast, left_out = table(found, {"none": "no reference"}).splitlines()
    assert slow.split() == ["slow", "900.0", "1.0", "k", "0.90", "1.00", "below", "its", "goal"]
    assert fast.split() == ["fast", "320.0", "M", "160.0", "M", "2.00", "1.00", "75%"]
    assert left_out.split() == ["none", "left", "out:", "no", "reference"]
