"""One 4D-STEM acquisition: the scan of a scenario becomes a dataset, its detectors' images and what they cost.

Everything is checked before the first diffraction pattern is computed. Frames are on disc block by block; an interrupt
keeps what is there.
"""

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scenarios.calibration.results import write_text
from scenarios.schema import Scenario, ScenarioError
from twin.cameras.properties import EventCamera
from twin.cost import scanned_area_nm2
from twin.formats import FormatError, FrameWriter, Layout, Metadata, check_suffix, create
from twin.formats.dataset import BLOCK_BYTES, check_free
from twin.formats.event_clock import FINE_TIME, SCAN_PLAN, clock_of
from twin.formats.t3p import T3pWriter, sidecar
from twin.interrupt import remembered
from twin.scan.plan import ScanPlan, path
from twin.simulated import SimulatedMicroscope
from twin.types import ScanBlock

Floats = NDArray[np.float64]
Status = Literal["complete", "interrupted", "stopped"]

SIDECARS = (".npz", ".png", ".json")
"""Beside the data: signals by position, their picture, the summary with the resolved scenario."""


@dataclass(frozen=True)
class Acquired:
    """What an acquisition left behind and what it cost.

    Attributes:
        scenario: with its day drawn.
        seed: of the session.
        status: "interrupted" by the operator or "stopped" by an error when not every position was visited.
        data: the frames or events; None without a camera.
        signals, picture: every detector's image, as .npz and as .png.
        positions: visited.
        simulated_s: instrument time.
        electrons_e: sent to the specimen.
        seconds: computing, from the first position on.
        preparation_s: computing before it: the specimen's transmission functions.
        peak_memory_mib: largest resident memory of this process, as far as the system tells.
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
        """Dose per area where the scan has been, an interrupted one's part as the whole of it."""
        plan: ScanPlan = self.scenario.scan.plan
        return plan.count * plan.dose_e / scanned_area_nm2(plan)

    def summary(self) -> dict[str, Any]:
        """The figures as JSON data."""
        plan: ScanPlan = self.scenario.scan.plan
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "status": self.status,
            "positions": self.positions,
            "shape": list(plan.shape),
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


@dataclass
class Images:
    """Every signal on the scan's grid, and the mean frame, gathered block by block.

    Attributes:
        plan: gives the grid.
        by_name: (rows, columns) of each signal; NaN where the beam has not been.
        camera: (H, W).
        frame_sum: counts of all frames, or all events, (H, W); None without a camera.
        visited: positions so far.
        clock_s: instrument clock at the end of the last one.
        intended_nm: positions of a list, by block, (n, 2) each.
    """

    plan: ScanPlan
    camera: tuple[int, int]
    by_name: dict[str, Floats] = field(default_factory=dict)
    frame_sum: Floats | None = None
    visited: int = 0
    clock_s: float = 0.0
    intended_nm: list[Floats] = field(default_factory=list)

    def add(self, block: ScanBlock) -> None:
        """Fold in the next block."""
        row, column = block.path.pixel.T
        for name, values in block.signals.items():
            image = self.by_name.setdefault(name, np.full(self.plan.shape, np.nan))
            image[row, column] = values
        if block.frames is not None:
            self._count(block.frames.sum(axis=0, dtype=np.float64))
        if block.events is not None:
            hits = np.bincount(block.events["pixel"], minlength=self.camera[0] * self.camera[1])
            self._count(hits.reshape(self.camera).astype(np.float64))
        if self.plan.pattern == "list":
            self.intended_nm.append(block.path.intended_nm)
        self.visited += len(block)
        self.clock_s = float(block.clock_s[-1])

    def _count(self, total: Floats) -> None:
        self.frame_sum = total if self.frame_sum is None else self.frame_sum + total

    @property
    def mean_frame(self) -> Floats | None:
        """Counts per frame, (H, W)."""
        return None if self.frame_sum is None else self.frame_sum / self.visited


@dataclass(frozen=True)
class Session:
    """An acquisition about to begin; `blocks` runs once."""

    scenario: Scenario
    seed: int
    microscope: SimulatedMicroscope
    blocks: Iterator[ScanBlock]
    out: Path


def prepare(scenario: Scenario) -> SimulatedMicroscope:
    """The scenario's microscope with its scan's specimen and detectors; nothing is computed yet.

    Raises:
        ScenarioError: no scan, a day that is not drawn yet, or what the specimen or the detectors refuse.
    """
    if scenario.scan is None:
        raise ScenarioError(f"{scenario.name}: no scan in this scenario; see `scan:` in one of sto_001 or mos2_twisted")
    if scenario.severity is not None:
        raise ScenarioError(
            f"{scenario.name}: severity {scenario.severity:g} draws a day per seed; choose a seed first"
        )
    try:
        return SimulatedMicroscope(scenario.optics, scenario.space, scenario.day, scenario.renderer, scenario.scan)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error


def begin(microscope: SimulatedMicroscope, scenario: Scenario, seed: int) -> Iterator[ScanBlock]:
    """A new session and its scan, row by row; checked, but nothing is computed before the first block.

    The session starts from the state in which a calibration with the same seed finds it. For a corrected scan that
    state is undone first, which takes the truth: it makes data, no controller's result.

    Raises:
        ValueError: the plan does not suit specimen, camera or detectors.
    """
    of_microscope, _ = np.random.SeedSequence(seed).spawn(2)
    # By way of the same integer as a calibration, whose environment takes nothing else.
    microscope.reset(np.random.default_rng(int(of_microscope.generate_state(1, np.uint64)[0])))
    section = scenario.scan
    if section.corrected:
        microscope.apply(-microscope.truth().state_nm)
    return microscope.scan(section.plan, block=_block(section))


def acquire(
    scenario: Scenario, seed: int, out: Path | None = None, progress: Callable[[ScanBlock], None] | None = None
) -> Acquired:
    """Run the scan of a scenario and store it: `ready`, then `record`.

    Raises:
        ScenarioError: as in these two.
    """
    return record(ready(scenario, seed, out), progress)


def ready(scenario: Scenario, seed: int, out: Path | None = None) -> Session:
    """Everything checked, nothing computed and nothing written.

    Args:
        scenario: with a `scan`.
        seed: the same seed gives the same bytes.
        out: the dataset, by suffix a format of `twin.formats`: .t3p for an event camera and no other, .npz for a scan
            without a camera; .npz, .png and .json of the same name go beside it. Default
            `runs/<scenario>/acquire/<seed>/scan.zarr` (or .t3p, .npz).

    Raises:
        ScenarioError: no scan, or whatever specimen, detectors, camera, plan or file name refuse.
    """
    scenario = scenario.for_seed(seed)
    microscope = prepare(scenario)
    out = _destination(scenario, seed, out)
    try:
        blocks = begin(microscope, scenario, seed)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    return Session(scenario, seed, microscope, blocks, out)


def record(session: Session, progress: Callable[[ScanBlock], None] | None = None) -> Acquired:
    """The scan itself; frames are on disc after every block.

    Args:
        session: from `ready`; used up.
        progress: called after every block.

    Raises:
        ScenarioError: transmission functions too large, a file that cannot be written, or an instrument that has
            drifted out of the computing window; what was scanned until then is on disc.
    """
    scenario, out = session.scenario, session.out
    begun = perf_counter()
    try:
        first = next(session.blocks)
        out.parent.mkdir(parents=True, exist_ok=True)
        writer = open_writer(session, first)
    except (ValueError, OSError) as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    prepared = perf_counter()
    side = scenario.scan.optics.camera_pixels
    images = Images(scenario.scan.plan, (side, side))
    status, stopped = _stream(itertools.chain([first], session.blocks), writer, images, scenario.scan.camera, progress)
    if stopped is not None and not images.visited:
        raise ScenarioError(f"{scenario.name}: {stopped}") from stopped
    acquired = Acquired(
        scenario=scenario,
        seed=session.seed,
        status=status,
        data=out if writer is not None else None,
        signals=out.with_suffix(".npz"),
        picture=out.with_suffix(".png"),
        positions=images.visited,
        simulated_s=images.clock_s,
        electrons_e=images.visited * scenario.scan.plan.dose_e,
        seconds=perf_counter() - prepared,
        preparation_s=prepared - begun,
        peak_memory_mib=peak_memory_mib(),
        cost=session.microscope.cost.plain(),
    )
    _write_sidecars(acquired, images)
    if stopped is not None:
        raise ScenarioError(
            f"{scenario.name}: stopped after {images.visited} of {scenario.scan.plan.count} positions, which are in"
            f" {acquired.data or acquired.signals}: {stopped}"
        ) from stopped
    return acquired


def _stream(
    blocks: Iterable[ScanBlock],
    writer: FrameWriter | T3pWriter | None,
    images: Images,
    camera: Any,
    progress: Callable[[ScanBlock], None] | None,
) -> tuple[Status, Exception | None]:
    """Every block to disc and into the images; how the scan ended, and what stopped it. The file is closed then."""
    try:
        with remembered() as check_interrupt:
            for block in blocks:
                append(block, writer, camera)
                images.add(block)
                if progress is not None:
                    progress(block)
                check_interrupt()
    except KeyboardInterrupt:
        return "interrupted", None
    except (ValueError, OSError) as error:
        return "stopped", error
    finally:
        if writer is not None:
            writer.close()
    return "complete", None


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    status = Path("/proc/self/status")
    # Linux counts to `ru_maxrss` what the parent held when it started this process.
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def open_writer(session: Session, first: ScanBlock) -> FrameWriter | T3pWriter | None:
    """The file of a session, empty, for blocks like its first; None for a scan without a camera.

    Raises:
        FormatError: the format cannot hold them.
        OSError: it cannot be written.
    """
    if first.events is not None:
        return create_events(session)
    return None if first.frames is None else create_dataset(session, first)


def append(block: ScanBlock, writer: FrameWriter | T3pWriter | None, camera: Any) -> None:
    """The next block of a session to its file, if there is one."""
    if isinstance(writer, T3pWriter):
        if block.events is not None:
            writer.append(block.events, _complete(block, camera))
    elif writer is not None and block.frames is not None:
        writer.append(block.frames, block.path.pixel if len(writer.layout.scan) == 2 else None)


def _complete(block: ScanBlock, camera: EventCamera) -> int | None:
    """Positions of which no event is still under way; None where this block does not tell."""
    path_ = block.path
    if path_.first + len(block) == path_.plan.count:
        return path_.plan.count
    delay_s = camera.reorder_s + camera.timewalk_ns_kev / camera.threshold_kev * 1e-9
    done = int(np.searchsorted(path_.end_s, path_.end_s[-1] - delay_s, side="right"))
    return path_.first + done if done else None


def _block(section: Any) -> int:
    """Positions at a time: whole lines, which zarr's chunks are, unless their frames take too much memory."""
    frame_bytes = 4 * section.optics.camera_pixels**2
    return int(max(1, min(section.plan.shape[1], BLOCK_BYTES // frame_bytes)))


def _destination(scenario: Scenario, seed: int, out: Path | None) -> Path:
    """Where the data go, with every reason to refuse that the name gives."""
    section = scenario.scan
    if out is None:
        suffix = ".npz" if section.camera is None else ".t3p" if isinstance(section.camera, EventCamera) else ".zarr"
        out = Path("runs") / scenario.name / "acquire" / str(seed) / f"scan{suffix}"
    elif not out.parent.is_dir():
        raise ScenarioError(f"{out.parent} is not a directory")
    try:
        if section.camera is None:
            if out.suffix != ".npz":
                raise ScenarioError(f"{out.name}: a scan without a camera has signals only; use --out {out.stem}.npz")
        elif isinstance(section.camera, EventCamera):
            if out.suffix != ".t3p":
                raise ScenarioError(f"{out.name}: an event camera sends events, not frames; use --out {out.stem}.t3p")
            clock_of(section.plan)
            check_free(sidecar(out))
        else:
            check_suffix(out)
            _check_order(out, section)
        for path_ in (out, *(out.with_suffix(suffix) for suffix in SIDECARS)):
            check_free(path_)
    except FormatError as error:
        raise ScenarioError(str(error)) from error
    return out


def _check_order(out: Path, section: Any) -> None:
    """Refuse a read-out order that the format cannot tell, by the scan's first two lines."""
    if out.suffix != ".mib" or len(_scan_shape(section.plan)) != 2:
        return
    from twin.formats.mib import check_order

    plan: ScanPlan = section.plan
    start = path(plan, 0, min(plan.count, 2 * plan.columns))
    check_order(_layout(section, "uint16"), 0, len(start), start.pixel)


def _scan_shape(plan: ScanPlan) -> tuple[int, ...]:
    return (plan.count,) if plan.pattern == "list" else plan.shape


def _layout(section: Any, dtype: str) -> Layout:
    side = section.optics.camera_pixels
    return Layout(_scan_shape(section.plan), (side, side), dtype)


def create_dataset(session: Session, first: ScanBlock) -> FrameWriter:
    """The file of a session, empty, for frames like those of its first block; `session.out` says where.

    Raises:
        FormatError: the format cannot hold them.
        OSError: it cannot be written.
    """
    section = session.scenario.scan
    assert first.frames is not None
    layout = replace(_layout(section, first.frames.dtype.name), max_count=section.camera.largest_count)
    return create(session.out, layout, _metadata(session))


def create_events(session: Session) -> T3pWriter:
    """The file of a session with an event camera, empty; its provenance tells how events belong to positions.

    Raises:
        FormatError: something is there already.
        OSError: it cannot be written.
    """
    section = session.scenario.scan
    metadata = _metadata(session)
    timing = {SCAN_PLAN: asdict(section.plan), FINE_TIME: True}
    return T3pWriter(
        session.out,
        _layout(section, "uint32"),
        replace(metadata, provenance={**metadata.provenance, **timing}),
    )


def _metadata(session: Session) -> Metadata:
    made_by = {
        "software": f"stemtwin {version('stemtwin')}",
        "seed": session.seed,
        "scenario": session.scenario.resolved(),
    }
    section = session.scenario.scan
    return Metadata.of_scan(section.plan, section.optics, made_by)


def _write_sidecars(acquired: Acquired, images: Images) -> None:
    from scenarios.scans import plots as scan_plots

    arrays: dict[str, Floats] = dict(images.by_name)
    if images.plan.pattern == "list":
        arrays["intended_nm"] = np.concatenate(images.intended_nm)
    if images.mean_frame is not None:
        arrays["mean_frame"] = images.mean_frame
    np.savez_compressed(acquired.signals, allow_pickle=False, **arrays)
    picture = scan_plots.signals(images.by_name, images.mean_frame, acquired.scenario.scan)
    acquired.picture.write_bytes(picture)
    summary = {**acquired.summary(), "resolved": acquired.scenario.resolved()}
    write_text(acquired.signals.with_suffix(".json"), json.dumps(summary, indent=1) + "\n")
