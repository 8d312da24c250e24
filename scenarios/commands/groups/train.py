"""`stemtwin train NAME`: every training found, with a command line made from its options.

A training is one file in the folder `training` of a package, see `learning.training`; nothing here knows any by name.
"""

import importlib
import inspect
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from scenarios.commands.arguments import Overrides
from scenarios.commands.refusal import refusals, resumable, stop
from scenarios.folders import check_folder, locked
from scenarios.option_table import explained
from twin import interrupt
from twin.errors import nearest
from twin.registry import describe, module, names

if TYPE_CHECKING:
    from tqdm import tqdm

    from learning.training import Progress, Training, TrainingRun

PACKAGES = ("controller", "agents")
"""Packages whose folder `training`, if they have one, holds trainings."""
RUNS = Path("runs/train")


def trainings() -> dict[str, ModuleType]:
    """Names of all trainings, each with the package that holds it; imports none of them."""
    packages = [f"{package}.training" for package in PACKAGES if find_spec(f"{package}.training")]
    return {name: package for package in map(importlib.import_module, packages) for name in names(package)}


def load(name: str) -> ModuleType:
    """Import a training."""
    # Threads that spin while idle slow others on a busy machine; torch reads this once, when it is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    found: ModuleType = module(trainings()[name], name, "TRAINING")
    return found


class _Found(TyperGroup):
    """Commands for all trainings found; a training is imported, and with it torch, only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(trainings())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = trainings()
        if cmd_name not in found:
            ctx.fail(f"{cmd_name!r} is not a training{nearest(cmd_name, found)}; known: {', '.join(sorted(found))}")
        return _Lazy(cmd_name, help=describe(found[cmd_name], cmd_name))


class _Lazy(TyperCommand):
    """Stands in lists for the command that `command` makes when it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with refusals():
            made = command(str(self.name), load(str(self.name)))
        return made.make_context(info_name, args, parent, **extra)


app = typer.Typer(
    cls=_Found, help="Train the networks of controllers and agents.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _train() -> None:
    pass


def command(name: str, module: ModuleType) -> Any:
    """Make the command of a training: its options, and those that all trainings have."""
    training: Training[Any, Any] = module.TRAINING

    def train(
        scenario: Annotated[str, typer.Argument(help="Gives optics and state space; its day is not used.")] = "day_a",
        workers: Annotated[int, typer.Option(min=0, help="Simulating processes; 0 is one per core.")] = 0,
        threads: Annotated[int, typer.Option(min=0, help="Fitting threads; 0 is one per core.")] = training.threads,
        out: Annotated[Path | None, typer.Option(help="Weights file [default: in the work folder].")] = None,
        work: Annotated[
            Path | None, typer.Option(help=f"Work folder, where a second call resumes [default: in {RUNS}].")
        ] = None,
        frames: Annotated[Path, typer.Option(help="Simulated frames; trainings share them.")] = RUNS / "frames",
        overrides: Overrides = None,
        **options: Any,
    ) -> None:
        from twin.options import checked_options

        with refusals():
            checked = checked_options(training.options, options)
            label = training.label(checked) if training.label else name
            progress = Bars(label)
            run = prepare(scenario, work or RUNS / label, frames, progress, workers, overrides or ())
        _use(threads)
        target = out or run.work / f"{label}.safetensors"
        _check_file(target, label)
        kept = f"interrupted; the same command resumes from {run.work}"
        # Now, not after hours of work: folders are created, and nobody else trains there.
        with refusals(kept, OSError):
            check_folder(frames)
        with refusals(kept, OSError), closing(progress), locked(run.work, inside=True), locked(target):
            rows = _trained(training, checked, run, target)
        _report({"weights": f"{target} ({target.stat().st_size / 1e6:.1f} MB)", **rows})
        if training.controllers:
            typer.echo(use_of(training.controllers[0], target, scenario, overrides or ()))

    shared = list(inspect.signature(train).parameters.values())[:-1]
    signature = inspect.Signature([shared[0], *_parameters(training.options), *shared[1:]])
    train.__signature__ = signature  # type: ignore[attr-defined]
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, help=f"{inspect.getdoc(module)}\n\nRun again after an interruption to resume.")(train)
    return typer.main.get_command(single)


def _trained(training: "Training[Any, Any]", options: Any, run: "TrainingRun", target: Path) -> Mapping[str, str]:
    """Train, write the weights, and return what is printed about them."""
    with resumable(run.work):
        return training.summary(training(options, run, target), run)


def _check_file(target: Path, label: str) -> None:
    """Refuse a folder, or a suffix that no command reads as weights, now and not after hours of work."""
    if target.is_dir() or target.suffix.lower() != ".safetensors":
        named = target / f"{label}.safetensors" if target.is_dir() else target.with_suffix(".safetensors")
        stop(f"--out {target}: weights are one file, .safetensors (did you mean {named}?)")


def _parameters(options: type) -> list[inspect.Parameter]:
    """One command-line option for each field, explained by the `Attributes:` section of the class."""
    hints, texts = get_type_hints(options), explained(options)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=field.default,
            annotation=Annotated[hints[field.name], typer.Option(help=texts[field.name])],
        )
        for field in fields(options)
    ]


def use_of(controller: str, weights: Path, scenario: str, overrides: Sequence[str]) -> str:
    """Return the command line that calibrates with new weights, for the scenario that they were trained for.

    Example:
        >>> use_of("vae_em", Path("mine.safetensors"), "day_a", [])
        'stemtwin calibrate day_a --controller vae_em --set controllers.vae_em.weights=mine.safetensors'
    """
    changes = [*overrides, f"controllers.{controller}.weights={weights}"]
    words = ["stemtwin", "calibrate", scenario, "--controller", controller]
    return shlex.join([*words, *(word for change in changes for word in ("--set", change))])


def prepare(
    scenario: str, work: Path, frames: Path, progress: "Progress", workers: int, overrides: Sequence[str] = ()
) -> "TrainingRun":
    """A run for the optics and the state space of a scenario."""
    from learning.training import TrainingRun
    from scenarios import schema

    chosen = schema.load(scenario, overrides)
    return TrainingRun(chosen.optics, chosen.space, work, frames, progress, workers)


def _use(threads: int) -> None:
    import torch

    torch.set_num_threads(threads or os.cpu_count() or 1)


def _report(rows: Mapping[str, str]) -> None:
    width = max(map(len, rows))
    for name, text in rows.items():
        typer.echo(f"{name:{width}} {text}")


class Bars:
    """One progress bar per stage, on stderr; they name the training, because two may share a terminal.

    Called as `learning.training.Progress`. Closed before a message: it stands on a line of its own.
    """

    def __init__(self, training: str) -> None:
        self._training = training
        self._bars: dict[str, tqdm[NoReturn]] = {}

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        from tqdm import tqdm

        interrupt.check()  # of a signal that a library swallowed
        bar = self._bars.get(stage)
        if bar is None or done < bar.n or total != bar.total:  # a stage may come again, as for a second set of frames
            bar = self._bars[stage] = tqdm(total=total, initial=done, desc=f"{self._training}: {stage}")
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)
        if done == total:
            self._bars.pop(stage).close()

    def close(self) -> None:
        """Close the bars of stages that have not ended."""
        while self._bars:
            self._bars.popitem()[1].close()
