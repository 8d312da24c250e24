"""`stemtwin list`: names and summaries. Reads docstrings without importing the modules, which need torch."""

from collections.abc import Iterable

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
    """Calibration strategies: one file each in controller/strategies, and presets of them."""
    from controller.base import describe, names

    print_rows((name, describe(name)) for name in names())


@app.command("agents")
def agents() -> None:
    """Streaming reconstructions: one file each in agents/methods, and presets of them."""
    from agents.base import describe, names

    print_rows((name, describe(name)) for name in names())


@app.command("microscopes")
def microscopes() -> None:
    """Microscopes that a scenario can run on: the simulator, and one file each in twin/backends."""
    import twin
    from twin import backends, registry

    packages = {name: twin if name == backends.SIMULATED else backends for name in backends.kinds()}
    print_rows((name, registry.describe(package, name)) for name, package in packages.items())


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
