"""The `stemtwin` command: a table of commands. Each of them imports what computes only when it is called.

Exit codes: 0 done, 1 a run failed (`compare`), an instrument stopped (`calibrate`), a stream was incomplete or an agent
failed (`scan`, `stream`), disc or memory ran out, 2 bad input (one line on stderr), 130, 143 or 129 interrupted by
SIGINT, SIGTERM or SIGHUP; see `scenarios.commands.refusal`.
"""

import atexit
import sys
from pathlib import Path
from typing import Annotated

import typer

from scenarios import output
from scenarios.commands.acquire import acquire
from scenarios.commands.adapt import adapt
from scenarios.commands.calibrate import calibrate
from scenarios.commands.compare import compare
from scenarios.commands.defaults import use_defaults
from scenarios.commands.groups import figures, listing, train
from scenarios.commands.groups.figures import gallery
from scenarios.commands.live import live
from scenarios.commands.quantify import quantify
from scenarios.commands.record import record
from scenarios.commands.refusal import stop
from scenarios.commands.report import report
from scenarios.commands.scan import scan, stream
from scenarios.commands.serve import serve
from scenarios.commands.show import show
from scenarios.commands.unwarp import unwarp
from scenarios.process import LastStep, run_program

app = typer.Typer(
    name="stemtwin",
    help="A virtual scanning transmission electron microscope that calibrates itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(listing.app, name="list")
app.add_typer(train.app, name="train")
app.add_typer(figures.app, name="figures")
COMMANDS = (
    calibrate, acquire, scan, stream, quantify, unwarp, adapt, compare, live, serve, show, gallery, record,
    report
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Entry point of the console script."""
    last = LastStep()
    atexit.register(last)  # the first to be registered is called last
    try:
        run_program(app)
    except SystemExit as stopped:
        last.code = stopped.code
        raise


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"stemtwin {version('stemtwin')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars: results and errors only.")] = False,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the command line and all messages, with the time, to a file."),
    ] = None,
) -> None:
    use_defaults(context)
    if quiet:
        context.call_on_close(output.silence())
    if log is not None:
        try:
            context.call_on_close(output.copy_to(log, sys.argv[1:]))
        except OSError as error:
            stop(f"--log {log}: {error.strerror or error}")
