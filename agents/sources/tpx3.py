"""Events of a raw Timepix3 file, `.tpx3`, as blocks of whole positions; memory is that of a block, not of the file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from agents.events.order import EventOrder
from agents.source import SourceError
from agents.sources.event_file import EventFileSource, EventOptions
from twin.formats.chips import ChipLayout
from twin.formats.dataset import FormatError, Layout
from twin.formats.event_clock import EventClock
from twin.formats.t3p import RECORD, TICK_S, description, sidecar
from twin.formats.tpx3 import PER_TICK, RISING, Packets, Tpx3Reader
from twin.options import checked_options, validated
from twin.scan.plan import ScanPlan

Events = NDArray[np.void]

FINE_PER_TICK = 16
FINE_PER_STEP = FINE_PER_TICK // PER_TICK
SPARE_TICKS = 40
"""Time between the last dwell of a line and the next line's trigger in the clock of the scan, 1 us: events in between
belong to no position."""
FAULTS = {
    "lost_words": "words lie outside any chunk",
    "integrated": "hits have no time, of a chip that integrates the charge: record in the mode of time of arrival",
    "unknown": "packets are of an unknown kind",
    "strange_chip": "hits are of chips that the camera does not have: give chips",
}


@validated
class Options(EventOptions):
    """Options of the assignment of events to positions; None is the value of the description beside the file.

    The camera follows from `chips`: one of 256 x 256, or a quad if the file has hits of more chips.

    Attributes:
        start_s: start of the scan on the camera's clock; "first" is the first event, "tdc1" or "tdc2" the first rising
            edge at that trigger input.
        lines: each rising edge at this trigger input, "tdc1" or "tdc2", begins a line; None follows `start_s` alone.
    """

    start_s: float | Literal["first", "tdc1", "tdc2"] = "first"  # type: ignore[assignment]
    lines: Literal["tdc1", "tdc2"] | None = None

    @field_validator("start_s", mode="before")
    @classmethod
    def _time_or_first(cls, given: Any) -> Any:
        if isinstance(given, str) and given not in ("first", *RISING):
            raise ValueError(f"expected a time, first, {' or '.join(RISING)}; got {given!r}")
        return given


class Tpx3Source(EventFileSource):
    """Events of a raw file in blocks; a truncated file yields its whole packets.

    Args:
        file: path of the .tpx3 file; a description `name.tpx3.json` beside it may give scan and dwell time.
        options: see `Options`.

    Raises:
        SourceError: no such file, no raw file, or scan or dwell time not known.
    """

    what = "packets"
    options: Options

    def __init__(self, file: str | Path, options: Options | None = None) -> None:
        super().__init__(file, options or Options())
        chosen = self.options
        try:
            chips = None if chosen.chips is None else ChipLayout.named(chosen.chips, chosen.gap_px)
            self._reader = Tpx3Reader(self._path, chips, tolerate=True)
        except (OSError, FormatError) as error:
            raise SourceError(str(error)) from error
        try:
            if chips is None and chosen.gap_px:
                self._reader.place_chips(replace(self._reader.chips, gap_px=chosen.gap_px))
            if self._reader.rest:
                self.health.fault(f"the file is cut off: it ends after {self._reader.rest} of 8 bytes of a packet")
            described, metadata, _, _ = description(sidecar(self._path))
            scan = chosen.scan or (described.scan if described else None)
            if scan is None:
                raise SourceError(f"{self._path.name}: give the scan, rows before columns, as option scan")
            layout = Layout(scan, self._camera(described), "uint32")
        except BaseException as error:
            self.close()
            if isinstance(error, FormatError):
                raise SourceError(f"{self._path.name}: {error}") from error
            raise
        self._describe(layout, metadata, self._reader.words)

    def close(self) -> None:
        self._reader.close()

    def _camera(self, described: Layout | None) -> tuple[int, int]:
        """Return (H, W) of the chips.

        Raises:
            FormatError: the options or the description have another camera.
        """
        camera = self._reader.chips.camera
        for said in (self.options.camera, described.camera if described and self.options.camera is None else None):
            if said is not None and said != camera:
                raise FormatError(
                    f"a camera of {said} is given, and the chips make one of {camera}; choose chips or gap_px"
                )
        return camera

    def _fine(self) -> bool:
        return self.options.fine_time is not False

    def _plan(self) -> ScanPlan:
        plan = super()._plan()
        if self.options.lines is None:
            return plan
        if plan.pattern != "raster":
            raise FormatError(f"lines begin with a trigger in a raster scan, not in a {plan.pattern} one")
        # Lines of whole ticks, and longer than the dwells: the clock of the scan counts from each line's trigger.
        busy_ps = round(plan.settle_s * 1e12) + plan.columns * round(plan.dwell_s * 1e12)
        line_ps = (-(-busy_ps // round(TICK_S * 1e12)) + SPARE_TICKS) * round(TICK_S * 1e12)
        self._line_ticks = line_ps // round(TICK_S * 1e12)
        return replace(plan, flyback_s=(line_ps - busy_ps) * 1e-12)

    def _clock(self, plan: ScanPlan) -> EventClock:
        start_s = self.options.start_s
        if self.options.lines is not None:
            return self._clock_from(plan, 0.0)
        if start_s not in RISING:
            return super()._clock(plan)
        edges = self._reader.rising(str(start_s))
        if not len(edges):
            raise FormatError(f"{self._path.name}: no rising edge at {start_s}")
        return self._clock_from(plan, float(edges[0]) / PER_TICK * TICK_S)

    def _first_events(self) -> Events:
        for _, packets in self._reader.blocks():
            if len(packets.hits):
                return packets.hits[:64]
        return np.empty(0, RECORD)

    def _hits(self, order: EventOrder) -> Iterator[tuple[int, Events]]:
        starts = self._line_starts()
        for first, packets in self._reader.blocks(self.options.records):
            self._note(packets, first)
            hits = packets.hits if starts is None else self._on_scan_clock(packets.hits, starts)
            yield first, hits

    def _note(self, packets: Packets, first: int) -> None:
        for name, words in FAULTS.items():
            count = getattr(packets, name)
            if count:
                self.health.fault(f"packets from {first}: {count} {words}")

    def _line_starts(self) -> NDArray[np.int64] | None:
        """Return the begin of each line in fine steps of 1.5625 ns; None without triggers of lines."""
        if self.options.lines is None:
            return None
        edges = np.sort(self._reader.rising(self.options.lines)) * FINE_PER_STEP
        rows = self.meta.layout.scan[0] if len(self.meta.layout.scan) == 2 else 1
        if len(edges) != rows:
            self.health.fault(f"{len(edges)} rising edges at {self.options.lines} for {rows} lines")
        return edges

    def _on_scan_clock(self, hits: Events, starts: NDArray[np.int64]) -> Events:
        """Return hits with their time since the start of the scan, in lines of equal length; those before it end."""
        time = hits["toa"].astype(np.int64) * FINE_PER_TICK - hits["ftoa"].astype(np.int64)
        line = np.searchsorted(starts, time, side="right") - 1
        within = time - starts[np.maximum(line, 0)] if len(starts) else np.zeros_like(time)
        length = self._line_ticks * FINE_PER_TICK
        moved = hits.copy()
        fine = line * length + np.minimum(within, length - FINE_PER_TICK)
        tick = -(-fine // FINE_PER_TICK)
        moved["toa"], moved["ftoa"] = np.maximum(tick, 0), np.where(tick > 0, tick * FINE_PER_TICK - fine, 0)
        self.counts.before += int(np.count_nonzero(line < 0))
        return moved[line >= 0]


def make(where: str, options: Mapping[str, Any]) -> Tpx3Source:
    """Open a file by its path; see `agents.sources.open_source`."""
    return Tpx3Source(where, checked_options(Options, options))
