"""Expected electrons in the layout of the compiled loops, and Poisson counts with coincidence loss."""

import numpy as np
from numpy.typing import NDArray

from twin.cameras.loops import LARGEST_MEAN, Counters, count_arrivals

MOST_ELECTRONS = 1e9
"""Largest number of electrons per frame that are drawn one by one; one or two minutes."""


def as_stack(expected_e: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.floating]:
    """Expected electrons as a C-ordered (N, H W) stack of float32 or float64.

    Raises:
        ValueError: not (N, H, W) of the sensor's shape.
    """
    if expected_e.ndim != 3 or expected_e.shape[1:] != shape:
        raise ValueError(
            f"expected electrons must be (N, {shape[0]}, {shape[1]}) as the sensor, got {expected_e.shape}"
        )
    dtype = np.float32 if expected_e.dtype == np.float32 else np.float64
    return np.ascontiguousarray(expected_e.reshape(-1, shape[0] * shape[1]), dtype)


def refuse(stack: NDArray[np.floating], where: int) -> None:
    """Raise for the first mean that cannot be drawn; `where` is its flat index, or negative if there is none.

    Raises:
        ValueError: naming the mean.
    """
    if where >= 0:
        raise ValueError(
            f"expected electrons per pixel must lie between 0 and {LARGEST_MEAN:.0e}, got {stack.flat[where]}"
        )


def check_followed(stack: NDArray[np.floating]) -> None:
    """Refuse frames (N, P) with too many electrons to draw one by one.

    Raises:
        ValueError: naming their number.
    """
    largest = float(stack.sum(1, dtype=np.float64).max(initial=0.0))
    if MOST_ELECTRONS < largest < np.inf:
        raise ValueError(
            f"a frame of {largest:.3g} electrons: with charge sharing, dead time or events they are drawn one by one,"
            f" up to {MOST_ELECTRONS:.0e}"
        )


def draw_counts(
    expected_e: NDArray[np.floating], counters: Counters, counts: NDArray[np.integer], rng: np.random.Generator
) -> None:
    """Write Poisson counts into `counts`, at most `counters.largest`, with coincidence loss; shapes (N, P).

    Args:
        expected_e: mean per pixel.
        counters: dead time and saturation.
        counts: the result.
        rng: consumed frame by frame.

    Raises:
        ValueError: a mean that is negative, not finite or too large.
    """
    if counters.dead_share > 0.0:
        check_followed(expected_e)
    refuse(expected_e, count_arrivals(expected_e, counters, counts, rng))
