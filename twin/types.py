"""The instrument seam: the protocols of a microscope and the data that cross them. No physics, no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.optics import Optics
from twin.scan.plan import ScanPath, ScanPlan
from twin.state import StateSpace


@dataclass(frozen=True, eq=False)
class Frame:
    """One camera read-out. Immutable; carries no truth. Equal frames have equal counts and equal settings.

    Attributes:
        counts: raw camera counts, shape (H, W), uint16, y before x.
        dose_e: electrons of the nominal beam during the exposure (set, not measured).
        exposure_s: exposure time.
        clock_s: instrument clock at the end of the exposure.
        settings: the settings in force that an operator knows (detector dark level, ...).
    """

    counts: NDArray[np.uint16]
    dose_e: float
    exposure_s: float
    clock_s: float
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        mine = (self.dose_e, self.exposure_s, self.clock_s, dict(self.settings))
        theirs = (other.dose_e, other.exposure_s, other.clock_s, dict(other.settings))
        return mine == theirs and np.array_equal(self.counts, other.counts)

    def __setstate__(self, state: dict[str, object]) -> None:
        # A pickled array comes back writeable: frames from another process stay immutable too.
        self.__dict__.update(state)
        self.__post_init__()


@dataclass(frozen=True)
class Capabilities:
    """Properties of a backend, known before the first frame."""

    name: str
    optics: Optics
    space: StateSpace
    camera_shape: tuple[int, int]
    max_count: int
    can_scan: bool = False


@dataclass(frozen=True)
class Truth:
    """The hidden state, for the scorer and for pictures.

    Attributes:
        state_nm: the calibrated state x[k] now, shape (n,).
        initial_nm: x[0], shape (n,).
    """

    state_nm: Array
    initial_nm: Array


@runtime_checkable
class Microscope(Protocol):
    """A STEM with an aberration corrector and a camera behind it.

    The state obeys x[k+1] = x[k] + u[k] in an ideal instrument (van Hulst et al. 2026, eq 1); the caller chooses u.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Constant over the life of the instrument."""
        ...

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session: new hidden state, new specimen region, clock at zero."""
        ...

    def apply(self, delta_nm: Array) -> None:
        """Add `delta_nm`, shape (n,), to the calibrated state.

        Raises:
            ValueError: wrong shape, not finite, or the cumulative input would leave
                `capabilities.space.input_nm`; nothing has moved.
        """
        ...

    def acquire(self) -> Frame:
        """Expose the camera once, on a fresh specimen region unless set otherwise."""
        ...


@runtime_checkable
class HasTruth(Protocol):
    """A microscope that knows its hidden state, as simulators do; for the scorer."""

    def truth(self) -> Truth:
        """The hidden state now."""
        ...


@dataclass(frozen=True, eq=False)
class ScanBlock:
    """Consecutive positions of a scan as they were read out. Immutable; carries no truth.

    Attributes:
        path: the N intended positions and their times since the start of the scan.
        frames: camera counts, shape (N, H, W), unsigned integers, y before x; None without a camera.
        signals: signal of each integrating detector, shape (N,), by name.
        clock_s: instrument clock at the end of each dwell, shape (N,).
        events: events of an event camera in the order of read-out during these dwells, records as in a .t3p file,
            shape (n,); times since the start of the scan. Some belong to earlier positions, because of read-out
            delays. None for other cameras.
    """

    path: ScanPath
    frames: NDArray[np.unsignedinteger] | None
    signals: Mapping[str, NDArray[np.generic]]
    clock_s: NDArray[np.float64]
    events: NDArray[np.void] | None = None

    def __post_init__(self) -> None:
        for array in (self.frames, self.events, self.clock_s, *self.signals.values()):
            if array is not None:
                array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.path)


@dataclass(frozen=True, eq=False)
class ScanTruth:
    """Actual probe positions, for the scorer.

    Attributes:
        actual_nm: (x, y) in the specimen of the latest block, shape (N, 2).
    """

    actual_nm: Array


@runtime_checkable
class CanScan(Protocol):
    """A microscope with a `scan` method; `capabilities.can_scan` is true if it is set up for scans."""

    def scan(self, plan: ScanPlan, *, block: int = 64) -> Iterator[ScanBlock]:
        """Scan in blocks of at most `block` positions, in read-out order; memory scales with the block.

        Raises:
            ValueError: the plan does not suit specimen, camera or detectors; nothing has moved.
        """
        ...


@runtime_checkable
class HasScanTruth(Protocol):
    """A microscope that knows its actual probe positions, as simulators do; for the scorer."""

    def scan_truth(self) -> ScanTruth:
        """Actual positions of the latest block."""
        ...
