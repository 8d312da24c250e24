"""Run any number of agents over one source, in one pass.

An agent that raises has failed: its result so far is kept, and the others go on.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from agents.base import Agent, MetaError, Reconstruction, StreamMeta
from agents.block import Block
from agents.source import Health, Source
from twin.interrupt import deferred, remembered

Status = Literal["complete", "incomplete", "interrupted"]


@dataclass(frozen=True)
class Progress:
    """Progress of a stream.

    Attributes:
        positions: positions processed so far.
        total: positions of the scan.
        seconds: time since the first block was requested.
        rate_per_s: positions per second since the last report.
        lag_s: time the agents need for the positions that are waiting; zero for a source that does not read ahead.
        health: health of the source; it changes while the stream runs.
    """

    positions: int
    total: int
    seconds: float
    rate_per_s: float
    lag_s: float
    health: Health


@dataclass(frozen=True, eq=False)
class Streamed:
    """Outcome of a stream.

    Attributes:
        status: "incomplete" if positions are missing, "interrupted" by the operator, else "complete".
        meta: metadata of the stream.
        results: result of every agent that has one, by name.
        errors: error messages of the agents that failed, by name.
        health: health of the source.
        positions: positions that were processed.
        seconds: time from the request of the first block to the end of the last.
        agent_s: time inside each agent, by name. Sums that several agents share are attributed to the first.
        finish_s: time of each agent's `finish` after the stream.
    """

    status: Status
    meta: StreamMeta
    results: Mapping[str, Reconstruction]
    errors: Mapping[str, str]
    health: Health
    positions: int
    seconds: float
    agent_s: Mapping[str, float]
    finish_s: Mapping[str, float]

    @property
    def frames_per_s(self) -> float:
        """Positions per second, of source and agents together."""
        return self.positions / self.seconds if self.seconds > 0 else 0.0


@dataclass
class _Run:
    """The agents that are running, and results, errors and times so far."""

    agents: dict[str, Agent]
    results: dict[str, Reconstruction] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    agent_s: dict[str, float] = field(default_factory=dict)
    finish_s: dict[str, float] = field(default_factory=dict)

    def start(self, meta: StreamMeta) -> None:
        for name, agent in list(self.agents.items()):
            try:
                agent.start(meta)
            except Exception as error:
                self.errors[name] = _message(error)
                del self.agents[name]
        if self.errors and not self.agents:
            said = (m if m.startswith(name) else f"{name}: {m}" for name, m in self.errors.items())
            raise MetaError("; ".join(said))

    def update(self, block: Block) -> None:
        for name, agent in list(self.agents.items()):
            begun = perf_counter()
            try:
                agent.update(block)
            except Exception as error:
                self.fail(name, error)
            finally:
                self.agent_s[name] = self.agent_s.get(name, 0.0) + perf_counter() - begun

    def finish(self) -> None:
        for name, agent in list(self.agents.items()):
            finish: Callable[[], None] | None = getattr(agent, "finish", None)
            if finish is None:
                continue
            begun = perf_counter()
            try:
                finish()
            except Exception as error:
                self.fail(name, error)
            self.finish_s[name] = perf_counter() - begun

    def fail(self, name: str, error: Exception) -> None:
        """Drop an agent; note its error and keep its result so far."""
        self.errors[name] = _message(error)
        agent = self.agents.pop(name)
        with suppress(Exception):
            self.results[name] = agent.result()

    def collect(self) -> None:
        for name, agent in list(self.agents.items()):
            try:
                self.results[name] = agent.result()
            except Exception as error:
                self.errors[name] = _message(error)


def run(
    source: Source,
    agents: Mapping[str, Agent],
    progress: Callable[[Progress], None] | None = None,
    every_s: float = 0.5,
) -> Streamed:
    """Run all agents over a stream in one pass; the source is not closed.

    An agent that cannot start, or raises later, has failed: its error is noted, and the others go on. Ctrl-C ends the
    stream after the current block and keeps the results so far; so does an error of the source, which becomes a fault
    in its `Health`. At the end `finish()` is called on agents that have it, but not after Ctrl-C: convergence may take
    long. A second Ctrl-C takes effect at once.

    Args:
        source: open and not yet used.
        agents: agents by the name of their results.
        progress: called between blocks, at most once in `every_s` seconds, and after the last block.
        every_s: interval of the reports.

    Raises:
        MetaError: no agent can start; the message has the reason of each.
        ValueError: no agents.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from agents import load
        >>> from agents.sources import open_source
        >>> from twin.formats import Layout, Metadata, create
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with create(f"{folder}/scan.zarr", Layout((2, 3), (8, 8)), Metadata(pixel_mrad=2.0)) as writer:
        ...         writer.append(np.ones((6, 8, 8), np.uint16))
        ...     with open_source(f"{folder}/scan.zarr") as source:
        ...         outcome = run(source, {"com": load("com")})
        >>> outcome.status, outcome.positions, outcome.results["com"].figures["electrons_e"]
        ('complete', 6, 64.0)
    """
    if not agents:
        raise ValueError("a stream needs at least one agent")
    running = _Run(dict(agents))
    running.start(source.meta)
    clock = _Clock(source, progress, every_s)
    interrupted = False
    try:
        with remembered() as check_interrupt:
            _fold(source, running, clock, check_interrupt)
            running.finish()
    except KeyboardInterrupt:
        interrupted = True
    running.collect()
    return _streamed(source, agents, running, clock, interrupted)


def _streamed(source: Source, agents: Iterable[str], running: _Run, clock: "_Clock", interrupted: bool) -> Streamed:
    """Sum up a pass that has ended; results are in the order of the agents' names."""
    complete = source.health.missing == 0 and clock.positions > 0
    return Streamed(
        status="interrupted" if interrupted else "complete" if complete else "incomplete",
        meta=source.meta,
        results={name: running.results[name] for name in agents if name in running.results},
        errors=running.errors,
        health=source.health,
        positions=clock.positions,
        seconds=clock.seconds,
        agent_s=running.agent_s,
        finish_s=running.finish_s,
    )


def _fold(source: Source, running: _Run, clock: "_Clock", check_interrupt: Callable[[], None]) -> None:
    """Give every block to every agent, until the stream ends or all agents have failed."""
    blocks = source.blocks()
    try:
        for block in blocks:
            with deferred(until_second=True):  # every agent takes the whole block
                running.update(block)
                clock.tick(len(block))
            check_interrupt()
            if not running.agents:
                source.health.fault("all agents have failed; the stream was stopped")
                source.health.missing = max(source.health.missing, source.meta.layout.count - clock.positions)
                break
    except Exception as error:
        source.health.fault(f"the source failed: {_message(error)}")
        source.health.missing = max(source.health.missing, source.meta.layout.count - clock.positions)
    finally:
        clock.stop()
        close = getattr(blocks, "close", None)
        if close is not None:
            close()


class _Clock:
    """Counts positions and time, and reports progress."""

    def __init__(self, source: Source, progress: Callable[[Progress], None] | None, every_s: float) -> None:
        self.positions, self.seconds = 0, 0.0
        self._source, self._progress, self._every_s = source, progress, every_s
        self._begun = self._last = perf_counter()
        self._reported = 0

    def tick(self, positions: int) -> None:
        self.positions += positions
        now = perf_counter()
        self.seconds = now - self._begun
        if self._progress is not None and now - self._last >= self._every_s:
            self._report(now)

    def stop(self) -> None:
        if self._progress is not None and self.positions > self._reported:
            self._report(self._begun + self.seconds)

    def _report(self, now: float) -> None:
        assert self._progress is not None
        since = max(now - self._last, 1e-9)
        rate = (self.positions - self._reported) / since
        self._last, self._reported = now, self.positions
        health = self._source.health
        lag_s = health.waiting / rate if rate > 0 else 0.0
        self._progress(Progress(self.positions, self._source.meta.layout.count, self.seconds, rate, lag_s, health))


def _message(error: BaseException) -> str:
    """Message of an error on one line; with its class unless it is a ValueError with a message."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
