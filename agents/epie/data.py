"""Retained frames with where each was taken: passes over them, how well a reconstruction fits them, how sure it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.base import Trust
from agents.epie.engine import Estimate, Misfit, Places, Steps, intensity, misfit, sweep
from agents.epie.probe import Geometry, Window
from agents.epie.store import CHUNK, FrameStore
from agents.trust import frame_signal, poisson_residual, whiteness

Real = NDArray[np.floating]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

AT_ONCE = 32
"""Frames unpacked at a time."""

STORE_NOISE = 0.002
"""More than rounding in the store adds to the variance of a residual."""

COUNTS_PER_RESIDUAL = 1.0
"""In the bright-field disc: pixels are added up until there are as many."""


@dataclass(frozen=True, eq=False)
class Data:
    """Frames and what they mean.

    Attributes:
        store: the frames.
        window: what each pixel of them is.
        geometry: what each position is on the object.
        sub_pixel: take positions as they are, not rounded.
    """

    store: FrameStore
    window: Window
    geometry: Geometry
    sub_pixel: bool = True

    def everything(self) -> Integers:
        """Numbers of all frames."""
        return np.arange(len(self.store))

    def evenly(self, count: int) -> Integers:
        """Numbers of `count` frames spread over the scan, or of all there are."""
        kept = len(self.store)
        return np.unique(np.linspace(0, kept - 1, min(count, kept)).astype(np.int64)) if kept else np.arange(0)

    def measured(self, dtype: np.dtype[np.floating]) -> Real:
        """1 where the camera has a pixel, (N, N)."""
        return self.window.measured.reshape(self.window.size, -1).astype(dtype)

    def unpacked(self, numbers: Integers, dtype: np.dtype[np.floating]) -> Iterator[tuple[Real, Places]]:
        """Amplitudes, (n, N, N), and places of frames in the order given, some at a time; the array is used again."""
        size, pixel = self.window.size, self.store.pixel
        buffer = np.empty((AT_ONCE, size, size), dtype)
        for first in range(0, len(numbers), AT_ONCE):
            chosen = numbers[first : first + AT_ONCE]
            amplitude = buffer[: len(chosen)]
            self.store.amplitudes(chosen, amplitude.reshape(len(chosen), -1))
            yield amplitude, Places.of(self.geometry.positions(pixel[chosen]), self.geometry.size, self.sub_pixel)


def one_pass(estimate: Estimate, data: Data, numbers: Integers, steps: Steps, rng: np.random.Generator) -> Misfit:
    """Every frame of `numbers` once, in random order; changes the estimate."""
    dtype, total = estimate.planes.dtype, Misfit()
    measured = data.measured(dtype)
    for amplitude, places in data.unpacked(rng.permutation(numbers), dtype):
        total += sweep(estimate, amplitude, places, steps, measured)
    return total


def resampled(data: Data, numbers: Integers, draw: list[int]) -> Data:
    """Frames of these numbers, drawn anew from Poisson distributions whose means are the counts themselves.

    Args:
        data: the frames.
        numbers: of them.
        draw: seed; a frame becomes the same one whatever the others.
    """
    side, pixel = data.window.size, data.store.pixel
    store = FrameStore(side**2, 2 * (len(numbers) + 2 * CHUNK) * side**2)  # room for all of them
    for first in range(0, len(numbers), AT_ONCE):
        chosen = numbers[first : first + AT_ONCE]
        amplitude = np.empty((len(chosen), side**2))
        data.store.amplitudes(chosen, amplitude)
        drawn = [
            np.random.default_rng([*draw, int(number)]).poisson(frame**2)
            for number, frame in zip(chosen, amplitude, strict=True)
        ]
        store.add(pixel[chosen], np.stack(drawn).astype(np.uint32))
    return replace(data, store=store)


def patch(data: Data, count: int) -> Integers:
    """Numbers of at most about `count` frames that lie together in the middle of those there are, in a rectangle."""
    pixel = data.store.pixel
    if len(pixel) <= count:
        return data.everything()
    middle, extent = (pixel.min(axis=0) + pixel.max(axis=0)) / 2, np.ptp(pixel, axis=0) + 1
    share = math.sqrt(count / len(pixel))
    near: NDArray[np.bool_] = np.all(np.abs(pixel - middle) <= share * extent / 2, axis=1)
    return np.flatnonzero(near)


def misfit_of(estimate: Estimate, data: Data, numbers: Integers) -> Misfit:
    """Of some frames under one estimate."""
    dtype, total = estimate.planes.dtype, Misfit()
    for amplitude, places in data.unpacked(numbers, dtype):
        total += misfit(estimate, amplitude, places, data.measured(dtype))
    return total


def trust(estimate: Estimate, data: Data, numbers: Integers, fitted_per_frame: float) -> Trust | None:
    """Test of r = (y - Hx) / sqrt(Hx) over frames of `numbers`, neighbours along both axes of the camera.

    Where the bright-field disc has less than `COUNTS_PER_RESIDUAL`, pixels are added up in squares.

    Args:
        estimate: x.
        data: y.
        numbers: frames to look at.
        fitted_per_frame: parameters that were fitted, over all frames they were fitted to.
    """
    counted, expected = [], []
    dtype = np.dtype(np.float64)
    inside = data.measured(dtype) > 0
    for amplitude, places in data.unpacked(numbers, dtype):
        model = intensity(estimate, places, estimate.size // amplitude.shape[-1])
        counted.append(np.where(inside, amplitude**2, np.nan))
        expected.append(np.where(inside, model, np.nan))
    if not counted:
        return None
    y, m = (np.fft.fftshift(np.concatenate(parts), axes=(1, 2)) for parts in (counted, expected))
    block = _block(m.mean(axis=0))
    y, m = _added(y, block), _added(m, block)
    residual = poisson_residual(y, m)
    return whiteness(
        residual,
        f"Poisson counts of {len(estimate.spectra)} probe mode(s) through a thin object"
        + (f", {block} x {block} pixels together" if block > 1 else ""),
        expected=m,
        axes=(1, 2),
        fitted=min(fitted_per_frame * len(numbers), 0.5 * float(np.isfinite(residual).sum())),
        noise_uncertainty=STORE_NOISE,
        signal=frame_signal(y, m),
    )


def _block(mean: Floats) -> int:
    """Side of the squares in which the mean frame's disc has `COUNTS_PER_RESIDUAL`; it divides the frame's."""
    disc = float(np.nanpercentile(mean, 95))
    wanted = math.sqrt(COUNTS_PER_RESIDUAL / disc) if disc > 0 else 1.0
    sides = [side for side in range(1, len(mean) + 1) if len(mean) % side == 0]
    return next((side for side in sides if side >= wanted), len(mean))


def _added(frames: Floats, block: int) -> Floats:
    """Frames (n, N, N) with block x block pixels added up; NaN where one is unknown."""
    side = frames.shape[1] // block
    return np.asarray(frames.reshape(len(frames), side, block, side, block).sum(axis=(2, 4)))
