"""Raw Timepix3 files against bytes spelled out, and where the chips of a quad lie."""

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fakes.raw_timepix import CONTROL, SPAN, chunk, edge, hit
from hypothesis import given
from hypothesis import strategies as st

from twin.formats import open_frames
from twin.formats.chips import ChipLayout
from twin.formats.dataset import FormatError
from twin.formats.tpx3 import Packets, Tpx3Reader


def read(path: Path, raw: bytes, words: int = 2**17, tolerate: bool = False, **options: object) -> Packets:
    """All packets of a file with these bytes."""
    path.write_bytes(raw)
    with Tpx3Reader(path, tolerate=tolerate, **options) as reader:  # type: ignore[arg-type]
        parts = [packets for _, packets in reader.blocks(words)]
    arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in ("hits", "edges")]
    return Packets(*arrays, *(sum(part[k] for part in parts) for k in range(2, 6)))


def test_a_hit_is_read_bit_by_bit(tmp_path: Path) -> None:
    # Double column 50, super pixel 37, pixel 6: x = 101, y = 150. Tick 3 * 16384 + 1000, 7 steps before, charge 12.
    word = 0xB << 60 | 50 << 53 | 37 << 47 | 6 << 44 | 1000 << 30 | 12 << 20 | 7 << 16 | 3
    raw = b"TPX3\x00\x00\x08\x00" + struct.pack("<Q", word)
    packets = read(tmp_path / "a.tpx3", raw)
    assert packets.hits[0].tolist() == (150 * 256 + 101, 3 * 16384 + 1000, 0, 7, 12)
    assert packets[2:] == (0, 0, 0, 0)


def test_an_edge_is_read_bit_by_bit(tmp_path: Path) -> None:
    word = 0x6 << 60 | 0xE << 56 | 99 << 44 | 123_456_789 << 9 | 12 << 5
    packets = read(tmp_path / "a.tpx3", b"TPX3\x00\x00\x08\x00" + struct.pack("<Q", word))
    assert packets.edges.tolist() == [[0xE, 123_456_789]]


@given(st.integers(0, 255), st.integers(0, 255), st.integers(1, 2**34 - 1))
def test_every_pixel_and_time_comes_back(x: int, y: int, fine: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder) / "a.tpx3", chunk([hit(x, y, fine)])).hits[0]
    assert int(found["pixel"]) == y * 256 + x
    assert int(found["toa"]) % SPAN * 16 - int(found["ftoa"]) == (-(-fine // 16)) % SPAN * 16 - (-fine % 16)


@pytest.mark.parametrize(("chip", "x", "y"), [(0, 360, 150), (1, 415, 365), (2, 155, 365), (3, 100, 150)])
def test_the_chips_of_a_quad_lie_as_their_maker_says(tmp_path: Path, chip: int, x: int, y: int) -> None:
    # Pixel (100, 150) of each chip in an image with the four missing pixels between the chips.
    packets = read(tmp_path / "a.tpx3", chunk([hit(100, 150, 160)], chip), chips=ChipLayout.named("quad", gap_px=4))
    assert divmod(int(packets.hits["pixel"][0]), 516) == (y, x)


def test_a_quad_is_found_by_its_chips_and_its_gaps_are_dead(tmp_path: Path) -> None:
    raw = chunk([hit(0, 0, 160)]) + chunk([], 2) + chunk([hit(1, 1, 161)], 3)
    (tmp_path / "a.tpx3").write_bytes(raw)
    with Tpx3Reader(tmp_path / "a.tpx3") as reader:
        assert reader.chips.camera == (512, 512)
    dead = ChipLayout.named("quad", gap_px=4).dead()
    assert dead.sum() == 516**2 - 4 * 256**2
    assert dead[256:260].all()
    assert dead[:, 256:260].all()
    assert not ChipLayout.named("quad").dead().any()
    (tmp_path / "b.tpx3").write_bytes(chunk([], 7))
    with pytest.raises(FormatError, match=r"there is a chip 7.*give chips"):
        Tpx3Reader(tmp_path / "b.tpx3")


@pytest.mark.parametrize("words", [1, 2, 3, 1000])
def test_blocks_may_cut_a_chunk_anywhere(tmp_path: Path, words: int) -> None:
    raw = chunk([hit(1, 2, 160), edge(200), hit(3, 4, 320)]) + chunk(CONTROL) + chunk([hit(5, 6, 480)])
    packets = read(tmp_path / "a.tpx3", raw, words)
    assert packets.hits["pixel"].tolist() == [2 * 256 + 1, 4 * 256 + 3, 6 * 256 + 5]
    assert packets.edges.tolist() == [[0xF, 100]]
    assert packets[2:] == (0, 0, 0, 0)


def test_times_go_on_when_the_counter_rolls_over(tmp_path: Path) -> None:
    fine = np.cumsum(np.full(50, SPAN * 16 // 20))
    late = [fine[19] - 1600, fine[39] - 3200]  # out of order across chips
    times = np.insert(fine, [20, 40], late)
    raw = chunk([hit(0, 0, int(t)) for t in times] + [edge(int(times[-1]) + 8)])
    packets = read(tmp_path / "a.tpx3", raw)
    assert (packets.hits["toa"].astype(np.int64) * 16 - packets.hits["ftoa"]).tolist() == times.tolist()
    assert packets.edges[0, 1] * 2 == (int(times[-1]) + 8) // 2 * 2


def test_what_is_no_hit_is_counted(tmp_path: Path) -> None:
    integrated = 0xA << 60 | 5
    raw = chunk([integrated, 0x2 << 60, hit(0, 0, 16)]) + chunk([hit(0, 0, 16)] * 2, 3)
    packets = read(tmp_path / "a.tpx3", raw, chips=ChipLayout.named("single"))
    assert (len(packets.hits), packets.integrated, packets.unknown, packets.strange_chip) == (1, 1, 1, 2)


def test_words_outside_a_chunk_are_skipped_or_refused(tmp_path: Path) -> None:
    raw = chunk([hit(0, 0, 16)]) + bytes(24) + chunk([hit(0, 0, 32)])
    assert len(read(tmp_path / "a.tpx3", raw, tolerate=True).hits) == 2
    assert read(tmp_path / "a.tpx3", raw, tolerate=True).lost_words == 3
    with pytest.raises(FormatError, match="word 2 should begin a chunk with TPX3") as caught:
        read(tmp_path / "a.tpx3", raw)
    assert caught.value.complete == 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "begins with TPX3"),
        (b"MQ1,0000", "begins with TPX3, and not with b'MQ1,'"),
        (chunk([hit(0, 0, 16)])[:-3], "word 1 is cut off after 5 of 8 bytes"),
    ],
)
def test_what_is_no_raw_file_is_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "a.tpx3").write_bytes(raw)
    with pytest.raises(FormatError, match=words):
        Tpx3Reader(tmp_path / "a.tpx3")
    with pytest.raises(FormatError, match=r"events without frames; agents\.sources\.tpx3"):
        open_frames(tmp_path / "a.tpx3")


@pytest.mark.parametrize(
    ("chips", "gap_px", "words"),
    [
        ("quod", 0, "did you mean quad"),
        ([(0, 0, False), (0, 0, True)], 0, "places of their own"),
        ([(0, 99, False)], 0, "at most 16 chips"),
        ("quad", -1, "gap_px from 0"),
    ],
)
def test_chips_that_cannot_be_are_refused(chips: object, gap_px: int, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        ChipLayout.named(chips, gap_px)  # type: ignore[arg-type]
