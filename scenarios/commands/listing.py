"""`stemtwin list`: names and summaries. Reads docstrings without importing the modules, which need torch."""

import ast
from collections.abc import Iterable
from pathlib import Path

import typer

app = typer.Typer(
    help="List scenarios, controllers, agents, microscopes or environments.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("scenarios")
def scenarios() -> None:
    """Scenarios that come with the package."""
    from scenarios.schema import description, library

    print_rows((name, description(name)) for name in library())


@app.command("controllers")
def controllers() -> None:
    """Calibration strategies: one file each in controller/strategies."""
    from controller import strategies
    from controller.base import names

    folder = Path(strategies.__path__[0])
    print_rows((name, _first_docstring_line(folder / f"{name}.py")) for name in names())


@app.command("agents")
def agents() -> None:
    """Streaming reconstructions: one file each in agents/methods."""
    from agents import methods
    from agents.base import names

    folder = Path(methods.__path__[0])
    print_rows((name, _first_docstring_line(folder / f"{name}.py")) for name in names())


@app.command("microscopes")
def microscopes() -> None:
    """Microscopes that a scenario can run on: the simulator, and one file each in twin/backends."""
    from twin import backends

    folder = Path(backends.__path__[0])
    simulator = _first_docstring_line(folder.parent / "simulated.py")
    rows = {name: _first_docstring_line(folder / f"{name}.py") for name in backends.kinds() if name != "simulated"}
    print_rows(sorted({**rows, "simulated": simulator}.items()))


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


def _first_docstring_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print a name and a text per line, the texts aligned."""
    lines = list(rows)
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        typer.echo(f"{name:{width}}  {text}".rstrip())
