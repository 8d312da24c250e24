"""Has a controller got worse? A small fixed set of runs against committed figures of the same seeds.

Each seed is its own control: unchanged code repeats it, and a change shows as a shift of paired differences, tested
by flipping their signs. A change counts when it is both significant and large enough to matter, so that another
machine's rounding does not. `python -m benchmarks.accuracy --check` and `--update` are the way in.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scored_runs import Score, Scores, Settings, measure
from scenarios.calibration.results import write_text
from scenarios.versions import versions
from twin.errors import StemtwinError, check_known

Array = NDArray[np.floating]

BASELINE = Path(__file__).parent / "baselines" / "accuracy_ci.json"

LEVEL = 0.05
"""Probability that a change which moves figures at random, none for the worse, fails by chance; all tests of a
check together (Bonferroni). What also has to be relevant makes it less, and a change that moves nothing never fails."""

EXACT_PAIRS = 16
"""Up to here, every pattern of signs is tried; beyond, `RESAMPLES` random ones."""
RESAMPLES = 100_000


@dataclass(frozen=True)
class Figure:
    """A way of being worse.

    Attributes:
        ratio: compare logarithms; otherwise differences.
        relevant: mean change from which on it matters, a factor or a difference.
    """

    ratio: bool
    relevant: float


FIGURES: Mapping[str, Figure] = {
    "error_nm": Figure(True, 1.10),
    "missed_90": Figure(False, 0.10),
    "surprise": Figure(True, 1.25),
    "spread_nm": Figure(True, 1.25),
    "step_loops": Figure(True, 1.50),
}
"""Larger is worse in each. `surprise` detects in a few runs what coverage needs many for; regions twice as
wide are a loss, too, though they miss less."""


@dataclass(frozen=True)
class Verdict:
    """One controller and figure: means of baseline and now (geometric for ratios), the change and its p-value."""

    controller: str
    figure: str
    before: float
    now: float
    change: float
    p_value: float
    worse: bool


class BaselineError(StemtwinError, ValueError):
    """A baseline that is missing, or not of these runs."""


# --- comparing -----------------------------------------------------------------------------------


def sign_flip_p(differences: Array) -> float:
    """One-sided p-value of paired differences (n,) being positive on average: their signs flipped (Fisher 1935)."""
    n = len(differences)
    if n <= EXACT_PAIRS:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        flips = np.random.default_rng(0).integers(2, size=(RESAMPLES, n))
        flips[0] = 0  # as observed
    # Sums that differ by rounding alone are equal.
    least = differences.sum() - 1e-12 * np.abs(differences).sum()
    return float(np.mean((1 - 2 * flips) @ differences >= least))


def judge(before: Scores, now: Scores) -> list[Verdict]:
    """Every figure of every controller, tested together at `LEVEL`.

    Raises:
        BaselineError: the two are not of the same runs, or too few to show anything.
    """
    level = LEVEL / (len(now) * len(FIGURES))
    verdicts = []
    for controller, scores in now.items():
        pairs = _pairs(controller, before, scores)
        if max(0.5 ** len(pairs), 1 / RESAMPLES) > level:
            raise BaselineError(f"{controller}: {len(pairs)} pairs can never be significant at {level:.2g}; add seeds")
        verdicts += [_judge_one(controller, figure, pairs, level) for figure in FIGURES]
    return verdicts


def _pairs(controller: str, before: Scores, scores: Mapping[str, Score]) -> list[tuple[Score, Score]]:
    if controller not in before:
        raise BaselineError(f"the baseline has no {controller}: write a new one with --update --reason")
    known = before[controller]
    if known.keys() != scores.keys():
        raise BaselineError(f"the baseline of {controller} is of other scenarios or seeds: --update --reason")
    for label, now in scores.items():
        if not np.allclose(known[label].truth_nm, now.truth_nm, rtol=0, atol=1e-6):
            raise BaselineError(
                f"{label}: the initial state of this seed is no longer the baseline's: --update --reason"
            )
    return [(known[label], scores[label]) for label in scores]


def _judge_one(controller: str, name: str, pairs: Sequence[tuple[Score, Score]], level: float) -> Verdict:
    figure = FIGURES[name]
    before, now = (np.array([getattr(pair[i], name) for pair in pairs]) for i in (0, 1))
    if not figure.ratio:
        change = float(np.mean(now - before))
        p = sign_flip_p(now - before)
        worse = p < level and change > figure.relevant
        return Verdict(controller, name, float(before.mean()), float(now.mean()), change, p, worse)
    timed = (before > 0) & (now > 0)
    if not timed.all():  # computing time only: too short to be timed, before or now
        return Verdict(controller, name, float(before.mean()), float(now.mean()), 1.0, 1.0, False)
    logs = np.log(now / before)
    change, p = exp(logs.mean()), sign_flip_p(logs)
    worse = p < level and logs.mean() > log(figure.relevant)
    return Verdict(controller, name, exp(np.log(before).mean()), exp(np.log(now).mean()), change, p, bool(worse))


# --- baseline and command ------------------------------------------------------------------------


def chosen(settings: Settings, rows: Sequence[str]) -> Settings:
    """The settings with these rows alone; all rows when none is named.

    Raises:
        BaselineError: a row that does not exist.
    """
    known = [row for setting in settings for row in setting.rows]
    try:
        for row in rows:
            check_known(row, known, "a row of the baseline")
    except ValueError as error:
        raise BaselineError(str(error)) from None
    if not rows:
        return settings
    kept = [replace(s, controllers=tuple(c for c in s.controllers if s.row(c) in rows)) for s in settings]
    return [setting for setting in kept if setting.controllers]


def scored_observations(settings: Settings) -> dict[str, list[int]]:
    """First and last scored observation of each row."""
    return {row: [setting.first_scored, setting.observations] for setting in settings for row in setting.rows}


def update(settings: Settings, path: Path, reason: str, workers: int, rows: Sequence[str] = ()) -> None:
    """Measure, print what changes against the former baseline, write the new one; raises as `measure`.

    With `rows`, only these are measured and the others stay; the commit, reason and versions are then theirs.
    """
    asked = chosen(settings, rows)
    others, about = read(path) if rows else ({}, {"observations": {}})
    scores = measure(asked, workers)
    for line in _against_former(path, scores):
        print(line)
    plain = {
        "commit": _commit(),
        "reason": reason,
        "versions": versions(),
        "observations": about["observations"] | scored_observations(asked),
        "scores": {row: {k: asdict(s) for k, s in by_run.items()} for row, by_run in (others | scores).items()},
    }
    write_text(path, json.dumps(plain, indent=1) + "\n")
    print(f"{path}: {', '.join(scores)} at {plain['commit']}")


def _against_former(path: Path, scores: Scores) -> Iterator[str]:
    """The output of `check`, or why the former baseline cannot be compared; it is replaced all the same."""
    try:
        yield from report(judge(read(path)[0], scores))
    except BaselineError as error:
        yield f"not compared with the former baseline: {error}"


def read(path: Path) -> tuple[Scores, dict[str, Any]]:
    """A baseline's scores, and the rest of it.

    Raises:
        BaselineError: missing or malformed.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        scores = {c: {k: Score(**s) for k, s in by_run.items()} for c, by_run in plain.pop("scores").items()}
    except FileNotFoundError:
        raise BaselineError(f"{path} does not exist: write it with --update --reason") from None
    except (OSError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise BaselineError(f"{path} is not a baseline: {error}") from error
    return scores, plain


def check(settings: Settings, path: Path, workers: int, rows: Sequence[str] = ()) -> int:
    """Measure the settings, or some of their rows, compare, print; 1 when something got worse, otherwise 0.

    Raises:
        BaselineError: as in `read`, `judge` and `chosen`.
        ScenarioError, SweepError: as in `measure`.
    """
    before, about = read(path)
    asked = chosen(settings, rows)
    for row, observations in scored_observations(asked).items():
        if row in before and about["observations"].get(row) != observations:
            raise BaselineError(f"{path} scores other observations of {row} than {observations}: --update --reason")
    verdicts = judge(before, measure(asked, workers))
    for line in report(verdicts):
        print(line)
    print(f"baseline: commit {about['commit']}, {about['reason']}")
    return int(any(verdict.worse for verdict in verdicts))


def report(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line per row and figure, then what got worse."""
    width = max(len(verdict.controller) for verdict in verdicts)
    yield f"{'row':{width}} {'figure':10} {'baseline':>9} {'now':>9} {'change':>8} {'p':>8}"
    for v in verdicts:
        change = f"x{v.change:.2f}" if FIGURES[v.figure].ratio else f"{v.change:+.2f}"
        numbers = f"{v.before:9.3g} {v.now:9.3g} {change:>8} {v.p_value:8.2g}"
        yield f"{v.controller:{width}} {v.figure:10} {numbers}{'  WORSE' if v.worse else ''}"
    for v in verdicts:
        if v.worse:
            by = f"{100 * (v.change - 1):.0f} %" if FIGURES[v.figure].ratio else f"{v.change:.2f}"
            yield f"{v.controller}: {v.figure} is worse by {by} ({v.before:.3g} -> {v.now:.3g}, p = {v.p_value:.2g})"


def _commit() -> str:
    """Of the working tree, "-dirty" when it differs; "unknown" outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
