"""`stemtwin serve`: a scenario's microscope on network ports, until Ctrl-C."""

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scenarios.commands.arguments import AsJson, Overrides, Scenario, Seed
from scenarios.commands.refusal import refusals

if TYPE_CHECKING:
    from scenarios.serve import Serving, TwinServer

POLL_S = 0.05
"""Interval at which the command checks whether it should stop."""
Port = Annotated[int | None, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")]


def serve(
    scenario: Scenario = "sto_001",
    seed: Seed = 0,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Take a free port for every service without a port option.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Base port: of control; merlin control, merlin data, corrector, events follow. 0 is --free-ports.",
        ),
    ] = None,
    merlin_control: Port = None,
    merlin_data: Port = None,
    corrector: Port = None,
    events: Port = None,
    control: Port = None,
    paced: Annotated[
        bool,
        typer.Option("--paced/--free", help="Send data at the instrument's pace, or as fast as they are computed."),
    ] = True,
    prepare: Annotated[bool, typer.Option(help="Compute the scan in advance and replay it.")] = False,
    mode: Annotated[
        Literal["ronchigram", "scan"] | None, typer.Option(help="What the Merlin camera records first.")
    ] = None,
    event_metadata: Annotated[
        bool, typer.Option(help="Send step and angles in the event stream; LiberTEM's client cannot read them.")
    ] = False,
    arm_events: Annotated[
        bool, typer.Option(help="Whoever connects to the event stream gets a scan: its clients say nothing first.")
    ] = False,
    expose_truth: Annotated[bool, typer.Option(help="Offer the hidden aberrations on the control channel.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="STEMTWIN_TOKEN", help="Clients have to send it first; see docs/serving.md.")
    ] = None,
    overrides: Overrides = None,
    verbose: Annotated[bool, typer.Option(help="Log connections on stderr.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the microscope to other software. Merlin camera, corrector, events, control. Ctrl-C stops it (exit 0)."""
    from scenarios.serve import Serving

    serving = Serving(
        ports=_named(
            merlin_control=merlin_control, merlin_data=merlin_data, corrector=corrector, events=events, control=control
        ),
        free_ports=free_ports or port == 0,
        base_port=port or None,
        paced=paced,
        prepare=prepare,
        mode=mode,
        event_metadata=event_metadata,
        expose_truth=expose_truth,
        host=host,
        token=token,
        arm_events=arm_events,
    )
    _show_log(verbose)
    with stop_signals() as stop:
        with refusals("interrupted before the server was ready"):
            server = _prepare(scenario, seed, list(overrides or ()), serving)
            stop.armed = True
        with server:
            _print_ports(server, scenario, seed, as_json)
            stop.wait()


def _named(**ports: int | None) -> dict[Any, int]:
    """Ports that were given, by service."""
    return {service: port for service, port in ports.items() if port is not None}


class _Stop:
    """Handler of these signals: an interrupt until the server is ready, the server's regular end from then on."""

    def __init__(self) -> None:
        self.armed = self.pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.armed:
            raise KeyboardInterrupt
        self.pressed = True

    def wait(self) -> None:
        """Wait for a signal.

        By polling, not on a lock: a signal that arrives just before a thread falls asleep on a lock is handled when the
        thread wakes up, which would be never. Nor may a handler take a lock that its own thread holds.
        """
        while not self.pressed:
            time.sleep(POLL_S)


@contextmanager
def stop_signals() -> Iterator[_Stop]:
    """Let SIGINT, SIGTERM and SIGHUP stop the server while this is open; under nohup it outlives its terminal."""
    stop, numbers = _Stop(), [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
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


def _prepare(scenario: str, seed: int, changes: list[str], serving: "Serving") -> "TwinServer":
    """Build the server; compute its scan in advance if asked for, with a progress bar on stderr."""
    from tqdm import tqdm

    from scenarios.schema import load
    from scenarios.serve import TwinServer

    chosen = load(scenario, changes)
    if not serving.prepare or chosen.scan is None:
        title = f"{chosen.name}, getting ready"
        with tqdm(desc=title, bar_format="{desc}, {elapsed}", leave=False, delay=0.5, disable=None):
            return TwinServer(chosen, seed, serving)
    with tqdm(total=chosen.scan.plan.count, desc=chosen.name, unit="pos", leave=False) as bar:

        def show(positions: int) -> None:
            bar.update(positions)

        return TwinServer(chosen, seed, serving, show)


def _print_ports(server: "TwinServer", scenario: str, seed: int, as_json: bool) -> None:
    """Print the ports and flush: a program that started this command waits for them."""
    from scenarios.serve import described

    host = server.serving.host
    if as_json:
        typer.echo(json.dumps({"scenario": scenario, "seed": seed, "host": host, "ports": server.ports}))
    else:
        typer.echo(f"{scenario}, seed {seed}, on {host}")
        for name, text in described(server):
            typer.echo(f"  {name:15}{text}")
        typer.echo("ready; Ctrl-C stops")
    flush()


def flush() -> None:
    """Hand what was printed to a program that waits for it, unless the output is closed, as by `>&-`."""
    if sys.stdout is not None:
        sys.stdout.flush()
