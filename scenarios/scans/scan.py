"""The scan of a scenario through agents while it is simulated; no frame has to be stored.

Everything is checked before the first diffraction pattern is computed.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from agents.base import Agent
from agents.sources.twin_scan import TwinScan
from agents.stream import Progress
from scenarios.folders import locked, missing, sentence
from scenarios.scan_section import ScanSection
from scenarios.scans import acquire
from scenarios.scans.data_file import DataFile, check_all_free
from scenarios.scans.stream import Recorded, choose_agents, make_folder, removed_if_refused, results_folder, without_nan
from scenarios.scans.stream import run as reconstruct
from scenarios.scans.truth import true_phase
from scenarios.schema import Scenario, ScenarioError
from twin.cameras.properties import EventCamera
from twin.cost import scanned_area_nm2
from twin.interrupt import deferred
from twin.scan.acquisition import Acquisition
from twin.types import ScanBlock


@dataclass(frozen=True)
class PreparedScan:
    """A scan about to begin.

    Attributes:
        acquisition: microscope and blocks, which run once; its `out` is where frames are kept.
        agents: by label.
        out: folder for their images.
        keep: store the frames, too.
    """

    acquisition: acquire.PreparedAcquisition
    agents: Mapping[str, Agent]
    out: Path
    keep: bool


@dataclass(frozen=True)
class Scanned:
    """A scan that went through agents, and its cost.

    Attributes:
        scenario: with its day drawn.
        seed: of the session.
        recorded: the agents' results.
        preparation_s: computing time before the first position, for transmission functions and true phase.
        data: the stored frames; None when they were not kept.
        cost: the instrument's own account.
    """

    scenario: Scenario
    seed: int
    recorded: Recorded
    preparation_s: float
    data: Path | None
    cost: Mapping[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON data."""
        plan = self.scenario.required_scan.plan
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            **self.recorded.summary(),
            "dose_e": plan.dose_e,
            "e_per_nm2": plan.count * plan.dose_e / scanned_area_nm2(plan),
            "preparation_s": self.preparation_s,
            "cost": without_nan(self.cost),
            "data": None if self.data is None else str(self.data),
        }


def prepare(
    scenario: Scenario,
    seed: int,
    agents: Iterable[str],
    out: Path | None = None,
    keep: Path | None = None,
    overwrite: bool = False,
) -> PreparedScan:
    """Check everything; nothing is computed and nothing is written.

    Args:
        scenario: with a `scan` that has a camera.
        seed: the same seed gives the same bytes.
        agents: lists of names with their options, see `stream.choose_agents`.
        out: folder for the results; default `runs/<scenario>/scan/<seed>`, with a number if there are some.
        keep: file for the frames, by suffix a format of `twin.formats`; None keeps none.
        overwrite: replace earlier results.

    Raises:
        ScenarioError: no scan, no camera, earlier results in `out`, an agent that refuses its options, or as in
            `acquire.prepare`.
    """
    chosen = choose_agents(agents)
    if scenario.scan is not None and scenario.scan.camera is None:
        raise ScenarioError(f"{scenario.name}: agents need a camera, and this scan has none (scan.camera)")
    out = results_folder(out, Path("runs") / scenario.name / "scan" / str(seed), overwrite)
    if keep is not None:
        return PreparedScan(acquire.prepare(scenario, seed, keep), chosen, out, True)
    scenario = scenario.for_seed(seed)
    microscope = acquire.scanning_microscope(scenario)
    blocks = acquire.begin(microscope, scenario, seed)
    return PreparedScan(acquire.PreparedAcquisition(scenario, seed, microscope, blocks, out), chosen, out, False)


def run(session: PreparedScan, progress: Callable[[Progress], None] | None = None) -> Scanned:
    """Scan: one pass, every block to every agent, then their images to disc.

    Args:
        session: from `prepare`; used up.
        progress: called a few times per second.

    Raises:
        ScenarioError: a folder or file that cannot be written, transmission functions too large, or no agent for this
            scan.
    """
    acquisition, scenario = session.acquisition, session.acquisition.scenario
    section, begun = acquisition.section, perf_counter()
    created = missing(session.out)
    make_folder(session.out)  # before the specimen is computed
    blocks = acquisition.blocks
    with ExitStack() as stack:
        stack.enter_context(removed_if_refused(created))
        if session.keep:
            stack.enter_context(_locked(acquisition.out))
            blocks = stack.enter_context(closing(_kept(acquisition)))
        try:
            truth = true_phase(Acquisition(section, scenario.day), section.plan)
            source = stack.enter_context(open_scan(blocks, section, acquisition.seed))
        except (ValueError, OSError) as error:
            raise ScenarioError(f"{scenario.name}: {error}") from error
        prepared = perf_counter()
        recorded = reconstruct(source, session.agents, session.out, progress, truth)
    return Scanned(
        scenario=scenario,
        seed=acquisition.seed,
        recorded=recorded,
        preparation_s=prepared - begun,
        data=acquisition.out if session.keep else None,
        cost=acquisition.microscope.cost.plain(),
    )


@contextmanager
def _locked(keep: Path) -> Iterator[None]:
    """Lock the file for the frames.

    Raises:
        ScenarioError: it exists by now, or its folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(keep))
        except OSError as error:
            raise ScenarioError(sentence(error, keep)) from error
        check_all_free(keep)
        yield


def open_scan(blocks: Iterator[ScanBlock], section: ScanSection, seed: int) -> TwinScan:
    """Offer a scan's blocks as a source; agents that need frames of an event camera get them computed.

    Raises:
        ValueError: microscope or source refuse.
    """
    camera = section.camera
    largest = None if camera is None or isinstance(camera, EventCamera) else camera.largest_count
    return TwinScan(blocks, section.plan, section.optics, largest, {"seed": seed}, frames=True)


def _kept(acquisition: acquire.PreparedAcquisition) -> Generator[ScanBlock]:
    """Yield the blocks; each is on disc before an agent receives it."""
    file = DataFile(acquisition.out, acquisition.scenario, acquisition.seed)
    try:
        for block in acquisition.blocks:
            with deferred():  # no half of a block, nor of a file
                if not file.is_open:
                    file.open(block)
                file.append(block)
            yield block
    finally:
        file.close()
