"""What data cannot tell is removed, and nothing else."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from agents.epie.image import canonical, illumination, lit, low_pass, noise_level, sampled


def blobs(seed: int = 0) -> np.ndarray:
    """A smooth phase with atoms, (40, 44)."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((40, 44)), 2.0)
    return np.asarray(noise / np.abs(noise).max())


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0.1, 10.0))
def test_constant_ramp_and_scale_do_not_matter(constant: float, down: float, right: float, scale: float) -> None:
    weight = np.zeros((40, 44))
    weight[5:35, 6:40] = 1.0 + blobs(1)[5:35, 6:40] ** 2
    row, column = np.indices((40, 44))
    plain = np.exp(1j * blobs())
    changed = scale * plain * np.exp(1j * (constant + down * row + right * column))
    np.testing.assert_allclose(canonical(changed, weight), canonical(plain, weight), atol=1e-9)


def test_the_convention_is_mean_zero_no_slope_and_unit_amplitude() -> None:
    weight = 1.0 + blobs(2) ** 2
    found = canonical(0.3 * np.exp(1j * (blobs() + 0.2)), weight)
    phase = np.angle(found)
    row, column = np.indices(phase.shape)
    for term in (1.0, row, column):
        assert abs(np.sum(weight * phase * term)) < 1e-6 * np.sum(weight * np.abs(term))
    assert np.isclose(np.average(np.abs(found), weights=weight), 1.0)
    # Bright stays bright: the sign of the phase is not an ambiguity.
    assert np.corrcoef(phase.ravel(), blobs().ravel())[0, 1] > 0.95


def test_an_object_in_the_dark_is_left_alone() -> None:
    plain = np.exp(1j * blobs())
    np.testing.assert_array_equal(canonical(plain, np.zeros((40, 44))), plain)
    assert not lit(np.zeros((40, 44)), (slice(0, 40), slice(0, 44))).any()


def test_illumination_is_the_sum_of_the_probes() -> None:
    rng = np.random.default_rng(3)
    probe = rng.normal(size=(2, 8, 8)) + 1j * rng.normal(size=(2, 8, 8))
    visits = np.zeros((30, 31), int)
    expected = np.zeros((30, 31))
    for row, column in rng.integers(5, 25, (6, 2)):
        visits[row, column] += 1
        expected[row - 4 : row + 4, column - 4 : column + 4] += np.sum(np.abs(probe) ** 2, axis=0)
    np.testing.assert_allclose(illumination(visits, probe), expected, atol=1e-9)


def test_sampling_between_pixels() -> None:
    row, column = np.indices((30, 30))
    wave = np.exp(1j * (0.2 * row - 0.1 * column))
    places = np.array([[10.3, 12.8], [15.0, 15.5]])
    np.testing.assert_allclose(sampled(wave, places), np.exp(1j * (0.2 * places[:, 0] - 0.1 * places[:, 1])), atol=1e-4)


def test_a_low_pass_takes_the_fine_and_leaves_the_coarse() -> None:
    row, column = np.indices((48, 60))
    coarse, fine = np.cos(2 * np.pi * (3 * row / 48 + 5 * column / 60)), np.cos(2 * np.pi * 21 * column / 60)
    np.testing.assert_allclose(low_pass(coarse + fine + 0.3, 0.3), coarse + 0.3, atol=1e-12)


def test_noise_is_that_of_one_electron() -> None:
    """Noise of variance 4 / electrons; 2000 pixels, four runs: 1 / sqrt(2 * 3 * 2000) = 0.9 %, four of them."""
    rng = np.random.default_rng(3)
    weight = rng.uniform(10.0, 1000.0, (40, 50))
    runs = 2.0 / np.sqrt(weight) * rng.standard_normal((4, 40, 50))
    variance = np.var(runs, axis=0, ddof=1)
    variance[3] = np.nan
    assert np.isclose(noise_level(variance, weight, weight > 20.0), 2.0, rtol=0.04)
    assert np.isnan(noise_level(np.full((4, 4), np.nan), np.ones((4, 4)), np.ones((4, 4), bool)))
