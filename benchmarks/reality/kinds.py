"""Kinds of disturbance: what is done to a day, to a frame, or to the corrector, beyond what training days have."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from twin.arrays import Array
from twin.day import Day, FilmProperties

Change = Callable[[Array, np.random.Generator], Array]
"""From counts (H, W) to counts, with random numbers of the frame."""


@dataclass(frozen=True)
class Kind:
    """One kind of disturbance.

    Attributes:
        day: changes the day.
        frame: changes the counts of every frame.
        inputs: matrix from the inputs asked for to those applied, (3, 3); None: as asked for.
        late: frames lag behind by this number of inputs.
        height_nm: rms change of C10 from frame to frame (an uneven film).
        readable: the frames still tell the state; otherwise a controller should say that something is wrong.
    """

    day: Callable[[Day], Day] = lambda day: day
    frame: Change | None = None
    inputs: tuple[tuple[float, ...], ...] | None = None
    late: int = 0
    height_nm: float = 0.0
    readable: bool = True


def _axes(counts: Array) -> tuple[Array, Array]:
    """Coordinates x and y about the middle, in half sides."""
    height, width = counts.shape
    y, x = np.mgrid[:height, :width]
    return (x - width / 2) / (width / 2), (y - height / 2) / (height / 2)


def spots(count: int, pixels: int = 3, height: float = 400.0) -> Change:
    """Bright squares of so many pixels a side at random places, new in every frame: cosmic rays."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        result = counts.copy()
        for row, column in rng.integers(0, np.array(counts.shape) - pixels, (count, 2)):
            result[row : row + pixels, column : column + pixels] += height * rng.uniform(0.5, 1.5)
        return result

    return change


def rows(rms: float) -> Change:
    """An offset of its own for every row."""
    return lambda counts, rng: counts + rms * rng.standard_normal((len(counts), 1))


def flake(share: float) -> Change:
    """An opaque flake over a fraction of the disc, at its edge."""
    depth = {0.03: 0.72, 0.1: 0.5}.get(share, 0.6)

    def change(counts: Array, rng: np.random.Generator) -> Array:
        x, y = _axes(counts)
        return np.where((x > depth) & (np.abs(y) < 0.6), 0.02 * counts, counts)

    return change


def illumination(counts: Array, rng: np.random.Generator) -> Array:
    """Illumination that falls to a half at the edge, off centre."""
    x, y = _axes(counts)
    return rng.poisson(np.maximum(counts, 0) * np.clip(1 - 0.5 * np.hypot(x - 0.2, y + 0.1) ** 2, 0.2, 1)) * 1.0


def shifted(pixels: int) -> Change:
    """The disc beyond the camera's edge."""
    return lambda counts, rng: ndimage.shift(counts, (0, pixels), order=0, mode="constant")


def elliptic(ratio: float) -> Change:
    """A camera that images one direction larger."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        middle = np.array(counts.shape) / 2
        matrix = np.diag([1 + ratio / 2, 1 - ratio / 2])
        moved = ndimage.affine_transform(np.maximum(counts, 0), matrix, middle - matrix @ middle, order=1)
        return np.asarray(moved)

    return change


def vacuum(counts: Array, rng: np.random.Generator) -> Array:
    """A hole: the illuminated disc and shot noise."""
    height, width = counts.shape
    x, y = _axes(counts)
    disc = np.hypot(x * width / 2, y * height / 2) < 0.948 * width / 2
    return rng.poisson(disc * counts[disc].mean()) * 1.0


def background(share: float) -> Change:
    """Glare all over the camera, a fraction of the mean inside the disc."""
    return lambda counts, rng: counts + rng.poisson(share * np.percentile(counts, 75), counts.shape)


def gamma(power: float) -> Change:
    """A camera that is not linear."""
    return lambda counts, rng: 255 * (np.maximum(counts, 0) / max(counts.max(), 1)) ** power


def eight_bit(counts: Array, rng: np.random.Generator) -> Array:
    """Eight bits, stretched between the first and the last percentile."""
    low, high = np.percentile(counts, (0.5, 99.5))
    return np.rint(255 * np.clip((counts - low) / (high - low), 0, 1))


def gain_reference(rms: float) -> Change:
    """Pixels with gains of their own, the same in every frame."""
    return lambda counts, rng: counts * (1 + rms * np.random.default_rng(7).standard_normal(counts.shape))


def together(*changes: Change) -> Change:
    """One change after the other."""

    def change(counts: Array, rng: np.random.Generator) -> Array:
        for each in changes:
            counts = each(counts, rng)
        return counts

    return change


def film(thickness_nm: float, source_nm: float, focal_nm: float) -> Callable[[Day], Day]:
    """Independent atoms, S(q) = 1."""
    properties = FilmProperties(thickness_nm=thickness_nm, hard_core_nm=1e-3)
    return lambda day: replace(day, film=properties, source_size_nm=source_nm, focal_spread_nm=focal_nm)


def turned(degrees: float) -> Callable[[Day], Day]:
    """A camera turned against the corrector."""
    return lambda day: replace(day, camera=replace(day.camera, rotation_deg=degrees))


def dose(electrons: float) -> Callable[[Day], Day]:
    """Another dose."""
    return lambda day: replace(day, dose_e=electrons)


def coma(length_nm: float) -> Callable[[Day], Day]:
    """Axial coma beyond the training days."""
    return lambda day: replace(day, residual_nm={**(day.residual_nm or {}), "C21a": length_nm})


KINDS = {
    "none": Kind(),
    "film S(q) = 1, 12 nm": Kind(day=film(12.0, 0.017, 1.7)),
    "two spots": Kind(frame=spots(2)),
    "15 spots": Kind(frame=spots(15)),
    "row noise 6": Kind(frame=rows(6.0)),
    "flake 3 %": Kind(frame=flake(0.03)),
    "flake 10 %": Kind(frame=flake(0.1)),
    "illumination": Kind(frame=illumination),
    "disc cut 12 px": Kind(frame=shifted(12)),
    "ellipticity 5 %": Kind(frame=elliptic(0.05)),
    "dark level 60": Kind(frame=lambda counts, rng: counts + 60.0),
    "glare 30 %": Kind(frame=background(0.3)),
    "gamma 0.7": Kind(frame=gamma(0.7)),
    "8 bit": Kind(frame=eight_bit),
    "gain reference 4 %": Kind(frame=gain_reference(0.04)),
    "dose 1e7": Kind(day=dose(1e7)),
    "dose 1e8": Kind(day=dose(1e8)),
    "height 8 nm": Kind(height_nm=8.0),
    "turned 10 deg": Kind(day=turned(10.0)),
    "turned 20 deg": Kind(day=turned(20.0)),
    "coma 300 nm": Kind(day=coma(300.0)),
    "small faults": Kind(
        day=turned(3.0),
        frame=together(elliptic(0.02), gain_reference(0.02), background(0.1), rows(2.0), spots(1)),
        height_nm=2.0,
    ),
    "mirrored": Kind(frame=lambda counts, rng: counts[::-1], readable=False),
    "late frames": Kind(late=1, readable=False),
    "C10 inverted": Kind(inputs=((-1, 0, 0), (0, 1, 0), (0, 0, 1)), readable=False),
    "C12 turned": Kind(inputs=((1, 0, 0), (0, 0, 1), (0, -1, 0)), readable=False),
    "vacuum": Kind(frame=vacuum, readable=False),
}
"""Kinds by name; vibration, crystals and other films wait for days that can express them."""
