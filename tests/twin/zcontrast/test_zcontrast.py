"""The generator against Rutherford-like cross-sections, multislice, sums over atoms, and the specimens' own defects."""

from collections import Counter

import numpy as np
import pytest

from twin import specimens
from twin.aberrations import Aberrations
from twin.matter.structure import Structure
from twin.optics import Optics
from twin.scan.diffraction import ScanRenderer, rays
from twin.scan.transmission import transmission_field
from twin.zcontrast.columns import ColumnLabels, columns_of
from twin.zcontrast.image import ColumnImages
from twin.zcontrast.profile import RADIAL_NM, ZContrast, atom_cross_section_nm2, column_profile

BEAM = ZContrast(source_nm=0.0)
RMS = {78: 0.0062}


def integral_nm2(profile: np.ndarray) -> float:
    radius = np.arange(len(profile)) * RADIAL_NM
    return float(2 * np.pi * np.sum(profile * radius) * RADIAL_NM)


def test_a_single_atom_scatters_its_cross_section() -> None:
    profile = column_profile([78], [0.0], RMS, BEAM)
    sigma = atom_cross_section_nm2(78, 300.0, 60.0, 190.0)
    assert integral_nm2(profile[1]) == pytest.approx(sigma, rel=0.06)  # tails beyond 0.8 nm
    assert np.all(profile[0] == 0)
    heavier = sigma / atom_cross_section_nm2(14, 300.0, 60.0, 190.0)
    assert 1.5 < np.log(heavier) / np.log(78 / 14) < 2.1  # nearly Z^2


def test_the_source_blurs_and_keeps_the_integral() -> None:
    sharp = column_profile([78], [0.0], RMS, BEAM)[1]
    soft = column_profile([78], [0.0], RMS, ZContrast(source_nm=0.03))[1]
    assert soft[0] < 0.8 * sharp[0]
    assert integral_nm2(soft) == pytest.approx(integral_nm2(sharp), rel=0.03)


def test_a_column_resembles_multislice_with_frozen_phonons() -> None:
    """A column of platinum in vacuum, a ring that this grid samples, 8 snapshots: docs/quantify.md has the figures."""
    side_nm, atoms, snapshots = 1.92, 5, 8
    depth = 0.3924 * np.arange(atoms)
    positions = np.column_stack([np.full((atoms, 2), side_nm / 2), depth + 0.1962])
    column = Structure("Pt", np.full(atoms, 78), positions, (side_nm, side_nm, 0.3924 * atoms), True, RMS)
    optics = Optics(energy_kev=300.0, convergence_mrad=21.1, grid=256, sampling_nm=0.0075, camera_pixels=32, binning=1)
    field = transmission_field(column, optics, slice_nm=0.3924, snapshots=snapshots, seed=3)
    ratios = []
    beam = ZContrast(source_nm=0.0, inner_mrad=45.0, outer_mrad=80.0)
    generated = column_profile([78] * atoms, depth.tolist(), RMS, beam)[:, 0]
    for count in (1, 3, 5):
        thin = type(field)(field.functions[:, :count], field.sampling_nm, field.step_nm, field.corner_nm)
        renderer = ScanRenderer(optics, thin, rays(0.0, 0.0, snapshots))
        pattern = renderer.diffraction(Aberrations(), np.array([[side_nm / 2, side_nm / 2]]))[0]
        mrad = (np.arange(renderer.size) - renderer.size // 2) * optics.wavelength_nm * 1e3 / side_nm
        angle = np.hypot(mrad[:, None], mrad[None, :])
        ratios.append(generated[count] / float(pattern[(angle >= 45.0) & (angle < 80.0)].sum()))
    assert ratios == pytest.approx([0.86, 1.18, 1.51], abs=0.1)


def test_an_image_is_the_sum_of_its_columns_wherever_it_begins() -> None:
    crystal = specimens.build("pt_001", {"width_nm": 2.4, "height_nm": 2.4, "thickness_nm": 0.8})
    images = ColumnImages.of(crystal, BEAM)
    whole = images.image((80, 90), 0.02)
    np.testing.assert_allclose(images.image((40, 30), 0.02, (0.4, 0.2)), whole[10:50, 20:50], rtol=1e-9)
    labels = images.labels
    middle = int(np.argmin(np.hypot(labels.x_nm - 0.8, labels.y_nm - 0.8)))
    column = round(labels.x_nm[middle] / 0.02), round(labels.y_nm[middle] / 0.02)
    assert whole[column[1], column[0]] > 5 * whole.min()
    assert images.cross_section_nm2() == pytest.approx(integral_nm2(images.profiles[images.row[0] + 1]), rel=1e-9)


def test_part_of_an_atom_scatters_in_part() -> None:
    def signal(atoms: float) -> float:
        labels = ColumnLabels(
            np.array([0.5]), np.array([0.5]), ((78, 78),), (np.array([0.0, 0.39]),), np.array([atoms]), ("",)
        )
        return float(ColumnImages.of_labels(labels, RMS, BEAM).image((1, 1), 0.1, (0.5, 0.5))[0, 0])

    assert signal(0.0) == 0.0
    assert signal(1.5) == pytest.approx((signal(1.0) + signal(2.0)) / 2)
    assert signal(2.0) > 2 * signal(1.0)  # the first atom focuses the beam on the second


def test_labels_name_elements_and_defects() -> None:
    options = {"width_nm": 2.0, "height_nm": 2.0, "single_vacancies": 4, "double_vacancies": 2, "substitutions": 3}
    labels = columns_of(specimens.build("wse2", options), specimens.build("wse2", {"width_nm": 2.0, "height_nm": 2.0}))
    assert Counter(labels.defect) == {
        "": len(labels) - 9, "vacancy": 4, "empty": 2, "substitution": 3
    }  # fmt: skip
    assert Counter(labels.kinds)["Mo"] == 3
    assert set(labels.atoms[np.array(labels.defect) == "vacancy"]) == {1.0}
    assert set(labels.atoms[np.array(labels.defect) == "empty"]) == {0.0}


def test_a_column_of_two_elements_is_one_column() -> None:
    labels = columns_of(specimens.build("sto_001", {"width_nm": 0.8, "height_nm": 0.8, "thickness_nm": 0.8}))
    assert Counter(labels.kinds) == {"Sr": 4, "O+Ti": 4, "O": 8}


def test_a_thinner_column_is_darker() -> None:
    images = ColumnImages.of(specimens.build("pt_sphere", {"cells": 4, "side_nm": 2.4}), BEAM)
    value = images.cross_section_nm2()
    by_atoms = [value[images.labels.atoms == n].mean() for n in np.unique(images.labels.atoms)]
    assert np.all(np.diff(by_atoms) > 0)
