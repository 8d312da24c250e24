"""`stemtwin train ppo`: what it says when it cannot start."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scenarios.commands.train import app


def test_training_without_stable_baselines_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "stable_baselines3" else found(name, *rest)
    )
    done = CliRunner().invoke(app, ["ppo"])
    assert done.exit_code == 2
    assert "pip install 'stemtwin[rl]'" in done.output


@pytest.mark.parametrize(("arguments", "message"), [(["dya_a"], "day_a"), (["--reader", "regresion"], "regression")])
def test_a_typing_error_is_answered_with_the_nearest(arguments: list[str], message: str, tmp_path: Path):
    done: Any = CliRunner().invoke(app, ["ppo", *arguments, "--out", str(tmp_path / "p.safetensors")])
    assert done.exit_code == 2
    assert message in done.output
    assert not list(tmp_path.iterdir())
