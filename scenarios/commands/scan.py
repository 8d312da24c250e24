"""`stemtwin scan` and `stemtwin stream`: agents over the twin's own scan, a file or a camera.

Parses, prints and sets exit codes as `cli.py` says; imports what computes only when it is asked to.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from agents.base import Agent
    from agents.stream import Progress
    from scenarios.scans.before_and_after import Loop
    from scenarios.scans.scan import Scanned
    from scenarios.scans.stream import Recorded

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

Agents = Annotated[
    list[str],
    typer.Option(
        metavar="NAME[:KEY=VALUE,...],...", help="See `stemtwin list agents`; commas or the option again for more."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]
View = Annotated[bool, typer.Option("--view", help="Show the images in a window as they grow.")]


def scan(
    scenario: Annotated[str, typer.Argument(help="A library scenario with a scan, or a .yaml file.")] = "mos2_twisted",
    agents: Agents = ["adf,com,ricom,icom"],  # noqa: B006  (typer copies it)
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scan.")] = 0,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="CONTROLLER[:KEY=VALUE,...]",
            help="Scan before and after a calibration by this controller; one report.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="AGENT", help="With --calibrate: this agent's image, not the Ronchigram, is looked at."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/SCENARIO/scan/SEED.")] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE.zarr|.mib|.t3p|.hspy", help="Store the frames, too.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.KEY=VALUE", help="Change one value of the scenario.")
    ] = None,
    view: View = False,
    as_json: AsJson = False,
) -> None:
    """Scan a specimen and reconstruct it while the beam moves; no frame need be stored."""
    from scenarios.schema import load

    with _told():
        if images is not None and calibrate is None:
            _stop("--images goes with --calibrate", BAD_INPUT)
        loaded = load(scenario, list(overrides or ()))
        if calibrate is None:
            scanned = _scan(loaded, seed, agents, out, keep, view)
            summary, (status, errors) = scanned.summary(), _state(scanned.recorded)
        else:
            if keep is not None or view:
                _stop("--keep and --view go without --calibrate", BAD_INPUT)
            loop = _loop(loaded, seed, agents, calibrate, images, out)
            summary, status, errors = loop.summary(), loop.status, loop.errors
    if as_json:
        typer.echo(json.dumps(summary))
    elif calibrate is None:
        _print_scanned(scanned)
    else:
        _print_loop(loop)
    _exit(status, errors)


def stream(
    source: Annotated[str, typer.Argument(help="A file (.mib, .zarr, .hspy, .t3p), merlin://HOST:PORT, csr://...")],
    agents: Agents = ["adf,com,ricom,icom"],  # noqa: B006  (typer copies it)
    meta: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What the stream does not tell, or tells wrongly: step_nm, ..."),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Of the source, see docs/streaming.md.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what the agents find.")] = Path("runs/stream"),
    view: View = False,
    as_json: AsJson = False,
) -> None:
    """Reconstruct a scan from a file or from a camera on the network as it comes."""
    from agents.sources import open_source
    from scenarios import choices
    from scenarios.scans.stream import choose_agents, make_folder, record

    with _told():
        chosen = choose_agents(agents)
        given, how = choices.options(meta or (), "--meta"), choices.options(options or (), "--option")
        for name in ("spec", "meta"):
            if name in how:  # would be taken for an argument of `open_source`
                _stop(
                    f"--option {name}: no source has such an option; what the stream does not tell is --meta", BAD_INPUT
                )
        make_folder(out)  # before a camera is started
        with open_source(source, given, **how) as opened:
            total = opened.meta.layout.count
            with _progress(source, total, _view(view, chosen, opened.meta.metadata.step_nm)) as show:
                recorded = record(opened, chosen, out, show)
    if as_json:
        typer.echo(json.dumps({"source": source, **recorded.summary()}))
    else:
        _print_recorded(recorded)
    _exit(*_state(recorded))


def _state(recorded: "Recorded") -> tuple[str, bool]:
    """Of a stream: its status, and whether an agent was left behind."""
    return recorded.streamed.status, bool(recorded.streamed.errors)


def _exit(status: str, errors: bool) -> None:
    if status == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if status != "complete" or errors:
        raise typer.Exit(FAILED)


# --- doing ---------------------------------------------------------------------------------------


def _scan(scenario: Any, seed: int, agents: list[str], out: Path | None, keep: Path | None, view: bool) -> "Scanned":
    from scenarios.scans.scan import ready
    from scenarios.scans.scan import scan as run

    session = ready(scenario, seed, agents, out, keep)
    plan = session.acquisition.scenario.scan.plan
    with _progress(scenario.name, plan.count, _view(view, session.agents, plan.step_nm)) as show:
        return run(session, show)


def _loop(scenario: Any, seed: int, agents: list[str], controller: str, images: str | None, out: Path | None) -> "Loop":
    from scenarios.scans.before_and_after import calibrate_and_scan, ready

    prepared = ready(scenario, seed, agents, controller, images=images, out=out)
    with _progress(f"{scenario.name}, {controller}", 2 * scenario.scan.plan.count) as show:
        return calibrate_and_scan(prepared, show)


def _view(wanted: bool, agents: "Mapping[str, Agent]", step_nm: float | None) -> "Callable[[Progress], None] | None":
    if not wanted:
        return None
    from scenarios.scans.live_view import open_view

    return open_view(agents, step_nm)


@contextmanager
def _progress(
    title: str, total: int, view: "Callable[[Progress], None] | None" = None
) -> "Iterator[Callable[[Progress], None]]":
    """A bar on stderr that follows the frames, and the window, if there is one. Faults are printed as they come."""
    from tqdm import tqdm

    told = 0
    before = 0
    with tqdm(total=total, desc=title, unit="frame", leave=False) as bar:

        def show(progress: "Progress") -> None:
            nonlocal told, before
            if progress.positions < before:  # the next scan of the same command
                before = told = 0
            faults = progress.health.faults
            for fault in faults[told:]:
                bar.write(f"fault: {fault}", file=sys.stderr)  # stdout is for the result
            told = len(faults)
            lag = f", lag {progress.lag_s:.2f} s" if progress.lag_s > 0 else ""
            waits = f", {progress.health.waits} waits" if progress.health.waits else ""
            bar.set_postfix_str(f"{progress.rate_per_s:.0f} frames/s{lag}{waits}", refresh=False)
            bar.update(progress.positions - before)
            before = progress.positions
            if view is not None:
                view(progress)

        yield show


@contextmanager
def _told() -> "Iterator[None]":
    """Refusals become one line and exit code 2; Ctrl-C before there is a result, or while it is written, 130."""
    from agents.source import SourceError
    from scenarios.choices import ChoiceError
    from scenarios.schema import ScenarioError
    from twin.formats.dataset import FormatError
    from twin.options import OptionError

    try:
        yield
    except (ScenarioError, SourceError, ChoiceError, OptionError, FormatError) as error:
        _stop(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        _stop("interrupted; the results were not written", INTERRUPTED)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"stemtwin: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


# --- printing ------------------------------------------------------------------------------------


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}".rstrip())


def _print_scanned(scanned: "Scanned") -> None:
    figures = scanned.summary()
    _print_recorded(scanned.recorded)
    rows = [("electrons", f"{figures['dose_e']:.4g} per position")]
    rows.append(("dose", f"{figures['e_per_nm2']:.3g} e/nm2 = {figures['e_per_nm2'] / 100:.3g} e/A2"))
    rows.append(("preparation", f"{figures['preparation_s']:.1f} s"))
    if figures["data"] is not None:
        rows.append(("frames", figures["data"]))
    _print_rows(rows)


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
    _print_rows([*rows, ("results", figures["out"])])


def _agent_line(name: str, agent: Mapping[str, Any], frames: int) -> str:
    if agent["error"] is not None:
        return f"{name:<10}left behind: {agent['error']}"
    parts = [f"{1e6 * agent['seconds'] / max(frames, 1):8.1f} us/frame"]
    if agent["cross_correlation"] is not None:
        parts.append(f"correlation with the true phase {agent['cross_correlation']:.3f}")
    trust = agent["trust"]
    if trust is not None:
        parts.append(f"{'fits' if trust['fits'] else 'DOES NOT FIT'} (p = {trust['probability']:.2g})")
    return f"{name:<10}" + "   ".join(parts)


def _print_loop(loop: "Loop") -> None:
    from scenarios.scans.before_and_after import problems, rows

    typer.echo(f"{'':32}{'before':>12}{'after':>12}")
    for label, before, after in rows(loop):
        typer.echo(f"{label:32}{before:>12}{after:>12}")
    for word, words in problems(loop):
        typer.echo(f"problem, {word}: {words}")
    typer.echo(f"report: {loop.report}")
