"""The compiled transform against numpy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.epie.fourier import plan, smooth_size, transform, transpose


def transformed(values: np.ndarray, inverse: bool = False) -> np.ndarray:
    part = plan(len(values), values.real.dtype.name)
    re, im = values.real.copy(), values.imag.copy()
    out_re, out_im = np.empty_like(re), np.empty_like(im)
    if inverse:
        transform(im, re, out_im, out_re, part.radices, part.turns)
    else:
        transform(re, im, out_re, out_im, part.radices, part.turns)
    return out_re + 1j * out_im


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 15, 16, 18, 20, 25, 32, 40, 64])
def test_it_is_the_transposed_transform_of_numpy(size: int) -> None:
    rng = np.random.default_rng(size)
    values = (rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))).astype(np.complex64)
    expected = np.fft.fft2(values.astype(np.complex128)).T
    np.testing.assert_allclose(transformed(values), expected, atol=1e-6 * size * 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 48).map(smooth_size), st.integers(0, 2**32 - 1))
def test_exchanged_planes_are_the_inverse(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))).astype(np.complex64)
    back = transformed(transformed(values), inverse=True) / size**2
    np.testing.assert_allclose(back, values, atol=1e-5)


@given(st.integers(1, 400))
def test_a_smooth_size_is_the_next_without_large_prime_factors(size: int) -> None:
    def smooth(n: int) -> bool:
        for prime in (2, 3, 5):
            while n % prime == 0:
                n //= prime
        return n == 1

    found = smooth_size(size)
    assert found >= size
    assert smooth(found)
    assert not any(smooth(n) for n in range(size, found))


def test_a_large_prime_factor_is_refused_with_what_would_do() -> None:
    with pytest.raises(ValueError, match="61 has a prime factor above 5; the next one without is 64"):
        plan(61)


@pytest.mark.parametrize("size", [1, 7, 16, 37])
def test_transposition_in_tiles(size: int) -> None:
    values = np.arange(size**2, dtype=np.float32).reshape(size, size)
    out = np.empty_like(values)
    transpose(values, out)
    np.testing.assert_array_equal(out, values.T)
