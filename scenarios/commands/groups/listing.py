"""`stemtwin list`: names and summaries, read from docstrings without importing the modules, which need torch.

`stemtwin list NAME` imports the module of that name and prints its options.
"""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer.core import TyperGroup

from scenarios.commands.refusal import refusals, stop

if TYPE_CHECKING:
    from scenarios.option_table import Row


WIDEST = 24
"""Characters of a cell above which the cells below it are not moved."""


class _OrName(TyperGroup):
    """The lists by name; any other name is that of an entry of one of them."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        return found if found is not None or cmd_name.startswith("-") else _entry_command(cmd_name)


app = typer.Typer(
    cls=_OrName,
    help="List scenarios, controllers, agents and the rest. `stemtwin list NAME` prints the options of one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    subcommand_metavar="LIST | NAME",
)


@app.command("scenarios")
def scenarios() -> None:
    """Scenarios that come with the package."""
    from scenarios.schema import description, library

    print_rows((name, description(name)) for name in library())


@app.command("controllers")
def controllers() -> None:
    """Calibration strategies. One file each in controller/strategies, and presets of them."""
    from controller.base import describe, names

    print_rows((name, describe(name)) for name in names())


@app.command("agents")
def agents() -> None:
    """Streaming reconstructions. One file each in agents/methods, and presets of them."""
    from agents.base import describe, names

    print_rows((name, describe(name)) for name in names())


@app.command("microscopes")
def microscopes() -> None:
    """Microscopes that a scenario can run on. The simulator, and one file each in twin/backends."""
    import twin
    from twin import backends, registry

    packages = {name: twin if name == backends.SIMULATED else backends for name in backends.kinds()}
    print_rows((name, registry.describe(package, name)) for name, package in packages.items())


@app.command("specimens")
def specimens() -> None:
    """Specimens of scans. One file each in twin/specimens."""
    from twin import registry
    from twin import specimens as package

    print_rows((name, registry.describe(package, name)) for name in registry.names(package))


@app.command("trainings")
def trainings() -> None:
    """Trainings of weights. One file each in the folder `training` of a package."""
    from scenarios.commands.groups.train import trainings as found
    from twin.registry import describe

    print_rows((name, describe(package, name)) for name, package in sorted(found().items()))


@app.command("environments")
def environments() -> None:
    """Gymnasium environments that `import twin` registers."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    import twin  # noqa: F401  (registers)
    from twin.state import FIRST_ORDER

    rows = []
    for name, spec in sorted(gymnasium.registry.items()):
        if name.startswith("stemtwin/") and isinstance(spec.entry_point, str):
            summary = (load_env_creator(spec.entry_point).__doc__ or "").splitlines()[0]
            coefficients = spec.kwargs.get("space", FIRST_ORDER).names
            rows.append((name, f"{summary} {', '.join(coefficients)}; {spec.max_episode_steps} steps"))
    print_rows(rows)


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print a name and a text per line, the texts aligned."""
    lines = list(rows)
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        typer.echo(f"{name:{width}}  {text}".rstrip())


# --- one entry -----------------------------------------------------------------------------------


class Entry(NamedTuple):
    """An entry that can be chosen by name.

    Attributes:
        kind: what it is.
        summary: one line.
        rows: its options.
        use: command line that uses it.
    """

    kind: str
    summary: str
    rows: Sequence["Row"]
    use: str


def _packages() -> dict[str, tuple[Any, str]]:
    """Packages whose entries have options, with a command line that uses one, by kind."""
    from agents import methods
    from controller import strategies
    from twin import backends
    from twin import specimens as package

    return {
        "controller": (strategies, "stemtwin calibrate day_a --controller {0} --set controllers.{0}.OPTION=VALUE"),
        "agent": (methods, "stemtwin scan sto_001 --agents {0}:OPTION=VALUE"),
        "microscope": (backends, "stemtwin calibrate day_a --microscope {0} --set microscope.options.OPTION=VALUE"),
        "specimen": (
            package,
            "stemtwin acquire sto_001 --set scan.specimen={0}",
        ),
    }


def known_names() -> list[str]:
    """Names of everything that `entries` finds."""
    from scenarios.commands.groups.train import trainings as found
    from scenarios.schema import library
    from twin import registry

    packages = [package for package, _ in _packages().values()]
    return sorted({*library(), *found(), *(name for package in packages for name in registry.names(package))})


def entries(name: str) -> list[Entry]:
    """Everything of that name; a scenario and a specimen may share one.

    Raises:
        PluginError: a module of another package cannot be used.
    """
    from scenarios.commands.groups.train import load
    from scenarios.commands.groups.train import trainings as of_trainings
    from scenarios.option_table import rows
    from scenarios.schema import description, library
    from twin import registry

    found = []
    if name in library():
        found.append(Entry("scenario", description(name), (), f"stemtwin show {name}"))
    for kind, (package, use) in _packages().items():
        if name in registry.names(package):
            preset = registry.presets(package).get(name, registry.Preset(name, {}))
            options = getattr(registry.module(package, name), "Options", None)
            table = [] if options is None else rows(options, preset.options, preset.fixed)
            found.append(Entry(kind, registry.describe(package, name), table, use.format(name)))
    if name in of_trainings():
        line = registry.describe(of_trainings()[name], name)
        table = rows(load(name).TRAINING.options)
        found.append(Entry("training", line, table, f"stemtwin train {name} --help"))
    return found


def _entry_command(name: str) -> Any:
    """Make the command that prints the options of `name`."""
    from scenarios.commands.arguments import AsJson

    def entry(as_json: AsJson = False) -> None:
        """Print the options of everything of this name, or refuse a name that nothing has."""
        from twin.errors import nearest, printable

        with refusals():
            found = entries(name)
        if not found:
            lists = [command.name or "" for command in app.registered_commands]
            suggestion = nearest(name, [*lists, *known_names()])
            stop(f"{printable(repr(name), 60)} is neither a list nor a name{suggestion}; lists: {', '.join(lists)}")
        if as_json:
            typer.echo(json.dumps([_plain(one) for one in found], default=str))
        else:
            for one in found:
                _print_entry(name, one)

    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, help="Print the options of one entry: default, unit, limits, meaning.")(entry)
    return typer.main.get_command(single)


def _plain(entry: Entry) -> dict[str, Any]:
    """An entry as `--json` prints it, with one mapping per option."""
    table = [row._asdict() for row in entry.rows]
    return {"kind": entry.kind, "summary": entry.summary, "options": table, "use": entry.use}


def _print_entry(name: str, entry: Entry) -> None:
    """Print an entry as a table of its options, aligned, and a command line that uses it."""
    typer.echo(f"{name}, a {entry.kind}: {entry.summary}".replace("a agent", "an agent"))
    cells = [(f"  {row.name}", row.default, row.unit, row.limits, row.meaning) for row in entry.rows]
    widths = [max((len(cell[n]) for cell in cells if len(cell[n]) <= WIDEST), default=0) for n in range(4)]
    for cell in cells:
        columns = (f"{text:{width}}" for text, width in zip(cell, widths, strict=False))
        typer.echo(f"{'  '.join(columns)}  {cell[-1]}".rstrip())
    if not entry.rows and entry.kind != "scenario":
        typer.echo("  no options")
    typer.echo(f"  {entry.use}")
