"""Specimens against densities, bond lengths and coordination from the literature, and against their own symmetry."""

import math
from functools import cache

import ase
import ase.data
import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull, cKDTree

from twin import specimens
from twin.specimens._parts.particle import facing
from twin.specimens._parts.thermal import debye_rms_nm, element_rms_nm

AVOGADRO = 6.02214076e23
build = cache(lambda name, **options: specimens.build(name, options))


def neighbours(structure, first, second, cutoff_nm):
    """Number and mean distance of `second` round each `first`, in the crystal that goes on in all directions."""
    atoms = ase.Atoms(
        numbers=structure.numbers,
        positions=structure.positions_nm * 10,
        cell=np.array(structure.cell_nm) * 10,
        pbc=True,
    )
    i, j, distance = neighbor_list("ijd", atoms, cutoff_nm * 10)
    chosen = (structure.numbers[i] == first) & (structure.numbers[j] == second)
    count = np.bincount(i[chosen], minlength=len(atoms))[structure.numbers == first]
    return count, distance[chosen] / 10


def density_g_cm3(structure):
    mass = ase.data.atomic_masses[structure.numbers].sum() / AVOGADRO
    return mass / (math.prod(structure.cell_nm) * 1e-21)


def test_the_library_s_specimens_are_there():
    assert {
        "sto_001",
        "si_001",
        "mgo_001",
        "au_on_carbon",
        "pt_on_carbon",
        "mos2_twisted",
        "graphene_twisted",
        "single_atoms",
    } <= set(specimens.names())


@pytest.mark.parametrize("name", specimens.names())
def test_every_specimen_has_atoms_within_its_box_and_apart(name):
    structure = build(name)
    assert len(structure.numbers) > 0
    assert np.all(structure.positions_nm >= 0)
    assert np.all(structure.positions_nm < np.array(structure.cell_nm) + 1e-9)
    assert cKDTree(structure.positions_nm).query(structure.positions_nm, k=2)[0][:, 1].min() > 0.13
    assert set(structure.thermal_rms_nm) <= set(structure.composition)
    assert all(0.003 < rms < 0.012 for rms in structure.thermal_rms_nm.values())
    assert build(name, thermal=False).thermal_rms_nm == {}


@pytest.mark.parametrize(("name", "expected"), [("sto_001", 5.12), ("si_001", 2.329), ("mgo_001", 3.58)])
def test_crystals_have_their_density(name, expected):
    assert density_g_cm3(build(name)) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(
    ("name", "first", "second", "number", "distance_nm"),
    [
        ("sto_001", 22, 8, 6, 0.1953),  # TiO6 octahedra
        ("sto_001", 38, 8, 12, 0.2761),
        ("si_001", 14, 14, 4, 0.2352),
        ("mgo_001", 12, 8, 6, 0.2106),
    ],
)
def test_crystals_have_their_bonds(name, first, second, number, distance_nm):
    count, distance = neighbours(build(name), first, second, 1.2 * distance_nm)
    assert np.all(count == number)
    np.testing.assert_allclose(distance, distance_nm, rtol=1e-3)


def test_strontium_titanate_has_three_kinds_of_columns():
    structure = build("sto_001")
    assert structure.composition[8] == 3 * structure.composition[22] == 3 * structure.composition[38]
    site = np.rint(structure.positions_nm[:, :2] / 0.3905 * 2).astype(int) % 2
    kinds = {tuple(s): set(structure.numbers[(site == s).all(axis=1)].tolist()) for s in np.unique(site, axis=0)}
    assert kinds == {(0, 0): {38}, (1, 1): {22, 8}, (1, 0): {8}, (0, 1): {8}}


@pytest.mark.parametrize("name", ["sto_001", "si_001", "mgo_001"])
def test_crystals_are_whole_cells_and_no_atom_lies_on_a_slice_boundary(name):
    structure = build(name, width_nm=3.0, height_nm=2.0, thickness_nm=5.0)
    cell = {"sto_001": 0.3905, "si_001": 0.5431, "mgo_001": 0.4212}[name]
    for side, wanted in zip(structure.cell_nm, (3.0, 2.0, 5.0), strict=True):
        assert side / cell == pytest.approx(round(side / cell))
        assert abs(side - wanted) <= cell / 2
    depth = structure.positions_nm[:, 2] / cell * 4
    assert np.abs(depth - np.rint(depth)).max() < 0.51
    assert np.abs(depth / 2 - np.rint(depth / 2)).min() > 0.2


def peak_azimuths_deg(positions_nm, q_per_nm, side_nm):
    """Where on a ring of spatial frequencies a sheet diffracts, in [0, 60), strongest first; two peaks, 0.1 degrees."""
    azimuth = np.arange(0.0, 60.0, 0.1)
    q = q_per_nm * np.stack([np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))])
    window = np.prod(np.sin(np.pi * positions_nm[:, :2] / side_nm), axis=1)
    power = np.abs(window @ np.exp(-2j * np.pi * positions_nm[:, :2] @ q)) ** 2
    first = int(power.argmax())
    away = np.abs((azimuth - azimuth[first] + 30) % 60 - 30) > 1.5
    second = int(np.where(away, power, 0).argmax())
    assert power[second] > 0.3 * power[first]
    return azimuth[first], azimuth[second]


@pytest.mark.parametrize(("name", "lattice_nm"), [("graphene_twisted", 0.246), ("mos2_twisted", 0.316)])
@pytest.mark.parametrize("angle_deg", [4.0, 13.5, -7.0])
def test_twist_is_the_angle_between_the_sheets_diffraction_peaks(name, lattice_nm, angle_deg):
    structure = build(name, angle_deg=angle_deg, width_nm=10.0, height_nm=10.0)
    q = 2 / (math.sqrt(3) * lattice_nm)
    one, other = peak_azimuths_deg(structure.positions_nm, q, 10.0)
    between = abs(one - other)
    assert min(between, 60 - between) == pytest.approx(abs(angle_deg), abs=0.21)
    # A lattice vector along x has its peaks at 30 degrees; the sheet that the beam meets first turns from x to y.
    upper = structure.positions_nm[structure.positions_nm[:, 2] < structure.thickness_nm / 2]
    ring = np.radians(30.0 + angle_deg / 2 * np.array([1, -1]))
    power = np.abs(np.exp(-2j * np.pi * q * upper[:, :2] @ np.stack([np.cos(ring), np.sin(ring)])).sum(0)) ** 2
    assert power[0] > 100 * power[1]


def test_graphene_s_bonds_and_density():
    structure = build("graphene_twisted", angle_deg=3.0, width_nm=10.0, height_nm=6.0)
    assert len(structure.numbers) / 2 / 60.0 == pytest.approx(38.2, rel=0.02)
    layer = structure.positions_nm[structure.positions_nm[:, 2] < structure.thickness_nm / 2]
    middle = np.all(np.abs(layer[:, :2] - [5.0, 3.0]) < 2.0, axis=1)
    distance, _ = cKDTree(layer).query(layer[middle], k=5)
    np.testing.assert_allclose(distance[:, 1:4], 0.142, atol=2e-4)
    assert distance[:, 4].min() > 0.24
    assert np.ptp(structure.positions_nm[:, 2]) == pytest.approx(0.335)


def test_molybdenum_sits_in_trigonal_prisms():
    structure = build("mos2_twisted")
    assert structure.composition[16] == pytest.approx(2 * structure.composition[42], rel=0.01)
    first = structure.positions_nm[:, 2] < structure.thickness_nm / 2
    molybdenum = structure.positions_nm[first & (structure.numbers == 42)]
    sulphur = structure.positions_nm[first & (structure.numbers == 16)]
    inside = molybdenum[np.all(np.abs(molybdenum[:, :2] - 6.0) < 4.0, axis=1)]
    distance, which = cKDTree(sulphur).query(inside, k=7)
    np.testing.assert_allclose(distance[:, :6], 0.241, atol=0.002)
    assert distance[:, 6].min() > 0.3
    # A prism, not an octahedron: the sulphurs lie over one another.
    flat = np.sort(np.round(sulphur[which[0, :6], 0], 4))
    np.testing.assert_allclose(flat[::2], flat[1::2], atol=1e-4)


@given(angle_deg=st.floats(-60, 60), width=st.floats(2, 6), height=st.floats(2, 6))
@settings(max_examples=20, deadline=None)
def test_a_sheet_fills_its_field_at_any_angle(angle_deg, width, height):
    structure = specimens.build("graphene_twisted", {"angle_deg": angle_deg, "width_nm": width, "height_nm": height})
    edge = 2 * (width + height) * 0.2
    assert abs(len(structure.numbers) / 2 - 38.2 * width * height) < 38.2 * edge + 4


@pytest.mark.parametrize(("diameter_nm", "count"), [(0.9, 55), (1.7, 147), (2.9, 561)])
def test_cuboctahedra_have_the_magic_numbers(diameter_nm, count):
    structure = build("au_on_carbon", shape="cuboctahedron", diameter_nm=diameter_nm, carbon_nm=0.0)
    assert structure.composition == {79: count}


@pytest.mark.parametrize(
    ("name", "density", "nearest_nm"), [("au_on_carbon", 19.3, 0.2884), ("pt_on_carbon", 21.45, 0.2775)]
)
def test_particles_are_pieces_of_the_metal(name, density, nearest_nm):
    structure = build(name, diameter_nm=4.0, carbon_nm=0.0)
    tree = cKDTree(structure.positions_nm)
    distance, _ = tree.query(structure.positions_nm, k=2)
    np.testing.assert_allclose(distance[:, 1], nearest_nm, rtol=2e-3)
    coordination = np.array(
        [len(found) - 1 for found in tree.query_ball_point(structure.positions_nm, 1.1 * nearest_nm)]
    )
    assert coordination.max() == 12
    assert coordination.min() >= 4
    (number,) = structure.composition
    per_atom_nm3 = ase.data.atomic_masses[number] / AVOGADRO / density * 1e21
    bulk = (coordination == 12).sum() * per_atom_nm3
    assert bulk < ConvexHull(structure.positions_nm).volume < len(coordination) * per_atom_nm3


def facets(structure):
    """Outward normals and distances from the centre of the hull's faces, with their areas."""
    positions = structure.positions_nm - structure.positions_nm.mean(axis=0)
    hull = ConvexHull(positions)
    corners = positions[hull.simplices]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    return hull.equations[:, :3], -hull.equations[:, 3], areas


def test_wulff_particles_show_hexagonal_and_square_facets_in_the_ratio_of_their_energies():
    """Along the cubic axes: nearly all of the surface is {111} and {100}, d100 / d111 = 1.627 / 1.283.

    Both distances are whole layers: half a layer of each, 0.102 and 1.27 x 0.118 nm, is the tolerance.
    """
    structure = build("au_on_carbon", diameter_nm=5.0, carbon_nm=0.0, zone="001", side_nm=10.0)
    normal, distance, area = facets(structure)
    square = np.abs(normal).max(axis=1) > 0.999
    hexagonal = np.abs(np.abs(normal) - 1 / math.sqrt(3)).max(axis=1) < 1e-3
    assert area[square | hexagonal].sum() > 0.85 * area.sum()
    assert area[hexagonal].sum() > 3 * area[square].sum()
    assert distance[square].mean() == pytest.approx(1.627 / 1.283 * distance[hexagonal].mean(), abs=0.252)


@pytest.mark.parametrize(
    ("zone", "spacing_nm"), [("001", 0.4078 / 2), ("110", 0.4078 / math.sqrt(8)), ("111", 0.4078 / math.sqrt(3))]
)
def test_zone_and_rotation_orient_the_particle(zone, spacing_nm):
    upright = build("au_on_carbon", zone=zone, carbon_nm=0.0)
    planes = np.unique(np.round(upright.positions_nm[:, 2], 4))
    np.testing.assert_allclose(np.diff(planes), spacing_nm, atol=2e-4)
    turned = build("au_on_carbon", zone=zone, carbon_nm=0.0, rotation_deg=30.0)
    offset, original = (s.positions_nm[:, :2] - s.cell_nm[0] / 2 for s in (turned, upright))
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    np.testing.assert_allclose(offset, original @ np.array([[c, s], [-s, c]]), atol=1e-9)


@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 1, 0), (1, 1, 1)])
def test_facing_is_a_rotation_that_brings_the_zone_to_the_beam(zone):
    rotation = facing(zone, 17.0)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    np.testing.assert_allclose(rotation @ np.array(zone) / np.linalg.norm(zone), [0, 0, 1], atol=1e-12)


def test_the_particle_lies_on_the_side_of_the_film_where_the_beam_enters():
    structure = build("au_on_carbon")
    gold, carbon = (structure.positions_nm[structure.numbers == z] for z in (79, 6))
    assert 0.1 < gold[:, 2].min() < gold[:, 2].max() < carbon[:, 2].min()
    assert len(carbon) == pytest.approx(100 * 8 * 8 * 2.0, abs=1)
    assert cKDTree(gold).query(carbon)[0].min() > 0.15
    np.testing.assert_allclose(gold[:, :2].mean(axis=0), 4.0, atol=0.05)
    assert structure.periodic
    assert not build("au_on_carbon", carbon_nm=0.0).periodic


@pytest.mark.parametrize("element", ["H", "C", "Au", "U", 1, 79, 103])
def test_single_atoms_of_any_element(element):
    structure = build("single_atoms", element=element, count=7, spacing_nm=1.0)
    number = element if isinstance(element, int) else ase.data.atomic_numbers[element]
    assert structure.composition == {number: 7}
    assert (
        cKDTree(structure.positions_nm, boxsize=(6.0, 6.0, 1.0)).query(structure.positions_nm, k=2)[0][:, 1].min()
        >= 1.0
    )


def test_single_atoms_where_they_are_told_and_on_carbon():
    places = ((1.0, 2.0), (2.5, 0.5))
    structure = build("single_atoms", positions_nm=places, side_nm=3.0, carbon_nm=1.0, element="Pt")
    platinum = structure.numbers == 78
    np.testing.assert_allclose(structure.positions_nm[platinum, :2], places)
    assert structure.composition[6] == pytest.approx(900, abs=1)
    other = build("single_atoms", positions_nm=places, side_nm=3.0, carbon_nm=1.0, element="Pt", seed=1)
    assert not np.array_equal(other.positions_nm[~platinum], structure.positions_nm[~platinum])


def test_the_same_options_give_the_same_atoms():
    for name in ("single_atoms", "au_on_carbon"):
        one, other = specimens.build(name), specimens.build(name)
        assert one.positions_nm.tobytes() == other.positions_nm.tobytes()


def test_debye_s_limits_and_gold():
    """Classical: 3 hbar^2 T / (M k Theta^2); at rest: 3 hbar^2 / (4 M k Theta). Gold: B of 0.57 to 0.64 square angstrom
    at room temperature in the literature, so u of 0.0085 to 0.0090 nm.
    """
    unit = 3 * 1.054571817e-34**2 / (1.66053906892e-27 * 1.380649e-23)
    assert debye_rms_nm(50.0, 300.0, 3e4) == pytest.approx(1e9 * math.sqrt(unit * 3e4 / (50 * 300.0**2)), rel=1e-4)
    assert debye_rms_nm(50.0, 300.0, 3.0) == pytest.approx(1e9 * math.sqrt(unit / (4 * 50 * 300)), rel=1e-3)
    assert 0.0085 <= element_rms_nm(79, 165.0) <= 0.0090


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sto_01", {}, r"'sto_01' is not a specimen \(did you mean sto_001\?\)"),
        ("_crystal", {}, "'_crystal' is not a specimen"),
        ("sto_001", {"width": 3}, r"sto_001: 'width' is not an option here \(did you mean width_nm\?\)"),
        ("sto_001", {"width_nm": -3}, r"width_nm: input should be greater than 0, got -3"),
        ("au_on_carbon", {"zone": "112"}, r"zone: .*'001', '110' or '111', got '112'"),
        ("au_on_carbon", {"side_nm": 3.0}, r"the particle is .* nm wide; side_nm must be at least"),
        ("mos2_twisted", {"angle_deg": 90.0}, r"angle_deg: .*60, got 90"),
        ("single_atoms", {"element": "AU"}, r"element: 'AU' is not the symbol of an element \(did you mean Au\?\)"),
        ("single_atoms", {"element": 104}, r"atomic numbers go from 1 to 103, got 104"),
        ("single_atoms", {"positions_nm": [[7.0, 0.0]]}, r"position \(7.0, 0.0\) lies outside the field of 6 nm"),
        ("single_atoms", {"count": 50, "spacing_nm": 3.0}, r"of 50 atoms found room 3 nm apart in 6 nm"),
        ("sto_001", {"width_nm": 200, "thickness_nm": 400}, r"SrTiO3.*: 2\.62e\+07 atoms; the limit is 5e\+06"),
        ("au_on_carbon", {"side_nm": 200, "carbon_nm": 50}, r"Au particle on carbon: 2e\+08 atoms; the limit"),
        ("single_atoms", {"side_nm": 100, "carbon_nm": 50, "count": 1}, r"5e\+07 atoms; the limit is"),
    ],
)
def test_bad_names_and_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        specimens.build(name, options)


# --- crystals, particles and sheets for counting ----------------------------------------------------


def test_platinum_and_silicalite_have_their_density():
    assert density_g_cm3(build("pt_001")) == pytest.approx(21.45, rel=0.005)
    assert density_g_cm3(build("silicalite")) == pytest.approx(1.79, rel=0.01)


def test_silicalite_is_made_of_tetrahedra_that_share_corners():
    structure = build("silicalite", width_nm=2.0, height_nm=1.3, thickness_nm=2.0)
    count, distance = neighbours(structure, 14, 8, 0.2)
    assert set(count) == {4}
    assert distance.min() > 0.155
    assert distance.max() < 0.163
    assert set(neighbours(structure, 8, 14, 0.2)[0]) == {2}


def test_a_sphere_of_11_cells_has_333_columns():
    structure = specimens.build("pt_sphere")
    x, y = np.round(structure.positions_nm[:, :2] / 0.1962).T
    columns = np.unique(np.stack([x, y]), axis=1, return_counts=True)[1]
    assert len(columns) == 333
    assert columns.max() == 11
    middle = np.append(structure.positions_nm[:, :2].mean(axis=0), structure.positions_nm[:, 2].mean())
    assert np.linalg.norm(structure.positions_nm - middle, axis=1).max() <= 5.125 * 0.3924 + 1e-9


def test_a_burgers_circuit_round_the_dislocation_does_not_close():
    """Rows of columns above the glide plane have one column more than those below, over the same width."""
    options = {"width_nm": 6.0, "height_nm": 6.0, "cells": 1}
    field, perfect = (specimens.build("pt_112_dislocation", {**options, "dislocation": d}) for d in (True, False))
    assert len(cKDTree(perfect.positions_nm[:, :2]).query_pairs(0.27)) > 100
    from twin.specimens.pt_112_dislocation import BURGERS_NM, displacement_nm

    turn = np.linspace(-np.pi + 1e-6, np.pi - 1e-6, 721)
    x, y = displacement_nm(2.0 * np.cos(turn), 2.0 * np.sin(turn))
    assert x[-1] - x[0] == pytest.approx(BURGERS_NM, rel=1e-4)
    assert y[-1] - y[0] == pytest.approx(0.0, abs=1e-6)
    nearest = cKDTree(field.positions_nm).query(field.positions_nm, k=2)[0][:, 1]
    far = np.hypot(*(field.positions_nm[:, :2] - 3.0).T) > 0.6
    assert nearest[far].min() > 0.25  # 0.277 nm in the perfect crystal


def test_the_field_of_a_dislocation_satisfies_the_equations_of_elasticity():
    """(1 - 2 nu) laplacian u + grad div u = 0 (Hirth and Lothe, eq 2-18), by differences away from the line."""
    from twin.specimens.pt_112_dislocation import POISSON, displacement_nm

    step = 1e-3
    x, y = np.meshgrid(1.0 + step * np.arange(-2, 3), 0.7 + step * np.arange(-2, 3))
    u, v = displacement_nm(x.ravel(), y.ravel()).reshape(2, 5, 5)
    at = 2, 2
    along, across = (lambda f: np.gradient(f, step, axis=1)), (lambda f: np.gradient(f, step, axis=0))
    for part, slope in ((u, along), (v, across)):
        laplacian = along(along(part)) + across(across(part))
        assert (1 - 2 * POISSON) * laplacian[at] + slope(along(u) + across(v))[at] == pytest.approx(0, abs=2e-3)


def test_defects_of_wse2_are_as_many_as_asked_for():
    perfect = specimens.build("wse2", {"width_nm": 3.0, "height_nm": 3.0})
    options = {"width_nm": 3.0, "height_nm": 3.0, "single_vacancies": 5, "double_vacancies": 3, "substitutions": 4}
    structure = specimens.build("wse2", options)
    assert perfect.composition[34] - structure.composition[34] == 5 + 2 * 3
    assert structure.composition[42] == 4
    assert structure.composition[74] == perfect.composition[74] - 4
    with pytest.raises(ValueError, match="do not fit"):
        specimens.build("wse2", {"width_nm": 1.0, "height_nm": 1.0, "single_vacancies": 500})


def test_an_mgo_cube_stands_free_in_its_field():
    structure = specimens.build("mgo_particle", {"edge_nm": 1.7, "side_nm": 4.0})
    assert len(structure.numbers) == 8 * 4**3
    low, high = structure.positions_nm[:, :2].min(), structure.positions_nm[:, :2].max()
    assert low == pytest.approx(4.0 - high)
    with pytest.raises(ValueError, match="side_nm must be at least"):
        specimens.build("mgo_particle", {"edge_nm": 4.0, "side_nm": 4.0})
