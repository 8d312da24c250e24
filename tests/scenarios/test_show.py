"""`stemtwin show`, `stemtwin list NAME`, `--quiet`, `--log`: what people look for first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from controller.strategies import coordinate_scan, vae_em
from scenarios.cli import app
from scenarios.option_table import rows, unit_of
from scenarios.schema import load
from twin.options import checked_options


def stemtwin(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("name", ["day_a", "sto_001", "random_1"])
def test_the_output_of_show_is_the_scenario(name: str, tmp_path: Path) -> None:
    done = stemtwin("show", name, "--seed", "3")
    assert done.exit_code == 0, done.output
    path = tmp_path / "again.yaml"
    path.write_text(done.stdout)
    assert load(path) == load(name).for_seed(3)


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("space: second_order\nday: {camera: {gain: 2.0}}\n")
    done = stemtwin("show", str(path), "--set", "day.dose_e=3e5", "--json")
    shown = json.loads(done.stdout)
    sources = shown["sources"]
    assert sources["day.camera.gain"] == sources["space.names"] == "mine.yaml"
    assert sources["day.dose_e"] == "--set day.dose_e"
    assert sources["day.film.thickness_nm"] == sources["optics.grid"] == "default"
    assert shown["scenario"]["day"]["dose_e"] == 3e5


def test_an_override_of_a_section_hides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("day: {camera: {gain: 2.0, shading: 0.1}}\n")
    done = stemtwin("show", str(path), "--set", "day.camera={gain: 3.0}", "--json")
    assert json.loads(done.stdout)["sources"]["day.camera.gain"] == "--set day.camera"


def test_a_drawn_day_is_shown_with_its_seed() -> None:
    (line,) = [line for line in stemtwin("show", "random_1", "--seed", "4").stdout.splitlines() if "dose_e" in line]
    assert line.endswith("# drawn by seed 4 at severity 1")


def test_an_entry_is_listed_with_default_unit_and_limits() -> None:
    lines = stemtwin("list", "coordinate_scan").stdout.splitlines()
    assert lines[0].startswith("coordinate_scan, a controller: Scan one coefficient after the other")
    (line,) = [line for line in lines if line.split()[0] == "stop_nm"]
    assert line.split()[1:5] == [str(coordinate_scan.Options().stop_nm), "nm", ">", "0"]
    assert lines[-1].strip().startswith("stemtwin calibrate day_a --controller coordinate_scan")


def test_defaults_are_listed_as_a_scenario_has_them() -> None:
    (found,) = json.loads(stemtwin("list", "vae_em", "--json").stdout)
    default = {row["name"]: yaml.safe_load(row["default"]) for row in found["options"]}
    assert default["hard"] is False
    assert default["refinement"]["perturb_nm"] is None
    assert checked_options(vae_em.Options, default) == vae_em.Options()


def test_a_preset_is_listed_with_its_own_defaults() -> None:
    (found,) = json.loads(stemtwin("list", "vae_em_paper", "--json").stdout)
    assert {row["name"]: row["default"] for row in found["options"]}["weights"] == "vae_nominal_3"


@pytest.mark.parametrize(("preset", "fixed"), [("vae_em_hard", "hard"), ("adf", "layout")])
def test_what_defines_a_preset_is_not_offered(preset: str, fixed: str) -> None:
    (found,) = json.loads(stemtwin("list", preset, "--json").stdout)
    assert fixed not in [row["name"] for row in found["options"]]


def test_a_name_of_two_things_shows_both() -> None:
    kinds = [entry["kind"] for entry in json.loads(stemtwin("list", "sto_001", "--json").stdout)]
    assert kinds == ["scenario", "specimen"]


@pytest.mark.parametrize("what", ["specimens", "trainings", "microscopes"])
def test_lists_have_a_line_per_entry(what: str) -> None:
    lines = stemtwin("list", what).stdout.splitlines()
    assert len(lines) > 3
    assert all(len(line.split()) > 2 for line in lines)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("step_nm", "nm"),
        ("beam_current_a", "A"),
        ("rate_nm_per_sqrt_s", "nm/sqrt(s)"),
        ("frames", ""),
        ("dose_e", "electrons"),
    ],
)
def test_the_unit_is_the_end_of_the_name(name: str, unit: str) -> None:
    assert unit_of(name) == unit


def test_every_row_has_a_meaning() -> None:
    assert all(row.meaning for row in rows(coordinate_scan.Options))


def test_a_log_holds_command_line_messages_and_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "x.log"
    monkeypatch.setattr(sys, "argv", ["stemtwin", "--log", str(log), "show", "dya_a"])
    before = sys.stderr
    for _ in range(2):
        assert stemtwin("--log", str(log), "show", "dya_a").exit_code == 2
    assert sys.stderr is before
    lines = [line.split(" ", 2)[2] for line in log.read_text().splitlines()]
    assert lines[0] == f"stemtwin --log {log} show dya_a"
    assert lines[1].startswith("stemtwin: 'dya_a' is not a scenario (did you mean day_a?)")
    assert lines[2] == "exit 2"
    assert lines[3:] == lines[:3]


def test_quiet_shows_no_bar(tmp_path: Path) -> None:
    small = ["optics.grid=256", "optics.sampling_nm=0.05", "optics.convergence_mrad=14", "optics.camera_pixels=64"]
    words = ["calibrate", "nominal", "--controller", "random", "--observations", "1"]
    words += [word for change in small for word in ("--set", change)]
    shown = stemtwin(*words, "--out", str(tmp_path / "shown"))
    assert shown.exit_code == 0, shown.output
    assert "obs" in shown.stderr
    # A process of its own: tqdm reads what `--quiet` sets when it is imported.
    command = [sys.executable, "-c", "from scenarios.cli import main; main()", "--quiet", *words]
    command += ["--out", str(tmp_path / "quiet")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "obs" not in done.stderr


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in stemtwin("--help").stdout
