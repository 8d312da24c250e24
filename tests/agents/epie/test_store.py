"""Frames kept in bounded memory: rounding below the noise, thinning that stays even."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.epie.store import LARGEST_COUNT, FrameStore, decode, encoded


def test_small_counts_are_exact_and_large_ones_are_rounded_below_their_noise() -> None:
    counts = np.unique(np.concatenate([np.arange(5000), np.geomspace(5000, LARGEST_COUNT, 5000).astype(np.int64)]))
    amplitude = np.empty(len(counts))
    decode(encoded(counts.astype(np.uint32)), amplitude)
    np.testing.assert_allclose(amplitude[:64] ** 2, counts[:64], atol=1e-12)
    # The noise of sqrt(counts) is 1/2; steps of 1/16 are at most 1/32 off.
    assert np.abs(amplitude - np.sqrt(counts)).max() <= 1 / 32 + 1e-9
    assert (np.diff(encoded(counts.astype(np.uint32)).astype(int)) >= 0).all()


def test_counts_beyond_the_largest_are_cut() -> None:
    amplitude = np.empty(1)
    decode(encoded(np.array([2**32 - 1], np.uint32)), amplitude)
    assert amplitude[0] ** 2 == pytest.approx(LARGEST_COUNT)


def filled(
    scan: tuple[int, int], pixels: int, limit: int, seed: int = 0, peak: int = 300
) -> tuple[FrameStore, np.ndarray]:
    """A store after a whole scan, and its frames by position."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, peak, (scan[0] * scan[1], pixels)).astype(np.uint16)
    store = FrameStore(pixels, limit)
    store.add(np.moveaxis(np.indices(scan), 0, -1).reshape(-1, 2), frames)
    return store, frames


def test_what_fits_is_kept_in_the_order_of_arrival() -> None:
    store, frames = filled((9, 17), 10, 2**20)
    assert len(store) == 9 * 17
    assert store.halvings == 0
    out = np.empty((3, 10))
    store.amplitudes(np.array([150, 2, 64]), out)
    np.testing.assert_allclose(out, np.sqrt(frames[[150, 2, 64]]), atol=1 / 32)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 30), st.integers(3, 30), st.integers(3000, 40000))
def test_a_full_store_keeps_an_even_part_within_its_limit(rows: int, columns: int, limit: int) -> None:
    pixels = 12
    store, frames = filled((rows, columns), pixels, limit)
    assert store.nbytes <= max(limit, 3 * 64 * 2 * pixels)
    assert len(store) == len(store.pixel)
    index = store.pixel @ np.array([columns, 1])
    out = np.empty((len(store), pixels))
    store.amplitudes(np.arange(len(store)), out)
    np.testing.assert_allclose(out, np.sqrt(frames[index]), atol=1 / 32)
    # Every position has a kept one nearby: the pattern's largest hole grows as the root of what went.
    if len(store):
        every = np.moveaxis(np.indices((rows, columns)), 0, -1).reshape(-1, 1, 2)
        nearest = np.abs(every - store.pixel[None]).max(axis=2).min(axis=1)
        assert nearest.max() <= 2 ** ((store.halvings + 1) // 2)


def test_half_the_frames_lie_on_a_chequerboard() -> None:
    store, _ = filled((16, 16), 12, 4000, peak=200)
    assert store.halvings == 1
    assert len(store) == 128
    assert (store.pixel.sum(axis=1) % 2 == 0).all()


def test_bytes_are_as_few_as_the_counts_allow() -> None:
    dim, _ = filled((16, 16), 12, 2**20, peak=100)
    bright, _ = filled((16, 16), 12, 2**20, peak=60000)
    spare = 64 * 12 * 2
    assert dim.nbytes - spare == 256 * 12
    assert bright.nbytes - spare == 2 * 256 * 12
