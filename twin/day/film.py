"""The specimen of Ronchigrams: a thin film, amorphous or crystalline, and what may be wrong with it."""

from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Gt, Le, Lt

from twin.options import NonNegative, Positive, validated

Share = Annotated[float, Ge(0), Le(1)]
Material = Literal["C", "Ge", "SiN", "SiO2"]
Crystal = Literal["none", "si_001", "au_001"]


class Solid(NamedTuple):
    """An amorphous solid: element and fraction of the atoms, atoms per nm3, closest approach of two atoms."""

    composition: tuple[tuple[str, float], ...]
    density_per_nm3: float
    hard_core_nm: float


MATERIALS: dict[str, Solid] = {
    "C": Solid((("C", 1.0),), 100.0, 0.14),
    "Ge": Solid((("Ge", 1.0),), 44.0, 0.22),
    "SiN": Solid((("Si", 3 / 7), ("N", 4 / 7)), 93.0, 0.15),
    "SiO2": Solid((("Si", 1 / 3), ("O", 2 / 3)), 66.0, 0.15),
}
"""Amorphous films by name; densities of 2.0, 5.3, 3.1 and 2.2 g/cm3. SiN is Si3N4."""


@validated
class FilmProperties:
    """The film; every departure from even amorphous carbon is off by default.

    Attributes:
        thickness_nm: film thickness.
        material: element or compound of an amorphous film.
        density_per_nm3: number density of atoms (100 is carbon of 2.0 g/cm3); None: the material's.
        hard_core_nm: closest approach of two atoms; None: the material's.
        disorder_nm: rms displacement of every atom from the packing, along each axis; from about 0.2 nm on the atoms
            are independent of each other, S(q) = 1.
        thermal_rms_nm: rms thermal displacement of an atom along one axis (multislice only).
        crystal: a crystal along the beam instead of the amorphous film.
        crystallites_per_um2: gold particles on the film, by area.
        crystallite_nm: their diameter.
        wedge: change of thickness across the window, relative to its mean.
        wedge_deg: direction in which the film becomes thicker, from +x towards +y.
        height_rms_nm: spread of the film's height from region to region, which adds to the defocus.
        contamination_nm_per_s: carbon that grows on a region under the beam, nm per second of exposure.
        hole_share: share of the regions that are vacuum.
        edge_nm: distance from the axis to the straight edge of a hole, whose direction is random; None: no hole.
    """

    thickness_nm: Positive = 4.0
    material: Material = "C"
    density_per_nm3: Positive | None = None
    hard_core_nm: Positive | None = None
    disorder_nm: NonNegative = 0.0
    thermal_rms_nm: NonNegative = 0.007
    crystal: Crystal = "none"
    crystallites_per_um2: NonNegative = 0.0
    crystallite_nm: Positive = 3.0
    wedge: Annotated[float, Gt(-2), Lt(2)] = 0.0
    wedge_deg: float = 0.0
    height_rms_nm: NonNegative = 0.0
    contamination_nm_per_s: NonNegative = 0.0
    hole_share: Share = 0.0
    edge_nm: float | None = None

    @property
    def composition(self) -> tuple[tuple[str, float], ...]:
        """Elements of the amorphous film with their fractions of the atoms."""
        return MATERIALS[self.material].composition

    @property
    def atoms_per_nm3(self) -> float:
        """Number density of atoms."""
        return self.density_per_nm3 or MATERIALS[self.material].density_per_nm3

    @property
    def closest_nm(self) -> float:
        """Closest approach of two atoms."""
        return self.hard_core_nm or MATERIALS[self.material].hard_core_nm
