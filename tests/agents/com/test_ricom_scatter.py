"""Position by position equals all at once: any kernel, any order, repeats, edges, to rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.com import ricom_scatter
from agents.com.ricom_kernel import kernel
from agents.com.ricom_scatter import RunningCorrelation, convolve_sum, trimmed


def definition(vector_kernel, vectors):
    """Eq 3.4 as it is written: each pixel collects from the positions that its kernel reaches."""
    rows, columns = vectors.shape[:2]
    half = vector_kernel.shape[1] // 2
    image = np.zeros((rows, columns))
    for r in range(rows):
        for c in range(columns):
            for y in range(max(0, r - half), min(rows, r + half + 1)):
                for x in range(max(0, c - half), min(columns, c + half + 1)):
                    image[r, c] += vector_kernel[:, half + r - y, half + c - x] @ vectors[y, x]
    return image


@st.composite
def streams(draw):
    """Scan, kernel, positions in blocks with repeats, and the vectors that come with them."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 23))
    size = 2 * draw(st.integers(0, 12)) + 1
    band = draw(st.sampled_from([(None, None), (0.1, None), (None, 0.3), (0.1, 0.3)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    order = draw(st.sampled_from(["raster", "serpentine", "random", "part"]))
    flat = np.arange(rows * columns).reshape(rows, columns)
    if order == "serpentine":
        flat[1::2] = flat[1::2, ::-1]
    flat = flat.ravel()
    if order == "random":
        flat = rng.integers(0, rows * columns, rows * columns)
    if order == "part":
        flat = flat[rng.random(len(flat)) < 0.5]
    pixel = np.stack(np.divmod(flat, columns), axis=1)
    # Like a pattern that lies far from the reference: a large mean that has to cancel.
    vectors = rng.standard_normal((len(flat), 2)) + rng.choice([0.0, 1e3])
    cuts = np.sort(rng.integers(0, len(flat) + 1, draw(st.integers(0, 4))))
    return kernel(size, 1.0, *band), (rows, columns), pixel, vectors, cuts


@settings(max_examples=60, deadline=None)
@given(streams())
def test_a_stream_equals_the_offline_correlation_at_any_moment(stream):
    vector_kernel, scan, pixel, vectors, cuts = stream
    running, arrived = RunningCorrelation(vector_kernel, scan), np.zeros((*scan, 2))
    for part in np.split(np.arange(len(pixel)), cuts):
        running.add(pixel[part], vectors[part])
        for (row, column), vector in zip(pixel[part], vectors[part], strict=True):
            arrived[row, column] = vector
        offline = definition(vector_kernel, arrived)
        # Rounding is that of sums of this size, and no more.
        scale = max(np.abs(vectors).max(initial=0.0) * np.abs(vector_kernel).sum(), 1e-300)
        np.testing.assert_allclose(running.image, offline, rtol=0, atol=1e-13 * scale)
        np.testing.assert_array_equal(running.vectors, arrived)


@pytest.mark.parametrize("size", [1, 9, 61])
def test_the_fourier_way_is_the_same_sum(size):
    vectors = np.random.default_rng(0).standard_normal((12, 17, 2))
    vector_kernel = kernel(size)
    image = RunningCorrelation(vector_kernel, (12, 17), vectors).image
    np.testing.assert_allclose(image, definition(vector_kernel, vectors), rtol=0, atol=1e-13)


def test_it_goes_on_from_what_was_there():
    rng = np.random.default_rng(0)
    vectors, new = rng.standard_normal((12, 17, 2)), rng.standard_normal((12, 17, 2))
    vectors[3, 4] = np.nan
    kept = vectors.copy()
    running = RunningCorrelation(kernel(7), (12, 17), vectors)
    pixel = np.argwhere(rng.random((12, 17)) < 0.3)
    running.add(pixel, new[tuple(pixel.T)])
    np.testing.assert_array_equal(vectors, kept)
    vectors[tuple(pixel.T)] = new[tuple(pixel.T)]
    np.testing.assert_allclose(running.image, definition(kernel(7), np.nan_to_num(vectors)), rtol=0, atol=1e-13)


def test_a_kernel_too_large_to_be_added_live_gives_the_same_image(monkeypatch):
    rng = np.random.default_rng(0)
    pixel = np.stack(np.divmod(rng.permutation(12 * 17), 17), axis=1)
    vectors = rng.standard_normal((len(pixel), 2))
    images = []
    for largest in (ricom_scatter.LARGEST_LIVE, 10):
        monkeypatch.setattr(ricom_scatter, "LARGEST_LIVE", largest)
        running = RunningCorrelation(kernel(9), (12, 17))
        assert running.live == (largest > 10)
        running.add(pixel, vectors)
        images.append(running.image)
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-13)


def test_nothing_wraps_round_the_end_of_a_row():
    running = RunningCorrelation(kernel(5), (6, 40))
    running.add(np.array([[2, 39]]), np.array([[1.0, 1.0]]))
    row, column = np.nonzero(running.image)
    assert (row.min(), row.max(), column.min(), column.max()) == (0, 4, 37, 39)


def test_a_position_without_a_vector_adds_nothing_and_takes_back_what_it_had():
    running = RunningCorrelation(kernel(5), (6, 7))
    running.add(np.array([[2, 3], [2, 4]]), np.array([[1.0, 2.0], [np.nan, np.nan]]))
    assert np.any(running.image)
    running.add(np.array([[2, 3]]), np.full((1, 2), np.nan))
    np.testing.assert_array_equal(running.image, 0.0)


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (6, 0), (0, 7)])
def test_a_position_outside_the_scan_is_refused_and_nothing_is_added(position):
    running = RunningCorrelation(kernel(5), (6, 7))
    with pytest.raises(ValueError, match=r"leave a scan of \(6, 7\)"):
        running.add(np.array([(1, 1), position]), np.ones((2, 2)))
    np.testing.assert_array_equal(running.image, 0.0)
    np.testing.assert_array_equal(running.vectors, 0.0)


def test_the_image_is_a_copy():
    running = RunningCorrelation(kernel(5), (6, 7))
    running.image[:] = 1.0
    np.testing.assert_array_equal(running.image, 0.0)


def test_a_kernel_is_trimmed_to_what_the_scan_can_tell():
    large = kernel(21)
    assert trimmed(large, (4, 30)).shape == (2, 7, 21)
    np.testing.assert_array_equal(trimmed(large, (4, 5)), large[:, 7:14, 6:15])


def test_sums_of_several_maps_are_those_of_each():
    rng = np.random.default_rng(3)
    kernels, maps = rng.standard_normal((2, 5, 3)), rng.standard_normal((2, 8, 9))
    expected = np.zeros((8, 9))
    for c, r, s in np.ndindex(2, 8, 9):
        for i, j in np.ndindex(5, 3):
            if 0 <= r + i - 2 < 8 and 0 <= s + j - 1 < 9:
                expected[r + i - 2, s + j - 1] += kernels[c, i, j] * maps[c, r, s]
    np.testing.assert_allclose(convolve_sum(kernels, maps), expected, atol=1e-13)
