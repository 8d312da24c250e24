"""What a stream announces before its first frame: memory, plan and metadata, against what is allowed and agreed."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import StringConstraints

from agents.source import Health, SourceError
from twin.errors import printable

POSITION_BYTES = 16
"""Memory of one position: the account of what has arrived, and one image of 8-byte numbers with its copy."""
MEMORY_BYTES = 2**30
"""Default of the memory that a header may ask for: a scan of 8192 x 8192."""
MOST_WORDS, MOST_ENTRIES, MOST_DEPTH = 1000, 64, 4
"""Characters of a text, entries of an object or list, and depth, that are kept of foreign metadata."""
PLAN = "plan_sha256"
"""Entry of a stream's provenance: `twin.wire.control.plan_digest` of its scan."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def check_memory(scan: tuple[int, ...], frame_bytes: int, allowed: int, label: str) -> None:
    """Refuse a scan that takes more memory than is allowed, before any of it is taken.

    Args:
        scan: as announced, (rows, columns) or (N,).
        frame_bytes: memory of the frames that are held at once.
        allowed: the option `memory_bytes`.
        label: opens the message.

    Raises:
        SourceError: with the figures and the option.

    Example:
        >>> check_memory((4096, 4096), 2**20, MEMORY_BYTES, "merlin://camera")
        >>> check_memory((46340, 46340), 2**20, MEMORY_BYTES, "merlin://camera")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        agents.source.SourceError: merlin://camera: a scan of 46340 x 46340 positions needs 34.4 GB of memory; ...
    """
    needed = math.prod(scan) * POSITION_BYTES + frame_bytes
    if needed > allowed:
        sides = " x ".join(str(side) for side in scan)
        raise SourceError(
            f"{label}: a scan of {sides} positions needs {needed / 1e9:.3g} GB of memory; {allowed / 1e9:.3g} GB are"
            f" allowed: give --option memory_bytes={needed} if that is meant"
        )


def check_plan(agreed: str | None, provenance: Any, health: Health, label: str) -> None:
    """Refuse a scan by another plan than the agreed one; note a stream that does not tell its plan.

    Raises:
        SourceError: with the beginning of both digests.
    """
    if agreed is None:
        return
    told = provenance.get(PLAN) if isinstance(provenance, Mapping) else None
    if told is None:
        health.fault("the stream does not tell the plan of its scan: it cannot be compared with the agreed one")
    elif told != agreed:
        raise SourceError(f"{label}: the scan has the plan {printable(told, 12)}, not the agreed one, {agreed[:12]}...")


def tidy(value: Any, depth: int = 0) -> Any:
    r"""Return foreign metadata, plain JSON, with printable texts, cut to a size that a page can show.

    Example:
        >>> tidy({"operator": "A\x1b[2J", "values": list(range(1000))})["operator"]
        'A?[2J'
    """
    if isinstance(value, str):
        return printable(value, MOST_WORDS)
    if isinstance(value, int) and abs(value) > 2**63:
        return "a number beyond 2^63"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, Mapping | list):
        return value
    if depth == MOST_DEPTH:
        return f"left out, {len(value)} entries"
    if isinstance(value, list):
        kept: Any = [tidy(item, depth + 1) for item in value[:MOST_ENTRIES]]
        return kept if len(value) <= MOST_ENTRIES else [*kept, f"and {len(value) - MOST_ENTRIES} more"]
    items = list(value.items())[:MOST_ENTRIES]
    kept = {printable(key, 64): tidy(item, depth + 1) for key, item in items}
    return kept if len(value) <= MOST_ENTRIES else {**kept, "left out": f"{len(value) - MOST_ENTRIES} more"}
