"""Training examples of the neural posterior: simulated frames with their states and nuisance parameters; symmetries."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from controller.dataset import CLOSED_LOOP, PLAIN_FRAMES, Dataset, DayRanges, Recipe, StateMixture
from controller.departures import WIDE
from controller.frame_set import FrameSet
from controller.posterior.network import NUISANCES, TURNED
from controller.spectrum import sub_areas
from controller.symmetry import mirror_matrix, mirrored, transposed, transposition_matrix
from twin.arrays import Array
from twin.day import Day
from twin.optics import Optics
from twin.state import SECOND_ORDER, StateSpace

LOOP_SEED = 1000
"""Added to the seed for the days of the closed-loop set."""
WIDE_FRAMES = Recipe(departures=WIDE)
"""Days of all kinds, beams of all microscopes."""
HIGHER_NM = 75.0
"""Standard deviation of each component of C21 and C23 over the training frames."""


def day_ranges() -> DayRanges:
    """Distribution of the training days; coma and three-fold astigmatism are drawn with the state of each frame."""
    return replace(DayRanges(), coma_nm=(0.0, 0.0), threefold_nm=(0.0, 0.0))


def frame_sets(
    optics: Optics, days: int, loop_days: int, frames_per_day: int, seed: int, recipe: Recipe = PLAIN_FRAMES
) -> tuple[FrameSet, FrameSet]:
    """Return the frames over the whole range, and those at the states of a closed loop, on other days."""
    whole, loop = (replace(mixture, higher_nm=HIGHER_NM) for mixture in (StateMixture(), CLOSED_LOOP))
    common = (optics, SECOND_ORDER, day_ranges())
    return (
        FrameSet(*common, whole, days, frames_per_day, seed, True, recipe),
        FrameSet(*common, loop, loop_days, frames_per_day, seed + LOOP_SEED, True, recipe),
    )


def state_mixture(days: int, loop_days: int) -> StateMixture:
    """Distribution of the states of both sets together."""
    total = days + loop_days
    parts = ((StateMixture(), days / total), (CLOSED_LOOP, loop_days / total))
    return StateMixture(
        higher_nm=HIGHER_NM,
        whole=sum(mixture.whole * weight for mixture, weight in parts),
        start=sum(mixture.start * weight for mixture, weight in parts),
        near=tuple((part * weight, width) for mixture, weight in parts for part, width in mixture.near),
    )


def nuisances_of(day: Day, ranges: DayRanges) -> list[float]:
    """Nuisance parameters (`NUISANCES`) of a training day as standard normals (probability integral transform).

    A film thicker than the range, on a day that departs, counts one more for every doubling of the thickness.
    """
    camera, film = day.camera, day.film
    pairs = [
        (camera.scale, ranges.scale),
        (camera.rotation_deg, ranges.rotation_deg),
        (camera.mtf_nyquist, ranges.mtf_nyquist),
        (film.thickness_nm, ranges.thickness_nm),
        (day.focal_spread_nm, ranges.focal_spread_nm),
        (day.source_size_nm, ranges.source_size_nm),
        ((day.residual_nm or {}).get("C30", 0.0), ranges.spherical_nm),
    ]
    normals = [float(norm.ppf(np.clip((v - low) / (high - low), 1e-3, 1 - 1e-3))) for v, (low, high) in pairs]
    normals[NUISANCES.index("thickness_nm")] += math.log2(max(1.0, film.thickness_nm / ranges.thickness_nm[1]))
    return normals


def nuisances_behind(data: Dataset, frames: FrameSet) -> NDArray[np.float32]:
    """Nuisance parameters of each frame of a set, (N, C); a day follows from the set's seed and its index."""
    numbers, which = np.unique(data.days, return_inverse=True)
    drawn = (frames.job(int(number)).draw()[0] for number in numbers)
    return np.array([nuisances_of(day, frames.ranges) for day in drawn], np.float32)[which]


@dataclass(frozen=True)
class Examples:
    """Frames with their states and nuisance parameters.

    Attributes:
        spectra: normalised half-plane spectra, float16, (N, H, W).
        patches: spectra of the sub-areas, float16, (N, P, h, w).
        log_floor: centred log shot-noise floor, (N,).
        beams: `units.beam_scales`, (N, 2).
        states: first order in units of its range, (N, n).
        nuisances: standard normals, (N, C).
        higher: second order in units of `HIGHER_NM`, standard normals too, (N, m).
    """

    spectra: Tensor
    patches: Tensor
    log_floor: Tensor
    beams: Tensor
    states: Tensor
    nuisances: Tensor
    higher: Tensor

    @classmethod
    def of(cls, data: Dataset, nuisances: NDArray[np.float32], space: StateSpace, log_floor: float) -> "Examples":
        """Scale simulated frames to what the network expects.

        Args:
            data: frames with first- and second-order states.
            nuisances: (N, C).
            space: of the states.
            log_floor: mean log shot-noise floor of the training frames.
        """
        floors = (np.log(data.floors) - log_floor).astype(np.float32)
        states = (data.states_nm / space.range_nm)[:, space.is_first_order].astype(np.float32)
        higher = (data.states_nm[:, ~space.is_first_order] / HIGHER_NM).astype(np.float32)
        beams = data.beams.astype(np.float32)
        parts = (data.spectra, data.patches, floors, beams, states, nuisances, higher)
        return cls(*(torch.from_numpy(part) for part in parts))

    def __len__(self) -> int:
        return len(self.states)

    @property
    def told(self) -> Tensor:
        """Known of each frame, (N, Q), see `PosteriorNetwork.summarise`."""
        return torch.cat([self.beams, self.log_floor[:, None]], 1)

    def chosen(self, keep: Tensor) -> "Examples":
        """Examples with these indices, spectra as float32."""
        return Examples(
            self.spectra[keep].float(), self.patches[keep].float(), self.log_floor[keep], self.beams[keep],
            self.states[keep], self.nuisances[keep], self.higher[keep],
        )  # fmt: skip


@dataclass(frozen=True)
class Symmetries:
    """The eight symmetries of the square, acting on frame, state and nuisance parameters: eightfold augmentation.

    Attributes:
        mirror, transposition: matrices on scaled states, (n, n).
        higher_mirror, higher_transposition: matrices on the second order, (m, m).
    """

    mirror: Tensor
    transposition: Tensor
    higher_mirror: Tensor
    higher_transposition: Tensor

    @classmethod
    def of(cls, first: StateSpace) -> "Symmetries":
        """For scaled states of the first order."""
        scale = first.range_nm
        scaled: list[Array] = [m(first.names) * scale / scale[:, None] for m in (mirror_matrix, transposition_matrix)]
        scaled += [m(sub_areas.NAMES) for m in (mirror_matrix, transposition_matrix)]
        return cls(*(torch.from_numpy(m).float() for m in scaled))

    def scramble(self, examples: Examples, generator: torch.Generator) -> Examples:
        """Apply a random symmetry to each example: a mirror, a transposition, an inversion, each or not.

        An inversion moves the sub-areas but changes no power spectrum; the second order changes its sign.
        """
        count = len(examples)
        flip, swap, turn = (torch.rand(count, generator=generator) < 0.5 for _ in range(3))
        states, nuisances, higher = examples.states, examples.nuisances.clone(), examples.higher
        states = torch.where(flip[:, None], states @ self.mirror.T, states)
        states = torch.where(swap[:, None], states @ self.transposition.T, states)
        higher = torch.where(flip[:, None], higher @ self.higher_mirror.T, higher)
        higher = torch.where(swap[:, None], higher @ self.higher_transposition.T, higher)
        higher = torch.where(turn[:, None], -higher, higher)
        nuisances[:, TURNED] *= torch.where(flip ^ swap, -1.0, 1.0)  # a reflection reverses the camera rotation
        spectra = transposed(mirrored(examples.spectra, flip), swap)
        patches = moved(examples.patches, flip, swap, turn)
        return Examples(spectra, patches, examples.log_floor, examples.beams, states, nuisances, higher)


def moved(patches: Tensor, flip: Tensor, swap: Tensor, turn: Tensor) -> Tensor:
    """Sub-areas (N, P, h, w) of reflected frames: each is reflected and moved to its new place."""
    count, total = patches.shape[:2]
    side = math.isqrt(total)
    grid = torch.arange(total).reshape(side, side)
    order = grid.flatten().repeat(count, 1)
    for chosen, place in ((flip, grid.flip(0)), (swap, grid.T), (turn, grid.flip(0, 1))):
        order = torch.where(chosen[:, None], order[:, place.flatten()], order)
    parts = torch.gather(patches, 1, order[:, :, None, None].expand_as(patches)).flatten(0, 1)
    parts = transposed(mirrored(parts, flip.repeat_interleave(total)), swap.repeat_interleave(total))
    return parts.reshape(patches.shape)


def mirror_mean(spectrum: Tensor) -> Tensor:
    """Mean of a half-plane spectrum (H, W) and its mirror image."""
    return (spectrum + spectrum[(-torch.arange(len(spectrum))) % len(spectrum)]) / 2
