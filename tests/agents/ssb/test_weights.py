"""Single-sideband weights against their definition, areas of lenses and symmetries."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.geometry import along_scan
from agents.ssb.weights import BrightField, SampledDisc, Trotters, bright_field, sidebands, suggested_binning, trotters
from twin.aberrations import Aberrations, aberration_phase

WAVELENGTH_NM = 0.00196875
ALPHA = 20.0
Complex = NDArray[np.complex128]


def disc(binning: int = 1, pixel_mrad: float = 1.0) -> BrightField:
    return bright_field((48, 50), (24, 25), pixel_mrad, ALPHA, binning)


def dense(weights: Trotters, squares: int) -> Complex:
    """w of every fast frequency, slow frequency and square, (fast, slow, K)."""
    out = np.zeros((*weights.strength.shape, squares), np.complex128)
    for fast in range(len(out)):
        for run in range(weights.first[fast], weights.first[fast + 1]):
            a, b = weights.offset[run : run + 2]
            imag = weights.imag[a:b] if weights.imag.size else np.zeros(b - a)
            slow = weights.begin[run]
            out[fast, slow : slow + b - a, weights.square[run]] = weights.real[a:b] + 1j * imag
    return out


def defined(k: NDArray[np.float64], q: tuple[float, float], aberrations: Aberrations) -> Complex:
    """g(K, Q) without the triple overlap, by its definition, for an aperture with a sharp edge; k (..., 2)."""

    def chi(angle: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(aberration_phase(aberrations, angle[..., 0], angle[..., 1], WAVELENGTH_NM))

    def aperture(angle: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.hypot(angle[..., 0], angle[..., 1]) <= ALPHA

    shift = np.array(q)
    plus = aperture(k) & aperture(k - shift) & ~aperture(k + shift)
    minus = aperture(k) & aperture(k + shift) & ~aperture(k - shift)
    return plus * np.exp(1j * (chi(k) - chi(k - shift))) - minus * np.exp(-1j * (chi(k) - chi(k + shift)))


def test_squares_share_out_the_disc() -> None:
    for binning in (1, 2, 3, 5):
        field = disc(binning)
        used, pixels = np.unique(field.label[field.label >= 0], return_counts=True)
        np.testing.assert_array_equal(used, np.arange(len(field)))
        assert set(pixels.tolist()) == {binning**2}
        area = field.share.sum() * field.side_mrad**2
        assert area == pytest.approx(math.pi * ALPHA**2, rel=2e-3)
        row, column = np.indices(field.label.shape)
        for number in (0, len(field) // 2, len(field) - 1):
            here = field.label == number
            middle = [column[here].mean() - 25, row[here].mean() - 24]
            np.testing.assert_allclose(field.middle_mrad[number], middle, atol=1e-12)


def test_a_swapped_camera_has_its_angles_swapped() -> None:
    field = disc(2)
    np.testing.assert_array_equal(field.swapped().middle_mrad, field.middle_mrad[:, ::-1])
    np.testing.assert_array_equal(field.swapped().label, field.label)


@pytest.mark.parametrize(("camera", "radius_mrad"), [((30, 60), 20.0), ((64, 64), 0.5)])
def test_a_disc_that_does_not_fit_is_refused(camera: tuple[int, int], radius_mrad: float) -> None:
    with pytest.raises(ValueError, match="camera pixels"):
        bright_field(camera, (camera[0] // 2, camera[1] // 2), 1.0, radius_mrad, 1)


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    rotation=st.floats(-180, 180),
    c10=st.floats(-8, 8),
    c12=st.floats(-8, 8),
    c21=st.floats(-400, 400),
    swapped=st.booleans(),
)
def test_weights_are_the_conjugate_sidebands(
    rotation: float, c10: float, c12: float, c21: float, swapped: bool
) -> None:
    """Camera pixels away from every edge carry conj(g) at their middle, whatever the orientation."""
    aberrations = Aberrations.of({"C10": c10, "C12b": c12, "C21a": c21})
    field = replace(disc(1, 1.25), label=np.zeros((1, 1), np.int32))
    field = field.swapped() if swapped else field
    step = (4.7, 6.1)
    weights = dense(trotters(field, (9, 8), step, rotation, aberrations, WAVELENGTH_NM), len(field))
    for fast, slow in ((1, 0), (2, -3), (3, 2), (0, 4), (0, -2)):
        # The scan's axes along the camera's: the inverse of `along_scan`.
        angle = along_scan(np.array([fast * step[0], slow * step[1]]), -rotation)
        corners = np.array([(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]) * 1.25
        around = np.stack([defined(field.middle_mrad + c, tuple(angle), Aberrations()) != 0 for c in corners])
        inner = around.all(axis=0)
        assert inner.any()
        expected = defined(field.middle_mrad[inner], tuple(angle), aberrations).conj()
        ratio = weights[fast, slow + 4, inner] / expected
        np.testing.assert_allclose(np.angle(ratio), 0.0, atol=0.02)
        assert ((np.abs(ratio) > 0.9) & (np.abs(ratio) <= 1 + 1e-6)).all()  # the phase turns inside a square
        rim = np.abs(np.hypot(*field.middle_mrad.T) - ALPHA) < 2.0
        outer = ~around.any(axis=0) & ~rim
        np.testing.assert_allclose(weights[fast, slow + 4, outer], 0.0, atol=1e-6)


@pytest.mark.parametrize("binning", [1, 2, 5])
def test_double_overlaps_have_the_area_of_lenses(binning: int) -> None:
    """Beyond alpha there is no triple overlap, and a sideband is the lens common to two discs."""
    field = disc(binning)
    for distance in (22.0, 30.0, 36.0):
        weights = dense(trotters(field, (1, 5), (distance, 100.0), 25.0, Aberrations(), WAVELENGTH_NM), len(field))
        lens = 2 * ALPHA**2 * math.acos(distance / 2 / ALPHA) - distance / 2 * math.sqrt(4 * ALPHA**2 - distance**2)
        for sign in (1, -1):
            area = np.maximum(sign * weights[1, 0].real, 0).sum() * field.side_mrad**2
            assert area == pytest.approx(lens, abs=0.004 * math.pi * ALPHA**2)


def test_beyond_twice_the_aperture_there_is_nothing() -> None:
    weights = trotters(disc(2), (8, 8), (13.0, 13.0), 10.0, Aberrations(), WAVELENGTH_NM)
    y, x = np.meshgrid(13.0 * np.arange(-4, 4), 13.0 * np.arange(5))
    assert not weights.strength[np.hypot(x, y) > 2 * ALPHA + 2].any()
    inside = (np.hypot(x, y) < 2 * ALPHA - 2) & (np.hypot(x, y) > 0) & (y > -50) & (x < 50)
    assert weights.strength[inside].all()
    assert weights.strength[0, 4] < 1e-12  # the mean has no sidebands


def test_the_highest_frequency_of_an_even_count_is_left_out() -> None:
    weights = trotters(disc(2), (4, 6), (5.0, 5.0), 0.0, Aberrations(), WAVELENGTH_NM)
    assert not weights.strength[3].any()
    assert not weights.strength[:, 0].any()
    assert trotters(disc(2), (5, 5), (5.0, 5.0), 0.0, Aberrations(), WAVELENGTH_NM).strength[2].all()


def test_opposite_frequencies_have_opposite_weights_without_aberrations() -> None:
    field = disc(2)
    weights = dense(trotters(field, (7, 5), (6.0, 6.0), 33.0, Aberrations(), WAVELENGTH_NM), len(field))
    np.testing.assert_allclose(weights[0, ::-1], -weights[0], atol=1e-6)


def test_triple_overlaps_cancel_without_aberrations_and_count_with_them() -> None:
    field = disc(2)
    plain, defocused = Aberrations(), Aberrations.of({"C10": 20.0})
    scan, step = (1, 9), (3.0, 3.0)
    for aberrations, gain in ((plain, 1.0), (defocused, 1.2)):
        double, triple = (trotters(field, scan, step, 0.0, aberrations, WAVELENGTH_NM, t) for t in (False, True))
        ratio = triple.strength[1:].sum() / double.strength[1:].sum()
        assert ratio == pytest.approx(1.0, abs=1e-6) if gain == 1.0 else ratio > gain


def test_the_response_is_what_a_weak_phase_leaves() -> None:
    """Squares cut by the border of the triple overlap carry some of it: sum w g with all of g, not sum |w|^2."""
    field, aberrations = disc(4), Aberrations.of({"C10": 8.0, "C21b": 200.0})
    weights = trotters(field, (1, 9), (7.0, 7.0), 0.0, aberrations, WAVELENGTH_NM)
    double = dense(weights, len(field))
    whole = dense(trotters(field, (1, 9), (7.0, 7.0), 0.0, aberrations, WAVELENGTH_NM, True), len(field))
    np.testing.assert_allclose(weights.response, (double * whole.conj()).sum(axis=2), rtol=1e-3, atol=1e-2)


def test_binning_is_suggested_by_the_disc_and_its_aberrations() -> None:
    assert suggested_binning(32.0, Aberrations(), ALPHA, WAVELENGTH_NM) == 4
    assert suggested_binning(5.0, Aberrations(), ALPHA, WAVELENGTH_NM) == 1
    strong = [suggested_binning(32.0, Aberrations.of({"C10": c}), ALPHA, WAVELENGTH_NM) for c in (2.0, 20.0, 200.0)]
    assert strong[0] == 4
    assert strong[0] > strong[1] > strong[2] == 1


def test_a_sample_adds_to_what_is_there() -> None:
    """`sidebands` adds: both signs of a frequency in one array cancel."""
    points, slow = np.array([[[5.0, 3.0]], [[-12.0, 1.0]]]), np.array([-8.0, 0.0, 8.0])
    out = np.zeros((2, 3), np.complex64)
    for fast in (9.0, -9.0):
        sidebands(fast, slow, SampledDisc(points, ALPHA, 1.0, np.empty((0, 0)), 1.0), True, out)
    np.testing.assert_allclose(out[:, 1], 0.0, atol=1e-6)
    np.testing.assert_allclose(out[:, 0], -out[:, 2], atol=1e-6)
