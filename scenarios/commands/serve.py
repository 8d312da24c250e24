"""`stemtwin serve`: a scenario's microscope on network ports, until Ctrl-C."""

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from scenarios.serve import Serving, TwinServer

INTERRUPTED = 130
LOOK_S = 0.05
"""How often the command looks whether it should stop."""
Port = Annotated[int | None, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")]


def serve(
    scenario: Annotated[str, typer.Argument(help="A library scenario, or a .yaml file.")] = "sto_001",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same session.")] = 0,
    port: Annotated[
        int | None, typer.Option(min=0, max=0, metavar="0", help="0: free ports for all that have none of their own.")
    ] = None,
    merlin_control: Port = None,
    merlin_data: Port = None,
    corrector: Port = None,
    events: Port = None,
    control: Port = None,
    paced: Annotated[
        bool, typer.Option("--paced/--free", help="In the instrument's time, or as fast as it is computed.")
    ] = True,
    prepare: Annotated[bool, typer.Option(help="Compute the scan before, and show it as a film.")] = False,
    mode: Annotated[
        Literal["ronchigram", "scan"] | None, typer.Option(help="What the Merlin camera sees at first.")
    ] = None,
    event_metadata: Annotated[
        bool, typer.Option(help="Tell step and angles in the event stream; LiberTEM's client cannot take that.")
    ] = False,
    expose_truth: Annotated[bool, typer.Option(help="Tell the hidden aberrations over the control channel.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="STEMTWIN_TOKEN", help="Clients have to say it first; see docs/serving.md.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.KEY=VALUE", help="Change one value of the scenario.")
    ] = None,
    verbose: Annotated[bool, typer.Option(help="Say who comes and goes, on stderr.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ports as one JSON object.")] = False,
) -> None:
    """Serve the microscope to other software: Merlin camera, corrector, events, control. Ctrl-C stops it (exit 0)."""
    from scenarios.schema import ScenarioError
    from scenarios.serve import Serving

    given = {
        "merlin_control": merlin_control,
        "merlin_data": merlin_data,
        "corrector": corrector,
        "events": events,
        "control": control,
    }
    ports = {name: number for name, number in given.items() if number is not None}
    serving = Serving(ports, port == 0, paced, prepare, mode, event_metadata, expose_truth, host, token)  # type: ignore[arg-type]
    _show_log(verbose)
    with _stop_signals() as stop:
        try:
            server = _ready(scenario, seed, list(overrides or ()), serving)
            stop.armed = True
        except ScenarioError as error:
            typer.echo(f"stemtwin: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("stemtwin: interrupted before anything was served", err=True)
            raise typer.Exit(INTERRUPTED) from None
        with server:
            _tell(server, scenario, seed, as_json)
            stop.wait()


class _Stop:
    """What Ctrl-C does: an interrupt like any other until the server is ready, its end from then on."""

    def __init__(self) -> None:
        self.armed = self.pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.armed:
            raise KeyboardInterrupt
        self.pressed = True

    def wait(self) -> None:
        """Until a signal came.

        By looking, not by waiting for a lock: a signal that comes just before a thread falls asleep on one is kept
        until the thread wakes up, which would be never. Nor may a handler take a lock that its own thread has.
        """
        while not self.pressed:
            time.sleep(LOOK_S)


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """SIGINT and SIGTERM stop the server while this is open."""
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_log(verbose: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("twin.server")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.handlers, log.propagate = [handler], False


def _ready(scenario: str, seed: int, changes: list[str], serving: "Serving") -> "TwinServer":
    """The server, its scan prepared if that is wanted, with a progress bar on stderr."""
    from tqdm import tqdm

    from scenarios.schema import load
    from scenarios.serve import TwinServer

    chosen = load(scenario, changes)
    if not serving.prepare or chosen.scan is None:
        return TwinServer(chosen, seed, serving)
    with tqdm(total=chosen.scan.plan.count, desc=chosen.name, unit="pos", leave=False) as bar:

        def show(positions: int) -> None:
            bar.update(positions)

        return TwinServer(chosen, seed, serving, show)


def _tell(server: "TwinServer", scenario: str, seed: int, as_json: bool) -> None:
    """The ports, at once: whoever started this is waiting for them."""
    from scenarios.serve import described

    host = server.serving.host
    if as_json:
        told = {"scenario": scenario, "seed": seed, "host": host, "ports": server.ports}
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"{scenario}, seed {seed}, on {host}")
        for name, text in described(server):
            typer.echo(f"  {name:15}{text}")
        typer.echo("ready; Ctrl-C stops")
    sys.stdout.flush()
