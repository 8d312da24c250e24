"""Codes against closed forms: principal planes, the linear autoencoder, likelihoods, angles that are known."""

import numpy as np
import pytest
import torch

from agents.codes.autoencoder import gaussian_divergence
from agents.codes.base import METHODS, CodeError, load, squared_error
from agents.codes.pca import Options, Pca
from twin.arrays import Floats
from twin.options import OptionError
from twin.spectra.noise import draw
from twin.spectra.phases import IRON

FEW = {"epochs": 2}


def cloud(count: int = 300, length: int = 9) -> Floats:
    """A noisy plane."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((length, 2)))[0].T
    return rng.standard_normal((count, 2)) * [3.0, 1.5] @ axes + 0.1 * rng.standard_normal((count, length)) + 1.0


def options(method: str) -> dict[str, object]:
    return {} if method == "pca" else FEW


@pytest.mark.parametrize("method", METHODS)
def test_a_code_keeps_the_seam(method: str) -> None:
    examples = cloud()
    code = load(method, {"size": 2, **options(method)}).fit(examples)
    codes = code.encode(examples)
    assert codes.shape == (300, 3 if method == "rvae" else 2)
    assert code.decode(codes).shape == examples.shape
    again = load(method, {"size": 2, **options(method)}).fit(examples)
    np.testing.assert_array_equal(again.encode(examples), codes)
    with pytest.raises(CodeError, match="learned from examples of 9 values; got 4"):
        code.encode(np.zeros((3, 4)))


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_learned_from_is_refused(method: str) -> None:
    code = load(method, {"size": 2, **options(method)})
    with pytest.raises(CodeError, match="not fitted"):
        code.encode(np.zeros((3, 9)))
    with pytest.raises(CodeError, match="2 values of the examples are not finite"):
        code.fit(np.where(np.arange(90).reshape(10, 9) < 2, np.nan, 1.0))
    with pytest.raises(CodeError, match="at least"):
        code.fit(np.zeros((1, 9)))
    with pytest.raises(CodeError, match=r"targets of shape \(3, 9\)"):
        code.fit(np.ones((10, 9)), np.ones((3, 9)))
    with pytest.raises(OptionError, match="sise"):
        load(method, {"sise": 2})


def test_components_are_those_of_the_singular_values() -> None:
    examples = cloud()
    code = Pca(Options(size=2)).fit(examples)
    centred = examples - examples.mean(axis=0)
    left, value, right = np.linalg.svd(centred, full_matrices=False)
    plane = (left[:, :2] * value[:2]) @ right[:2] + examples.mean(axis=0)
    np.testing.assert_allclose(code.decode(code.encode(examples)), plane, atol=1e-9)
    np.testing.assert_allclose(code.variance_ratio, value[:2] ** 2 / np.sum(value**2))


def test_components_of_blocks_are_those_of_the_whole() -> None:
    examples = cloud(600)
    whole, blocks = Pca(Options(size=2)).fit(examples), Pca(Options(size=2))
    blocks.fit_blocks(np.split(examples, [1, 2, 50, 300]))
    np.testing.assert_allclose(blocks.encode(examples), whole.encode(examples), atol=0.05)
    with pytest.raises(CodeError, match="more than 2 examples"):
        Pca(Options(size=2)).fit_blocks([examples[:2]])


def test_a_linear_autoencoder_finds_the_principal_plane() -> None:
    examples = cloud()
    best = squared_error(load("pca", {"size": 2}).fit(examples), examples).mean()
    linear = load("autoencoder", {"size": 2, "activation": "linear", "epochs": 60}).fit(examples)
    assert squared_error(linear, examples).mean() == pytest.approx(best, rel=0.05)


def test_a_curve_needs_one_number_of_an_autoencoder_and_two_components() -> None:
    angle = np.random.default_rng(2).uniform(0.3, 2.8, 300)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    curved = load("autoencoder", {"size": 1, "epochs": 80, "hidden": (32, 16)}).fit(arc)
    straight = load("pca", {"size": 1}).fit(arc)
    assert squared_error(curved, arc).mean() < 0.05 * squared_error(straight, arc).mean()


def test_a_denoising_autoencoder_is_nearer_to_the_clean_spectra_than_components() -> None:
    known, others = draw(list(IRON), 60, 42), draw(list(IRON), 60, 43)
    plane = load("pca", {"size": 4}).fit(known.measured)
    code = load("denoising", {"size": 4, "noise": 0.2, "epochs": 60}).fit(known.measured, known.expected)
    noisy = float(((others.measured - others.expected) ** 2).mean())
    error = squared_error(code, others.measured, others.expected).mean()
    assert error < 0.5 * squared_error(plane, others.measured, others.expected).mean()
    assert error < 0.25 * noisy


def test_counts_are_denoised_without_clean_ones() -> None:
    rng = np.random.default_rng(3)
    rate = 4.0 * np.exp(np.outer(rng.uniform(-1, 1, 300), np.sin(np.linspace(0, 6, 40))))
    counts = rng.poisson(rate).astype(np.float64)
    code = load("denoising", {"size": 1, "loss": "poisson", "epochs": 40}).fit(counts)
    assert squared_error(code, counts, rate).mean() < 0.2 * ((counts - rate) ** 2).mean()
    with pytest.raises(CodeError, match="needs counts; the smallest value is -1"):
        load("denoising", {"loss": "poisson"}).fit(counts - counts.min() - 1)


def test_the_divergence_is_that_of_normals() -> None:
    mean, log_variance = torch.tensor([[0.7]]), torch.tensor([[-0.4]])
    one = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    other = torch.distributions.Normal(torch.zeros(1, 1), torch.ones(1, 1))
    exact = torch.distributions.kl_divergence(one, other)
    torch.testing.assert_close(gaussian_divergence(mean, log_variance), exact.sum())


def test_codes_of_a_variational_autoencoder_fill_a_standard_normal() -> None:
    code = load("vae", {"size": 2, "epochs": 60, "weight": 0.5}).fit(cloud())
    codes, spread = code.encode(cloud()), code.spread(cloud())  # type: ignore[attr-defined]
    np.testing.assert_allclose(codes.var(axis=0) + (spread**2).mean(axis=0), 1.0, atol=0.35)


def pictures(angle: Floats) -> Floats:
    """Three spots of different size at the corners of a triangle, turned from +x towards +y, (N, 16 * 16)."""
    y, x = (np.mgrid[:16, :16] - 7.5) / 8
    total = np.zeros((len(angle), 16, 16))
    for size, place in ((1.0, 0.0), (0.7, 2.1), (0.4, 4.2)):
        at = angle[:, None, None] + place
        total += size * np.exp(-((x - 0.55 * np.cos(at)) ** 2 + (y - 0.55 * np.sin(at)) ** 2) / 0.05)
    return total.reshape(len(angle), -1)


def test_the_angle_of_a_rotational_code_is_the_angle() -> None:
    rng = np.random.default_rng(4)
    angle = rng.uniform(-np.pi, np.pi, 400)
    noisy = pictures(angle) + 0.05 * rng.standard_normal((400, 256))
    code = load("rvae", {"size": 1, "epochs": 25}).fit(noisy)
    codes = code.encode(noisy)
    apart = np.exp(1j * (codes[:, 0] - angle))
    assert np.degrees(np.sqrt(np.mean(np.angle(apart / apart.mean()) ** 2))) < 5.0
    assert squared_error(code, noisy, pictures(angle)).mean() < 0.1 * pictures(angle).var()
    with pytest.raises(CodeError, match="8 values are no square"):
        load("rvae").fit(np.ones((5, 8)))
