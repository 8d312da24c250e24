"""The iteration of ePIE over time: live rounds while the scan runs, passes to convergence after it."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agents.epie.data import Data, one_pass
from agents.epie.depth import THIN, Depth
from agents.epie.engine import Steps
from agents.epie.estimate import Complex
from agents.epie.positions import refine
from agents.epie.schedule import POSITION_STEP, POSITIONS_AFTER, Schedule


class Iteration:
    """Object and probe under iteration, from a transparent object under a start probe.

    Args:
        data: the frames; more may arrive.
        first_probe: start probe, modes (K, N, N).
        seed: seed of the order of the frames.
        depth: slices of the object.

    Attributes:
        estimate: current object and probe.
        passes: number of passes, live rounds included.
        spread: standard deviation of each picture, if an ensemble was run.
    """

    def __init__(self, data: Data, first_probe: Complex, seed: int, depth: Depth = THIN) -> None:
        self.data, self.first_probe, self.seed, self.depth = data, first_probe, seed, depth
        self.estimate = depth.clear(data, first_probe)
        self.passes = 0
        self.spread: Mapping[str, NDArray[np.float64]] = {}
        self._errors: tuple[float, ...] = ()
        self._converged_at = -1

    @property
    def finished(self) -> bool:
        """`converge` has run since the last frame arrived."""
        return self._converged_at == self.data.store.arrived

    @property
    def errors(self) -> tuple[float, ...]:
        """Amplitude error of each pass after the scan; empty if it is not finished."""
        return self._errors if self.finished else ()

    def live_round(self, schedule: Schedule, sweeps: int, window_bytes: int) -> None:
        """Sweep a few times over the latest frames, as many as `window_bytes` hold."""
        store = self.data.store
        recent = max(1, window_bytes // (2 * store.pixels))
        latest = np.arange(max(0, len(store) - recent), len(store))
        for sweep in range(sweeps):
            steps = schedule.steps(0.0, store.mean_counts, self.passes < schedule.probe_after)
            self._pass(latest, steps, [self.seed, store.arrived, sweep])

    def converge(self, schedule: Schedule) -> None:
        """Sweep over all retained frames until the error is flat or `passes` are over."""
        errors: list[float] = []
        while len(errors) < schedule.passes and not schedule.flat(errors):
            done, counts = len(errors), self.data.store.mean_counts
            steps = schedule.steps(schedule.progress(done), counts, self.passes < schedule.probe_after)
            errors.append(self._pass(self.data.everything(), steps, [self.seed, 0, done]))
            if schedule.positions and done >= POSITIONS_AFTER:
                refine(self.estimate, self.data, POSITION_STEP)
        self._errors, self._converged_at = tuple(errors), self.data.store.arrived

    def reopen(self, seed: int) -> None:
        """Go on with changed options: `converge` has to run again even without new frames."""
        self.seed, self._converged_at = seed, -1

    def _pass(self, numbers: NDArray[np.int64], steps: Steps, draw: list[int]) -> float:
        """Sweep once over the frames of `numbers`; return the amplitude error."""
        self.passes += 1
        return one_pass(self.estimate, self.data, numbers, steps, np.random.default_rng(draw)).error
