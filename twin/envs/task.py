"""What the environments share: actions that move the state, a reward for bringing it to zero, and one thread."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.state import StateSpace
from twin.types import HasTruth, Truth


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread in here: its transforms are small, and many times slower with several.

    The number outside stays what it is: an agent may learn with all of them.
    """
    torch = sys.modules.get("torch")
    if torch is None or (before := torch.get_num_threads()) == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def input_of(action: NDArray[np.floating], space: StateSpace, cumulative_nm: Array) -> tuple[Array, bool]:
    """Input in nm, (n,), for an action in units of twice the input limit, and whether it was clipped.

    Raises:
        ValueError: wrong shape, or not finite.
    """
    fraction = np.asarray(action, dtype=np.float64)
    if fraction.shape != (space.dimension,) or not np.all(np.isfinite(fraction)):
        raise ValueError(f"an action has shape ({space.dimension},) and finite values; got {fraction.tolist()}")
    requested = fraction * 2.0 * space.input
    allowed = np.clip(requested, -space.input - cumulative_nm, space.input - cumulative_nm)
    return allowed, bool(np.any(allowed != requested))


def truth_of(microscope: Any) -> Truth | None:
    """The hidden state, where the microscope knows it."""
    return microscope.truth() if isinstance(microscope, HasTruth) else None


def reward(truth: Truth | None, space: StateSpace) -> float:
    """`-max_i |x_i| / tolerance_i`; 0 without truth."""
    return 0.0 if truth is None else -float(np.max(np.abs(truth.state_nm) / space.tolerance))
