"""What the operator said: read from the operator's own file and command line, and from nowhere else."""

from pathlib import Path

import pytest

from twin.instrument import operator
from twin.instrument.operator import Operator, OperatorError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(operator, "_named_on_command_line", [])
    path = tmp_path / "stemtwin" / "config.yaml"
    path.parent.mkdir()
    return path


def test_without_a_file_nothing_is_allowed() -> None:
    assert operator.load() == Operator()
    assert not operator.may_have_token("127.0.0.1", 6340)
    assert not operator.load().allows_move("nion")


def test_the_file_follows_xdg_config_home(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert operator.config_path() == config
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert operator.config_path() == Path.home() / ".config" / "stemtwin" / "config.yaml"


@pytest.mark.parametrize(
    ("named", "host", "port", "allowed"),
    [
        ("scope.example.org", "scope.example.org", 6340, True),
        ("scope.example.org", "SCOPE.example.org.", 1, True),
        ("scope.example.org", "evil.scope.example.org", 6340, False),
        ("scope.example.org", "scope.example.org.evil.net", 6340, False),
        ("10.0.0.7:6340", "10.0.0.7", 6340, True),
        ("10.0.0.7:6340", "10.0.0.7", 6341, False),
        ("10.0.0.7:65535", "10.0.0.7", 1, False),
        ("[fd00::1]", "fd00:0:0::1", 9, True),
        ("[fd00::1]:9", "fd00::1", 10, False),
        ("localhost", "127.0.0.1", 6340, False),
    ],
)
def test_the_token_goes_to_named_hosts_only(config: Path, named: str, host: str, port: int, allowed: bool) -> None:
    config.write_text(f'token_hosts: ["{named}"]\n')
    assert operator.may_have_token(host, port) is allowed


def test_the_command_line_names_a_host() -> None:
    with pytest.raises(
        OperatorError, match=r"not sent to 10\.0\.0\.5:6340.*--microscope remote:10\.0\.0\.5.*token_hosts"
    ):
        operator.check_token_host("10.0.0.5", 6340)
    operator.name_host("10.0.0.5")
    operator.check_token_host("10.0.0.5", 6340)
    with pytest.raises(ValueError, match="an address is"):
        operator.name_host("10.0.0.5:99999")


def test_consent_is_by_kind_or_by_kind_and_host(config: Path) -> None:
    config.write_text("move: [nion, 'remote:10.0.0.5']\n")
    allowed = operator.load()
    assert allowed.allows_move("nion")
    assert allowed.allows_move("nion", "anything")
    assert allowed.allows_move("remote", "10.0.0.5")
    assert not allowed.allows_move("remote", "10.0.0.6")
    assert not allowed.allows_move("remote")
    assert not allowed.allows_move("autoscript")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("token_host: [a]", r"config.yaml: 'token_host' is not an option here \(did you mean token_hosts\?\)"),
        ("token_hosts: ['a b']", "config.yaml: .*an address is HOST"),
        ("token_hosts: 5", "config.yaml: token_hosts: "),
        ("move: {a: 1}", "config.yaml: move: "),
        ("- 1", "config.yaml: keys and values are expected, got list"),
        ("a: [", "config.yaml: "),
        ("defaults: 1", "config.yaml: defaults: "),
        ("a: 2001-13-45", "config.yaml: "),
    ],
)
def test_a_bad_file_is_one_sentence(config: Path, text: str, words: str) -> None:
    config.write_text(text)
    with pytest.raises(OperatorError, match=words) as refused:
        operator.load()
    assert "\n" not in str(refused.value)
