"""One calibration run: a scenario, a controller and a seed become rows, a summary and a report.

Everything is built, and thereby checked, before the first exposure.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.base import Controller, Estimate, load
from scenarios.calibration.instruments import Bench, Wiring, build
from scenarios.calibration.page import render
from scenarios.calibration.results import Correction, Result, RunDirectory, Status, Step, Vector, write_text
from scenarios.schema import Scenario, ScenarioError
from twin.envs.calibration import CalibrationEnv
from twin.instrument.faults import Departure, MicroscopeFault, Stopped
from twin.interrupt import remembered
from twin.types import Frame, Truth

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Session:
    """What a run is made of; `truth` is asked by the scorer alone."""

    scenario: Scenario
    name: str
    bench: Bench
    env: CalibrationEnv
    controller: Controller

    def truth(self) -> Truth | None:
        """The hidden state, where somebody knows it."""
        return None if self.bench.truth is None else self.bench.truth.truth()


def calibrate(
    scenario: Scenario,
    controller: str,
    seed: int,
    out: Path = Path("runs"),
    progress: Callable[[Step], None] | None = None,
    report: bool = True,
) -> Result:
    """Run `controller` on `scenario`: `prepare`, then `record`. An instrument's audit log is in the run's directory.

    Raises:
        ScenarioError: as in these two; nothing has been computed.
    """
    wiring = Wiring(audit=audit_path(out, scenario, controller, seed), seed=seed, controller=controller)
    return record(prepare(scenario.for_seed(seed), controller, wiring), seed, out, progress, report)


def audit_path(out: Path, scenario: Scenario, controller: str, seed: int) -> Path:
    """Where the commands of an instrument are logged: beside what `record` leaves behind."""
    return _folder(out, scenario, controller, seed) / "audit.jsonl"


def _folder(out: Path, scenario: Scenario, controller: str, seed: int) -> Path:
    return out / scenario.name / controller / str(seed)


def record(
    session: Session,
    seed: int,
    out: Path = Path("runs"),
    progress: Callable[[Step], None] | None = None,
    report: bool = True,
) -> Result:
    """One run of a prepared session, which leaves `out/<scenario>/<controller>/<seed>/` behind.

    An interrupt (Ctrl-C, SIGTERM) ends the run early, and so does an instrument that stops: what was measured is kept,
    scored and reported, and the instrument is told to go back to its last good state.

    Args:
        session: from `prepare`; may be used again.
        seed: the same seed gives the same run; more observations only continue it.
        out: where run directories go; an earlier run of the same name there is replaced.
        progress: called after every observation.
        report: write report.html, which takes longer than a short run.

    Raises:
        ScenarioError: `out` cannot be written; nothing has been computed.
    """
    scenario = session.scenario
    directory = _open(_folder(out, scenario, session.name, seed), scenario)
    seen: list[tuple[Step, Frame, Estimate]] = []
    truth: Truth | None = None
    correction: Correction | None = None
    status: Status = "complete"
    reason = ""
    try:
        with remembered() as check_interrupt:
            for observed in observe(session, seed):
                # Now: where the truth is told over a line, that may be gone in the end.
                truth = session.truth() if truth is None else truth
                seen.append(observed)
                directory.append(observed[0])
                if progress is not None:
                    progress(observed[0])
                check_interrupt()
            correction = _correct(session, seen[-1][0])
    except KeyboardInterrupt:
        status = "interrupted"
    except (Stopped, Departure, MicroscopeFault) as error:
        status, reason = "stopped", str(error)
    finally:
        # First of all: the disc may be full.
        _release(session, status, correction is not None)
        directory.close()
    steps = tuple(step for step, _, _ in seen)
    if status != "complete":
        directory.rewrite(steps)
    simulator = session.bench.simulator
    result = Result(
        scenario=scenario,
        controller=session.name,
        seed=seed,
        status=status,
        directory=directory.path,
        truth_nm=() if truth is None else _vector(truth.initial_nm),
        steps=steps,
        estimate=seen[-1][2] if seen else None,
        before=seen[0][1] if seen else None,
        correction=correction,
        report=directory.path / "report.html" if report else None,
        cost=simulator.cost.plain() if seen and simulator is not None else {},
        reason=reason,
    )
    directory.write_summary(result.summary())
    if result.report is not None:
        write_text(result.report, render(result))
    return result


def _release(session: Session, status: Status, corrected: bool) -> None:
    """Leave an instrument where it is after a correction, at its last good state after anything else."""
    guard = session.bench.guard
    if guard is not None and not corrected:
        guard.abort(f"the run ended without a correction ({'a program error' if status == 'complete' else status})")


def prepare(scenario: Scenario, controller: str, wiring: Wiring | None = None) -> Session:
    """Build microscope, environment and controller; nothing is exposed yet.

    One torch thread: two are 10 to 60 times slower on small batched matrices.

    Raises:
        ScenarioError: whatever one of them refuses, or a scenario whose day is not drawn yet (`Scenario.for_seed`).
    """
    if scenario.severity is not None:
        raise ScenarioError(
            f"{scenario.name}: severity {scenario.severity:g} draws a day per seed; choose a seed first"
        )
    import torch

    torch.set_num_threads(1)
    try:
        chosen = load(controller, scenario.optics, scenario.space, scenario.controllers.get(controller))
        bench = build(scenario, wiring)
        env = CalibrationEnv(bench.microscope)
    except (ValueError, OSError) as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    return Session(scenario, controller, bench, env, chosen)


def _open(path: Path, scenario: Scenario) -> RunDirectory:
    try:
        return RunDirectory(path, scenario)
    except OSError as error:
        raise ScenarioError(f"{error.filename or path}: {error.strerror}") from error


def observe(session: Session, seed: int) -> Iterator[tuple[Step, Frame, Estimate]]:
    """Ask, apply, expose, tell, score; one item per observation, the first without an input.

    Writes nothing: for sweeps that keep their own books. Microscope and controller have independent streams of
    random numbers, so that every controller meets the same truth, film and noise on the same seed.
    """
    scenario, env, controller = session.scenario, session.env, session.controller
    of_microscope, of_controller = np.random.SeedSequence(seed).spawn(2)
    controller.reset(scenario.space, np.random.default_rng(of_controller))
    _, info = env.reset(seed=int(of_microscope.generate_state(1, np.uint64)[0]))
    seconds = 0.0
    for k in range(1, scenario.task.observations + 1):
        if k > 1:
            started = perf_counter()
            delta = controller.propose()
            seconds = perf_counter() - started
            info = env.step_nm(delta)[-1]
        started = perf_counter()
        controller.update(info["applied_nm"], info["frame"])
        estimate = controller.estimate()
        seconds += perf_counter() - started
        yield _score(k, info, estimate, session, seconds), info["frame"], estimate
        if scenario.task.stop and controller.done:
            return


def _score(k: int, info: Mapping[str, Any], estimate: Estimate, session: Session, seconds: float) -> Step:
    """Compare a belief with the truth; `info` is the environment's."""
    # Where inputs that move the instrument exactly would have started from: x[0] itself for exact dynamics, and
    # what the correction has to undo when drift or actuator errors are on. Not a number where nobody knows.
    truth = session.truth()
    start = np.full_like(estimate.mean_nm, np.nan) if truth is None else truth.state_nm - info["cumulative_nm"]
    error = start - estimate.mean_nm
    return Step(
        observation=k,
        input_nm=_vector(info["applied_nm"]),
        cumulative_nm=_vector(info["cumulative_nm"]),
        estimate_nm=_vector(estimate.mean_nm),
        std_nm=_vector(estimate.std_nm),
        sign_probability=float(estimate.sign_probability),
        error_component_nm=_vector(error),
        error_nm=float(np.linalg.norm(error)),
        in_spec=session.scenario.space.in_spec(error),
        covers_50=estimate.covers(start, 0.5),
        covers_90=estimate.covers(start, 0.9),
        seconds=seconds,
        dose_e=float(info["dose_e"]),
        simulated_s=float(info["simulated_s"]),
        done=session.controller.done,
        misfit=estimate.misfit,
    )


def _correct(session: Session, last: Step) -> Correction:
    """Bring the cumulative input to minus the estimate, as far as the corrector reaches, and look once more."""
    space = session.scenario.space
    target = np.clip(-np.asarray(last.estimate_nm), -space.input, space.input)
    delta = target - np.asarray(last.cumulative_nm)
    microscope = session.bench.microscope
    microscope.apply(delta)
    frame = microscope.acquire()
    truth = session.truth()
    if truth is None:
        return Correction(_vector(delta), (), False, frame)
    return Correction(_vector(delta), _vector(truth.state_nm), space.in_spec(truth.state_nm), frame)


def _vector(values: Array) -> Vector:
    return tuple(float(v) for v in values)
