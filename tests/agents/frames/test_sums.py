"""Kernels over frames equal their definitions: every type and byte order, views into larger arrays, any weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from agents.block import FrameBlock
from agents.frames import runs as pixel_runs
from agents.frames import sums as dense
from agents.frames.region import Region

TYPES = ("u1", "<u2", ">u2", "<u4", ">u4")


def inside(region, shape):
    """Whole pixels of a region, by the definition in `Region`."""
    y, x = np.indices(shape)
    if region is None:
        return np.ones(shape, bool)
    squared = (y - region.centre_px[0]) ** 2 + (x - region.centre_px[1]) ** 2
    return (np.sqrt(squared) >= region.inner_px) & (np.sqrt(squared) <= region.outer_px)


def defined(frames, region):
    """Moments and squares in whole numbers of any size, (N, 4)."""
    y, x = np.indices(frames.shape[1:])
    counts = np.where(inside(region, frames.shape[1:]), frames.astype(object), 0)
    return [[int((frame * w).sum()) for w in (np.ones_like(x), x, y, x * x + y * y)] for frame in counts]


# Sixteenths of a pixel: their squares are exact, and pixels lie on the edge, inside, as often as one could wish.
regions = st.none() | st.builds(
    lambda row, column, inner, width: Region((row / 16, column / 16), (inner + width) / 16, inner / 16),
    st.integers(-64, 320),
    st.integers(-64, 320),
    st.integers(0, 128),
    st.integers(1, 192),
)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(TYPES), region=regions)
def test_moments_are_exact(data, dtype, region):
    """With counts up to the type's largest, as long as the sums are below 2^53."""
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=19))
    frames = data.draw(arrays(np.dtype(dtype), shape))
    assert dense.moments_and_squares(frames, region).tolist() == defined(frames, region)
    np.testing.assert_array_equal(dense.moments(frames, region), dense.moments_and_squares(frames, region)[:, :3])
    np.testing.assert_array_equal(dense.squares(frames, region), dense.moments_and_squares(frames, region)[:, 3])


@pytest.mark.parametrize("dtype", TYPES)
def test_a_saturated_camera_does_not_overflow(dtype):
    frames = np.full((2, 300, 301), np.iinfo(dtype).max, dtype)
    frames[1, 5:] = 0
    for region in (None, Region((150, 150), 140.0, 20.0)):
        np.testing.assert_allclose(
            dense.moments_and_squares(frames, region), np.array(defined(frames, region), float), rtol=4e-16 * 8
        )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(TYPES))
def test_weighted_sums_equal_the_definition(data, dtype):
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=90))
    frames = data.draw(arrays(np.dtype(dtype), shape))
    count = data.draw(st.integers(0, 4))
    whole_or_not = st.sampled_from([0.0, 1.0, 1.0, 1.0, 0.25, -2.0, 0.1])
    weights = data.draw(arrays(np.float32, (count, *shape[1:]), elements=whole_or_not, fill=st.just(1.0)))
    expected = np.einsum("nhw,dhw->nd", frames.astype(float), weights.astype(float))
    scale = np.einsum("nhw,dhw->nd", frames.astype(float), np.abs(weights.astype(float)))
    assert np.all(np.abs(dense.sums(frames, weights) - expected) <= 1e-13 * scale)


def views(frames):
    """The same frames as they may lie in memory, by what is odd about them."""
    n, h, w = frames.shape
    every_third = np.zeros((3 * n, h, w), frames.dtype)
    every_third[::3] = frames
    cut = np.zeros((n, h + 3, w + 5), frames.dtype)
    cut[:, 2 : 2 + h, 4 : 4 + w] = frames
    records = np.zeros(n, np.dtype([("header", "S384"), ("pixels", frames.dtype, (h, w))]))
    records["pixels"] = frames
    odd = np.zeros(n, np.dtype([("header", "S15"), ("pixels", frames.dtype, (h, w))]))
    odd["pixels"] = frames
    yield "every third", every_third[::3]
    yield "part of the camera", cut[:, 2 : 2 + h, 4 : 4 + w]
    yield "between headers", records["pixels"]
    yield "not aligned", odd["pixels"]
    yield "backwards", np.ascontiguousarray(frames[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    yield "transposed", np.ascontiguousarray(frames.swapaxes(1, 2)).swapaxes(1, 2)
    yield "fortran", np.asfortranarray(frames)


@pytest.mark.parametrize("dtype", TYPES)
def test_frames_may_lie_anyhow_in_memory(dtype):
    frames = np.random.default_rng(1).integers(0, 200, (5, 14, 19)).astype(dtype)
    region = Region((7.2, 9.0), 6.0, 2.5)
    weights = np.random.default_rng(2).choice([0.0, 0.5, 1.0, 1.0, 1.0], (2, 14, 19)).astype(np.float32)
    weights[1, 3:12, 2:17] = 1.0
    for label, view in views(frames):
        np.testing.assert_array_equal(view, frames)
        for chosen in (None, region):
            np.testing.assert_array_equal(
                dense.moments_and_squares(view, chosen), dense.moments_and_squares(frames, chosen), label
            )
        np.testing.assert_array_equal(dense.sums(view, weights), dense.sums(frames, weights), label)


def test_a_memory_mapped_file_is_read_in_place(tmp_path):
    frames = np.random.default_rng(3).integers(0, 4000, (6, 16, 16)).astype(">u2")
    (tmp_path / "data").write_bytes(b"#" * 384 + b"".join(b"+" * 384 + frame.tobytes() for frame in frames))
    mapped = np.memmap(tmp_path / "data", dtype=np.uint8, mode="r", offset=384).reshape(6, -1)[:, 384:]
    seen = mapped.view(">u2").reshape(6, 16, 16)
    assert np.shares_memory(dense._pixels(seen).data, mapped)
    np.testing.assert_array_equal(dense.moments(seen, None), dense.moments(frames, None))


def test_a_ring_with_a_wide_hole_is_summed_on_both_sides_of_it():
    frames = np.random.default_rng(6).integers(0, 60000, (3, 200, 210)).astype(">u2")
    region = Region((99.0, 104.5), 95.0, 60.0)
    assert dense.moments_and_squares(frames, region).tolist() == defined(frames, region)
    weights = inside(region, (200, 210)).astype(np.float32)[None]
    assert dense.sums(frames, weights)[:, 0].tolist() == [row[0] for row in defined(frames, region)]


@pytest.mark.parametrize("dtype", ["u8", "i4", "f4", "?"])
def test_other_types_are_summed_all_the_same(dtype):
    whole = np.random.default_rng(4).integers(0, 2, (3, 8, 9))
    region, weights = Region((4, 4), 3.0), np.full((1, 8, 9), 0.5, np.float32)
    frames = whole.astype(dtype)
    assert dense.moments_and_squares(frames, region).tolist() == defined(whole, region)
    np.testing.assert_allclose(dense.sums(frames, weights)[:, 0], whole.sum((1, 2)) / 2)


def test_nothing_gives_nothing():
    assert dense.moments(np.empty((0, 4, 4), np.uint16), None).shape == (0, 3)
    assert dense.sums(np.empty((0, 4, 4), np.uint16), np.ones((2, 4, 4), np.float32)).shape == (0, 2)
    outside = Region((-50.0, 0.0), 3.0)
    np.testing.assert_array_equal(dense.moments_and_squares(np.ones((2, 4, 4), np.uint8), outside), 0)


def test_weights_of_another_camera_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and \(1, 4, 5\)"):
        dense.sums(np.ones((2, 4, 4), np.uint8), np.ones((1, 4, 5), np.float32))


def test_weights_that_may_change_are_looked_at_again_and_others_compiled_once(monkeypatch):
    frames, weights = np.ones((2, 8, 8), np.uint16), np.ones((1, 8, 8), np.float32)
    compiled = []
    compile_weights = pixel_runs.compile_weights
    monkeypatch.setattr(pixel_runs, "compile_weights", lambda w: compiled.append(1) or compile_weights(w))
    assert dense.sums(frames, weights)[0, 0] == 64
    weights[0, 0, :3] = 0.5
    assert dense.sums(frames, weights)[0, 0] == 62.5
    assert len(compiled) == 2
    view = weights[:]
    view.flags.writeable = False  # what it shows may still change
    dense.sums(frames, view)
    weights[0, 0, :3] = 0
    assert dense.sums(frames, view)[0, 0] == 61
    fixed = weights.copy()
    fixed.flags.writeable = False
    for _ in range(3):
        assert dense.sums(frames, fixed)[0, 0] == 61
    assert len(compiled) == 5
    held = len(pixel_runs.cache)
    del fixed
    assert len(pixel_runs.cache) == held - 1


def test_weights_become_runs_without_long_gaps():
    weights = np.zeros((2, 3, 140), np.float32)
    weights[0, 1, 5:30] = 1.0
    weights[0, 1, 40] = 0.5
    weights[0, 1, 40 + pixel_runs.LONGEST_GAP + 1 :] = 1.0
    weights[1, 1, 2] = -1.0
    runs, values = pixel_runs.compile_weights(weights)
    assert runs.tolist() == [[0, 1, 5, 41, 0], [0, 1, 105, 140, 36], [1, 1, 2, 3, 71]]
    np.testing.assert_array_equal(values, [*weights[0, 1, 5:41], *weights[0, 1, 105:140], -1.0])


def test_a_block_reads_its_frames_once(monkeypatch):
    read = []
    moments = dense.moments_and_squares
    monkeypatch.setattr(dense, "moments_and_squares", lambda f, r: read.append(r) or moments(f, r))
    frames = np.random.default_rng(5).integers(0, 9, (3, 6, 7)).astype(np.uint16)
    block = FrameBlock(frames, np.zeros((3, 2), int))
    disc = Region((3, 3), 2.0)
    for region in (None, disc, None, disc):
        block.squares(region)
        np.testing.assert_array_equal(
            np.column_stack([block.moments(region), block.squares(region)]), np.array(defined(frames, region))
        )
        with pytest.raises(ValueError, match="read-only"):
            block.moments(region)[0, 0] = 1
    assert read == [None, disc]
