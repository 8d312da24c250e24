"""Retained frames and their positions: passes over them, misfit and test of residuals."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.base import Trust
from agents.epie.engine import Misfit, Steps, intensity, misfit, sweep
from agents.epie.estimate import Complex, ObjectAndProbe, Places
from agents.epie.probe import Beam, Geometry, Window, pattern_centre, start_probe
from agents.epie.store import CHUNK, FrameStore
from agents.trust import frame_signal, poisson_residual, whiteness
from twin.arrays import Floats

Real = NDArray[np.floating]
Integers = NDArray[np.int64]

AT_ONCE = 32
"""Frames unpacked at a time."""

LONGEST_MOVE = 1.0
"""Steps of the scan by which a position may differ from the plan along each axis."""


@dataclass(frozen=True, eq=False)
class Data:
    """Retained frames with their angles and positions.

    Attributes:
        store: the frames.
        beam: wavelength, aperture and angle of the model's pixel.
        window: camera pixels of each pixel of the frames.
        geometry: positions on the object.
        sub_pixel: use positions as they are; False rounds them.
        moved_px: where each position is relative to the plan, (rows, columns, 2), along rows and columns of the
            object; passes change it. None if the positions are the planned ones.
    """

    store: FrameStore
    beam: Beam
    window: Window
    geometry: Geometry
    sub_pixel: bool = True
    moved_px: Floats | None = None

    def everything(self) -> Integers:
        """Numbers of all frames."""
        return np.arange(len(self.store))

    def evenly(self, count: int) -> Integers:
        """Numbers of `count` frames spread evenly over the scan, or of all."""
        kept = len(self.store)
        return np.unique(np.linspace(0, kept - 1, min(count, kept)).astype(np.int64)) if kept else np.arange(0)

    def measured(self, dtype: np.dtype[np.floating]) -> Real:
        """1 where the camera has a pixel, else 0, (N, N)."""
        return self.window.measured.reshape(self.window.size, -1).astype(dtype)

    def unpacked(self, numbers: Integers, dtype: np.dtype[np.floating]) -> Iterator[tuple[Real, Places]]:
        """Yield amplitudes, (n, N, N), and positions of frames, some at a time; the next step overwrites the array."""
        size, pixel = self.window.size, self.store.pixel
        buffer = np.empty((AT_ONCE, size, size), dtype)
        for first in range(0, len(numbers), AT_ONCE):
            chosen = numbers[first : first + AT_ONCE]
            amplitude = buffer[: len(chosen)]
            self.store.amplitudes(chosen, amplitude.reshape(len(chosen), -1))
            yield amplitude, Places.of(self.positions(pixel[chosen]), self.geometry.size, self.sub_pixel)

    def positions(self, pixel: Integers) -> Floats:
        """Positions on the object, (n, 2), of scan positions (row, column), (n, 2)."""
        planned = self.geometry.positions(pixel)
        return planned if self.moved_px is None else planned + self.moved_px[pixel[:, 0], pixel[:, 1]]

    def keep_moved(self, numbers: Integers, places: Places) -> None:
        """Keep the positions of some frames in `moved_px`."""
        if self.moved_px is not None:
            pixel = self.store.pixel[numbers]
            positions = places.positions(self.geometry.size)
            self.moved_px[pixel[:, 0], pixel[:, 1]] = positions - self.geometry.positions(pixel)

    def forget_moved(self) -> None:
        """Put all positions back to the planned ones."""
        if self.moved_px is not None:
            self.moved_px[:] = 0.0

    def settle_moved(self) -> None:
        """Remove the mean from `moved_px`, which frames do not determine, and bound it by `LONGEST_MOVE` steps."""
        if self.moved_px is not None:
            row, column = self.store.pixel.T
            moved, reach = self.moved_px[row, column], LONGEST_MOVE * self.geometry.step_px
            self.moved_px[row, column] = np.clip(moved - moved.mean(axis=0), -reach, reach)

    def start_probe(self, aberrations_nm: Mapping[str, float], modes: int) -> Complex:
        """Probe modes of an aperture centred on the mean frame's disc, with the counts of the mean frame."""
        size, finer = self.window.size, self.geometry.size // self.window.size
        centre = pattern_centre(self.store.mean.reshape(size, size))
        # The points of pixel k are finer * k, finer * k + 1, ...: their mean is the centre of the pixel.
        kx, ky = (finer * k + (finer - 1) / 2 for k in centre)
        return start_probe(self.beam, size * finer, self.store.mean_counts, (kx, ky), aberrations_nm, modes)


def one_pass(estimate: ObjectAndProbe, data: Data, numbers: Integers, steps: Steps, rng: np.random.Generator) -> Misfit:
    """Sweep once over the frames of `numbers` in random order; changes the estimate."""
    dtype, total = estimate.slices.dtype, Misfit()
    measured = data.measured(dtype)
    for amplitude, places in data.unpacked(rng.permutation(numbers), dtype):
        total += sweep(estimate, amplitude, places, steps, measured)
    return total


def resampled(data: Data, numbers: Integers, draw: list[int]) -> Data:
    """Parametric bootstrap: draw the frames of `numbers` from Poisson distributions whose means are their counts.

    Args:
        data: the frames.
        numbers: numbers of the frames.
        draw: seed; what a frame becomes does not depend on the others.
    """
    side, pixel = data.window.size, data.store.pixel
    store = FrameStore(side**2, 2 * (len(numbers) + 2 * CHUNK) * side**2)  # room for all
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
    """Numbers of about `count` frames, at most, in a rectangle in the middle of the scan."""
    pixel = data.store.pixel
    if len(pixel) <= count:
        return data.everything()
    middle, extent = (pixel.min(axis=0) + pixel.max(axis=0)) / 2, np.ptp(pixel, axis=0) + 1
    scale = math.sqrt(count / len(pixel))
    near: NDArray[np.bool_] = np.all(np.abs(pixel - middle) <= scale * extent / 2, axis=1)
    return np.flatnonzero(near)


def misfit_of(estimate: ObjectAndProbe, data: Data, numbers: Integers) -> Misfit:
    """Misfit of the frames of `numbers` under one estimate."""
    dtype, total = estimate.slices.dtype, Misfit()
    for amplitude, places in data.unpacked(numbers, dtype):
        total += misfit(estimate, amplitude, places, data.measured(dtype))
    return total


STORE_NOISE = 0.002
"""Upper bound of the relative variance that rounding in the store adds to a residual."""
COUNTS_PER_RESIDUAL = 1.0
"""Least counts per residual in the bright-field disc: pixels are added up until they have as many."""


def trust(estimate: ObjectAndProbe, data: Data, numbers: Integers, fitted_per_frame: float) -> Trust | None:
    """Test the residuals r = (y - Hx) / sqrt(Hx) of some frames, with neighbours along both axes of the camera.

    Pixels are added up in squares if the bright-field disc has less than `COUNTS_PER_RESIDUAL`.

    Args:
        estimate: x.
        data: y.
        numbers: numbers of the frames.
        fitted_per_frame: number of fitted parameters over the number of frames they were fitted to.
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
    residual, slices = poisson_residual(y, m), len(estimate.slices)
    through = "a thin object" if slices == 1 else f"an object of {slices} slices"
    return whiteness(
        residual,
        f"Poisson counts of {len(estimate.spectra)} probe mode(s) through {through}"
        + (f", {block} x {block} pixels together" if block > 1 else ""),
        expected=m,
        axes=(1, 2),
        fitted=min(fitted_per_frame * len(numbers), 0.5 * float(np.isfinite(residual).sum())),
        noise_uncertainty=STORE_NOISE,
        signal=frame_signal(y, m),
    )


def _block(mean: Floats) -> int:
    """Side of the squares in which the mean frame's disc has `COUNTS_PER_RESIDUAL`; it divides the frame's side."""
    disc = float(np.nanpercentile(mean, 95))
    smallest = math.sqrt(COUNTS_PER_RESIDUAL / disc) if disc > 0 else 1.0
    sides = [side for side in range(1, len(mean) + 1) if len(mean) % side == 0]
    return next((side for side in sides if side >= smallest), len(mean))


def _added(frames: Floats, block: int) -> Floats:
    """Frames (n, N, N), summed over squares of block x block pixels; NaN if one of them is NaN."""
    side = frames.shape[1] // block
    return np.asarray(frames.reshape(len(frames), side, block, side, block).sum(axis=(2, 4)))
