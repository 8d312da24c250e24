"""Agents over a stream: who takes part, what they are told, and what is left on disc of what they found.

One pass, whatever the source; `scan.py` makes one of a scenario.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agents import base, stream
from agents.base import Agent, Image, Reconstruction
from agents.source import Source
from agents.stream import Progress, Streamed
from scenarios.calibration.results import write_text
from scenarios.choices import ChoiceError, name_and_options, split_choices
from scenarios.scans.acquire import peak_memory_mib
from scenarios.scans.truth import cross_correlation
from scenarios.schema import ScenarioError
from twin.options import OptionError

Floats = NDArray[np.float64]
Item = TypeVar("Item")
Show = Callable[[Progress], None]

ARRAYS = "reconstructions.zarr"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Recorded:
    """What a stream left behind on disc, and its figures.

    Attributes:
        streamed: of `agents.stream.run`.
        out: folder of the files.
        likeness: normalised cross-correlation with the true phase by agent and image; empty where there is no truth.
        peak_memory_mib: largest resident memory of this process, as far as the system tells.
        aside: results of agents that nothing was written of.
    """

    streamed: Streamed
    out: Path
    likeness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    aside: Mapping[str, Reconstruction] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The figures as JSON data; what is not a number is null."""
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
        """Positions that a whole stream has: the scan's, unless it leaves some out on purpose."""
        run = self.streamed
        return run.positions if run.status == "complete" else run.meta.layout.count

    @property
    def problems(self) -> list[str]:
        """What an operator has to know before trusting it, in words."""
        run = self.streamed
        words = [] if run.status == "complete" else [f"{run.status}: {run.positions} of {self.of_frames} frames"]
        words += [f"{name} was left behind: {error}" for name, error in run.errors.items()]
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
            "trust": None if found is None or found.trust is None else asdict(found.trust),
            "notes": [] if found is None else list(found.notes),
            "error": run.errors.get(name),
        }


def without_nan(value: Any) -> Any:
    """Plain data with None for what JSON cannot say, and plain numbers for numpy's."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def choose_agents(texts: Iterable[str]) -> dict[str, Agent]:
    """Agents by label, from lists such as `adf,ricom:kernel=41,ricom:kernel=101`.

    The label is the agent's name; of several alike, the second is `ricom-2`.

    Raises:
        ScenarioError: no agent, an unknown one, or options that it refuses.
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


def record(
    source: Source,
    agents: Mapping[str, Agent],
    out: Path,
    progress: Show | None = None,
    truth: Floats | None = None,
    every_s: float = 0.25,
    aside: Mapping[str, Agent] | None = None,
) -> Recorded:
    """One pass; every agent's images as a figure and as arrays, and the figures, in the folder `out`.

    An interrupt (Ctrl-C) ends the stream early: what there is then is written all the same.

    Args:
        source: open; not closed here.
        agents: by label.
        out: made when it is not there; files of an earlier stream are replaced.
        progress: called at most once in `every_s`.
        truth: the true phase in the shape of the scan, where there is one.
        every_s: see there.
        aside: more agents, of which nothing is written.

    Raises:
        ScenarioError: `out` cannot be written, before the stream or after it, or no agent can take the stream.
    """
    make_folder(out)
    try:
        run = stream.run(source, {**agents, **(aside or {})}, progress, every_s)
    except base.MetaError as error:
        raise ScenarioError(str(error)) from error
    for name in aside or {}:
        if name in run.errors:
            run.health.fault(f"{name}: {run.errors[name]}")
    streamed = replace(
        run,
        results=_of(run.results, agents),
        errors=_of(run.errors, agents),
        agent_s=_of(run.agent_s, agents),
        finish_s=_of(run.finish_s, agents),
    )
    likeness = {} if truth is None else {name: compare(found, truth) for name, found in streamed.results.items()}
    recorded = Recorded(streamed, out, likeness, peak_memory_mib(), _of(run.results, aside or {}))
    try:
        _write(recorded, truth)
    except OSError as error:
        raise ScenarioError(f"the results could not be written: {_told_by(error, out)}") from error
    return recorded


def make_folder(out: Path) -> None:
    """Make the folder for results unless it is there, and try to write in it: better now than after the scan.

    Raises:
        ScenarioError: it cannot be made, or nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ScenarioError(_told_by(error, out)) from error


def _told_by(error: OSError, out: Path) -> str:
    return f"{error.filename or out}: {error.strerror or error}"


def _of(items: Mapping[str, Item], names: Iterable[str]) -> dict[str, Item]:
    return {name: items[name] for name in names if name in items}


def compare(found: Reconstruction, truth: Floats) -> dict[str, float]:
    """Normalised cross-correlation with the truth of every image on the scan's own grid; finer ones are left out.

    So are deflections and gradients: a component of a vector is no picture of the phase.
    """
    alike = {name: image for name, image in found.images.items() if _comparable(image, truth)}
    return {name: cross_correlation(image.values, truth) for name, image in alike.items()}


PICTURES = ("rad", "e", "counts", "1")
"""Units of what may look like a phase."""


def _comparable(image: Image, truth: Floats) -> bool:
    return image.step_nm is None and image.values.shape == truth.shape and image.unit in PICTURES


def verdict(likeness: Mapping[str, float]) -> str:
    """The first comparison with the truth in words; nothing without one."""
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
        (out / f"{name}.png").write_bytes(reconstruction_plots.png_of(name, found, step_nm, words))


def _clear(out: Path) -> None:
    """Take away the pictures of an earlier stream; its other files are written over."""
    try:
        earlier = json.loads((out / SUMMARY).read_text(encoding="utf-8"))["agents"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in earlier:
        (out / f"{Path(name).name}.png").unlink(missing_ok=True)


def _write_arrays(recorded: Recorded, truth: Floats | None) -> None:
    """One zarr group: a group per agent with its images, `spread_<name>` beside those that have one."""
    import zarr

    root = zarr.open_group(str(recorded.out / ARRAYS), mode="w")
    plain = recorded.summary()
    root.attrs.update({"metadata": recorded.streamed.meta.metadata.plain()})
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
