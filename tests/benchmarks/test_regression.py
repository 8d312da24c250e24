"""The regression check bites: a deliberate fault fails it, unchanged code and rounding do not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks import accuracy
from benchmarks.regression import (
    BASELINE,
    FIGURES,
    BaselineError,
    check,
    judge,
    read,
    scored_observations,
    sign_flip_p,
    update,
)
from benchmarks.scored_runs import CI, Score, Scores, Setting, calibration_loop_s, score
from controller.strategies.vae_em import VaeEm
from controller.vae_em.latent_map import LatentMap
from scenarios.calibration.results import Step
from scenarios.comparison.sweep import RunRecord

PAIRS = 14
SMALL = [Setting(("day_a",), ("vae_em",), range(PAIRS), observations=4, overrides=("renderer=fast",))]


# --- the whole check, on a controller with a fault put into it -------------------------------------


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "accuracy_ci.json"
    update(SMALL, path, "for this test", workers=1)
    return path


@pytest.fixture
def accuracy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may slow a step down; here that is not the question."""
    monkeypatch.setattr("benchmarks.scored_runs.FASTEST_S", np.inf)


@pytest.mark.usefixtures("accuracy_alone")
def test_unchanged_code_passes(baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(SMALL, baseline, workers=1) == 0
    told = capsys.readouterr().out
    assert "for this test" in told
    assert "x1.00        1" in told
    assert "WORSE" not in told


def test_inputs_of_the_wrong_sign_fail(
    baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update_soundly, propose_soundly = VaeEm.update, VaeEm.propose
    monkeypatch.setattr(VaeEm, "update", lambda self, delta, frame: update_soundly(self, -delta, frame))
    monkeypatch.setattr(VaeEm, "propose", lambda self: -propose_soundly(self))
    assert check(SMALL, baseline, workers=1) == 1
    assert "vae_em: error_nm is worse by" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "figure"), [(0.5, "surprise"), (2.0, "spread_nm")])
def test_a_noise_level_off_by_two_fails(
    factor: float, figure: str, baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = LatentMap.moments

    def off(self: LatentMap, states_nm: Any, floors: Any) -> tuple[Any, Any, Any]:
        mean, noise, modes = sound(self, states_nm, floors)
        return mean, noise * factor**2, modes

    monkeypatch.setattr(LatentMap, "moments", off)
    assert check(SMALL, baseline, workers=1) == 1
    assert f": {figure} is worse by" in capsys.readouterr().out


def test_one_row_is_measured_and_the_others_stay(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "accuracy_ci.json"
    path.write_text(baseline.read_text())
    more = [*SMALL, replace(SMALL[0], controllers=("random", "nelder_mead"), observations=3, label="short")]
    update(more, path, "more", workers=1, rows=["random, short"])
    before, after = (json.loads(file.read_text()) for file in (baseline, path))
    assert after["scores"].keys() == {"vae_em", "random, short"}
    assert after["scores"]["vae_em"] == before["scores"]["vae_em"]
    assert after["observations"] == {"vae_em": [3, 4], "random, short": [3, 3]}
    assert check(more, path, workers=1, rows=["random, short"]) == 0
    with pytest.raises(BaselineError, match="has no nelder_mead, short"):
        check(more, path, workers=1, rows=["nelder_mead, short"])
    with pytest.raises(BaselineError, match="did you mean random, short"):
        check(more, path, workers=1, rows=["random, shirt"])
    longer = [replace(setting, observations=5) for setting in more]
    with pytest.raises(BaselineError, match=r"other observations of random, short than \[3, 5\]"):
        check(longer, path, workers=1, rows=["random, short"])


def test_the_committed_baseline_is_of_these_runs() -> None:
    scores, about = read(BASELINE)
    assert list(scores) == [row for setting in CI for row in setting.rows]
    assert about["observations"] == scored_observations(CI)
    assert judge(scores, scores)  # pairs enough to be significant


# --- the test it rests on ----------------------------------------------------------------------------


def scores(rng: np.random.Generator, count: int = PAIRS) -> Scores:
    """Runs of one controller, as different from each other as runs are."""
    return {
        "one": {
            f"day {i}": Score(
                truth_nm=[float(i)],
                error_nm=float(rng.lognormal(0.0, 0.5)),
                missed_90=float(rng.uniform(0, 0.3)),
                surprise=float(rng.lognormal(0.0, 0.3)),
                spread_nm=float(rng.lognormal(0.0, 0.2)),
                step_loops=float(rng.lognormal(2.0, 0.1)),
            )
            for i in range(count)
        }
    }


def changed(before: Scores, figure: str, by: float, jitter: float = 0.0) -> Scores:
    """Every run worse by the same, give or take."""
    rng = np.random.default_rng(1)
    ratio = FIGURES[figure].ratio
    found = {}
    for label, one in before["one"].items():
        value, noise = getattr(one, figure), rng.normal(0.0, jitter) if jitter else 0.0
        found[label] = replace(one, **{figure: value * by * np.exp(noise) if ratio else value + by + noise})
    return {"one": found}


def worse(before: Scores, now: Scores) -> set[str]:
    return {verdict.figure for verdict in judge(before, now) if verdict.worse}


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_fails_alone_when_it_is_worse_and_not_when_better(figure: str) -> None:
    before = scores(np.random.default_rng(0))
    by = FIGURES[figure].relevant * (1.3 if FIGURES[figure].ratio else 2.0)
    assert worse(before, changed(before, figure, by, jitter=0.05)) == {figure}
    assert worse(before, changed(before, figure, 1 / by if FIGURES[figure].ratio else -by, jitter=0.05)) == set()


@pytest.mark.parametrize("figure", FIGURES)
def test_rounding_of_another_machine_does_not_fail(figure: str) -> None:
    # Significant, for it is the same in every run, and of no consequence.
    before = scores(np.random.default_rng(0))
    verdicts = {v.figure: v for v in judge(before, changed(before, figure, 1.001 if FIGURES[figure].ratio else 0.001))}
    assert verdicts[figure].p_value < 1e-3
    assert not verdicts[figure].worse


def test_one_bad_run_is_not_a_regression() -> None:
    before = scores(np.random.default_rng(0))
    now = {"one": dict(before["one"])}
    now["one"]["day 3"] = replace(now["one"]["day 3"], error_nm=500.0)
    assert worse(before, now) == set()


def test_the_false_alarm_rate_is_the_level() -> None:
    # 2000 tests of pure noise at 5 %: binomial standard deviation 0.5 %, so that 4 % to 6 % is two of them.
    rng = np.random.default_rng(4)
    share = np.mean([sign_flip_p(rng.standard_t(3, size=8)) <= 0.05 for _ in range(2000)])
    assert 0.04 < share < 0.06


def test_the_p_value_counts_sign_patterns() -> None:
    # Of 2^4 patterns of (1, 2, 3, -1) a sum of 5 or more: +5, +5 (the ones are interchangeable), +7.
    assert sign_flip_p(np.array([1.0, 2.0, 3.0, -1.0])) == pytest.approx(3 / 16)
    assert sign_flip_p(np.zeros(5)) == 1.0


def test_many_pairs_are_sampled_to_the_same_p_value() -> None:
    # 13 of 20 up: binomial(20, 1/2) is 13 or more with probability 0.1316.
    assert sign_flip_p(np.repeat([1.0, -1.0], [13, 7])) == pytest.approx(0.1316, abs=0.004)


def test_too_few_pairs_to_show_anything_are_refused() -> None:
    few = scores(np.random.default_rng(0), count=5)
    with pytest.raises(BaselineError, match="5 pairs can never be significant"):
        judge(few, few)


def test_runs_that_are_no_pairs_are_refused() -> None:
    before = scores(np.random.default_rng(0))
    other = {"one": {k: replace(s, truth_nm=[-1.0]) for k, s in before["one"].items()}}
    with pytest.raises(BaselineError, match="initial state"):
        judge(before, other)
    with pytest.raises(BaselineError, match="other scenarios or seeds"):
        judge({"one": dict(list(before["one"].items())[1:])}, before)
    with pytest.raises(BaselineError, match="has no two"):
        judge(before, {"two": before["one"]})


# --- scores and command -------------------------------------------------------------------------------


def test_a_score_by_hand() -> None:
    def step(k: int, error: float, covers: bool) -> Step:
        vector = (error, 0.0)
        return Step(k, vector, vector, vector, (1.0, 4.0), 1.0, vector, error, True, True, covers, 0.1 * k, 1.0, 1.0)

    early = [step(1, 99.0, False), step(2, 99.0, False)]  # not scored
    record = RunRecord("day", "one", 0, (5.0, 6.0), (*early, step(3, 2.0, True), step(4, 8.0, False)), "")
    found = score(record, loop_s=0.05)
    assert found.truth_nm == [5.0, 6.0]
    assert found.error_nm == pytest.approx(4.0)
    assert found.missed_90 == 0.5
    assert found.surprise == pytest.approx(np.sqrt((4 + 64) / 4))
    assert found.spread_nm == pytest.approx(2.0)
    assert found.step_loops == pytest.approx(7.0)


def test_the_calibration_loop_takes_a_while_and_repeats() -> None:
    first, second = calibration_loop_s(), calibration_loop_s()
    assert 1e-3 < first < 1.0
    assert 0.2 < first / second < 5


def test_the_calibration_loop_keeps_to_one_thread_as_runs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    cholesky = np.linalg.cholesky

    def watched(matrix: Any) -> Any:
        seen.append(max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"))
        return cholesky(matrix)

    monkeypatch.setattr(np.linalg, "cholesky", watched)
    with threadpool_limits(2):
        calibration_loop_s()
    assert set(seen) == {1}


def test_a_new_baseline_tells_what_it_changes(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured, _ = read(baseline)  # the same runs once more would give the same
    monkeypatch.setattr("benchmarks.regression.measure", lambda settings, workers: measured)
    path = tmp_path / "accuracy_ci.json"
    former = json.loads(baseline.read_text())
    for one in former["scores"]["vae_em"].values():
        one["error_nm"] /= 2
    path.write_text(json.dumps(former))
    update(SMALL, path, "again", workers=1)
    assert "vae_em: error_nm is worse by 100 %" in capsys.readouterr().out
    assert json.loads(path.read_text())["reason"] == "again"


def test_the_command_refuses_what_it_cannot_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none.json")
    assert accuracy.main(["--check", "--baseline", missing]) == 2
    assert "--update --reason" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text(json.dumps({"scores": {"one": {"day 0": {"error": 1}}}}))
    assert accuracy.main(["--check", "--baseline", str(tmp_path / "bad.json")]) == 2
    with pytest.raises(SystemExit) as stop:
        accuracy.main(["--update"])
    assert stop.value.code == 2
    assert accuracy.main(["--scenarios", "dya_a"]) == 2
    assert "did you mean day_a?" in capsys.readouterr().err
