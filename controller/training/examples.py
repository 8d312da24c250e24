"""Training examples of the amortised posterior: frames with what hides behind them, and the reflections of both."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controller.posterior.network import TURNED
from controller.spectrum import sub_areas
from controller.symmetry import mirror_matrix, mirrored, transposed, transposition_matrix
from twin.state import StateSpace

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Examples:
    """Frames with what hides behind them.

    Attributes:
        spectra: normalised half-plane spectra, float16, (N, H, W).
        patches: of the sub-areas, float16, (N, P, h, w).
        log_floor: centred log shot-noise floor, (N,).
        states: scaled, of the first order, (N, n).
        nuisances: standard normals, (N, C).
        higher: the second order, standard normals too, (N, m).
    """

    spectra: Tensor
    patches: Tensor
    log_floor: Tensor
    states: Tensor
    nuisances: Tensor
    higher: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def chosen(self, keep: Tensor) -> "Examples":
        """Some of them."""
        return Examples(
            self.spectra[keep].float(), self.patches[keep].float(), self.log_floor[keep], self.states[keep],
            self.nuisances[keep], self.higher[keep],
        )  # fmt: skip


@dataclass(frozen=True)
class Symmetries:
    """The square's eight reflections and turns, acting on all that is known of a frame: eight times the data.

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
        """A random element for each frame: a mirror, a transposition, an inversion, each or not.

        An inversion moves the sub-areas about but changes no power spectrum; the sign of the second order follows.
        """
        count = len(examples)
        flip, swap, turn = (torch.rand(count, generator=generator) < 0.5 for _ in range(3))
        states, hidden, higher = examples.states, examples.nuisances.clone(), examples.higher
        states = torch.where(flip[:, None], states @ self.mirror.T, states)
        states = torch.where(swap[:, None], states @ self.transposition.T, states)
        higher = torch.where(flip[:, None], higher @ self.higher_mirror.T, higher)
        higher = torch.where(swap[:, None], higher @ self.higher_transposition.T, higher)
        higher = torch.where(turn[:, None], -higher, higher)
        hidden[:, TURNED] *= torch.where(flip ^ swap, -1.0, 1.0)  # a reflected camera is turned the other way
        spectra = transposed(mirrored(examples.spectra, flip), swap)
        parts = moved(examples.patches, flip, swap, turn)
        return Examples(spectra, parts, examples.log_floor, states, hidden, higher)


def moved(patches: Tensor, flip: Tensor, swap: Tensor, turn: Tensor) -> Tensor:
    """Sub-areas (N, P, h, w) of reflected frames: each goes where it belongs and is reflected itself."""
    count, total = patches.shape[:2]
    side = math.isqrt(total)
    grid = torch.arange(total).reshape(side, side)
    order = grid.flatten().repeat(count, 1)
    for chosen, place in ((flip, grid.flip(0)), (swap, grid.T), (turn, grid.flip(0, 1))):
        order = torch.where(chosen[:, None], order[:, place.flatten()], order)
    parts = torch.gather(patches, 1, order[:, :, None, None].expand_as(patches)).flatten(0, 1)
    parts = transposed(mirrored(parts, flip.repeat_interleave(total)), swap.repeat_interleave(total))
    return parts.reshape(patches.shape)
