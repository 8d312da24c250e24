"""The file that a scan's frames or events go to: its name, its format, and its metadata."""

import shutil
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from scenarios.scan_section import ScanSection
from scenarios.schema import Scenario, ScenarioError
from twin.cameras.properties import EventCamera
from twin.formats import FormatError, FrameWriter, Layout, Metadata, check_suffix, create
from twin.formats.dataset import check_free
from twin.formats.event_clock import FINE_TIME, SCAN_PLAN, clock_of
from twin.formats.t3p import T3pWriter, sidecar
from twin.scan.plan import ScanPlan, path
from twin.types import ScanBlock

SIDECARS = (".npz", ".png", ".json")
"""Beside the data: signals by position, their picture, the summary with the resolved scenario."""


class DataFile:
    """The data of one scan on disc, block by block; no file for a scan without a camera.

    Args:
        path: from `destination`.
        scenario: with its scan and its day drawn.
        seed: of the session, for the metadata.
    """

    def __init__(self, path: Path, scenario: Scenario, seed: int) -> None:
        self.path, self.scenario, self.seed = path, scenario, seed
        self.section = scenario.required_scan
        self._writer: FrameWriter | T3pWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether `open` has created a file."""
        return self._writer is not None

    def open(self, first: ScanBlock) -> None:
        """Create the file, empty, for blocks like the first.

        Raises:
            FormatError: the format cannot hold them, or the file exists.
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        check_free(self.path)
        try:
            if first.events is not None:
                self._writer = self._event_writer()
            elif first.frames is not None:
                self._writer = self._frame_writer(first.frames.dtype.name)
        except OSError:
            self.discard()
            raise

    def append(self, block: ScanBlock) -> None:
        """Write the next block."""
        writer = self._writer
        if isinstance(writer, T3pWriter):
            if block.events is not None and isinstance(self.section.camera, EventCamera):
                writer.append(block.events, _complete(block, self.section.camera))
        elif writer is not None and block.frames is not None:
            writer.append(block.frames, block.path.pixel if len(writer.layout.scan) == 2 else None)

    def close(self) -> None:
        """Finish the file, if there is one."""
        if self._writer is not None:
            self._writer.close()

    def discard(self) -> None:
        """Remove the file, of our own making, that nothing was written to."""
        for file in (self.path, *([sidecar(self.path)] if self.path.suffix == ".t3p" else [])):
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)

    def _frame_writer(self, dtype: str) -> FrameWriter:
        camera = self.section.camera
        largest = None if camera is None or isinstance(camera, EventCamera) else camera.largest_count
        return create(self.path, replace(_layout(self.section, dtype), max_count=largest), self._metadata())

    def _event_writer(self) -> T3pWriter:
        """Open a file whose provenance holds how events belong to positions."""
        metadata = self._metadata()
        timing = {SCAN_PLAN: asdict(self.section.plan), FINE_TIME: True}
        provenance = {**metadata.provenance, **timing}
        return T3pWriter(self.path, _layout(self.section, "uint32"), replace(metadata, provenance=provenance))

    def _metadata(self) -> Metadata:
        provenance = {
            "software": f"stemtwin {version('stemtwin')}",
            "seed": self.seed,
            "scenario": self.scenario.resolved(),
        }
        return Metadata.of_scan(self.section.plan, self.section.optics, provenance)


def destination(scenario: Scenario, seed: int, out: Path | None) -> Path:
    """Return where the data go, after every check that the name allows.

    Raises:
        ScenarioError: no such folder, an existing file, or a format that cannot hold the data of this scan.
    """
    section = scenario.required_scan
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
        else:
            check_suffix(out)
            _check_order(out, section)
        _check_all_free(out)
    except FormatError as error:
        raise ScenarioError(str(error)) from error
    return out


def check_all_free(out: Path) -> None:
    """Refuse to write where there is a file already: the data, or one that goes beside them.

    Raises:
        ScenarioError: names the file.
    """
    try:
        _check_all_free(out)
    except FormatError as error:
        raise ScenarioError(str(error)) from error


def _check_all_free(out: Path) -> None:
    beside = [out.with_suffix(suffix) for suffix in SIDECARS]
    for file in (out, *beside, *([sidecar(out)] if out.suffix == ".t3p" else [])):
        check_free(file)
        if file.is_symlink():
            raise FormatError(f"{file} is a link to nowhere; choose another name or remove it")


def _check_order(out: Path, section: ScanSection) -> None:
    """Refuse a read-out order that the format cannot hold, by the scan's first two lines."""
    if out.suffix != ".mib" or len(_scan_shape(section.plan)) != 2:
        return
    from twin.formats.mib import check_order

    plan = section.plan
    start = path(plan, 0, min(plan.count, 2 * plan.columns))
    check_order(_layout(section, "uint16"), 0, len(start), start.pixel)


def _scan_shape(plan: ScanPlan) -> tuple[int, ...]:
    return (plan.count,) if plan.pattern == "list" else plan.shape


def _layout(section: ScanSection, dtype: str) -> Layout:
    side = section.optics.camera_pixels
    return Layout(_scan_shape(section.plan), (side, side), dtype)


def _complete(block: ScanBlock, camera: EventCamera) -> int | None:
    """Return the number of positions whose events are all written; None where this block does not settle it."""
    positions = block.path
    if positions.first + len(block) == positions.plan.count:
        return positions.plan.count
    delay_s = camera.reorder_s + camera.timewalk_ns_kev / camera.threshold_kev * 1e-9
    done = int(np.searchsorted(positions.end_s, positions.end_s[-1] - delay_s, side="right"))
    return positions.first + done if done else None
