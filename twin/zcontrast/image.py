"""Z-contrast images: the profiles of all columns added up on a grid of pixels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.matter.structure import Structure
from twin.zcontrast.columns import ColumnLabels, Elements, columns_of
from twin.zcontrast.profile import RADIAL_NM, ZContrast, column_profile


@dataclass(frozen=True, eq=False)
class ColumnImages:
    """Columns of a specimen with their profiles: images of any part of it, fast.

    Attributes:
        labels: the columns.
        profiles: part of the beam that reaches the detector by distance, one row per column's kind and number of
            atoms, (K, P).
        row: row of the profile of each column's whole atoms, (N,); the next row has one more.
        part: part of the next row, (N,).

    Example:
        >>> from twin import specimens
        >>> crystal = specimens.build("sto_001", {"width_nm": 2.0, "height_nm": 2.0, "thickness_nm": 0.4})
        >>> images = ColumnImages.of(crystal, ZContrast())
        >>> image = images.image((64, 64), step_nm=0.02, corner_nm=(0.4, 0.4))
        >>> image.shape, bool(image.max() > 3 * image.mean())
        ((64, 64), True)
    """

    labels: ColumnLabels
    profiles: Floats
    row: NDArray[np.int64]
    part: Floats

    @classmethod
    def of(cls, structure: Structure, beam: ZContrast, perfect: Structure | None = None) -> "ColumnImages":
        """Columns of a specimen under a beam; `perfect` is the same without defects, to name them."""
        return cls.of_labels(columns_of(structure, perfect), structure.thermal_rms_nm, beam)

    @classmethod
    def of_labels(cls, labels: ColumnLabels, rms_nm: Mapping[int, float], beam: ZContrast) -> "ColumnImages":
        """Columns given by their labels; atoms that vary by less than the elements and depths share a profile."""
        kinds: dict[tuple[Elements, bytes], int] = {}
        blocks: list[Floats] = []
        start, height = np.zeros(len(labels), np.int64), 0
        for number in sorted(range(len(labels)), key=lambda i: -len(labels.elements[i])):
            elements, depth = labels.elements[number], labels.depth_nm[number]
            from_top = np.round(depth - (depth[0] if len(depth) else 0.0), 3)
            key = (elements, from_top.tobytes())
            if key not in kinds:
                profile = column_profile(elements, from_top.tolist(), rms_nm, beam)
                for count in range(len(elements) + 1):  # a shorter column of this kind is part of it
                    kinds.setdefault((elements[:count], from_top[:count].tobytes()), height)
                blocks.append(profile)
                height += len(profile)
            start[number] = kinds[key]
        limit = np.array([len(found) for found in labels.elements])
        atoms = np.clip(labels.atoms, 0, limit)
        whole = np.minimum(np.floor(atoms).astype(np.int64), np.maximum(limit - 1, 0))
        return cls(labels, np.concatenate(blocks), start + whole, np.where(limit > 0, atoms - whole, 0.0))

    def image(self, shape: tuple[int, int], step_nm: float, corner_nm: tuple[float, float] = (0.0, 0.0)) -> Floats:
        """Part of the beam that reaches the detector at every pixel, (rows, columns).

        Args:
            shape: rows and columns.
            step_nm: distance of pixels.
            corner_nm: (x, y) of the first pixel in the specimen.
        """
        image = np.zeros(shape)
        place = np.stack([self.labels.x_nm - corner_nm[0], self.labels.y_nm - corner_nm[1]])
        _add(image, place / step_nm, step_nm / RADIAL_NM, self.profiles, self.row, self.part)
        return image

    def cross_section_nm2(self) -> Floats:
        """Integral of each column's profile over the image, nm^2, (N,)."""
        radius = np.arange(self.profiles.shape[1]) * RADIAL_NM
        total = 2 * np.pi * (self.profiles * radius).sum(axis=1) * RADIAL_NM
        following = np.minimum(self.row + 1, len(total) - 1)
        return np.asarray(total[self.row] * (1 - self.part) + total[following] * self.part)


@numba.njit(cache=True)
def _add(image, place, points_per_px, profiles, row, part):  # type: ignore[no-untyped-def]
    """Add the profile of every column to the image; between points of a profile linearly."""
    rows, across = image.shape
    last = profiles.shape[1] - 1
    reach = (last - 1) / points_per_px
    mixed = np.empty(last + 1)
    for n in range(place.shape[1]):
        x, y = place[0, n], place[1, n]
        if x < -reach or y < -reach or x > across - 1 + reach or y > rows - 1 + reach:
            continue
        following = min(row[n] + 1, profiles.shape[0] - 1)
        for i in range(last + 1):
            mixed[i] = (1.0 - part[n]) * profiles[row[n], i] + part[n] * profiles[following, i]
        for j in range(max(0, int(np.ceil(y - reach))), min(rows, int(np.floor(y + reach)) + 1)):
            half = np.sqrt(max(reach * reach - (j - y) ** 2, 0.0))
            for i in range(max(0, int(np.ceil(x - half))), min(across, int(np.floor(x + half)) + 1)):
                radius = np.sqrt((i - x) ** 2 + (j - y) ** 2) * points_per_px
                point = int(radius)
                rest = radius - point
                image[j, i] += mixed[point] + rest * (mixed[point + 1] - mixed[point])
