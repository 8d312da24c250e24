"""Simulated training data: normalised spectra of frames on random days at random states."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from controller import preprocess
from controller.canonical import units
from controller.canonical.preparation import prepare
from controller.departures import PLAIN, Departures
from twin.aberrations import NAMES, Aberrations
from twin.arrays import Array
from twin.day import CameraProperties, Day, FilmProperties
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

if TYPE_CHECKING:
    from twin.ronchigram.renderer import Renderer

Range = tuple[float, float]


@dataclass(frozen=True)
class DayRanges:
    """Ranges of the training days; every quantity is uniform in its range, the dose in its logarithm.

    Test days have another origin (docs/days.md): the library's were chosen by hand, and `Day.random` draws truncated
    normals about the nominal day, inside these ranges at severity 1. The library's `day_a` and `day_b` lie inside;
    `day_c` lies outside in thickness, coma, three-fold astigmatism and camera rotation. No training day has drift or
    actuator error.
    """

    thickness_nm: Range = (2.5, 9.0)
    coma_nm: Range = (-90.0, 90.0)
    threefold_nm: Range = (-90.0, 90.0)
    spherical_nm: Range = (-2000.0, 2000.0)
    focal_spread_nm: Range = (0.5, 2.8)
    source_size_nm: Range = (0.02, 0.07)
    dose_e: Range = (1.5e5, 3e6)
    rotation_deg: Range = (-4.0, 4.0)
    scale: Range = (0.97, 1.03)
    shift_px: Range = (-3.0, 3.0)
    mtf_nyquist: Range = (0.5, 1.0)
    shading: Range = (-0.15, 0.15)
    gain: Range = (0.8, 1.3)


def nominal_ranges() -> DayRanges:
    """Ranges of zero width: every training day is the nominal day, `Day()`."""
    day = Day()
    return DayRanges(
        thickness_nm=(day.film.thickness_nm,) * 2,
        coma_nm=(0.0, 0.0),
        threefold_nm=(0.0, 0.0),
        spherical_nm=(0.0, 0.0),
        focal_spread_nm=(day.focal_spread_nm,) * 2,
        source_size_nm=(day.source_size_nm,) * 2,
        dose_e=(day.dose_e,) * 2,
        rotation_deg=(0.0, 0.0),
        scale=(1.0, 1.0),
        shift_px=(0.0, 0.0),
        mtf_nyquist=(1.0, 1.0),
        shading=(0.0, 0.0),
        gain=(1.0, 1.0),
    )


def draw_day(ranges: DayRanges, rng: np.random.Generator) -> Day:
    """Draw a training day."""

    def pick(bounds: Range) -> float:
        return float(rng.uniform(*bounds))

    residual = {"C21a": ranges.coma_nm, "C21b": ranges.coma_nm, "C23a": ranges.threefold_nm}
    residual |= {"C23b": ranges.threefold_nm, "C30": ranges.spherical_nm}
    return Day(
        film=FilmProperties(thickness_nm=pick(ranges.thickness_nm)),
        residual_nm={name: pick(bounds) for name, bounds in residual.items()},
        focal_spread_nm=pick(ranges.focal_spread_nm),
        source_size_nm=pick(ranges.source_size_nm),
        dose_e=float(np.exp(rng.uniform(*np.log(ranges.dose_e)))),
        camera=CameraProperties(
            rotation_deg=pick(ranges.rotation_deg),
            scale=pick(ranges.scale),
            shift_px=(pick(ranges.shift_px), pick(ranges.shift_px)),
            mtf_nyquist=pick(ranges.mtf_nyquist),
            shading=pick(ranges.shading),
            gain=pick(ranges.gain),
        ),
    )


@dataclass(frozen=True)
class StateMixture:
    """Distribution of training states: a mixture of uniform in the whole range, uniform in the start box, and normal.

    Attributes:
        whole, start: weights of the two uniform parts.
        near: (weight, standard deviation as a fraction of the range) of each normal part about the null.
        higher_nm: standard deviation of the coefficients beyond the first order, which are then independent normals,
            clipped at the range; None: drawn like the others.
    """

    whole: float = 0.5
    start: float = 0.0
    near: tuple[tuple[float, float], ...] = ((0.5, 1 / 7),)
    higher_nm: float | None = None

    def __post_init__(self) -> None:
        weights = (self.whole, self.start, *(weight for weight, _ in self.near))
        if min(weights) < 0 or not math.isclose(sum(weights), 1.0):
            raise ValueError(f"the shares of a state mixture add up to 1; got {weights}")

    def draw(self, space: StateSpace, count: int, rng: np.random.Generator) -> Array:
        """Draw states, nm, shape (count, n), inside the range."""
        uniform = rng.uniform(-1, 1, (count, space.dimension))
        parts = [(self.whole, uniform * space.range_nm), (self.start, uniform * space.start)]
        for weight, width in self.near:
            normal = rng.standard_normal((count, space.dimension)) * space.range_nm * width
            parts.append((weight, np.clip(normal, -space.range_nm, space.range_nm)))
        states, pick, upper = parts[-1][1], rng.random((count, 1)), 0.0
        for weight, part in parts[:-1]:
            states = np.where((pick >= upper) & (pick < upper + weight), part, states)
            upper += weight
        if self.higher_nm is not None:
            higher = ~space.is_first_order
            normal = rng.standard_normal((count, int(higher.sum()))) * self.higher_nm
            states[:, higher] = np.clip(normal, -space.range_nm[higher], space.range_nm[higher])
        return states

    def log_density(self, space: StateSpace, scaled: Array) -> Array:
        """Log density at states / range, (n, M), per unit of the scaled state, (M,); neglects the clipping.

        With `higher_nm`, of the first order alone: `space` and states must then have only the first order.
        """
        start = space.start / space.range_nm
        density = np.full(scaled.shape[1], self.whole / 2.0**space.dimension)
        density += self.start * np.all(np.abs(scaled) <= start[:, None], axis=0) / float(np.prod(2 * start))
        for weight, width in self.near:
            norm = (2 * math.pi * width**2) ** (-space.dimension / 2)
            density += weight * norm * np.exp(-0.5 * np.sum(scaled**2, axis=0) / width**2)
        return np.log(density)

    def precision(self, space: StateSpace, scaled: Array, log_density: Array) -> Array:
        """Mean precision h of the parts at states / range, (n, M), weighted by their responsibilities, (M,).

        -h x is the exact gradient of `log_density`, whose values (M,) at the states are an argument.
        """
        precision = np.zeros(scaled.shape[1])
        for weight, width in self.near:
            norm = (2 * math.pi * width**2) ** (-space.dimension / 2)
            precision += weight * norm * np.exp(-0.5 * np.sum(scaled**2, axis=0) / width**2) / width**2
        return precision / np.exp(log_density)


CLOSED_LOOP = StateMixture(whole=0.05, start=0.3, near=((0.35, 1 / 7), (0.3, 1 / 16)))
"""Distribution of the states of a closed loop: first in the start box, then near the null."""


@dataclass(frozen=True)
class Dataset:
    """Spectra with their states and days.

    Attributes:
        spectra: normalised half-plane spectra, (N, H, W), float16 (their speckle is 10 % each).
        states_nm: calibrated states, (N, n).
        floors: shot-noise floor of each frame, (N,).
        days: index of the day, (N,).
        patches: spectra of the sub-areas, (N, P, h, w), float16; P may be 0.
        beams: `units.beam_scales` of each frame, (N, 2).
    """

    spectra: NDArray[np.float16]
    states_nm: Array
    floors: Array
    days: NDArray[np.int64]
    patches: NDArray[np.float16]
    beams: Array

    def subset(self, keep: NDArray[np.bool_]) -> "Dataset":
        """Select the frames where `keep`, shape (N,), is true."""
        return Dataset(*(getattr(self, f.name)[keep] for f in fields(self)))


def joined(parts: list[Dataset]) -> Dataset:
    """Concatenate data sets."""
    return Dataset(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Dataset)))


@dataclass(frozen=True)
class Recipe:
    """How training frames are simulated and read.

    Attributes:
        renderer: "fast" (phase screens) or "multislice" (atoms, some ten times slower).
        preprocessing: name in `preprocess.READINGS`; the spectra of sub-areas are always normalised.
        departures: of the days, by kind and beam.
    """

    renderer: str = "fast"
    preprocessing: str = "normalised"
    departures: Departures = PLAIN


PLAIN_FRAMES = Recipe()
"""Phase screens of plain days, normalised."""


@dataclass(frozen=True)
class DayJob:
    """Arguments of the simulation of one day's frames."""

    optics: Optics
    space: StateSpace
    ranges: DayRanges
    frames: int
    seed: int
    index: int
    states: StateMixture = StateMixture()
    patches: bool = False
    recipe: Recipe = PLAIN_FRAMES

    def draw(self) -> tuple[Day, Optics, np.random.Generator]:
        """The day and its optics, and the generator that goes on with the frames."""
        rng = np.random.default_rng([self.seed, self.index])
        departures = self.recipe.departures
        day = departures.day(draw_day(self.ranges, rng), rng)
        return day, departures.beam(self.optics, rng), rng


class DaySource:
    """Source of a day's frames; renderer and camera defects are set up once.

    Args:
        day: hidden parameters; lengths of its aberrations count at the reference.
        optics, space: instrument and task, at the reference.
        rng: for specimen, noise and defects.
        beam: optics with another beam on the same camera; the aberrations then have the phases at the edge that they
            have at `optics`.
        renderer: as in `Recipe`.
    """

    def __init__(
        self,
        day: Day,
        optics: Optics,
        space: StateSpace,
        rng: np.random.Generator,
        beam: Optics | None = None,
        renderer: str = "fast",
    ) -> None:
        from twin.cameras.ronchigram_camera import draw_defects

        self.day, self.space, self.rng, self.reference = day, space, rng, optics
        self.optics = beam or optics
        self.renderer = _renderer(renderer, self.optics, day)
        self.defects = draw_defects(day.camera, (optics.camera_pixels,) * 2, rng)
        self._per_reference = 1.0 / units.scale(NAMES, self.optics, optics)

    def frame(self, state_nm: Array) -> Frame:
        """Acquire a Ronchigram at a state (n,), on a fresh film region."""
        from twin.cameras.ronchigram_camera import expose

        day, camera = self.day, self.day.camera
        full = Aberrations.from_array(
            (self.space.to_aberrations(state_nm) + day.residual).array() * self._per_reference
        )
        probability = self.renderer.probability([full], [int(self.rng.integers(2**63))])[0]
        counts = expose(probability, day.dose_e, camera, self.defects, self.rng)
        return Frame(counts, day.dose_e, day.exposure_s, 0.0, {"dark_level": camera.told_dark_level})

    def prepared(self, state_nm: Array) -> Frame:
        """Acquire a Ronchigram as controllers get it, see `canonical.preparation`."""
        return prepare(self.frame(state_nm), self.optics, self.reference).frame


def _renderer(name: str, optics: Optics, day: Day) -> "Renderer":
    if name == "multislice":
        from twin.ronchigram.multislice import MultisliceRenderer

        return MultisliceRenderer(optics, day)
    from twin.ronchigram.phase_screens import FastRenderer

    return FastRenderer(optics, day, sub_window=True)


def spectra_on(
    source: DaySource, states_nm: Array, patches: bool = False, preprocessing: str = "normalised"
) -> Dataset:
    """Simulate one frame per state (N, n), each on a fresh region of one day's film; the day's index is 0."""
    import torch

    torch.set_num_threads(1)
    read = preprocess.READINGS[preprocessing]
    wholes, parts = zip(*(_read(source.prepared(state), patches, read) for state in states_nm), strict=True)
    return Dataset(
        np.stack([whole.values for whole in wholes]).astype(np.float16),
        states_nm,
        np.array([whole.floor for whole in wholes]),
        np.zeros(len(states_nm), np.int64),
        np.stack(parts).astype(np.float16),
        np.tile(units.beam_scales(source.optics, source.reference), (len(states_nm), 1)),
    )


def _read(
    frame: Frame, patches: bool, read: Callable[[Frame], preprocess.Spectrum]
) -> tuple[preprocess.Spectrum, NDArray[np.float32]]:
    if not patches:
        return read(frame), np.zeros((0, 0, 0), np.float32)
    whole, parts = preprocess.whole_and_patches(frame)
    return whole, parts.values


def simulate_day(job: DayJob) -> Dataset:
    """Simulate the frames of one random day; a pure function of the job."""
    day, beam, rng = job.draw()
    states = job.states.draw(job.space, job.frames, rng)
    source = DaySource(day, job.optics, job.space, rng, beam, job.recipe.renderer)
    data = spectra_on(source, states, job.patches, job.recipe.preprocessing)
    return replace(data, days=np.full(job.frames, job.index))


def simulate(jobs: Sequence[DayJob], workers: int = 0) -> Iterator[Dataset]:
    """Yield the days of `jobs` in order, over `workers` processes (0: one per core)."""
    if not jobs:
        return
    with ProcessPoolExecutor(workers or os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        yield from pool.map(simulate_day, jobs, chunksize=4)
