"""Where blocks come from: the contract of a file, a camera on the network or the twin's own scan.

A source that is faster than its agents waits for them, and counts how often; it never drops a frame silently.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from agents.base import StreamMeta
from agents.block import Block
from twin.errors import StemtwinError


class SourceError(StemtwinError, ValueError):
    """A source that cannot be opened, or that is no such stream. Faults within a stream are in its `Health` instead."""


@dataclass
class Health:
    """What went wrong and what it cost, as it happens.

    Attributes:
        received: positions handed on.
        missing: positions that never came.
        duplicates: positions that came again and were left out.
        waits: times the source was held up because agents were busy (back-pressure).
        waiting: positions that have come and that nobody has taken yet.
        reconnects: connections restored.
        faults: in words, the first `KEEP` of them; `fault_count` has all.
        fault_count: faults in all.
    """

    received: int = 0
    missing: int = 0
    duplicates: int = 0
    waits: int = 0
    waiting: int = 0
    reconnects: int = 0
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0

    KEEP = 100

    def fault(self, text: str) -> None:
        """Note one."""
        self.fault_count += 1
        if len(self.faults) < self.KEEP:
            self.faults.append(text)


class Source(ABC):
    """A stream of blocks, to be run through once. Use it in a `with`, or close it.

    Attributes:
        meta: known once the source is open.
        health: kept up to date while blocks are taken.
    """

    meta: StreamMeta
    health: Health

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Blocks in order of arrival, to the end of the stream. A fault ends the stream; what had come stays good."""

    def close(self) -> None:  # noqa: B027  (most sources have something to let go of, not all)
        """Let go of files and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
