"""The position that a corrector reports. What it is worth beside the commands: see `gate`."""

import numpy as np

from twin.arrays import Array
from twin.errors import printable
from twin.instrument.abilities import ReadsBack
from twin.instrument.faults import NotThere
from twin.instrument.guard.interval import read_only
from twin.instrument.guard.tools import Tools
from twin.types import Microscope


class ReadBack:
    """The read-back of an instrument.

    Args:
        inner: the instrument.
        tools: of the guard.

    Attributes:
        exists: whether the instrument reads back at all.
    """

    def __init__(self, inner: Microscope, tools: Tools) -> None:
        self._tools, self._limits, self._names = tools, tools.limits, tools.capabilities.space.names
        self._ask = inner.read_back_nm if isinstance(inner, ReadsBack) else None
        self.exists = self._ask is not None

    def agrees(self, read_nm: Array | None, expected_nm: Array) -> bool:
        """Whether a reading agrees with a position within `read_back_nm`."""
        return read_nm is not None and bool(np.all(np.abs(read_nm - expected_nm) <= self._limits.read_back_nm))

    def read(self) -> Array | None:
        """Return the cumulative input that the corrector reports, shape (n,), read-only; None if it does not."""
        ask = self._ask
        if ask is None:
            return None
        try:
            # In the driver's thread, too: what it returns may be lazy, and fail or hang only now.
            return self._tools.watch.call(lambda: self._position(ask()))
        except Exception as error:
            self._tools.fault(error, verb="read_back_nm")
            return None

    def _position(self, told: object) -> Array:
        """Return what a driver told as a position, shape (n,), read-only.

        Raises:
            NotThere: it is none.
        """
        values = np.asarray(told)
        if np.ma.is_masked(told):
            raise NotThere(f"read-back: a masked value is no position of {', '.join(self._names)}")
        if values.dtype.kind not in "fiu" or values.shape != (len(self._names),) or not np.all(np.isfinite(values)):
            raise NotThere(f"read-back: {printable(values.tolist())} is no position of {', '.join(self._names)}")
        return read_only(values)

    def settled(self, expected_nm: Array) -> Array | None:
        """Read until the position is the expected one, `retries` times more at most; return the last reading."""
        position = self.read()
        for _ in range(self._limits.retries):
            if self.agrees(position, expected_nm):
                break
            self._tools.sleep(self._limits.retry_wait_s)
            position = self.read()
        return position

    def steady(self, expected_nm: Array, twice: bool = False) -> Array | None:
        """Read until the position is the expected one, or twice the same: a corrector may still be on its way.

        None if a reading is missing or the last two differ.

        Args:
            expected_nm: shape (n,).
            twice: the expected position, too, has to be read twice: a move that was refused or lost may show late.
        """
        before = self.read()
        if before is None or (self.agrees(before, expected_nm) and not twice):
            return before
        for _ in range(self._limits.retries + 1):
            self._tools.sleep(self._limits.retry_wait_s)
            position = self.read()
            if position is None or self.agrees(position, before) or (self.agrees(position, expected_nm) and not twice):
                return position
            before = position
        return None


def listed(values_nm: Array | None) -> str:
    """Return a reading in words."""
    return "nothing" if values_nm is None else ", ".join(f"{value:+.3f}" for value in values_nm) + " nm"
