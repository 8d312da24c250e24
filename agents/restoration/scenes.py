"""Random scenes without noise for the training: crystals with edges, steps and defects, amorphous matter, vacuum.

The profiles of columns are those of the Z-contrast generator, for several beams. Vacancies, vacuum and amorphous
matter are as frequent as they are so that a network does not learn to invent what is usually there.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agents.restoration.lattices import Lattice, random_lattice
from twin.arrays import Floats
from twin.zcontrast.columns import ColumnLabels
from twin.zcontrast.image import ColumnImages
from twin.zcontrast.profile import ZContrast, column_profile

HEAVIEST = 10
"""Atoms in the thickest column."""
ELEMENTS = (78, 74, 42, 38, 22, 34, 14, 6)
RMS_NM = 0.007
BEAMS = (
    ZContrast(c10_nm=-8.874, c30_nm=4e4, c50_nm=1e7, source_nm=0.03),
    ZContrast(source_nm=0.025),
    ZContrast(convergence_mrad=25.0, source_nm=0.03, inner_mrad=50.0, outer_mrad=200.0),
    ZContrast(energy_kev=200.0, convergence_mrad=23.0, source_nm=0.035, inner_mrad=80.0, outer_mrad=180.0),
    ZContrast(energy_kev=80.0, convergence_mrad=30.0, source_nm=0.03, inner_mrad=60.0, outer_mrad=160.0),
)


@dataclass(frozen=True, eq=False)
class Profiles:
    """Profiles of columns under one beam.

    Attributes:
        rows: profiles of 0 to `HEAVIEST` atoms of each element, one after the other, (K, P).
        first: row of no atom by element, (elements,).
    """

    rows: Floats
    first: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Columns:
    """Columns of a scene: places, element by number in `ELEMENTS`, atoms, each (N,)."""

    x_nm: Floats
    y_nm: Floats
    element: NDArray[np.int64]
    atoms: Floats

    def only(self, chosen: NDArray[np.bool_]) -> "_Columns":
        return _Columns(self.x_nm[chosen], self.y_nm[chosen], self.element[chosen], self.atoms[chosen])


@lru_cache
def profiles(beam: int, elements: tuple[int, ...], most: int) -> Profiles:
    """Profiles of elements under one of `BEAMS`, up to `most` atoms 0.25 nm apart."""
    depth = [0.25 * number for number in range(most)]
    blocks = [column_profile([z] * most, depth, {z: RMS_NM}, BEAMS[beam]) for z in elements]
    return Profiles(np.concatenate(blocks), np.arange(len(elements)) * (most + 1))


def random_scene(side_px: int, beams: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """Part of the beam that reaches the detector at every pixel, (side, side), and the distance of pixels, nm.

    Args:
        side_px: side of the image.
        beams: how many of `BEAMS` to choose from.
        rng: of everything.
    """
    bank = profiles(int(rng.integers(beams)), ELEMENTS, HEAVIEST)
    step_nm = math.exp(rng.uniform(math.log(0.009), math.log(0.026)))
    side_nm = side_px * step_nm
    kind = rng.random()
    if kind < 0.06:
        columns = _scattered(side_nm, int(rng.integers(len(ELEMENTS))), rng.uniform(0.0, 0.5), rng)
    elif kind < 0.14:
        columns = _scattered(side_nm, int(rng.integers(len(ELEMENTS))), rng.uniform(5.0, 40.0), rng)
    else:
        columns = _crystal(side_nm, rng)
    image = _drawn(columns, bank, side_px, step_nm)
    if rng.random() < 0.25:  # a film of carbon under it
        image = image + _drawn(_scattered(side_nm, len(ELEMENTS) - 1, rng.uniform(10, 80), rng), bank, side_px, step_nm)
    level = float(image.max()) or 0.01
    if rng.random() < 0.7:
        image = image + level * math.exp(rng.uniform(math.log(0.003), math.log(0.2)))
    return image, step_nm


def _crystal(side_nm: float, rng: np.random.Generator) -> _Columns:
    """A lattice with its thickness, edges and defects; sometimes two grains."""
    columns = _filled(random_lattice(side_nm, rng), side_nm, rng)
    if rng.random() < 0.12:
        edge = _Edge.random(side_nm, rng)
        other = _filled(random_lattice(side_nm, rng), side_nm, rng)
        one, two = columns.only(edge.beyond(columns, side_nm)), other.only(~edge.beyond(other, side_nm))
        columns = _Columns(*(np.concatenate([getattr(one, n), getattr(two, n)]) for n in one.__dataclass_fields__))
    elif rng.random() < 0.5:
        columns = columns.only(_region(columns, side_nm, rng))
    return _defective(columns, rng)


def _filled(lattice: Lattice, side_nm: float, rng: np.random.Generator) -> _Columns:
    """Elements and atoms of the sites: alike, or one for each; thickness constant, a wedge, a dome or rough."""
    count = lattice.sites
    element = np.full(count, rng.integers(len(ELEMENTS) - 1))
    share = np.ones(count)
    if count > 1 and rng.random() < 0.6:
        element = rng.integers(len(ELEMENTS), size=count)
        share = rng.choice([0.5, 1.0, 1.0], size=count)
    most = rng.integers(1, HEAVIEST + 1)
    x, y = lattice.x_nm, lattice.y_nm
    thickness, kind = np.full(len(x), float(most)), rng.random()
    if kind < 0.15:
        slope = rng.normal(0, 1, 2)
        across = (x * slope[0] + y * slope[1]) / side_nm
        thickness = most * (across - across.min()) / max(np.ptp(across), 1e-9)
    elif kind < 0.3:
        centre, radius = rng.uniform(0.2, 0.8, 2) * side_nm, rng.uniform(0.3, 0.8) * side_nm
        square = 1 - ((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2
        thickness = most * np.sqrt(np.maximum(square, 0.0))
    elif kind < 0.45:
        thickness = thickness + rng.integers(-1, 2, len(x))
    atoms = np.clip(np.rint(thickness * share[lattice.site]), 0, HEAVIEST)
    return _Columns(x, y, element[lattice.site], atoms)


@dataclass(frozen=True)
class _Edge:
    """A straight line: its direction, and its distance from the field's middle."""

    angle: float
    offset_nm: float

    @classmethod
    def random(cls, side_nm: float, rng: np.random.Generator) -> "_Edge":
        return cls(rng.uniform(0, 2 * math.pi), rng.normal(0, 0.2 * side_nm))

    def beyond(self, columns: _Columns, side_nm: float) -> NDArray[np.bool_]:
        """Which columns lie on its far side."""
        x, y = columns.x_nm - side_nm / 2, columns.y_nm - side_nm / 2
        return np.asarray(x * math.cos(self.angle) + y * math.sin(self.angle) > self.offset_nm)


def _region(columns: _Columns, side_nm: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Columns on one side of up to three edges, within a disc, or outside a hole."""
    kind = rng.random()
    if kind < 0.6:
        kept = np.ones(len(columns.x_nm), np.bool_)
        for _ in range(rng.integers(1, 4)):
            kept &= _Edge.random(side_nm, rng).beyond(columns, side_nm)
        return kept
    centre, radius = rng.uniform(0.1, 0.9, 2) * side_nm, rng.uniform(0.15, 0.5) * side_nm
    within = np.hypot(columns.x_nm - centre[0], columns.y_nm - centre[1]) < radius
    return within if kind < 0.8 else ~within


def _defective(columns: _Columns, rng: np.random.Generator) -> _Columns:
    """Columns with vacancies, lacking or additional atoms, other elements, and a few atoms beside the sites."""
    count = len(columns.x_nm)
    atoms, element = columns.atoms.copy(), columns.element.copy()
    if rng.random() < 0.6:
        rate = math.exp(rng.uniform(math.log(0.003), math.log(0.1)))
        atoms[rng.random(count) < rate] = 0.0
        partly = rng.random(count) < rate
        atoms[partly] = np.floor(atoms[partly] * rng.uniform(0, 1, np.count_nonzero(partly)))
        other = rng.random(count) < rate / 2
        element[other] = rng.integers(len(ELEMENTS), size=np.count_nonzero(other))
    if rng.random() < 0.2 and count:
        extra = rng.integers(1, 6)
        near = rng.integers(count, size=extra)
        x = np.concatenate([columns.x_nm, columns.x_nm[near] + rng.normal(0, 0.15, extra)])
        y = np.concatenate([columns.y_nm, columns.y_nm[near] + rng.normal(0, 0.15, extra)])
        return _Columns(x, y, np.concatenate([element, element[near]]), np.concatenate([atoms, np.ones(extra)]))
    return replace(columns, atoms=atoms, element=element)


def _scattered(side_nm: float, element: int, per_nm2: float, rng: np.random.Generator) -> _Columns:
    """Single atoms at random places, of amorphous matter or on nothing."""
    count = int(rng.poisson(per_nm2 * (side_nm + 0.4) ** 2))
    x, y = rng.uniform(-0.2, side_nm + 0.2, (2, count))
    return _Columns(x, y, np.full(count, element), np.ones(count))


def _drawn(columns: _Columns, bank: Profiles, side_px: int, step_nm: float) -> Floats:
    """Profiles of all columns added up, (side, side)."""
    count = len(columns.x_nm)
    labels = ColumnLabels(
        columns.x_nm, columns.y_nm, ((),) * count, (np.empty(0),) * count, columns.atoms, ("",) * count
    )
    row = bank.first[columns.element] + columns.atoms.astype(np.int64)
    return ColumnImages(labels, bank.rows, row, np.zeros(count)).image((side_px, side_px), step_nm)
