"""Cost of a session: simulated seconds by purpose, electrons by specimen region.

Only quantities that an operator knows; no truth. Regions have names such as "film 3" or "specimen at 1.3, 1.2 nm".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from twin.scan.plan import ScanPath, ScanPlan, extent_nm

SMALLEST_SIDE_NM = 0.1
"""Side of the area attributed to a single spot or line: about a probe."""


class ScanTimes(NamedTuple):
    """Time of a part of a scan by purpose."""

    dwell_s: float
    flyback_s: float
    settle_s: float


def scan_times(path: ScanPath, before: ScanPath | None) -> ScanTimes:
    """Time from the end of one block of a scan (None: from its start) to the end of the next.

    The parts add up exactly, and over all blocks to `scan.plan.duration_s`.
    """
    began_s, last_line = (0.0, -1) if before is None else (float(before.end_s[-1]), int(before.line[-1]))
    elapsed_s = float(path.end_s[-1]) - began_s
    dwell_s = float((path.end_s - path.start_s).sum())
    between_s = max(0.0, elapsed_s - dwell_s)
    settle_s = min(between_s, (int(path.line[-1]) - last_line) * path.plan.settle_s)
    return ScanTimes(elapsed_s - between_s, between_s - settle_s, settle_s)


def scanned_area_nm2(plan: ScanPlan) -> float:
    """Area over which a scan spreads its electrons: a step squared per pixel, or a list's bounding rectangle.

    Of a sub-sampled scan, the whole grid.
    """
    if plan.pattern != "list":
        return float(plan.rows * plan.columns * plan.step_nm**2)
    extent = extent_nm(plan)
    sides = (extent.right_nm - extent.left_nm, extent.bottom_nm - extent.top_nm)
    return max(sides[0], SMALLEST_SIDE_NM) * max(sides[1], SMALLEST_SIDE_NM)


@dataclass(frozen=True)
class Dose:
    """Dose of one specimen region.

    Attributes:
        electrons_e: incident electrons.
        e_per_nm2: sum over exposures and scans of electrons per illuminated area.
    """

    electrons_e: float = 0.0
    e_per_nm2: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Cost of a session; the seconds add up to the instrument's clock.

    Attributes:
        exposure_s: exposure time of Ronchigrams.
        dwell_s: dwell time on scan positions.
        flyback_s: flybacks between scan lines.
        overhead_s: settling and read-out.
        latency_s: commands to the corrector.
        regions: dose by specimen region.
    """

    exposure_s: float = 0.0
    dwell_s: float = 0.0
    flyback_s: float = 0.0
    overhead_s: float = 0.0
    latency_s: float = 0.0
    regions: Mapping[str, Dose] = field(default_factory=dict)

    @property
    def simulated_s(self) -> float:
        """Total time."""
        return float(sum(getattr(self, name) for name in SECONDS))

    @property
    def electrons_e(self) -> float:
        """Electrons incident on all regions."""
        return sum(dose.electrons_e for dose in self.regions.values())

    @property
    def most_e_per_nm2(self) -> float:
        """Largest dose of a region; 0 before the first electron."""
        return max((dose.e_per_nm2 for dose in self.regions.values()), default=0.0)

    def plain(self) -> dict[str, Any]:
        """As JSON data: seconds, totals, and the number of regions."""
        return {
            "simulated_s": self.simulated_s,
            **{name: getattr(self, name) for name in SECONDS},
            "electrons_e": self.electrons_e,
            "regions": len(self.regions),
            "most_e_per_nm2": self.most_e_per_nm2,
        }


SECONDS = ("exposure_s", "dwell_s", "flyback_s", "overhead_s", "latency_s")


class Ledger:
    """Running account of the cost of one session."""

    def __init__(self) -> None:
        self._spent = Cost()
        self._regions: dict[str, Dose] = {}

    @property
    def cost(self) -> Cost:
        """Cost so far; later bookings do not change it."""
        return replace(self._spent, regions=dict(self._regions))

    def expose(self, region: str, electrons_e: float, area_nm2: float, exposure_s: float, overhead_s: float) -> None:
        """Book one camera exposure.

        Raises:
            ValueError: an area that is not positive, or another negative value; nothing was booked.
        """
        self._book(region, electrons_e, area_nm2, Cost(exposure_s=exposure_s, overhead_s=overhead_s))

    def scan(self, region: str, path: ScanPath, before: ScanPath | None) -> None:
        """Book a block of a scan, after the block `before` of the same scan (None: the first).

        Raises:
            ValueError: see `expose`.
        """
        times = scan_times(path, before)
        spent = Cost(dwell_s=times.dwell_s, flyback_s=times.flyback_s, overhead_s=times.settle_s)
        self._book(region, len(path) * path.plan.dose_e, scanned_area_nm2(path.plan), spent)

    def command(self, latency_s: float) -> None:
        """Book one input to the corrector.

        Raises:
            ValueError: a negative time.
        """
        self._spend(Cost(latency_s=latency_s))

    def _book(self, region: str, electrons_e: float, area_nm2: float, spent: Cost) -> None:
        if not (electrons_e >= 0 and area_nm2 > 0):
            raise ValueError(f"a dose is electrons, 0 or more, over an area above 0; got {electrons_e}, {area_nm2} nm2")
        self._spend(spent)
        before = self._regions.get(region, Dose())
        self._regions[region] = Dose(before.electrons_e + electrons_e, before.e_per_nm2 + electrons_e / area_nm2)

    def _spend(self, spent: Cost) -> None:
        for name in SECONDS:
            if not getattr(spent, name) >= 0:
                raise ValueError(f"{name} cannot be {getattr(spent, name)}")
        total = {name: getattr(self._spent, name) + getattr(spent, name) for name in SECONDS}
        self._spent = replace(self._spent, **total)
