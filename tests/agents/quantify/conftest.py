"""A lattice of Gaussian columns as a scan would record it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from agents.quantify.columns import Columns, expectation
from agents.quantify.smear import Smear, smeared
from twin.scan.errors import ar1

SIDE, SPACING, WIDTH = 72, 12.0, 2.7


class Recorded(NamedTuple):
    """Electrons, and what they were drawn from."""

    image: np.ndarray
    columns: Columns
    shift_px: np.ndarray


def lattice(seed: int, height: float) -> Columns:
    """Columns in the middle of the image, a little displaced, of different height."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*[np.arange(5) * SPACING + 12.0] * 2)
    count = x.size
    return Columns(
        x.ravel() + rng.normal(0, 0.3, count),
        y.ravel() + rng.normal(0, 0.3, count),
        height * rng.uniform(0.7, 1.3, count),
        np.full(count, WIDTH),
        0.06 * height,
    )


@pytest.fixture(scope="package")
def recorded() -> Callable[..., Recorded]:
    def make(seed: int, height: float, jitter_px: tuple[float, float] = (0, 0), alpha: float | None = None) -> Recorded:
        columns, rng = lattice(seed, height), np.random.default_rng(1000 + seed)
        shift = np.stack([ar1(rng.normal(0, 1, SIDE), 0.5, None) * sigma for sigma in jitter_px])
        expected = expectation(columns, shift, (SIDE, SIDE)).values
        image = rng.poisson(expected).astype(float)
        if alpha is not None:
            image = smeared(image, Smear("half_lorentzian", alpha).weights(SIDE), expected[:, 0])
        return Recorded(image, columns, shift)

    return make
