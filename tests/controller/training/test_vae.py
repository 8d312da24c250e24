"""Training: resumable to the bit, refused in another configuration's folder, one file at the end."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controller.dataset import Dataset, DayRanges, nominal_ranges
from controller.frame_set import held_out, held_out_days, simulated
from controller.training import vae as training
from controller.training.vae import TRAINING, Options, fit
from controller.vae_em import artefact
from controller.vae_em.latent_gp import KERNEL_CODES
from controller.vae_em.network import Vae, elbo, encode_mean
from learning.training import Progress, TrainingRun, plain, silent
from learning.work_folder import ResumeError
from twin.optics import Optics
from twin.state import FIRST_ORDER

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SETTINGS: dict[str, Any] = {"days": 8, "frames_per_day": 4, "latent": 2, "epochs": 3, "batch": 7}


pytestmark = pytest.mark.usefixtures("days_made")


class Interrupted(Exception):
    """Stands for a power cut."""


def options(**changes: Any) -> Options:
    return Options(**(SETTINGS | changes))


def run_in(work: Path, progress: Progress = silent) -> TrainingRun:
    return TrainingRun(SMALL, FIRST_ORDER, work, work, progress)


def toy_data(days: int = 8, frames_per_day: int = 4) -> Dataset:
    """Spectra that depend on one hidden number each; no physics."""
    rng = np.random.default_rng(1)
    count = days * frames_per_day
    pattern, hidden = rng.standard_normal((64, 32)), rng.standard_normal((count, 1, 1))
    spectra = 2.0 + pattern * hidden + 0.5 * rng.standard_normal((count, 64, 32))
    numbers = np.repeat(np.arange(days), frames_per_day)
    none = np.zeros((count, 0, 0, 0), np.float16)
    states, beams = hidden[:, :, 0] * np.ones(3), np.zeros((count, 2))
    return Dataset(spectra.astype(np.float16), states, np.ones(count), numbers, none, beams)


# --- fitting ---------------------------------------------------------------------------------------


def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(tmp_path: Path):
    data = toy_data()
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    straight, bound = fit(data, options(), run_in(one))

    def cut(stage: str, done: int, total: int, note: str) -> None:
        if done == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(data, options(), run_in(other, cut))
    torch.rand(17)  # whatever else happened meanwhile
    epochs = []
    resumed, resumed_bound = fit(data, options(), run_in(other, lambda stage, done, *rest: epochs.append(done)))
    assert epochs[-2:] == [2, 3]
    assert epochs.index(2) <= 1
    assert resumed_bound == bound
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    # A finished training is read, not repeated.
    epochs.clear()
    finished, finished_bound = fit(data, options(), run_in(other, lambda stage, done, *rest: epochs.append(done)))
    assert not any(epochs)
    assert finished_bound == bound
    np.testing.assert_array_equal(encode_mean(finished, data.spectra), encode_mean(straight, data.spectra))


def test_training_raises_the_bound_and_finds_the_hidden_number(tmp_path: Path):
    data = toy_data(40, 8)
    notes = []
    longer = options(days=40, frames_per_day=8, batch=32, epochs=8)
    vae, bound = fit(data, longer, run_in(tmp_path, lambda *a: notes.append(a[3])))
    bounds = [float(note.split()[-1]) for note in notes if note]
    assert bounds[-1] > bounds[0]
    assert bounds[-1] == pytest.approx(bound, abs=0.06)
    held = held_out(data.days, 40)
    hidden, latents = data.states_nm[held, :1], encode_mean(vae, data.spectra[held])
    design = np.column_stack([latents, np.ones(len(latents))])
    left = hidden - design @ np.linalg.lstsq(design, hidden, rcond=None)[0]
    assert 1 - left.var() / hidden.var() > 0.9


def test_the_network_standardises_by_the_training_days_only(tmp_path: Path):
    data = toy_data()
    held = held_out(data.days, 8)
    assert held.sum() == 4
    data.spectra[held] += 50.0
    vae, _ = fit(data, options(epochs=1), run_in(tmp_path))
    expected = data.spectra[~held].astype(np.float32).mean(0)
    np.testing.assert_allclose(vae.offset[0, 0], expected, atol=1e-3)


def test_training_leaves_the_global_random_state_alone(tmp_path: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(toy_data(), options(epochs=1), run_in(tmp_path))
    assert torch.equal(torch.rand(3), expected)


def test_every_epoch_draws_its_own_order_and_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []

    def spy(vae: Vae, standard: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        if vae.training:
            seeds.append(generator.initial_seed())
        return elbo(vae, standard, generator)

    monkeypatch.setattr(training, "elbo", spy)
    fit(toy_data(), options(), run_in(tmp_path))
    assert len(seeds) == 3 * (28 // 7)
    assert [len(set(seeds[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(seeds)) == 3


# --- options ---------------------------------------------------------------------------------------


def test_the_variant_decides_the_days():
    assert Options().ranges == DayRanges()
    assert Options(variant="nominal").ranges == nominal_ranges()
    assert [held_out_days(count) for count in (8, 1200)] == [1, 60]


def test_too_few_frames_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="28 training frames do not fill a batch of 29"):
        options(batch=29)


def test_every_kernel_of_the_latent_map_can_be_chosen():
    assert {options(kernel=kernel).kernel for kernel in KERNEL_CODES} == set(KERNEL_CODES)
    with pytest.raises(ValueError, match=r"'rbf', 'matern52', 'matern32' or 'rational_quadratic'.*rbff"):
        options(kernel="rbff")


def test_the_whole_training_makes_one_file_and_its_folder_belongs_to_it(
    tmp_path: Path, days_made: list[int], monkeypatch: pytest.MonkeyPatch
):
    # They only decide how well the last stages fit.
    monkeypatch.setattr("controller.calibration.OBSERVATIONS", 6)
    monkeypatch.setattr("controller.calibration.HELD_AT", (2, 6))
    monkeypatch.setattr(training, "PRIOR_STEPS", 20)
    monkeypatch.setattr(training, "CALIBRATION_CANDIDATES", 100)
    out, run = tmp_path / "toy.safetensors", run_in(tmp_path / "work")
    small = options(days=30, epochs=1, modes=1, calibration_runs=2)
    stages = set()
    trained = TRAINING(small, replace(run, progress=lambda stage, *rest: stages.add(stage)), out)
    assert stages == {"simulating days", "fitting the VAE", "fitting the prior", "calibrating the posterior"}
    found = artefact.load_for(str(out), SMALL, FIRST_ORDER)
    assert found.provenance == trained.provenance
    settings = {"optics": asdict(SMALL), "space": asdict(FIRST_ORDER), **asdict(small)}
    assert found.provenance["training"] == plain(settings)
    assert {"versions", "seconds", "ranges", "held_out_elbo_nats"} < found.provenance.keys()
    assert found.prior.rank == 1
    assert np.all(np.isfinite(found.prior.node_values))
    # A second call simulates nothing.
    days_made.clear()
    TRAINING(small, run, out)
    assert days_made == []
    with pytest.raises(ResumeError, match=r"other epochs, seed; choose another folder"):
        TRAINING(replace(small, seed=2, epochs=2), run, out)
    TRAINING(replace(small, modes=2), run, out)  # a setting of the last stages
    assert artefact.load(out).prior.rank == 2


def test_the_name_tells_the_variants_apart():
    names = [training.label(each) for each in (Options(), Options(latent=3), Options(variant="nominal", latent=3))]
    assert names == ["vae_random_days", "vae_random_days_3", "vae_nominal_3"]
    paper = Options(variant="nominal", latent=3, renderer="multislice", preprocessing="plain")
    assert training.label(paper) == "vae_nominal_3_multislice_plain"


@pytest.mark.parametrize("changes", [{"renderer": "multislice"}, {"preprocessing": "plain"}])
def test_renderer_and_preprocessing_make_other_frames(changes: dict[str, str], tmp_path: Path):
    usual, other = (options(**change).frame_set(SMALL, FIRST_ORDER) for change in ({}, changes))
    assert usual.folder(tmp_path) != other.folder(tmp_path)
    usual, other = (replace(each, days=1, frames_per_day=1) for each in (usual, other))
    one, two = (simulated(each, tmp_path, silent).spectra.astype(float) for each in (usual, other))
    assert np.isfinite(two).all()
    assert one.shape == two.shape
    assert np.abs(one - two).max() > 0.1


def test_a_network_remembers_its_preprocessing(tmp_path: Path):
    trained, _ = fit(toy_data(), options(preprocessing="plain", epochs=1), run_in(tmp_path))
    assert trained.config.preprocessing == "plain"
