"""Damaged and missing chunks of scans and recordings: named, with the frames they hold, and what is whole is read."""

import json
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from agents.sources.files import FileSource
from twin import formats
from twin.day import Day
from twin.formats import FormatError, Layout, Metadata
from twin.instrument.recorder import RecordingMicroscope, ResumedMicroscope
from twin.instrument.recording import Recording, RecordingWriter
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER
from twin.types import Frame

FRAMES = np.random.default_rng(0).poisson(3, (12, 8, 8)).astype(np.uint16)
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "empty": lambda whole: b"",
    "flipped": lambda whole: whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:],
    "other": lambda whole: b"nonsense" * 20,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "a.zarr")
    return tmp_path / "a.zarr"


def write(path: Path, scan: tuple[int, ...] = (3, 4)) -> None:
    with formats.create(path, Layout(scan, (8, 8)), Metadata(step_nm=0.1)) as writer:
        writer.append(FRAMES)


def read(path: Path) -> np.ndarray:
    with formats.open_frames(path) as reader:
        return np.concatenate([frames for _, frames in reader.blocks()])


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_sentence_names_file_chunk_and_frames(path: Path, damage: str) -> None:
    chunk = path / "frames/c/1/0/0/0"
    chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    with pytest.raises(
        FormatError, match=r"a\.zarr: the chunk frames/c/1/0/0/0 with frames 4 to 7 is damaged: "
    ) as error:
        read(path)
    assert (error.value.complete, error.value.lost) == (4, 4)


def test_a_missing_chunk_is_not_zeros(path: Path) -> None:
    (path / "frames/c/2/0/0/0").unlink()
    with pytest.raises(FormatError, match="the chunk frames/c/2/0/0/0 with frames 8 to 11 is missing"):
        read(path)


def test_a_missing_chunk_of_an_unfinished_row_is_told_and_one_not_reached_is_not(tmp_path: Path) -> None:
    with formats.create(tmp_path / "a.zarr", Layout((3, 4), (8, 8))) as writer:
        writer.append(FRAMES[:6])
    with formats.open_frames(tmp_path / "a.zarr") as reader:
        assert np.array_equal(reader.read(0, 12)[:6], FRAMES[:6])
        assert not reader.read(8, 4).any()
    (tmp_path / "a.zarr/frames/c/1/0/0/0").unlink()
    with pytest.raises(FormatError, match="frames 4 to 7 is missing"):
        read(tmp_path / "a.zarr")


def test_dark_frames_are_stored_and_read(tmp_path: Path) -> None:
    with formats.create(tmp_path / "a.zarr", Layout((2, 3), (8, 8))) as writer:
        writer.append(np.zeros((6, 8, 8), np.uint16))
    assert not read(tmp_path / "a.zarr").any()
    (tmp_path / "a.zarr/frames/c/0/0/0/0").unlink()
    with pytest.raises(FormatError, match="is missing"):
        read(tmp_path / "a.zarr")


def test_dark_frames_of_older_files_are_read(path: Path) -> None:
    """Files without the attribute `complete_chunks` may lack chunks of zeros."""
    about = path / "zarr.json"
    plain = json.loads(about.read_text())
    del plain["attributes"]["complete_chunks"]
    about.write_text(json.dumps(plain))
    (path / "frames/c/1/0/0/0").unlink()
    frames = read(path)
    assert not frames[4:8].any()
    assert np.array_equal(frames[:4], FRAMES[:4])


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
@pytest.mark.parametrize(("scan", "chunk", "lost"), [((3, 4), "1/0/0/0", range(4, 8)), ((12,), "0/0/0", range(12))])
def test_tolerate_goes_on_without_them(
    tmp_path: Path, scan: tuple[int, ...], chunk: str, lost: range, damage: str
) -> None:
    write(tmp_path / "a.zarr", scan)
    file = tmp_path / f"a.zarr/frames/c/{chunk}"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    left = [k for k in range(12) if k not in lost]
    for size in (None, 1, 5):
        with formats.open_frames(tmp_path / "a.zarr", tolerate=True) as reader:
            got = [(first + k, frame) for first, frames in reader.blocks(size) for k, frame in enumerate(frames)]
            assert [k for k, _ in got] == left
            assert all(np.array_equal(frame, FRAMES[k]) for k, frame in got)
            assert np.flatnonzero(reader.acquired).tolist() == left
            assert len(reader.notes) == 1
    with FileSource(tmp_path / "a.zarr") as source:
        assert sum(len(block.frames) for block in source.blocks()) == len(left)
        assert (source.health.missing, source.health.fault_count) == (len(lost), 1)


def test_a_damaged_mask_is_named_and_its_row_left_out(path: Path) -> None:
    (path / "acquired/c/1/0").write_bytes(b"x")
    with pytest.raises(FormatError, match="the chunk acquired/c/1/0 with frames 4 to 7 is damaged"):
        read(path)
    with formats.open_frames(path, tolerate=True) as reader:
        assert np.flatnonzero(reader.acquired).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
        assert "acquired/c/1/0" in reader.notes[0]
    with FileSource(path) as source:
        assert sum(len(block.frames) for block in source.blocks()) == 8
        assert source.health.fault_count == 1


def test_a_row_of_several_chunks_loses_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.formats.dataset.BLOCK_BYTES", 3 * 128)  # three frames a chunk
    write(tmp_path / "a.zarr", (1, 12))
    (tmp_path / "a.zarr/frames/c/0/2/0/0").write_bytes(b"x")
    with formats.open_frames(tmp_path / "a.zarr", tolerate=True) as reader:
        assert [k for first, frames in reader.blocks(12) for k in range(first, first + len(frames))] == [
            0,
            1,
            2,
            3,
            4,
            5,
            9,
            10,
            11,
        ]
        assert "with frames 6 to 8 is damaged" in reader.notes[0]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Frame]]:
    """A recording of four frames; tests damage a copy."""
    path = tmp_path_factory.mktemp("recorded") / "whole.zarr"
    microscope = RecordingMicroscope(SimulatedMicroscope(Optics(), FIRST_ORDER, Day()), path)
    microscope.reset(np.random.default_rng(0))
    return path, [microscope.acquire() for _ in range(4)]


Recorded = tuple[Path, list[Frame]]


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
@pytest.mark.parametrize("array", ["counts", "table"])
def test_a_recording_names_its_damaged_frame(tmp_path: Path, recorded: Recorded, array: str, damage: str) -> None:
    shutil.copytree(recorded[0], tmp_path / "a.zarr")
    chunk = next(file for file in (tmp_path / f"a.zarr/{array}/c/2").rglob("*") if file.is_file())
    if damage == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    with pytest.raises(FormatError, match=rf"a\.zarr: the chunk {array}/c/2/0.* with frame 2 is (damaged|missing)"):
        Recording(tmp_path / "a.zarr").frame(2)
    if array == "counts":
        assert Recording(tmp_path / "a.zarr").frame(3) == recorded[1][3]


def test_a_session_on_a_damaged_recording_is_not_taken_up(tmp_path: Path, recorded: Recorded) -> None:
    shutil.copytree(recorded[0], tmp_path / "a.zarr")
    (tmp_path / "a.zarr/counts/c/1/0/0").write_bytes(b"x")
    microscope = ResumedMicroscope(SimulatedMicroscope(Optics(), FIRST_ORDER, Day()), tmp_path / "a.zarr")
    microscope.reset(np.random.default_rng(0))
    microscope.acquire()
    with pytest.raises(FormatError, match="the chunk counts/c/1/0/0 with frame 1 is damaged"):
        microscope.acquire()
    (tmp_path / "a.zarr/table/c/1/0").write_bytes(b"x")
    with pytest.raises(FormatError, match="the chunk table/c/1/0 with frame 1 is damaged"):
        ResumedMicroscope(SimulatedMicroscope(Optics(), FIRST_ORDER, Day()), tmp_path / "a.zarr")


def test_a_frame_is_on_the_disc_before_acquire_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    microscope = RecordingMicroscope(SimulatedMicroscope(Optics(), FIRST_ORDER, Day()), tmp_path / "a.zarr")
    microscope.reset(np.random.default_rng(0))
    synced: list[str] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        synced.append(str(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path / "a.zarr")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    for k in range(2):
        synced.clear()
        microscope.acquire()
        counts, row = synced.index(f"counts/c/{k}/0/0"), synced.index(f"table/c/{k}/0")
        assert counts < row  # a frame that has a clock is whole
        # The names of new files are in their folders, and the number of frames in zarr.json.
        assert {
            "counts/zarr.json",
            "table/zarr.json",
            "counts/c",
            f"counts/c/{k}",
            f"counts/c/{k}/0",
            "table/c",
        } <= set(synced)


TIMES = int(os.environ.get("STEMTWIN_MUTATIONS", "40"))
"""Mutated files of each kind; more by the environment, for a longer search."""
ODD = (None, True, -1, 0, 7, 2**63, 1.5, float("nan"), "", "x", "<u2", "gzip", [], [1], {}, [10**9] * 4, [0, 0, 0, 0])


def mutate(file: Path, rng: random.Random) -> None:
    """Change a byte or many, cut, or replace a value of a JSON file by an odd one."""
    whole = bytearray(file.read_bytes())
    if file.name == "zarr.json" and rng.random() < 0.7:
        plain = json.loads(whole)
        place = plain
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
                break
            place = place[key]
        place[key] = rng.choice(ODD)
        file.write_text(json.dumps(plain))
    elif rng.random() < 0.2:
        file.unlink()
    else:
        for _ in range(rng.choice([1, 1, 20])):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        file.write_bytes(whole[: rng.choice([None, rng.randrange(len(whole))])])


def assert_one_line(error: FormatError) -> None:
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["scan", "recording"])
def test_mutated_files_are_refused_or_right(tmp_path: Path, recorded: Recorded, kind: str) -> None:
    rng, whole = random.Random(11), recorded[0]
    if kind == "scan":
        whole = tmp_path / "whole.zarr"
        write(whole)
    refused = 0
    for number in range(TIMES):
        path = tmp_path / f"{number}.zarr"
        shutil.copytree(whole, path)
        mutate(rng.choice(sorted(file for file in path.rglob("*") if file.is_file())), rng)
        try:
            if kind == "scan":
                with formats.open_frames(path) as reader:
                    for first, frames in reader.blocks():
                        assert np.array_equal(frames, FRAMES[first : first + len(frames)])
            else:
                recording = Recording(path)
                for place in range(recording.count):
                    assert recording.frame(place) == recorded[1][place]
                for session in range(len(recording.sessions)):
                    recording.trace(session)
        except FormatError as error:
            assert_one_line(error)
            refused += 1
        shutil.rmtree(path)
    assert TIMES // 2 < refused < TIMES


def test_a_chunk_that_does_not_fit_into_memory_is_refused(path: Path) -> None:
    about = path / "frames/zarr.json"
    plain = json.loads(about.read_text())
    plain["chunk_grid"]["configuration"]["chunk_shape"] = [1, 4, 2**20, 2**20]
    about.write_text(json.dumps(plain))
    with pytest.raises(FormatError, match="do not fit into memory"):
        read(path)


def test_a_recording_goes_on_where_an_older_one_ended(tmp_path: Path, recorded: Recorded) -> None:
    """A recording of an earlier version has neither checksums nor chunks of zeros."""
    shutil.copytree(recorded[0], tmp_path / "a.zarr")
    about = tmp_path / "a.zarr/zarr.json"
    plain = json.loads(about.read_text())
    del plain["attributes"]["complete_chunks"]
    about.write_text(json.dumps(plain))
    capabilities = SimulatedMicroscope(Optics(), FIRST_ORDER, Day()).capabilities
    writer = RecordingWriter(tmp_path / "a.zarr", capabilities, again=True)
    writer.append(recorded[1][0], np.zeros(3), np.zeros(3), None)
    assert Recording(tmp_path / "a.zarr").frame(4) == recorded[1][0]
    assert isinstance(zarr.open_group(tmp_path / "a.zarr", mode="r")["counts"], zarr.Array)


@pytest.mark.parametrize("name", ["zstd", "gzip", "blosc"])
def test_a_chunk_that_unpacks_to_more_is_not_unpacked(tmp_path: Path, name: str) -> None:
    """32 MiB of ones pack into some kilobytes."""
    path = tmp_path / "a.zarr"
    write(path)
    codec = {"zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec()}[name]
    shutil.rmtree(path / "frames")
    group = zarr.open_group(path, mode="r+")
    group.create_array("frames", data=FRAMES.reshape(3, 4, 8, 8), chunks=(1, 4, 8, 8), compressors=codec)
    assert np.array_equal(read(path), FRAMES)
    bomb = tmp_path / "bomb.zarr"
    zarr.create_array(bomb, data=np.ones(2**24, np.uint16), chunks=(2**24,), compressors=codec)
    packed = next(file for file in (bomb / "c").rglob("*") if file.is_file())
    assert packed.stat().st_size < 2**20
    shutil.copy(packed, path / "frames/c/1/0/0/0")
    tracemalloc.start()
    with pytest.raises(FormatError, match="frames 4 to 7 is damaged: it unpacks to more than its 512 bytes"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
