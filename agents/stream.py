"""Any number of agents over one source, in one pass.

One agent's trouble is its own: it is left behind with what it had, and the others go on.
"""

from collections.abc import Callable, Mapping
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
    """How a stream goes.

    Attributes:
        positions: folded in so far.
        total: positions of the scan.
        seconds: since the first block was asked for.
        rate_per_s: positions per second since the last report.
        lag_s: how long the agents will take for what has come and is waiting; zero for a source that does not read
            ahead.
        health: of the source; it changes as the stream goes on.
    """

    positions: int
    total: int
    seconds: float
    rate_per_s: float
    lag_s: float
    health: Health


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a stream left behind.

    Attributes:
        status: "incomplete" where positions are missing, "interrupted" by the operator.
        meta: of the stream.
        results: of every agent that had one, by name.
        errors: of agents that could not start or were left behind, by name.
        health: of the source.
        positions: that agents have seen.
        seconds: from the first block asked for to the last one folded in.
        agent_s: of that, time inside each agent, by name. Sums that several agents share count for the first.
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
    """The agents that still go, and the books."""

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
                self.errors[name] = _words(error)
                del self.agents[name]
        if self.errors and not self.agents:
            raise MetaError("; ".join(f"{name}: {words}" for name, words in self.errors.items()))

    def update(self, block: Block) -> None:
        for name, agent in list(self.agents.items()):
            begun = perf_counter()
            try:
                agent.update(block)
            except Exception as error:
                self.leave_behind(name, error)
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
                self.leave_behind(name, error)
            self.finish_s[name] = perf_counter() - begun

    def leave_behind(self, name: str, error: Exception) -> None:
        """Note the error and keep what the agent still can tell."""
        self.errors[name] = _words(error)
        agent = self.agents.pop(name)
        with suppress(Exception):
            self.results[name] = agent.result()

    def collect(self) -> None:
        for name, agent in list(self.agents.items()):
            try:
                self.results[name] = agent.result()
            except Exception as error:
                self.errors[name] = _words(error)


def run(
    source: Source,
    agents: Mapping[str, Agent],
    progress: Callable[[Progress], None] | None = None,
    every_s: float = 0.5,
) -> Streamed:
    """One pass of all agents over a stream; the source is not closed.

    An agent that cannot start on this stream, or raises in the middle, is left behind with its error noted. Ctrl-C ends
    the stream once every agent has the block in work, and keeps what has come; so does an error of the source, which
    becomes a fault in its `Health`. At the end `finish()` is called on agents that have one, but not after Ctrl-C:
    someone who wants to stop does not want to wait for convergence. A second Ctrl-C comes through at once.

    Args:
        source: open and not yet used.
        agents: by the name under which their results go.
        progress: called between blocks, at most once in `every_s`, and after the last one.
        every_s: see above.

    Raises:
        MetaError: not one of the agents can start; names each and what it lacks.
        ValueError: no agents.
    """
    if not agents:
        raise ValueError("a stream needs at least one agent")
    books = _Run(dict(agents))
    books.start(source.meta)
    clock = _Clock(source, progress, every_s)
    interrupted = False
    try:
        with remembered() as check_interrupt:
            _fold(source, books, clock, check_interrupt)
            books.finish()
    except KeyboardInterrupt:
        interrupted = True
    books.collect()
    complete = source.health.missing == 0 and clock.positions > 0
    return Streamed(
        status="interrupted" if interrupted else "complete" if complete else "incomplete",
        meta=source.meta,
        results={name: books.results[name] for name in agents if name in books.results},
        errors=books.errors,
        health=source.health,
        positions=clock.positions,
        seconds=clock.seconds,
        agent_s=books.agent_s,
        finish_s=books.finish_s,
    )


def _fold(source: Source, books: _Run, clock: "_Clock", check_interrupt: Callable[[], None]) -> None:
    """Every block into every agent, until the stream or the last agent ends."""
    blocks = source.blocks()
    try:
        for block in blocks:
            with deferred():  # or some agents would have half of the block, and others none of it
                books.update(block)
                clock.tick(len(block))
            check_interrupt()
            if not books.agents:
                source.health.fault("no agent is left; the stream was given up")
                source.health.missing = max(source.health.missing, source.meta.layout.count - clock.positions)
                break
    except Exception as error:
        source.health.fault(f"the source failed: {_words(error)}")
        source.health.missing = max(source.health.missing, source.meta.layout.count - clock.positions)
    finally:
        clock.stop()
        close = getattr(blocks, "close", None)
        if close is not None:
            close()


class _Clock:
    """Counts positions and time, and reports."""

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


def _words(error: BaseException) -> str:
    """An error as one line; its kind only where the text alone would be a riddle."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
