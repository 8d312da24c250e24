"""One 4D-STEM acquisition: the scan of a scenario becomes a dataset, its detectors' images and their cost.

Everything is checked before the first diffraction pattern is computed. Frames are on disc block by block; an interrupt
keeps them.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from scenarios.folders import NotWritten, locked, sentence, write_text
from scenarios.memory import peak_memory_mib
from scenarios.scan_section import ScanSection
from scenarios.scans.data_file import DataFile, check_all_free, destination
from scenarios.scans.images import Images
from scenarios.schema import Scenario, ScenarioError
from twin import interrupt
from twin.cost import scanned_area_nm2
from twin.errors import StemtwinError
from twin.formats.dataset import BLOCK_BYTES
from twin.simulated import SimulatedMicroscope
from twin.types import ScanBlock

Status = Literal["complete", "interrupted", "stopped"]


@dataclass(frozen=True)
class Acquired:
    """Files and cost of an acquisition.

    Attributes:
        scenario: with its day drawn.
        seed: of the session.
        status: "interrupted" by the operator or "stopped" by an error before the last position.
        data: the frames or events; None without a camera.
        signals, picture: every detector's image, as .npz and as .png.
        positions: visited.
        simulated_s: instrument time.
        electrons_e: sent to the specimen.
        seconds: computing time, from the first position on.
        preparation_s: computing time before it, for the specimen's transmission functions.
        peak_memory_mib: largest resident memory of this process; None where the system does not report it.
        cost: the instrument's own account (`twin.cost.Cost.plain`).
    """

    scenario: Scenario
    seed: int
    status: Status
    data: Path | None
    signals: Path
    picture: Path
    positions: int
    simulated_s: float
    electrons_e: float
    seconds: float
    preparation_s: float
    peak_memory_mib: float | None
    cost: Mapping[str, Any]

    @property
    def e_per_nm2(self) -> float:
        """Dose per area of the scanned part, the same for an interrupted scan as for the whole."""
        plan = self.scenario.required_scan.plan
        return plan.count * plan.dose_e / scanned_area_nm2(plan)

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON data."""
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "status": self.status,
            "positions": self.positions,
            "shape": list(self.scenario.required_scan.plan.shape),
            "simulated_s": self.simulated_s,
            "electrons_e": self.electrons_e,
            "e_per_nm2": self.e_per_nm2,
            "seconds": self.seconds,
            "preparation_s": self.preparation_s,
            "positions_per_s": self.positions / self.seconds if self.seconds > 0 else None,
            "peak_memory_mib": self.peak_memory_mib,
            "cost": dict(self.cost),
            "data": None if self.data is None else str(self.data),
            "signals": str(self.signals),
            "picture": str(self.picture),
        }


@dataclass(frozen=True)
class PreparedAcquisition:
    """An acquisition about to begin; `blocks` runs once."""

    scenario: Scenario
    seed: int
    microscope: SimulatedMicroscope
    blocks: Iterator[ScanBlock]
    out: Path

    @property
    def section(self) -> ScanSection:
        """The scan."""
        return self.scenario.required_scan


def scanning_microscope(scenario: Scenario) -> SimulatedMicroscope:
    """Build the scenario's microscope with its scan's specimen and detectors; nothing is computed yet.

    Raises:
        ScenarioError: no scan, a day that is not drawn yet, or a specimen or detectors that are refused.
    """
    section = scenario.required_scan
    scenario.check_drawn()
    try:
        return SimulatedMicroscope(scenario.optics, scenario.space, scenario.day, scenario.renderer, section)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error


def begin(microscope: SimulatedMicroscope, scenario: Scenario, seed: int) -> Iterator[ScanBlock]:
    """Begin a session and return its scan, line by line; checked, but nothing is computed before the first block.

    The session starts from the state in which a calibration with the same seed finds it. A corrected scan first undoes
    that state, which takes the truth: it simulates data, no controller's result.

    Raises:
        ScenarioError: the plan does not suit specimen, camera or detectors.
    """
    of_microscope, _ = np.random.SeedSequence(seed).spawn(2)
    # The generator of a calibration with this seed.
    microscope.reset(np.random.default_rng(int(of_microscope.generate_state(1, np.uint64)[0])))
    section = scenario.required_scan
    try:
        if section.corrected:
            microscope.apply(-microscope.truth().state_nm)
        return microscope.scan(section.plan, block=_block(section))
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error


def acquire(
    scenario: Scenario, seed: int, out: Path | None = None, progress: Callable[[ScanBlock], None] | None = None
) -> Acquired:
    """Run the scan of a scenario and store it: `prepare`, then `run`.

    Raises:
        ScenarioError: as in these two.
    """
    return run(prepare(scenario, seed, out), progress)


def prepare(scenario: Scenario, seed: int, out: Path | None = None) -> PreparedAcquisition:
    """Check everything; nothing is computed and nothing is written.

    Args:
        scenario: with a `scan`.
        seed: the same seed gives the same bytes.
        out: the dataset, by suffix a format of `twin.formats`: .t3p for an event camera and no other, .npz for a scan
            without a camera; .npz, .png and .json of the same name go beside it. Default
            `runs/<scenario>/acquire/<seed>/scan.zarr` (or .t3p, .npz).

    Raises:
        ScenarioError: no scan, or specimen, detectors, camera, plan or file name are refused.
    """
    scenario = scenario.for_seed(seed)
    microscope = scanning_microscope(scenario)
    out = destination(scenario, seed, out)
    return PreparedAcquisition(scenario, seed, microscope, begin(microscope, scenario, seed), out)


def run(session: PreparedAcquisition, progress: Callable[[ScanBlock], None] | None = None) -> Acquired:
    """Scan; frames are on disc after every block.

    An interrupt ends the scan early; the files are written for the part that exists, and further interrupts wait.

    Args:
        session: from `prepare`; used up.
        progress: called after every block.

    Raises:
        ScenarioError: transmission functions too large, or an instrument that has drifted out of the computing window;
            what was scanned until then is on disc.
        NotWritten: a full disc, say; the message names what is kept.
        InUse: another run writes this file.
        KeyboardInterrupt: interrupted before the first position; nothing was written.
    """
    scenario, out = session.scenario, session.out
    with ExitStack() as stack:
        stack.enter_context(interrupt.session(patient=True))
        try:
            stack.enter_context(locked(out))
            check_all_free(out)
        except OSError as error:
            raise NotWritten(f"{scenario.name}: {sentence(error, out)}") from error
        return _run(session, progress)


def _run(session: PreparedAcquisition, progress: Callable[[ScanBlock], None] | None) -> Acquired:
    scenario, section, out = session.scenario, session.section, session.out
    begun = perf_counter()
    file = DataFile(out, scenario, session.seed)
    blocks = computed(session.blocks)
    try:
        first = next(blocks)
        file.open(first)
    except OSError as error:
        raise NotWritten(f"{scenario.name}: {sentence(error, out)}; nothing was written") from error
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    prepared = perf_counter()
    images = Images(section.plan, (section.optics.camera_pixels,) * 2)
    status, stopped = _store(itertools.chain([first], blocks), file, images, progress)
    if stopped is not None and not images.visited:
        file.discard()
        raise _refusal(stopped, f"{scenario.name}: {_words(stopped, out)}") from stopped
    acquired = Acquired(
        scenario=scenario,
        seed=session.seed,
        status=status,
        data=out if file.is_open else None,
        signals=out.with_suffix(".npz"),
        picture=out.with_suffix(".png"),
        positions=images.visited,
        simulated_s=images.clock_s,
        electrons_e=images.visited * section.plan.dose_e,
        seconds=perf_counter() - prepared,
        preparation_s=prepared - begun,
        peak_memory_mib=peak_memory_mib(),
        cost=session.microscope.cost.plain(),
    )
    unwritten = _write(acquired, images, section)
    stopped = stopped or unwritten
    if stopped is not None:
        kept = acquired.signals if acquired.data is None else acquired.data
        raise _refusal(
            stopped,
            f"{scenario.name}: stopped after {images.visited} of {section.plan.count} positions, which are in {kept}:"
            f" {_words(stopped, out)}",
        ) from stopped
    return acquired


def computed(blocks: Iterator[ScanBlock]) -> Iterator[ScanBlock]:
    """Yield the blocks of a scan; an interrupt cuts their computation, and nothing else.

    Raises:
        KeyboardInterrupt: a signal arrived.
    """
    while True:
        with interrupt.interruptible():
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _refusal(error: Exception, message: str) -> StemtwinError:
    return NotWritten(message) if isinstance(error, OSError) else ScenarioError(message)


def _words(error: Exception, out: Path) -> str:
    return sentence(error, out) if isinstance(error, OSError) else str(error)


def _write(acquired: Acquired, images: Images, section: ScanSection) -> OSError | None:
    """Write what goes beside the data; return why it could not be written, if so."""
    try:
        images.save(acquired.signals, acquired.picture, section)
        summary = {**acquired.summary(), "resolved": acquired.scenario.resolved()}
        write_text(acquired.signals.with_suffix(".json"), json.dumps(summary, indent=1) + "\n")
    except OSError as error:
        return error
    return None


def _store(
    blocks: Iterable[ScanBlock], file: DataFile, images: Images, progress: Callable[[ScanBlock], None] | None
) -> tuple[Status, Exception | None]:
    """Write every block and add it to the images; close the file. Return how the scan ended, and the error if any."""
    status: Status = "complete"
    stopped: Exception | None = None
    try:
        for block in blocks:
            file.append(block)
            images.add(block)
            if progress is not None:
                progress(block)
            interrupt.check()
    except KeyboardInterrupt:
        status = "interrupted"
    except (ValueError, OSError) as error:
        status, stopped = "stopped", error
    try:
        file.close()
    except OSError as error:
        status, stopped = "stopped", stopped or error
    return status, stopped


def _block(section: ScanSection) -> int:
    """Return the positions per block: whole lines, like zarr's chunks, unless their frames take too much memory."""
    frame_bytes = 4 * section.optics.camera_pixels**2
    return int(max(1, min(section.plan.shape[1], BLOCK_BYTES // frame_bytes)))
