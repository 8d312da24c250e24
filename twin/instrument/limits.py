"""Limits of an instrument: steps, totals and dose; and the checks that a frame has to pass. No instrument here."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from twin.arrays import Array
from twin.errors import check_known
from twin.instrument.faults import BadFrame, DoseExhausted, StaleFrame
from twin.options import NonNegative, Positive, validated
from twin.state import StateSpace
from twin.types import Capabilities, Frame

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
        exposure_e: electrons of one exposure, for an instrument that does not tell them: the operator's own figure.
        settle_s: wait after each command.
        read_back_nm: largest |difference| between commanded and reported position.
        retries: further attempts after a busy corrector, a bad frame, or a read-back that is off.
        retry_wait_s: wait before each attempt.
        timeout_s: longest time for one command or exposure; None: no limit.
        rollback: where a failed session ends: at the last state that gave a good frame, or at its start.
    """

    total_nm: Mapping[str, Positive] = field(default_factory=dict)
    step_nm: Mapping[str, Positive] = field(default_factory=dict)
    ramp: bool = True
    dose_e: Positive | None = None
    region_dose_e: Positive | None = None
    exposure_e: Positive | None = None
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


def check_frame(frame: Frame, capabilities: Capabilities, last_clock_s: float) -> None:
    """Refuse a frame that no exposure can give.

    Raises:
        StaleFrame: the clock did not advance.
        BadFrame: wrong shape or type, not finite, all pixels equal, counts beyond the camera's range.
    """
    counts = np.asarray(frame.counts)
    if counts.shape != capabilities.camera_shape:
        raise BadFrame(f"a frame has shape {capabilities.camera_shape}; got {counts.shape}")
    if not np.all(np.isfinite(counts)):
        raise BadFrame(f"{np.count_nonzero(~np.isfinite(counts))} pixels of the frame are not finite")
    if counts.dtype != np.uint16:
        raise BadFrame(f"counts are uint16; got {counts.dtype}")
    low, high = int(counts.min()), int(counts.max())
    if low == high:
        raise BadFrame(f"every pixel of the frame is {low}: no beam, a closed shutter or a dead camera")
    if high > capabilities.max_count:
        raise BadFrame(f"a pixel counts {high}; the camera ends at {capabilities.max_count}")
    if not np.isfinite(frame.clock_s) or frame.clock_s <= last_clock_s:
        raise StaleFrame(f"the frame's clock is {frame.clock_s!r} s, the previous one had {last_clock_s!r} s")


class DoseBudget:
    """Electrons spent: in all, and on each specimen region."""

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

    def book(self, region: str, electrons_e: float) -> None:
        """Add electrons that a region received, or may have received."""
        self.spent_e += electrons_e
        self.largest_e = max(self.largest_e, electrons_e)
        self._regions[region] = self._regions.get(region, 0.0) + electrons_e


def spent_budget(log: Sequence[Mapping[str, Any]], limits: Limits) -> DoseBudget:
    """Return the dose that the latest session of a log spent; an exposure without a frame counts as planned."""
    budget = DoseBudget(limits)
    pending: tuple[str, float] | None = None
    for entry in log:
        if entry["event"] in ("exposure", "frame", "dose", "reset") and pending is not None:
            region, planned = pending
            dose_e = float(entry["dose_e"]) if entry["event"] in ("frame", "dose") else planned
            budget.book(region, max(dose_e, 0.0) if np.isfinite(dose_e) else planned)
            pending = None
        if entry["event"] == "reset":
            budget = DoseBudget(limits)
        elif entry["event"] == "exposure":
            pending = (str(entry["region"]), float(entry["planned_e"]))
    if pending is not None:
        budget.book(*pending)
    return budget
