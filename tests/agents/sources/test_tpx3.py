"""Raw Timepix3 files as streams: positions by time and by the triggers of lines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.raw_timepix import SPAN, chunk, edge, hit

from agents import load
from agents.source import SourceError
from agents.sources import open_source
from twin.options import OptionError

ROWS, COLUMNS, DWELL_FINE = 4, 5, 640  # a dwell of 1 us


def counts(path: Path, **options: Any) -> tuple[np.ndarray, Any]:
    """Events per position, and the source."""
    with open_source(path, **{"scan": (ROWS, COLUMNS), "dwell_s": 1e-6, **options}) as source:
        out = np.zeros(source.meta.layout.scan, int)
        for block in source.blocks():
            out[tuple(block.pixel.T)] += block.moments()[:, 0].astype(int)
    return out, source


def raster(begin: int, gap: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Times of k + 1 hits in position k, and the begin of every line, in fine steps."""
    lines = begin + np.arange(ROWS) * (COLUMNS * DWELL_FINE + gap)
    position = np.repeat(np.arange(ROWS * COLUMNS), np.arange(ROWS * COLUMNS) + 1)
    within = np.concatenate([np.arange(k + 1) * (DWELL_FINE // (k + 1)) for k in range(ROWS * COLUMNS)])
    return lines[position // COLUMNS] + position % COLUMNS * DWELL_FINE + within + 1, lines


RIGHT = np.arange(1, ROWS * COLUMNS + 1).reshape(ROWS, COLUMNS)


@pytest.mark.parametrize("begin", [0, 5_000_000, SPAN * 16 - 3000])
@pytest.mark.parametrize("records", [7, 2**15])
def test_hits_go_to_the_position_of_their_time(tmp_path: Path, begin: int, records: int) -> None:
    times, _ = raster(begin)
    order = np.argsort(times + np.random.default_rng(0).uniform(0, 200, len(times)))  # disorder of 0.3 us
    words = [hit(k % 256, k % 7, int(times[k])) for k in order.tolist()]
    path = tmp_path / "a.tpx3"
    path.write_bytes(b"".join(chunk(words[k : k + 9]) for k in range(0, len(words), 9)))
    got, source = counts(path, start_s=begin * 1.5625e-9, records=records)
    assert got.tolist() == RIGHT.tolist()
    assert source.health.faults == []
    assert source.meta.layout.camera == (256, 256)


@pytest.mark.parametrize("kind", [("tdc1", 0xF), ("tdc2", 0xE)])
def test_a_scan_begins_with_an_edge(tmp_path: Path, kind: tuple[str, int]) -> None:
    times, _ = raster(7000)
    words = [hit(0, 0, 500), edge(7000, kind[1]), edge(7300, 0xA)] + [hit(1, 1, int(t)) for t in times]
    (tmp_path / "a.tpx3").write_bytes(chunk(words))
    got, source = counts(tmp_path / "a.tpx3", start_s=kind[0])
    assert got.tolist() == RIGHT.tolist()
    assert source.health.faults == ["1 events before the scan"]
    other = {"tdc1": "tdc2", "tdc2": "tdc1"}[kind[0]]
    with pytest.raises(SourceError, match=f"no rising edge at {other}"):
        counts(tmp_path / "a.tpx3", start_s=other)


def test_lines_begin_with_their_edges_however_long_the_flyback(tmp_path: Path) -> None:
    times, lines = raster(9000)
    rng = np.random.default_rng(1)
    shift = np.cumsum(rng.integers(0, 4000, ROWS)) * 2
    line = (np.searchsorted(lines, times, side="right") - 1).clip(0)
    words = [(int(t + shift[r]), hit(3, 4, int(t + shift[r]))) for t, r in zip(times, line, strict=True)]
    words += [(int(t + s), edge(int(t + s))) for t, s in zip(lines, shift, strict=True)]
    flyback = [int(lines[r] + shift[r] + COLUMNS * DWELL_FINE + 5) for r in range(ROWS)]
    words += [(t, hit(9, 9, t)) for t in flyback] + [(10, hit(9, 9, 10))]
    (tmp_path / "a.tpx3").write_bytes(chunk([word for _, word in sorted(words)]))
    got, source = counts(tmp_path / "a.tpx3", lines="tdc1")
    assert got.tolist() == RIGHT.tolist()
    assert source.counts.before == 1
    assert source.counts.between_lines + source.counts.after == ROWS
    _, source = counts(tmp_path / "a.tpx3", lines="tdc1", scan=(ROWS + 1, COLUMNS))
    assert "4 rising edges at tdc1 for 5 lines" in source.health.faults
    assert source.health.missing == COLUMNS


def test_an_agent_sees_the_quad_in_its_place(tmp_path: Path) -> None:
    raw = b"".join(chunk([hit(10, 20, 160 + chip)], chip) for chip in range(4))
    (tmp_path / "a.tpx3").write_bytes(raw)
    with open_source(tmp_path / "a.tpx3", scan=1, dwell_s=1e-6, gap_px=4, frames=True) as source:
        agent = load("com")
        agent.start(source.meta)
        (block,) = source.blocks()
        agent.update(block)
    assert source.meta.layout.camera == (516, 516)
    assert np.argwhere(block.frames[0]).tolist() == [[20, 10], [20, 270], [495, 245], [495, 505]]


def test_damage_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    times, _ = raster(0)
    words = [hit(0, 0, int(t)) for t in times]
    raw = (
        chunk(words[:100])
        + bytes(16)
        + chunk([0xA << 60, *words[100:]])
        + chunk([hit(0, 0, int(times[-1]))], 9)
        + b"TPX3"
    )
    (tmp_path / "a.tpx3").write_bytes(raw)
    got, source = counts(tmp_path / "a.tpx3", start_s=0.0, chips="single")
    assert got.tolist() == RIGHT.tolist()
    text = "\n".join(source.health.faults)
    for words_ in (
        "ends after 4 of 8 bytes",
        "2 words lie outside any chunk",
        "1 hits have no time",
        "1 hits are of chips",
    ):
        assert words_ in text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scan": None}, SourceError, "give the scan"),
        ({"dwell_s": None}, SourceError, "dwell_s"),
        ({"camera": (300, 300)}, SourceError, r"camera of \(300, 300\).*one of \(256, 256\)"),
        ({"chips": "quod"}, SourceError, "did you mean quad"),
        ({"start_s": "now"}, OptionError, "tdc1 or tdc2"),
        ({"lines": "tdc1", "pattern": "serpentine"}, SourceError, "raster scan, not in a serpentine one"),
        ({"counter_bits": 30}, OptionError, "counter_bits"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[ValueError], words: str
) -> None:
    (tmp_path / "a.tpx3").write_bytes(chunk([hit(0, 0, 160)]))
    with pytest.raises(error, match=words):
        counts(tmp_path / "a.tpx3", **options)
