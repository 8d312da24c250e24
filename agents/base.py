"""The agent seam: metadata of a stream, the methods of an agent, and its result.

An agent is one file in a folder of `agents/methods/`; the file's name is the agent's name and its `make(options)`
builds it. No agent holds a whole 4D dataset, and none depends on the kind of source.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from twin import registry
from twin.arrays import Floats
from twin.errors import StemtwinError
from twin.formats.dataset import Layout, Metadata

if TYPE_CHECKING:  # blocks bring numba, and the registry has to be light
    from agents.block import Block


class UnknownAgent(StemtwinError, ValueError):
    """No agent of that name."""


class MetaError(StemtwinError, ValueError):
    """The metadata of a stream lack what an agent needs, or the agent cannot take this kind of stream."""


@dataclass(frozen=True)
class StreamMeta:
    """Metadata of a stream, known before the first block.

    Attributes:
        layout: shapes of scan and camera.
        metadata: beam and scan, as far as known. `rotation_deg` is the angle from the camera's +x (columns) to the
            scan's fast axis, towards +y (rows).
        transposed: the camera's rows and columns are swapped against the scan's; None if unknown.
        has_frames: False for a stream of events that are not to be summed to frames.
    """

    layout: Layout
    metadata: Metadata = field(default_factory=Metadata)
    transposed: bool | None = None
    has_frames: bool = True

    @property
    def centre_px(self) -> tuple[float, float]:
        """(row, column) of zero angle: where the metadata put it, else (H // 2, W // 2)."""
        height, width = self.layout.camera
        return self.metadata.centre_px or (float(height // 2), float(width // 2))

    def need(self, name: str, agent: str) -> float:
        """Return an entry of the metadata that an agent requires.

        Raises:
            MetaError: it is not known; the message shows how to give it.
        """
        value = getattr(self.metadata, name)
        if value is None:
            raise MetaError(f"{agent} needs {name}, which is not known; give it with --meta {name}=VALUE")
        return float(value)

    def need_grid(self, agent: str) -> tuple[int, int]:
        """Rows and columns of the scan.

        Raises:
            MetaError: the scan is a list of positions.
        """
        if len(self.layout.scan) != 2:
            raise MetaError(f"{agent} needs a scan in rows and columns; this one is a list of {self.layout.count}")
        return self.layout.scan[0], self.layout.scan[1]


@dataclass(frozen=True, eq=False)
class Image:
    """One image, on the grid of the scan or on a grid of its own.

    Attributes:
        values: (rows, columns); NaN where unknown.
        unit: unit of the values: "e", "counts", "px", "mrad", "rad", "1".
        spread: standard deviation, of the same shape; None if unknown.
        step_nm: pixel size of a grid that is not the scan's, else None.
    """

    values: Floats
    unit: str
    spread: Floats | None = None
    step_nm: float | None = None


@dataclass(frozen=True, eq=False)
class ResidualMap:
    """Residuals of a test of fit, in units of their standard deviation: noise without a pattern if the model fits.

    Attributes:
        values: (rows, columns), NaN where nothing was tested.
        of: the grid: "scan", one residual per position, or "camera", the mean over positions.
    """

    values: Floats
    of: Literal["scan", "camera"]


@dataclass(frozen=True)
class Trust:
    """Goodness of fit: test of the residuals r = (y - Hx) / sqrt(Hx) against white noise of variance one.

    Attributes:
        mean, variance: moments of the residuals.
        correlation: largest correlation between neighbouring residuals.
        probability: p-value of the test.
        fits: the p-value is above the level of the test.
        model: description of H.
        unexplained: fraction of the signal that the model does not explain, corrected for noise
            (`agents.trust.Signal`): with enough electrons every model fails the test, and this measures the misfit.
            None without a signal to compare.
        unexplained_sigma: standard error of `unexplained`.
        contrast: contrast of the data over that of the model, or None.
        residual: where the model fits and where it does not, or None.
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
    residual: ResidualMap | None = field(default=None, repr=False, compare=False)

    def plain(self) -> dict[str, Any]:
        """Return the figures as plain data, without the map."""
        return {name: value for name, value in asdict(self).items() if name != "residual"}


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The result of an agent at one moment.

    Attributes:
        images: images by name, the principal one first.
        figures: scalar results by name; the names end in the unit.
        trust: goodness of fit; None without a forward model or data.
        notes: remarks for the operator: assumptions, settings found from the data, warnings.
    """

    images: Mapping[str, Image]
    figures: Mapping[str, float] = field(default_factory=dict)
    trust: Trust | None = None
    notes: tuple[str, ...] = ()


@runtime_checkable
class Agent(Protocol):
    """Streaming reconstruction: one pass, bounded memory, a result at any moment after `start`.

    Optional methods: `finish()`, called once at the end of the stream, and `configure(**changes)`, which changes
    options while the stream runs.

    Example:
        >>> from agents import Agent, load
        >>> isinstance(load("com"), Agent)
        True
    """

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream; forget the old one.

        Raises:
            MetaError: the agent cannot take this kind of stream.
        """
        ...

    def update(self, block: "Block") -> None:
        """Fold in the next positions, in any order."""
        ...

    def result(self) -> Reconstruction:
        """Return the result of the positions so far; changes nothing."""
        ...


def names() -> list[str]:
    """Names of all agents and presets in `agents/methods/`, sorted.

    Example:
        >>> [name for name in names() if "com" in name]
        ['com', 'icom', 'ricom']
    """
    from agents import methods

    return registry.names(methods)


def describe(name: str) -> str:
    """Describe an agent in one line, without importing it."""
    from agents import methods

    return registry.describe(methods, name)


def load(name: str, options: Mapping[str, Any] | None = None) -> Agent:
    """Build an agent by name.

    Raises:
        UnknownAgent: no agent of that name; the message suggests the nearest.
        OptionError: an unknown option or a bad value.

    Example:
        >>> agent = load("ricom", {"kernel_px": 31})
        >>> load("rikom")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        agents.base.UnknownAgent: 'rikom' is not an agent (did you mean ricom?); known: ...
    """
    from agents import methods

    module, chosen = registry.resolve(methods, name, options or {}, "an agent", UnknownAgent)
    agent: Agent = module.make(chosen)
    return agent
