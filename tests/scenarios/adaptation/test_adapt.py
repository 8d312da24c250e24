"""`stemtwin adapt`: from images of a day to a network and the day's conditions; refusals in a sentence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from agents.defects import day
from agents.defects.adaptation import AdaptOptions, adapted
from agents.defects.conditions import RANDOM, Conditions, only
from agents.defects.day import estimated
from agents.defects.network import WEIGHTS, DefectNetwork, Trained
from agents.defects.sheet import labelled_image
from scenarios.cli import app
from twin.optics import Optics
from twin.zcontrast.profile import ZContrast

BEAM = ZContrast(energy_kev=80.0, convergence_mrad=25.0, inner_mrad=63.0, outer_mrad=200.0)
NOISY = Conditions(dose_e_per_nm2=2e5, smear_px=0.8, contamination=0.4)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One focus and small images."""
    monkeypatch.setattr("agents.defects.sheet.C10_STEP_NM", 10.0)
    monkeypatch.setattr("agents.defects.day.TILE_NM", 1.6)
    monkeypatch.setattr("agents.defects.day.TREES", 30)
    monkeypatch.setattr("agents.defects.fitting.SIDE_NM", 3.1)


def image(conditions: Conditions, seed: int) -> np.ndarray:
    return labelled_image(BEAM, conditions, (80, 80), np.random.default_rng(seed)).image


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned nothing."""
    path = tmp_path_factory.mktemp("weights") / "nothing.safetensors"
    optics = Optics(energy_kev=80.0, convergence_mrad=25.0, sampling_nm=0.0125)
    WEIGHTS.save(Trained(DefectNetwork(8), optics, {}), path)
    return path


def called(*words: object) -> Result:
    return CliRunner().invoke(app, ["adapt", *map(str, words)])


def test_a_day_becomes_a_network_and_its_conditions(weights: Path, tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", image(NOISY, number))
    images = [tmp_path / f"{number}.npy" for number in range(2)]
    few = ("--simulated", 20, "--days", 10, "--epochs", 1, "--weights", weights, "--out", tmp_path / "day")
    found = called(*images, "--step-nm", 0.02, *few, "--json")
    assert found.exit_code == 0, found.output
    plain = json.loads(found.stdout)
    assert plain["conditions"]["step_nm"] == 0.02
    assert all(low <= high for low, high in plain["intervals"].values())
    adapted_network = WEIGHTS.load(tmp_path / "day" / "defects.safetensors")
    assert adapted_network.provenance["adapted"]["conditions"] == plain["conditions"]
    table = (tmp_path / "day" / "defects.csv").read_text().splitlines()
    assert table[0] == "image,x_nm,y_nm,kind,probability"
    again = called(images[0], "--step-nm", 0.02, *few)
    assert again.exit_code == 2
    assert "has the results of an earlier run" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--step-nm", 0.2), "0.2 nm apart"),
        (
            ("--step-nm", 0.02, "--ring-mrad", 90, 60),
            "a ring has an inner angle below the outer one, both from 0 to 1571 mrad, got 90 and 60",
        ),
        (("--step-nm", 0.02, "--weights", "defect"), "'defect' are not shipped weights"),
    ],
)
def test_what_cannot_be_used_is_refused(words: tuple[object, ...], message: str, weights: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", image(NOISY, 1))
    known = () if "--weights" in words else ("--weights", weights)
    found = called(tmp_path / "a.npy", *known, *words, "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert message in found.stderr


def test_noise_of_a_day_is_recognised_in_any_unit() -> None:
    noisy, quiet = NOISY, replace(NOISY, dose_e_per_nm2=3e6, smear_px=0.1, contamination=0.05)
    found = [
        estimated([unit * image(conditions, seed) for seed in range(3)], 0.02, BEAM, count=60)
        for conditions, unit in ((noisy, 1.0), (quiet, 0.01))
    ]
    assert found[0].conditions.dose_e_per_nm2 < 0.4 * found[1].conditions.dose_e_per_nm2
    assert all(RANDOM[name].low <= found[0].ranges[name].low for name in found[0].sigma)
    assert day.NOT_SEEN[0] not in found[0].sigma


def test_the_network_to_begin_with_stays() -> None:
    trained = Trained(DefectNetwork(8), Optics(), {})
    before = trained.network.last.weight.clone()
    after = adapted(trained, BEAM, only(NOISY), AdaptOptions(days=4, epochs=1))
    assert (trained.network.last.weight == before).all()
    assert (after.network.last.weight != before).any()
