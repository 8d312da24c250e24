"""Consent: an instrument moves if the operator said so, here and now or in the own configuration; else a dry run."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from scenarios.calibration import run
from scenarios.calibration.instruments import consents
from scenarios.cli import app
from scenarios.schema import Scenario
from twin.arrays import Array
from twin.instrument import operator
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Capabilities, Frame

Make = Callable[..., Scenario]


class Lens:
    """An instrument that counts what it is asked."""

    def __init__(self, optics: Optics, space: StateSpace) -> None:
        side = optics.camera_pixels
        self.capabilities = Capabilities("lens", optics, space, (side, side), 4000)
        self.asked: list[str] = []
        self.frames, self.position_nm = 0, space.zero

    def reset(self, rng: np.random.Generator) -> None:
        self.asked.append("reset")

    def apply(self, delta_nm: Array) -> None:
        self.asked.append("apply")
        self.position_nm = self.position_nm + delta_nm

    def read_back_nm(self) -> Array:
        self.asked.append("read_back_nm")
        return self.position_nm

    def next_dose_e(self) -> float:
        self.asked.append("next_dose_e")
        return 100.0

    def region(self) -> str:
        self.asked.append("region")
        return "here"

    def acquire(self) -> Frame:
        self.asked.append("acquire")
        self.frames += 1
        side = self.capabilities.camera_shape[0]
        counts = np.random.default_rng(self.frames).poisson(9, (side, side)).astype(np.uint16)
        return Frame(counts, 100.0, 0.1, float(self.frames))


@pytest.fixture
def lenses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Lens]:
    """Every `nion` instrument that is built is one of these."""
    made: list[Lens] = []

    def make(options: object, optics: Optics, space: StateSpace) -> Lens:
        made.append(Lens(optics, space))
        return made[-1]

    monkeypatch.setattr("twin.backends.nion.make", make)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(operator, "_named_on_command_line", [])
    return made


@pytest.fixture
def scenario(small: Make, tmp_path: Path) -> str:
    """A file that names an instrument."""
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump({**small(2).resolved(), "name": "lab", "microscope": {"kind": "nion"}}))
    return str(path)


def calibrated(scenario: str, tmp_path: Path, *words: str) -> Any:
    arguments = ["calibrate", scenario, "--controller", "random", "--out", str(tmp_path / "runs"), "--json"]
    return CliRunner().invoke(app, [*arguments, *words])


def configure(tmp_path: Path, text: str) -> None:
    (tmp_path / "xdg" / "stemtwin").mkdir(parents=True)
    (tmp_path / "xdg" / "stemtwin" / "config.yaml").write_text(text)


def test_a_scenario_alone_gives_a_dry_run_that_says_so(lenses: list[Lens], scenario: str, tmp_path: Path) -> None:
    done = calibrated(scenario, tmp_path)
    assert done.exit_code == 0, done.output
    assert "a dry run: " in done.stderr
    assert "--move, --microscope nion, or `move: [nion]` in your configuration" in done.stderr
    assert [lens.asked for lens in lenses] == [[]]  # nothing that could move or expose, or even connect
    assert json.loads(done.stdout)["dry_run"] is True


def test_a_dry_run_is_marked_in_every_file_and_replaces_nothing(
    lenses: list[Lens], scenario: str, tmp_path: Path
) -> None:
    assert calibrated(scenario, tmp_path, "--move").exit_code == 0
    real = tmp_path / "runs" / "lab" / "random" / "0"
    before = {path.name: path.read_bytes() for path in real.iterdir()}
    assert calibrated(scenario, tmp_path, "--dry-run", "--overwrite").exit_code == 0
    assert {path.name: path.read_bytes() for path in real.iterdir()} == before
    rehearsal = real.with_name("0-dry-run")
    assert sorted(path.name for path in rehearsal.iterdir()) == [
        "config.yaml", "report.html", "steps.csv", "summary.json",
    ]  # fmt: skip
    assert "# DRY RUN" in (rehearsal / "config.yaml").read_text()
    assert "DRY RUN" in (rehearsal / "report.html").read_text()
    assert json.loads((rehearsal / "summary.json").read_text())["dry_run"] is True
    with (rehearsal / "steps.csv").open(newline="") as file:
        assert [row["dry_run"] for row in csv.DictReader(file)] == ["1", "1"]
    assert "DRY RUN" not in (real / "report.html").read_text()
    assert json.loads((real / "summary.json").read_text())["dry_run"] is False


@pytest.mark.parametrize("words", [("--move",), ("--microscope", "nion"), ("--set", "microscope.kind=nion")])
def test_the_command_line_is_consent(lenses: list[Lens], scenario: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = calibrated(scenario, tmp_path, *words)
    assert done.exit_code == 0, done.output
    assert "dry run" not in done.stderr
    assert {"reset", "apply", "acquire"} <= set(lenses[-1].asked)
    assert (tmp_path / "runs" / "lab" / "random" / "0" / "audit.jsonl").is_file()


@pytest.mark.parametrize(("text", "moves"), [("move: [nion]", True), ("move: [autoscript]", False), ("", False)])
def test_the_operators_configuration_is_consent(
    lenses: list[Lens], scenario: str, tmp_path: Path, text: str, moves: bool
) -> None:
    configure(tmp_path, text)
    done = calibrated(scenario, tmp_path)
    assert done.exit_code == 0, done.output
    assert bool(lenses[-1].asked) is moves


def test_consent_for_one_host_is_not_for_another(small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    configure(tmp_path, "move: ['remote:10.0.0.5']")
    for host, moves in (("10.0.0.5", True), ("10.0.0.5:6341", True), ("10.0.0.6", False), (None, False)):
        changes = ["microscope.kind=remote", *([] if host is None else [f'microscope.options.host="{host}"'])]
        assert consents(small(1, *changes)) is moves
    assert consents(small(1))  # the simulator
    assert consents(small(1, "microscope.kind=remote"), move=True)


def test_python_needs_consent_too(lenses: list[Lens], small: Make, tmp_path: Path) -> None:
    scenario = small(2, "microscope.kind=nion")
    assert run.calibrate(scenario, "random", 0, tmp_path, report=False).dry_run
    assert not lenses[-1].asked
    assert not run.calibrate(scenario, "random", 0, tmp_path, report=False, move=True).dry_run
    assert "apply" in lenses[-1].asked


def test_a_host_on_the_command_line_may_have_the_token(lenses: list[Lens], scenario: str, tmp_path: Path) -> None:
    assert calibrated(scenario, tmp_path, "--microscope", "nion").exit_code == 0
    assert operator.token_hosts() == ()
    calibrated(scenario, tmp_path, "--dry-run", "--microscope", "remote:10.0.0.5:6340")
    assert operator.token_hosts() == ("10.0.0.5:6340",)
    done = calibrated(scenario, tmp_path, "--set", "microscope.options.host='a b'")
    assert (done.exit_code, "an address is HOST" in done.stderr) == (2, True)


def test_default_options_come_from_the_configuration(lenses: list[Lens], scenario: str, tmp_path: Path) -> None:
    configure(tmp_path, f"defaults:\n  calibrate: {{out: {tmp_path / 'own'}, controller: random, json: true}}\n")
    done = CliRunner().invoke(app, ["calibrate", scenario])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["directory"].startswith(str(tmp_path / "own" / "lab" / "random"))
    assert CliRunner().invoke(app, ["calibrate", scenario, "--out", str(tmp_path / "asked")]).exit_code == 0
    assert (tmp_path / "asked").is_dir()  # the command line comes first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaults: {calibrat: {out: x}}", "(did you mean calibrate?)"),
        ("defaults: {calibrate: {oit: x}}", "(did you mean out?)"),
        ("defauts: {}", "(did you mean defaults?)"),
    ],
)
def test_a_bad_configuration_is_one_line(
    lenses: list[Lens], scenario: str, tmp_path: Path, text: str, words: str
) -> None:
    configure(tmp_path, text)
    done = CliRunner().invoke(app, ["calibrate", scenario])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert not lenses
