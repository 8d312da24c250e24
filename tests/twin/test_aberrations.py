"""chi against abTEM and against the CEOS series; conversions there and back.

Tests import abTEM where they compare with it: it takes seconds.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.aberrations import (
    ABTEM_NAMES,
    CEOS_FACTORS,
    NAMES,
    TERMS,
    Aberrations,
    aberration_basis,
    aberration_phase,
    from_abtem,
    from_ceos,
    index,
    rotated,
    to_abtem,
    to_ceos,
)
from twin.optics import Optics

OPTICS = Optics()
AXIS_MRAD = np.linspace(-28.0, 28.0, 41)
X_MRAD, Y_MRAD = np.meshgrid(AXIS_MRAD, AXIS_MRAD)

# About 20 rad at the edge of the aperture for each order.
SIZE_NM = {n: 20.0 * (n + 1) * OPTICS.wavelength_nm / (2 * np.pi) / 0.028 ** (n + 1) for n in range(1, 6)}

random_aberrations = st.lists(st.floats(-1e6, 1e6), min_size=len(NAMES), max_size=len(NAMES)).map(
    lambda values: Aberrations(tuple(values))
)


def abtem_exp_minus_i_chi(aberrations: Aberrations) -> np.ndarray:
    """abTEM's own `exp(-i chi)` on our angles, in double precision."""
    import abtem

    with abtem.config.set({"precision": "float64"}):
        theirs = abtem.transfer.Aberrations(energy=OPTICS.energy_kev * 1e3, **to_abtem(aberrations))
        alpha, phi = np.hypot(X_MRAD, Y_MRAD) * 1e-3, np.arctan2(Y_MRAD, X_MRAD)
        return theirs._evaluate_from_angular_grid(alpha, phi)


def largest_phase_difference(aberrations: Aberrations) -> float:
    from abtem.core.energy import energy2wavelength

    ours = aberration_phase(aberrations, X_MRAD, Y_MRAD, energy2wavelength(OPTICS.energy_kev * 1e3) / 10)
    return float(np.abs(np.angle(abtem_exp_minus_i_chi(aberrations) * np.exp(1j * ours))).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_each_coefficient_makes_abtems_phase(name, sign):
    aberrations = Aberrations.of({name: sign * SIZE_NM[TERMS[index(name)].n]})
    assert largest_phase_difference(aberrations) < 1e-6
    # The comparison has something to compare.
    assert np.ptp(aberration_phase(aberrations, X_MRAD, Y_MRAD, OPTICS.wavelength_nm)) > 10.0


@pytest.mark.parametrize("seed", range(8))
def test_all_coefficients_together_make_abtems_phase(seed):
    scale = np.array([SIZE_NM[term.n] for term in TERMS])
    values = np.random.default_rng(seed).normal(0.0, scale)
    assert largest_phase_difference(Aberrations.from_array(values)) < 1e-6


def test_the_phase_of_c10_is_pi_c10_theta2_over_lambda():
    chi = aberration_phase(Aberrations.of({"C10": 100.0}), np.array([10.0]), np.array([0.0]), 2e-3)
    assert chi == pytest.approx(np.pi * 100.0 * 0.01**2 / 2e-3, rel=1e-12)


def test_abtems_defocus_is_minus_c10() -> None:
    import abtem

    theirs = abtem.transfer.Aberrations(energy=3e5, **to_abtem(Aberrations.of({"C10": 100.0})))
    assert theirs.defocus == pytest.approx(-1000.0)


def test_pairs_point_along_x_and_along_the_diagonal():
    """C12a > 0 adds to C10 along x and takes away along y; C12b adds along the diagonal."""
    theta = np.array([20.0])
    c10, c12a, c12b = aberration_basis(("C10", "C12a", "C12b"), theta, 0 * theta, OPTICS.wavelength_nm)
    assert c12a == pytest.approx(c10, rel=1e-12)
    assert c12b == pytest.approx(0.0, abs=1e-12)
    along_y = aberration_basis(("C12a",), 0 * theta, theta, OPTICS.wavelength_nm)[0]
    assert along_y == pytest.approx(-c10, rel=1e-12)
    diagonal = theta / np.sqrt(2)
    on_diagonal = aberration_basis(("C12a", "C12b"), diagonal, diagonal, OPTICS.wavelength_nm)
    assert on_diagonal[:, 0] == pytest.approx([0.0, c10[0]], abs=1e-12)


def ceos_phase(coefficients: dict[str, tuple[float, float]]) -> np.ndarray:
    """The CEOS series as published (Uhlemann and Haider, Ultramicroscopy 72 (1998) 109), written out term by term."""
    c = {name: complex(*xy) for name, xy in coefficients.items()}
    w = (X_MRAD + 1j * Y_MRAD) * 1e-3
    v = np.conj(w)
    series = (
        c["C1"] * w * v / 2
        + c["A1"] * v**2 / 2
        + c["B2"] * w * v**2
        + c["A2"] * v**3 / 3
        + c["C3"] * (w * v) ** 2 / 4
        + c["S3"] * w * v**3
        + c["A3"] * v**4 / 4
        + c["B4"] * w**2 * v**3
        + c["D4"] * w * v**4
        + c["A4"] * v**5 / 5
        + c["C5"] * (w * v) ** 3 / 6
        + c["S5"] * w**2 * v**4
        + c["R5"] * w * v**5
        + c["A5"] * v**6 / 6
    )
    return 2 * np.pi / OPTICS.wavelength_nm * series.real


@pytest.mark.parametrize("name", NAMES)
def test_ceos_coefficients_make_the_same_phase(name):
    aberrations = Aberrations.of({name: SIZE_NM[TERMS[index(name)].n]})
    ours = aberration_phase(aberrations, X_MRAD, Y_MRAD, OPTICS.wavelength_nm)
    np.testing.assert_allclose(ceos_phase(to_ceos(aberrations)), ours, rtol=0, atol=1e-9)


@given(random_aberrations)
@settings(max_examples=100, deadline=None)
def test_ceos_there_and_back(aberrations):
    back = from_ceos(to_ceos(aberrations))
    np.testing.assert_allclose(back.array(), aberrations.array(), rtol=1e-12, atol=1e-9)


@given(random_aberrations)
@settings(max_examples=100, deadline=None)
def test_abtem_there_and_back(aberrations):
    # A magnitude and an angle lose what a component has below 1e-16 of the magnitude, in each of several roundings.
    back = from_abtem(to_abtem(aberrations))
    np.testing.assert_allclose(back.array(), aberrations.array(), rtol=1e-9, atol=1e-14 * 1e6)


@given(random_aberrations, st.floats(-7.0, 7.0), st.floats(-7.0, 7.0))
@settings(max_examples=100, deadline=None)
def test_turns_add_up_and_undo_each_other(aberrations, first, second):
    scale = np.abs(aberrations.array()).max() + 1.0
    twice = rotated(rotated(aberrations, first), second)
    np.testing.assert_allclose(twice.array(), rotated(aberrations, first + second).array(), rtol=0, atol=1e-12 * scale)
    undone = rotated(rotated(aberrations, first), -first)
    np.testing.assert_allclose(undone.array(), aberrations.array(), rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_rotated_aberrations_are_the_phase_in_turned_axes(name):
    """A point at polar angle phi in the old axes is at phi - angle in the new ones."""
    angle = 0.4
    aberrations = Aberrations.of({name: SIZE_NM[TERMS[index(name)].n]})
    cos, sin = np.cos(angle), np.sin(angle)
    new_x, new_y = cos * X_MRAD + sin * Y_MRAD, -sin * X_MRAD + cos * Y_MRAD
    old = aberration_phase(aberrations, X_MRAD, Y_MRAD, OPTICS.wavelength_nm)
    new = aberration_phase(rotated(aberrations, angle), new_x, new_y, OPTICS.wavelength_nm)
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-9)


def test_there_are_twenty_five_coefficients_to_fifth_order():
    assert len(NAMES) == len(set(NAMES)) == 25
    assert NAMES[:3] == ("C10", "C12a", "C12b")
    assert {(t.n, t.m) for t in TERMS} == set(CEOS_FACTORS)


def test_sum_negation_and_access():
    a, b = Aberrations.of({"C10": 5.0, "C21b": -2.0}), Aberrations.of({"C10": 1.0})
    assert (a + b).nonzero() == {"C10": 6.0, "C21b": -2.0}
    assert (-a)["C21b"] == 2.0
    assert (a + -a) == Aberrations()


def test_no_aberrations_no_phase():
    assert np.array_equal(aberration_phase(Aberrations(), X_MRAD, Y_MRAD, 2e-3), np.zeros(X_MRAD.shape))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Aberrations.of({"C12": 1.0}), r"'C12' is not an aberration coefficient \(did you mean C12[ab]\?\)"),
        (lambda: Aberrations.of({"C10": float("nan")}), "finite"),
        (lambda: Aberrations((1.0, 2.0)), "expected 25 coefficients, got 2"),
        (lambda: from_abtem({"C99": 1.0}), "'C99' is not an abTEM aberration"),
        (lambda: from_abtem({"phi22": 1.0}), "did you mean"),
        (lambda: from_ceos({"B3": (1.0, 0.0)}), "'B3' is not a CEOS aberration; known: C1, A1"),
        (lambda: aberration_phase(Aberrations(), X_MRAD, Y_MRAD[:2], 2e-3), "differ in shape"),
        (lambda: aberration_basis(("C10",), X_MRAD, Y_MRAD[:2], 2e-3), "differ in shape"),
    ],
)
def test_errors_name_the_value_and_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_abtems_names_are_its_symbols() -> None:
    """Names against abTEM itself: a transfer function with the name has the phase of one with what we read."""
    from abtem.transfer import CTF, polar_aliases

    assert {name: symbol for name, symbol in polar_aliases.items() if name != "defocus"} == {
        name: symbol for name, symbol in ABTEM_NAMES.items() if name != "defocus"
    }
    angle, azimuth = np.array([[0.005, 0.011], [0.02, 0.03]]), np.array([[0.3, 1.1], [-2.0, 2.9]])
    for name in ABTEM_NAMES:
        angled = name.endswith("_angle")
        stated = {name: 0.4, name.removesuffix("_angle"): 120.0} if angled else {name: 120.0}
        theirs = CTF(energy=3e5, **stated)._evaluate_from_angular_grid(angle, azimuth)
        ours = CTF(energy=3e5, **to_abtem(from_abtem(stated)))._evaluate_from_angular_grid(angle, azimuth)
        assert np.allclose(theirs, ours, atol=1e-4), name


@pytest.mark.parametrize(
    ("stated", "right"),
    [
        ({"defocus": -50.0}, {"C10": 5.0}),
        ({"coma": 300.0, "coma_angle": 0.0}, {"C21a": 30.0}),
        ({"C5": 1e7, "Cs": -1e4}, {"C30": -1000.0, "C50": 1e6}),
    ],
)
def test_abtems_names_are_read(stated: dict[str, float], right: dict[str, float]) -> None:
    assert from_abtem(stated).nonzero() == pytest.approx(right)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"defokus": 1.0}, "did you mean defocus"),
        ({"defocus": 1.0, "C10": 1.0}, "'C10' is abTEM's C10, which is given twice"),
        ({"trefoil_angel": 1.0}, "did you mean trefoil_angle"),
        ({"cs": 1.0}, r"did you mean Cs\?"),
        ({"C12a": 1.0}, r"did you mean C12\?"),
        ({"df": 1.0}, "known: C10, C12, .*defocus"),
        ({"Cs": 1e7, "defocus": "Scherzer"}, "depends on Cs and the energy"),
        ({"defocus": None}, "defocus is one finite number in angstrom, not None"),
        ({"coma_angle": float("nan")}, "coma_angle is one finite number in rad, not nan"),
        ({"Cs": [1e7, 2e7]}, "Cs is one finite number in angstrom"),
    ],
)
def test_names_that_abtem_lacks_or_that_are_given_twice_are_refused(stated: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_abtem(stated)
