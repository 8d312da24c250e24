"""One calibration run: a scenario, a controller and a seed become a table, a summary and a report.

The controller drives the microscope directly. Everything is built, and thereby checked, before the first exposure.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scenarios.calibration.instruments import Wiring, consents, recorded_folder
from scenarios.calibration.page import render
from scenarios.calibration.place import Place, claimed, not_written
from scenarios.calibration.results import Correction, Result, RunDirectory, Status, Step
from scenarios.calibration.session import NotBegun, Observation, Session, observe, prepare, vector
from scenarios.folders import locked, sentence, write_text
from scenarios.schema import Scenario, ScenarioError
from scenarios.schema import load as load_scenario
from twin import interrupt
from twin.instrument.faults import Departure, MicroscopeFault, Stopped


def calibrate(
    scenario: Scenario | str,
    controller: str = "vae_em",
    seed: int = 0,
    out: Path = Path("runs"),
    progress: Callable[[Step], None] | None = None,
    report: bool = True,
    move: bool = False,
    overwrite: bool = False,
) -> Result:
    """Calibrate the microscope of a scenario: `prepare`, then `run`.

    Args:
        scenario: from `load_scenario`, or its name or path.
        controller: a strategy of `stemtwin list controllers`.
        seed: the same seed gives the same run.
        out, progress, report: see `run`. An instrument's audit log goes into the run's directory, too.
        move: an instrument may be moved; otherwise, unless the operator's configuration allows it, the run is a dry
            run: commands are printed and the simulator gives the frames.
        overwrite: replace an earlier run of the same name; otherwise this one gets a number.

    Returns:
        Every step, the final estimate and correction, and the directory that holds them.

    Raises:
        ScenarioError: the scenario or the controller cannot be used; nothing has been computed.

    Example:
        >>> import tempfile
        >>> from scenarios import calibrate, load_scenario
        >>> small = ["renderer=fast", "optics.convergence_mrad=14", "optics.sampling_nm=0.05", "optics.grid=256"]
        >>> small += ["optics.camera_pixels=64", "optics.binning=4", "task.observations=3"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = calibrate(load_scenario("nominal", small), "random", seed=1, out=folder, report=False)
        >>> [step.observation for step in result.steps], result.status
        ([1, 2, 3], 'complete')
    """
    scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
    wiring = Wiring(dry_run=not consents(scenario, move))
    with opened(scenario, controller, seed, Path(out), wiring, overwrite) as (session, place):
        return run_at(place, session, seed, progress, report)


@contextmanager
def opened(
    scenario: Scenario, controller: str, seed: int, out: Path, wiring: Wiring, overwrite: bool = False
) -> Iterator[tuple[Session, Place]]:
    """Choose the run's folder, lock it and the recording, and prepare the session, until the end of the block.

    Args:
        scenario: its day need not be drawn yet.
        controller, seed, out: see `calibrate`.
        wiring: without audit log, seed, controller and folder, which are added.
        overwrite: see `calibrate`.

    Raises:
        ScenarioError: as in `prepare`; nothing is left behind.
        InUse: another run writes the folder or the recording.
    """
    base = _folder(out, scenario, controller, seed)
    resumed = recorded_folder(wiring.record) if wiring.record is not None and wiring.resume else None
    with ExitStack() as stack:
        place = stack.enter_context(claimed(base, wiring.dry_run, overwrite, resumed))
        if wiring.record is not None:
            stack.enter_context(_locked(wiring.record))
        audit = None if wiring.dry_run else place.audit
        whole = replace(wiring, audit=audit, seed=seed, controller=controller, folder=place.path.name)
        yield prepare(scenario.for_seed(seed), controller, whole), place


@contextmanager
def _locked(recording: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(recording))
        except OSError as error:
            raise ScenarioError(sentence(error, recording)) from error
        yield


def _folder(out: Path, scenario: Scenario, controller: str, seed: int) -> Path:
    return Path(out) / scenario.name / controller / str(seed)


def run(
    session: Session,
    seed: int,
    out: Path = Path("runs"),
    progress: Callable[[Step], None] | None = None,
    report: bool = True,
) -> Result:
    """Run a prepared session and write `out/<scenario>/<controller>/<seed>/`, with a number if that exists.

    Args:
        session: from `prepare`; may be used again.
        seed: the same seed gives the same run; more observations only continue it.
        out: folder of run directories.
        progress, report: see `run_at`.

    Raises:
        ScenarioError: `out` cannot be written; nothing has been computed.
        NotWritten: as in `run_at`.
    """
    with claimed(_folder(out, session.scenario, session.name, seed), session.bench.dry_run) as place:
        return run_at(place, session, seed, progress, report)


def run_at(
    place: Place,
    session: Session,
    seed: int,
    progress: Callable[[Step], None] | None = None,
    report: bool = True,
) -> Result:
    """Run a prepared session in a folder of its own.

    An interrupt (Ctrl-C, SIGTERM, SIGHUP) or an instrument that stops ends the run early: the instrument returns to its
    last good state, and the steps so far are kept, scored and reported. Further interrupts wait for the end of that.

    Args:
        place: from `opened`.
        session, seed: see `run`.
        progress: called after every observation.
        report: write report.html, which takes longer than a short run.

    Raises:
        ScenarioError: the folder cannot be written; nothing has been computed.
        NotWritten: a full disc, say; the message names what is kept.
    """
    with interrupt.session(patient=True) as ending:
        directory = _begun(place, session)
        observations: list[Observation] = []
        try:
            measured = _measure(session, seed, directory, observations, progress, ending)
            place.settle(len(observations), measured.status == "stopped")
            directory.path = place.at
            result = _result(session, seed, measured, place, report)
            if measured.status != "complete":
                directory.rewrite(result.steps)
            directory.write_summary(result.summary())
            if result.report is not None:
                write_text(place.at / "report.html", render(result))
            place.move_in()
        except OSError as error:
            raise not_written(error, len(observations), place, session.bench.recording) from error
    return result


def _result(session: Session, seed: int, measured: "_Measured", place: Place, report: bool) -> Result:
    observed, simulator = measured.observations, session.bench.simulator
    truth = observed[0].truth if observed else None
    return Result(
        scenario=session.scenario,
        controller=session.name,
        seed=seed,
        status=measured.status,
        directory=place.path,
        truth_nm=() if truth is None else vector(truth.initial_nm),
        steps=tuple(observation.step for observation in observed),
        estimate=observed[-1].estimate if observed else None,
        before=observed[0].frame if observed else None,
        correction=measured.correction,
        report=place.path / "report.html" if report else None,
        cost=simulator.cost.plain() if observed and simulator is not None else {},
        reason=measured.reason,
        dry_run=session.bench.dry_run,
        begun=measured.begun,
    )


class _Measured(NamedTuple):
    observations: list[Observation]
    correction: Correction | None
    status: Status
    reason: str
    begun: bool = True


def _measure(
    session: Session,
    seed: int,
    directory: RunDirectory,
    observations: list[Observation],
    progress: Callable[[Step], None] | None,
    ending: interrupt.Ending,
) -> _Measured:
    """Observe and correct; without a correction, an instrument goes back to its last good state."""
    correction: Correction | None = None
    reason = "a program error"
    try:
        for observation in observe(session, seed):
            observations.append(observation)
            directory.append(observation.step)
            if progress is not None:
                progress(observation.step)
            ending.check()
        correction = _correct(session, observations[-1].step)
        return _Measured(observations, correction, "complete", "")
    except KeyboardInterrupt:
        reason = "interrupted"
        return _Measured(observations, correction, "interrupted", "")
    except (Stopped, Departure, MicroscopeFault) as error:
        reason = "stopped"
        return _Measured(observations, correction, "stopped", str(error), not isinstance(error, NotBegun))
    finally:
        # The instrument first: closing the table may fail on a full disc.
        if session.bench.guard is not None:
            if correction is None:
                session.bench.guard.abort(f"the run ended without a correction ({reason})")
            else:
                session.bench.guard.end()
        directory.close()


def _begun(place: Place, session: Session) -> RunDirectory:
    try:
        return RunDirectory(place.at, session.scenario, session.bench.dry_run)
    except OSError as error:
        raise ScenarioError(sentence(error, place.at)) from error


def _correct(session: Session, last: Step) -> Correction:
    """Bring the cumulative input to minus the estimate, within the corrector's reach, and expose once more."""
    space = session.scenario.space
    target = np.clip(-np.asarray(last.estimate_nm), -space.input, space.input)
    delta = target - np.asarray(last.cumulative_nm)
    microscope = session.bench.microscope
    microscope.apply(delta)
    frame = microscope.acquire()
    truth = session.truth()
    frame = session.seen(frame)
    if truth is None:
        return Correction(vector(delta), (), False, frame)
    return Correction(vector(delta), vector(truth.state_nm), space.in_spec(truth.state_nm), frame)
