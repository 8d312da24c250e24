"""What the page operates: one microscope by hand, one calibration, one scan. Called from one thread at a time.

The microscope is never in two hands: while a calibration runs, the knobs are refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from agents.sources import open_source
from controller import base as controllers
from scenarios.calibration.instruments import Wiring
from scenarios.live import messages, pictures
from scenarios.live.belief import Belief, true_figures
from scenarios.live.calibration import Calibration
from scenarios.live.choices import choices_of
from scenarios.live.hand import Exposure, Hand, InstrumentHand, TwinHand, connect
from scenarios.live.limits import beginning, in_force
from scenarios.live.pictures import Picture
from scenarios.live.plain import rounded
from scenarios.live.scanning.beam import Beam, Choice
from scenarios.live.scanning.scan import ScanRun, of_source, of_twin
from scenarios.schema import Scenario, library, load
from scenarios.schema import Task as TaskSection
from twin import backends
from twin.errors import StemtwinError, check_known
from twin.types import Frame


class NotNow(StemtwinError, ValueError):
    """A message that does not suit the present state; nothing was done."""


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        scenario: with the overrides of the command line.
        seed: of the first hidden state.
        out: folder of run directories.
        consents: the operator has an instrument moved; otherwise a dry run.
        source: file or camera for the scan panel; "" for the twin's scans.
        meta, source_options: of the source, as for `agents.sources.open_source`.
    """

    scenario: Scenario
    seed: int
    out: Path
    consents: bool = True
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    source_options: Mapping[str, Any] = field(default_factory=dict)


class Desk:
    """Microscope, calibration and scan.

    Args:
        settings: of the command line.
        changed: called after every change, from any thread.
        show: receives pictures for the page, from any thread: kind, pictures, details.
        wanted: whether a page waits for pictures of a kind.

    Raises:
        ValueError: the scenario's microscope is refused.
    """

    def __init__(
        self,
        settings: Settings,
        changed: Callable[[], None],
        show: Callable[[str, list[Picture], Mapping[str, Any]], None],
        wanted: Callable[[str], bool],
    ) -> None:
        self.settings, self._changed, self._show, self._wanted = settings, changed, show, wanted
        self.scenario, self.seed = settings.scenario.for_seed(settings.seed), settings.seed
        self.truth_shown, self.live = False, True
        self.calibration: Calibration | None = None
        self.scan: ScanRun | None = None
        self._belief: Belief | None = None
        self._taken_over = True
        self._kind = self.scenario.microscope.kind
        self.hand: Hand | None = TwinHand(self.scenario, self.seed) if self.is_twin else None

    # --- state -----------------------------------------------------------------------------------

    @property
    def is_twin(self) -> bool:
        """Whether the microscope is the simulator of this program."""
        return self._kind == backends.SIMULATED

    @property
    def calibrating(self) -> bool:
        """Whether a calibration has the microscope."""
        return self.calibration is not None and self.calibration.running

    @property
    def exposes(self) -> bool:
        """Whether Ronchigrams are exposed while nothing is turned: not during a scan, which needs the processor."""
        return self.live and not (self.scan is not None and self.scan.running)

    @cached_property
    def choices(self) -> dict[str, Any]:
        """What can be chosen; constant."""
        return choices_of(self.settings.scenario, self.settings.source, self.is_twin)

    def plain(self) -> dict[str, Any]:
        """Return the whole state as JSON data."""
        return {
            "scenario": {"name": self.scenario.name, "about": self.scenario.description, "seed": self.seed},
            "microscope": self._microscope(),
            "limits": in_force(self.scenario, self._needs_consent),
            "beginning": beginning(self.scenario, self.is_twin),
            "run": self._run(),
            "scan": None if self.scan is None else self.scan.plain(),
        }

    def _microscope(self) -> dict[str, Any]:
        space, hand = self.scenario.space, self.hand
        twin = hand if isinstance(hand, TwinHand) else None
        knobs = [0.0] * space.dimension if hand is None else rounded(hand.knobs_nm)
        rows = zip(space.names, knobs, space.input_nm, space.tolerance_nm, strict=True)
        return {
            "kind": self._kind,
            "twin": self.is_twin,
            "instrument": self._needs_consent,
            "dry_run": self._needs_consent and not self.settings.consents,
            "connected": hand is not None,
            "live": self.live,
            "knobs": [{"name": n, "value": v, "limit": m, "tolerance": t} for n, v, m, t in rows],
            "dose_e": twin.exposure.dose_e if twin else None,
            "exposure_s": twin.exposure.exposure_s if twin else None,
            "region": twin.region if twin else None,
            "truth_shown": self.truth_shown,
            "truth": self._truth(twin),
            "optics": {
                "energy_kev": self.scenario.optics.energy_kev,
                "convergence_mrad": self.scenario.optics.convergence_mrad,
                "camera_mrad": self.scenario.optics.camera_pixel_mrad * self.scenario.optics.camera_pixels,
            },
        }

    def _truth(self, twin: TwinHand | None) -> dict[str, float] | None:
        if twin is None or not self.truth_shown:
            return None
        return {name: round(value, 4) for name, value in twin.aberrations().nonzero().items()}

    def _run(self) -> dict[str, Any] | None:
        if self.calibration is None:
            return None
        plain = self.calibration.plain()
        if not self.truth_shown:
            plain["steps"] = [{**step, "truth_nm": None} for step in plain["steps"]]
        return plain

    @property
    def _needs_consent(self) -> bool:
        return not self.is_twin and backends.is_instrument(self._kind)

    # --- pictures --------------------------------------------------------------------------------

    def expose(self, draft: bool) -> None:
        """Take a frame by hand and show it; nothing without a session, or while a calibration has the microscope."""
        hand = self.hand
        if hand is None or self.calibrating:
            return
        view = hand.expose(draft)
        shown = pictures.of_frame(view.frame)
        details: dict[str, Any] = {
            "source": "hand",
            "draft": view.draft,
            "knobs": dict(zip(hand.space.names, rounded(view.knobs_nm), strict=True)),
            "clock_s": view.frame.clock_s,
            "dose_e": view.frame.dose_e,
            "basis": None,
        }
        optics = self.scenario.optics
        if self.truth_shown and isinstance(hand, TwinHand):
            known = hand.aberrations()
            shown += pictures.of_probe(known, optics)
            details |= {"basis": "truth", **true_figures(known, hand.space.names, optics)}
        elif self._belief is not None:
            shown += pictures.of_probe(self._belief.aberrations(view.knobs_nm), optics)
            details |= {"basis": "estimate", **self._belief.figures(view.knobs_nm, optics)}
        self._show("view", shown, details)

    def lose(self, ended: bool) -> None:
        """After a frame that failed: expose no more by itself; a session that has ended is given up."""
        self.live = False
        if ended and isinstance(self.hand, InstrumentHand):
            self._leave_instrument()
        self._changed()

    def _frame_of_run(self, frame: Frame) -> None:
        """Show a frame of the calibration, from its thread."""
        run = self.calibration
        if run is None:
            return
        number = run.frames = run.frames + 1
        details = {
            "source": "run",
            "draft": False,
            "clock_s": frame.clock_s,
            "dose_e": frame.dose_e,
            "basis": None,
            "name": run.frame_name(number),
        }
        self._show("before" if number == 1 else "run", pictures.of_frame(frame), details)

    # --- messages --------------------------------------------------------------------------------

    def hear(self, message: Any) -> None:
        """Do what a message says.

        Raises:
            NotNow: it does not suit the present state.
            StemtwinError, ValueError: it is refused; nothing has moved.
        """
        if isinstance(message, _MOVES):
            self._check_free()
        _ACTIONS[type(message)](self, message)
        self._changed()

    def _check_free(self) -> None:
        if self.calibrating:
            raise NotNow("the calibration has the microscope: stop it first")

    def _turn(self, message: messages.Knobs) -> None:
        if self.hand is None:
            raise NotNow("no session with the instrument: connect first")
        self.hand.turn(message.values)

    def _twin(self) -> TwinHand:
        if not isinstance(self.hand, TwinHand):
            raise NotNow("only the twin can do this; this is an instrument")
        return self.hand

    def _expose_otherwise(self, message: messages.Expose) -> None:
        self._twin().set_exposure(Exposure(dose_e=message.dose_e, exposure_s=message.exposure_s))

    def _move_stage(self, message: messages.Stage) -> None:
        self._twin().move_stage()

    def _take_day(self, message: messages.Day) -> None:
        self._twin()
        drawn = self._named(message.scenario).for_seed(message.seed)
        self.hand = TwinHand(drawn, message.seed)
        self.scenario, self.seed = drawn, message.seed
        self.truth_shown, self._belief, self.calibration = False, None, None

    def _named(self, name: str) -> Scenario:
        """Return the scenario of the command line, or one of the library: never a file that a page names.

        Raises:
            NotNow: no such scenario.
        """
        if name == self.settings.scenario.name:
            return self.settings.scenario
        check_known(name, library(), "a scenario of the library", NotNow)
        return load(name)

    def _show_truth(self, message: messages.ShowTruth) -> None:
        self._twin()
        self.truth_shown = message.show

    def _go_live(self, message: messages.Live) -> None:
        self.live = message.on

    def _connect(self, message: messages.Connect) -> None:
        if self.is_twin:
            raise NotNow("the twin is always connected")
        if message.on == (self.hand is not None):
            return
        if message.on:
            dry_run = self._needs_consent and not self.settings.consents
            self.hand = connect(self.scenario, self.seed, self.settings.out, dry_run)
        else:
            self._leave_instrument()

    def _leave_instrument(self) -> None:
        if isinstance(self.hand, InstrumentHand):
            self.hand.leave()
            self.hand = None

    def _calibrate(self, message: messages.Calibrate) -> None:
        check_known(message.controller, controllers.names(), "a controller", controllers.UnknownController)
        self._leave_instrument()
        task = TaskSection(observations=message.observations, stop=message.stop)
        scenario = self.scenario.model_copy(update={"task": task})
        wiring = Wiring(dry_run=self._needs_consent and not self.settings.consents)
        self.calibration = Calibration(
            scenario, message.controller, self.seed, self.settings.out, wiring, self._changed, self._frame_of_run,
            message.paused,
        )  # fmt: skip
        self._taken_over = False
        self.calibration.start()

    def take_over(self) -> bool:
        """Let the hand go on from where a calibration has ended; return whether there was anything to take over."""
        run = self.calibration
        if run is None or run.running or self._taken_over:
            return False
        self._taken_over = True
        belief, inputs_nm = run.belief(), run.cumulative_nm
        if isinstance(self.hand, TwinHand):
            self.hand.turn(dict(zip(self.hand.space.names, map(float, inputs_nm), strict=True)))
        elif belief is not None:  # the knobs of the next session begin at zero
            belief = replace(belief, mean_nm=belief.mean_nm + inputs_nm)
        self._belief = belief
        self._changed()
        return True

    def _run_verb(self, message: messages.Run) -> None:
        if self.calibration is None or not self.calibration.running:
            raise NotNow("no calibration is running")
        self.calibration.gate.say(message.verb)

    def _scan(self, message: messages.Scan) -> None:
        if self.scan is not None and self.scan.running:
            raise NotNow("a scan is running: end it first")
        out, seed = self.settings.out, self.seed

        def wanted() -> bool:
            return self._wanted("scan")

        def show(shown: list[Picture], details: Mapping[str, Any]) -> None:
            self._show("scan", shown, details)

        if self.settings.source and message.scenario == self.settings.source:
            opened = partial(open_source, self.settings.source, self.settings.meta, **self.settings.source_options)
            self.scan = of_source(self.settings.source, opened, message.agents, out, wanted, show, self._changed)
        else:
            scenario = self._named(message.scenario)
            self.scan = of_twin(
                scenario.for_seed(seed), seed, message.agents, out, wanted, show, self._changed,
                self._beam(message.beam, scenario),
            )  # fmt: skip
        self.scan.start()

    def _beam(self, choice: Choice, scenario: Scenario) -> Beam:
        """Return the beam of a twin's scan.

        Raises:
            NotNow: the corrector in the hand is not that of the scan.
        """
        if choice != "microscope":
            return Beam(choice)
        if not isinstance(self.hand, TwinHand) or self.scenario.space != scenario.space:
            raise NotNow(f"the corrector in Microscope is not that of {scenario.name}: choose another beam")
        return Beam(choice, self.hand.knobs_nm.copy())

    def _stop_scan(self, message: messages.ScanStop) -> None:
        if self.scan is None or not self.scan.running:
            raise NotNow("no scan is running")
        self.scan.stop()

    def _configure(self, message: messages.Configure) -> None:
        if self.scan is None:
            raise NotNow("no scan has been started")
        self.scan.tune(message.agent, message.changes)

    # --- the end ---------------------------------------------------------------------------------

    def close(self, reason: str) -> str:
        """End everything; an instrument is left as its limits demand. Return in words what became of it."""
        said = []
        if self.scan is not None and (words := self.scan.end()):
            said.append(f"The scan: {words}.")
        if self.calibration is not None and (words := self.calibration.end()):
            said.append(f"The calibration: {words}.")
        if self.hand is not None and (words := self.hand.close(reason)):
            said.append(f"The instrument: {words}.")
        return " ".join(said)

    def report(self) -> Path | None:
        """Return the report of the latest calibration, if it has one."""
        result = None if self.calibration is None else self.calibration.result
        path = None if result is None else result.report
        return path if path is not None and path.is_file() and path.is_relative_to(result.directory) else None  # type: ignore[union-attr]


_MOVES = (messages.Knobs, messages.Expose, messages.Stage, messages.Day, messages.Connect, messages.Calibrate)
"""Messages that need the microscope to themselves."""
_ACTIONS: dict[type, Callable[[Desk, Any], None]] = {
    messages.Knobs: Desk._turn,
    messages.Expose: Desk._expose_otherwise,
    messages.Stage: Desk._move_stage,
    messages.Day: Desk._take_day,
    messages.ShowTruth: Desk._show_truth,
    messages.Live: Desk._go_live,
    messages.Connect: Desk._connect,
    messages.Calibrate: Desk._calibrate,
    messages.Run: Desk._run_verb,
    messages.Scan: Desk._scan,
    messages.ScanStop: Desk._stop_scan,
    messages.Configure: Desk._configure,
}
