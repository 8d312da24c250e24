"""Whether the noise of the latents is Gaussian, independent and of one size (van Hulst et al. 2026, section III-B).

The paper argues by the delta method and the central limit theorem that Poisson counts make it so. Latents of many
frames at one state show what holds: exposures of one film region (counts alone), and of fresh regions, as in a
calibration.

    python -m benchmarks.latent_noise [--weights vae_nominal_3] [--frames 200]
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import kurtosis, norm, skew

from controller import preprocess
from controller.dataset import DaySource
from controller.vae_em import artefact
from controller.vae_em.artefact import Artefact
from controller.vae_em.network import encode_mean
from controller.weights import SHIPPED
from twin.arrays import Array
from twin.cameras.ronchigram_camera import expose
from twin.day import Day
from twin.optics import Optics
from twin.state import FIRST_ORDER
from twin.types import Frame

STATES_NM = ((0.0, 0.0, 0.0), (5.0, 0.0, 0.0), (20.0, 10.0, 0.0), (60.0, 0.0, 0.0), (40.0, 30.0, -30.0))
HELD = 0.9


@dataclass(frozen=True)
class Noise:
    """Latents at one state, on the axes on which the training's noise is white.

    Attributes:
        std: per axis, (d,).
        skewness, excess_kurtosis: the largest of the axes; 0 for a Gaussian.
        covered: share of the latents within the central 90 % interval of the Gaussian of their mean and variance.
        correlation: largest correlation between two axes.
    """

    std: Array
    skewness: float
    excess_kurtosis: float
    covered: float
    correlation: float


def noise(latents: Array) -> Noise:
    """Describe the scatter of latents (N, d) about their mean.

    Example:
        >>> found = noise(np.random.default_rng(0).standard_normal((4000, 2)))
        >>> round(found.covered, 2), bool(found.excess_kurtosis < 0.3)
        (0.9, True)
    """
    centred = (latents - latents.mean(0)) / latents.std(0)
    crossed = np.corrcoef(latents.T) - np.eye(latents.shape[1])
    return Noise(
        latents.std(0),
        float(np.abs(skew(latents)).max()),
        float(kurtosis(latents)[np.argmax(np.abs(kurtosis(latents)))]),
        float(np.mean(np.abs(centred) < norm.ppf((1 + HELD) / 2))),
        float(np.abs(crossed).max()),
    )


def frames_at(
    state_nm: Array, count: int, same_region: bool, optics: Optics, rng: np.random.Generator
) -> Iterator[Frame]:
    """Yield frames at one state (3,) on the nominal day: of one film region, or each of a fresh one."""
    source = DaySource(Day(), optics, FIRST_ORDER, rng)
    if not same_region:
        yield from (source.frame(state_nm) for _ in range(count))
        return
    day = source.day
    probability = source.renderer.probability([FIRST_ORDER.to_aberrations(state_nm) + day.residual], [1])[0]
    for _ in range(count):
        counts = expose(probability, day.dose_e, day.camera, source.defects, rng)
        yield Frame(counts, day.dose_e, day.exposure_s, 0.0, {"dark_level": day.camera.dark_level})


def measured(trained: Artefact, state_nm: Array, count: int, same_region: bool, seed: int = 0) -> Noise:
    """Describe the latents of many frames at one state (3,)."""
    rng = np.random.default_rng(seed)
    read = preprocess.READINGS[trained.vae.config.preprocessing]
    spectra = [read(frame).values for frame in frames_at(state_nm, count, same_region, trained.optics, rng)]
    return noise(trained.prior.observe(encode_mean(trained.vae, np.stack(spectra))))


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(description="Whether the noise of the latents is Gaussian and of one size.")
    parser.add_argument("--weights", default="vae_nominal_3", help="shipped weights by name")
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    trained = artefact.load(SHIPPED / f"{options.weights}.safetensors")
    titles = (
        "state (nm)",
        "frames of",
        "std per axis",
        "skewness",
        "excess kurtosis",
        "in 90 %",
        "correlation of axes",
    )
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    for state in STATES_NM:
        for same_region in (True, False):
            found = measured(trained, np.array(state), options.frames, same_region)
            stds = " / ".join(f"{std:.2f}" for std in found.std)
            cells = (
                ", ".join(f"{value:g}" for value in state), "one region" if same_region else "fresh regions", stds,
                f"{found.skewness:.2f}", f"{found.excess_kurtosis:+.2f}", f"{found.covered:.0%}",
                f"{found.correlation:.2f}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
