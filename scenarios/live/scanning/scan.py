"""A scan in the page: agents on a running scan, the diffraction pattern, and knobs that act at once.

The scan is that of `stemtwin scan`, or a file or camera as `stemtwin stream` reads it, in a thread of its own.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block, FrameBlock
from agents.source import Source
from agents.stream import Progress
from scenarios.live.job import Job
from scenarios.live.pictures import Picture, as_bytes, binned
from scenarios.live.scanning.agents import TunedAgent, told
from scenarios.live.scanning.beam import Beam
from scenarios.live.scanning.kept import KeptBlocks
from scenarios.scans import scan as twin_scan
from scenarios.scans import stream
from scenarios.schema import Scenario
from twin.errors import printable

REFRESH_S = 0.12
"""Shortest time between two pictures."""
SHARE = 0.1
"""Largest share of the time for results and pictures, while no knob moves."""
WHOLE_SHARE = 0.03
"""Share of the time for results with their tests of residuals while the scan runs."""
PATTERN_FRAMES = 16
"""Frames of a block that the pattern is the mean of."""
RESIDUAL_RANGE = 4.0
"""Ends of the colour scale of residuals, standard deviations."""
JOIN_S = 60.0
MOST_AGENTS = 6

Show = Callable[[list[Picture], Mapping[str, Any]], None]


class ScanRun(Job):
    """One scan with its agents.

    Args:
        what: for people: the scenario or the source.
        beam: for people: the beam that scans.
        agents: texts as for `--agents`.
        begin: runs the stream with these agents to its end.
        wanted: whether somebody waits for pictures.
        show: receives pictures and details, from the thread of the scan.
        changed: called after every change, from any thread.

    Attributes:
        problem: why it failed; empty if it did not.
        outcome: its end in words; empty while it goes on.
    """

    def __init__(
        self,
        what: str,
        beam: str,
        agents: list[str],
        begin: Callable[[Mapping[str, Agent], Callable[[Progress], None]], str],
        wanted: Callable[[], bool],
        show: Show,
        changed: Callable[[], None],
    ) -> None:
        chosen = stream.choose_agents(agents)
        if len(chosen) > MOST_AGENTS:
            raise ValueError(f"the page shows up to {MOST_AGENTS} agents, got {len(chosen)}")
        super().__init__("scan", changed, daemon=True)
        self.what, self.beam, self._begin = what, beam, begin
        self._wanted, self._show = wanted, show
        self._kept = KeptBlocks()
        self.agents = {
            label: TunedAgent(label, label.partition("-")[0], agent, self._kept) for label, agent in chosen.items()
        }
        list(self.agents.values())[-1].after = self._after
        self.outcome = ""
        self._positions, self._total, self._rate = 0, 0, 0.0
        self._stop, self._next_s, self._next_whole_s = False, 0.0, 0.0
        self._details: dict[str, Any] = {}
        self._pattern: np.ndarray[Any, Any] | None = None

    def stop(self) -> None:
        """End the scan after the current block; its results so far are kept."""
        self._stop = True

    def end(self) -> str:
        """Stop, wait for the end, and return in words what became of it; empty if the scan had ended before."""
        if not self._thread.is_alive():
            return ""
        self.stop()
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            return f"the scan has not ended within {JOIN_S:g} s"
        return self.problem or self.outcome

    def tune(self, label: str, changes: Mapping[str, Any]) -> None:
        """Change options of an agent.

        Raises:
            ValueError: no such agent.
        """
        if label not in self.agents:
            raise ValueError(f"{label!r} is not an agent of this scan; known: {', '.join(self.agents)}")
        self.agents[label].tune(changes)
        if not self.running:
            self.agents[label].apply()
            self.publish(whole=True)
        self._changed()

    def plain(self) -> dict[str, Any]:
        """Return the state of the scan as JSON data."""
        return {
            "what": self.what,
            "beam": self.beam,
            "running": self.running,
            "positions": self._positions,
            "total": self._total,
            "rate_per_s": round(self._rate, 1),
            "agents": [agent.plain() for agent in self.agents.values()],
            "problem": self.problem,
            "outcome": self.outcome,
        }

    def publish(self, whole: bool) -> None:
        """Show the present results; whole: with their tests of residuals, otherwise with the latest ones."""
        pictures: list[Picture] = []
        details = self._details
        if self._pattern is not None:
            pictures.append(self._pattern_picture(self._pattern))
        for label, agent in self.agents.items():
            if agent.meta is None:
                continue
            try:
                found = agent.result() if whole else agent.preview()
            except Exception as error:  # as in the stream: an agent that fails leaves the others alone
                details[label] = {"figures": {}, "verdict": None, "notes": [printable(error)]}
                continue
            agent.dirty = False
            pictures += _pictures(label, found)
            latest = told(found)
            if not whole and hasattr(agent.inner, "preview"):
                latest["verdict"] = details.get(label, latest)["verdict"]
            details[label] = latest
        self._show(pictures, {"agents": dict(details), "positions": self._positions, "total": self._total})

    def work(self) -> None:
        """Run the stream, and show its last results."""
        self.outcome = self._begin(self.agents, self._progress)
        for agent in self.agents.values():
            agent.end()
            agent.apply()
        self.publish(whole=True)

    def _progress(self, progress: Progress) -> None:
        self._total, self._rate = progress.total, progress.rate_per_s
        self._changed()

    def _after(self, block: Block) -> None:
        """After a block has been through every agent: count, show, and end if asked to."""
        self._positions += len(block)
        self._kept.add(block)
        if self._stop:
            raise KeyboardInterrupt  # as the stream ends at the command line
        now = perf_counter()
        turned = any(agent.dirty for agent in self.agents.values())
        if not self._wanted() or not (turned or now >= self._next_s):
            return
        if isinstance(block, FrameBlock):
            self._pattern = np.asarray(block.frames[:PATTERN_FRAMES]).mean(axis=0)
        whole = now >= self._next_whole_s
        self.publish(whole)
        spent_s = perf_counter() - now
        self._next_s = now + max(REFRESH_S, spent_s / SHARE)
        if whole:
            self._next_whole_s = now + spent_s / WHOLE_SHARE

    def _pattern_picture(self, pattern: "np.ndarray[Any, Any]") -> Picture:
        meta = next(agent.meta for agent in self.agents.values() if agent.meta is not None)
        counts = np.log1p(binned(pattern))
        scale = pattern_scale(meta)
        return Picture("pattern", as_bytes(counts, float(counts.min()), float(counts.max())), scale)


def pattern_scale(meta: StreamMeta) -> dict[str, Any]:
    """Return what the page needs to draw centre and rings: of the camera before it was binned."""
    known = meta.metadata
    return {
        "camera": list(meta.layout.camera),
        "centre_px": list(meta.centre_px),
        "pixel_mrad": known.pixel_mrad,
        "convergence_mrad": known.convergence_mrad,
    }


def _pictures(label: str, found: Reconstruction) -> list[Picture]:
    """Return the principal image of a result and, where known, its standard deviation and the residuals of its test."""
    name, image = next(iter(found.images.items()), (None, None))
    if name is None or image is None:
        return []
    pictures = [_picture(f"{label}/image", name, image.values, image)]
    if image.spread is not None:
        pictures.append(_picture(f"{label}/spread", f"{name}, standard deviation", image.spread, image))
    residual = None if found.trust is None else found.trust.residual
    if residual is not None:
        values = as_bytes(np.nan_to_num(binned(residual.values)), -RESIDUAL_RANGE, RESIDUAL_RANGE)
        scale = {"low": -RESIDUAL_RANGE, "high": RESIDUAL_RANGE, "unit": "standard deviations"}
        pictures.append(Picture(f"{label}/residual", values, {"title": f"residuals, {residual.of}", **scale}))
    return pictures


def _picture(place: str, title: str, values: "np.ndarray[Any, Any]", image: Image) -> Picture:
    shown = binned(values)
    known = shown[np.isfinite(shown)]
    low, high = (float(v) for v in np.percentile(known, (0.5, 99.5))) if known.size else (0.0, 1.0)
    return Picture(place, as_bytes(shown, low, high), {"title": title, "low": low, "high": high, "unit": image.unit})


def of_twin(
    scenario: Scenario, seed: int, agents: list[str], out: Path, wanted: Callable[[], bool], show: Show,
    changed: Callable[[], None], beam: Beam,
) -> ScanRun:  # fmt: skip
    """Return the scan of a scenario, as `stemtwin scan` makes it; nothing is computed yet.

    Args:
        beam: that scans, see `scenarios.live.scanning.beam`.

    Raises:
        StemtwinError: as `scenarios.scans.scan.prepare`.
        ValueError: the corrector cannot take the beam's input.
    """
    folder = stream.results_folder(None, out / scenario.name / "scan" / str(seed), overwrite=False)
    session = twin_scan.prepare(beam.of(scenario), seed, agents, folder)
    if beam.input_nm is not None:
        session.acquisition.microscope.apply(beam.input_nm)

    def begin(tuned: Mapping[str, Agent], progress: Callable[[Progress], None]) -> str:
        done = twin_scan.run(replace(session, agents=tuned), progress)
        return f"{done.recorded.streamed.status}, in {done.recorded.out}"

    return ScanRun(scenario.name, beam.words(scenario), agents, begin, wanted, show, changed)


def of_source(
    name: str, opened: Callable[[], Source], agents: list[str], out: Path, wanted: Callable[[], bool], show: Show,
    changed: Callable[[], None],
) -> ScanRun:  # fmt: skip
    """Return a stream from a file or camera, as `stemtwin stream` reads it; it is opened when the scan starts."""

    def begin(tuned: Mapping[str, Agent], progress: Callable[[Progress], None]) -> str:
        folder = stream.results_folder(None, out / "stream", overwrite=False)
        with closing(opened()) as source:
            done = stream.run(source, tuned, folder, progress)
        return f"{done.streamed.status}, in {done.out}"

    return ScanRun(name, "that of the source", agents, begin, wanted, show, changed)
