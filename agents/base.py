"""The agent seam: what a stream is before its first frame, and what an agent makes of it.

An agent is one file in `agents/methods/`; the file's name is the agent's name and its `make(options)` builds it. No
agent holds a whole 4D dataset, and none knows where its blocks come from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agents.block import Block
from twin import registry
from twin.errors import StemtwinError
from twin.formats.dataset import Layout, Metadata

Floats = NDArray[np.float64]


class UnknownAgent(StemtwinError, ValueError):
    """No agent of that name."""


class MetaError(StemtwinError, ValueError):
    """A stream does not say what an agent must know, or is not of a kind that it can take."""


@dataclass(frozen=True)
class StreamMeta:
    """What is known before the first block.

    Attributes:
        layout: of scan and camera.
        metadata: the beam and the scan, as far as known. `rotation_deg` turns the scan's fast axis from the camera's +x
            (columns) towards its +y (rows).
        transposed: the camera's rows and columns are swapped against the scan's; None when nobody knows.
        has_frames: False where events come that nobody should make frames of.
    """

    layout: Layout
    metadata: Metadata = field(default_factory=Metadata)
    transposed: bool | None = None
    has_frames: bool = True

    def need(self, name: str, agent: str) -> float:
        """A figure of the metadata that an agent cannot do without.

        Raises:
            MetaError: it is not known; says how to give it.
        """
        value = getattr(self.metadata, name)
        if value is None:
            raise MetaError(f"{agent} needs {name}, which this stream does not tell; give it with --meta {name}=VALUE")
        return float(value)

    def need_grid(self, agent: str) -> tuple[int, int]:
        """Rows and columns of the scan.

        Raises:
            MetaError: a list of positions has none.
        """
        if len(self.layout.scan) != 2:
            raise MetaError(f"{agent} needs a scan in rows and columns; this one is a list of {self.layout.count}")
        return self.layout.scan[0], self.layout.scan[1]


@dataclass(frozen=True, eq=False)
class Image:
    """One picture on the scan's grid.

    Attributes:
        values: (rows, columns); NaN where nothing is known yet. May be on a finer grid of its own, see `step_nm`.
        unit: of the values: "e", "counts", "px", "mrad", "rad", "1".
        spread: standard deviation of an ensemble of reconstructions, of the same shape; None where there is none.
        step_nm: pixel of a grid that is not the scan's.
    """

    values: Floats
    unit: str
    spread: Floats | None = None
    step_nm: float | None = None


@dataclass(frozen=True)
class Trust:
    """Whether a reconstruction explains the data: r = (y - Hx) / sqrt(Hx) against white noise of variance one.

    Attributes:
        mean, variance: of the residuals.
        correlation: largest correlation between neighbouring residuals.
        probability: of residuals at least as strange if the model were right.
        fits: the probability is above the test's level.
        model: what H is, in words.
        unexplained: share of the signal that the model misses, noise taken off (`agents.trust.Signal`): with enough
            electrons every model fails the test, and this says by how much. None where there is no signal to compare.
        unexplained_sigma: its standard error.
        contrast: of the data over that of the model; None likewise.
    """

    mean: float
    variance: float
    correlation: float
    probability: float
    fits: bool
    model: str
    unexplained: float | None = None
    unexplained_sigma: float | None = None
    contrast: float | None = None


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an agent knows at a moment.

    Attributes:
        images: by name; the first is the one to look at.
        figures: numbers worth a line, by name with their unit at the end.
        trust: None where no forward model exists, or nothing has come yet.
        notes: what an operator has to know: assumptions made, settings found, doubts.
    """

    images: Mapping[str, Image]
    figures: Mapping[str, float] = field(default_factory=dict)
    trust: Trust | None = None
    notes: tuple[str, ...] = ()


@runtime_checkable
class Agent(Protocol):
    """Streaming reconstruction: one pass, bounded memory, a result at any moment after `start`."""

    def start(self, meta: StreamMeta) -> None:
        """A new stream: forget the old one.

        Raises:
            MetaError: the stream is not of a kind that this agent can take.
        """
        ...

    def update(self, block: Block) -> None:
        """Fold in the next positions, in whatever order they come."""
        ...

    def result(self) -> Reconstruction:
        """Of what has arrived; may be asked for at any time and changes nothing."""
        ...


def names() -> list[str]:
    """Every agent found in `agents/methods/`, sorted."""
    from agents import methods

    return registry.names(methods)


def describe(name: str) -> str:
    """One line on an agent, without importing it."""
    from agents import methods

    return registry.describe(methods, name)


def load(name: str, options: Mapping[str, Any] | None = None) -> Agent:
    """Build an agent by name.

    Raises:
        UnknownAgent: no such file; names the nearest.
        OptionError: an unknown option or a bad value.
    """
    from agents import methods

    module, chosen = registry.resolve(methods, name, options or {}, "an agent", UnknownAgent)
    agent: Agent = module.make(chosen)
    return agent
