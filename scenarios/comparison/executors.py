"""Workers: this process, processes beside it, or a Dask cluster.

Each provides lanes: executors of one worker each, so that a worker can keep a microscope from job to job.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec, TypeVar

from scenarios.versions import versions
from twin.errors import StemtwinError
from twin.interrupt import held

P = ParamSpec("P")
R = TypeVar("R")

CONNECT_S = 10
"""Time-out for a scheduler's answer."""


class SweepError(StemtwinError):
    """A sweep that cannot begin or continue; finished runs are on disc."""


def lanes(scheduler: str | None, workers: int, jobs: int) -> AbstractContextManager[list[Executor]]:
    """Return the workers of a cluster, processes, or this process if one is enough; at most one per job.

    Args:
        scheduler: address of a Dask scheduler; None works on this machine.
        workers: processes on this machine; 0 is one per core.
        jobs: runs to do.
    """
    if scheduler and jobs:
        return dask_cluster(scheduler)
    count = min(workers or os.cpu_count() or 1, jobs)
    return processes(count) if count > 1 else serial()


class InThisProcess(Executor):
    """Call submitted functions at once; an interrupt is passed on."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        future: Future[R] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def serial() -> Iterator[list[Executor]]:
    """Provide one lane: this process."""
    yield [InThisProcess()]


@contextmanager
def processes(count: int) -> Iterator[list[Executor]]:
    """Provide `count` lanes, one spawned process each; an exception in the block ends them.

    The workers ignore Ctrl-C, SIGTERM and SIGHUP, which the parent handles, and exit when the parent has died.
    """
    before = active_children()
    workers: list[BaseProcess] = []
    lanes: list[Executor] = []
    try:
        with _ignored_by_children():
            for _ in range(count):
                lane = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_enter_worker)
                lanes.append(lane)
                lane.submit(_import_all)
                workers += [child for child in active_children() if child not in (*before, *workers)]
        yield lanes
    except BaseException:
        with held():  # none outlives this program
            for worker in workers:
                worker.kill()
            _shut(lanes)
        raise
    finally:
        _shut(lanes)


def _shut(lanes: Iterable[Executor]) -> None:
    for lane in lanes:
        lane.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _ignored_by_children() -> Iterator[None]:
    """Let processes that are started inside ignore the signals that end a program, from their first instruction on.

    They inherit what is blocked here; a signal to this process waits for the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        resource_tracker.ensure_running()  # it unblocks signals when it is started
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_ENDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _enter_worker() -> None:
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Exit with the parent: a killed parent closes no pipe, and its workers would wait for jobs for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _import_all() -> None:
    """Import slow modules while the parent checks the jobs."""
    import scenarios.calibration.run  # noqa: F401
    import twin.ronchigram.multislice  # noqa: F401


@contextmanager
def dask_cluster(address: str) -> Iterator[list[Executor]]:
    """Provide one lane per worker that the cluster at `address` has now; stemtwin must be installed there.

    Another worker repeats the run of a lost one. Scenario files must have the same paths as on this machine.

    Raises:
        SweepError: no answer, no workers, or workers with other versions of packages that change figures.
    """
    client = _connect(address)
    try:
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        if not workers:
            raise SweepError(f"the Dask cluster at {address} has no workers")
        _check_versions(client)
        lanes = [client.get_executor(workers=[name], allow_other_workers=True, pure=False) for name in workers]
        try:
            yield lanes
        except BaseException:
            for lane in lanes:
                lane.shutdown(wait=False)
            raise
    finally:
        client.close()


def _connect(address: str) -> Any:
    try:
        import distributed
    except ImportError as error:
        raise SweepError("a Dask cluster needs the package distributed: pip install distributed") from error
    connect: Callable[..., Any] = distributed.Client
    try:
        return connect(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SweepError(f"no Dask scheduler answers at {address!r} (tcp://HOST:PORT is expected): {error}") from error


def _check_versions(client: Any) -> None:
    here = versions()
    try:
        everywhere = client.run(versions)
    except ImportError as error:
        raise SweepError(f"the cluster's workers cannot import stemtwin: {error}") from error
    for worker, there in everywhere.items():
        for package in sorted(here.keys() | there.keys()):
            if here.get(package) != there.get(package):
                raise SweepError(
                    f"worker {worker} has {package} {there.get(package)}, this machine {here.get(package)}:"
                    " figures would mix"
                )
