"""The runs of the regression check, and their scores: how far off, how honest, how slow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from scenarios.comparison.executors import SweepError, lanes
from scenarios.comparison.ledger import Plan, check_builds, make_plan
from scenarios.comparison.sweep import Failure, Job, RunRecord, run, spread

FIRST_SCORED = 3
"""The sign needs two frames; earlier errors mean little."""

FASTEST_S = 2e-3
"""A step shorter than this is not worth timing."""


@dataclass(frozen=True)
class Setting:
    """Runs of every scenario and controller on every seed.

    Attributes:
        first_scored: observation from which on a run is scored.
        label: appended to the controllers' names: a controller has one row of the baseline for each setting.
    """

    scenarios: tuple[str, ...]
    controllers: tuple[str, ...]
    seeds: range
    observations: int = 6
    overrides: tuple[str, ...] = ()
    label: str = ""
    first_scored: int = FIRST_SCORED

    def plan(self) -> Plan:
        """As `stemtwin compare` plans them; raises ScenarioError."""
        return make_plan(self.scenarios, self.controllers, self.seeds, self.observations, self.overrides)

    def row(self, controller: str) -> str:
        """Name of a controller's row."""
        return f"{controller}, {self.label}" if self.label else controller

    @property
    def rows(self) -> list[str]:
        """Names of all rows."""
        return [self.row(controller) for controller in self.controllers]


Settings = Sequence[Setting]

FAST = ("renderer=fast",)
CI: Settings = (
    Setting(
        ("day_a", "day_b"), ("vae_em", "vae_fixed", "neural_posterior", "spectrum_ml", "bo_scalar"), range(5000, 5010)
    ),
    Setting(("day_a_second_order",), ("neural_posterior",), range(5000, 5010), 18, FAST, "seven coefficients", 12),
    Setting(("day_drift",), ("kalman",), range(5000, 5012), 20, FAST, "drift"),
    Setting(("random_2",), ("neural_posterior_em",), range(5000, 5016), 7, FAST, "outside training"),
    Setting(("day_a",), ("joint_fit",), range(5000, 5010), 10, FAST, "one region", 8),
)
"""The runs of continuous integration, on seeds that no other figure uses.

The first setting is rendered by multislice. It has many short runs: further observations make up for a fault, so that
it shows less. Ten observations of twelve runs are the same work; by the spread of the errors over seeds the smallest
detectable shift would grow by 4 % (neural_posterior) to 26 % (vae_em). The others are on phase screens and guard gross
faults of one capability each: with ten pairs a change has to show in every one of them.
"""


@dataclass(frozen=True)
class Score:
    """One run, from the first scored observation on.

    Attributes:
        truth_nm: initial state; equal in the two runs of a pair.
        error_nm: geometric mean of the error norm.
        missed_90: share of observations whose 90 % region does not cover the truth.
        surprise: root mean square of error / standard deviation, 1 for calibrated uncertainty.
        spread_nm: geometric mean of the standard deviations.
        step_loops: median computing time of a step, in calibration loops of the same process; 0 if hardly any.
    """

    truth_nm: list[float]
    error_nm: float
    missed_90: float
    surprise: float
    spread_nm: float
    step_loops: float


Scores = dict[str, dict[str, Score]]
"""Controller -> "scenario seed" -> score."""


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


def score(record: RunRecord, loop_s: float, first: int = FIRST_SCORED) -> Score:
    """Figures of one run from observation `first` on; `loop_s` is `calibration_loop_s()` of the same process."""
    steps = record.steps[first - 1 :]
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


def scored_run(job: Job, first: int = FIRST_SCORED) -> tuple[RunRecord, Score]:
    """One run and its score, timed in this process."""
    record = run(job)
    return record, score(record, calibration_loop_s(), first)


def measure(settings: Settings, workers: int) -> Scores:
    """Run the settings with a progress bar.

    Raises:
        ScenarioError: an unknown scenario or controller.
        SweepError: a run failed.
    """
    from tqdm import tqdm

    plans = [setting.plan() for setting in settings]
    for plan in plans:
        check_builds(plan)
    jobs = [[job for _, job in plan.jobs()] for plan in plans]
    total = sum(map(len, jobs))
    scores: Scores = {}
    with lanes(None, workers, total) as ready, tqdm(total=total, desc="runs") as bar:
        for setting, plan, its_jobs in zip(settings, plans, jobs, strict=True):
            found: dict[tuple[str, str, int], Score] = {}
            for outcome in spread(partial(scored_run, first=setting.first_scored), its_jobs, ready):
                if isinstance(outcome, Failure):
                    raise SweepError(f"{outcome.job}: {outcome.error}")
                record, its_score = outcome
                found[record.scenario, record.controller, record.seed] = its_score
                bar.update()
            for controller in plan.controllers:
                labels = [(f"{s} {seed}", (s, controller, seed)) for s in plan.scenarios for seed in plan.seeds]
                scores[setting.row(controller)] = {label: found[key] for label, key in labels}
    return scores
