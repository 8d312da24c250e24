"""A session: one microscope and one controller, frame by frame."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from controller.base import Controller, Estimate, halt, load
from controller.checks.saturation import SATURATED_SHARE, saturated
from scenarios.calibration.instruments import Bench, Wiring, build
from scenarios.calibration.results import Step, Vector
from scenarios.folders import sentence
from scenarios.schema import Scenario, ScenarioError
from twin import interrupt
from twin.arrays import Array
from twin.instrument.faults import Departure, MicroscopeFault, Stopped
from twin.references.camera_reference import CameraReference, corrected_frame
from twin.types import Frame, Truth


class NotBegun(Stopped):
    """An instrument could not be reached or made ready: no session has begun, nothing has moved."""


@dataclass(frozen=True)
class Session:
    """Microscope and controller of a run; `reference` corrects frames before the controller sees them."""

    scenario: Scenario
    name: str
    bench: Bench
    controller: Controller
    reference: CameraReference | None = None

    def seen(self, frame: Frame) -> Frame:
        """Return a frame as the controller sees it; a recording keeps it as it came."""
        if self.reference is None:
            return frame
        seen, share = corrected_frame(frame, self.reference), saturated(frame)
        return replace(seen, settings={**seen.settings, SATURATED_SHARE: share}) if share else seen

    def truth(self) -> Truth | None:
        """Return the hidden state, for the scorer alone; None where there is no ground truth."""
        return None if self.bench.truth is None else self.bench.truth.truth()


class Observation(NamedTuple):
    """One scored frame."""

    step: Step
    frame: Frame
    estimate: Estimate
    truth: Truth | None


def prepare(scenario: Scenario, controller: str, wiring: Wiring | None = None) -> Session:
    """Build microscope and controller; nothing is exposed yet.

    One torch thread: two are 10 to 60 times slower on small batched matrices.

    Raises:
        ScenarioError: microscope or controller refuse, or the scenario's day is not drawn yet (`Scenario.for_seed`).
    """
    scenario.check_drawn()
    import torch

    torch.set_num_threads(1)
    try:
        chosen = load(controller, scenario.optics, scenario.space, scenario.controllers.get(controller))
        bench = build(scenario, wiring)
        told = scenario.references
        reference = None if told is None else CameraReference.of(told, bench.microscope.capabilities.camera_shape)
    except (ValueError, OSError) as error:
        why = sentence(error) if isinstance(error, OSError) else str(error)
        raise ScenarioError(f"{scenario.name}: {why}") from error
    return Session(scenario, controller, bench, chosen, reference)


def observe(session: Session, seed: int) -> Iterator[Observation]:
    """Propose, apply, expose, update, score; yield one item per frame, the first without an input.

    Writes nothing: sweeps keep their own records. Microscope and controller have independent random streams, so that
    every controller meets the same truth, film and noise on the same seed.

    Raises:
        Stopped: too many frames in a row cannot be used.
        NotBegun: the instrument cannot be used at all.
    """
    space, microscope, controller = session.scenario.space, session.bench.microscope, session.controller
    _, of_controller = np.random.SeedSequence(seed).spawn(2)
    controller.reset(space, np.random.default_rng(of_controller))
    # No command or exposure of an instrument is cut, nor a frame on its way into a recording.
    simulated = session.bench.guard is None and session.bench.recording is None
    exposing = interrupt.interruptible if simulated else nullcontext
    _begin(session, seed)
    input_nm, cumulative_nm = space.zero, space.zero
    seconds, dose_e = 0.0, 0.0
    for k in range(1, session.scenario.task.observations + 1):
        if k > 1:
            started = perf_counter()
            with interrupt.interruptible():
                proposed = controller.propose()
            seconds = perf_counter() - started
            input_nm = np.array(proposed, dtype=np.float64)
            cumulative_nm = space.check_input(input_nm, cumulative_nm)
            microscope.apply(input_nm)
        with exposing():
            frame = microscope.acquire()
        dose_e += frame.dose_e
        frame = session.seen(frame)
        started = perf_counter()
        with interrupt.interruptible():
            _update(controller, input_nm.copy(), frame, k)
            estimate = controller.estimate()
        seconds += perf_counter() - started
        truth = session.truth()
        start_nm = np.full(space.dimension, np.nan) if truth is None else truth.state_nm - cumulative_nm
        step = Step(
            observation=k,
            input_nm=vector(input_nm),
            cumulative_nm=vector(cumulative_nm),
            **_score(estimate, start_nm, session.scenario),
            seconds=seconds,
            dose_e=float(dose_e),
            simulated_s=float(frame.clock_s),
            done=controller.done,
            saturated=saturated(frame),
        )
        yield Observation(step, frame, estimate, truth)
        if session.scenario.task.stop and controller.done:
            return
        if reason := halt(controller):
            raise Stopped(reason)


def _begin(session: Session, seed: int) -> None:
    """Begin the microscope's session.

    Raises:
        NotBegun: the instrument does not let one begin.
    """
    try:
        session.bench.microscope.reset(microscope_generator(seed))
    except (MicroscopeFault, Departure, Stopped) as error:
        raise NotBegun(str(error)) from error


def microscope_generator(seed: int) -> np.random.Generator:
    """Return the random numbers of the microscope in a run of this seed."""
    of_microscope = np.random.SeedSequence(seed).spawn(2)[0]
    return np.random.default_rng(int(of_microscope.generate_state(1, np.uint64)[0]))


def _update(controller: Controller, input_nm: Array, frame: Frame, number: int) -> None:
    """Show a frame to the controller; one that it cannot use, as of a beam that is off, stops the run.

    Raises:
        Stopped: names the frame and says why.
    """
    try:
        controller.update(input_nm, frame)
    except ValueError as error:
        raise Stopped(f"frame {number} cannot be used: {error}") from error


def _score(estimate: Estimate, start_nm: Array, scenario: Scenario) -> dict[str, Any]:
    """Compare an estimate with the state that exact inputs would have started from, nm; NaN without ground truth.

    That is x[0] itself for exact dynamics, and what the correction has to undo under drift or actuator errors.
    """
    error = start_nm - estimate.mean_nm
    return {
        "estimate_nm": vector(estimate.mean_nm),
        "std_nm": vector(estimate.std_nm),
        "sign_probability": float(estimate.sign_probability),
        "error_component_nm": vector(error),
        "error_nm": float(np.linalg.norm(error)),
        "in_spec": scenario.space.in_spec(error),
        "covers_50": estimate.covers(start_nm, 0.5),
        "covers_90": estimate.covers(start_nm, 0.9),
        "misfit": estimate.misfit,
    }


def vector(values: Array) -> Vector:
    """Return numbers as they are written to a row."""
    return tuple(float(v) for v in values)
