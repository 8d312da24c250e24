"""Slices of a thick object: their distances, and how many of them the frames call for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from agents.epie.data import Data, one_pass, patch
from agents.epie.engine import intensity
from agents.epie.estimate import Complex, Integers, ObjectAndProbe
from agents.epie.probe import propagator
from agents.epie.schedule import Schedule
from twin.arrays import Floats

MOST_SLICES = 64
"""Most slices of an object: each takes as much memory and time as the object of a thin specimen."""

THINNEST_NM = 1.0
"""Thinnest slice that is tried: waves of 50 mrad and 2 pm turn by 4 rad over a nanometre."""

PASSES = 20
"""Passes over the frames for each number of slices that is tried."""

FRAMES = 600_000
"""Frames times slices that all tries together may sweep over, repetitions counted: about a minute."""

KEPT_OUT = 8
"""One in so many frames takes no part in the updates and judges the number of slices."""

LEAST_EXPECTED = 1e-3
"""Least expected counts of a pixel in the deviance: no single electron far from the beam decides."""


@dataclass(frozen=True)
class Depth:
    """Slices of an object along the beam, equally thick.

    Attributes:
        slices: their number.
        thickness_nm: of the whole object.
    """

    slices: int = 1
    thickness_nm: float = 0.0

    @property
    def spacing_nm(self) -> float:
        """From the middle of one slice to that of the next."""
        return self.thickness_nm / self.slices

    def clear(self, data: Data, probe: Complex) -> ObjectAndProbe:
        """A transparent object under probe modes (K, N, N) at its first slice."""
        turn = propagator(data.beam, data.geometry.size, self.spacing_nm)
        return ObjectAndProbe.start(data.geometry.shape, probe, self.slices, turn)


THIN = Depth()


def candidates(thickness_nm: float) -> tuple[int, ...]:
    """Numbers of slices that are tried for a thickness: powers of two, slices of `THINNEST_NM` or more.

    Example:
        >>> candidates(20.0)
        (1, 2, 4, 8, 16)
    """
    most = min(MOST_SLICES, max(1.0, thickness_nm / THINNEST_NM))
    return tuple(2**power for power in range(int(math.log2(most)) + 1))


def held_out_deviance(
    data: Data, thickness_nm: float, start: Callable[[Depth], Complex], schedule: Schedule, seed: int
) -> dict[int, Floats]:
    """Deviance of each kept-out frame by number of slices: 2 sum (m - n + n log(n / m)) over pixels, (frames,).

    The frames are those of a patch in the middle of the scan if there are many; one in `KEPT_OUT` takes no part in the
    updates.

    Args:
        data: the frames.
        thickness_nm: thickness of the specimen.
        start: start probe, modes (K, N, N), for slices of some depth.
        schedule: of the reconstruction; shortened to `PASSES`.
        seed: seed of what is kept out and of the order of the rest.
    """
    tried, short = candidates(thickness_nm), replace(schedule, passes=PASSES, anneal=PASSES)
    numbers = patch(data, max(KEPT_OUT, FRAMES // (PASSES * sum(tried))))
    order = np.random.default_rng([seed, 3]).permutation(numbers)
    share = max(1, len(order) // KEPT_OUT)
    judges, learners = np.sort(order[:share]), np.sort(order[share:])
    found = {}
    for slices in tried:
        depth = Depth(slices, thickness_nm)
        estimate = depth.clear(data, start(depth))
        for done in range(PASSES):
            steps = short.steps(short.progress(done), data.store.mean_counts, done < short.probe_after)
            one_pass(estimate, data, learners, steps, np.random.default_rng([seed, 4, done]))
        found[slices] = _deviance(estimate, data, judges)
    return found


def fewest(deviance: Mapping[int, Floats]) -> int:
    """Smallest number of slices whose mean deviance exceeds the lowest by no more than the standard error of that.

    Example:
        >>> fewest({1: np.array([9.0, 8.0, 8.5]), 2: np.array([4.0, 5.0, 4.0]), 4: np.array([4.1, 4.8, 4.0])})
        2
    """
    best = deviance[min(deviance, key=lambda slices: float(deviance[slices].mean()))]

    def as_good(frames: Floats) -> bool:
        excess = frames - best
        error = excess.std(ddof=1) / math.sqrt(len(excess)) if len(excess) > 1 else 0.0
        return bool(excess.mean() <= error)

    return min(slices for slices, frames in deviance.items() if as_good(frames))


def _deviance(estimate: ObjectAndProbe, data: Data, numbers: Integers) -> Floats:
    """Deviance of frames that an estimate leaves, (n,)."""
    inside, found = data.measured(np.dtype(np.float64)) > 0, []
    for amplitude, places in data.unpacked(numbers, estimate.slices.dtype):
        counts = amplitude.astype(np.float64) ** 2
        model = np.maximum(intensity(estimate, places, estimate.size // amplitude.shape[-1]), LEAST_EXPECTED)
        found.append(2.0 * np.sum(inside * special.kl_div(counts, model), axis=(1, 2)))
    return np.concatenate(found)
