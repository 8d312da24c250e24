"""One closed-loop run on a microscope of a kind, and many of them side by side."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.reality.kinds import KINDS, Kind
from controller import base
from controller.base import Controller
from scenarios.comparison.executors import lanes
from scenarios.comparison.sweep import Queue
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace


@dataclass(frozen=True)
class Job:
    """A run to do.

    Attributes:
        kind: name in `KINDS`.
        controller: name.
        seed: of day, start, films, noise and controller; equal seeds meet equal days, starts, films and noise.
        severity: of the day.
        renderer: "fast" (phase screens) or "multislice".
        frames: Ronchigrams.
    """

    kind: str
    controller: str
    seed: int
    severity: float = 1.0
    renderer: str = "multislice"
    frames: int = 8


@dataclass(frozen=True)
class Record:
    """One frame of a run.

    Attributes:
        error_nm: length of the error of the estimate, nm at the reference optics.
        in_spec, covers_90, done, misfit: the scorer's and the controller's verdicts.
        reason: what the checks object to.
        seconds: of `update` and `propose`.
    """

    error_nm: float
    in_spec: bool
    covers_90: bool
    done: bool
    misfit: bool
    reason: str
    seconds: float


def microscope(kind: Kind, job: Job) -> SimulatedMicroscope:
    """The microscope of a job's day, not yet reset; where starts lie outside the box it reaches as far."""
    day = kind.day(job.severity, np.random.default_rng([job.seed, 1]))
    optics, space = kind.actual or kind.told, kind.space
    if kind.start_nm is not None:
        reach = tuple(max(pair) for pair in zip(kind.start_nm, space.input_nm, strict=True))
        space = StateSpace(space.names, kind.start_nm, reach, space.tolerance_nm)
        # The same camera on a window twice as wide.
        optics = replace(optics, grid=2 * optics.grid, binning=2 * optics.binning)
    return SimulatedMicroscope(optics, space, day, job.renderer)


def seed_outside(seed: int, shown: SimulatedMicroscope, box: StateSpace) -> None:
    """Reset to a start whose first component lies outside the box."""
    for attempt in range(1000):
        shown.reset(np.random.default_rng([seed, 2, attempt]))
        if abs(shown.truth().initial_nm[0]) > 1.1 * box.start[0]:
            return


def run(job: Job) -> list[Record]:
    """Calibrate once; one record per frame.

    Raises:
        UnknownController: no such controller.
    """
    from threadpoolctl import threadpool_limits

    kind = KINDS[job.kind]
    shown, controller = microscope(kind, job), _controller(job.controller, kind.told)
    if kind.start_nm is None:
        shown.reset(np.random.default_rng([job.seed, 2]))
    else:
        seed_outside(job.seed, shown, kind.space)
    controller.reset(kind.space, np.random.default_rng([job.seed, 3]))
    with threadpool_limits(1):
        return calibrated(controller, shown, kind.space, job.frames)


def calibrated(controller: Controller, shown: SimulatedMicroscope, space: StateSpace, frames: int) -> list[Record]:
    """Run a controller on a microscope, both of them reset."""
    truth, per_nm = shown.truth().initial_nm, 10.0 / space.tolerance
    records, delta = [], space.zero
    for k in range(frames):
        begun = perf_counter()
        if k > 0:
            delta = controller.propose()
            shown.apply(delta)
        waited = perf_counter()
        frame = shown.acquire()
        waited = perf_counter() - waited
        controller.update(delta, frame)
        seconds = perf_counter() - begun - waited
        estimate = controller.estimate()
        error = truth - estimate.mean_nm
        records.append(
            Record(
                error_nm=float(np.linalg.norm(error * per_nm)),
                in_spec=bool(space.in_spec(error)),
                covers_90=estimate.covers(truth, 0.9),
                done=controller.done,
                misfit=bool(estimate.misfit),
                reason=estimate.reason,
                seconds=seconds,
            )
        )
    return records


@lru_cache(maxsize=8)
def _controller(name: str, optics: Optics) -> Controller:
    return base.load(name, optics, Kind(told=optics).space)


def _plain(job: Job) -> list[dict[str, Any]]:
    return [asdict(record) for record in run(job)]


def run_all(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, list[dict[str, Any]]]]:
    """Run the jobs in `workers` processes; yield each with its records as it finishes. An error of a run is raised."""
    queue = Queue(jobs, lambda job: (job.controller, job.kind))
    with lanes(None, workers, len(jobs)) as ready:
        pending: dict[Future[list[dict[str, Any]]], tuple[int, Job]] = {}
        idle = list(range(len(ready)))
        while True:
            for lane in idle:
                job = queue.take(lane)
                if job is not None:
                    pending[ready[lane].submit(_plain, job)] = lane, job
            if not pending:
                return
            finished = wait(pending, return_when=FIRST_COMPLETED).done
            idle = []
            for future in finished:
                lane, job = pending.pop(future)
                idle.append(lane)
                yield job, future.result()
