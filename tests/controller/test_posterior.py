"""The amortised posterior: densities are densities, frames multiply, nuisances integrate out exactly."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from controller import posterior_artefact, posterior_filter, weights_file
from controller.dataset import CLOSED_LOOP, Dataset, DayRanges
from controller.posterior_artefact import PosteriorArtefact
from controller.posterior_filter import Evidence, FramePosteriors, evidence, expected_information
from controller.posterior_network import (
    NUISANCES,
    TURNED,
    PosteriorConfig,
    PosteriorNetwork,
    log_densities,
    log_density,
    nuisance_log_density,
    packed,
)
from controller.posterior_precision import PrecisionMap, fit_precision, symmetric_exponential, symmetric_logarithm
from controller.posterior_training import Examples, PosteriorTraining, Symmetries, examples, fit_network, nuisances_of
from controller.preprocess import Spectrum
from controller.strategies.neural_posterior import NeuralPosterior, Options
from twin.day import CameraProperties, Day, FilmProperties
from twin.optics import Optics
from twin.state import FIRST_ORDER

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
CONFIG = PosteriorConfig(height=64, width=32, channels=(4, 4, 8, 8, 8), features=12, hidden=16, nuisance_hidden=16)
C = len(NUISANCES)
DEVIANCE = ((3.0, 6.0), (6.0, 12.0))


@pytest.fixture(scope="module")
def trained() -> PosteriorArtefact:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network, precision = PosteriorNetwork(CONFIG).eval(), PrecisionMap(3).eval()
    return PosteriorArtefact(network, precision, FIRST_ORDER, SMALL, CLOSED_LOOP, 0.1, 0.05, DEVIANCE, {"seconds": 1})


def spectra(count: int, seed: int) -> list[Spectrum]:
    rng = np.random.default_rng(seed)
    return [
        Spectrum(rng.standard_normal((64, 32)).astype(np.float32), float(rng.uniform(0.5, 2))) for _ in range(count)
    ]


def told(trained: PosteriorArtefact, count: int, seed: int = 0) -> FramePosteriors:
    frames, rng = FramePosteriors.none(trained), np.random.default_rng(seed)
    for spectrum in spectra(count, seed):
        frames = frames.append(spectrum, rng.uniform(-20, 20, 3))
    return frames


def test_the_mixture_is_even_and_integrates_to_one(trained: PosteriorArtefact):
    network = trained.network
    features = network.summarise(torch.randn(1, 64, 32, generator=torch.Generator().manual_seed(1)), torch.zeros(1))
    mixture = network.mixture(features)
    rng = np.random.default_rng(2)
    # Importance sampling from a wide normal, to four standard errors.
    wide = torch.from_numpy(rng.standard_normal((200_000, 3)) * 0.8).float()
    log_proposal = -0.5 * (wide / 0.8).square().sum(1) - 3 * math.log(0.8 * math.sqrt(2 * math.pi))
    with torch.no_grad():
        density = log_density(mixture, wide)
        weights = torch.exp(density - log_proposal)
        torch.testing.assert_close(log_density(mixture, -wide), density, rtol=1e-4, atol=1e-3)
    assert weights.mean().item() == pytest.approx(1.0, abs=4 * weights.std().item() / math.sqrt(len(wide)))
    assert weights.std().item() < 5


def test_the_compiled_density_is_the_network_s(trained: PosteriorArtefact):
    frames = told(trained, 3)
    states = np.random.default_rng(4).uniform(-1, 1, (50, 3))
    out = np.empty(50)
    with torch.no_grad():
        for features, mixture in zip(frames.features, frames.mixtures, strict=True):
            log_densities(mixture, np.ascontiguousarray(states.T), out)
            expected = log_density(trained.network.mixture(features), torch.from_numpy(states).float())
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_knowledge_of_nuisances_is_a_normal_density_even_in_the_state(trained: PosteriorArtefact):
    features = told(trained, 1).features
    state, hidden = torch.tensor([[0.1, -0.3, 0.2]]), torch.randn(1, C, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        gain = trained.network.nuisances(features, state)
        found = nuisance_log_density(gain, hidden).item()
        mirrored = trained.network.nuisances(features, -state)
    precision = np.eye(C) + gain.root[0].numpy() @ gain.root[0].numpy().T
    expected = multivariate_normal(gain.mean[0].numpy(), np.linalg.inv(precision)).logpdf(hidden[0].numpy())
    assert found == pytest.approx(expected, abs=1e-3)
    assert torch.equal(gain.mean, mirrored.mean)
    assert torch.equal(gain.root, mirrored.root)


def test_nuisances_integrate_out_as_by_brute_force(trained: PosteriorArtefact):
    frames = told(trained, 4)
    states = np.random.default_rng(6).uniform(-30, 30, (5, 3))
    found = evidence(frames, states)
    # Draw the nuisances from their prior and average the product of the ratios.
    rng = np.random.default_rng(7)
    draws = torch.from_numpy(rng.standard_normal((100_000, C))).float()
    log_prior = -0.5 * draws.square().sum(1) - 0.5 * C * math.log(2 * math.pi)
    for m, state in enumerate(states):
        total, free = torch.zeros(len(draws)), 0.0
        for features, mixture, input_nm in zip(frames.features, frames.mixtures, frames.inputs_nm, strict=True):
            scaled = (state + input_nm) / FIRST_ORDER.range_nm
            out = np.empty(1)
            log_densities(mixture, np.ascontiguousarray(scaled[:, None]), out)
            ratio = math.exp(out[0] - CLOSED_LOOP.log_density(FIRST_ORDER, scaled[:, None])[0])
            ratio *= 1 - posterior_filter.DOUBT
            free += math.log(ratio + posterior_filter.DOUBT)
            trust = ratio / (ratio + posterior_filter.DOUBT)
            with torch.no_grad():
                gain = trained.network.nuisances(features[None], torch.from_numpy(scaled[None]).float())
            total += trust * (nuisance_log_density(gain, draws) - log_prior)
        weights = torch.exp(total).double()
        error = (weights.std() / weights.mean()).item() / math.sqrt(len(draws))
        assert error < 0.05
        assert found.log_likelihood()[m] == pytest.approx(free + math.log(weights.mean().item()), abs=5 * error + 1e-3)


def test_a_frame_that_rules_a_state_out_says_nothing_of_the_day(trained: PosteriorArtefact):
    frames = told(trained, 1)
    frames.mixtures[:, :, 0] -= 60.0  # impossible wherever it was taken
    found = evidence(frames, np.zeros((1, 3)))
    assert np.abs(found.matrix).max() < 1e-9
    assert found.log_likelihood()[0] == pytest.approx(math.log(posterior_filter.DOUBT), abs=1e-6)


def test_evidence_adds_up_over_frames_and_candidates(trained: PosteriorArtefact):
    frames = told(trained, 5)
    states = np.random.default_rng(8).uniform(-30, 30, (7, 3))
    whole = evidence(frames, states)
    first = replace(frames, features=frames.features[:2], mixtures=frames.mixtures[:2], inputs_nm=frames.inputs_nm[:2])
    grown = evidence(first, states) + evidence(frames, states, 2)
    parts = evidence(frames, states[:3]).joined(evidence(frames, states[3:]))
    for other in (grown, parts, whole.kept(np.arange(7))):
        np.testing.assert_allclose(other.log_likelihood(), whole.log_likelihood(), rtol=1e-5, atol=1e-4)
    assert np.all(Evidence.none(4).log_likelihood() == 0)


def test_expected_information_is_the_overlap_written_out():
    rng = np.random.default_rng(9)
    states, inputs = rng.uniform(-0.4, 0.4, (6, 3)), rng.uniform(-0.4, 0.4, (3, 3))

    def precision(x):
        return np.eye(3) * (20 + 10 * (x**2).sum(1))[:, None, None]

    for q, u in enumerate(inputs):
        p = precision(states + u)
        total = 0.0
        for i in range(6):
            alike = 0.0
            for j in range(6):
                pooled = (p[i] + p[j]) / 2
                pair = (states[i] - states[j], states[i] + states[j] + 2 * u)
                alike += math.exp(-min(d @ pooled @ d for d in pair) / 8)
            total -= math.log(alike / 6) / 6
        assert expected_information(states, inputs, precision)[q] == pytest.approx(total, rel=1e-9)


def test_precision_is_learnt_and_even():
    rng = np.random.default_rng(10)
    states = rng.uniform(-1, 1, (4000, 3)).astype(np.float32)
    truth = np.einsum("n,ij->nij", np.exp(2 - 3 * (states**2).sum(1)), np.diag([1.0, 4.0, 9.0]))
    np.testing.assert_allclose(symmetric_exponential(symmetric_logarithm(truth)), truth, rtol=1e-6)
    learnt = fit_precision(states, truth, 0)
    probe = rng.uniform(-0.7, 0.7, (50, 3))
    found = learnt.precision(probe)
    expected = np.einsum("n,ij->nij", np.exp(2 - 3 * (probe**2).sum(1)), np.diag([1.0, 4.0, 9.0]))
    # 0.1 per axis is 5 % of a standard deviation; the precisions themselves span a factor of four along each axis.
    assert np.median(np.abs(np.log(np.linalg.det(found) / np.linalg.det(expected)))) / 3 < 0.1
    np.testing.assert_allclose(learnt.precision(-probe), found, rtol=1e-4)


def test_nuisances_are_standard_normal_over_the_training_days():
    ranges = DayRanges()
    middle = Day(
        film=FilmProperties(thickness_nm=5.75),
        focal_spread_nm=1.65,
        source_size_nm=0.045,
        camera=CameraProperties(mtf_nyquist=0.75),
    )
    np.testing.assert_allclose(nuisances_of(middle, ranges), 0.0, atol=1e-9)
    turned = replace(middle, camera=replace(middle.camera, rotation_deg=4.0 * 0.6827))  # one sigma of a uniform
    assert nuisances_of(turned, ranges)[TURNED] == pytest.approx(1.0, abs=0.01)


def toy(count: int, seed: int) -> Examples:
    """A spectrum that shows |C10| and the size of the first nuisance; no physics."""
    rng = np.random.default_rng(seed)
    states, hidden = (
        rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        rng.standard_normal((count, C)).astype(np.float32),
    )
    rows = np.abs(np.arange(64) - 32)[:, None] * np.ones((64, 32))
    values = np.abs(states[:, :1, None]) * np.cos(rows / 3) + hidden[:, :1, None] * np.cos(rows / 7)
    values = values + 0.1 * rng.standard_normal((count, 64, 32))
    data = Dataset(values.astype(np.float16), states * FIRST_ORDER.range_nm, np.ones(count), np.arange(count))
    return examples(data, hidden, FIRST_ORDER, 0.0)


def test_training_finds_what_the_spectra_show_and_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Symmetries, "scramble", lambda self, chosen, generator: chosen)  # the toy has no such symmetry
    config = PosteriorTraining(SMALL, FIRST_ORDER, epochs=3, batch=32)
    training, test = toy(640, 1), toy(128, 2)
    notes: list[str] = []
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    straight = fit_network(training, test, config, tmp_path / "a", lambda s, d, t, note: notes.append(note))
    losses = [float(note.split()[2]) for note in notes]
    assert losses[-1] < losses[0] - 0.3

    class Interrupted(Exception):
        pass

    def cut(stage: str, done: int, total: int, note: str) -> None:
        if done == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit_network(training, test, config, tmp_path / "b", cut)
    resumed = fit_network(training, test, config, tmp_path / "b", lambda *_: None)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_scrambling_keeps_spectrum_state_and_camera_together():
    generator = torch.Generator().manual_seed(1)
    base = toy(200, 3)
    done = Symmetries.of(FIRST_ORDER).scramble(base.chosen(torch.arange(200)), generator)
    signs = torch.sign(done.states * base.states)
    assert torch.all(signs[:, 0] == 1)
    turned = torch.sign(done.nuisances[:, TURNED] * base.nuisances[:, TURNED])
    assert torch.all(turned == signs[:, 1] * signs[:, 2])  # one reflection turns the camera back, two do not
    kinds = {(a.item(), b.item()) for a, b in signs[:, 1:]}
    assert len(kinds) == 4
    untouched = (signs == 1).all(1)
    assert torch.equal(done.spectra[untouched], base.spectra[untouched].float())


def test_weights_survive_the_file_and_are_refused_elsewhere(trained: PosteriorArtefact, tmp_path: Path):
    path = tmp_path / "toy.safetensors"
    posterior_artefact.save(trained, path)
    loaded = posterior_artefact.load_for(str(path), SMALL, FIRST_ORDER)
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    assert (loaded.states, loaded.log_floor, loaded.correlation) == (CLOSED_LOOP, 0.1, 0.05)
    assert (loaded.space, loaded.deviance) == (FIRST_ORDER, DEVIANCE)
    with pytest.raises(weights_file.WeightsError, match="train posterior"):
        posterior_artefact.load_for(str(path), Optics(), FIRST_ORDER)
    with pytest.raises(weights_file.WeightsError, match="expected"):
        posterior_artefact.load(weights_file.SHIPPED / "vae_random_days.safetensors")


def test_a_frame_of_another_shape_is_refused(trained: PosteriorArtefact):
    from twin.types import Frame

    controller = NeuralPosterior(FIRST_ORDER, trained, Options(candidates=64))
    with pytest.raises(ValueError, match=r"\(64, 64\) is expected"):
        controller.update(FIRST_ORDER.zero, Frame(np.zeros((32, 32), np.uint16), 1e6, 1.0, 0.0))


def test_packing_is_exact_for_one_gaussian():
    config = replace(CONFIG, components=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PosteriorNetwork(config).eval()
    with torch.no_grad():
        mixture = network.mixture(torch.zeros(1, config.features + 1))
    constant, mean, white = (
        packed(mixture)[0, 0, 0],
        packed(mixture)[0, 0, 1:4],
        packed(mixture)[0, 0, 4:].reshape(3, 3),
    )
    expected = multivariate_normal(mean, np.linalg.inv(white.T @ white)).logpdf(mean) - math.log(2)
    assert constant == pytest.approx(expected, abs=1e-4)


def test_the_deviance_of_one_gaussian_is_its_mahalanobis_distance(trained: PosteriorArtefact):
    frames = told(trained, 2)
    mixtures = frames.mixtures[:, :1].copy()
    mixtures[:, :, 1:4] = 0.7  # the state lies near it and far from its mirror image
    alone = replace(frames, mixtures=mixtures)
    state = np.array([60.0, 30.0, 30.0])
    expected = 0.0
    for mixture, input_nm in zip(mixtures[:, 0].astype(float), frames.inputs_nm, strict=True):
        offset = mixture[4:].reshape(3, 3) @ ((state + input_nm) / FIRST_ORDER.range_nm - mixture[1:4])
        expected += offset @ offset
    assert posterior_filter.deviance(alone, state) == pytest.approx(expected, rel=1e-3)


def test_days_that_deviate_more_are_rarer(trained: PosteriorArtefact):
    # Two moments of a chi-square with three degrees a frame: the gamma distribution is that chi-square.
    assert trained.fits(1, 7.815) == pytest.approx(0.05, abs=1e-3)
    assert trained.fits(2, 12.592) == pytest.approx(0.05, abs=1e-3)
    assert trained.fits(4, 25.184) == pytest.approx(trained.fits(2, 12.592))
