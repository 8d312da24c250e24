"""Fits the network to labelled images: cells near a defect carry its kind; then calibrates its probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from agents.defects.conditions import Ranges, drawn
from agents.defects.detection import Defects, find, matches
from agents.defects.network import CELL, GRID_NM, DefectNetwork, prepared
from agents.defects.sheet import Labelled, labelled_image
from twin.zcontrast.profile import ZContrast

PATCH = 96  # side of the images that are fitted, in pixels of the network's grid


@dataclass(frozen=True, eq=False)
class Patches:
    """Prepared images and their labels.

    Attributes:
        images: (N, side, side).
        labels: 0 for nothing, else 1 + index of the kind, (N, side / 2, side / 2).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def chosen(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random crops of these images and their labels, half of them upside down."""
        free = (self.images.shape[1] - PATCH) // CELL + 1
        corner = torch.randint(free, (len(index), 2), generator=generator)
        turned = torch.rand(len(index), generator=generator) < 0.5
        images, labels = [], []
        for number, (top, left), upside in zip(index.tolist(), corner.tolist(), turned.tolist(), strict=True):
            image = self.images[number, CELL * top :, CELL * left :][:PATCH, :PATCH]
            label = self.labels[number, top:, left:][: PATCH // CELL, : PATCH // CELL]
            images.append(image.flip(0) if upside else image)
            labels.append(label.flip(0) if upside else label)
        return torch.stack(images)[:, None].float(), torch.stack(labels).long()


SIDE_NM = 3.7
"""Side of a simulated image: room for several patches."""


def simulated(beam: ZContrast, ranges: Ranges, days: int, seed: int) -> Iterator[Labelled]:
    """Images of days whose conditions are drawn; the same seed gives the same images."""
    for sequence in np.random.SeedSequence(seed).spawn(days):
        rng = np.random.default_rng(sequence)
        conditions = drawn(ranges, rng)
        side = int(np.ceil(SIDE_NM / conditions.step_nm))
        yield labelled_image(beam, conditions, (side, side), rng)


def patches(images: Sequence[Labelled]) -> Patches:
    """Prepare images and paint their labels, on the largest even square that all have."""
    ready = [prepared(found.image, found.step_nm) for found in images]
    side = min(min(image.shape) for image in ready) // CELL * CELL
    painted = np.stack([painted_labels(found, side // CELL) for found in images])
    stack = np.stack([image[:side, :side] for image in ready])
    return Patches(torch.from_numpy(stack).half(), torch.from_numpy(painted))


MARKED_NM = 0.08
"""Cells whose centre is nearer to a defect carry its label."""


def painted_labels(found: Labelled, side: int) -> NDArray[np.uint8]:
    """Label of every cell, (side, side)."""
    labels = np.zeros((side, side), np.uint8)
    centre_nm = (np.arange(side) * CELL + (CELL - 1) / 2) * GRID_NM
    for x, y, kind in zip(found.x_nm, found.y_nm, found.kind, strict=True):
        near = np.hypot(centre_nm[None, :] - x, centre_nm[:, None] - y) < MARKED_NM
        labels[near] = 1 + kind
    return labels


def loss_of(network: DefectNetwork, data: Patches, index: Tensor, generator: torch.Generator) -> Tensor:
    """Mean cross entropy of a batch."""
    images, labels = data.chosen(index, generator)
    return nn.functional.cross_entropy(network(images), labels)


def calibrate(network: DefectNetwork, images: Sequence[Labelled]) -> None:
    """Fit the logistic curve from the network's score to the frequency of being right (Platt 1999), in place."""
    network.scale.fill_(1.0)
    network.offset.fill_(0.0)
    found = [find(network, image.image, image.step_nm) for image in images]
    right = np.concatenate([rightness(one, image) for one, image in zip(found, images, strict=True)])
    scores = logit(np.clip(np.concatenate([one.probability for one in found]), 1e-6, 1 - 1e-6))
    if right.all() or not right.any():
        return  # too few to tell
    curve = LogisticRegression(C=1e3).fit(scores[:, None], right)
    network.scale.fill_(float(curve.coef_[0, 0]))
    network.offset.fill_(float(curve.intercept_[0]))


def rightness(found: Defects, image: Labelled) -> NDArray[np.bool_]:
    """Whether each defect found is a true one."""
    return matches(found, image.x_nm, image.y_nm, image.kind) >= 0
