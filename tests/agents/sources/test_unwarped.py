"""Scans put onto their true grid: no electron is lost, and what was displaced comes back."""

from collections.abc import Iterator

import numpy as np
import pytest

from agents.base import StreamMeta
from agents.block import Block, FrameBlock
from agents.quantify.errors import QuantifyError
from agents.quantify.resample import ShiftMap
from agents.source import Health, Source, SourceError
from agents.sources.unwarped import UnwarpedSource
from twin.arrays import Floats
from twin.formats.dataset import Layout

ROWS, COLUMNS, CAMERA = 24, 20, (3, 5)


class Recorded(Source):
    """Frames in memory, in blocks of a given length."""

    def __init__(self, frames: np.ndarray, length: int = COLUMNS) -> None:
        self._frames, self._length, self.health = frames, length, Health()
        self.meta = StreamMeta(Layout((ROWS, COLUMNS), CAMERA, "uint16"))

    def blocks(self) -> Iterator[Block]:
        pixel = np.argwhere(np.ones((ROWS, COLUMNS), bool))
        for first in range(0, len(pixel), self._length):
            part = slice(first, first + self._length)
            yield FrameBlock(self._frames[part], pixel[part])


def shifts(seed: int = 0) -> Floats:
    """Jitter of both axes, px."""
    return np.random.default_rng(seed).normal(0, [[0.5], [0.3]], (2, ROWS))


def counts(seed: int = 1, mean: float = 0.7) -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, (ROWS * COLUMNS, *CAMERA)).astype(np.uint16)


def collected(source: Source) -> np.ndarray:
    """All frames by their place, (rows, columns, H, W)."""
    whole = np.zeros((ROWS, COLUMNS, *CAMERA), np.int64)
    for block in source.blocks():
        np.add.at(whole, tuple(block.pixel.T), block.frames)
    return whole


def test_every_electron_is_kept_in_its_camera_pixel() -> None:
    frames = counts()
    found = collected(UnwarpedSource(Recorded(frames), ShiftMap.of(shifts())))
    np.testing.assert_array_equal(found.sum(axis=(0, 1)), frames.sum(axis=0, dtype=np.int64))


def test_however_the_stream_is_cut_the_same_electrons_go_to_the_same_places() -> None:
    frames, known = counts(), ShiftMap.of(shifts())
    whole = collected(UnwarpedSource(Recorded(frames), known))
    np.testing.assert_array_equal(whole, collected(UnwarpedSource(Recorded(frames, 7), known)))
    assert not np.array_equal(whole, collected(UnwarpedSource(Recorded(frames), known, seed=1)))


def test_without_shifts_hardly_an_electron_leaves_its_line_and_none_its_column() -> None:
    frames = counts()
    found = collected(UnwarpedSource(Recorded(frames), ShiftMap.of(np.zeros((2, ROWS))))).reshape(-1, *CAMERA)
    assert np.abs(found - frames).sum() / 2 < 0.1 * frames.sum()
    by_column = [image.reshape(ROWS, COLUMNS, *CAMERA).sum(axis=0) for image in (found, frames)]
    np.testing.assert_array_equal(*by_column)


def test_on_average_frames_go_where_the_map_puts_them() -> None:
    known, frames = ShiftMap.of(shifts()), np.zeros((ROWS * COLUMNS, *CAMERA), np.uint16)
    image = 1000 + 500 * np.sin(np.arange(ROWS)[:, None] / 3) * np.cos(np.arange(COLUMNS) / 4)
    frames[:, 1, 2] = np.rint(image).ravel()
    found = collected(UnwarpedSource(Recorded(frames), known))[:, :, 1, 2]
    np.testing.assert_allclose(found, known.image(np.rint(image)), atol=6)  # less than one electron for each of six


def test_an_even_exposure_keeps_a_flat_field_flat() -> None:
    frames = np.full((ROWS * COLUMNS, *CAMERA), 100, np.uint16)
    known = ShiftMap.of(np.stack([np.zeros(ROWS), shifts()[1]]))
    uneven = collected(UnwarpedSource(Recorded(frames), known)).sum(axis=(1, 2, 3))
    even = collected(UnwarpedSource(Recorded(frames), known, even=True)).sum(axis=(1, 2, 3))
    assert uneven.std() > 10 * even.std()
    assert even.std() < 0.01 * even.mean()


def test_a_displaced_pattern_comes_back() -> None:
    shift_px = shifts(3)
    row, column = np.mgrid[:ROWS, :COLUMNS].astype(float)

    def pattern(y: Floats, x: Floats) -> Floats:
        return np.asarray(2 + np.sin(2 * np.pi * x / 9) + np.cos(2 * np.pi * y / 11))

    recorded = pattern(row + shift_px[1][:, None], column + shift_px[0][:, None])
    known = ShiftMap.of(shift_px)
    straight = known.image(recorded) / known.exposure(COLUMNS)
    inner = (slice(2, -2), slice(3, -3))
    before = np.mean((recorded - pattern(row, column))[inner] ** 2)
    assert np.mean((straight - pattern(row, column))[inner] ** 2) < 0.15 * before
    assert known.image(recorded).sum() == pytest.approx(recorded.sum(), rel=1e-12)


def test_shifts_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(SourceError, match="shifts of 5 lines do not fit"):
        UnwarpedSource(Recorded(counts()), ShiftMap.of(np.zeros((2, 5))))
    for bad in (np.zeros((3, ROWS)), np.full((2, ROWS), np.nan), np.zeros(4)):
        with pytest.raises(QuantifyError, match=r"shape \(2, rows\)"):
            ShiftMap.of(bad)


@pytest.mark.parametrize("axis", [0, 1])
def test_shifts_out_of_the_scan_are_refused(axis: int) -> None:
    far = np.zeros((2, ROWS))
    far[axis, 3] = -(COLUMNS, ROWS)[axis]
    with pytest.raises(SourceError, match=rf"out of a scan of {ROWS} lines of {COLUMNS}"):
        UnwarpedSource(Recorded(counts()), ShiftMap.of(far))
