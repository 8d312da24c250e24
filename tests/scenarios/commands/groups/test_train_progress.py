"""Progress of `stemtwin train`: a bar for every stage, a new one if it comes again; the last line uses the weights."""

import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scenarios.cli import app
from scenarios.commands.groups.train import Bars, use_of
from twin import interrupt


def shown(calls: list[tuple[str, int, int]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Last state of every bar."""
    show = Bars("posterior")
    for stage, done, total in calls:
        show(stage, done, total, "")
    states = re.findall(r"posterior: ([^:]+): +\d+%[^|]*\|[^|]*\| (\d+/\d+)", capsys.readouterr().err)
    last = {(stage, state.partition("/")[2]): state for stage, state in states}
    return [f"{stage} {state}" for (stage, _), state in last.items()]


def test_a_second_set_of_frames_has_a_bar_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    calls = [("simulating days", done, 3) for done in range(4)] + [("simulating days", done, 5) for done in range(6)]
    assert shown(calls, capsys) == ["simulating days 3/3", "simulating days 5/5"]


def test_a_stage_of_the_same_length_begins_again_at_zero(capsys: pytest.CaptureFixture[str]) -> None:
    show = Bars("vae")
    for _ in range(2):
        for done in range(4):
            show("simulating days", done, 3, "")
    assert capsys.readouterr().err.count("100%") == 2


def test_a_resumed_stage_begins_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown([("simulating days", 2, 3), ("simulating days", 3, 3)], capsys) == ["simulating days 3/3"]


def test_the_last_line_calibrates_with_the_new_weights() -> None:
    line = use_of("vae_em", Path("my weights.safetensors"), "day_b", ["optics.energy_kev=200"])
    assert line == (
        "stemtwin calibrate day_b --controller vae_em --set optics.energy_kev=200"
        " --set 'controllers.vae_em.weights=my weights.safetensors'"
    )


def test_a_change_of_the_scenario_is_checked_before_anything_is_simulated(tmp_path: Path) -> None:
    words = ["train", "quality", "day_a", "--set", "optics.semi_angle_mrad=20", "--work", str(tmp_path / "work")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "did you mean convergence_mrad?" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_signal_that_a_library_swallowed_ends_the_work_at_the_next_step() -> None:
    show = Bars("vae")
    with interrupt.session():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            show("simulating days", 0, 3, "")
