"""The kernel is eq 3.4, its bands are those of eq 3.9, and its transfer follows eqs 3.6-3.7."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.com.integration import integrate
from agents.com.ricom_kernel import band_pass, kernel, line_transfer, transfer
from agents.com.ricom_scatter import correlate

BANDS = [(None, None), (0.05, None), (None, 0.2), (0.05, 0.2)]


def test_the_kernel_is_eq_3_4():
    size, step_nm = 7, 0.02
    for i in range(size):
        for j in range(size):
            y, x = (i - 3) * step_nm, (j - 3) * step_nm
            expected = (
                np.zeros(2) if (i, j) == (3, 3) else step_nm**2 / (2 * math.pi) * np.array([x, y]) / (x**2 + y**2)
            )
            np.testing.assert_allclose(kernel(size, step_nm)[:, i, j], expected, rtol=1e-14)


@settings(max_examples=30, deadline=None)
@given(half=st.integers(0, 40), band=st.sampled_from(BANDS), step_nm=st.floats(0.01, 1.0))
def test_the_kernel_is_odd_and_the_axes_are_alike_to_the_last_bit(half, band, step_nm):
    fast, slow = kernel(2 * half + 1, step_nm, *(None if k is None else k / step_nm for k in band))
    np.testing.assert_array_equal(fast, -fast[:, ::-1])
    np.testing.assert_array_equal(fast, fast[::-1])
    np.testing.assert_array_equal(slow, fast.T)
    assert fast.shape == (2 * half + 1, 2 * half + 1)
    # In steps, it is the same kernel whatever the step.
    np.testing.assert_allclose(fast / step_nm, kernel(2 * half + 1, 1.0, *band)[0], atol=1e-14)


@pytest.mark.parametrize("band", BANDS[1:])
def test_a_filtered_kernel_is_the_convolution_with_the_filter_cut_to_its_size(band):
    # Eq 3.8 by direct summation, with the filter transformed from eq 3.9 on a fine grid of frequencies.
    size, fine = 9, 1500
    plain = kernel(size)
    k = (np.arange(fine) + 0.5) / fine - 0.5
    radius = np.hypot(k[:, None], k)
    kept = (radius >= (band[0] or 0.0)) & (radius <= (band[1] or 1.0))
    m = np.arange(-(size - 1), size)
    wave = np.exp(2j * math.pi * np.outer(m, k)) / fine
    weights = np.real(wave @ kept @ wave.T)
    expected = np.zeros_like(plain)
    for y in range(size):
        for x in range(size):
            window = weights[size - 1 - y : 2 * size - 1 - y, size - 1 - x : 2 * size - 1 - x]
            # window[i, j] = f((i - y), (j - x)): what the filter moves from (i, j) to (y, x).
            expected[:, y, x] = (plain * window).sum(axis=(1, 2))
    np.testing.assert_allclose(kernel(size, 1.0, *band), expected, atol=2e-3 * np.abs(plain).max())


def test_the_band_pass_sums_to_its_gain_at_zero_frequency():
    assert band_pass(1001, 1.0, None, 0.1).sum() == pytest.approx(1.0, abs=0.02)
    assert band_pass(1001, 1.0, 0.02, 0.1).sum() == pytest.approx(0.0, abs=0.1)
    np.testing.assert_array_equal(band_pass(5, 1.0, None, None), np.eye(5)[:, 2:3] @ np.eye(5)[2:3])


@pytest.mark.parametrize("band", BANDS)
def test_the_transfer_is_what_the_kernel_does_to_a_wave(band):
    # Far from the edges, the image of a wave is the same wave, weighted with the transfer.
    vector_kernel, k = kernel(31, 1.0, *band), np.array([0.11, 0.07])
    y, x = np.indices((91, 91))
    phase = np.cos(2 * math.pi * (k[0] * x + k[1] * y))
    slope = -2 * math.pi * np.sin(2 * math.pi * (k[0] * x + k[1] * y))
    image = correlate(vector_kernel, slope[..., None] * k)
    gain = float(transfer(vector_kernel, k[0], k[1]))
    np.testing.assert_allclose(image[20:-20, 20:-20], gain * phase[20:-20, 20:-20], atol=1e-12)


def test_a_plain_kernel_transfers_as_line_integration_predicts():
    # Fig 3.2: the same oscillation and the same size, not the same curve. The line's first maximum, 2 at
    # k = 1 / (n - 1), is smeared out by the other directions.
    size = 41
    k = np.linspace(1e-4, 0.1, 400)
    exact, line = transfer(kernel(size), k, np.zeros_like(k)), line_transfer(size, k)
    rising = k < 0.5 / (size - 1)
    assert np.corrcoef(exact[rising], line[rising])[0, 1] > 0.99
    first = k[np.argmax(exact)]
    assert first == pytest.approx(k[np.argmax(line)], rel=0.25)
    assert exact[k > 2 / (size - 1)].mean() == pytest.approx(1.0, abs=0.1)
    assert line_transfer(size, np.array(1 / (size - 1))) == pytest.approx(2.0)
    assert exact[0] == pytest.approx(0.0, abs=1e-4)


def test_a_larger_kernel_reaches_lower_frequencies():
    k = np.array([0.004])
    gains = [float(transfer(kernel(n), k, np.zeros(1))[0]) for n in (21, 41, 101, 201)]
    assert np.all(np.diff(gains) > 0)


def test_a_kernel_as_large_as_the_scan_is_icom_times_its_transfer():
    # An object inside the scan: its phase ends before the edges, so that all of it is seen.
    side = 40
    y, x = np.indices((side, side)) - side / 2 + 0.5
    envelope = np.exp(-(x**2 + y**2) / (2 * 3.0**2))
    phase = envelope * np.cos(0.7 * x + 0.4 * y)
    fast = -x / 9 * phase - 0.7 * envelope * np.sin(0.7 * x + 0.4 * y)
    slow = -y / 9 * phase - 0.4 * envelope * np.sin(0.7 * x + 0.4 * y)
    gradient = np.stack([fast, slow], axis=-1)
    vector_kernel = kernel(2 * side - 1)
    image, icom = correlate(vector_kernel, gradient), integrate(gradient)
    wide = 2 * side
    k_y, k_x = np.meshgrid(np.fft.fftfreq(wide), np.fft.fftfreq(wide), indexing="ij")
    spectrum = np.fft.fft2(icom - icom[0, 0], (wide, wide))
    predicted = np.real(np.fft.ifft2(transfer(vector_kernel, k_x, k_y) * spectrum))[:side, :side]
    # The phase of both is free by a constant.
    np.testing.assert_allclose(image - image.mean(), predicted - predicted.mean(), atol=2e-3)
    assert np.corrcoef(image.ravel(), icom.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("size", [0, 2, 60])
def test_an_even_kernel_is_refused_with_its_neighbours(size):
    with pytest.raises(ValueError, match=f"odd.*got {size}, use"):
        kernel(size)


@pytest.mark.parametrize(
    ("band", "words"), [((30.0, None), "25"), ((None, 0.0), "between 0"), ((5.0, 4.0), "below k_max")]
)
def test_a_band_that_the_scan_cannot_hold_is_refused(band, words):
    with pytest.raises(ValueError, match=words):
        kernel(21, 0.02, *band)


def test_a_filter_of_a_kernel_beyond_memory_is_refused():
    with pytest.raises(ValueError, match=r"at most 2049 pixels .* got 20001"):
        kernel(20001, 0.02, 5.0)
