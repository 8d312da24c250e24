"""One closed-loop run on a disturbed microscope."""

import zlib
from dataclasses import asdict, dataclass, replace

import numpy as np

from benchmarks.reality.kinds import Kind
from controller.base import Controller
from controller.preprocess import remove_defects
from twin.arrays import Array
from twin.day import Day
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.types import Frame


@dataclass(frozen=True)
class Record:
    """One frame of a run.

    Attributes:
        error_nm: length of the error of the estimate.
        in_spec, covers_90, done, misfit: the scorer's and the controller's verdicts.
        reason: what the checks object to.
    """

    error_nm: float
    in_spec: bool
    covers_90: bool
    done: bool
    misfit: bool
    reason: str

    def plain(self) -> dict[str, object]:
        """As a dictionary."""
        return asdict(self)


class Disturbed:
    """A simulated microscope with one kind of disturbance between it and the controller.

    The state of a run counts what was asked for: with a wrong corrector the start is still the start.
    """

    def __init__(self, microscope: SimulatedMicroscope, kind: Kind, seed: int) -> None:
        self.microscope, self.kind = microscope, kind
        self.rng = np.random.default_rng([seed, 77])
        self.waiting: list[Array] = []
        self.height_nm = 0.0

    def apply(self, delta_nm: Array) -> None:
        """Move the corrector, in the kind's own way."""
        moved = delta_nm if self.kind.inputs is None else np.array(self.kind.inputs, float) @ delta_nm
        self.waiting.append(moved)
        if len(self.waiting) > self.kind.late:
            self.microscope.apply(self.waiting.pop(0))

    def acquire(self) -> Frame:
        """Expose, and disturb the counts."""
        height = self.kind.height_nm * self.rng.standard_normal() if self.kind.height_nm else 0.0
        if self.kind.height_nm:
            offset = self.microscope.capabilities.space.zero
            offset[0] = height - self.height_nm
            self.microscope.apply(offset)
            self.height_nm = height
        frame = self.microscope.acquire()
        if self.kind.frame is None:
            return frame
        rng = np.random.default_rng(zlib.crc32(frame.counts.tobytes()))
        seen = remove_defects(frame.counts - frame.settings.get("dark_level", 0.0))
        counts = np.clip(np.rint(self.kind.frame(seen, rng)), 0, 65535)
        return Frame(counts.astype(np.uint16), frame.dose_e, frame.exposure_s, frame.clock_s, {"dark_level": 0.0})


def simulated(optics: Optics, space: StateSpace, kind: Kind, day: Day, renderer: str) -> SimulatedMicroscope:
    """The microscope of a kind; its inputs reach further than the task's, for films of uneven height."""
    day = kind.day(day)
    if not kind.height_nm:
        return SimulatedMicroscope(optics, space, day, renderer)
    wide = StateSpace(space.names, space.start_nm, tuple(v + 5 * kind.height_nm for v in space.input_nm))
    # The same camera on a window twice as wide.
    return SimulatedMicroscope(replace(optics, grid=2 * optics.grid, binning=2 * optics.binning), wide, day, renderer)


def run(
    controller: Controller, microscope: SimulatedMicroscope, space: StateSpace, kind: Kind, frames: int, seed: int
) -> list[Record]:
    """Calibrate once; one record per frame. Equal seeds meet equal states, films and noise."""
    of_microscope, of_controller = np.random.SeedSequence(seed).spawn(2)
    microscope.reset(np.random.default_rng(of_microscope))
    controller.reset(space, np.random.default_rng(of_controller))
    disturbed, truth = Disturbed(microscope, kind, seed), microscope.truth().initial_nm
    records = []
    for k in range(frames):
        if k > 0:
            delta = controller.propose()
            disturbed.apply(delta)
        else:
            delta = space.zero
        controller.update(delta, disturbed.acquire())
        estimate = controller.estimate()
        error = truth - estimate.mean_nm
        records.append(
            Record(
                float(np.linalg.norm(error)),
                space.in_spec(error),
                estimate.covers(truth, 0.9),
                controller.done,
                estimate.misfit,
                estimate.reason,
            )
        )
    return records
