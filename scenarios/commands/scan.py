"""`stemtwin scan` and `stemtwin stream`: parse, show progress, print."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios.commands.arguments import DATA_FILE, Agents, AsJson, Meta, Overrides, ScanScenario, Seed, SourceOptions
from scenarios.commands.groups.listing import print_rows
from scenarios.commands.refusal import FAILED, refusals, stop

if TYPE_CHECKING:
    from agents.base import Agent
    from agents.stream import Progress
    from scenarios.scans.before_and_after import Loop
    from scenarios.scans.scan import Scanned
    from scenarios.scans.stream import Recorded
    from scenarios.schema import Scenario
    from twin.interrupt import Ending

LATE = "interrupted; results that were not finished are not written"
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier scan.")]
View = Annotated[bool, typer.Option("--view", help="Show the growing images in a window.")]


def scan(
    scenario: ScanScenario = "mos2_twisted",
    agents: Agents = ["adf,com,ricom,icom"],  # noqa: B006  (typer copies it)
    seed: Seed = 0,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="CONTROLLER[:KEY=VALUE,...]",
            help="Scan before and after a calibration by this controller; one report.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="AGENT", help="With --calibrate: give the controller this agent's image, no Ronchigrams."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder [default: runs/SCENARIO/scan/SEED].")] = None,
    keep: Annotated[Path | None, typer.Option(metavar=DATA_FILE, help="Store the frames, too.")] = None,
    overwrite: Overwrite = False,
    overrides: Overrides = None,
    view: View = False,
    as_json: AsJson = False,
) -> None:
    """Scan a specimen and reconstruct it while the beam moves. No frame need be stored."""
    from scenarios.choices import check_controllers
    from scenarios.schema import load

    with refusals(LATE) as ending:
        if images is not None and calibrate is None:
            stop("--images goes with --calibrate")
        if calibrate is not None:
            check_controllers(overrides or (), [calibrate.partition(":")[0]])
        loaded = load(scenario, overrides or ())
        if calibrate is None:
            scanned = _scan(loaded, seed, agents, out, keep, overwrite, view)
            summary, (status, errors) = scanned.summary(), _state(scanned.recorded)
        else:
            if keep is not None or view:
                stop("--keep and --view go without --calibrate")
            loop = _loop(loaded, seed, agents, calibrate, images, out, overwrite)
            summary, status, errors = loop.summary(), loop.status, loop.errors
    if as_json:
        typer.echo(json.dumps(summary))
    elif calibrate is None:
        _print_scanned(scanned)
    else:
        _print_loop(loop)
    _exit(status, errors, ending)


def stream(
    source: Annotated[
        str, typer.Argument(help="A file (.mib, .zarr, .hspy, .t3p, .tpx3, ...), merlin://HOST:PORT, csr://...")
    ],
    agents: Agents = ["adf,com,ricom,icom"],  # noqa: B006  (typer copies it)
    meta: Meta = None,
    options: SourceOptions = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the agents' images [default: runs/stream].")] = None,
    overwrite: Overwrite = False,
    view: View = False,
    as_json: AsJson = False,
) -> None:
    """Reconstruct a scan of a file, or of a camera as it arrives."""
    from agents.sources import kind_of, open_source
    from scenarios import choices
    from scenarios.folders import missing
    from scenarios.scans.stream import choose_agents, make_folder, removed_if_refused, results_folder, run

    with refusals(LATE) as ending:
        _refuse_scenario(source)
        kind_of(source)  # at once: agents may take seconds to import
        chosen = choose_agents(agents)
        given, how = choices.of_source(meta or (), options or ())
        out = results_folder(out, Path("runs/stream"), overwrite)
        created = missing(out)
        make_folder(out)  # before a camera is started
        with removed_if_refused(created), open_source(source, given, **how) as opened:
            total = opened.meta.layout.count
            with _progress(source, total, _view(view, chosen, opened.meta.metadata.step_nm)) as show:
                recorded = run(opened, chosen, out, show)
    if as_json:
        typer.echo(json.dumps({"source": source, **recorded.summary()}))
    else:
        _print_recorded(recorded)
    _exit(*_state(recorded), ending)


def _refuse_scenario(source: str) -> None:
    from scenarios.schema import library

    if source in library() and not Path(source).exists():
        stop(f"{source} is a scenario, not a file or a camera: stemtwin scan {source}")


def _state(recorded: "Recorded") -> tuple[str, bool]:
    """Return the status of a stream, and whether an agent failed."""
    return recorded.streamed.status, bool(recorded.streamed.errors)


def _exit(status: str, errors: bool, ending: "Ending") -> None:
    if status == "interrupted":
        raise typer.Exit(ending.exit_code)
    if status != "complete" or errors:
        raise typer.Exit(FAILED)


# --- running -------------------------------------------------------------------------------------


def _scan(
    scenario: "Scenario",
    seed: int,
    agents: list[str],
    out: Path | None,
    keep: Path | None,
    overwrite: bool,
    view: bool,
) -> "Scanned":
    from scenarios.scans.scan import prepare, run

    session = prepare(scenario, seed, agents, out, keep, overwrite)
    plan = session.acquisition.section.plan
    with _progress(scenario.name, plan.count, _view(view, session.agents, plan.step_nm)) as show:
        return run(session, show)


def _loop(
    scenario: "Scenario",
    seed: int,
    agents: list[str],
    controller: str,
    images: str | None,
    out: Path | None,
    overwrite: bool,
) -> "Loop":
    from scenarios.scans.before_and_after import prepare, run

    prepared = prepare(scenario, seed, agents, controller, images=images, out=out, overwrite=overwrite)
    count = prepared.scenario.required_scan.plan.count
    with _progress(f"{scenario.name}, {controller}", 2 * count) as show:
        return run(prepared, show)


def _view(shown: bool, agents: "Mapping[str, Agent]", step_nm: float | None) -> "Callable[[Progress], None] | None":
    if not shown:
        return None
    from scenarios.scans.live_view import open_view

    return open_view(agents, step_nm)


@contextmanager
def _progress(
    title: str, total: int, view: "Callable[[Progress], None] | None" = None
) -> "Iterator[Callable[[Progress], None]]":
    """Show a bar on stderr that follows the frames, and the window if there is one; print faults as they occur."""
    from tqdm import tqdm

    printed = 0
    before = 0
    with tqdm(total=total, desc=title, unit="frame", leave=False, delay=0.2) as bar:

        def show(progress: "Progress") -> None:
            nonlocal printed, before
            if progress.positions < before:  # the next scan of the same command
                before = printed = 0
            faults = progress.health.faults
            for fault in faults[printed:]:
                bar.write(f"fault: {fault}", file=sys.stderr)  # stdout is for the result
                bar.delay = 0.0  # the bar has been drawn with it, and is cleared at the end
            printed = len(faults)
            lag = f", lag {progress.lag_s:.2f} s" if progress.lag_s > 0 else ""
            waits = f", {progress.health.waits} waits" if progress.health.waits else ""
            bar.set_postfix_str(f"{progress.rate_per_s:.0f} frames/s{lag}{waits}", refresh=False)
            bar.update(progress.positions - before)
            before = progress.positions
            if view is not None:
                view(progress)

        yield show


# --- printing ------------------------------------------------------------------------------------


def _print_scanned(scanned: "Scanned") -> None:
    figures = scanned.summary()
    _print_recorded(scanned.recorded)
    rows = [("electrons", f"{figures['dose_e']:.4g} per position")]
    rows.append(("dose", f"{figures['e_per_nm2']:.3g} e/nm2 = {figures['e_per_nm2'] / 100:.3g} e/A2"))
    rows.append(("preparation", f"{figures['preparation_s']:.1f} s"))
    if figures["data"] is not None:
        rows.append(("frames", figures["data"]))
    print_rows(rows)


def _print_recorded(recorded: "Recorded") -> None:
    figures = recorded.summary()
    for name, agent in figures["agents"].items():
        typer.echo(_agent_line(name, agent, figures["frames"]))
        for note in agent["notes"]:
            typer.echo(f"{'':10}{note}")
    alone = figures["frames"] / max(figures["agents_s"], 1e-9)
    rows = [
        ("frames", f"{figures['frames']} of {figures['of_frames']}, {figures['status']}"),
        ("rate", f"{figures['frames_per_s']:.0f} frames/s; the agents alone {alone:.0f}"),
    ]
    if figures["peak_memory_mib"] is not None:
        rows.append(("peak memory", f"{figures['peak_memory_mib']:.0f} MiB"))
    health = figures["health"]
    rows += [(key, str(health[key])) for key in ("missing", "duplicates", "waits", "reconnects") if health[key]]
    rows += [("problem", words) for words in recorded.problems]
    print_rows([*rows, ("results", figures["out"])])


def _agent_line(name: str, agent: Mapping[str, Any], frames: int) -> str:
    if agent["error"] is not None:
        return f"{name:<10}failed: {agent['error']}"
    parts = [f"{1e6 * agent['seconds'] / max(frames, 1):8.1f} us/frame"]
    if agent["cross_correlation"] is not None:
        parts.append(f"correlation with the true phase {agent['cross_correlation']:.3f}")
    trust = agent["trust"]
    if trust is not None:
        parts.append(f"{'fits' if trust['fits'] else 'DOES NOT FIT'} (p = {trust['probability']:.2g})")
    return f"{name:<10}" + "   ".join(parts)


def _print_loop(loop: "Loop") -> None:
    from scenarios.scans.page import problems, rows

    typer.echo(f"{'':32}{'before':>12}{'after':>12}")
    for label, before, after in rows(loop):
        typer.echo(f"{label:32}{before:>12}{after:>12}")
    for part, words in problems(loop):
        typer.echo(f"problem, {part}: {words}")
    typer.echo(f"report: {loop.report}")
