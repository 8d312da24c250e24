"""The source seam: blocks from a file, a camera on the network or a simulated scan.

A source that is faster than the agents waits for them and counts how often; it never drops a frame silently.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from agents.base import StreamMeta
from agents.block import Block
from twin.errors import StemtwinError
from twin.formats.closing import Closing


class SourceError(StemtwinError, ValueError):
    """A source cannot be opened, or is no valid stream. Faults within a stream are noted in its `Health` instead."""


@dataclass
class Health:
    """Faults and losses of a stream so far.

    Attributes:
        faults: messages of the first `KEEP` faults.
        fault_count: number of all faults.
        received: positions passed to the agents.
        missing: positions that never arrived.
        duplicates: repeated positions, which were left out.
        waits: number of times the source had to wait for the agents (back-pressure).
        waiting: positions that have arrived and were not passed on yet.
        reconnects: number of restored connections.
    """

    faults: list[str] = field(default_factory=list)
    fault_count: int = 0
    received: int = 0
    missing: int = 0
    duplicates: int = 0
    waits: int = 0
    waiting: int = 0
    reconnects: int = 0

    KEEP = 100

    def fault(self, text: str) -> None:
        """Note a fault."""
        self.fault_count += 1
        if len(self.faults) < self.KEEP:
            self.faults.append(text)


class Source(Closing):
    """A stream of blocks, read once. Use it in a `with` statement, or close it.

    Attributes:
        meta: metadata, known once the source is open.
        health: up to date while blocks are taken.
    """

    meta: StreamMeta
    health: Health

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield blocks in order of arrival. A fault ends the stream; earlier blocks stay valid."""

    def close(self) -> None:
        """Release files and connections."""
