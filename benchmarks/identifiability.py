"""Translation ambiguity of joint estimation and its removal by symmetry (van Hulst et al. 2026, Lemma 1, Theorem 2).

A plain even map f is seen at x0 + U for known U, and both x0 and f are unknown. With a stationary kernel the marginal
likelihood of x0 is exactly flat: f may move along. With the symmetrised kernel (eq 14) it peaks at x0. No Ronchigrams.
The theorem's conditions C1 to C4 are checked for the kernels of the shipped weights; the constant that is added to them
is outside C2 as worded (docs/paper.md#identifiability), and its cost is measured.

    python -m benchmarks.identifiability [--out identifiability.png]
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import cholesky, solve_triangular

from controller.vae_em import artefact, latent_gp
from controller.vae_em.hyperparameters import KERNELS, SymmetrisedKernel
from controller.vae_em.latent_gp import Factors, Kernel, Residuals
from controller.weights import SHIPPED
from twin.arrays import Array


@dataclass(frozen=True)
class Experiment:
    """Observations of an even map about an unknown start.

    Attributes:
        start_nm: true x0, (n,).
        inputs_nm: cumulative inputs U, (T, n).
        values: observed f(x0 + U) + noise, (T,).
        noise_std: of the observations.
        lengthscale_nm: of the kernel, unit signal variance.
    """

    start_nm: Array
    inputs_nm: Array
    values: Array
    noise_std: float
    lengthscale_nm: float


def even_map(states_nm: Array) -> Array:
    """An even map without periods, (..., n) to (...): unequal widths, so that no axis stands for another."""
    widths = 20.0 * (1.0 + 0.4 * np.arange(states_nm.shape[-1]))
    return np.asarray(1.5 / (1.0 + np.sum((states_nm / widths) ** 2, axis=-1)) - 0.5)


def experiment(start_nm: Array, observations: int, rng: np.random.Generator, noise_std: float = 0.02) -> Experiment:
    """Inputs uniform in +-100 nm per axis, beyond every candidate's null.

    The reach matters: a candidate that puts all states on one side of the origin leaves the symmetry untested.
    """
    inputs = rng.uniform(-100.0, 100.0, (observations, len(start_nm)))
    values = even_map(start_nm + inputs) + noise_std * rng.standard_normal(observations)
    return Experiment(np.asarray(start_nm, np.float64), inputs, values, noise_std, 20.0)


def log_marginal(seen: Experiment, start_nm: Array, symmetrised: bool) -> float:
    """Log marginal likelihood of one candidate x0, (n,), nats: a Gaussian process in a dozen lines."""
    states = (start_nm + seen.inputs_nm) / seen.lengthscale_nm

    def base(a: Array, b: Array) -> Array:
        return np.asarray(np.exp(-0.5 * np.sum((a[:, None] - b[None, :]) ** 2, axis=-1)))

    covariance = base(states, states)
    if symmetrised:
        # k(x, x') + k(x, -x'), halved: eq 14 for a stationary base kernel.
        covariance = 0.5 * (covariance + base(states, -states))
    lower = cholesky(covariance + seen.noise_std**2 * np.eye(len(states)), lower=True)
    whitened = solve_triangular(lower, seen.values, lower=True)
    return float(
        -0.5 * whitened @ whitened - np.sum(np.log(np.diag(lower))) - 0.5 * len(states) * math.log(2 * math.pi)
    )


def without_symmetry(seen: Experiment, candidates_nm: Array) -> Array:
    """Log marginal likelihoods (M,) of candidates (M, n) under the stationary kernel."""
    return np.array([log_marginal(seen, x, symmetrised=False) for x in candidates_nm])


def with_symmetry(seen: Experiment, candidates_nm: Array, offset_variance: float = 0.0) -> Array:
    """The same under the symmetrised kernel, plus a constant of that variance, by the controller's own code."""
    n, count, total = len(seen.start_nm), len(candidates_nm), len(seen.values)
    kernel = Kernel(0, np.full(n, 1.0 / seen.lengthscale_nm), np.ones(1), np.full(1, offset_variance), math.inf)
    residual = np.repeat(seen.values[None, :, None], count, axis=2)
    evidence = Residuals(residual, np.full((1, total, count), seen.noise_std**2), np.zeros((1, 0, total, count)))
    factors = latent_gp.absorb(Factors.empty(1, 0, count), kernel, candidates_nm, seen.inputs_nm, evidence)
    return latent_gp.log_likelihood(factors, kernel)


@dataclass(frozen=True)
class Conditions:
    """Conditions C1 to C4 of Theorem 2 for the functions that a kernel spans about some states.

    Attributes:
        odd_part: C1, largest odd part of a basis function, of unit variance; zero if even.
        strongest_share: C2, share of the spectral power in the strongest frequency of a random function, for windows
            twice as wide each; it halves for a continuous spectrum and stays for a point.
        condition: C3, largest over smallest eigenvalue of the basis functions' spectra; finite if they are independent.
        silent_share: C4, share of the frequencies without amplitude.
    """

    odd_part: float
    strongest_share: tuple[float, ...]
    condition: float
    silent_share: float


WINDOWS = (32.0, 64.0, 128.0)
"""Half-widths of the windows in which C2 is looked at, in lengthscales."""


def conditions(kernel: str, states: Array, rng: np.random.Generator, offset: float = 0.0) -> Conditions:
    """Check C1 to C4 for the symmetrised kernel centred at `states` / lengthscale, (T, n).

    Args:
        kernel: name in `hyperparameters.KERNELS`.
        states: centres of the basis functions.
        rng: for weights and frequencies.
        offset: standard deviation of a constant added to every function.
    """
    symmetrised, n = SymmetrisedKernel(KERNELS[kernel](states.shape[1])), states.shape[1]
    symmetrised.base.lengthscale = 1.0

    def basis(points: Array) -> Array:
        with torch.no_grad():
            return np.asarray(symmetrised(torch.from_numpy(points), torch.from_numpy(states)).to_dense())

    points = rng.uniform(-3, 3, (256, n))
    weights = rng.standard_normal(len(states))
    scale = _frequency_scale(kernel, 4096, rng)
    waves = np.cos(scale * rng.standard_normal((4096, n)) @ states.T)
    eigenvalues = np.linalg.eigvalsh(waves.T @ waves)
    return Conditions(
        float(np.abs(basis(points) - basis(-points)).max() / 2),
        tuple(_strongest_share(basis, weights, offset, n, width) for width in WINDOWS),
        float(eigenvalues[-1] / eigenvalues[0]) if eigenvalues[0] > 0 else math.inf,
        float(np.mean(np.abs(waves @ weights) < 1e-9)),
    )


def _frequency_scale(kernel: str, count: int, rng: np.random.Generator) -> Array:
    """Factors (count, 1) that turn normal frequencies into draws from the spectral density of a kernel.

    That of the squared exponential is normal, that of a Matern kernel Student's t, and that of the rational
    quadratic, a mixture of squared exponentials with exponential weights, a mixture of normals.
    """
    if kernel == "rbf":
        return np.ones((count, 1))
    if kernel == "rational_quadratic":
        return np.sqrt(rng.exponential(size=(count, 1)))
    freedom = {"matern52": 5.0, "matern32": 3.0}[kernel]
    return np.asarray(np.sqrt(freedom / rng.chisquare(freedom, (count, 1))))


def _strongest_share(
    basis: Callable[[Array], Array], weights: Array, offset: float, axes: int, half_width: float
) -> float:
    """Share of the power of a function along the first axis that is in its strongest frequency."""
    line = np.zeros((int(16 * half_width), axes))
    line[:, 0] = np.linspace(-half_width, half_width, len(line), endpoint=False)
    power = np.abs(np.fft.rfft(basis(line) @ weights + offset)) ** 2
    return float(power.max() / power.sum())


COARSE_NM, FINE_NM = np.linspace(-60, 60, 13), np.linspace(-5, 5, 20)
"""Candidates along each axis: over the whole box, where another start may be taken for the true one, and about that."""


def cost_of_a_constant(offset_variance: float, seeds: int) -> tuple[float, float]:
    """Median error of the most likely start in the plane, nm, without and with a constant added to the kernel.

    The constant's variance is relative to the kernel's.
    """
    coarse, fine = (np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2) for axis in (COARSE_NM, FINE_NM))
    errors = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        seen = experiment(rng.uniform(-30, 30, 2), 100, rng)
        candidates = np.concatenate([coarse, seen.start_nm + fine])
        best = [candidates[np.argmax(with_symmetry(seen, candidates, v))] for v in (0.0, offset_variance)]
        errors.append([float(np.linalg.norm(found - seen.start_nm)) for found in best])
    without, with_constant = np.median(errors, axis=0)
    return float(without), float(with_constant)


def plot(line: Experiment, plane: Experiment, out: Path) -> None:
    """Both log-likelihoods over candidates: a line in one dimension, maps in two."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    first, *maps = figure.subplots(1, 3)
    grid = np.linspace(-60, 60, 481)[:, None]
    for values, label, style in (
        (without_symmetry(line, grid), "stationary kernel", "--"),
        (with_symmetry(line, grid), "symmetrised kernel", "-"),
    ):
        first.plot(grid[:, 0], values - values.max(), style, label=label)
    first.axvline(line.start_nm[0], color="0.4", linestyle=":", label=f"true x0, {line.start_nm[0]:g} nm")
    first.set(xlabel="candidate x0 [nm]", ylabel="log-likelihood, best = 0 [nats]", ylim=(-150, 8))
    first.set_title("Without symmetry every x0 fits as well")
    first.legend(loc="lower left")
    axis = np.linspace(-60, 60, 61)
    candidates = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    titles = ("Two dimensions, stationary: flat", "Two dimensions, symmetrised: one peak")
    for axes, values, title in zip(
        maps, (without_symmetry(plane, candidates), with_symmetry(plane, candidates)), titles, strict=True
    ):
        below = np.clip(values - values.max(), -150, 0).reshape(61, 61)
        image = axes.imshow(below, origin="lower", extent=(-61, 61, -61, 61), vmin=-150, vmax=0, cmap="viridis")
        axes.plot(*plane.start_nm, "x", color="red", markersize=9, label="true x0")
        axes.set(xlabel="candidate x0, first [nm]", ylabel="second [nm]", title=title)
        axes.legend(loc="lower left")
    figure.colorbar(image, ax=maps, label="log-likelihood, best = 0 [nats]")
    figure.savefig(out, dpi=120)


STATES = 8
"""Centres of the basis functions, uniform in the range of the state."""


def print_conditions(rng: np.random.Generator) -> None:
    """One line of figures for the kernel of each shipped VAE, and for the constant that is added to it."""
    print(
        f"{'kernel':30} {'C1: odd part':>13} {'C2: strongest frequency':>27} {'C3: condition':>14} {'C4: silent':>11}"
    )
    for name in ("vae_random_days", "vae_nominal_3"):
        prior = artefact.load(SHIPPED / f"{name}.safetensors").prior
        h = prior.hyperparameters
        states = rng.uniform(-1, 1, (STATES, len(prior.range_nm))) / h.lengthscale
        offset = float(np.sqrt(np.mean(h.offset_variance / h.signal_variance)))
        for label, constant in ((f"{h.kernel} of {name}", 0.0), ("  with its constant", offset)):
            found = conditions(h.kernel, states, rng, constant)
            shares = " ".join(f"{share:8.1%}" for share in found.strongest_share)
            print(f"{label:30} {found.odd_part:13.1e} {shares:>27} {found.condition:14.2g} {found.silent_share:11.1%}")


def main() -> None:
    """Print the ranges of both likelihoods and draw the figure."""
    parser = argparse.ArgumentParser(description="Translation ambiguity without symmetry, and its removal.")
    parser.add_argument("--out", type=Path, help="PNG to write")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    line, plane = experiment(np.array([23.0]), 40, rng), experiment(np.array([23.0, -14.0]), 100, rng)
    grid = np.linspace(-60, 60, 481)[:, None]
    flat, peaked = without_symmetry(line, grid), with_symmetry(line, grid)
    print(f"stationary kernel:  range {np.ptp(flat):.1e} nats over x0 in +-60 nm")
    best = grid[np.argmax(peaked), 0]
    print(f"symmetrised kernel: range {np.ptp(peaked):.0f} nats, maximum at {best:+.2f} nm; true +23 nm")
    print_conditions(rng)
    without, with_constant = cost_of_a_constant(1.0, 20)
    print(f"median error in the plane: {without:.2f} nm; with a constant as variable as it {with_constant:.2f} nm")
    if arguments.out is not None:
        plot(line, plane, arguments.out)


if __name__ == "__main__":
    main()
