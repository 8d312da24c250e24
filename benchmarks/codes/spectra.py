"""Denoising, phases and anomalies of 400 energy-loss spectra, without labels: principal components and autoencoder.

    python -m benchmarks.codes.spectra [--sizes 1-8]

Spectra of four phases (`twin.spectra`, seed 42); the autoencoder learns from noisy spectra and their clean ones.
"""

import argparse
import time

import numpy as np

from agents.codes.base import load, squared_error
from agents.codes.clusters import grouped, silhouette
from agents.codes.outliers import learned
from twin.arrays import Floats
from twin.spectra.noise import Spectra, draw
from twin.spectra.phases import IRON

SEED = 42
NAMES = list(IRON)
DENOISING = {"noise": 0.2, "epochs": 150}
USUAL = {"size": 4, "noise": 0.2, "epochs": 150}


def compared(size: int, spectra: Spectra, others: Spectra) -> dict[str, float]:
    """Errors against the clean spectra, on those learned from and on others, and silhouettes of four groups."""
    figures = {}
    for method, options in (("pca", {}), ("denoising", DENOISING)):
        code = load(method, {"size": size, **options}).fit(
            spectra.measured, None if method == "pca" else spectra.expected
        )
        codes = code.encode(spectra.measured)
        figures[method] = float(squared_error(code, spectra.measured, spectra.expected).mean())
        figures[f"{method}_others"] = float(squared_error(code, others.measured, others.expected).mean())
        figures[f"{method}_silhouette"] = silhouette(codes, grouped(codes, len(NAMES), "kmeans").label)
    return figures


def anomalies() -> tuple[int, float]:
    """Spectra of a fourth phase above the 99th percentile of the usual error, and their mean error over the usual one.

    The autoencoder learns from 300 spectra of three phases; the percentile is that of 300 others.
    """
    known, usual, odd = draw(NAMES[:3], 100, SEED), draw(NAMES[:3], 100, SEED + 1), draw(NAMES[3:], 100, SEED)
    code = load("denoising", USUAL).fit(known.measured, known.expected)
    errors = [squared_error(code, found.measured) for found in (usual, odd)]
    clean = [squared_error(code, found.measured, found.expected) for found in (usual, odd)]
    return int(np.sum(errors[1] > np.quantile(errors[0], 0.99))), float(clean[1].mean() / clean[0].mean())


def rarities() -> Floats:
    """Rarity of the fourth phase's spectra by both scores, learned without clean spectra."""
    usual = [draw(NAMES[:3], 200, seed).measured for seed in (SEED, SEED + 1)]
    reference = learned(load("pca", {"size": 6}), usual[0], usual[1], groups=3)
    return reference.rarity(draw(NAMES[3:], 100, SEED).measured)


def main() -> None:
    """Print one line per bottleneck, then the anomalies."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="1-8", help="first and last bottleneck")
    first, last = (int(part) for part in parser.parse_args().sizes.split("-"))
    begun = time.process_time()
    spectra, others = draw(NAMES, 100, SEED), draw(NAMES, 100, SEED + 1)
    print(f"noisy spectra: mean squared error {((spectra.measured - spectra.expected) ** 2).mean():.5f}")
    print("size   PCA      AE       ratio | others: PCA      AE      | silhouette: PCA   AE")
    for size in range(first, last + 1):
        f = compared(size, spectra, others)
        print(
            f"{size:4d} {f['pca']:.5f} {f['denoising']:.5f} {f['denoising'] / f['pca']:7.3f} |      "
            f" {f['pca_others']:.5f} {f['denoising_others']:.5f} |       "
            f" {f['pca_silhouette']:.3f} {f['denoising_silhouette']:.3f}",
            flush=True,
        )
    found, times = anomalies()
    print(f"fourth phase: {found} of 100 above the 99th percentile, error {times:.1f} times the usual")
    print(f"without clean spectra: {int(np.sum(rarities() <= 0.01))} of 100 at 1 % false alarms")
    print(f"{time.process_time() - begun:.0f} s of processor time")


if __name__ == "__main__":
    main()
