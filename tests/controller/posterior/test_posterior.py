"""The amortised posterior: densities are densities, frames multiply, nuisances integrate out exactly."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from controller import preprocess
from controller.base import Estimate
from controller.candidates import Candidates, effective_count
from controller.dataset import CLOSED_LOOP, Dataset, DayRanges
from controller.posterior import artefact as posterior_artefact
from controller.posterior.artefact import PosteriorArtefact, tail
from controller.posterior.check import COMPONENTS, fit_check
from controller.posterior.examples import HIGHER_NM, Examples, Symmetries, moved, nuisances_of
from controller.posterior.frames import MARGINALISED, FramePosteriors, deviance
from controller.posterior.frames import SECOND_ORDER as HIGHER
from controller.posterior.likelihood import UNINFORMATIVE, Likelihood, likelihood
from controller.posterior.network import (
    EVEN,
    NUISANCES,
    TOLD,
    TURNED,
    PosteriorNetwork,
    log_densities,
    log_density,
    nuisance_log_density,
    packed,
)
from controller.posterior.particle_filter import (
    EVALUATIONS,
    FEWEST,
    ParticleFilter,
    Particles,
    reweigh,
    weigh,
    with_second_order,
)
from controller.posterior.precision import fit_precision, symmetric_exponential, symmetric_logarithm
from controller.preprocess import Patches, Spectrum
from controller.spectrum import sub_areas
from controller.strategies.neural_posterior import NeuralPosterior, Options
from controller.training import posterior as training_posterior
from controller.training.posterior import Outputs, calibrated_weight
from controller.weights import SHIPPED
from learning import weights_file
from learning.training import TrainingRun, silent
from twin.day import CameraProperties, Day, FilmProperties
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.types import Frame

C = len(MARGINALISED)


def seen(count: int, seed: int) -> list[tuple[Spectrum, Patches]]:
    rng = np.random.default_rng(seed)
    return [
        (
            Spectrum(rng.standard_normal((64, 32)).astype(np.float32), float(rng.uniform(0.5, 2))),
            Patches(rng.standard_normal((9, 24, 12)).astype(np.float32)),
        )
        for _ in range(count)
    ]


def told(posterior: PosteriorArtefact, count: int, seed: int = 0, space: StateSpace = FIRST_ORDER) -> FramePosteriors:
    frames, rng = FramePosteriors.none(posterior, space), np.random.default_rng(seed)
    for spectrum, patches in seen(count, seed):
        frames = frames.append(spectrum, patches, rng.uniform(-20, 20, space.dimension))
    return frames


def test_the_mixture_is_even_and_integrates_to_one(posterior: PosteriorArtefact):
    network = posterior.network
    generator = torch.Generator().manual_seed(1)
    whole, parts = torch.randn(1, 64, 32, generator=generator), torch.randn(1, 9, 24, 12, generator=generator)
    features, _ = network.summarise(whole, parts, torch.zeros(1, TOLD))
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


def test_the_compiled_density_is_the_network_s(posterior: PosteriorArtefact):
    frames = told(posterior, 3)
    states = np.random.default_rng(4).uniform(-1, 1, (50, 3))
    out = np.empty(50)
    with torch.no_grad():
        for features, mixture in zip(frames.features, frames.mixtures, strict=True):
            log_densities(mixture, np.ascontiguousarray(states.T), out)
            expected = log_density(posterior.network.mixture(features), torch.from_numpy(states).float())
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_knowledge_of_nuisances_is_a_normal_density_and_mirrored_at_the_opposite_state(posterior: PosteriorArtefact):
    features, count = told(posterior, 1).features, len(NUISANCES)
    state = torch.tensor([[0.1, -0.3, 0.2]])
    hidden = torch.randn(1, count, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        gain = posterior.network.nuisances(features, state)
        found = nuisance_log_density(gain, hidden).item()
        mirrored = posterior.network.nuisances(features, -state)
        flipped = nuisance_log_density(mirrored, hidden * torch.tensor([1.0] * len(EVEN) + [-1.0])).item()
    precision = np.eye(count) + gain.root[0].numpy() @ gain.root[0].numpy().T
    expected = multivariate_normal(gain.mean[0].numpy(), np.linalg.inv(precision)).logpdf(hidden[0].numpy())
    assert found == pytest.approx(expected, abs=1e-3)
    assert flipped == pytest.approx(found, abs=1e-4)
    assert gain.mean[0, -1].abs() > 1e-3  # not for lack of an opinion on C30


def of_frame(frames: FramePosteriors, k: int, scaled: np.ndarray) -> multivariate_normal:
    """q(c | frame, x) over all unknowns, written out."""
    posterior, count = frames.trained, len(NUISANCES)
    with torch.no_grad():
        gain = posterior.network.nuisances(frames.features[k : k + 1], torch.from_numpy(scaled[None]).float())
    root = gain.root[0].double().numpy()
    matrix, vector = np.empty((1, 4, 4)), np.empty((1, 4))
    density = posterior.states.log_density(posterior.first, scaled[:, None])
    held = posterior.states.precision(posterior.first, scaled[:, None], density)
    areas = sub_areas.ready(frames.areas[k], posterior.directions)
    sub_areas.information(areas, scaled[None], held, posterior.area_weight, matrix, vector)
    cov = block_diag(np.linalg.inv(np.eye(count) + root @ root.T), np.linalg.inv(np.eye(4) + matrix[0]))
    mean = np.concatenate([gain.mean[0].double().numpy(), np.linalg.solve(np.eye(4) + matrix[0], vector[0])])
    return multivariate_normal(mean, cov)


def density_ratio(frames: FramePosteriors, k: int, scaled: np.ndarray) -> float:
    """q(x | frame) over the density of the training states, unless the frame carries no information."""
    out = np.empty(1)
    log_densities(frames.mixtures[k], np.ascontiguousarray(scaled[:, None]), out)
    return (1 - UNINFORMATIVE) * math.exp(out[0] - CLOSED_LOOP.log_density(FIRST_ORDER, scaled[:, None])[0])


@pytest.mark.parametrize("space", [FIRST_ORDER, SECOND_ORDER])
def test_unknowns_integrate_out_as_by_brute_force(posterior: PosteriorArtefact, space: StateSpace):
    frames = told(posterior, 4, space=space)
    states = np.random.default_rng(6).uniform(-30, 30, (5, 3))
    found = likelihood(frames, states)
    # Draw the unknowns from their prior and average the product of the ratios.
    rng = np.random.default_rng(7)
    draws = rng.standard_normal((200_000, C)) / np.sqrt(frames.prior)
    for m, state in enumerate(states):
        total, free = np.zeros(len(draws)), 0.0
        for k in range(len(frames)):
            scaled = (state + frames.inputs_nm[k]) / FIRST_ORDER.range_nm
            ratio = density_ratio(frames, k, scaled)
            free += math.log(ratio + UNINFORMATIVE)
            trust = ratio / (ratio + UNINFORMATIVE)
            there = draws + frames.shifts[k]
            log_prior = -0.5 * (there**2).sum(1) - 0.5 * C * math.log(2 * math.pi)
            total += trust * (of_frame(frames, k, scaled).logpdf(there) - log_prior)
        weights = np.exp(total)
        error = weights.std() / weights.mean() / math.sqrt(len(draws))
        assert error < 0.05
        free -= 0.5 * np.log(frames.prior).sum()  # `marginal` leaves the prior's constant out
        expected = free + math.log(weights.mean())
        assert found.marginal(frames.prior)[m] == pytest.approx(expected, abs=5 * error + 1e-3)


def test_the_second_order_is_what_particles_in_all_dimensions_find(posterior: PosteriorArtefact):
    frames = told(posterior, 3, space=SECOND_ORDER)
    # Enough of an opinion to look at: the network is not trained.
    frames = replace(frames, trained=replace(posterior, area_weight=40.0, correlation=0.0))
    rng = np.random.default_rng(12)
    states = rng.uniform(-1, 1, (3, 3)) * 20
    found = likelihood(frames, states)
    candidates = Candidates(states, np.zeros(3), np.zeros(0, np.int64))
    probability = np.array([0.5, 0.3, 0.2])
    belief = Particles(candidates, found, probability)
    first = Estimate(probability @ states, np.cov(states.T, aweights=probability, bias=True))
    joint = with_second_order(first, belief, frames, SECOND_ORDER.start[3:])
    draws = rng.standard_normal((200_000, C)) / np.sqrt(frames.prior)
    unit = posterior.higher_nm
    higher, means, squares = draws[:, HIGHER] * unit, [], []
    for state in states:
        total = np.zeros(len(draws))
        for k in range(len(frames)):
            scaled = (state + frames.inputs_nm[k]) / FIRST_ORDER.range_nm
            # The trust of a frame in a candidate is common to all unknowns: undo it by the evidence itself.
            ratio = density_ratio(frames, k, scaled)
            there = draws + frames.shifts[k]
            trust = ratio / (ratio + UNINFORMATIVE)
            total += trust * (of_frame(frames, k, scaled).logpdf(there) + 0.5 * (there**2).sum(1))
        weights = np.exp(total - total.max())
        weights /= weights.sum()
        means.append(weights @ higher)
        squares.append((higher * weights[:, None]).T @ higher)
    expected = probability @ np.array(means)
    assert np.abs(expected).max() > 3.0
    np.testing.assert_allclose(joint.mean_nm[3:], expected, atol=1.5)
    second = np.einsum("m,mij->ij", probability, squares) - np.outer(expected, expected)
    np.testing.assert_allclose(joint.cov_nm2[3:, 3:], second, atol=150)
    cross = ((states - first.mean_nm) * probability[:, None]).T @ np.array(means)
    np.testing.assert_allclose(joint.cov_nm2[:3, 3:], cross, atol=15)


def test_a_frame_that_excludes_a_state_carries_no_information_about_the_day_there(posterior: PosteriorArtefact):
    frames = told(posterior, 1)
    frames.mixtures[:, :, 0] -= 60.0  # impossible wherever it was taken
    found = likelihood(frames, np.zeros((1, 3)))
    assert np.abs(found.matrix).max() < 1e-9
    assert found.marginal(frames.prior)[0] == pytest.approx(math.log(UNINFORMATIVE), abs=1e-6)


def test_likelihoods_add_up_over_frames_and_particles(posterior: PosteriorArtefact):
    frames = told(posterior, 5)
    states = np.random.default_rng(8).uniform(-30, 30, (7, 3))
    whole = likelihood(frames, states)
    parts = {
        name: getattr(frames, name)[:2] for name in ("features", "mixtures", "areas", "inputs_nm", "shifts", "weights")
    }
    first = replace(frames, **parts)
    grown = likelihood(first, states) + likelihood(frames, states, 2)
    joined = likelihood(frames, states[:3]).concatenate(likelihood(frames, states[3:]))
    for other in (grown, joined, whole.select(np.arange(7))):
        found, expected = (e.marginal(frames.prior) for e in (other, whole))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert np.all(Likelihood.flat(4).marginal(np.ones(C)) == 0)


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
    states = rng.uniform(-1, 1, (count, 3)).astype(np.float32)
    hidden = rng.standard_normal((count, len(NUISANCES))).astype(np.float32)
    higher = rng.standard_normal((count, 4)) * HIGHER_NM
    rows = np.abs(np.arange(64) - 32)[:, None] * np.ones((64, 32))
    values = np.abs(states[:, :1, None]) * np.cos(rows / 3) + hidden[:, :1, None] * np.cos(rows / 7)
    values = values + 0.1 * rng.standard_normal((count, 64, 32))
    # Sub-areas that tell which of them they are, by a plain and a diagonal stripe.
    parts = (np.arange(9)[:, None, None] + np.eye(24)[:, :12]) * np.ones((count, 1, 1, 1))
    data = Dataset(
        values.astype(np.float16), np.hstack([states * FIRST_ORDER.range_nm, higher]), np.ones(count),
        np.arange(count), parts.astype(np.float16), np.zeros((count, 2)),
    )  # fmt: skip
    return Examples.of(data, hidden, SECOND_ORDER, 0.0)


def test_training_finds_what_the_spectra_show_and_resumes_to_the_bit(
    posterior: PosteriorArtefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Symmetries, "scramble", lambda self, chosen, generator: chosen)  # the toy has no such symmetry
    options = training_posterior.Options(epochs=3, batch=32)
    run = TrainingRun(posterior.optics, SECOND_ORDER, tmp_path / "a", tmp_path)
    training, test = toy(640, 1), toy(128, 2)
    notes: list[str] = []
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    noted = replace(run, progress=lambda s, d, t, note: notes.append(note))
    straight = training_posterior.fit(training, test, options, noted)
    losses = [float(note.split()[2]) for note in notes if note]
    assert losses[-1] < losses[0] - 0.3

    class Interrupted(Exception):
        pass

    def cut(stage: str, done: int, total: int, note: str) -> None:
        if done == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        training_posterior.fit(training, test, options, replace(run, work=tmp_path / "b", progress=cut))
    resumed = training_posterior.fit(training, test, options, replace(run, work=tmp_path / "b", progress=silent))
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
    # The transposition exchanges coma's components, the inversion changes the sign of both.
    before, after = base.higher[:, :2], done.higher[:, :2]
    swapped = torch.isclose(after.abs()[:, 0], before.abs()[:, 1])
    assert torch.equal(swapped, signs[:, 1] == -1)  # C12a changes sign with the axes exchanged
    still = (signs == 1).all(1)
    inverted = torch.isclose(after[:, 0], -before[:, 0])
    for turn in (True, False):
        chosen = still & (inverted == turn)
        assert chosen.any()
        assert torch.equal(done.spectra[chosen], base.spectra[chosen].float())
        expected = base.patches[chosen].float()
        assert torch.equal(done.patches[chosen], expected.flip(1) if turn else expected)


def test_a_reflected_frame_has_the_reflected_sub_areas():
    rng = np.random.default_rng(0)
    counts = rng.poisson(50 + 40 * rng.random((64, 64)))
    # The first row and column have no mirror image about the centre; the window hides them nearly.
    mirrored_counts = np.roll(counts[::-1], 1, axis=0)
    whole, parts = (
        [preprocess.whole_and_patches(Frame(c.astype(np.uint16), 1e6, 1.0, 0.0))[1].values for c in pictures]
        for pictures in ([counts], [mirrored_counts, counts.T, np.roll(counts[::-1, ::-1], 1, (0, 1))])
    )
    start = torch.from_numpy(whole[0])[None]
    yes, no = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
    for found, coins in zip(parts, ((yes, no, no), (no, yes, no), (no, no, yes)), strict=True):
        tries = (coins, (no, no, no), (yes, yes, no))
        speckle = [moved(start, *turns)[0].numpy()[:, :, 3:] for turns in tries]
        right, *wrong = (np.corrcoef(other.ravel(), found[:, :, 3:].ravel())[0, 1] for other in speckle)
        assert right > 0.75
        assert max(wrong) < 0.5


def test_weights_survive_the_file_and_are_refused_elsewhere(posterior: PosteriorArtefact, tmp_path: Path):
    path = tmp_path / "toy.safetensors"
    posterior_artefact.save(posterior, path)
    loaded = posterior_artefact.load_for(str(path), posterior.optics, SECOND_ORDER)
    posterior_artefact.load_for(str(path), posterior.optics, FIRST_ORDER)
    for name, tensor in posterior.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    assert (loaded.states, loaded.log_floor, loaded.correlation) == (posterior.states, 0.1, 0.05)
    assert (loaded.space, loaded.usual) == (SECOND_ORDER, posterior.usual)
    with pytest.raises(weights_file.WeightsError, match="train posterior"):
        posterior_artefact.load_for(str(path), Optics(), FIRST_ORDER)
    with pytest.raises(weights_file.WeightsError, match="expected"):
        posterior_artefact.load(SHIPPED / "vae_random_days.safetensors")


def test_a_frame_of_another_shape_is_refused(posterior: PosteriorArtefact):
    controller = NeuralPosterior(FIRST_ORDER, posterior, Options(candidates=64))
    with pytest.raises(ValueError, match=r"\(64, 64\) is expected"):
        controller.update(FIRST_ORDER.zero, Frame(np.zeros((32, 32), np.uint16), 1e6, 1.0, 0.0))


def test_packing_is_exact_for_one_gaussian(posterior: PosteriorArtefact):
    config = replace(posterior.network.config, components=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PosteriorNetwork(config).eval()
    with torch.no_grad():
        mixture = network.mixture(torch.zeros(1, network.read))
    constant, mean, white = (
        packed(mixture)[0, 0, 0],
        packed(mixture)[0, 0, 1:4],
        packed(mixture)[0, 0, 4:].reshape(3, 3),
    )
    expected = multivariate_normal(mean, np.linalg.inv(white.T @ white)).logpdf(mean) - math.log(2)
    assert constant == pytest.approx(expected, abs=1e-4)


def test_the_deviance_of_one_gaussian_is_its_mahalanobis_distance(posterior: PosteriorArtefact):
    frames = told(posterior, 2)
    mixtures = frames.mixtures[:, :1].copy()
    mixtures[:, :, 1:4] = 0.7  # the state lies near it and far from its mirror image
    alone = replace(frames, mixtures=mixtures)
    state = np.array([60.0, 30.0, 30.0])
    expected = 0.0
    for mixture, input_nm in zip(mixtures[:, 0].astype(float), frames.inputs_nm, strict=True):
        offset = mixture[4:].reshape(3, 3) @ ((state + input_nm) / FIRST_ORDER.range_nm - mixture[1:4])
        expected += offset @ offset
    assert deviance(alone, state) == pytest.approx(expected, rel=1e-3)


def test_days_that_deviate_more_are_rarer(posterior: PosteriorArtefact):
    # Two moments of a chi-square with three degrees a frame: the gamma distribution is that chi-square.
    moments = posterior.usual["deviance"]
    assert tail(moments, 1, 7.815) == pytest.approx(0.05, abs=1e-3)
    assert tail(moments, 2, 12.592) == pytest.approx(0.05, abs=1e-3)
    assert tail(moments, 4, 25.184) == pytest.approx(tail(moments, 2, 12.592))
    assert tail(moments, 4, 12.592, adds_up=False) == tail(moments, 2, 12.592)


def test_the_weight_of_the_sub_areas_is_the_likeliest():
    # Knowledge of c from doubled evidence: every frame told twice as much as it knew.
    rng = np.random.default_rng(20)
    count = 4000
    factor = rng.standard_normal((count, 4, 4)) * 0.7
    matrix = factor @ factor.swapaxes(1, 2)
    higher = rng.standard_normal((count, 4))
    noise = np.einsum("nij,nj->ni", factor, rng.standard_normal((count, 4)))
    vector = np.einsum("nij,nj->ni", matrix, higher) + noise
    none = np.zeros((count, 3), np.float32)
    empty = torch.zeros(0)
    reading = Outputs(none, higher, empty, empty, np.zeros((count, 3, 3)), 2 * matrix, 2 * vector)
    assert calibrated_weight(reading) == pytest.approx(0.5, rel=0.06)


def test_frames_of_another_kind_look_strange():
    # Features that state and nuisances explain, and a hidden offset that only another kind of day has.
    rng = np.random.default_rng(21)
    mixing = torch.from_numpy(rng.standard_normal((len(NUISANCES) - 1 + 3, 40))).float()

    def frames(count: int, hidden: np.ndarray, offset: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        states = torch.from_numpy(rng.uniform(-0.5, 0.5, (count, 3))).float()
        nuisances = torch.from_numpy(np.broadcast_to(hidden, (count, len(NUISANCES))).copy()).float()
        known = torch.cat([nuisances[:, :-1], states**2], 1)
        noise = torch.from_numpy(rng.standard_normal((count, 40))).float()
        features = torch.tanh(known @ mixing) + 0.3 * noise + offset
        return torch.cat([features, torch.zeros(count, TOLD)], 1), states, nuisances

    check = fit_check(*frames(4000, rng.standard_normal((4000, len(NUISANCES))), 0.0), seed=1)

    def strangeness(offset: float) -> list[float]:
        found = []
        for _ in range(20):
            hidden = rng.standard_normal(len(NUISANCES))
            features, states, _ = frames(10, hidden, offset)
            found.append(check.strangeness(features, states.double().numpy(), hidden))
        return found

    # Noise alone gives a chi-square with as many degrees as components; the fit itself adds to it.
    assert COMPONENTS * 0.6 < np.median(strangeness(0.0)) < COMPONENTS * 3
    assert min(strangeness(0.5)) > np.quantile(strangeness(0.0), 0.95)


def particle_filter(maximum: int, rng: np.random.Generator | None = None) -> ParticleFilter:
    return ParticleFilter(FIRST_ORDER, Options().refinement, rng or np.random.default_rng(0), maximum)


def about(frames: FramePosteriors, states_nm: np.ndarray) -> Particles:
    """These particles alone, after all frames."""
    set_ = Candidates(states_nm, np.zeros(len(states_nm)), np.zeros(0, np.int64))
    found = likelihood(frames, states_nm)
    return weigh(set_, found, frames)


def peak(belief: Particles, frames: FramePosteriors) -> float:
    """Log-likelihood of the most probable particle."""
    return float(belief.likelihood.marginal(frames.prior).max())


def test_long_runs_keep_fewer_particles_and_bounded_work():
    counts = [particle_filter(600).count(frames) for frames in range(200)]
    assert counts[:9] == [600] * 9
    assert all(a >= b for a, b in itertools.pairwise(counts))
    assert counts[-1] == FEWEST
    assert max(frames * count for frames, count in enumerate(counts[:21])) <= EVALUATIONS
    assert particle_filter(100).count(50) == 100


def test_frames_that_scatter_too_much_widen_the_posterior(posterior: PosteriorArtefact):
    frames = told(posterior, 3)
    belief = about(frames, np.random.default_rng(6).uniform(-60, 60, (800, 3)))
    sizes = []
    for dispersion in (1.0, 2.0, 4.0):
        found = reweigh(belief, replace(frames, dispersion=dispersion))
        assert found.likelihood is belief.likelihood
        sizes.append(effective_count(found.probability))
    np.testing.assert_array_equal(reweigh(belief, frames).probability, belief.probability)
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_restart_finds_a_mode_that_the_particles_lost(posterior: PosteriorArtefact):
    truth, rng = np.array([25.0, -28.0, 26.0]), np.random.default_rng(5)
    frames = told(posterior, 3)
    mixtures = frames.mixtures[:, :1].copy()
    mixtures[:, 0, 0] = 5.0
    mixtures[:, 0, 1:4] = (truth + frames.inputs_nm) / FIRST_ORDER.range_nm
    mixtures[:, 0, 4:] = np.diag(FIRST_ORDER.range_nm / 6.0).ravel()  # each frame to 6 nm
    frames = replace(frames, mixtures=mixtures)
    lost = about(frames, np.array([50.0, 20.0, -30.0]) + rng.standard_normal((500, 3)))
    found = particle_filter(500, rng).restart(lost, frames)
    np.testing.assert_allclose(found.probability @ found.candidates.states_nm, truth, atol=6.0)
    for seed in range(5):  # never for the worse
        again = particle_filter(500, np.random.default_rng(seed)).restart(found, frames)
        assert peak(again, frames) >= peak(found, frames) > peak(lost, frames)
