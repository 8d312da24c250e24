"""The operator's own default values of options, from the configuration file (`twin.instrument.operator`)."""

from typing import Any

import typer

from scenarios.commands.refusal import stop
from twin.errors import StemtwinError, check_known


def use_defaults(context: typer.Context) -> None:
    """Let the commands of a group take the values of the configuration where the command line gives none."""
    from twin.instrument import operator

    path = operator.config_path()
    if not path.is_file():
        return
    commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
    try:
        defaults = operator.load(path).defaults
        for command in defaults:
            check_known(command, commands, f"a command (defaults in {path})", operator.OperatorError)
        found = {name: _by_parameter(commands[name], values, f"{path}: {name}") for name, values in defaults.items()}
    except StemtwinError as error:
        stop(str(error))
    context.default_map = {**(context.default_map or {}), **found}


def _by_parameter(command: Any, values: Any, where: str) -> dict[str, Any]:
    """Return values by the names of a command's parameters; given are those of its options, without dashes.

    Raises:
        OperatorError: no such option.
    """
    from twin.instrument.operator import OperatorError

    names = {
        text.removeprefix("--"): parameter.name
        for parameter in command.params
        for text in parameter.opts
        if text.startswith("--")
    }
    for option in values:
        check_known(option, names, f"an option here ({where})", OperatorError)
    return {names[option]: value for option, value in values.items()}
