"""One weights file: what goes in comes out, and what does not fit is refused with the reason."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from controller.vae_em import artefact
from controller.vae_em.artefact import Artefact
from controller.vae_em.latent_map import LatentMap
from controller.vae_em.network import Vae, VaeConfig, encode_mean
from learning import weights_file
from learning.weights_file import WeightsError
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace


@pytest.fixture
def trained(make_map: Callable[..., LatentMap]) -> Artefact:
    """An untrained network with a hand-made latent map of as many axes; every number in it is its own."""
    rng = np.random.default_rng(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = Vae(VaeConfig(channels=(2, 2, 2, 2, 2), latent=6, noise_std=0.6)).eval()
    vae.offset.copy_(torch.randn(vae.offset.shape))
    vae.spread.fill_(1.7)
    prior = make_map(kernel="matern32", freedom=7.5, modes=(lambda x: np.cos(x @ np.ones((3, 6)) / 50),))
    h = prior.hyperparameters
    h = replace(
        h,
        lengthscale=rng.uniform(0.2, 1, 3),
        signal_variance=rng.uniform(0.1, 1, 6),
        offset_variance=rng.uniform(0.1, 1, 6),
        log_noise=rng.standard_normal(h.log_noise.shape),
        noise_slope=rng.standard_normal(h.log_noise.shape),
    )
    prior = replace(
        prior, axes=rng.standard_normal((6, 6)), origin=rng.standard_normal(6), log_floor=0.25, hyperparameters=h
    )
    return Artefact(vae, prior, Optics(), FIRST_ORDER.names, {"training": {"days": 3}, "held_out_elbo_nats": -1.5})


@pytest.fixture
def weights(trained: Artefact, tmp_path: Path) -> Path:
    path = tmp_path / "below" / "toy.safetensors"
    artefact.save(trained, path)
    return path


def test_a_file_gives_back_what_was_saved(trained: Artefact, weights: Path):
    found = artefact.load(weights)
    assert found.optics == trained.optics
    assert found.names == trained.names
    assert found.provenance == trained.provenance
    assert found.vae.config == trained.vae.config
    assert not found.vae.training
    for name, tensor in trained.vae.state_dict().items():
        assert torch.equal(found.vae.state_dict()[name], tensor), name
    for name in ("axes", "origin", "node_values", "log_floor", "range_nm"):
        np.testing.assert_allclose(getattr(found.prior, name), getattr(trained.prior, name), rtol=1e-6, err_msg=name)
    assert found.prior.grid == trained.prior.grid
    for f in fields(trained.prior.hyperparameters):
        one, other = (getattr(p.prior.hyperparameters, f.name) for p in (found, trained))
        if f.name == "kernel":
            assert one == other
        else:
            np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=f.name)


def test_loaded_weights_compute_the_same(trained: Artefact, weights: Path):
    found = artefact.load(weights)
    rng = np.random.default_rng(2)
    y = rng.standard_normal((3, 128, 64)).astype(np.float32)
    latents = encode_mean(trained.vae, y)
    np.testing.assert_array_equal(encode_mean(found.vae, y), latents)
    np.testing.assert_allclose(found.prior.observe(latents), trained.prior.observe(latents), rtol=1e-5, atol=1e-5)
    x, floors = rng.uniform(-60, 60, (20, 3)), rng.uniform(0.5, 3, 20)
    for one, other in zip(found.prior.moments(x, floors), trained.prior.moments(x, floors), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_gaussian_prior_survives_the_file(trained: Artefact, tmp_path: Path):
    h = replace(trained.prior.hyperparameters, freedom=np.inf)
    artefact.save(replace(trained, prior=replace(trained.prior, hyperparameters=h)), tmp_path / "g.safetensors")
    assert np.isinf(artefact.load(tmp_path / "g.safetensors").prior.kernel().freedom)


def test_weights_that_fit_are_taken(weights: Path):
    assert artefact.load_for(str(weights), Optics(), FIRST_ORDER).names == FIRST_ORDER.names
    narrower = replace(FIRST_ORDER, start_nm=(20.0, 10.0, 10.0), input_nm=(20.0, 10.0, 10.0))
    artefact.load_for(str(weights), Optics(), narrower)


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optics", "message"),
    [
        (Optics(convergence_mrad=21.4), r"toy\.safetensors was trained with convergence_mrad 28.0; .* has 21.4"),
        (Optics(energy_kev=200.0), "trained with energy_kev 300.0; this scenario has 200.0"),
        (Optics(camera_pixels=64), "trained with camera_pixels 128; this scenario has 64"),
    ],
)
def test_other_optics_are_refused(weights: Path, optics: Optics, message: str):
    with pytest.raises(WeightsError, match=message + ".*stemtwin train vae"):
        artefact.load_for(str(weights), optics, FIRST_ORDER)


def test_other_coefficients_are_refused(weights: Path):
    with pytest.raises(WeightsError, match=r"trained for C10, C12a, C12b; this scenario calibrates C10, .*C23b"):
        artefact.load_for(str(weights), Optics(), SECOND_ORDER)
    swapped = StateSpace(names=("C10", "C12b", "C12a"))
    with pytest.raises(WeightsError, match="this scenario calibrates C10, C12b, C12a"):
        artefact.load_for(str(weights), Optics(), swapped)


def test_a_wider_range_is_refused(weights: Path):
    wider = replace(FIRST_ORDER, input_nm=(60.0, 31.0, 30.0))
    with pytest.raises(WeightsError, match=r"\+-\[120.0, 60.0, 60.0\] nm; .* reaches \[120.0, 61.0, 60.0\]"):
        artefact.load_for(str(weights), Optics(), wider)


@pytest.mark.parametrize("keep", [0, 5, 100, 5000])
def test_a_damaged_file_is_refused(weights: Path, keep: int):
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        artefact.load(weights)


def test_another_format_is_refused(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"format": "something-else"})
    with pytest.raises(WeightsError, match="'something-else', expected 'stemtwin-vae-1'"):
        artefact.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="format None"):
        artefact.load(path)


def test_a_file_that_lacks_a_part_is_refused(weights: Path):
    tensors, metadata = weights_file.read(weights, artefact.FORMAT)
    for missing in ("map.axes", "vae.mean.weight"):
        save_file({name: t for name, t in tensors.items() if name != missing}, weights, metadata)
        with pytest.raises(WeightsError, match=r"toy\.safetensors: a part is missing"):
            artefact.load(weights)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match="cannot be read"):
        artefact.load(tmp_path / "nowhere.safetensors")
