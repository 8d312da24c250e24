"""Translation ambiguity of joint estimation and its removal by symmetry (van Hulst et al. 2026, Lemma 1, Theorem 2).

A plain even map f is seen at x0 + U for known U, and both x0 and f are unknown. With a stationary kernel the marginal
likelihood of x0 is exactly flat: f may move along. With the symmetrised kernel (eq 14) it peaks at x0. No Ronchigrams.

    python -m benchmarks.identifiability [--out identifiability.png]
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from controller.vae_em import latent_gp
from controller.vae_em.latent_gp import Factors, Kernel, Residuals
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


def with_symmetry(seen: Experiment, candidates_nm: Array) -> Array:
    """The same under the symmetrised kernel, by the controller's own code."""
    n, count, total = len(seen.start_nm), len(candidates_nm), len(seen.values)
    kernel = Kernel(0, np.full(n, 1.0 / seen.lengthscale_nm), np.ones(1), np.zeros(1), math.inf)
    residual = np.repeat(seen.values[None, :, None], count, axis=2)
    evidence = Residuals(residual, np.full((1, total, count), seen.noise_std**2), np.zeros((1, 0, total, count)))
    factors = latent_gp.absorb(Factors.empty(1, 0, count), kernel, candidates_nm, seen.inputs_nm, evidence)
    return latent_gp.log_likelihood(factors, kernel)


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
    if arguments.out is not None:
        plot(line, plane, arguments.out)


if __name__ == "__main__":
    main()
