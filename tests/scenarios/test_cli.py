"""The command: one JSON object, one line per error, lists without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from scenarios.cli import app

ISSUE_KEYS = {
    "controller",
    "scenario",
    "seed",
    "truth_nm",
    "estimate_nm",
    "std_nm",
    "error_nm",
    "in_spec",
    "observations",
    "seconds_per_step",
    "dose_e",
    "simulated_s",
}
IN_PROCESS = "from typer.testing import CliRunner; from scenarios.cli import app; CliRunner().invoke(app, {})"
Command = Callable[..., Result]


def stemtwin(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def calibrate(small_overrides: tuple[str, ...], tmp_path: Path) -> Command:
    """`stemtwin calibrate` on the small microscope with the random controller, into tmp_path."""

    def invoke(*arguments: str) -> Result:
        small = [word for override in small_overrides for word in ("--set", override)]
        return stemtwin("calibrate", *arguments, "--controller", "random", "--out", str(tmp_path), *small)

    return invoke


def test_json_is_exactly_one_object_with_one_entry_per_observation(calibrate: Command) -> None:
    result = calibrate("day_a", "--observations", "3", "--seed", "11", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    summary = json.loads(result.stdout)
    assert set(summary) >= ISSUE_KEYS
    assert (summary["controller"], summary["scenario"], summary["seed"]) == ("random", "day_a", 11)
    assert summary["observations"] == 3
    for key in ("error_nm", "in_spec", "seconds_per_step"):
        assert len(summary[key]) == 3
    for key in ("truth_nm", "estimate_nm", "std_nm"):
        assert len(summary[key]) == 3
    assert all(type(value) is bool for value in summary["in_spec"])


def test_the_table_ends_with_the_verdict_and_the_report(calibrate: Command, tmp_path: Path) -> None:
    result = calibrate("nominal", "--observations", "2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["#", "1", "2", "truth"]
    assert "after 2 observations" in lines[4]
    assert lines[5].startswith("probe by these coefficients alone: Strehl ratio ")
    report = Path(lines[6].removeprefix("report: "))
    assert report == tmp_path / "nominal" / "random" / "0" / "report.html"
    assert report.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["calibrate", "dya_a"], "'dya_a' is not a scenario (did you mean day_a?)"),
        (["calibrate", "--controller", "randon"], "'randon' is not a controller (did you mean random?)"),
        (["calibrate", "--set", "optics.semi_angle_mrad=3"], "did you mean convergence_mrad?"),
        (["calibrate", "--set", "day.dose_e"], "key.key=value"),
        (["calibrate", "--set", "optics.grid=300"], "camera spans 128 x 3 grid pixels; the grid has 300"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    result = stemtwin(*arguments, *(["--out", str(tmp_path / "runs")]))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr
    assert result.stderr.startswith("stemtwin: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [["calibrat"], ["calibrate", "--sed", "3"], ["calibrate", "--seed", "-1"], ["calibrate", "--observations", "0"]],
)
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    result = stemtwin(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_lists_describe_each_entry_in_one_line() -> None:
    scenarios = stemtwin("list", "scenarios").stdout.splitlines()
    names = [line.split()[0] for line in scenarios]
    assert names == sorted(names)
    assert {"day_a", "day_b", "day_c", "day_drift", "nominal", "random_1"} <= set(names)
    assert all(len(line.split()) > 3 for line in scenarios)
    controllers = stemtwin("list", "controllers").stdout
    assert "random" in controllers
    assert "Baseline that learns nothing" in controllers
    environments = [line.split()[0] for line in stemtwin("list", "environments").stdout.splitlines()]
    kinds = ("Calibration-v0", "Calibration7D-v0", "CalibrationSurrogate-v0", "Scan4D-v0")
    assert environments == [f"stemtwin/{kind}" for kind in kinds]


@pytest.mark.parametrize("group", [[], ["train"], ["figures"], ["list"]])
def test_a_list_of_commands_says_of_each_what_it_does_in_a_whole_sentence(group: list[str]) -> None:
    lines = stemtwin(*group, "--help").stdout.partition("Commands:")[2].splitlines()[1:]
    assert lines
    assert all(len(line) <= 80 and line.endswith(".") and not line.endswith("...") for line in lines), lines


def test_version_is_the_distribution_s() -> None:
    from importlib.metadata import version

    assert stemtwin("--version").stdout == f"stemtwin {version('stemtwin')}\n"


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import twin, controller, agents, scenarios",
        "import scenarios.cli",
        IN_PROCESS.format(["--help"]),
        IN_PROCESS.format(["list", "controllers"]),
        IN_PROCESS.format(["calibrate", "dya_a"]),
    ],
)
def test_nothing_heavy_is_imported_until_it_computes(statement: str) -> None:
    assert loaded_after(statement).isdisjoint({"torch", "abtem", "matplotlib", "gpytorch", "numba", "sklearn"})


def test_help_needs_no_numerics_at_all() -> None:
    statement = (
        "from typer.testing import CliRunner; from scenarios.cli import app; CliRunner().invoke(app, ['--help'])"
    )
    assert loaded_after(statement).isdisjoint({"scipy", "pydantic", "yaml"})


@pytest.mark.parametrize(("words", "code"), [(["list", "agents"], 0), (["list", "agent"], 2)])
def test_a_thread_that_still_computes_does_not_abort_the_end(words: list[str], code: int) -> None:
    # The libraries of C++ abort a program whose Python has gone while they compute: exit code 134.
    program = (
        "import sys, threading, numpy, scipy.fft; from scenarios.cli import main\n"
        "wave = numpy.ones((1024, 1024), complex)\n"
        "def compute():\n"
        "    while True:\n"
        "        scipy.fft.fft2(wave)\n"
        f"threading.Thread(target=compute, daemon=True).start(); sys.argv[1:] = {words}; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr
    assert ("ricom" in done.stdout) == (code == 0)
    assert len(done.stderr.splitlines()) == (code != 0)


def test_the_environment_is_reported_for_bug_reports() -> None:
    found = json.loads(stemtwin("report", "--environment", "--json").stdout)
    assert {"python", "stemtwin", "numpy", "torch"} <= found["versions"].keys()
    assert "GiB" in found["system"]["memory"]
    assert found["optional parts"]["train ppo"].startswith("stable_baselines3 is ")
    lines = stemtwin("report", "--environment").stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(found)
    assert stemtwin("report").exit_code == 2
