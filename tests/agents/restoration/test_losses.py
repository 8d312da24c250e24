"""Losses of the restoration against their formulas and what they are for."""

import math

import numpy as np
import pytest
import torch

from agents.restoration import losses
from agents.restoration.discriminator import PATCH, Discriminator, discriminator_loss, generator_loss


@pytest.fixture
def truth() -> torch.Tensor:
    """Two images of mean one with different contrast."""
    noise = torch.rand((2, 1, 40, 44), generator=torch.Generator().manual_seed(1))
    return 1 + torch.tensor([0.3, 1.5])[:, None, None, None] * (noise - 0.5)


@pytest.mark.parametrize("name", [*losses.TERMS, "logarithm"])
def test_the_truth_has_the_least_loss(name: str, truth: torch.Tensor) -> None:
    term = getattr(losses, name)
    at_truth, beside = term(truth, truth), term(truth, 1.02 * truth + 0.05)
    assert at_truth.shape == (2,)
    assert torch.all(at_truth < beside)


def test_weighted_errors_are_those_of_the_thesis(truth: torch.Tensor) -> None:
    found = truth + 0.1
    std = truth.numpy().std(axis=(1, 2, 3), ddof=1)
    np.testing.assert_allclose(losses.absolute(truth, found), 0.1 / std, rtol=1e-4)
    np.testing.assert_allclose(losses.square(truth, found), 0.01 / std, rtol=1e-4)
    np.testing.assert_allclose(losses.mean(truth, found), 0.1, rtol=1e-4)
    np.testing.assert_allclose(losses.std(truth, 2 * truth), std, rtol=1e-4)
    np.testing.assert_allclose(losses.logarithm(truth, found), np.log(0.01 / std**2 + losses.LEAST_ERROR), rtol=1e-4)


def test_the_fourier_loss_is_a_mean_of_powers_of_the_spectrum(truth: torch.Tensor) -> None:
    found = truth.clone()
    found[:, 0, 3, 4] += 0.5  # a point has the same power at all frequencies
    std = truth.numpy().std(axis=(1, 2, 3), ddof=1)
    expected = (0.5 / std / math.sqrt(40 * 44)) ** losses.GAMMA
    np.testing.assert_allclose(losses.fourier(truth, found), expected, rtol=0.02)


def test_whitening_sees_weak_detail_where_the_image_is_dark() -> None:
    x = torch.arange(64.0)[None, None, None, :].expand(1, 1, 48, 64)
    bright = torch.where(x < 32, 4.0, 0.1) + torch.where(x < 32, 1.0, 0.2) * torch.sin(x)
    flat_dark = torch.where(x < 32, bright, torch.full_like(x, 0.1))
    flat_bright = torch.where(x < 32, torch.full_like(x, 4.0), bright)
    assert losses.absolute(bright, flat_bright) > 3 * losses.absolute(bright, flat_dark)
    assert losses.whitening(bright, flat_bright) < 2 * losses.whitening(bright, flat_dark)


def test_each_adversary_trains_only_itself(truth: torch.Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Discriminator(4)
    found = (truth + 0.1).requires_grad_()
    generator_loss(network, truth, truth, found).backward()
    assert found.grad is not None
    assert found.grad.abs().sum() > 0
    assert all(value.grad is None for value in network.parameters())
    found.grad = None
    discriminator_loss(network, truth, truth, found).backward()
    assert found.grad is None
    assert all(value.grad is not None for value in network.parameters())
    assert network(truth[..., :PATCH, :PATCH], truth[..., :PATCH, :PATCH]).shape == (2, 1, 1, 1)


def test_equal_images_leave_the_discriminator_at_chance(truth: torch.Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Discriminator(4)
    alike = truth[:1, :, :PATCH, :PATCH]  # one patch: C(y) is its own mean
    assert discriminator_loss(network, alike, alike, alike).item() == pytest.approx(2 * math.log(2), rel=1e-5)
    assert generator_loss(network, alike, alike, alike).item() == pytest.approx(2 * math.log(2), rel=1e-5)
