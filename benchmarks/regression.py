"""Has a controller got worse? A small fixed set of runs against committed figures of the same seeds.

Each seed is its own control: unchanged code repeats it, and a change shows as a shift of paired differences, tested
by flipping their signs. A change counts when it is both significant and large enough to matter, so that another
machine's rounding does not. `python -m benchmarks.accuracy --check` and `--update` are the way in.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenarios.calibration.results import write_text
from scenarios.comparison.executors import SweepError, lanes
from scenarios.comparison.ledger import Plan, check_builds, make_plan
from scenarios.comparison.sweep import Failure, Job, RunRecord, run, spread
from scenarios.versions import versions

Array = NDArray[np.floating]

BASELINE = Path(__file__).parent / "baselines" / "accuracy_ci.json"

LEVEL = 0.05
"""Probability that a change which moves figures at random, none for the worse, fails by chance; all tests of a
check together (Bonferroni). What also has to be relevant makes it less, and a change that moves nothing never fails."""

FIRST_SCORED = 3
"""Two frames are what it takes to know the sign; before that, errors say little."""

EXACT_PAIRS = 16
"""Up to here, every pattern of signs is tried; beyond, `RESAMPLES` random ones."""
RESAMPLES = 100_000

FASTEST_S = 2e-3
"""A step shorter than this is not worth timing."""


@dataclass(frozen=True)
class Setting:
    """The runs that are made: every scenario and controller on every seed."""

    scenarios: tuple[str, ...]
    controllers: tuple[str, ...]
    seeds: range
    observations: int = 6
    overrides: tuple[str, ...] = ()

    def plan(self) -> Plan:
        """As `stemtwin compare` plans them; raises ScenarioError."""
        return make_plan(self.scenarios, self.controllers, self.seeds, self.observations, self.overrides)


CI = Setting(
    ("day_a", "day_b"), ("vae_em", "vae_fixed", "neural_posterior", "spectrum_ml", "bo_scalar"), range(5000, 5010)
)
"""What continuous integration checks: by multislice, on seeds that no figure elsewhere uses. Many short runs: more
observations make up for a fault, so that it shows less. Ten observations of twelve runs are the same work; by the
spread of the errors over seeds the least shift to be seen would grow by 4 % (neural_posterior) to 26 % (vae_em)."""


@dataclass(frozen=True)
class Score:
    """One run, from observation `FIRST_SCORED` on.

    Attributes:
        truth_nm: initial state; tells whether two runs are a pair.
        error_nm: geometric mean of the error norm.
        missed_90: share of observations whose 90 % region does not hold the truth.
        surprise: root mean square of error / standard deviation, 1 for an honest belief.
        spread_nm: geometric mean of the standard deviations.
        step_loops: median computing time of a step, in calibration loops of the same process; 0 if hardly any.
    """

    truth_nm: list[float]
    error_nm: float
    missed_90: float
    surprise: float
    spread_nm: float
    step_loops: float


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
"""Larger is worse in each. Coverage alone needs many runs to show what surprise shows in a few; a region that grew
twofold is a loss too, though it misses less."""


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


class BaselineError(ValueError):
    """A baseline that is missing, or not of these runs."""


Scores = dict[str, dict[str, Score]]
"""Controller -> "scenario seed" -> score."""


# --- measuring -----------------------------------------------------------------------------------


def calibration_loop_s() -> float:
    """Seconds that this process takes now for a fixed mixture of transforms, matrices and plain Python; best of 5.

    On one thread, as runs are (`sweep.run`): with two, this loop takes twice as long, and every step would seem half
    as long as it is.
    """
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    image, matrix = rng.normal(size=(256, 256)), np.eye(150) + 1e-3
    best = np.inf
    with threadpool_limits(1):
        for _ in range(5):
            started = perf_counter()
            for _ in range(4):
                np.abs(np.fft.fft2(image)) ** 2
                np.linalg.cholesky(matrix)
            sum(i * i for i in range(20_000))
            best = min(best, perf_counter() - started)
    return float(best)


def score(record: RunRecord, loop_s: float) -> Score:
    """Figures of one run; `loop_s` from `calibration_loop_s`, in the process that made it."""
    steps = record.steps[FIRST_SCORED - 1 :]
    errors = np.array([step.error_component_nm for step in steps])
    std = np.array([step.std_nm for step in steps])
    seconds = float(np.median([step.seconds for step in steps]))
    return Score(
        truth_nm=list(record.truth_nm),
        error_nm=float(np.exp(np.mean(np.log(np.linalg.norm(errors, axis=1))))),
        missed_90=float(np.mean([not step.covers_90 for step in steps])),
        surprise=float(np.sqrt(np.mean((errors / std) ** 2))),
        spread_nm=float(np.exp(np.mean(np.log(std)))),
        step_loops=seconds / loop_s if seconds > FASTEST_S else 0.0,
    )


def scored_run(job: Job) -> tuple[RunRecord, Score]:
    """One run and its score, timed in this process."""
    record = run(job)
    return record, score(record, calibration_loop_s())


def measure(setting: Setting, workers: int) -> Scores:
    """Run the setting with a progress bar.

    Raises:
        ScenarioError: an unknown scenario or controller.
        SweepError: a run failed.
    """
    from tqdm import tqdm

    plan = setting.plan()
    check_builds(plan)
    jobs = [job for _, job in plan.jobs()]
    found: dict[tuple[str, str, int], Score] = {}
    with lanes(None, workers, len(jobs)) as ready:
        for outcome in tqdm(spread(scored_run, jobs, ready), total=len(jobs), desc="runs"):
            if isinstance(outcome, Failure):
                raise SweepError(f"{outcome.job}: {outcome.error}")
            record, its_score = outcome
            found[record.scenario, record.controller, record.seed] = its_score
    return {
        controller: {f"{s} {seed}": found[s, controller, seed] for s in plan.scenarios for seed in plan.seeds}
        for controller in plan.controllers
    }


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


def update(setting: Setting, path: Path, reason: str, workers: int) -> None:
    """Measure, print what changes against the former baseline, write the new one; raises as `measure`."""
    scores = measure(setting, workers)
    for line in _against_former(path, scores):
        print(line)
    plain = {
        "commit": _commit(),
        "reason": reason,
        "versions": versions(),
        "observations": [FIRST_SCORED, setting.observations],
        "scores": {c: {label: asdict(s) for label, s in by_run.items()} for c, by_run in scores.items()},
    }
    write_text(path, json.dumps(plain, indent=1) + "\n")
    print(f"{path}: {', '.join(scores)} at {plain['commit']}")


def _against_former(path: Path, scores: Scores) -> Iterator[str]:
    """What `check` would have said; a baseline that cannot be compared is replaced all the same."""
    try:
        yield from told(judge(read(path)[0], scores))
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


def check(setting: Setting, path: Path, workers: int) -> int:
    """Measure, compare, print; 1 when something got worse, otherwise 0.

    Raises:
        BaselineError: as in `read` and `judge`.
        ScenarioError, SweepError: as in `measure`.
    """
    before, about = read(path)
    if about["observations"] != [FIRST_SCORED, setting.observations]:
        raise BaselineError(f"{path} scores observations {about['observations']}, not these: --update --reason")
    verdicts = judge(before, measure(setting, workers))
    for line in told(verdicts):
        print(line)
    print(f"baseline: commit {about['commit']}, {about['reason']}")
    return int(any(verdict.worse for verdict in verdicts))


def told(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line per controller and figure, then what got worse."""
    width = max(len(verdict.controller) for verdict in verdicts)
    yield f"{'controller':{width}} {'figure':10} {'baseline':>9} {'now':>9} {'change':>8} {'p':>8}"
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
