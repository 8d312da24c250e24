"""A microscope turned by hand: its knobs, its live view, and what a twin alone can do. No network, no threads."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from scenarios.calibration.instruments import Bench, Wiring, build
from scenarios.calibration.place import claimed
from scenarios.calibration.session import microscope_generator
from scenarios.live.renderer import LiveRenderer
from scenarios.schema import Scenario
from twin import backends
from twin.aberrations import Aberrations
from twin.arrays import Array
from twin.options import Positive, validated
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.types import Frame

BY_HAND = "by_hand"
"""Folder, beside those of the controllers, of an instrument's audit log while it is turned by hand."""


@validated
class Exposure:
    """How the twin exposes.

    Attributes:
        dose_e: electrons per frame.
        exposure_s: exposure time.
    """

    dose_e: Positive
    exposure_s: Positive


@dataclass(frozen=True)
class View:
    """One exposure by hand.

    Attributes:
        frame: as the camera read it out.
        knobs_nm: cumulative input during the exposure, (n,).
        draft: drawn without focal spread and thickness, because a knob was moving.
    """

    frame: Frame
    knobs_nm: Array
    draft: bool


class Hand(Protocol):
    """A microscope turned by hand."""

    space: StateSpace
    knobs_nm: Array

    def turn(self, knobs_nm: Mapping[str, float]) -> None:
        """Bring some knobs to a value, nm.

        Raises:
            ValueError: an unknown name, or a value beyond the limits; nothing has moved.
        """
        ...

    def expose(self, draft: bool) -> View:
        """Take a frame."""
        ...

    def close(self, reason: str) -> str:
        """End the session as the limits demand; return what became of it, in words."""
        ...


def wanted_nm(space: StateSpace, knobs_nm: Array, changes_nm: Mapping[str, float]) -> Array:
    """Return the cumulative input after some knobs were brought to a value, (n,).

    Raises:
        ValueError: an unknown name; names the known ones.
    """
    wanted = knobs_nm.copy()
    for name, value in changes_nm.items():
        if name not in space.names:
            raise ValueError(f"{name!r} is not a knob here; known: {', '.join(space.names)}")
        wanted[space.names.index(name)] = value
    return wanted


class TwinHand:
    """The twin by hand, from the state in which a calibration with the same seed finds it.

    The film stays where it is until the stage moves.

    Args:
        scenario: its day is drawn.
        seed: of the hidden state.

    Example:
        >>> from scenarios.schema import load
        >>> hand = TwinHand(load("nominal"), seed=1)
        >>> hand.turn({"C10": 20.0})
        >>> hand.expose(draft=True).frame.counts.shape, hand.knobs_nm.tolist()
        ((128, 128), [20.0, 0.0, 0.0])
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        scenario.check_drawn()
        self.scenario, self.seed = scenario, seed
        self.space, self.region = scenario.space, 0
        self.exposure = Exposure(dose_e=scenario.day.dose_e, exposure_s=scenario.day.exposure_s)
        self._renderer = LiveRenderer(scenario.optics, scenario.day)
        self.knobs_nm: Array = scenario.space.zero
        day = replace(scenario.day, overhead_s=0.0)
        self._microscope = SimulatedMicroscope(scenario.optics, self.space, day, self._renderer)
        self._microscope.reset(microscope_generator(seed))
        self._microscope.stay_on_film(self.region)

    def turn(self, knobs_nm: Mapping[str, float]) -> None:
        wanted = wanted_nm(self.space, self.knobs_nm, knobs_nm)
        self._microscope.apply(wanted - self.knobs_nm)
        self.knobs_nm = wanted

    def expose(self, draft: bool) -> View:
        self._renderer.draft = draft
        return View(self._microscope.acquire(), self.knobs_nm.copy(), draft)

    def set_exposure(self, exposure: Exposure) -> None:
        """Expose with another dose or time from now on; the instrument's clock goes on."""
        self._microscope.set_exposure(exposure.dose_e, exposure.exposure_s)
        self.exposure = exposure

    def move_stage(self) -> None:
        """Take further frames on the next region of the film."""
        self.region += 1
        self._microscope.stay_on_film(self.region)

    def aberrations(self) -> Aberrations:
        """Return every coefficient now: the truth."""
        return self._microscope.aberrations()

    def close(self, reason: str) -> str:
        return ""


class InstrumentHand:
    """An instrument by hand, behind the guard that a calibration uses.

    Args:
        bench: from `instruments.build`, with a guard and its audit log, or a dry run.
        seed: of its session.

    Attributes:
        folder: closed with the session.
        audit: its audit log; None without one.

    Raises:
        MicroscopeFault: it cannot be reached.
    """

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.space = bench, bench.microscope.capabilities.space
        self.knobs_nm: Array = self.space.zero
        self.folder = ExitStack()
        self.audit: Path | None = None
        bench.microscope.reset(microscope_generator(seed))

    def turn(self, knobs_nm: Mapping[str, float]) -> None:
        wanted = wanted_nm(self.space, self.knobs_nm, knobs_nm)
        self.bench.microscope.apply(wanted - self.knobs_nm)
        self.knobs_nm = wanted

    def expose(self, draft: bool) -> View:
        return View(self.bench.microscope.acquire(), self.knobs_nm.copy(), False)

    def leave(self) -> None:
        """End the session where it stands, for a calibration to begin there."""
        with self.folder:
            if self.bench.guard is not None:
                self.bench.guard.end()

    def close(self, reason: str) -> str:
        with self.folder:
            if self.bench.guard is None:
                return ""
            return self.bench.guard.abort(reason) + ("" if self.audit is None else f", audit log in {self.audit}")


def connect(scenario: Scenario, seed: int, out: Path, dry_run: bool) -> InstrumentHand:
    """Begin a session by hand with a scenario's instrument; its audit log is in a folder of its own under `out`.

    Raises:
        ScenarioError: the folder cannot be written.
        ValueError: the instrument or its limits are refused.
        MicroscopeFault: it cannot be reached.
    """
    moves = backends.is_instrument(scenario.microscope.kind)
    with ExitStack() as folder:
        place = folder.enter_context(claimed(out / scenario.name / BY_HAND / str(seed), dry_run))
        # The stand-in of a dry run has to follow the knobs.
        quick = scenario.model_copy(update={"renderer": "fast"})
        wiring = Wiring(dry_run=dry_run, audit=place.audit if moves and not dry_run else None, show=_silent)
        hand = InstrumentHand(build(quick, wiring), seed)
        hand.folder, hand.audit = folder.pop_all(), wiring.audit
    return hand


def _silent(line: str) -> None:
    """Print nothing: the page shows what a dry run would send."""
