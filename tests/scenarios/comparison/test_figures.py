import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from scenarios.calibration.results import Step, Vector
from scenarios.comparison import figures as comparison
from scenarios.comparison.figures import summarise, write_report
from scenarios.comparison.paired import error_ratio, share_difference, wilson_interval
from scenarios.schema import Scenario, load
from twin.aberrations import Aberrations
from twin.probe import residual_phase_rad


@dataclass(frozen=True)
class Record:
    seed: int
    truth_nm: Vector
    steps: tuple[Step, ...]


def step(
    k: int, error_nm: Sequence[float], covers: bool = True, sign: float = 1.0, done: bool = True, misfit: bool = False
) -> Step:
    n, error = len(error_nm), tuple(float(e) for e in error_nm)
    return Step(
        observation=k,
        input_nm=(0.0,) * n,
        cumulative_nm=(0.0,) * n,
        estimate_nm=tuple(5.0 - e for e in error),
        std_nm=(1.0,) * n,
        sign_probability=sign,
        error_component_nm=error,
        error_nm=float(np.linalg.norm(error)),
        in_spec=all(abs(e) < 10 for e in error),
        covers_50=covers,
        covers_90=covers,
        seconds=0.001 * k,
        dose_e=1e6 * k,
        simulated_s=2.0 * k,
        done=done,
        misfit=misfit,
    )


def record(seed: int, errors_nm: Sequence[float], n: int = 3, done: bool = True, misfit: bool = False) -> Record:
    """A run whose error lies along the first coefficient."""
    steps = tuple(step(k, (e, *(0.0,) * (n - 1)), done=done, misfit=misfit) for k, e in enumerate(errors_nm, 1))
    return Record(seed, (5.0,) * n, steps)


@pytest.fixture
def scenario(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """day_a with a bound that costs nothing."""
    monkeypatch.setattr(comparison, "_information", lambda scenario, cache: np.eye(scenario.space.dimension))
    return load("day_a")


def test_figures_by_observation_are_over_runs(scenario: Scenario) -> None:
    runs = [record(s, [30.0, 1.0 + s]) for s in range(11)]
    found = summarise({"day_a": {"one": runs}}, {"day_a": scenario})
    first, second = (found["controllers"]["one"]["by_observation"][k] for k in ("1", "2"))
    assert first["median_error_nm"] == 30.0
    assert first["in_spec"] == 0.0
    assert (second["p10_error_nm"], second["median_error_nm"], second["p90_error_nm"]) == (2.0, 6.0, 10.0)
    assert second["in_spec"] == 9 / 11
    assert second["seconds_per_step"] == 0.002
    assert found["controllers"] == found["scenarios"]["day_a"]["controllers"]


def test_to_spec_is_from_when_on_a_run_stays_there(scenario: Scenario) -> None:
    runs = [
        record(0, [1.0, 20.0, 1.0, 1.0]),  # in spec, out again, then for good: 3
        record(1, [20.0, 1.0, 1.0, 1.0]),  # 2
        record(2, [1.0, 1.0, 1.0, 20.0]),  # never
    ]
    found = summarise({"day_a": {"one": runs, "lost": [record(0, [20.0])]}}, {"day_a": scenario})["controllers"]
    assert found["one"]["observations_to_spec"] == 3
    assert found["one"]["simulated_s_to_spec"] == 6.0
    assert found["one"]["dose_e_to_spec"] == 3e6
    assert found["lost"]["observations_to_spec"] is None
    assert found["one"]["observations_to_95_percent"] is None


def test_the_stop_rule_is_judged_when_it_first_speaks(scenario: Scenario) -> None:
    runs = [
        record(0, [20.0, 20.0]),  # declared, wrongly
        record(1, [1.0, 20.0]),  # declared, rightly; what comes later does not matter
        record(2, [20.0, 1.0], done=False),  # never declared
        record(3, [1.0, 1.0]),
    ]
    found = summarise({"day_a": {"one": runs}}, {"day_a": scenario})["controllers"]["one"]
    assert found["false_in_spec"] == pytest.approx(1 / 3)
    assert found["declared_in_spec"] == 0.75
    assert found["observations_to_declaration"] == 1
    found = summarise({"day_a": {"one": runs[2:3]}}, {"day_a": scenario})["controllers"]["one"]
    assert found["false_in_spec"] is None


def test_the_share_of_runs_that_call_the_day_unlike_their_training(scenario: Scenario) -> None:
    runs = [record(s, [1.0, 1.0], misfit=s == 0) for s in range(4)]
    found = summarise({"day_a": {"one": runs}}, {"day_a": scenario})["controllers"]["one"]
    assert found["by_observation"]["2"]["misfit"] == 0.25


def test_the_second_order_is_judged_by_the_length_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair within pi / 4 (33.6 nm here) in any direction counts, though a component is beyond its tolerance."""
    monkeypatch.setattr(comparison, "_information", lambda scenario, cache: np.eye(scenario.space.dimension))
    second = load("day_a_second_order")
    errors = [(1, 1, 1, 30, 0, 20, 20), (1, 1, 1, 30, 30, 0, 0), (11, 0, 0, 0, 0, 0, 0), (1, 1, 1, 0, 0, 3, 4)]
    runs = [Record(s, (5.0,) * 7, (step(1, error),)) for s, error in enumerate(errors)]
    found = summarise({"x": {"one": runs}}, {"x": second})["controllers"]["one"]["by_observation"]["1"]
    assert found["first_in_spec_others_within_quarter_pi"] == 0.5
    assert found["median_C21_nm"] == pytest.approx(15.0)
    assert found["median_C23_nm"] == pytest.approx(2.5)


def test_the_first_order_alone_has_no_figures_of_the_second(scenario: Scenario) -> None:
    found = summarise({"day_a": {"one": [record(0, [1.0])]}}, {"day_a": scenario})["controllers"]["one"]
    assert not any("quarter" in key or "median_C" in key for key in found["by_observation"]["1"])


def test_a_run_that_stops_early_keeps_its_last_belief(scenario: Scenario) -> None:
    stopping = scenario.model_copy(update={"task": replace(scenario.task, stop=True)})
    group = {"day_a": {"one": [record(0, [3.0]), record(1, [20.0, 5.0])]}}
    carried = summarise(group, {"day_a": stopping})["controllers"]["one"]["by_observation"]["2"]
    assert carried["median_error_nm"] == 4.0
    assert carried["seconds_per_step"] == 0.002
    alone = summarise(group, {"day_a": scenario})["controllers"]["one"]["by_observation"]["2"]
    assert alone["median_error_nm"] == 5.0


def test_the_probe_is_that_of_the_error_and_of_the_whole(scenario: Scenario) -> None:
    found = summarise({"day_a": {"one": [record(0, [0.5])]}}, {"day_a": scenario})["controllers"]["one"]
    left = Aberrations.of({"C10": 0.5})
    assert found["residual_phase_rad"]["median"] == pytest.approx(residual_phase_rad(left, scenario.optics))
    assert found["residual_phase_rad"]["share_below_quarter_pi"] == 1.0
    whole = found["with_residuals"]["residual_phase_rad"]
    expected = residual_phase_rad(left + scenario.day.residual, scenario.optics)
    assert whole == {"median": pytest.approx(expected), "share_below_quarter_pi": 0.0}
    assert found["strehl"]["median"] > found["with_residuals"]["strehl"]["median"]


def test_scenarios_of_other_spaces_are_pooled_by_coefficient(scenario: Scenario) -> None:
    seven = load("day_a", ["space=second_order", "name=seven"])
    groups = {"day_a": {"one": [record(0, [2.0])]}, "seven": {"one": [record(0, [4.0], n=7)]}}
    found = summarise(groups, {"day_a": scenario, "seven": seven})
    assert found["controllers"]["one"]["per_coefficient"]["C10"]["median_abs_nm"] == 3.0
    assert set(found["controllers"]["one"]["per_coefficient"]) == set(seven.space.names)


def test_the_bound_is_kept_and_falls_with_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from controller.spectrum import cramer_rao as bound

    calls = []

    def counted(*arguments: object) -> np.ndarray:
        calls.append(arguments)
        return 4.0 * np.eye(3)

    monkeypatch.setattr(bound, "frame_information", counted)
    scenario, groups = load("day_a"), {"day_a": {"one": [record(0, [1.0] * 4)]}}
    for _ in range(2):
        found = summarise(groups, {"day_a": scenario}, cache=tmp_path)["scenarios"]["day_a"]["bound_nm"]
    assert len(calls) == 1
    assert found["1"] == pytest.approx(np.sqrt(3) / 2)
    assert found["4"] == pytest.approx(np.sqrt(3) / 4)
    assert len(calls) == 1


@pytest.mark.parametrize("change", ["day.same_region=true", "day.drift.rate_nm_per_sqrt_s.1=0.2", "space=second_order"])
def test_without_independent_views_or_with_odd_orders_there_is_no_bound(change: str) -> None:
    scenario = load("day_a", [change])
    groups = {"day_a": {"one": [record(0, [1.0] * 4, n=scenario.space.dimension)]}}
    found = summarise(groups, {"day_a": scenario})["scenarios"]["day_a"]
    assert found["bound_nm"] is None
    assert found["bound_median_nm"] is None


# --- pairs ---------------------------------------------------------------------------------------


def test_pairs_meet_by_seed_whatever_the_order(scenario: Scenario) -> None:
    rng = np.random.default_rng(0)
    errors = rng.lognormal(size=30)
    a = [record(s, [2 * e] * 5) for s, e in enumerate(errors)]
    b = [record(s, [e] * 5) for s, e in enumerate(errors)][::-1]
    found = summarise({"day_a": {"a": a, "b": b}}, {"day_a": scenario})["scenarios"]["day_a"]["differences"]
    assert list(found) == ["a - b"]
    assert list(found["a - b"]) == ["3", "5"]
    assert found["a - b"]["3"]["error_ratio"] == pytest.approx(2.0)
    assert found["a - b"]["3"]["error_ratio_interval"] == pytest.approx([2.0, 2.0])


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.lognormal(0.3, 1.0, 40), rng.lognormal(0.0, 1.0, 40)
    ratio = np.log(first / second)
    medians = np.median(ratio[rng.integers(40, size=(20_000, 40))], axis=1)
    expected = np.exp(np.percentile(medians, (2.5, 97.5)))
    found = error_ratio(list(first), list(second))
    assert found["error_ratio"] == pytest.approx(np.exp(np.median(ratio)))
    np.testing.assert_allclose(found["error_ratio_interval"], expected, rtol=0.05)
    better, worse = rng.random(40) < 0.8, rng.random(40) < 0.4
    shares = (better.astype(int) - worse)[rng.integers(40, size=(20_000, 40))].mean(1)
    found = share_difference(list(better), list(worse))
    np.testing.assert_allclose(found["in_spec_difference_interval"], np.percentile(shares, (2.5, 97.5)), atol=0.026)


def test_equal_controllers_are_told_apart_one_time_in_twenty() -> None:
    # 400 comparisons of 40 runs: excluding 1 with probability 0.05 gives 20 +- 4.4; above 34 has p < 0.001. The
    # percentile interval of a median is known to be a little cautious, never wild.
    rng = np.random.default_rng(2)
    outside = 0
    for _ in range(400):
        low, high = error_ratio(list(rng.lognormal(size=40)), list(rng.lognormal(size=40)))["error_ratio_interval"]  # type: ignore[misc]
        outside += low > 1 or high < 1
    assert 6 <= outside <= 34


def test_wilsons_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I: 81 of 263 and 0 of 20.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_the_page_is_self_contained_and_the_table_complete(scenario: Scenario, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    group = {f"name<{i}>": [record(s, list((i + 1) * rng.lognormal(size=5))) for s in range(6)] for i in range(6)}
    groups, scenarios = {"day_a": group}, {"day_a": scenario}
    summary = summarise(groups, scenarios)
    json.dumps(summary, allow_nan=False)
    write_report(summary, groups, scenarios, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png") == 5
    assert "name&lt;0&gt;" in page
    assert "name<0>" not in page
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 6 * 5
    last = group["name<5>"][5].steps[-1]
    assert float(rows[-1]["error_nm"]) == last.error_nm
    assert float(rows[-1]["error_component_C10_nm"]) == last.error_component_nm[0]
    assert rows[-1]["controller"] == "name<5>"
    assert rows[-1]["seed"] == "5"


def test_the_table_has_every_coefficient_once() -> None:
    seven = load("day_a", ["space=second_order", "name=seven"])
    scenarios = {"day_a": load("day_a"), "seven": seven}
    groups = {"day_a": {"one": [record(0, [2.0])]}, "seven": {"one": [record(0, [4.0], n=7)]}}
    rows = list(csv.DictReader(comparison.table(groups, scenarios).splitlines()))
    assert rows[0]["std_C23b_nm"] == ""
    assert rows[1]["std_C23b_nm"] == "1.0"
    assert rows[0]["std_C10_nm"] == "1.0"
