"""Blocks of events: the same sums as the frames that the events stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.block import FrameBlock
from agents.events.block import EventBlock, inside
from agents.frames.region import Region
from twin.formats.t3p import RECORD


def events_of(frames: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Records in any order within each position, and boundaries."""
    flat = frames.reshape(len(frames), -1)
    parts = [rng.permutation(np.repeat(np.arange(flat.shape[1]), row)) for row in flat]
    events = np.zeros(int(flat.sum()), RECORD)
    events["pixel"] = np.concatenate(parts)
    events["toa"] = rng.integers(0, 2**40, len(events))
    return events, np.r_[0, np.cumsum(flat.sum(axis=1))]


def pair(seed: int, count: int, camera: tuple[int, int], mean: float) -> tuple[EventBlock, FrameBlock]:
    rng = np.random.default_rng(seed)
    frames = rng.poisson(mean, (count, *camera)).astype(np.uint16)
    pixel = rng.integers(0, 50, (count, 2)).astype(np.int32)
    events, indptr = events_of(frames, rng)
    return EventBlock.of_records(events, indptr, pixel, camera), FrameBlock(frames, pixel)


cameras = st.tuples(st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), cameras, st.sampled_from([0.0, 0.05, 2.0]))
def test_events_and_their_frames_give_the_same_sums(
    seed: int, count: int, camera: tuple[int, int], mean: float
) -> None:
    events, frames = pair(seed, count, camera, mean)
    region = Region((camera[0] / 3, camera[1] / 2), 7.5, 2.0)
    weights = np.random.default_rng(seed).random((3, *camera), np.float32)
    assert np.array_equal(events.moments(), frames.moments())
    assert np.array_equal(events.moments(region), frames.moments(region))
    assert np.array_equal(events.squares(), frames.squares())
    assert np.array_equal(events.squares(region), frames.squares(region))
    assert np.allclose(events.sums(weights), frames.sums(weights), rtol=1e-12, atol=0.0)
    assert np.array_equal(events.frames, frames.frames)
    assert len(events) == count
    assert events.count == frames.frames.sum()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), cameras)
def test_entries_with_counts_are_as_good_as_events(seed: int, camera: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.poisson(0.5, (5, *camera)).astype(np.uint16)
    row, index = np.nonzero(frames.reshape(5, -1))
    indptr = np.r_[0, np.cumsum(np.bincount(row, minlength=5))]
    pixel, region = np.zeros((5, 2), np.int32), Region((3.0, 4.5), 6.0)
    value = frames.reshape(5, -1)[row, index].astype(np.uint32)
    sparse, dense = EventBlock(index.astype(np.uint32), value, indptr, pixel, camera), FrameBlock(frames, pixel)
    weights = rng.random((2, *camera), np.float32)
    assert np.array_equal(sparse.moments(), dense.moments())
    assert np.array_equal(sparse.moments(region), dense.moments(region))
    assert np.array_equal(sparse.squares(region), dense.squares(region))
    assert np.allclose(sparse.sums(weights), dense.sums(weights), rtol=1e-12, atol=0.0)
    assert np.array_equal(sparse.frames, frames)


def test_the_centre_of_mass_is_no_whole_pixel() -> None:
    # Two events at columns 2 and 3 of row 1: a whole-number division would say column 2.
    events = np.zeros(2, RECORD)
    events["pixel"] = (1 * 7 + 2, 1 * 7 + 3)
    block = EventBlock.of_records(events, np.array([0, 2]), np.zeros((1, 2), np.int32), (5, 7))
    counts, column, row = block.moments()[0]
    assert (column / counts, row / counts) == (2.5, 1.0)


def test_the_row_is_exact_for_every_pixel_of_awkward_cameras() -> None:
    for width in (1, 3, 7, 49, 255, 257, 4095, 16383, 16384):
        pixel = np.unique(
            np.r_[np.arange(3) * width, np.arange(1, 4) * width - 1, np.array([16384 * width - 1, 16383 * width])]
        ).astype(np.uint32)
        events = np.zeros(len(pixel), RECORD)
        events["pixel"] = pixel
        bounds, where = np.arange(len(pixel) + 1), np.zeros((len(pixel), 2), np.int32)
        got = EventBlock.of_records(events, bounds, where, (16384, width)).moments()
        assert np.array_equal(got[:, 2], pixel // width)
        assert np.array_equal(got[:, 1], pixel % width)


def test_a_pixel_beyond_the_camera_counts_in_no_region_and_no_frame() -> None:
    events = np.zeros(3, RECORD)
    events["pixel"] = (5, 34, 2**32 - 1)
    block = EventBlock.of_records(events, np.array([0, 3]), np.zeros((1, 2), np.int32), (5, 6))
    assert block.moments(Region((2.0, 2.0), 30.0))[0, 0] == 1
    assert np.array_equal(block.moments(), [[1, 5, 0]])
    assert np.array_equal(block.squares(), [25])
    assert block.sums(np.ones((1, 5, 6), np.float32))[0, 0] == 1
    assert block.frames.sum() == 1


def test_positions_without_events_are_empty_and_sums_are_kept() -> None:
    block = EventBlock.of_records(np.zeros(0, RECORD), np.zeros(4, int), np.zeros((3, 2), np.int32), (5, 6))
    assert not block.moments().any()
    assert block.moments() is block.moments()
    assert block.frames is block.frames
    assert not block.moments().flags.writeable
    assert not block.frames.flags.writeable


@pytest.mark.parametrize("indptr", [[0, 1], [0, 2, 1, 3], [0, 1, 2, 4], [-1, 0, 1, 2]])
def test_boundaries_that_do_not_fit_are_refused(indptr: list[int]) -> None:
    with pytest.raises(ValueError, match="boundaries"):
        EventBlock.of_records(np.zeros(3, RECORD), np.array(indptr), np.zeros((3, 2), np.int32), (5, 6))


def test_other_records_and_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="records of"):
        EventBlock.of_records(np.zeros(3, np.uint32), np.zeros(2, int), np.zeros((1, 2), np.int32), (5, 6))
    with pytest.raises(ValueError, match="need 3 weights"):
        EventBlock(np.zeros(3, np.uint32), np.zeros(2, np.uint32), np.zeros(2, int), np.zeros((1, 2), np.int32), (5, 6))


def test_a_region_is_made_once() -> None:
    region = Region((2.0, 3.0), 2.0)
    assert inside(region, (5, 6)) is inside(region, (5, 6))
    assert inside(region, (5, 6)).sum() == 13
