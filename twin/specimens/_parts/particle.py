"""Nanoparticles of face-centred cubic metals on amorphous carbon."""

import math
import warnings
from typing import Annotated, Any, Literal, NamedTuple

import ase.cluster
import numpy as np
from annotated_types import Ge, Gt, Le
from ase.data import atomic_numbers

from twin.arrays import Floats
from twin.matter.structure import Structure
from twin.options import Seed, validated
from twin.specimens._parts.carbon import on_carbon
from twin.specimens._parts.options import Side
from twin.specimens._parts.thermal import element_rms_nm

Miller = tuple[int, int, int]


class Metal(NamedTuple):
    """A metal: lattice constant, surface energies of (111), (100) and (110), Debye temperature."""

    symbol: str
    lattice_nm: float
    surface_j_m2: tuple[float, float, float]
    debye_k: float


@validated
class ParticleOptions:
    """One particle in the middle of a square field of film.

    Attributes:
        diameter_nm: approximate diameter: whole shells of atoms.
        shape: "wulff" (least surface energy) or "cuboctahedron".
        zone: direction of the particle along the beam.
        rotation_deg: rotation of the particle about the beam.
        carbon_nm: thickness of the film; zero for a particle in vacuum.
        side_nm: side of the field.
        seed: seed of the film.
        thermal: whether the atoms vibrate.
    """

    diameter_nm: Annotated[float, Gt(0.5), Le(20)] = 3.0
    shape: Literal["wulff", "cuboctahedron"] = "wulff"
    zone: Literal["001", "110", "111"] = "110"
    rotation_deg: float = 0.0
    carbon_nm: Annotated[float, Ge(0), Le(50)] = 2.0
    side_nm: Side = 8.0
    seed: Seed = 0
    thermal: bool = True


def particle_positions(metal: Metal, shape: str, diameter_nm: float) -> Floats:
    """Atoms of a particle about the origin along its cubic axes, nm, (N, 3).

    A Wulff construction has the number of atoms of a sphere of that diameter; a cuboctahedron has that width along
    [110], to whole shells.
    """
    a = metal.lattice_nm * 10
    make: Any = ase.cluster  # without annotations
    if shape == "cuboctahedron":
        shells = max(1, round(diameter_nm * 10 / (math.sqrt(2) * a)))
        atoms = make.Octahedron(metal.symbol, 2 * shells + 1, cutoff=shells, latticeconstant=a)
    else:
        count = max(13, round(4 * math.pi / 6 * (diameter_nm / metal.lattice_nm) ** 3))
        surfaces = [(1, 1, 1), (1, 0, 0), (1, 1, 0)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            atoms = make.wulff_construction(metal.symbol, surfaces, metal.surface_j_m2, count, "fcc", "closest", a)
    positions = np.asarray(atoms.get_positions(), np.float64) / 10
    return positions - positions.mean(axis=0)


def facing(zone: Miller, rotation_deg: float) -> Floats:
    """Rotation matrix, (3, 3), of a cubic direction to +z, then about z; rows are the new axes."""
    up = np.array(zone) / np.linalg.norm(zone)
    across = np.array([1.0, 0.0, 0.0]) if zone == (0, 0, 1) else np.array([1.0, -1.0, 0.0]) / math.sqrt(2)
    axes = np.stack([across, np.cross(up, across), up])
    turn = math.radians(rotation_deg)
    c, s = math.cos(turn), math.sin(turn)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ axes


def particle_on_carbon(metal: Metal, options: ParticleOptions) -> Structure:
    """A particle on the beam entrance side of a film, its lowest atoms a bond length above it.

    Raises:
        ValueError: the particle is wider than the field.
    """
    zone: Miller = {"001": (0, 0, 1), "110": (1, 1, 0), "111": (1, 1, 1)}[options.zone]
    positions = particle_positions(metal, options.shape, options.diameter_nm) @ facing(zone, options.rotation_deg).T
    width = float(np.ptp(positions[:, :2], axis=0).max())
    if width + 1.0 > options.side_nm:
        raise ValueError(f"the particle is {width:.2f} nm wide; side_nm must be at least {width + 1.0:.1f}")
    positions[:, :2] += options.side_nm / 2
    number = atomic_numbers[metal.symbol]
    moving = {number: element_rms_nm(number, metal.debye_k)} if options.thermal else {}
    name = f"{metal.symbol} particle on carbon" if options.carbon_nm else f"{metal.symbol} particle"
    numbers = np.full(len(positions), number)
    return on_carbon(name, numbers, positions, options.side_nm, options.carbon_nm, moving, options.seed)
