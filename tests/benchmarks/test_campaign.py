"""The long comparisons: the page's tables are those of the committed figures, and the figures are a comparison's."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import campaign
from benchmarks.campaign import ABLATION, CAMPAIGN, MARKED, PAGES, Comparison, baseline, filled, markdown
from controller.base import build as load
from scenarios.choices import name_and_options
from scenarios.comparison.ledger import make_plan
from twin.optics import Optics
from twin.state import FIRST_ORDER


def test_the_pages_hold_the_tables_of_the_committed_figures() -> None:
    pages = [page.read_text() for page in PAGES]
    assert sorted(found[2] for page in pages for found in MARKED.finditer(page)) == sorted(CAMPAIGN)
    assert [filled(page) for page in pages] == pages, "python -m benchmarks.campaign --tables"


@pytest.mark.parametrize("name", CAMPAIGN)
def test_every_comparison_can_be_asked_and_its_figures_are_of_it(name: str) -> None:
    chosen = CAMPAIGN[name]
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.runs)
    plan = make_plan(chosen.scenarios, chosen.controllers, seeds, chosen.observations)
    if not baseline(name).exists():
        assert name in ("ablation", "error_curves"), "figures once stored stay in the repository"
        return
    found = json.loads(baseline(name).read_text())
    assert list(found) == list(plan.scenarios)
    for of_scenario in found.values():
        assert list(of_scenario["controllers"]) == list(chosen.controllers)
        for figures in of_scenario["controllers"].values():
            assert figures["runs"] == chosen.runs
            assert len(figures["by_observation"]) == chosen.observations


def test_a_comparison_runs_resumes_and_leaves_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = Comparison(("nominal",), ("random", "coordinate_scan"), 2, 0, 2, (1, 2))
    monkeypatch.setattr(campaign, "CAMPAIGN", {"tiny": tiny})
    monkeypatch.setattr(campaign, "BASELINES", tmp_path)
    for _ in range(2):
        assert campaign.main(["tiny", "--workers", "1", "--out", str(tmp_path / "runs")]) == 0
    assert str(tmp_path / "accuracy_tiny.json") in capsys.readouterr().out
    page = "before\n<!-- table: tiny -->\nold\n<!-- end -->\nafter\n"
    lines = filled(page).splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert len([line for line in lines if line.startswith("| `nominal`")]) == 2
    assert "old" not in lines


def test_an_unknown_name_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        campaign.main(["hand_ower"])
    assert "hand_over" in capsys.readouterr().err


def test_without_a_name_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(CAMPAIGN)


def test_the_ablation_ends_at_the_default_and_changes_one_thing_at_a_time() -> None:
    chosen = [load(name, Optics(), FIRST_ORDER, options).options for name, options in map(split, ABLATION)]
    plain = [asdict(options) for options in chosen]
    changed = [sum(before[key] != after[key] for key in before) for before, after in pairwise(plain)]
    assert changed[:-1] == [1] * (len(ABLATION) - 2)
    assert plain[-1] == asdict(load("vae_em", Optics(), FIRST_ORDER).options)


def split(controller: str) -> tuple[str, dict[str, Any]]:
    return name_and_options(controller, "--controllers")


def test_a_share_is_printed_and_not_stored_and_steps_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"random": "the first", "coordinate_scan": "the second"}
    tiny = Comparison(("nominal", "day_a"), tuple(steps), 50, 0, 3, (3,), steps)
    monkeypatch.setattr(campaign, "CAMPAIGN", {"tiny": tiny})
    monkeypatch.setattr(campaign, "BASELINES", tmp_path)
    words = ["tiny", "--workers", "1", "--out", str(tmp_path / "runs"), "--share", "2", "--day", "nominal", "--fast"]
    assert campaign.main(words) == 0
    _, _, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("| `nominal` | the first |  |")
    assert "the second" in second
    assert not baseline("tiny").exists()
    assert "python -m benchmarks.campaign tiny" in campaign.table("tiny")


def test_neighbours_in_a_ladder_are_compared_by_their_error_ratio() -> None:
    at = {
        "median_error_nm": 1.0,
        "p90_error_nm": 2.0,
        "in_spec": 1.0,
        "coverage_90": 0.9,
        "misfit": 0,
        "seconds_per_step": 1,
    }
    probe = {"residual_phase_rad": {"share_below_quarter_pi": 0.5}, "probe_d50_nm": {"median": 0.05}}
    of_each = {"by_observation": {"3": at}, "declared_in_spec": 0, "strehl": {"median": 0.9}, **probe}
    pair = {"a - b": {"3": {"error_ratio": 2.0, "error_ratio_interval": [1.6, 2.5]}}}
    found = {"day": {"controllers": {"a": of_each, "b": of_each}, "differences": pair}}
    lines = markdown(Comparison(("day",), ("a", "b"), 1, 0, 3, (3,), {"a": "start", "b": "step"}), found).splitlines()
    assert "| 0.50 (0.40 to 0.62) |" in lines[-1]
