"""Limits of an instrument: steps, totals and dose; and the checks that a frame has to pass. No instrument here."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from twin.arrays import Array
from twin.errors import check_known, printable
from twin.instrument.faults import BadFrame, DoseExhausted, StaleFrame, described
from twin.options import NonNegative, Positive, validated
from twin.state import StateSpace
from twin.types import Capabilities, Frame
from twin.wire.schema import LONGEST_EXPOSURE_S, MOST_SETTINGS, SETTINGS

SLACK_NM = 1e-9
"""Rounding that a limit forgives."""


@validated
class Limits:
    """Limits of what an instrument is asked for, and of retries.

    Attributes:
        total_nm: largest |cumulative input| by coefficient, if smaller than `space.input_nm`.
        step_nm: largest change of a coefficient by one command.
        ramp: larger inputs are sent as several commands of equal size; otherwise they are refused.
        dose_e: electrons of all exposures of a session.
        region_dose_e: electrons on one specimen region.
        first_dose_e: electrons of the first exposure, for an instrument that does not tell them in advance.
        settle_s: wait after each command.
        read_back_nm: largest |difference| between commanded and reported position; what a reading is good for.
        retries: further attempts after a busy corrector, a bad frame, or a read-back that is off.
        retry_wait_s: wait before each attempt, and between two readings that have to agree.
        timeout_s: longest time for one command or exposure; None: no limit, and a minute once the session is to end.
        rollback: where a failed session ends: at the last state that gave a good frame, or at its start.
    """

    total_nm: Mapping[str, Positive] = field(default_factory=dict)
    step_nm: Mapping[str, Positive] = field(default_factory=dict)
    ramp: bool = True
    dose_e: Positive | None = None
    region_dose_e: Positive | None = None
    first_dose_e: Positive | None = None
    settle_s: NonNegative = 0.0
    read_back_nm: Positive = 0.5
    retries: Annotated[int, Ge(0)] = 2
    retry_wait_s: NonNegative = 0.5
    timeout_s: Positive | None = 60.0
    rollback: Literal["last_good", "start"] = "last_good"

    def of(self, label: Literal["total_nm", "step_nm"], space: StateSpace) -> Array:
        """Return a limit for each coefficient of a space, shape (n,); infinite where none is set.

        Raises:
            ValueError: a limit for a coefficient that is not calibrated; names the nearest.
        """
        limits: Mapping[str, float] = getattr(self, label)
        for name in limits:
            check_known(name, space.names, f"a calibrated coefficient (safety.{label})")
        return np.array([limits.get(name, np.inf) for name in space.names])

    def check(self, space: StateSpace, tells_dose: bool) -> None:
        """Refuse limits that do not suit an instrument.

        Args:
            space: its calibrated coefficients.
            tells_dose: whether it tells the dose of an exposure in advance.

        Raises:
            ValueError: as `of`; or a limited dose, and nobody knows that of the first exposure.
        """
        self.of("total_nm", space)
        self.of("step_nm", space)
        limited = self.dose_e is not None or self.region_dose_e is not None
        if limited and not tells_dose and self.first_dose_e is None:
            raise ValueError(
                "the dose is limited, but this instrument does not tell the dose of an exposure in advance: give that"
                " of the first one, safety.first_dose_e"
            )


DOSE_FACTOR = 3.0
"""Largest ratio, either way, of a dose that an instrument tells and the one that it announced."""


def copied_frame(told: object) -> Frame:
    """Return a copy of what a driver returned, which nobody else holds.

    Raises:
        BadFrame: it is no frame, or a part of it is masked.
    """
    if not isinstance(told, Frame):
        raise BadFrame(f"a frame is expected; the driver returned {type(told).__name__}")
    if np.ma.is_masked(told.counts):
        raise BadFrame(f"{int(np.ma.getmaskarray(told.counts).sum())} pixels of the frame are masked")
    try:
        settings = {str(name): float(value) for name, value in told.settings.items()}
        times = float(told.dose_e), float(told.exposure_s), float(told.clock_s)
        return Frame(np.array(told.counts), *times, settings)
    except Exception as error:  # a driver's objects may fail at anything
        raise BadFrame(f"what the driver returned is no frame: {described(error)}") from error


def check_frame(frame: Frame, capabilities: Capabilities, last_clock_s: float) -> None:
    """Refuse a frame that no exposure can give.

    Raises:
        StaleFrame: the clock did not advance.
        BadFrame: wrong shape or type, not finite, all pixels equal, counts beyond the camera's range; or as
            `check_figures`.
    """
    counts = np.asarray(frame.counts)
    if counts.shape != capabilities.camera_shape:
        raise BadFrame(f"a frame has shape {capabilities.camera_shape}; got {counts.shape}")
    if counts.dtype.kind == "f" and not np.all(np.isfinite(counts)):
        raise BadFrame(f"{np.count_nonzero(~np.isfinite(counts))} pixels of the frame are not finite")
    if counts.dtype != np.uint16:
        raise BadFrame(f"counts are uint16; got {counts.dtype}")
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        raise BadFrame(f"every pixel of the frame is {low}: no beam, a closed shutter or a dead camera")
    if high > capabilities.max_count:
        raise BadFrame(f"a pixel counts {high}; the camera ends at {capabilities.max_count}")
    check_figures(frame)
    if not np.isfinite(frame.clock_s) or frame.clock_s <= last_clock_s:
        raise StaleFrame(f"the frame's clock is {frame.clock_s!r} s, the previous one had {last_clock_s!r} s")


def check_figures(frame: Frame) -> None:
    """Refuse figures that come with a frame and cannot be: estimators use them as they are.

    Raises:
        BadFrame: an exposure that is not positive or too long, more settings than any camera has, one that is not
            finite or out of its range, or a dark level above the frame.
    """
    if not 0 < frame.exposure_s <= LONGEST_EXPOSURE_S:
        raise BadFrame(
            f"the frame tells an exposure of {frame.exposure_s!r} s; more than 0 and at most"
            f" {LONGEST_EXPOSURE_S:g} s are expected"
        )
    if len(frame.settings) > MOST_SETTINGS:
        raise BadFrame(f"the frame tells {len(frame.settings)} settings; {MOST_SETTINGS} are allowed")
    for name, value in frame.settings.items():
        low, high = SETTINGS.get(name, (-np.inf, np.inf))
        if not (np.isfinite(value) and low <= value <= high):
            limits = f"lies in {low:g} to {high:g}" if name in SETTINGS else "is a finite number"
            raise BadFrame(f"{printable(name, 40)} of a frame {limits}; got {value!r}")
    check_dark_level(frame.counts, frame.settings.get("dark_level", 0.0), "the frame")


def check_dark_level(counts: NDArray[np.unsignedinteger], dark_level: float, what: str) -> None:
    """Refuse a dark level above the mean of a frame.

    Args:
        counts: shape (H, W).
        dark_level: as told.
        what: name of the frame, for the message.

    Raises:
        BadFrame: with both figures.
    """
    mean, noise = float(counts.mean()), float(counts.std()) / np.sqrt(counts.size)
    if dark_level > mean + max(1.0, 5.0 * noise):
        raise BadFrame(f"{what} has a mean of {mean:.4g} counts, below its dark level of {dark_level:g}")


def check_dose(told_e: float, planned_e: float, announced: bool) -> None:
    """Refuse the dose of a frame that cannot be.

    Args:
        told_e: by the frame.
        planned_e: before the exposure.
        announced: whether the instrument itself announced `planned_e`.

    Raises:
        BadFrame: not positive, or off the announced one by more than `DOSE_FACTOR`.
    """
    if not (np.isfinite(told_e) and told_e > 0):
        raise BadFrame(f"the frame tells a dose of {told_e!r} e; a positive number of electrons is expected")
    if announced and not 1 / DOSE_FACTOR <= told_e / planned_e <= DOSE_FACTOR:
        raise BadFrame(
            f"the frame tells a dose of {told_e:g} e; {planned_e:g} e were announced, and a factor of {DOSE_FACTOR:g}"
            " is allowed"
        )


class DoseBudget:
    """Electrons spent: in all, and on each specimen region.

    Attributes:
        spent_e: in all.
        largest_e: of the largest exposure.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.spent_e = 0.0
        self.largest_e = 0.0
        self._regions: dict[str, float] = {}

    def check(self, region: str, next_e: float) -> None:
        """Refuse an exposure that would exceed the budget.

        Raises:
            DoseExhausted: names the budget, the dose spent and the dose of the exposure.
        """
        on_region = self._regions.get(region, 0.0)
        for label, limit, spent in (
            ("dose_e", self._limits.dose_e, self.spent_e),
            (f"region_dose_e of {region}", self._limits.region_dose_e, on_region),
        ):
            if limit is not None and spent + next_e > limit * (1 + 1e-12):
                raise DoseExhausted(f"{label} allows {limit:g} e; {spent:g} e are spent and {next_e:g} e would follow")

    @property
    def expected_e(self) -> float:
        """Dose of the next exposure as far as the guard knows: the largest before, or the operator's figure."""
        return self.largest_e or self._limits.first_dose_e or 0.0

    def book(self, region: str, electrons_e: float, told_e: float | None = None) -> None:
        """Add electrons that a region received, or may have received.

        Args:
            region: on the specimen.
            electrons_e: to add.
            told_e: as the frame told, if other.
        """
        self.spent_e += electrons_e
        self.largest_e = max(self.largest_e, electrons_e if told_e is None else told_e)
        self._regions[region] = self._regions.get(region, 0.0) + electrons_e


def spent_budget(log: Sequence[Mapping[str, Any]], limits: Limits) -> DoseBudget:
    """Return the dose that the latest session of a log spent.

    An exposure counts as told or as planned, whichever is larger; one without a frame as planned.
    """
    budget = DoseBudget(limits)
    pending: tuple[str, float] | None = None
    for entry in log:
        if entry["event"] in ("exposure", "frame", "reset") and pending is not None:
            region, planned = pending
            dose_e = float(entry["dose_e"]) if entry["event"] == "frame" else planned
            budget.book(region, max(dose_e, planned) if np.isfinite(dose_e) else planned)
            pending = None
        if entry["event"] == "not done":
            pending = None
        elif entry["event"] == "reset":
            budget = DoseBudget(limits)
        elif entry["event"] == "exposure":
            pending = (str(entry["region"]), float(entry["planned_e"]))
    if pending is not None:
        budget.book(*pending)
    return budget
