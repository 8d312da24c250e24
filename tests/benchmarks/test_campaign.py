"""The long comparisons: the page's tables are those of the committed figures, and the figures are a comparison's."""

import json
from pathlib import Path

import pytest

from benchmarks import campaign
from benchmarks.campaign import CAMPAIGN, MARKED, PAGE, Comparison, filled
from scenarios.comparison.ledger import make_plan


def test_the_page_holds_the_tables_of_the_committed_figures() -> None:
    page = PAGE.read_text()
    assert {found[2] for found in MARKED.finditer(page)} == set(CAMPAIGN)
    assert filled(page) == page, "python -m benchmarks.campaign --tables"


@pytest.mark.parametrize("name", CAMPAIGN)
def test_every_comparison_can_be_asked_and_its_figures_are_of_it(name: str) -> None:
    chosen = CAMPAIGN[name]
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.runs)
    plan = make_plan(chosen.scenarios, chosen.controllers, seeds, chosen.observations)
    found = json.loads((campaign.BASELINES / f"accuracy_{name}.json").read_text())
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
