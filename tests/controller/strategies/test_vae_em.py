"""The strategy that sequences it all, on an untrained network: bookkeeping, options, stop rule."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from controller import base
from controller.strategies.vae_em import Options, VaeEm
from controller.vae_em import artefact
from controller.vae_em.artefact import Artefact
from controller.vae_em.latent_map import LatentMap
from controller.vae_em.network import Vae, VaeConfig
from learning.weights_file import WeightsError
from twin.optics import Optics
from twin.options import OptionError, checked_options
from twin.state import FIRST_ORDER
from twin.types import Frame


@pytest.fixture
def trained(make_map: Callable[..., LatentMap]) -> Artefact:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = Vae(VaeConfig(channels=(2, 2, 2, 2, 2), latent=6)).eval()
    prior = make_map(modes=(lambda x: np.cos(x @ np.ones((3, 6)) / 50),), noise_std=0.3)
    return Artefact(vae, prior, Optics(), FIRST_ORDER.names, {})


def frames(count: int, seed: int = 1) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return [Frame(rng.poisson(60.0, (128, 128)).astype(np.uint16), 1e6, 0.5, float(k), {}) for k in range(count)]


def started(trained: Artefact, seed: int = 1, **options: object) -> VaeEm:
    controller = VaeEm(FIRST_ORDER, trained, checked_options(Options, {"candidates": 128, **options}))
    controller.reset(FIRST_ORDER, np.random.default_rng(seed))
    return controller


def told(controller: VaeEm, seen: list[Frame]) -> list[np.ndarray]:
    """Run on frames; returns the inputs."""
    inputs = []
    for frame in seen:
        inputs.append(controller.propose())
        controller.update(inputs[-1], frame)
    return inputs


@pytest.mark.parametrize("selection", ["information", "variance", "mixture_variance", "random"])
@pytest.mark.parametrize("hard", [False, True])
def test_a_run_keeps_its_books(trained: Artefact, selection: str, hard: bool):
    controller = started(trained, selection=selection, hard=hard)
    inputs = told(controller, frames(4))
    np.testing.assert_array_equal(inputs[0], 0.0)
    np.testing.assert_allclose(controller.data.inputs_nm, np.cumsum(inputs, axis=0), atol=1e-12)
    assert np.all(np.abs(np.cumsum(inputs, axis=0)) <= FIRST_ORDER.input + 1e-9)
    assert controller.ensemble.factors.observations == len(controller.elbo_nats) == 4
    assert np.all(np.isfinite(controller.elbo_nats))
    estimate = controller.estimate()
    assert np.all(np.abs(estimate.mean_nm) <= FIRST_ORDER.start)
    assert np.all(np.linalg.eigvalsh(estimate.cov_nm2) > 0)
    assert estimate.weights is not None
    assert estimate.weights.sum() == pytest.approx(1.0)


def test_before_the_first_frame_the_estimate_is_the_start_box(trained: Artefact):
    estimate = started(trained, candidates=1024).estimate()
    np.testing.assert_allclose(estimate.mean_nm, 0.0, atol=1.0)
    np.testing.assert_allclose(estimate.std_nm, FIRST_ORDER.start / np.sqrt(3), rtol=0.02)


def test_an_input_that_was_not_proposed_counts_as_well(trained: Artefact):
    controller = started(trained)
    controller.update(FIRST_ORDER.zero, frames(1)[0])
    controller.propose()
    controller.update(np.array([7.0, -3.0, 2.0]), frames(2)[1])
    np.testing.assert_allclose(controller.data.inputs_nm[-1], [7.0, -3.0, 2.0])


def test_the_same_seed_gives_the_same_run_and_reset_forgets(trained: Artefact):
    controller = started(trained, seed=5)
    first = told(controller, frames(3))
    controller.reset(FIRST_ORDER, np.random.default_rng(5))
    assert controller.elbo_nats == []
    assert len(controller.data) == 0
    again = told(controller, frames(3))
    assert np.array(first).tobytes() == np.array(again).tobytes()
    other = told(started(trained, seed=6), frames(3))
    assert np.any(np.array(other) != np.array(first))


def test_without_model_estimation_the_map_is_known(trained: Artefact):
    controller = started(trained, model_estimation=False)
    told(controller, frames(2))
    assert controller.ensemble.prior.rank == 0
    assert np.all(controller.ensemble.kernel.signal_variance == 0)
    assert started(trained).ensemble.prior.rank == 1


def test_it_is_done_when_every_component_is_in_spec(trained: Artefact):
    controller = started(trained, selection="random")
    told(controller, frames(2))
    ensemble = controller.ensemble
    for spread_nm, done in ((3.0, True), (8.0, False)):
        states = np.array([30.0, 10.0, -10.0]) + spread_nm * np.random.default_rng(2).standard_normal((128, 3))
        found = replace(ensemble.candidates, states_nm=states)
        controller.ensemble = replace(ensemble, candidates=found, probability=np.full(128, 1 / 128))
        assert controller.done is done
    # Two signs at even odds are never in spec.
    both = replace(ensemble.candidates, states_nm=np.concatenate([states[:64], -states[:64]]))
    controller.ensemble = replace(ensemble, candidates=both, probability=np.full(128, 1 / 128))
    assert controller.done is False


def test_hard_em_reports_the_likeliest_candidate_but_is_not_sure_of_it(trained: Artefact):
    hard, soft = started(trained, hard=True, selection="random"), started(trained, selection="random")
    for controller in (hard, soft):
        told(controller, frames(1))
    one, other = hard.estimate(), soft.estimate()
    assert np.any(np.all(one.mean_nm == hard.ensemble.candidates.states_nm, axis=1))
    offset = one.mean_nm - other.mean_nm
    np.testing.assert_allclose(one.cov_nm2, other.cov_nm2 + np.outer(offset, offset))
    assert hard.done is False


def test_frames_of_another_camera_are_refused(trained: Artefact):
    controller = started(trained)
    with pytest.raises(ValueError, match=r"\(128, 128\) is expected; got shape \(64, 64\)"):
        controller.update(FIRST_ORDER.zero, Frame(np.ones((64, 64), np.uint16), 1e6, 0.5, 0.0))
    assert len(controller.data) == 0


# --- options ---------------------------------------------------------------------------------------


def test_make_loads_weights_and_options(trained: Artefact, tmp_path: Path):
    path = tmp_path / "toy.safetensors"
    artefact.save(trained, path)
    options = {"weights": str(path), "candidates": 64, "refinement": {"keep": 0.3, "perturb_nm": 2.0}}
    controller = base.build("vae_em", Optics(), FIRST_ORDER, options)
    assert isinstance(controller, VaeEm)
    assert len(controller.ensemble.probability) == 64
    assert controller.options.refinement.perturb_nm == 2.0
    assert controller.options.refinement.explore == 0.1
    with pytest.raises(WeightsError, match=r"convergence_mrad 28\.0; this scenario has 21\.0"):
        base.build("vae_em", Optics(convergence_mrad=21.0), FIRST_ORDER, options)
    # Behind the checks, frames and coefficients are translated instead.
    assert base.load("vae_em", Optics(convergence_mrad=21.0), FIRST_ORDER, options).propose().tolist() == [
        0.0,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate": 100}, r"'candidate' is not an option here \(did you mean candidates\?\)"),
        ({"candidates": 5}, "candidates"),
        ({"selection": "informatio"}, "selection"),
        ({"stop_probability": 1.0}, "stop_probability"),
        ({"refinement": {"keep": 0.95}}, "must leave a share to perturb"),
        ({"refinement": {"perturb_nm": 0.0}}, "perturb_nm"),
        ({"refinement": {"minimum_nm": 0.0}}, "minimum_nm"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str):
    with pytest.raises(OptionError, match=message):
        base.load("vae_em", Optics(), FIRST_ORDER, options)
