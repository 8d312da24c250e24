"""Pairs for the training: an image with the errors of a scan and shot noise, and the same without."""

import math

import numpy as np

from agents.restoration.scenes import random_scene
from twin.arrays import Floats
from twin.day import ScanProperties
from twin.scan.fast_image import distorted_image
from twin.scan.plan import ScanPlan
from twin.scan.response import sampled_weights

MARGIN = 6
LEAST_DOSE, LARGEST_DOSE = 2e2, 1e5
"""Electrons per square angstrom."""
FEWEST_E = 0.05
"""Mean electrons per pixel below which an image holds nothing to restore."""


def random_pair(side_px: int, beams: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Noisy image and truth, in units of the noisy image's mean, both (side, side).

    Jitter, tail and dose are drawn over what microscopes have; a fifth of the images has no error but shot noise.

    Args:
        side_px: side of the images.
        beams: beams to choose from, see `random_scene`.
        rng: of everything.
    """
    wide, step_nm = random_scene(side_px + 2 * MARGIN, beams, rng)
    truth = wide[MARGIN:-MARGIN, MARGIN:-MARGIN]
    dose = math.exp(rng.uniform(math.log(LEAST_DOSE), math.log(LARGEST_DOSE)))
    scale = max(dose * (10 * step_nm) ** 2, FEWEST_E / max(float(truth.mean()), 1e-12))
    noisy = rng.poisson(truth * scale).astype(np.float64) if rng.random() < 0.2 else _scanned(wide, scale, rng)
    level = max(float(noisy.mean()), 1e-9)
    return noisy / level, truth * scale / level


def _scanned(wide: Floats, scale: float, rng: np.random.Generator) -> Floats:
    """Electrons of a scan with jitter (eqs 2.14, 2.15) and, mostly, a tail (2.17, 2.18) after the shot noise."""
    side = wide.shape[0] - 2 * MARGIN
    step_nm = 0.01  # any: jitter is in steps
    plan = ScanPlan(rows=side, columns=side, step_nm=step_nm, dwell_s=1e-6)
    errors = ScanProperties(
        jitter_x_nm=step_nm * rng.uniform(0.0, 0.7),
        jitter_y_nm=step_nm * rng.uniform(0.0, 0.4),
        jitter_x_correlation=rng.uniform(0.2, 0.7),
        jitter_y_correlation=rng.uniform(0.2, 0.7),
    )
    moved = np.maximum(distorted_image(wide, plan, errors, rng, margin=MARGIN), 0.0) * scale
    counts = rng.poisson(moved).astype(np.float64)
    if rng.random() < 0.25:
        return counts
    shape = "half_lorentzian" if rng.random() < 0.75 else "exponential"
    low, high = (2.0, 12.0) if shape == "half_lorentzian" else (0.7, 4.0)
    weights = sampled_weights(shape, math.exp(rng.uniform(math.log(low), math.log(high))), side)
    level = moved[:, :1]
    padded = np.concatenate([counts - level, np.zeros_like(counts)], axis=1)
    response = np.concatenate([weights, np.zeros_like(weights)])
    smeared = np.fft.irfft(np.fft.rfft(padded, axis=1) * np.fft.rfft(response), 2 * side, axis=1)[:, :side]
    return np.maximum(smeared + level, 0.0)
