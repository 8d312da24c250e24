"""HDF5 files that are damaged or mean harm: one sentence, and an end."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from agents.sources.files import FileSource
from twin import formats
from twin.formats import FormatError, Layout, Metadata
from twin.formats.hdf5 import checked, walk

DATA = "Experiments/4D-STEM/data"
FRAMES = np.random.default_rng(0).poisson(3, (12, 8, 8)).astype(np.uint16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with formats.create(tmp_path / "a.hspy", Layout((3, 4), (8, 8)), Metadata(step_nm=0.1)) as writer:
        writer.append(FRAMES)
    return tmp_path / "a.hspy"


def refused(path: Path) -> str:
    """The one sentence of a file that is not read; nothing but a FormatError."""
    with pytest.raises(FormatError) as error, formats.open_frames(path) as reader:
        for _ in reader.blocks():
            pass
    words = str(error.value)
    assert "\n" not in words
    assert str(path) in words or path.name in words
    return words


def replace_data(path: Path, make: Callable[[h5py.Group], None]) -> None:
    with h5py.File(path, "r+") as file:
        group = file[DATA].parent
        del group["data"]
        make(group)


def test_counts_in_a_file_beside_it_are_not_read(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(2 * 12 * 64))
    replace_data(
        path, lambda group: group.create_dataset("data", (3, 4, 8, 8), "u2", external=[(str(secret), 0, 1536)])
    )
    assert "external storage" in refused(path)


def test_virtual_datasets_of_other_files_are_not_read(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "other.hspy")
    layout = h5py.VirtualLayout((3, 4, 8, 8), "u2")
    layout[...] = h5py.VirtualSource(str(tmp_path / "other.hspy"), DATA, (3, 4, 8, 8))
    replace_data(path, lambda group: group.create_virtual_dataset("data", layout))
    assert "virtual dataset" in refused(path)


@pytest.mark.parametrize("where", ["data", "axis-0", "metadata"])
def test_links_to_other_files_are_not_followed(path: Path, tmp_path: Path, where: str) -> None:
    shutil.copy(path, tmp_path / "other.hspy")
    with h5py.File(path, "r+") as file:
        del file[f"Experiments/4D-STEM/{where}"]
        file[f"Experiments/4D-STEM/{where}"] = h5py.ExternalLink(
            str(tmp_path / "other.hspy"), "/Experiments/4D-STEM/data"
        )
    assert "link to another file" in refused(path)


def test_a_link_to_a_link_to_another_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "other.hspy")
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.hspy"), "/Experiments")
        del file[DATA]
        file[DATA] = h5py.SoftLink("/elsewhere/4D-STEM/data")
    assert "another file" in refused(path)


@pytest.mark.parametrize("target", ["/Experiments/4D-STEM/data", "/nowhere", "/b"])
def test_links_that_lead_to_themselves_or_nowhere_are_one_sentence(path: Path, target: str) -> None:
    with h5py.File(path, "r+") as file:
        file["b"] = h5py.SoftLink("/c")
        file["c"] = h5py.SoftLink("/b")
        del file[DATA]
        file[DATA] = h5py.SoftLink(target)
    refused(path)


@pytest.mark.parametrize("link", [h5py.SoftLink("/Experiments"), None])
def test_groups_within_themselves_are_refused(path: Path, link: h5py.SoftLink | None) -> None:
    with h5py.File(path, "r+") as file:
        file["Experiments/4D-STEM/metadata/again"] = file["Experiments"] if link is None else link
    assert "contains itself" in refused(path)


def test_links_that_nobody_needs_are_no_reason(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["Experiments/4D-STEM/same"] = h5py.SoftLink("/Experiments/4D-STEM/data")
    with formats.open_frames(path) as reader:
        assert np.array_equal(reader.read(0, 12), FRAMES)


def test_depth_and_number_are_limited(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("/".join("g" * 200))
    with pytest.raises(walk.Refused, match="64 groups deep"):
        walk.walk(str(path))
    monkeypatch.setattr(walk, "MOST_OBJECTS", 5)
    with pytest.raises(walk.Refused, match="more than 5"):
        walk.walk(str(path))


def test_a_missing_filter_is_named(path: Path) -> None:
    def compressed(group: h5py.Group) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 4, 8, 8))
        plist.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, (0,))
        kind, space = h5py.h5t.py_create(np.dtype("u2")), h5py.h5s.create_simple((3, 4, 8, 8))
        h5py.h5d.create(group.id, b"data", kind, space, dcpl=plist)

    replace_data(path, compressed)
    assert "filter 31999 (unknown), which is not installed: pip install 'stemtwin[arina]'" in refused(path)


def test_a_file_cut_off_says_so(path: Path) -> None:
    whole = path.read_bytes()
    for part in (0.3, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert re.search("truncated|cut off", refused(path))


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:

    os.mkfifo(tmp_path / "pipe.hspy")
    (tmp_path / "folder.hspy").mkdir()
    for name in ("pipe.hspy", "folder.hspy"):
        assert re.search("not a regular file|is a pipe", refused(tmp_path / name))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import time; time.sleep(60)", "finds no end"),
        ("while True: pass", "finds no end"),
        ("import os; os.abort()", "crashes"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_structure_that_loops_or_crashes_is_ended(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    (tmp_path / "walk.py").write_text(program)
    monkeypatch.setattr(checked.walk, "__file__", str(tmp_path / "walk.py"))
    monkeypatch.setattr(checked, "LIMIT_S", 1)
    began = time.monotonic()
    assert words in refused(path)
    assert time.monotonic() - began < 30


def test_a_good_file_is_checked_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *given, **more: calls.append(given) or run(*given, **more))
    for _ in range(3):
        formats.open_frames(path).close()
    assert len(calls) == 1
    with h5py.File(path, "r+") as file:
        file.attrs["changed"] = 1
    formats.open_frames(path).close()
    assert len(calls) == 2


def test_the_check_needs_neither_this_package_nor_a_terminal(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", walk.__file__, str(path), "10"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout) == {"links": {}}
    assert not re.search(r"\b(twin|pydantic|torch|dask)\b", done.stderr.replace(str(path), ""))


def damaged_chunk(path: Path) -> None:
    """A chunk of 4 frames whose counts cannot be unpacked: gzip of nonsense, written as it is."""

    def compressed(group: h5py.Group) -> None:
        data = group.create_dataset(
            "data", (3, 4, 8, 8), "u2", FRAMES.reshape(3, 4, 8, 8), chunks=(1, 4, 8, 8), compression="gzip"
        )
        data.id.write_direct_chunk((1, 0, 0, 0), b"nonsense" * 8)

    replace_data(path, compressed)


def test_a_damaged_chunk_is_named_by_its_frames_and_left_out(path: Path) -> None:
    damaged_chunk(path)
    assert "frames 4 to 7 cannot be read" in refused(path)
    with formats.open_frames(path, tolerate=True) as reader:
        blocks = list(reader.blocks())
        assert [(first, len(frames)) for first, frames in blocks] == [(0, 4), (8, 4)]
        assert all(np.array_equal(frames, FRAMES[first : first + 4]) for first, frames in blocks)
        assert "frames 4 to 7" in reader.notes[0]
        assert reader.acquired.sum() == 8
    with FileSource(path) as source:
        assert sum(len(block.frames) for block in source.blocks()) == 8
        assert source.health.missing == 4
        assert source.health.fault_count == 1


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from twin import formats
writer = formats.create(Path(sys.argv[1]), formats.Layout((16, 16), (64, 64), "uint16"))
# A limit of the file's size fails as a full disc does.
resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))
try:
    with writer:
        for row in range(16):
            writer.append(np.full((16, 64, 64), row, np.uint16))
except OSError as error:
    print(writer.count, error.strerror)
"""


def test_a_full_disc_is_an_error_and_what_was_written_is_read(tmp_path: Path) -> None:
    """HDF5 itself ends the program with SIGSEGV."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "a.hspy")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "80 File too large\n"
    with formats.open_frames(tmp_path / "a.hspy") as reader:
        assert reader.extent == 80
        assert [int(frame[0, 0]) for frame in reader.read(0, 80)[::16]] == [0, 1, 2, 3, 4]


def test_a_file_that_cannot_be_created_leaves_nothing(tmp_path: Path) -> None:
    program = FULL.replace("writer = ", "").replace("formats.create", "make = lambda: formats.create")
    program = (
        program.replace("with writer:", "with make() as writer:")
        .replace("writer.count", "0")
        .replace("700_000", "3_000")
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.hspy")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "a.hspy").exists()


def test_a_scan_that_does_not_fit_on_the_disc_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"the scan takes 1\.41e\+05 GB, and its disc has .* GB free"):
        formats.create(tmp_path / "a.hspy", Layout((2**15, 2**13), (512, 512)))
    assert not (tmp_path / "a.hspy").exists()


KINDS = ("byte", "bytes", "block", "cut", "swap")


def mutated(whole: bytes, rng: random.Random) -> bytes:
    changed, kind = bytearray(whole), rng.choice(KINDS)
    at = rng.randrange(len(changed) - 64)
    if kind == "cut":
        return bytes(changed[:at])
    if kind == "swap":
        other, size = rng.randrange(len(changed) - 64), rng.randrange(1, 64)
        changed[at : at + size], changed[other : other + size] = changed[other : other + size], changed[at : at + size]
    elif kind == "block":
        changed[at : at + 40] = bytes([rng.choice([0, 255])]) * 40
    else:
        for _ in range(1 if kind == "byte" else rng.randrange(2, 30)):
            changed[rng.randrange(len(changed))] = rng.choice([0, 255, rng.randrange(256)])
    return bytes(changed)


def test_mutated_files_are_refused_or_read(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process for many files, so that it takes seconds: it dies where HDF5 does, and goes on with the next."""
    rng, whole = random.Random(7), path.read_bytes()
    files = [tmp_path / f"{number}.hspy" for number in range(60)]
    for file in files:
        file.write_bytes(mutated(whole, rng))
    program = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import walk; walk.limit(2)\n"
        "for name in sys.argv[2:]:\n"
        "    try: answer = {'links': walk.walk(name)}\n"
        "    except walk.Refused as refused: answer = {'fault': str(refused)}\n"
        "    print(json.dumps(answer), flush=True)"
    )
    answers: list[dict[str, object]] = []
    while len(answers) < len(files):
        names = [str(file) for file in files[len(answers) :]]
        command = [sys.executable, "-P", "-c", program, str(Path(walk.__file__).parent), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answers += [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode:
            answers.append({"fault": f"ended by {done.returncode}"})

    def as_answered(file: Path) -> dict[str, str]:
        answer = answers[files.index(file)]
        if "fault" in answer:
            raise FormatError(f"{file}: {answer['fault']}")
        return {}

    monkeypatch.setattr(checked, "_walk_elsewhere", as_answered)
    results = [frames_or_words(file) for file in files]
    read = [result for result in results if not isinstance(result, str)]
    assert 10 < len(read) < 50
    assert all("\n" not in result for result in results if isinstance(result, str))
    assert all(frames.dtype.kind == "u" and frames.shape[1:] == (8, 8) for frames in read if len(frames) == 12)


def frames_or_words(file: Path) -> np.ndarray | str:
    try:
        with formats.open_frames(file) as reader:
            return reader.read(0, min(reader.layout.count, 100))
    except FormatError as error:
        return str(error)
