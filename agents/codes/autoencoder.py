"""Autoencoders by torch: plain, denoising (Vincent et al. 2008) and variational (Kingma and Welling 2014).

Examples are scaled by one mean and one rms; a Poisson likelihood needs counts instead and decodes to rates.
"""

import math
from dataclasses import replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from agents.codes.base import CodeError, checked_examples, checked_targets
from learning import optimisation
from learning.torch_state import one_thread, seeded
from twin.arrays import Array, Floats
from twin.options import Count, NonNegative, Positive, Seed, validated


@validated
class Options(optimisation.Options):
    """Settings of all autoencoders.

    Attributes:
        size: numbers of a code.
        hidden: units of the two hidden layers of the encoder; the decoder has them in reverse order.
        activation: "gelu", or "linear": the code is then that of the principal components (Baldi and Hornik 1989).
        loss: "gaussian" (squared error) or "poisson" (likelihood of counts).
    """

    size: Count = 4
    hidden: tuple[Count, Count] = (128, 64)
    activation: Literal["gelu", "linear"] = "gelu"
    epochs: Count = 300
    learning_rate: Positive = 3e-3
    loss: Literal["gaussian", "poisson"] = "gaussian"
    seed: Seed = 0


@validated
class DenoisingOptions(Options):
    """Settings of the denoising autoencoder.

    Attributes:
        noise: rms of the Gaussian noise added to the examples at each step, in units of their rms; none is added to
            counts, which are thinned by half instead.
    """

    noise: NonNegative = 0.3


@validated
class VariationalOptions(Options):
    """Settings of the variational autoencoder.

    Attributes:
        weight: weight of the divergence from the Gaussian, beta of Higgins et al. (2017), for examples in units of
            their rms.
    """

    weight: NonNegative = 0.02


class Networks(nn.Module):
    """Encoder to `outputs` numbers and decoder from `size`."""

    def __init__(self, length: int, options: Options, outputs: int) -> None:
        super().__init__()
        first, second = options.hidden
        act = nn.GELU if options.activation == "gelu" else nn.Identity
        self.encoder = nn.Sequential(
            nn.Linear(length, first), act(), nn.Linear(first, second), act(), nn.Linear(second, outputs)
        )
        self.decoder = nn.Sequential(
            nn.Linear(options.size, second), act(), nn.Linear(second, first), act(), nn.Linear(first, length)
        )


class Autoencoder:
    """Two networks with a bottleneck, fitted to reproduce the examples, or the targets from the examples."""

    outputs_per_code = 1

    def __init__(self, options: Options) -> None:
        self.options = options
        self.networks: Networks | None = None

    def fit(self, examples: Array, targets: Array | None = None) -> Self:
        """Fit both networks by Adam on one thread; the same seed gives the same code."""
        values = checked_examples(examples, 2)
        wanted = checked_targets(targets, values)
        self._clean = targets is not None
        if self.options.loss == "poisson" and min(values.min(), wanted.min()) < 0:
            raise CodeError(
                f"a Poisson likelihood needs counts; the smallest value is {min(values.min(), wanted.min()):g}"
            )
        self._mean, self._rms = float(values.mean()), max(float(values.std()), 1e-12)
        self._length = values.shape[1]
        options = self.options
        inputs = self._scaled(values)
        ends = torch.from_numpy(wanted).float() if options.loss == "poisson" else self._scaled(wanted)
        with one_thread(), seeded(options.seed):
            networks = self._made(self._length)
            optimiser = torch.optim.Adam(networks.parameters(), lr=options.learning_rate)

            def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
                return self._loss(networks, inputs[chosen], ends[chosen], generator)

            few = replace(options, batch=min(options.batch, len(inputs)))
            for epoch in range(options.epochs):
                optimisation.one_epoch(networks, optimiser, few, epoch, len(inputs), loss, clip=5.0)
        self.networks = networks.eval()
        return self

    def _made(self, length: int) -> Networks:
        """Networks for examples of this length, with their first weights."""
        return Networks(length, self.options, self.options.size * self.outputs_per_code)

    def _scaled(self, values: Floats) -> Tensor:
        return torch.from_numpy((values - self._mean) / self._rms).float()

    def _loss(self, networks: Networks, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        return self._misfit(networks.decoder(networks.encoder(inputs)), targets)

    def _misfit(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error, or minus the log likelihood of counts given their log rates, per value."""
        if self.options.loss == "poisson":
            return nn.functional.poisson_nll_loss(outputs + math.log(max(self._mean, 1e-12)), targets)
        return nn.functional.mse_loss(outputs, targets)

    def encode(self, examples: Array) -> Floats:
        """Codes (N, k)."""
        return self._outputs(examples)[:, : self.options.size]

    def _outputs(self, examples: Array) -> Floats:
        if self.networks is None:
            raise CodeError("this code is not fitted yet")
        values = checked_examples(examples, 1, self._length)
        with torch.no_grad(), one_thread():
            return np.asarray(self.networks.encoder(self._scaled(values)).double().numpy())

    def decode(self, codes: Array) -> Floats:
        """Examples (N, D); rates of counts for a Poisson likelihood."""
        if self.networks is None:
            raise CodeError("this code is not fitted yet")
        with torch.no_grad(), one_thread():
            outputs = self.networks.decoder(torch.from_numpy(np.asarray(codes, np.float64)).float()).double().numpy()
        if self.options.loss == "poisson":
            return np.asarray(np.exp(outputs) * self._mean)
        return np.asarray(outputs * self._rms + self._mean)


class Denoising(Autoencoder):
    """Fitted to clean targets of noisy examples; without targets, to the examples from noisier ones.

    Noise is Gaussian, or for counts the binomial thinning that leaves Poisson counts of half the dose.
    """

    options: DenoisingOptions

    def _loss(self, networks: Networks, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        if self.options.loss == "poisson":
            if not self._clean:
                counts = torch.round(inputs * self._rms + self._mean).clamp(min=0)
                kept = torch.binomial(counts, torch.full_like(counts, 0.5), generator=generator)
                inputs, targets = (2 * kept - self._mean) / self._rms, 2 * (counts - kept)
        else:
            inputs = inputs + self.options.noise * torch.randn(inputs.shape, generator=generator)
        return super()._loss(networks, inputs, targets, generator)


class Variational(Autoencoder):
    """Each example has a Gaussian of codes, drawn close to the standard one; `encode` gives the mean."""

    options: VariationalOptions
    outputs_per_code = 2

    def _loss(self, networks: Networks, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        mean, log_variance = networks.encoder(inputs).chunk(2, dim=1)
        drawn = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=generator)
        divergence = gaussian_divergence(mean, log_variance)
        return self._misfit(networks.decoder(drawn), targets) + self.options.weight * divergence / inputs.shape[1]

    def spread(self, examples: Array) -> Floats:
        """Standard deviations of the codes, (N, k)."""
        return np.exp(self._outputs(examples)[:, self.options.size :] / 2)


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of normals from the standard one, summed over a code, mean over examples.

    Kingma and Welling (2014), appendix B.
    """
    return 0.5 * (mean**2 + torch.exp(log_variance) - 1.0 - log_variance).sum(dim=1).mean()


KINDS: dict[str, tuple[type[Options], type[Autoencoder]]] = {
    "autoencoder": (Options, Autoencoder),
    "denoising": (DenoisingOptions, Denoising),
    "vae": (VariationalOptions, Variational),
}


def options_of(method: str) -> type[Options]:
    """Options of a method."""
    return KINDS[method][0]


def make(method: str, options: Options) -> Autoencoder:
    """Build the code; see `agents.codes.base.load`."""
    return KINDS[method][1](options)
