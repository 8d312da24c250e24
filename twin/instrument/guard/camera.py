"""The camera of one session: exposures within the dose budget, and frames that an exposure can give."""

import hashlib

import numpy as np

from twin.errors import printable
from twin.instrument.abilities import HasRegion, TellsDose
from twin.instrument.faults import BadFrame, MicroscopeFault, StaleFrame, as_fault, words_of
from twin.instrument.guard.tools import Tools
from twin.instrument.limits import DoseBudget, check_dose, check_frame, copied_frame
from twin.types import Frame, Microscope

ONE_REGION = "the region of this session"


class GuardedCamera:
    """The camera of one session.

    Args:
        inner: the instrument; it says region and dose in advance if it can (`HasRegion`, `TellsDose`).
        tools: of the guard.
        budget: electrons spent before.
        clock_s: instrument clock before the first frame.

    Attributes:
        clock_s: instrument clock of the latest good frame.
    """

    def __init__(self, inner: Microscope, tools: Tools, budget: DoseBudget, clock_s: float) -> None:
        self._inner, self._tools, self._budget, self.clock_s = inner, tools, budget, clock_s
        self._region = inner.region if isinstance(inner, HasRegion) else None
        self._next_dose_e = inner.next_dose_e if isinstance(inner, TellsDose) else None
        self._digest = ""
        self._excess = 1.0  # largest ratio so far of a told dose and the one announced for it

    def acquire(self) -> Frame:
        """Return one good frame; try again after a bad one.

        Raises:
            MicroscopeFault: of the last attempt, or the dose is spent.
            OSError: the log cannot be written; nothing was exposed.
        """
        frame = self._tools.retried("acquire", self._expose)
        self.clock_s = frame.clock_s
        return frame

    def _expose(self) -> Frame:
        region, planned, announced = self._plan()
        self._budget.check(region, planned * self._excess)
        self._tools.journal.write("exposure", planned_e=planned, region=region)
        told = 0.0
        try:
            # Copied in the driver's thread, too: what it returns may be lazy, and fail or hang only now.
            frame = self._tools.watch.call(lambda: copied_frame(self._inner.acquire()))
            told = frame.dose_e if np.isfinite(frame.dose_e) else told
            check_frame(frame, self._tools.capabilities, self.clock_s)
            check_dose(frame.dose_e, planned, announced)
            self._excess = max(self._excess, frame.dose_e / planned if announced else 1.0)
        except Exception as error:
            raise as_fault(error, BadFrame) from error
        finally:
            # Also for a frame that never came: the shutter may have been open.
            booked = max(planned, told)
            self._budget.book(region, booked, told)
        digest = counts_digest(frame)
        if digest == self._digest:
            # The clock is often the program's own and always advances; noise never repeats.
            raise StaleFrame("the frame equals the previous one, byte for byte")
        self._digest = digest
        spent = self._budget.spent_e
        self._tools.journal.note("frame", clock_s=frame.clock_s, dose_e=booked, spent_e=spent, counts=digest)
        return frame

    def _plan(self) -> tuple[str, float, bool]:
        """Return region and dose of the next exposure, and whether the instrument announced the dose.

        Raises:
            MicroscopeFault: what it says is no name, or no dose.
        """
        ask_region, ask_dose, watch = self._region, self._next_dose_e, self._tools.watch
        try:
            region = ONE_REGION if ask_region is None else watch.call(lambda: _region_name(ask_region()))
            planned = self._budget.expected_e if ask_dose is None else watch.call(lambda: _dose_e(ask_dose()))
        except Exception as error:
            raise as_fault(error) from error
        return region, planned, ask_dose is not None


def _region_name(told: object) -> str:
    """Return the name of a specimen region, printable.

    Raises:
        MicroscopeFault: it is no text.
    """
    if not isinstance(told, str):
        raise MicroscopeFault(f"a specimen region has a text for its name; got {type(told).__name__}")
    return printable(told)


def _dose_e(told: object) -> float:
    """Return the dose that an instrument announces, electrons.

    Raises:
        MicroscopeFault: it is no positive, finite number.
    """
    real = isinstance(told, int | float | np.integer | np.floating) and not isinstance(told, bool)
    try:
        dose_e = float(told) if real else np.nan  # type: ignore[arg-type]
    except OverflowError:
        dose_e = np.nan
    if not 0 < dose_e < np.inf:
        said = printable(words_of(ValueError(told)), most=40)
        raise MicroscopeFault(f"the reported dose of the next exposure is {said} e: no budget can check that")
    return dose_e


def counts_digest(frame: Frame) -> str:
    """Return the digest by which the log identifies a frame."""
    return hashlib.sha256(frame.counts.tobytes()).hexdigest()[:16]
