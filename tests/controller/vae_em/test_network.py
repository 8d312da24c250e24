"""The network's shapes and its evidence lower bound against closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from controller.vae_em.network import Vae, VaeConfig, elbo, encode_mean

SMALL = VaeConfig(height=64, width=32, channels=(2, 3, 4, 5, 6), latent=3, noise_std=0.7)


def network(config: VaeConfig = SMALL, seed: int = 0) -> Vae:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Vae(config).eval()


def spectra(count: int, config: VaeConfig = SMALL, seed: int = 1) -> Tensor:
    return torch.randn((count, config.height, config.width), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("latent", [1, 3, 6])
@pytest.mark.parametrize(("height", "width"), [(128, 64), (64, 32), (32, 32)])
def test_shapes(height: int, width: int, latent: int):
    vae = network(VaeConfig(height, width, (2, 2, 2, 2, 2), latent))
    y = spectra(5, vae.config)
    mean, log_variance = vae.encode(vae.standardise(y))
    assert mean.shape == log_variance.shape == (5, latent)
    assert vae.decode(mean).shape == (5, 1, height, width)
    assert encode_mean(vae, y.numpy(), batch=2).shape == (5, latent)


def test_the_encoder_is_the_papers():
    vae = network(VaeConfig())
    convolutions = [m for m in vae.down.modules() if isinstance(m, nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 2)] * 5
    assert [c.out_channels for c in convolutions] == sorted(c.out_channels for c in convolutions)
    for block in list(vae.down)[:5]:
        assert [type(layer) for layer in block] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    transposed = [m for m in vae.up.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [c.stride for c in transposed] == [(2, 2)] * 5
    assert [c.in_channels for c in transposed] == [c.out_channels for c in convolutions][::-1]


@pytest.mark.parametrize(("height", "width"), [(128, 60), (100, 64), (32, 16)])
def test_sizes_that_do_not_halve_five_times_are_refused(height: int, width: int):
    with pytest.raises(ValueError, match="multiple of 32"):
        VaeConfig(height=height, width=width)


def test_standardise_takes_off_the_mean_pixel_by_pixel_and_one_scale():
    vae = network()
    offset = torch.arange(64 * 32, dtype=torch.float32).reshape(64, 32)
    vae.offset.copy_(offset)
    vae.spread.fill_(4.0)
    y = spectra(3)
    np.testing.assert_allclose(vae.standardise(y)[:, 0], (y - offset) / 4.0, rtol=1e-6)


# --- evidence lower bound --------------------------------------------------------------------------


class Pinned(Vae):
    """A network whose encoder and decoder are known functions."""

    def encode(self, standard: Tensor) -> tuple[Tensor, Tensor]:
        flat = standard.flatten(1)[:, :3]
        return flat, 0.3 * flat - 0.5

    def decode(self, latent: Tensor) -> Tensor:
        return latent.sum(1)[:, None, None, None].expand(-1, 1, 64, 32)


def test_kl_is_torchs():
    vae = Pinned(SMALL)
    standard = spectra(40)[:, None]
    mean, log_variance = vae.encode(standard)
    posterior = Independent(Normal(mean, torch.exp(0.5 * log_variance)), 1)
    prior = Independent(Normal(torch.zeros(40, 3), torch.ones(40, 3)), 1)
    _, kl = elbo(vae, standard, torch.Generator().manual_seed(2))
    assert kl.item() == pytest.approx(kl_divergence(posterior, prior).mean().item(), rel=1e-5)


def test_kl_vanishes_only_at_the_prior():
    vae = Pinned(SMALL)
    vae.encode = lambda standard: (torch.zeros(len(standard), 3), torch.zeros(len(standard), 3))  # type: ignore
    assert elbo(vae, spectra(4)[:, None], torch.Generator())[1].item() == 0.0


def test_the_likelihood_is_the_normal_one_at_the_sampled_latent():
    vae = Pinned(SMALL)
    standard = spectra(40)[:, None]
    mean, log_variance = vae.encode(standard)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    decoded = vae.decode(mean + noise * torch.exp(0.5 * log_variance))
    expected = Normal(decoded, SMALL.noise_std).log_prob(standard).sum((1, 2, 3)).mean()
    log_likelihood, _ = elbo(vae, standard, torch.Generator().manual_seed(3))
    assert log_likelihood.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_bound_lies_below_the_evidence_of_a_linear_network():
    # Decoder g(z) = z sum over 2048 pixels: the evidence is Gaussian with covariance sigma^2 I + 3 * ones.
    vae = Pinned(SMALL)
    rng = np.random.default_rng(4)
    pixels, common = rng.standard_normal((200, 1, 64, 32)), rng.standard_normal((200, 1, 1, 1))
    standard = torch.from_numpy(0.7 * pixels + common).float()
    log_likelihood, kl = elbo(vae, standard, torch.Generator().manual_seed(5))
    n, s2 = 64 * 32, SMALL.noise_std**2
    y = standard.flatten(1).double().numpy()
    # Sherman-Morrison on sigma^2 I + 3 * 1 1'.
    quadratic = (np.sum(y**2, 1) - 3 * np.sum(y, 1) ** 2 / (s2 + 3 * n)) / s2
    evidence = -0.5 * (quadratic + n * np.log(2 * np.pi * s2) + np.log1p(3 * n / s2))
    assert (log_likelihood - kl).item() < evidence.mean()


def test_the_noise_follows_from_the_generator_alone():
    vae, standard = network(), spectra(6)[:, None]
    with torch.no_grad():
        one, again, other = (elbo(vae, standard, torch.Generator().manual_seed(seed))[0] for seed in (7, 7, 8))
    assert one == again
    assert one != other


def test_gradients_reach_every_parameter():
    vae = network().train()
    log_likelihood, kl = elbo(vae, spectra(8)[:, None], torch.Generator().manual_seed(9))
    (kl - log_likelihood).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        # A bias in front of batch normalisation is taken off again; every other gradient is not zero.
        assert name.endswith("0.bias") or torch.any(parameter.grad != 0), name


# --- representation --------------------------------------------------------------------------------


def test_the_representation_is_the_mean_in_batches_of_any_size_without_noise():
    vae, y = network(), spectra(7)
    whole = encode_mean(vae.train(), y.numpy())
    assert not vae.training
    with torch.no_grad():
        np.testing.assert_allclose(whole, vae.encode(vae.standardise(y))[0].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(encode_mean(vae, y.numpy(), batch=3), whole, rtol=1e-4, atol=1e-6)
    assert whole.dtype == np.float64
    half = encode_mean(vae, y.numpy().astype(np.float16))
    np.testing.assert_allclose(half, whole, atol=0.02 * np.abs(whole).max())
