"""Many runs: what one is asked, what it leaves behind, and the order in which workers take them.

Where the workers are is the business of `executors.py`; what becomes of the records, of `compare.py`.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Generic, TypeVar

from scenarios.calibration.results import Step, Vector
from scenarios.calibration.run import Session, observe, prepare
from scenarios.choices import split_list
from scenarios.comparison.executors import SweepError
from scenarios.schema import Scenario, ScenarioError, load

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Job:
    """One run to be done.

    Attributes:
        scenario: library name or path of a YAML file.
        controller: name, with options if any: `vae_em:hard=true,candidates=500`.
        seed: of everything random in the run.
        observations: Ronchigrams to take; the scenario's own number by default.
        overrides: `key.key=value` changes of the scenario.
    """

    scenario: str
    controller: str
    seed: int
    observations: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Attributes:
        scenario: its name, which need not be what the job called it.
        controller: as in the job, options included.
        seed: as in the job.
        truth_nm: the initial state x0.
        steps: one per observation.
        scenario_digest: of everything that the scenario settled, this seed's day and the controller's options included.
    """

    scenario: str
    controller: str
    seed: int
    truth_nm: Vector
    steps: tuple[Step, ...]
    scenario_digest: str

    def to_json(self) -> str:
        """One object; floats come back from it bit for bit."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """The record that `to_json` wrote.

        Raises:
            ValueError: it is not one.
        """
        try:
            plain = json.loads(text)
            steps = tuple(_step(step) for step in plain.pop("steps"))
            return cls(steps=steps, **{**plain, "truth_nm": tuple(plain["truth_nm"])})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"not the record of a run: {error}") from error


@dataclass(frozen=True)
class Failure:
    """A run that raised; the others go on."""

    job: Job
    error: str


def _step(plain: dict[str, Any]) -> Step:
    values: dict[str, Any] = {f.name: plain[f.name] for f in fields(Step)}
    for key, value in values.items():
        values[key] = tuple(value) if isinstance(value, list) else value
    return Step(**values)


# --- one run -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _scenario(name: str, controller: str, observations: int | None, overrides: tuple[str, ...]) -> Scenario:
    kind, _, options = controller.partition(":")
    changes = [f"task.observations={observations}"] if observations is not None else []
    changes += [*overrides, *(f"controllers.{kind}.{option}" for option in split_list(options))]
    return load(name, changes)


def resolve(job: Job) -> Scenario:
    """The scenario of a job, with its overrides, its controller's options and, on random days, its seed's day.

    Raises:
        ScenarioError: as in `schema.load`.
    """
    scenario = _scenario(job.scenario, job.controller, job.observations, job.overrides)
    return scenario.for_seed(job.seed)


def kind(controller: str) -> str:
    """The name of a controller without its options."""
    return controller.partition(":")[0]


def digest(scenario: Scenario, controller: str) -> str:
    """SHA-256 of all that settles a run but its seed: the resolved scenario and the options of this controller."""
    plain = scenario.resolved()
    plain["controllers"] = {kind(controller): plain["controllers"].get(kind(controller), {})}
    del plain["description"]
    return hashlib.sha256(_canonical(plain).encode()).hexdigest()


def microscope_key(scenario: Scenario) -> str:
    """Equal for scenarios that one and the same simulated microscope serves."""
    plain = scenario.resolved()
    return _canonical({key: plain.get(key) for key in ("optics", "space", "day", "renderer", "microscope")})


def _canonical(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True)


class Bench:
    """The sessions that a process keeps between runs: one microscope, and the controllers that met it.

    An atomic film takes seconds to build and hundreds of megabytes to hold, so that there is one at a time.
    """

    def __init__(self) -> None:
        self._microscope = ""
        self._sessions: dict[str, Session] = {}

    def session(self, scenario: Scenario, controller: str) -> Session:
        """A session of `controller` (no options) on `scenario`, made or found.

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
                # The film is built on first use: the one let go of here has none yet.
                session = replace(session, bench=other.bench)
                break
            self._sessions[key] = session
        return self._sessions[key]


_BENCH = Bench()


def run(job: Job) -> RunRecord:
    """One seeded run, start to end; the same figures in every process, one thread each.

    Raises:
        ScenarioError: the job's scenario or controller cannot be had.
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
    """Records of the jobs as they come; see `spread`."""
    return spread(run, jobs, lanes)


def spread(
    task: Callable[[Job], Outcome], jobs: Sequence[Job], lanes: Sequence[Executor]
) -> Iterator[Outcome | Failure]:
    """Do the jobs, one at a time in each lane, and hand out what comes of them as it comes.

    Jobs that share a microscope stay together in a lane as long as there are others for the rest.

    Args:
        task: what a worker does with a job; a function of a module, to be found by the workers.
        jobs: any order; within one microscope it is kept.
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
                # Handed out before the lane goes on: a lane in this process works while it is fed.
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
    """Items by group; a lane keeps to its group, then takes an untouched one, then helps with the longest."""

    def __init__(self, items: Sequence[Item], group: Callable[[Item], Hashable]) -> None:
        self._groups: dict[Hashable, deque[Item]] = {}
        for item in items:
            self._groups.setdefault(group(item), deque()).append(item)
        self._taken: dict[int, Hashable] = {}

    def take(self, lane: int) -> Item | None:
        """The next item for a lane; None when there is nothing left."""
        left = {key: items for key, items in self._groups.items() if items}
        if not left:
            return None
        if self._taken.get(lane) not in left:
            untouched = [key for key in left if key not in self._taken.values()]
            self._taken[lane] = untouched[0] if untouched else max(left, key=lambda key: len(left[key]))
        return left[self._taken[lane]].popleft()
