"""What the operator of this computer has said: which instruments may be moved, which hosts may be sent the token.

It stands in the operator's own configuration file or on the command line, never in a scenario: scenarios are passed
from hand to hand, and one that was downloaded must neither move an instrument nor learn a token.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml

from twin.errors import StemtwinError
from twin.instrument.line import split_address
from twin.options import OptionError, checked_options, validated

_NO_PORT = 65535
"""Stands for "any port" while an address is split; port 0 is refused there."""

_named_on_command_line: list[str] = []


class OperatorError(StemtwinError, ValueError):
    """The operator's configuration cannot be used, or the operator has not allowed what a scenario asks for."""


@validated
class Operator:
    """The operator's configuration file.

    Attributes:
        move: microscopes that may be moved without `--move`: KIND for every one of a kind, or KIND:HOST.
        token_hosts: hosts that may be sent the token: HOST, HOST:PORT, [IPV6] or [IPV6]:PORT.
        defaults: default values of options by command, for example `{"calibrate": {"out": "/data/runs"}}`.
    """

    move: tuple[str, ...] = ()
    token_hosts: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for address in self.token_hosts:
            split_address(address, _NO_PORT)

    def allows_move(self, kind: str, host: str | None = None) -> bool:
        """Return whether the file allows to move a microscope of this kind, at this host if it has one."""
        allowed = {kind.partition(":")[::2] for kind in self.move}
        return any(name == kind and (not at or (host is not None and _same_host(at, host))) for name, at in allowed)


def config_path() -> Path:
    """Return the place of the configuration: `$XDG_CONFIG_HOME/stemtwin/config.yaml`, by default in `~/.config`."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification has relative paths ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "stemtwin" / "config.yaml"


def load(path: Path | None = None) -> Operator:
    r"""Read the configuration; without a file everything has its default.

    Args:
        path: default `config_path()`.

    Raises:
        OperatorError: the file cannot be read, or a key or value is refused; names the file and the nearest key.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "config.yaml"
        ...     _ = file.write_text("move: [nion]\ntoken_hosts: [microscope.example.org]\n")
        ...     operator = load(file)
        >>> operator.allows_move("nion"), operator.allows_move("remote", "10.0.0.5")
        (True, False)
    """
    path = path or config_path()
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Operator()
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise OperatorError(f"{path}: {reason}") from None
    if plain is None:
        return Operator()
    if not isinstance(plain, dict):
        raise OperatorError(f"{path}: keys and values are expected, got {type(plain).__name__}")
    try:
        return checked_options(Operator, plain)
    except OptionError as error:
        raise OperatorError(f"{path}: {error}") from None


def name_host(address: str) -> None:
    """Note a host that the operator named on the command line, for this process: HOST, HOST:PORT, [IPV6]:PORT.

    Raises:
        ValueError: not an address.
    """
    split_address(address, _NO_PORT)
    _named_on_command_line.append(address)


def token_hosts() -> tuple[str, ...]:
    """Return the hosts that the operator named: in the configuration file, and on this command line.

    Raises:
        OperatorError: as `load`.
    """
    return (*load().token_hosts, *_named_on_command_line)


def may_have_token(host: str, port: int) -> bool:
    """Return whether the operator named this host, at any port or at this one.

    Loopback is no exception: on a shared computer any user may listen there.

    Raises:
        OperatorError: as `load`.
    """
    return any(_matches(address, host, port) for address in token_hosts())


def check_token_host(host: str, port: int) -> None:
    """Refuse to send the token to a host that only a scenario names.

    Raises:
        OperatorError: says how to name the host.
    """
    if not may_have_token(host, port):
        raise OperatorError(
            f"the token is not sent to {host}:{port}, which only the scenario names:"
            f" give --microscope remote:{host}, or list it under token_hosts in {config_path()}"
        )


def _matches(address: str, host: str, port: int) -> bool:
    """Compare with one entry; without a port it stands for all ports of the host."""
    named, named_port = split_address(address, _NO_PORT)
    any_port = split_address(address, _NO_PORT - 1)[1] != named_port
    return _same_host(named, host) and (any_port or named_port == port)


def _same_host(one: str, other: str) -> bool:
    return _canonical(one) == _canonical(other)


def _canonical(host: str) -> str:
    """Return one spelling for each host; names are not looked up: what they resolve to is not the operator's word."""
    bare = host.strip().strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare
