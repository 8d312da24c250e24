"""Optional abilities of an instrument, beyond `Microscope`: read-back, dose, specimen region, resumable sessions.

Each is a protocol, checked at run time.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from twin.arrays import Array


@runtime_checkable
class ReadsBack(Protocol):
    """An instrument that reports the position of its corrector."""

    def read_back_nm(self) -> Array:
        """Return the cumulative input of this session as the instrument reports it, nm, shape (n,)."""
        ...


@runtime_checkable
class TellsDose(Protocol):
    """An instrument that knows the dose of the next exposure."""

    def next_dose_e(self) -> float:
        """Return the electrons of the next exposure."""
        ...


@runtime_checkable
class HasRegion(Protocol):
    """An instrument that knows which specimen region is under the beam; any other counts as one region."""

    def region(self) -> str:
        """Return a name that stays the same while the same region is exposed."""
        ...


@runtime_checkable
class OutlivesPrograms(ReadsBack, Protocol):
    """An instrument whose session another program can take up."""

    def session(self) -> dict[str, Any]:
        """Return what taking up this session needs, as plain JSON: the settings that the inputs are counted from."""
        ...

    def take_up(self, session: Mapping[str, Any], clock_s: float) -> None:
        """Continue the inputs and the clock of this session, instead of `reset`. Nothing moves."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """An instrument, or its guard, that can continue a session at a given cumulative input."""

    def session(self) -> dict[str, Any]:
        """As `OutlivesPrograms.session`."""
        ...

    def resume(self, session: Mapping[str, Any], cumulative_nm: Array, clock_s: float) -> None:
        """Continue a session, instead of `reset`: drive to this cumulative input; the clock goes on."""
        ...


@runtime_checkable
class RepeatsSessions(Protocol):
    """An instrument whose sessions may follow from a random generator, as those of a simulator, local or served."""

    @property
    def repeats_sessions(self) -> bool:
        """Whether the same generator and inputs give the same frames: a session is then resumed by repeating it."""
        ...
