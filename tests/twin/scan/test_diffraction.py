"""Scanned diffraction against abTEM end to end, against textbook multislice in numpy, closed forms and conservation."""

import itertools
from dataclasses import replace
from functools import cache

import abtem
import ase
import numpy as np
import pytest

from twin import specimens
from twin.aberrations import NAMES, TERMS, Aberrations, aberration_phase, to_abtem
from twin.detectors.geometry import DiffractionGrid, weights
from twin.detectors.layouts import Region
from twin.matter.carbon_screen import scattering_factor_nm
from twin.matter.structure import Structure, displaced, within
from twin.optics import AliasingError, Optics
from twin.scan.diffraction import (
    ScanRenderer,
    TransmissionField,
    aperture_wave,
    band_limit,
    kept_pixels,
    largest_angle_mrad,
    probe_wave,
    rays,
    to_camera,
)
from twin.scan.transmission import layout, slice_count, transmission_field

CELL_NM = 0.3905
SIDE_NM = 4 * CELL_NM
OPTICS = Optics(convergence_mrad=20.0, grid=192, sampling_nm=SIDE_NM / 192, camera_pixels=64, binning=2)
# About 3 rad at the edge of the aperture, in every order.
SIZE_NM = [3.0 * (t.n + 1) * OPTICS.wavelength_nm / (2 * np.pi) / 0.02 ** (t.n + 1) for t in TERMS]
EVERYTHING = Aberrations.from_array(np.random.default_rng(3).normal(0.0, 0.3, len(NAMES)) * SIZE_NM)
POSITIONS_NM = np.random.default_rng(1).random((3, 2)) * SIDE_NM


def abtem_probe(aberrations: Aberrations) -> abtem.Probe:
    return abtem.Probe(
        energy=OPTICS.energy_kev * 1e3,
        semiangle_cutoff=OPTICS.convergence_mrad,
        extent=OPTICS.window_nm * 10,
        gpts=OPTICS.grid,
        soft=False,
        aberrations=to_abtem(aberrations),
    )


@cache
def strontium_titanate(cells=5, thermal=False):
    options = {"width_nm": SIDE_NM, "height_nm": SIDE_NM, "thickness_nm": cells * CELL_NM, "thermal": thermal}
    return specimens.build("sto_001", options)


@cache
def renderer(slices, projection="exact", cells=5):
    structure = strontium_titanate(cells)
    step_nm = structure.thickness_nm / slices
    return ScanRenderer(OPTICS, transmission_field(structure, OPTICS, slice_nm=step_nm, projection=projection))


def relative_l2(image, reference):
    return float(np.linalg.norm(image - reference) / np.linalg.norm(reference))


def abtem_patterns(structure, slices, aberrations, positions_nm, size):
    """abTEM from atoms to diffraction patterns by its own potential and scan, (N, size, size), rows along y."""
    settings = {"precision": "float32", "fft": "numpy", "dask.lazy": False, "diagnostics.progress_bar": False}
    with abtem.config.set(settings):
        atoms = ase.Atoms(
            numbers=structure.numbers,
            positions=structure.positions_nm * 10,
            cell=np.array(structure.cell_nm) * 10,
            pbc=True,
        )
        potential = abtem.Potential(
            atoms,
            gpts=(OPTICS.grid, OPTICS.grid),
            slice_thickness=structure.thickness_nm / slices * 10,
            parametrization="lobato",
            projection="infinite",
        )
        probe = abtem_probe(aberrations)
        detector = abtem.PixelatedDetector(max_angle=None)
        measured = probe.scan(potential, scan=abtem.CustomScan(positions_nm * 10), detectors=detector, lazy=False)
    patterns = np.swapaxes(measured.array, -1, -2)
    start = patterns.shape[-1] // 2 - size // 2
    return patterns[:, start : start + size, start : start + size]


def numpy_pattern(field, aberrations, position_nm):
    """Textbook multislice in double precision through one snapshot, whole transforms, the specimen under a
    probe that moves; (size, size).
    """
    grid, sampling = OPTICS.grid, OPTICS.sampling_nm
    frequency = np.fft.fftfreq(grid, sampling)
    kx, ky = np.meshgrid(frequency, frequency)
    angles = (1e3 * OPTICS.wavelength_nm * kx, 1e3 * OPTICS.wavelength_nm * ky)
    aperture = np.hypot(*angles) <= OPTICS.convergence_mrad
    chi = aberration_phase(aberrations, *angles, OPTICS.wavelength_nm)
    move = np.exp(-2j * np.pi * (kx * position_nm[0] + ky * position_nm[1]))
    kept = band_limit(np.fft.fftfreq(grid), np.fft.fftfreq(grid))
    fresnel = kept * np.exp(-1j * np.pi * OPTICS.wavelength_nm * field.step_nm * (kx**2 + ky**2))
    spectrum = aperture / np.sqrt(aperture.sum()) * np.exp(-1j * chi) * move
    for layer in field.functions[0].astype(np.complex128):
        spectrum = np.fft.fft2(np.fft.ifft2(spectrum) * layer) * fresnel
    centred, size = np.fft.fftshift(np.abs(spectrum) ** 2), kept_pixels(grid)
    start = grid // 2 - size // 2
    return centred[start : start + size, start : start + size]


@pytest.mark.parametrize("slices", [1, 10])
@pytest.mark.parametrize("aberrations", [Aberrations(), EVERYTHING], ids=["none", "all"])
def test_patterns_equal_abtems_scan_of_the_same_atoms(slices, aberrations):
    ours = renderer(slices, "abtem")
    theirs = abtem_patterns(strontium_titanate(), slices, aberrations, POSITIONS_NM, ours.size)
    for mine, their in zip(ours.diffraction(aberrations, POSITIONS_NM), theirs, strict=True):
        assert relative_l2(mine, their) < 1e-4


@pytest.mark.parametrize("slices", [1, 10])
@pytest.mark.parametrize("name", ["C10", "C12b", "C21a", "C23b", "C30", "C45a"])
def test_patterns_equal_textbook_multislice(slices, name):
    aberrations = Aberrations.of({name: SIZE_NM[NAMES.index(name)]})
    ours = renderer(slices)
    expected = numpy_pattern(ours.field, aberrations, POSITIONS_NM[0])
    assert relative_l2(ours.diffraction(aberrations, POSITIONS_NM[:1])[0], expected) < 1e-4


def test_the_soft_edge_of_the_band_limit_is_the_textbook_s():
    """Its few electrons hardly count in a whole pattern: looked at alone."""
    ours = renderer(10).diffraction(Aberrations(), POSITIONS_NM[:1])[0]
    frequency = (np.arange(len(ours)) - len(ours) // 2) / OPTICS.grid
    edge = np.abs(band_limit(frequency, frequency) - 0.5) < 0.45
    assert edge.sum() > 500
    assert relative_l2(ours[edge], numpy_pattern(renderer(10).field, Aberrations(), POSITIONS_NM[0])[edge]) < 1e-3


def test_the_comparison_would_see_a_swap_a_sign_and_a_tenth_of_a_pixel():
    ours = renderer(10).diffraction(EVERYTHING, POSITIONS_NM[:1])[0]
    for wrong in (-EVERYTHING, EVERYTHING + Aberrations.of({"C10": CELL_NM / 2})):
        assert relative_l2(renderer(10).diffraction(wrong, POSITIONS_NM[:1])[0], ours) > 1e-3
    for moved in (POSITIONS_NM[:1, ::-1], POSITIONS_NM[:1] + np.array([OPTICS.sampling_nm / 10, 0])):
        assert relative_l2(renderer(10).diffraction(EVERYTHING, moved)[0], ours) > 1e-3


def test_the_probe_is_abtems():
    probe = abtem_probe(EVERYTHING)
    fraction = np.array([0.3, -0.4])
    middle_angstrom = (OPTICS.grid // 2 + fraction) * OPTICS.sampling_nm * 10
    theirs = np.abs(probe.build(abtem.CustomScan(middle_angstrom[None]), lazy=False).array[0].T) ** 2
    ours = np.abs(probe_wave(aperture_wave(OPTICS, EVERYTHING), fraction, OPTICS.grid)) ** 2
    assert relative_l2(ours / ours.sum(), theirs / theirs.sum()) < 1e-5
    assert ours.sum() * OPTICS.grid**2 == pytest.approx(1.0, rel=1e-5)


def test_line_profiles_of_every_detector_agree_with_abtem():
    """Sr to Ti+O to O to Sr, ten slices: BF, ABF, ADF and the highest angles, each within 1 %."""
    corners = np.array([(0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.0)]) * CELL_NM
    line = np.concatenate(
        [a + np.linspace(0, 1, 4, endpoint=False)[:, None] * (b - a) for a, b in itertools.pairwise(corners)]
    )
    ours = renderer(10, "abtem")
    theirs = abtem_patterns(strontium_titanate(), 10, Aberrations(), line, ours.size)
    regions = {"bf": (0, 20), "abf": (10, 20), "adf": (20, 70), "haadf": (60, 75)}
    rings = {name: (Region(inner_mrad=low, outer_mrad=high),) for name, (low, high) in regions.items()}
    share = weights(rings, DiffractionGrid(shape=(ours.size, ours.size), pixel_mrad=OPTICS.pixel_mrad))
    mine = np.einsum("nij,dij->dn", ours.diffraction(Aberrations(), line), share)
    expected = np.einsum("nij,dij->dn", theirs, share)
    np.testing.assert_allclose(mine, expected, rtol=0.01)
    assert np.all(np.ptp(expected, axis=1) > 0.03 * expected.mean(axis=1))


def test_annular_dark_field_agrees_with_abtems_own_detector():
    """abTEM takes whole pixels, we take shares of them: within 1 % of the brightest column."""
    structure = strontium_titanate()
    atoms = ase.Atoms(
        numbers=structure.numbers,
        positions=structure.positions_nm * 10,
        cell=np.array(structure.cell_nm) * 10,
        pbc=True,
    )
    line = np.linspace(0, 1, 5)[:, None] * [CELL_NM, 0.0]
    with abtem.config.set({"precision": "float32", "fft": "numpy", "diagnostics.progress_bar": False}):
        potential = abtem.Potential(
            atoms, gpts=OPTICS.grid, slice_thickness=CELL_NM * 5, parametrization="lobato", projection="infinite"
        )
        probe = abtem.Probe(energy=3e5, semiangle_cutoff=20, extent=OPTICS.window_nm * 10, gpts=OPTICS.grid, soft=False)
        detector = abtem.AnnularDetector(inner=30, outer=75)
        theirs = probe.scan(potential, scan=abtem.CustomScan(line * 10), detectors=detector, lazy=False).array
    ours = renderer(10, "abtem")
    ring = {"adf": (Region(inner_mrad=30, outer_mrad=75),)}
    share = weights(ring, DiffractionGrid(shape=(ours.size, ours.size), pixel_mrad=OPTICS.pixel_mrad))[0]
    mine = np.einsum("nij,ij->n", ours.diffraction(Aberrations(), line), share)
    np.testing.assert_allclose(mine, theirs, atol=0.01 * theirs.max())


@cache
def columns(detector):
    """Signal over Sr, Ti+O, O and the hollow between them; 4 nm thick, one frozen snapshot in each of four."""
    structure = strontium_titanate(10, thermal=True)
    field = transmission_field(structure, OPTICS, slice_nm=CELL_NM / 2, snapshots=4)
    places = np.array([(2.0, 2.0), (2.5, 2.5), (2.5, 2.0), (2.25, 2.25)]) * CELL_NM
    patterns = ScanRenderer(OPTICS, field).diffraction(Aberrations(), places)
    low, high = {"haadf": (60, 80), "abf": (10, 20)}[detector]
    grid = DiffractionGrid(shape=patterns.shape[1:], pixel_mrad=OPTICS.pixel_mrad)
    share = weights({"d": (Region(inner_mrad=low, outer_mrad=high),)}, grid)[0]
    return dict(zip(("Sr", "Ti+O", "O", "hollow"), np.einsum("nij,ij->n", patterns, share), strict=True))


def test_dark_field_contrast_goes_by_atomic_number():
    signal = columns("haadf")
    assert signal["Sr"] > 1.5 * signal["Ti+O"] > 1.5 * signal["O"]
    assert signal["O"] > signal["hollow"]


def test_oxygen_columns_are_visible_in_annular_bright_field():
    signal = columns("abf")
    assert signal["O"] < 0.95 * signal["hollow"]
    assert signal["Sr"] < signal["O"]
    assert signal["Ti+O"] < signal["O"]


THREE_ATOMS = Structure(
    "three atoms",
    np.array([79, 14, 6]),
    np.array([(0.7, 0.8, 0.1), (1.0, 0.62, 0.3), (0.55, 1.05, 0.5)]),
    (SIDE_NM, SIDE_NM, 0.6),
    True,
)


def three_atoms(shift_nm=(0.0, 0.0)):
    moved = replace(THREE_ATOMS, positions_nm=THREE_ATOMS.positions_nm + np.array([*shift_nm, 0.0]))
    return ScanRenderer(OPTICS, transmission_field(moved, OPTICS, slice_nm=0.2))


def test_moving_the_probe_is_moving_the_specimen_the_other_way():
    """By fractions of a pixel, along x and y; only a little aliasing of the sharpest atoms tells them apart."""
    shift = np.array([2.3, -1.6]) * OPTICS.sampling_nm
    place = np.array([[0.8, 0.75]])
    ours = three_atoms().diffraction(EVERYTHING, place + shift)
    assert relative_l2(ours, three_atoms(-shift).diffraction(EVERYTHING, place)) < 2e-3
    assert relative_l2(ours, three_atoms(shift).diffraction(EVERYTHING, place)) > 0.01
    assert relative_l2(ours, three_atoms(-shift[::-1]).diffraction(EVERYTHING, place)) > 0.01


def test_slices_come_in_the_order_of_the_beam():
    """Three atoms in one column, nanometres apart: the two projections agree, upside down they would not."""
    column = replace(
        THREE_ATOMS,
        positions_nm=np.array([(0.78, 0.80, 1.0), (0.80, 0.78, 11.0), (0.76, 0.79, 21.0)]),
        cell_nm=(SIDE_NM, SIDE_NM, 30.0),
    )
    flipped = replace(column, positions_nm=column.positions_nm[::-1], numbers=column.numbers)
    exact, theirs, upside_down = (
        ScanRenderer(OPTICS, transmission_field(structure, OPTICS, slice_nm=10.0, projection=projection)).diffraction(
            Aberrations(), np.array([[0.79, 0.79]])
        )
        for structure, projection in ((column, "exact"), (column, "abtem"), (flipped, "exact"))
    )
    assert relative_l2(exact, theirs) < 0.03
    assert relative_l2(exact, upside_down) > 0.1


def test_a_field_may_be_wider_than_high():
    """Atoms and probe half a field to the right are as they were."""
    wide = replace(THREE_ATOMS, cell_nm=(1.5 * SIDE_NM, SIDE_NM, 0.6))
    moved = replace(wide, positions_nm=wide.positions_nm + np.array([0.75 * SIDE_NM, 0.0, 0.0]))
    place = np.array([[0.8, 0.75]])
    fields = [transmission_field(structure, OPTICS, slice_nm=0.2) for structure in (wide, moved)]
    assert fields[0].functions.shape == (1, 3, 192, 288)
    here = ScanRenderer(OPTICS, fields[0]).diffraction(EVERYTHING, place)
    there = ScanRenderer(OPTICS, fields[1]).diffraction(EVERYTHING, place + np.array([0.75 * SIDE_NM, SIDE_NM]))
    assert relative_l2(there, here) < 1e-3


def test_a_lattice_vector_and_the_field_s_own_period_change_nothing():
    place = POSITIONS_NM[:1]
    here = renderer(10).diffraction(EVERYTHING, place)
    for vector in ([CELL_NM, 0.0], [0.0, CELL_NM], [SIDE_NM, -2 * SIDE_NM]):
        assert relative_l2(renderer(10).diffraction(EVERYTHING, place + vector), here) < 1e-4


def test_a_window_across_the_seam_of_a_large_field_sees_its_other_side():
    """Fields of two windows and more are not continued in memory: tiled, the same crystal looks the same there."""
    field = renderer(1).field
    tiled = ScanRenderer(OPTICS, replace(field, functions=np.tile(field.functions, (1, 1, 2, 3))))
    places = np.array([(0.01, 0.8), (1.2, 0.02), (3 * SIDE_NM - 0.02, 2 * SIDE_NM - 0.1), (2.0, 1.5)])
    assert tiled.diffraction(EVERYTHING, places).tobytes() == renderer(1).diffraction(EVERYTHING, places).tobytes()


def test_in_vacuum_the_pattern_is_the_aperture():
    size = kept_pixels(OPTICS.grid)
    empty = TransmissionField(np.ones((1, 3, 192, 192), np.complex64), OPTICS.sampling_nm, 1.0, (0.0, 0.0))
    pattern = ScanRenderer(OPTICS, empty).diffraction(EVERYTHING, POSITIONS_NM[:1])[0]
    angle = (np.arange(size) - size // 2) * OPTICS.pixel_mrad
    inside = np.hypot(angle[:, None], angle[None, :]) <= OPTICS.convergence_mrad
    np.testing.assert_allclose(pattern, inside / inside.sum(), rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("slices", [1, 10])
def test_almost_no_electron_is_lost_and_none_is_made(slices):
    totals = renderer(slices).diffraction(Aberrations(), POSITIONS_NM).sum((1, 2), dtype=np.float64)
    assert np.all(totals < 1 + 1e-5)
    assert np.all(totals > 0.99)


@pytest.mark.parametrize(("camera_pixels", "binning"), [(32, 4), (43, 3), (64, 3), (129, 1), (192, 1)])
def test_the_camera_bins_by_area_and_keeps_every_electron_it_covers(camera_pixels, binning):
    optics = replace(OPTICS, camera_pixels=camera_pixels, binning=binning)
    pattern = renderer(1).diffraction(Aberrations(), POSITIONS_NM[:1])[0]
    image = to_camera(pattern, optics)
    side, size = camera_pixels * binning, len(pattern)
    assert image.shape == (camera_pixels, camera_pixels)
    first, last = size // 2 - side // 2, size // 2 - side // 2 + side
    covered = pattern[max(first, 0) : last, max(first, 0) : last]
    assert image.sum(dtype=np.float64) == pytest.approx(covered.sum(dtype=np.float64), rel=1e-6)
    # Zero angle falls into the pixel that holds grid pixel side // 2.
    lone = np.zeros_like(pattern)
    lone[size // 2, size // 2 + 3] = 1.0
    middle = side // 2
    assert to_camera(lone, optics)[middle // binning, (middle + 3) // binning] == 1.0


def lone_atom(symbol_number, position_nm, projection):
    structure = Structure(
        "atom", np.array([symbol_number]), np.array([[*position_nm, 0.1]]), (SIDE_NM, SIDE_NM, 0.2), True
    )
    field = transmission_field(structure, OPTICS, slice_nm=1.0, projection=projection)
    return np.fft.fft2(np.angle(field.functions[0, 0].astype(np.complex128))) * OPTICS.sampling_nm**2


def test_the_exact_projection_is_the_scattering_factor_at_the_atoms_place():
    """Carbon, by this project's own Lobato factor: sigma h^2 / (2 pi m e) f(q) exp(-2 pi i q r), to 1 %.

    A light atom is a weak phase: band-limiting its transmission function is band-limiting its phase.
    """
    place = np.array([0.333, 0.801])
    frequency = np.fft.fftfreq(OPTICS.grid, OPTICS.sampling_nm)
    qx, qy = np.meshgrid(frequency, frequency)
    q = np.hypot(qx, qy)
    expected = 0.4787801 * OPTICS.interaction_rad_per_v_nm * scattering_factor_nm(q)
    expected = expected * np.exp(-2j * np.pi * (qx * place[0] + qy * place[1]))
    measured = lone_atom(6, place, "exact")
    inner = q < 15.0
    assert relative_l2(measured[inner], expected[inner]) < 0.01
    assert relative_l2(np.conj(measured[inner]), expected[inner]) > 0.5


def test_abtems_projection_of_an_atom_on_a_pixel_lacks_what_decision_5_says():
    """On a pixel nothing is shared, but abTEM divides by sin(q dx) / (q dx): that much is the difference, no more."""
    place = np.array([40, 77]) * OPTICS.sampling_nm
    frequency = np.fft.fftfreq(OPTICS.grid)
    k = np.hypot(frequency[:, None], frequency[None, :])
    exact, theirs = (lone_atom(14, place, projection) for projection in ("exact", "abtem"))
    inner = k < 0.2
    assert relative_l2(theirs[inner], (exact / np.sinc(k / np.pi))[inner]) < 3e-3
    assert relative_l2(theirs[inner], exact[inner]) < 0.01


def test_a_field_that_is_not_commensurate_shows_the_same_specimen():
    """A crystal whose cell is no whole number of pixels is continued round the field.

    5 %: so much do other pixels and the other window change of the tails of the probe; columns differ by far more.
    """
    optics = replace(OPTICS, sampling_nm=0.0081)
    shape, corner, whole = layout(strontium_titanate(), optics)
    assert not whole
    assert min(shape) >= 192 + SIDE_NM / 0.0081
    assert corner[0] < -0.5 * optics.window_nm < 0
    field = transmission_field(strontium_titanate(), optics, slice_nm=CELL_NM / 2)
    ring = {"adf": (Region(inner_mrad=25, outer_mrad=60),)}

    def signals(which, positions_nm):
        patterns = which.diffraction(Aberrations(), positions_nm)
        grid = DiffractionGrid(shape=patterns.shape[1:], pixel_mrad=which.optics.pixel_mrad)
        return np.einsum("nij,ij->n", patterns, weights(ring, grid)[0])

    expected = signals(renderer(10), POSITIONS_NM)
    assert np.ptp(expected) > 0.5 * expected.mean()
    ours = ScanRenderer(optics, field)
    np.testing.assert_allclose(signals(ours, POSITIONS_NM), expected, rtol=0.05)
    lattice = np.array([-1, 1]) * CELL_NM
    np.testing.assert_allclose(signals(ours, POSITIONS_NM[:1] + lattice), expected[:1], rtol=0.05)


def test_vacuum_surrounds_a_specimen_that_is_not_periodic():
    structure = replace(THREE_ATOMS, periodic=False)
    field = transmission_field(structure, OPTICS, slice_nm=1.0)
    assert field.corner_nm[0] < -OPTICS.window_nm / 2
    at = np.rint((np.array([0.7, 0.8]) - field.corner_nm) / OPTICS.sampling_nm).astype(int)
    phase = np.angle(field.functions[0, 0])
    assert np.unravel_index(phase.argmax(), phase.shape) == (at[1], at[0])
    assert np.abs(phase[:20, :20]).max() < 0.01 * phase.max()


def test_within_continues_a_crystal():
    crystal = strontium_titanate(1)
    window = within(crystal, -0.9, 2.0, 10 * CELL_NM, 7 * CELL_NM)
    assert len(window.numbers) == 10 * 7 * 5
    original = np.round((window.positions_nm[:, :2] + [-0.9, 2.0]) / (CELL_NM / 2), 6)
    np.testing.assert_allclose(original, np.rint(original), atol=1e-5)


def test_thermal_motion_has_its_elements_amplitude_and_stays_in_its_slice():
    """9,000 displacements per element: 3 % is four standard errors of an rms."""
    structure = strontium_titanate(30, thermal=True)
    moved = displaced(structure, np.random.default_rng(0)) - structure.positions_nm
    assert np.all(moved[:, 2] == 0)
    for number, rms in structure.thermal_rms_nm.items():
        chosen = moved[structure.numbers == number, :2]
        assert np.sqrt(np.mean(chosen**2)) == pytest.approx(rms, rel=0.05)


def test_snapshots_are_averaged_and_come_from_the_seed():
    structure = strontium_titanate(2, thermal=True)
    field = transmission_field(structure, OPTICS, slice_nm=10.0, snapshots=3, seed=5)
    again = transmission_field(structure, OPTICS, slice_nm=10.0, snapshots=3, seed=5)
    assert field.functions.tobytes() == again.functions.tobytes()
    other = transmission_field(structure, OPTICS, slice_nm=10.0, snapshots=3, seed=6)
    assert relative_l2(other.functions, field.functions) > 1e-3
    mixed = ScanRenderer(OPTICS, field).diffraction(Aberrations(), POSITIONS_NM[:1])
    each = [
        ScanRenderer(OPTICS, replace(field, functions=one[None])).diffraction(Aberrations(), POSITIONS_NM[:1])
        for one in field.functions
    ]
    assert relative_l2(mixed, np.mean(each, axis=0)) < 1e-6
    assert relative_l2(each[0], each[1]) > 0.01
    assert transmission_field(strontium_titanate(2), OPTICS, slice_nm=10.0, snapshots=3).snapshots == 1


@pytest.mark.parametrize(("focal_nm", "source_nm", "snapshots"), [(0, 0, 1), (2.0, 0, 4), (0, 0.03, 5), (2.0, 0.03, 8)])
def test_rays_have_the_moments_of_the_spreads_and_meet_every_snapshot(focal_nm, source_nm, snapshots):
    found = rays(focal_nm, source_nm, snapshots)
    weight = np.array([ray.weight for ray in found])
    focus = np.array([ray.defocus_nm for ray in found])
    x, y = np.array([ray.shift_nm for ray in found]).T
    assert weight.sum() == pytest.approx(1.0)
    assert {ray.snapshot for ray in found} == set(range(snapshots))
    for values, spread in ((focus, focal_nm), (x, source_nm), (y, source_nm)):
        assert weight @ values == pytest.approx(0.0, abs=1e-12)
        assert weight @ values**2 == pytest.approx(spread**2)
        assert weight @ values**4 == pytest.approx(3 * spread**4)
    assert weight @ (x * y) == pytest.approx(0.0, abs=1e-12)


def test_focal_spread_and_source_are_averages_over_c10_and_position():
    field = renderer(1).field
    found = rays(2.0, 0.02, 1)
    mixed = ScanRenderer(OPTICS, field, found).diffraction(EVERYTHING, POSITIONS_NM[:1])
    expected = sum(
        r.weight
        * renderer(1).diffraction(EVERYTHING + Aberrations.of({"C10": r.defocus_nm}), POSITIONS_NM[:1] + r.shift_nm)
        for r in found
    )
    assert relative_l2(mixed, expected) < 1e-5


def test_positions_do_not_depend_on_their_neighbours():
    together = renderer(10).diffraction(EVERYTHING, POSITIONS_NM)
    alone = [renderer(10).diffraction(EVERYTHING, one[None])[0] for one in POSITIONS_NM]
    assert together.tobytes() == np.stack(alone).tobytes()


def test_what_would_alias_is_refused_with_the_numbers():
    with pytest.raises(AliasingError, match=r"convergence_mrad 90 exceeds the .* mrad .*sampling_nm <= 0\.0071"):
        ScanRenderer(replace(OPTICS, convergence_mrad=90.0), renderer(1).field)
    with pytest.raises(AliasingError, match=r"C10 of 400 nm .* window"):
        renderer(1).diffraction(Aberrations.of({"C10": 400.0}), POSITIONS_NM)
    with pytest.raises(ValueError, match=r"the field is sampled at 0.008.* the optics at 0.01 nm"):
        ScanRenderer(replace(OPTICS, sampling_nm=0.01), renderer(1).field)
    assert largest_angle_mrad(OPTICS) < 2 / 3 * OPTICS.max_angle_mrad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice_nm": 0.0}, "slice_nm must be positive, got 0.0"),
        ({"slice_nm": 1.0, "snapshots": 0}, "snapshots must be at least 1, got 0"),
        ({"slice_nm": 1.0, "projection": "exakt"}, r"'exakt' is not a projection \(did you mean exact\?\)"),
        ({"slice_nm": 1e-4}, r"slices of 192 x 192 pixels take .* GiB; the limit is 4 GiB"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transmission_field(strontium_titanate(), OPTICS, **options)


def test_slices_are_equal_and_no_thicker_than_asked():
    assert slice_count(2.0, 0.2) == 10
    assert slice_count(2.0, 0.3) == 7
    assert slice_count(2.0, 5.0) == 1
