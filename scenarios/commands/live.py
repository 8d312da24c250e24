"""`stemtwin live`: a page in the browser, until Ctrl-C."""

import json
import secrets
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from scenarios.commands.arguments import AsJson, Meta, Overrides, RunFolder, Scenario, Seed, SourceOptions
from scenarios.commands.refusal import refusals, stop
from scenarios.commands.serve import flush, stop_signals

MISSING = "the live page needs three more packages: pip install 'stemtwin[live]'"


def live(
    scenario: Scenario = "day_a",
    seed: Seed = 0,
    microscope: Annotated[
        str | None, typer.Option(metavar="KIND[:ADDRESS]", help="Instead of the scenario's, e.g. remote:127.0.0.1.")
    ] = None,
    source: Annotated[
        str, typer.Option(metavar="FILE|URL", help="A file or camera for the scan panel, as for `stemtwin stream`.")
    ] = "",
    meta: Meta = None,
    options: SourceOptions = None,
    move: Annotated[
        bool, typer.Option("--move", help="Move the scenario's instrument; --microscope KIND does, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the commands to an instrument instead of sending them.")] = False,
    out: RunFolder = Path("runs"),
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback lets other machines in, with the token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="STEMTWIN_TOKEN", help="Part of the page's address [default: a new one].")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn the knobs of a microscope in the browser. Calibrate it, watch a scan. Ctrl-C stops it (exit 0)."""
    from agents.sources import kind_of
    from scenarios import choices
    from scenarios.calibration.instruments import address_overrides, consents
    from scenarios.commands.calibrate import name_hosts
    from scenarios.schema import load
    from twin.server.access import Access

    try:
        from scenarios.live.desk import Settings
        from scenarios.live.server import LiveServer
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "websockets"):
            raise
        stop(MISSING)
    with stop_signals() as stopping:
        with refusals("interrupted before the page was ready"):
            changes = list(overrides or ()) + ([] if microscope is None else address_overrides(microscope))
            name_hosts(changes)
            chosen = load(scenario, changes)
            if source:
                kind_of(source)
            meant = move or any(change.startswith("microscope.kind=") for change in changes)
            consent = not dry_run and consents(chosen, meant)
            given, how = choices.of_source(meta or (), options or ())
            if (given or how) and not source:
                stop("--meta and --option describe a source: add --source FILE or URL")
            words = token or secrets.token_urlsafe(24)
            access = Access(host, words)
            try:
                server = LiveServer(Settings(chosen, seed, out, consent, source, given, how), access, words, port)
            except (ValueError, OSError) as error:
                stop(str(error))
        stopping.armed = True
        with server:
            if as_json:
                typer.echo(json.dumps({"url": server.url, "port": server.port}))
            else:
                typer.echo(f"{scenario}, seed {seed}: {server.url}\nCtrl-C stops")
            flush()
            if not no_browser:
                webbrowser.open(server.url)
            stopping.wait()
            said = server.close("the live page was stopped")
        if said and not as_json:
            typer.echo(said)
