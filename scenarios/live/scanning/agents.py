"""Agents that are turned while they run: their knobs, and a wrapper that applies changes between two blocks."""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from agents.base import Agent, Reconstruction, StreamMeta, describe, names
from agents.block import Block
from scenarios.live.plain import rounded
from scenarios.live.scanning.kept import KeptBlocks
from twin.errors import StemtwinError, printable
from twin.options import OptionError


@dataclass(frozen=True)
class Knob:
    """One option of an agent that the page turns.

    Attributes:
        name: of the option; "aberrations.C10" is an entry of a mapping.
        label: for people.
        low, high, step: of the slider; `high` 0 is the camera's reach in mrad, or the scan's Nyquist frequency in 1/nm.
        unit: behind the value.
        none_at: the end of the slider that stands for no value.
        none: words for no value.
        choices: names to choose from, instead of a slider.
        about: what it does, in a sentence.
    """

    name: str
    label: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.1
    unit: str = ""
    none_at: Literal["low", "high", ""] = ""
    none: str = ""
    choices: tuple[str, ...] = ()
    about: str = ""


_RING = (
    Knob("inner_mrad", "inner radius", unit="mrad", step=0.5, about="Electrons below this angle do not count."),
    Knob("outer_mrad", "outer radius", unit="mrad", step=0.5, none_at="high", none="camera's edge",
         about="Electrons beyond this angle do not count."),
)  # fmt: skip
_FIRST_ORDER = "Aberration of the probe, for which the phase is corrected."
KNOBS: Mapping[str, tuple[Knob, ...]] = {
    "ricom": (
        Knob("kernel_px", "kernel", 3.0, 151.0, 2.0, "px",
             about="Side of the kernel: larger shows slower changes of the phase, and takes longer."),
        Knob("k_min_per_nm", "lowest frequency", unit="1/nm", none_at="low", none="no limit",
             about="Slower changes are left out."),
        Knob("k_max_per_nm", "highest frequency", unit="1/nm", none_at="high", none="no limit",
             about="Faster changes, most of the noise, are left out."),
        Knob("rotation_deg", "rotation", -180.0, 180.0, 1.0, "deg", none="auto",
             about="Angle from the camera's x to the fast axis of the scan; auto: that of the stream."),
        Knob("outer_mrad", "disc of the centre of mass", unit="mrad", step=0.5, none_at="high", none="whole camera",
             about="Electrons within this angle give the centre of mass."),
    ),
    "ssb": (
        Knob("aberrations.C10", "C10", -60.0, 60.0, 0.5, "nm", about=_FIRST_ORDER),
        Knob("aberrations.C12a", "C12a", -30.0, 30.0, 0.5, "nm", about=_FIRST_ORDER),
        Knob("aberrations.C12b", "C12b", -30.0, 30.0, 0.5, "nm", about=_FIRST_ORDER),
        Knob("weighting", "weighting", choices=("wiener", "flat", "white", "overlap"),
             about="Weights of the spatial frequencies; wiener suppresses those that are mostly noise."),
    ),
    **dict.fromkeys(("bf", "abf", "adf", "haadf"), _RING),
}  # fmt: skip
"""Knobs by agent; an agent that is not here has none."""

TAKEN_IN = frozenset({"inner_mrad", "outer_mrad", "inner_px", "outer_px", "centre_px", "aberrations", "detectors"})
"""Options by which a position is taken in: a change makes the positions before it worthless."""
CLEAR = 1.2
"""Inner radius of the page's adf over the convergence angle: the edge of the bright disc stays outside the ring."""

USUAL = ("bf", "abf", "adf", "haadf", "com", "dpc", "icom", "ricom", "ssb")
"""Agents that the page offers first."""
MOST_NOTES = 6
"""Notes of a result that the page shows; a misfit is its verdict."""


def offered() -> list[dict[str, Any]]:
    """Return every agent with its line for people as JSON data, the usual ones first."""
    ordered = sorted(names(), key=lambda name: (*USUAL, name).index(name))
    return [{"name": name, "about": describe(name), "usual": name in USUAL} for name in ordered]


def knobs_of(name: str, agent: Agent, meta: StreamMeta) -> list[dict[str, Any]]:
    """Return an agent's knobs as JSON data, with their ranges on this stream and their values."""
    options = asdict(agent.options) if hasattr(agent, "options") else {}
    if KNOBS.get(name) is _RING:
        (ring,) = agent.options.detectors_of(meta, name)[name]  # type: ignore[attr-defined]
        options |= {"inner_mrad": ring.inner_mrad, "outer_mrad": round(ring.outer_mrad, 2)}
    return [
        {**asdict(knob), "high": knob.high or _reach(knob.unit, meta), "value": _value(options, knob.name)}
        for knob in KNOBS.get(name, ())
    ]


def _reach(unit: str, meta: StreamMeta) -> float:
    known = meta.metadata
    if unit == "mrad" and known.pixel_mrad is not None:
        return round(known.pixel_mrad * min(meta.layout.camera) / 2, 1)
    if unit == "1/nm" and known.step_nm is not None:
        return round(0.5 / known.step_nm, 1)
    return 100.0


def _value(options: Mapping[str, Any], name: str) -> Any:
    """Return the value of an option; 0 for an entry that a mapping does not have, None for no value."""
    head, _, key = name.partition(".")
    value = options.get(head)
    return (value or {}).get(key, 0.0) if key else value


class TunedAgent:
    """An agent whose options may be changed from another thread; changes take effect between two blocks.

    A change of what a position is taken in by (`TAKEN_IN`) begins anew, with the positions that are kept; where they
    are not, the image is empty before the change. No image mixes positions before and after it.

    Args:
        label: of its results.
        name: of the agent.
        inner: the agent.
        kept: blocks that every agent of the stream has taken in.
        after: called after each block, in the thread of the stream.

    Attributes:
        problem: why the latest change was refused; empty if it was not.
        note: what the operator should know of the image.
        dirty: options have changed since the latest `show`.
    """

    def __init__(
        self,
        label: str,
        name: str,
        inner: Agent,
        kept: KeptBlocks | None = None,
        after: Callable[[Block], None] | None = None,
    ) -> None:
        self.label, self.name, self.inner, self.after = label, name, inner, after
        self.kept = KeptBlocks() if kept is None else kept
        self.problem, self.note, self.dirty = "", "", False
        self.meta: StreamMeta | None = None
        self._waiting: dict[str, Any] = {}
        self._positions, self._over = 0, False
        self._lock = threading.RLock()

    def start(self, meta: StreamMeta) -> None:
        with self._lock:
            self._keep_clear(meta)
            self.inner.start(meta)
            self.kept.begin(meta.layout)
            self.meta, self._positions = meta, 0

    def update(self, block: Block) -> None:
        with self._lock:
            self.apply()
            self.inner.update(block)
            self._positions += len(block)
        if self.after is not None:
            self.after(block)

    def result(self) -> Reconstruction:
        with self._lock:
            return self.inner.result()

    def preview(self) -> Reconstruction:
        """The images alone, without a test of residuals, if the agent can tell them apart; else the result."""
        preview: Callable[[], Reconstruction] = getattr(self.inner, "preview", self.inner.result)
        with self._lock:
            return preview()

    def finish(self) -> None:
        """End the stream, and have the agent do what it does then."""
        finish: Callable[[], None] | None = getattr(self.inner, "finish", None)
        if finish is not None:
            with self._lock:
                finish()

    def end(self) -> None:
        """Note that no position is to come."""
        self._over = True

    def tune(self, changes: Mapping[str, Any]) -> None:
        """Note changes; the latest value of each option counts."""
        with self._lock:
            self._waiting.update(changes)

    def apply(self) -> None:
        """Apply the noted changes: before the next block, or once the stream has ended."""
        with self._lock:
            if not self._waiting or self.meta is None:
                return
            changes, self._waiting = self._waiting, {}
            configure: Callable[..., None] | None = getattr(self.inner, "configure", None)
            try:
                if configure is None:
                    raise ValueError(f"{self.name} has nothing to turn while it runs")
                self._change(configure, changes)
                self.problem, self.dirty = "", True
            except (StemtwinError, ValueError) as error:
                self.problem = printable(error)

    def _change(self, configure: Callable[..., None], changes: Mapping[str, Any]) -> None:
        """Change options, and begin anew if the positions so far were taken in otherwise.

        Raises:
            OptionError: a refused value, or a change that needs positions which are neither kept nor to come.
        """
        anew = self._positions > 0 and not TAKEN_IN.isdisjoint(changes)
        if anew and self._over and not self.kept.whole:
            raise OptionError(f"{', '.join(changes)} counts for positions to come, and this scan is over: scan again")
        configure(**changes)
        self.note = ""
        if not anew or self.meta is None:
            return
        self.inner.start(self.meta)
        for block in self.kept.blocks:
            self.inner.update(block)
        if not self.kept.whole:
            self.note = f"changed after {self._positions} positions: the image is empty before that"

    def _keep_clear(self, meta: StreamMeta) -> None:
        """Have adf begin outside the bright disc, unless it was told where."""
        inner: Any = self.inner
        beam_mrad, pixel_mrad = meta.metadata.convergence_mrad, meta.metadata.pixel_mrad
        if self.name != "adf" or inner.options.inner_mrad is not None or beam_mrad is None or pixel_mrad is None:
            return
        inner_mrad = math.ceil(2 * max(CLEAR * beam_mrad, beam_mrad + 1.5 * pixel_mrad)) / 2
        if inner_mrad < pixel_mrad * (min(meta.layout.camera) / 2 - 1):
            inner.options = replace(inner.options, inner_mrad=inner_mrad)
            self.note = f"begins at {inner_mrad:g} mrad, clear of the bright disc of {beam_mrad:g} mrad"

    def plain(self) -> dict[str, Any]:
        """Return name, knobs and the latest refusal as JSON data."""
        knobs = [] if self.meta is None else knobs_of(self.name, self.inner, self.meta)
        return {
            "label": self.label,
            "name": self.name,
            "about": describe(self.name),
            "knobs": knobs,
            "problem": self.problem,
            "note": self.note,
        }


def told(found: Reconstruction) -> dict[str, Any]:
    """Return figures, verdict and notes of a result as JSON data."""
    from agents.trust import LEVEL, misfit_words

    trust = found.trust
    verdict = None
    if trust is not None:
        fits = f"fits: {trust.model} (p = {trust.probability:.2g}; level of the test: {LEVEL:g})"
        words = fits if trust.fits else misfit_words(trust)
        verdict = {"fits": trust.fits, "words": printable(words)}
    return {
        "figures": {name: rounded([value])[0] for name, value in found.figures.items()},
        "verdict": verdict,
        "notes": [printable(note) for note in found.notes[:MOST_NOTES] if not note.startswith("does not fit")],
    }
