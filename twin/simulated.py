"""The simulated microscope: a day's hidden parameters behind the same protocol as an instrument."""

import importlib
import itertools
import multiprocessing
from collections.abc import Callable
from enum import IntEnum, unique
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from twin import detector, drift, dynamics
from twin.aberrations import NAMES, Aberrations, index
from twin.day import Day
from twin.optics import Optics, check_window
from twin.state import StateSpace
from twin.suggest import nearest
from twin.types import Capabilities, Frame, Truth

if TYPE_CHECKING:
    from twin.render import Renderer

Array = NDArray[np.floating]

RENDERERS = {"fast": ("twin.render", "FastRenderer"), "multislice": ("twin.multislice", "MultisliceRenderer")}
"""Module and class by name; imported when chosen, for they bring torch and abTEM."""


@unique
class Stream(IntEnum):
    """Independent streams of random numbers within one session; the values are part of what a seed means."""

    START = 0
    SPECIMEN = 1
    NOISE = 2
    DRIFT = 3
    DEFECTS = 4
    WANDER = 5


def make_renderer(name: str, optics: Optics, day: Day) -> "Renderer":
    """A renderer by name.

    Raises:
        ValueError: no such renderer; names the nearest.
    """
    if name not in RENDERERS:
        raise ValueError(f"{name!r} is not a renderer{nearest(name, RENDERERS)}; known: {', '.join(RENDERERS)}")
    if multiprocessing.parent_process() is not None:
        import torch

        # A worker: parallel over seeds, never inside one. A forked worker with two threads would also wait
        # forever for the thread pool it did not inherit.
        torch.set_num_threads(1)
    module, kind = RENDERERS[name]
    make = cast("Callable[[Optics, Day], Renderer]", getattr(importlib.import_module(module), kind))
    return make(optics, day)


def check_reach(optics: Optics, space: StateSpace, day: Day) -> None:
    """Refuse a day on which some state within reach would alias; drift, if any, comes on top.

    Raises:
        AliasingError: with the window needed.
    """
    reach = dynamics.reach_nm(space, day.actuator)
    for corner in itertools.product((-1.0, 1.0), repeat=space.dimension):
        check_window(optics, space.to_aberrations(np.asarray(corner) * reach) + day.residual)


class SimulatedMicroscope:
    """A virtual STEM on one day: `Microscope` and `HasTruth`.

    A session's random numbers come in streams of their own (start, specimen, noise, drift, defects, wander), and the
    specimen and the noise of exposure k depend on the seed and k alone: two controllers compared on one
    seed meet the same film region and the same noise stream at their k-th exposure, whatever they did before.

    The clock advances by overhead and exposure per frame. Drift runs with the clock and moves calibrated and residual
    coefficients alike; a frame shows the aberrations at the end of its exposure, and `truth` then tells their
    calibrated part. Drift has no bounds: an exposure that it has brought out of the window raises AliasingError.

    Args:
        optics: beam, grid and camera; known to the controller.
        space: the calibrated coefficients and their ranges; known to the controller.
        day: hidden parameters.
        renderer: "fast" (phase screens), "multislice" (atoms), or any object that obeys `render.Renderer`.

    Raises:
        AliasingError: some state within reach needs a wider computing window.
        ValueError: unknown renderer, or an actuator that turns a pair of which only half is calibrated.
    """

    def __init__(self, optics: Optics, space: StateSpace, day: Day, renderer: "str | Renderer" = "fast") -> None:
        check_reach(optics, space, day)
        self._optics, self._space, self._day = optics, space, day
        self._renderer = make_renderer(renderer, optics, day) if isinstance(renderer, str) else renderer
        self._entropy: list[int] | None = None
        self._calibrated = [index(name) for name in space.names]
        side = optics.camera_pixels
        self._capabilities = Capabilities("simulated", optics, space, (side, side), day.camera.saturation)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """A new session. The generator is read once; generators in the same state give the same bytes."""
        self._entropy = rng.integers(2**32, size=4).tolist()
        self._initial_nm = self._space.draw_start(self._stream(Stream.START))
        self._state_nm = self._initial_nm
        self._cumulative_nm = self._space.zero
        # Of the coefficients that are not calibrated; what drift does to the others is in the state.
        self._residual_drift_nm: Array = np.zeros(len(NAMES))
        self._wander_rad = drift.draw_phases(self._stream(Stream.WANDER))
        shape = self._capabilities.camera_shape
        self._defects = detector.draw_defects(self._day.camera, shape, self._stream(Stream.DEFECTS))
        self._exposures = 0
        self._clock_s = 0.0

    def apply(self, delta_nm: Array) -> None:
        self._check_session("apply")
        # Refused inputs raise here, before anything has moved.
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        delta = np.array(delta_nm, dtype=np.float64)
        self._state_nm = self._state_nm + dynamics.actual_input(delta, self._space, self._day.actuator)
        self._cumulative_nm = cumulative

    def acquire(self) -> Frame:
        """One exposure: drift, a specimen region, the camera; the clock advances by exposure and overhead."""
        self._check_session("acquire")
        day, k = self._day, self._exposures
        seconds = day.overhead_s + day.exposure_s
        state, residual_drift = self._drifted(seconds)
        region = int(self._sequence(Stream.SPECIMEN, 0 if day.same_region else k).generate_state(1)[0])
        aberrations = self._space.to_aberrations(state) + day.residual + Aberrations.from_array(residual_drift)
        probability = self._renderer.probability([aberrations], [region])[0]
        counts = detector.expose(probability, day.dose_e, day.camera, self._defects, self._stream(Stream.NOISE, k))
        # Only now, with the frame made: an exposure that failed leaves state and clock as they were.
        self._state_nm, self._residual_drift_nm = state, residual_drift
        self._exposures, self._clock_s = k + 1, self._clock_s + seconds
        return Frame(counts, day.dose_e, day.exposure_s, self._clock_s, {"dark_level": day.camera.dark_level})

    def truth(self) -> Truth:
        """The hidden state now, as copies; only the scorer may ask.

        Raises:
            RuntimeError: no session yet.
        """
        self._check_session("truth")
        return Truth(self._state_nm.copy(), self._initial_nm.copy())

    def _drifted(self, seconds: float) -> tuple[Array, Array]:
        """State, shape (n,), and drift of the residual, shape (25,), both nm, after the next exposure."""
        if not self._day.drift.active:
            return self._state_nm, self._residual_drift_nm
        stream = self._stream(Stream.DRIFT, self._exposures)
        moved = drift.increment_nm(self._clock_s, seconds, self._day.drift, self._wander_rad, stream)
        state = self._state_nm + moved[self._calibrated]
        moved[self._calibrated] = 0.0
        return state, self._residual_drift_nm + moved

    def _check_session(self, verb: str) -> None:
        if self._entropy is None:
            raise RuntimeError(f"{verb}() before reset(rng): the microscope has no session yet")

    def _sequence(self, stream: Stream, exposure: int = 0) -> np.random.SeedSequence:
        return np.random.SeedSequence(self._entropy, spawn_key=(int(stream), exposure))

    def _stream(self, stream: Stream, exposure: int = 0) -> np.random.Generator:
        return np.random.default_rng(self._sequence(stream, exposure))
