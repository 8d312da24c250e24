"""Training: resumable to the bit, refused in another configuration's folder, one file at the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from controller.dataset import Dataset, DayRanges, nominal_ranges
from controller.training import vae as train
from controller.training.vae import ResumeError, TrainConfig, fit_vae, train_vae
from controller.vae_em import artefact
from controller.vae_em.network import Vae, elbo, encode_mean
from twin.optics import Optics
from twin.state import FIRST_ORDER

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
CONFIG = TrainConfig(SMALL, FIRST_ORDER, days=8, frames_per_day=4, latent=2, epochs=3, batch=7)


pytestmark = pytest.mark.usefixtures("days_made")


class Interrupted(Exception):
    """Stands for a power cut."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    pass


def toy_data(config: TrainConfig = CONFIG) -> Dataset:
    """Spectra that depend on one hidden number each; no physics."""
    rng = np.random.default_rng(1)
    count = config.days * config.frames_per_day
    pattern, hidden = rng.standard_normal((64, 32)), rng.standard_normal((count, 1, 1))
    spectra = 2.0 + pattern * hidden + 0.5 * rng.standard_normal((count, 64, 32))
    days = np.repeat(np.arange(config.days), config.frames_per_day)
    none = np.zeros((count, 0, 0, 0), np.float16)
    return Dataset(spectra.astype(np.float16), hidden[:, :, 0] * np.ones(3), np.ones(count), days, none)


# --- fitting ---------------------------------------------------------------------------------------


def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(tmp_path: Path):
    data = toy_data()
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    straight, bound = fit_vae(data, CONFIG, one, silent)

    def cut(stage: str, done: int, total: int, note: str) -> None:
        if done == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit_vae(data, CONFIG, other, cut)
    torch.rand(17)  # whatever else happened meanwhile
    epochs = []
    resumed, resumed_bound = fit_vae(data, CONFIG, other, lambda stage, done, total, note: epochs.append(done))
    assert epochs == [2, 3]
    assert resumed_bound == bound
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    # A finished training is read, not repeated.
    epochs.clear()
    finished, finished_bound = fit_vae(data, CONFIG, other, lambda stage, done, total, note: epochs.append(done))
    assert epochs == []
    assert finished_bound == bound
    np.testing.assert_array_equal(encode_mean(finished, data.spectra), encode_mean(straight, data.spectra))


def test_training_raises_the_bound_and_finds_the_hidden_number(tmp_path: Path):
    config = replace(CONFIG, days=40, frames_per_day=8, batch=32, epochs=8)
    data = toy_data(config)
    notes = []
    vae, bound = fit_vae(data, config, tmp_path, lambda stage, done, total, note: notes.append(note))
    bounds = [float(note.split()[-1]) for note in notes]
    assert bounds[-1] > bounds[0]
    assert bounds[-1] == pytest.approx(bound, abs=0.06)
    held = data.days >= config.days - config.held_out_days
    hidden, latents = data.states_nm[held, :1], encode_mean(vae, data.spectra[held])
    design = np.column_stack([latents, np.ones(len(latents))])
    left = hidden - design @ np.linalg.lstsq(design, hidden, rcond=None)[0]
    assert 1 - left.var() / hidden.var() > 0.9


def test_the_network_standardises_by_the_training_days_only(tmp_path: Path):
    data = toy_data()
    held = data.days >= CONFIG.days - CONFIG.held_out_days
    assert held.sum() == 4
    data.spectra[held] += 50.0
    vae, _ = fit_vae(data, replace(CONFIG, epochs=1), tmp_path, silent)
    expected = data.spectra[~held].astype(np.float32).mean(0)
    np.testing.assert_allclose(vae.offset[0, 0], expected, atol=1e-3)


def test_training_leaves_the_global_random_state_alone(tmp_path: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit_vae(toy_data(), replace(CONFIG, epochs=1), tmp_path, silent)
    assert torch.equal(torch.rand(3), expected)


def test_every_epoch_draws_its_own_order_and_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seeds: list[int] = []

    def spy(vae: Vae, standard: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        if vae.training:
            seeds.append(generator.initial_seed())
        return elbo(vae, standard, generator)

    monkeypatch.setattr(train, "elbo", spy)
    fit_vae(toy_data(), CONFIG, tmp_path, silent)
    assert len(seeds) == 3 * (28 // 7)
    assert [len(set(seeds[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(seeds)) == 3


# --- configuration ---------------------------------------------------------------------------------


def test_the_variant_decides_the_days():
    assert TrainConfig(SMALL, FIRST_ORDER).ranges == DayRanges()
    assert TrainConfig(SMALL, FIRST_ORDER, "nominal").ranges == nominal_ranges()
    assert TrainConfig(SMALL, FIRST_ORDER, days=1200).held_out_days == 60
    assert CONFIG.held_out_days == 1


def test_too_few_frames_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="28 training frames do not fill a batch of 29"):
        replace(CONFIG, batch=29)


def test_an_unknown_kernel_is_refused_before_anything_is_simulated():
    with pytest.raises(ValueError, match="'rbff' is not a kernel; known: rbf"):
        replace(CONFIG, kernel="rbff")


def test_the_whole_training_makes_one_file_and_its_folder_belongs_to_it(tmp_path: Path, days_made: list[int]):
    out, work = tmp_path / "toy.safetensors", tmp_path / "work"
    config = replace(CONFIG, days=30, epochs=1, modes=1, calibration_runs=2)
    stages = set()
    trained = train_vae(config, out, work, work, lambda stage, done, total, note: stages.add(stage))
    assert stages == {"simulating days", "fitting the VAE", "fitting the prior", "calibrating the posterior"}
    found = artefact.load_for(str(out), SMALL, FIRST_ORDER)
    assert found.provenance["training"] == config.plain()
    assert found.provenance["held_out_elbo_nats"] == trained.provenance["held_out_elbo_nats"]
    assert found.prior.rank == 1
    assert np.all(np.isfinite(found.prior.node_values))
    # Once more: nothing is simulated again.
    days_made.clear()
    train_vae(config, out, work, work, silent)
    assert days_made == []
    with pytest.raises(ResumeError, match=r"other epochs, seed; choose another folder"):
        train_vae(replace(config, seed=2, epochs=2), out, work, work, silent)
