"""Agents over a stream: which ones, their options, and the files that hold their results.

One pass, whatever the source; `scan.py` offers the scan of a scenario as one.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from agents import base, stream
from agents.base import Agent, Image, Reconstruction
from agents.source import Source
from agents.stream import Progress, Streamed
from scenarios.choices import ChoiceError, name_and_options, split_choices
from scenarios.folders import NotWritten, carries, locked, numbered, remove_empty, sentence, write_bytes, write_text
from scenarios.memory import peak_memory_mib
from scenarios.scans.truth import cross_correlation
from scenarios.schema import ScenarioError
from twin import interrupt
from twin.arrays import Floats
from twin.options import OptionError
from twin.text import json_text

Item = TypeVar("Item")
Show = Callable[[Progress], None]

ARRAYS = "reconstructions.zarr"
SUMMARY = "summary.json"
REPORT = "report.html"
BEFORE = "before"
"""Folder of the first of two scans (`before_and_after`)."""
FORMAT = "stemtwin-reconstructions"
"""Mark of the arrays; only a folder that has them is ever written again."""


@dataclass(frozen=True)
class Recorded:
    """Results of a stream on disc, and their figures.

    Attributes:
        streamed: of `agents.stream.run`.
        out: folder of the files.
        likeness: normalised cross-correlation with the true phase by agent and image; empty where there is no truth.
        peak_memory_mib: largest resident memory of this process; None where the system does not report it.
        aside: results of further agents, not written.
    """

    streamed: Streamed
    out: Path
    likeness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    aside: Mapping[str, Reconstruction] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON data; NaN and infinity are null."""
        run = self.streamed
        names = [*run.results, *(name for name in run.errors if name not in run.results)]
        plain = {
            "status": run.status,
            "frames": run.positions,
            "of_frames": self.of_frames,
            "scan": list(run.meta.layout.scan),
            "camera": list(run.meta.layout.camera),
            "seconds": run.seconds,
            "frames_per_s": run.frames_per_s,
            "agents_s": sum(run.agent_s.values()),
            "peak_memory_mib": self.peak_memory_mib,
            "health": asdict(run.health),
            "agents": {name: self._agent(name) for name in names},
            "out": str(self.out),
        }
        return {key: without_nan(value) for key, value in plain.items()}

    @property
    def of_frames(self) -> int:
        """Number of positions of the whole stream: the scan's, unless its plan leaves some out."""
        run = self.streamed
        return run.positions if run.status == "complete" else run.meta.layout.count

    @property
    def problems(self) -> list[str]:
        """Faults and failures, in words."""
        run = self.streamed
        words = [] if run.status == "complete" else [f"{run.status}: {run.positions} of {self.of_frames} frames"]
        words += [f"{name} failed: {error}" for name, error in run.errors.items()]
        more = run.health.fault_count - len(run.health.faults)
        return [*words, *run.health.faults, *([f"{more} more faults"] if more > 0 else [])]

    def _agent(self, name: str) -> dict[str, Any]:
        run, likeness = self.streamed, self.likeness.get(name, {})
        found = run.results.get(name)
        images = {} if found is None else found.images
        return {
            "seconds": run.agent_s.get(name, 0.0),
            "finish_s": run.finish_s.get(name, 0.0),
            "cross_correlation": next(iter(likeness.values()), None),
            "images": {
                key: {"unit": image.unit, "shape": list(image.values.shape), "cross_correlation": likeness.get(key)}
                for key, image in images.items()
            },
            "figures": {} if found is None else dict(found.figures),
            "trust": None if found is None or found.trust is None else found.trust.plain(),
            "notes": [] if found is None else list(found.notes),
            "error": run.errors.get(name),
        }


def without_nan(value: Any) -> Any:
    """Return plain data with None for NaN and infinity, which JSON cannot hold, and plain numbers for numpy's."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def choose_agents(texts: Iterable[str]) -> dict[str, Agent]:
    """Return agents by label, from lists such as `adf,ricom:kernel=41,ricom:kernel=101`.

    The label is the agent's name; the second agent of that name is `ricom-2`.

    Raises:
        ScenarioError: no agent, an unknown one, or options that are refused.
    """
    chosen: dict[str, Agent] = {}
    try:
        choices = split_choices(",".join(texts), "agent", "--agents")
        for choice in choices:
            name, options = name_and_options(choice, "--agents")
            alike = sum(label.partition("-")[0] == name for label in chosen)
            chosen[f"{name}-{alike + 1}" if alike else name] = base.load(name, options)
    except OptionError as error:
        raise ScenarioError(f"--agents {choice}: {error}") from None
    except (ChoiceError, base.UnknownAgent) as error:
        raise ScenarioError(str(error)) from None
    return chosen


def run(
    source: Source,
    agents: Mapping[str, Agent],
    out: Path,
    progress: Show | None = None,
    truth: Floats | None = None,
    every_s: float = 0.25,
    aside: Mapping[str, Agent] | None = None,
) -> Recorded:
    """Run agents over a stream in one pass; write images as pictures and arrays, and figures, to the folder `out`.

    An interrupt (Ctrl-C) ends the stream early; the results up to then are written.

    Args:
        source: open; not closed here.
        agents: by label.
        out: created if needed; files of an earlier stream are replaced.
        progress: called at most once in `every_s`.
        truth: the true phase in the shape of the scan, if there is ground truth.
        every_s: seconds between calls of `progress`.
        aside: further agents, whose results are returned but not written.

    Raises:
        ScenarioError: `out` cannot be written, or no agent can take the stream.
        NotWritten: the results cannot be written after the stream: a full disc, say.
        InUse: another run writes `out`.
    """
    make_folder(out)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out, inside=True))
        except OSError as error:
            raise ScenarioError(sentence(error, out)) from error
        return _run(source, agents, out, progress, truth, every_s, aside or {})


def _run(
    source: Source,
    agents: Mapping[str, Agent],
    out: Path,
    progress: Show | None,
    truth: Floats | None,
    every_s: float,
    aside: Mapping[str, Agent],
) -> Recorded:
    try:
        whole = stream.run(source, {**agents, **aside}, progress, every_s)
    except base.MetaError as error:
        raise ScenarioError(str(error)) from error
    for name in aside:
        if name in whole.errors:
            whole.health.fault(f"{name}: {whole.errors[name]}")
    streamed = replace(
        whole,
        results=_of(whole.results, agents),
        errors=_of(whole.errors, agents),
        agent_s=_of(whole.agent_s, agents),
        finish_s=_of(whole.finish_s, agents),
    )
    likeness = {} if truth is None else {name: compare(found, truth) for name, found in streamed.results.items()}
    recorded = Recorded(streamed, out, likeness, peak_memory_mib(), _of(whole.results, aside))
    with interrupt.session(patient=True):  # an interrupt waits: what was computed is written
        try:
            _write(recorded, truth)
        except OSError as error:
            raise NotWritten(f"the results could not be written: {sentence(error, out)}") from error
    return recorded


def make_folder(out: Path) -> None:
    """Create the folder for results and try to write in it: a scan is too long to fail at its end.

    Raises:
        ScenarioError: it cannot be created or written, or it holds a file of another program under a name of ours.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ScenarioError(sentence(error, out)) from error
    for name in (ARRAYS, SUMMARY):
        if os.path.lexists(out / name) and not (is_ours(out) or is_ours(out / BEFORE)):
            raise ScenarioError(f"{out / name} was not written by stemtwin and is not replaced: choose another --out")


@contextmanager
def removed_if_refused(created: list[Path]) -> Iterator[None]:
    """Remove folders that are still empty after an error or an interrupt in the block, the innermost first."""
    try:
        yield
    except BaseException:
        remove_empty(created)
        raise


def is_ours(out: Path) -> bool:
    """Return whether a folder holds the results of an earlier stream, and no link in their place."""
    return carries(out / ARRAYS, FORMAT)


def results_folder(out: Path | None, default: Path, overwrite: bool) -> Path:
    """Return the folder for the results of a scan; those of an earlier one stay, unless they are to be replaced.

    Args:
        out: as asked for; None takes `default`, with a number if there are results.
        default: `runs/...`.
        overwrite: replace earlier results.

    Raises:
        ScenarioError: `out` has earlier results, or is not a directory.
    """
    if out is None:
        return next(path for path in numbered(default) if overwrite or not _taken(path))
    if out.exists() and not out.is_dir():
        raise ScenarioError(f"{out} is not a directory")
    if not overwrite and _taken(out):
        raise ScenarioError(f"{out} has the results of an earlier scan: choose another --out, or give --overwrite")
    return out


def _taken(out: Path) -> bool:
    return any(os.path.lexists(out / name) for name in (ARRAYS, SUMMARY, REPORT, BEFORE))


def _of(items: Mapping[str, Item], names: Iterable[str]) -> dict[str, Item]:
    return {name: items[name] for name in names if name in items}


def compare(found: Reconstruction, truth: Floats) -> dict[str, float]:
    """Return the normalised cross-correlation with the truth of every image on the scan's own grid.

    Finer grids are left out, and so are deflections and gradients: a component of a vector is no image of the phase.
    """
    alike = {name: image for name, image in found.images.items() if _comparable(image, truth)}
    return {name: cross_correlation(image.values, truth) for name, image in alike.items()}


PICTURES = ("rad", "e", "counts")
"""Units of images that may resemble a phase; maps of probabilities and residuals have none."""


def _comparable(image: Image, truth: Floats) -> bool:
    return image.step_nm is None and image.values.shape == truth.shape and image.unit in PICTURES


def verdict(likeness: Mapping[str, float]) -> str:
    """Return the first comparison with the truth in words; empty without one."""
    if not likeness:
        return ""
    name, value = next(iter(likeness.items()))
    return f"correlation of {name} with the true phase {value:.3f}"


def _write(recorded: Recorded, truth: Floats | None) -> None:
    from scenarios.scans import reconstruction_plots

    run, out = recorded.streamed, recorded.out
    step_nm = run.meta.metadata.step_nm
    _clear(out)
    _write_arrays(recorded, truth)
    write_text(out / SUMMARY, json.dumps(recorded.summary(), indent=1) + "\n")
    for name, found in run.results.items():
        words = verdict(recorded.likeness.get(name, {}))
        write_bytes(out / f"{name}.png", reconstruction_plots.png_of(name, found, step_nm, words))


def _clear(out: Path) -> None:
    """Delete the pictures of an earlier stream; its other files are overwritten."""
    try:
        earlier = json_text.loads((out / SUMMARY).read_text(encoding="utf-8"))["agents"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in earlier:
        (out / f"{Path(name).name}.png").unlink(missing_ok=True)


def _write_arrays(recorded: Recorded, truth: Floats | None) -> None:
    """Write one zarr group: a group per agent with its images, and `spread_<name>` for an image with a spread."""
    import zarr

    root = zarr.open_group(str(recorded.out / ARRAYS), mode="w")
    plain = recorded.summary()
    root.attrs.update({"format": FORMAT, "metadata": recorded.streamed.meta.metadata.plain()})
    if truth is not None:
        root.create_array("true_phase", data=truth).attrs["unit"] = "rad"
    for name, found in recorded.streamed.results.items():
        group = root.create_group(name)
        group.attrs.update({key: plain["agents"][name][key] for key in ("figures", "trust", "notes", "error")})
        for key, image in found.images.items():
            array = group.create_array(key, data=np.asarray(image.values, np.float64))
            array.attrs.update({"unit": image.unit, "step_nm": image.step_nm})
            if image.spread is not None:
                spread = group.create_array(f"spread_{key}", data=np.asarray(image.spread, np.float64))
                spread.attrs.update({"unit": image.unit, "step_nm": image.step_nm})
