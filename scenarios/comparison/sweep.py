"""Many runs: job, record, and the order in which workers take them.

`executors.py` provides the workers; `ledger.py` stores the records.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from scenarios.calibration.results import Step, Vector
from scenarios.calibration.session import Session, observe, prepare
from scenarios.choices import split_list
from scenarios.comparison.executors import SweepError
from scenarios.schema import Scenario, ScenarioError, load
from twin.options import first_problem
from twin.text import json_text

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Job:
    """A run to do.

    Attributes:
        scenario: library name or path of a YAML file.
        controller: name, with options if any: `vae_em:hard=true,candidates=500`.
        seed: of every random number in the run.
        observations: Ronchigrams to take; default as in the scenario.
        overrides: `key.key=value` changes of the scenario.
    """

    scenario: str
    controller: str
    seed: int
    observations: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A finished run.

    Attributes:
        scenario: its name; the job may have its path.
        controller: as in the job, options included.
        seed: as in the job.
        truth_nm: the initial state x0.
        steps: one per observation.
        scenario_digest: of all settings, with this seed's day and the controller's options.
    """

    scenario: str
    controller: str
    seed: int
    truth_nm: Vector
    steps: tuple[Step, ...]
    scenario_digest: str

    def to_json(self) -> str:
        """Return one JSON object; it restores floats bit for bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """Read the text that `to_json` wrote.

        Raises:
            ValueError: it is no record.
        """
        try:
            return _record_of()(json_text.loads(text, finite=False))
        except ValidationError as error:
            raise ValueError(f"not the record of a run: {first_problem(error)}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"not the record of a run: {error}") from error

    def check(self, scenario: str, controller: str, seed: int) -> None:
        """Refuse a record that is not of this run, or whose steps do not go on from 1 to the last.

        Raises:
            ValueError: names both.
        """
        if (self.scenario, self.controller, self.seed) != (scenario, controller, seed):
            raise ValueError(f"the record of {self.scenario}, {self.controller}, seed {self.seed}")
        if not self.steps or [step.observation for step in self.steps] != list(range(1, len(self.steps) + 1)):
            raise ValueError("the steps are not complete")
        lengths = {len(self.truth_nm), *(len(v) for step in self.steps for v in (step.estimate_nm, step.std_nm))}
        if len(lengths) != 1:
            raise ValueError("the estimates differ in length")


@dataclass(frozen=True)
class Failure:
    """A run that raised an error; the others continue."""

    job: Job
    error: str


@lru_cache
def _record_of() -> Callable[[Any], RunRecord]:
    """Return a function that checks plain data and makes a record."""
    return TypeAdapter(RunRecord).validate_python


# --- one run -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _scenario(name: str, controller: str, observations: int | None, overrides: tuple[str, ...]) -> Scenario:
    kind, _, options = controller.partition(":")
    changes = [f"task.observations={observations}"] if observations is not None else []
    changes += [*overrides, *(f"controllers.{kind}.{option}" for option in split_list(options))]
    return load(name, changes)


def resolve(job: Job) -> Scenario:
    """Return the scenario of a job, with overrides, controller options and, on random days, its seed's day.

    Raises:
        ScenarioError: as in `schema.load`.
    """
    scenario = _scenario(job.scenario, job.controller, job.observations, job.overrides)
    return scenario.for_seed(job.seed)


def kind(controller: str) -> str:
    """Return the name of a controller without its options."""
    return controller.partition(":")[0]


def digest(scenario: Scenario, controller: str) -> str:
    """Return the SHA-256 of the settings of a run without its seed: resolved scenario and controller options."""
    plain = scenario.resolved()
    plain["controllers"] = {kind(controller): plain["controllers"].get(kind(controller), {})}
    del plain["description"]
    return hashlib.sha256(_canonical(plain).encode()).hexdigest()


def microscope_key(scenario: Scenario) -> str:
    """Return a key that is equal for scenarios with the same simulated microscope."""
    plain = scenario.resolved()
    return _canonical({key: plain.get(key) for key in ("optics", "space", "day", "renderer", "microscope")})


def _canonical(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True)


class Bench:
    """The sessions that a process keeps between runs: one microscope, and its controllers.

    An atomic film takes seconds to build and hundreds of megabytes to hold, so that there is one at a time.
    """

    def __init__(self) -> None:
        self._microscope = ""
        self._sessions: dict[str, Session] = {}

    def session(self, scenario: Scenario, controller: str) -> Session:
        """Return a session of `controller` (no options) on `scenario`, a kept one if possible.

        Raises:
            ScenarioError: as in `run.prepare`.
        """
        if microscope_key(scenario) != self._microscope:
            self._sessions.clear()
            self._microscope = microscope_key(scenario)
        key = _canonical([controller, scenario.resolved()])
        if key not in self._sessions:
            session = prepare(scenario, controller)
            for other in self._sessions.values():
                # The film is built on first use: the bench that is dropped here has none yet.
                session = replace(session, bench=other.bench)
                break
            self._sessions[key] = session
        return self._sessions[key]


_BENCH = Bench()


def run(job: Job) -> RunRecord:
    """Do one seeded run; the figures are the same in every process, with one thread each.

    Raises:
        ScenarioError: scenario or controller cannot be used, or there is no ground truth.
    """
    from threadpoolctl import threadpool_limits

    scenario = resolve(job)
    session = _BENCH.session(scenario, kind(job.controller))
    # Sums over several threads add up in another order, and idle threads starve the other workers.
    with threadpool_limits(1):
        scored = [(observation.step, observation.truth) for observation in observe(session, job.seed)]
    truth = scored[-1][1]
    if truth is None:
        raise ScenarioError(f"{scenario.name}: errors cannot be compared without ground truth")
    initial_nm = tuple(float(value) for value in truth.initial_nm)
    steps = tuple(step for step, _ in scored)
    return RunRecord(scenario.name, job.controller, job.seed, initial_nm, steps, digest(scenario, job.controller))


# --- many ----------------------------------------------------------------------------------------


def sweep(jobs: Sequence[Job], lanes: Sequence[Executor]) -> Iterator[RunRecord | Failure]:
    """Yield records of the jobs as they finish; see `spread`."""
    return spread(run, jobs, lanes)


def spread(
    task: Callable[[Job], Outcome], jobs: Sequence[Job], lanes: Sequence[Executor]
) -> Iterator[Outcome | Failure]:
    """Do the jobs, one at a time in each lane, and yield their outcomes as they finish.

    Jobs with the same microscope stay in one lane as long as the other lanes have work.

    Args:
        task: function that a worker calls with a job; importable by the workers.
        jobs: any order, which is kept within one microscope.
        lanes: executors of one worker each, see `executors.py`.

    Raises:
        SweepError: a worker died.
    """
    queue = Queue(jobs, lambda job: microscope_key(resolve(job)))
    pending: dict[Future[Outcome], tuple[int, Job]] = {}

    def feed(lane: int) -> None:
        job = queue.take(lane)
        if job is not None:
            pending[lanes[lane].submit(task, job)] = (lane, job)

    try:
        for lane in range(len(lanes)):
            feed(lane)
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                lane, job = pending.pop(future)
                result = _result(future, job)
                # Yielded before the lane gets its next job: a lane in this process does it while it is submitted.
                yield result
                feed(lane)
    finally:
        for future in pending:
            future.cancel()


def _result(future: Future[Outcome], job: Job) -> Outcome | Failure:
    try:
        result: Outcome = future.result()
    except BrokenExecutor as error:
        raise SweepError(
            f"a worker died (out of memory?) during {job.scenario}, {job.controller}, seed {job.seed}"
        ) from error
    except Exception as error:
        return Failure(job, f"{type(error).__name__}: {error}")
    return result


Item = TypeVar("Item")


class Queue(Generic[Item]):
    """Items by group; a lane works through its group, then an untouched one, then helps with the longest."""

    def __init__(self, items: Sequence[Item], group: Callable[[Item], Hashable]) -> None:
        self._groups: dict[Hashable, deque[Item]] = {}
        for item in items:
            self._groups.setdefault(group(item), deque()).append(item)
        self._taken: dict[int, Hashable] = {}

    def take(self, lane: int) -> Item | None:
        """Return the next item for a lane; None when the queue is empty."""
        left = {key: items for key, items in self._groups.items() if items}
        if not left:
            return None
        if self._taken.get(lane) not in left:
            untouched = [key for key in left if key not in self._taken.values()]
            self._taken[lane] = untouched[0] if untouched else max(left, key=lambda key: len(left[key]))
        return left[self._taken[lane]].popleft()
