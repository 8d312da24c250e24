"""Files that other programs and cameras recorded: do they open with the counts that another decoder reads.

    python -m benchmarks.files.recorded FOLDER ...

prints a row for each format: files, those whose counts are the same, those whose counts differ, and why the others are
refused. The files are not part of this repository: RosettaSciIO's are in `rsciio/tests/data` of its own (its archives
unpacked), recorded .mib in `mib_examples` of read_mib.

The other decoder is RosettaSciIO's reader, which is not what ours uses for .hspy, .zspy, .mib and Dectris. Raw .mib,
which it does not read, are decoded bit by bit from integers of Python; .blo, for which it needs scikit-image, by
numpy's record arrays.
"""

import importlib
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from twin.formats import READERS, FormatError, open_frames
from twin.formats.merlin_header import LONGEST_BYTES, parse_header

OTHERS = {
    ".mib": "quantumdetector",
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",
    ".h5": "emd",
    ".hdf5": "hspy",
    ".hspy": "hspy",
    ".mrc": "mrc",
    ".xml": "empad",
    ".zspy": "zspy",
}
"""Module of RosettaSciIO that reads a suffix."""
REASONS = {
    "1 of the camera": "spectra",
    "an energy": "spectra",
    "EDS spectra": "with EDS spectra",
    "object dtype": "objects",
    "3 axes of the scan": "five dimensions",
    "are complex": "complex values",
    "counts are whole numbers": "values that are no counts",
    "holds no counts": "colour images",
    "hdf5plugin": "need hdf5plugin",
    "beside it": "without their raw file",
    "neither of": "of another program",
}
"""Part of a refusal, and what it says in a word for the table; the first that fits."""


@dataclass
class Tally:
    """Files of one format.

    Attributes:
        equal: how many have the same counts.
        differ: those whose counts differ.
        alone: those that the other decoder cannot read, with its reason.
        refused: how many are refused, by reason.
        sentences: the first refusal of each reason.
    """

    equal: int = 0
    differ: list[Path] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    sentences: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> int:
        return self.equal + len(self.differ) + len(self.alone) + self.refused.total()


def tallies(folders: list[Path]) -> dict[str, Tally]:
    """Read everything in `folders` that has a suffix of ours, by suffix."""
    found: dict[str, Tally] = {}
    for path in _files(folders):
        tally = found.setdefault(path.suffix.lower(), Tally())
        try:
            with open_frames(path) as reader:
                frames = reader.read(0, reader.extent)
        except FormatError as error:
            words = " ".join(str(error).split())
            reason = next((short for part, short in REASONS.items() if part in words), "another reason")
            tally.refused[reason] += 1
            tally.sentences.setdefault(reason, words)
            continue
        try:
            same = same_counts(path, frames)
        except Exception as error:  # the other decoder's, which may raise anything
            tally.alone.append(f"{path}: {error}")
            continue
        if same:
            tally.equal += 1
        else:
            tally.differ.append(path)
    return found


def _files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            inside = any(parent.suffix == ".zspy" for parent in path.parents)
            if path.suffix.lower() in READERS and not inside and (path.is_file() or path.suffix == ".zspy"):
                yield path


def same_counts(path: Path, frames: np.ndarray) -> bool:
    """Whether another decoder finds the same counts in the file, in the order of frames and pixels."""
    return any(
        array.size == frames.size and np.array_equal(np.asarray(array, np.float64).ravel(), frames.ravel())
        for array in other_arrays(path)
    )


def other_arrays(path: Path) -> Iterator[Any]:
    """Yield all arrays that another decoder reads from the file, counts of EMPAD rounded as ours are."""
    suffix = path.suffix.lower()
    if suffix == ".mib":
        head = parse_header(path.read_bytes()[:LONGEST_BYTES])
        if head.pixel == "R64":
            yield raw_bits(path, head.length, head.height, head.width, head.chips)
            return
    if suffix == ".blo":
        yield block_file(path)
        return
    name = "arina" if path.name.endswith("_master.h5") else OTHERS[suffix]
    reader = importlib.import_module(f"rsciio.{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".mib":
            yield reader.load_mib_data(str(path))  # the reader of whole files turns rows upside down
            return
        for plain in reader.file_reader(str(path)):
            data = np.asarray(plain["data"])
            if data.dtype.kind in "buif":
                yield np.clip(np.rint(data), 0, None) if suffix == ".xml" else data


def raw_bits(path: Path, header_bytes: int, height: int, width: int, chips: int) -> np.ndarray:
    """Decode raw frames of 1 bit: pixel k of 64 is bit k of its word; four chips come as 4 3 2 1, 3 and 4 turned."""
    stored, images = path.read_bytes(), []
    stride = header_bytes + height * width // 8
    for begin in range(header_bytes, len(stored), stride):
        words = [int.from_bytes(stored[at : at + 8], "big") for at in range(begin, begin + height * width // 8, 8)]
        plane = np.array([word >> bit & 1 for word in words for bit in range(64)]).reshape(height, width)
        if chips == 4:
            four, three, two, one = (plane[:, 256 * chip : 256 * (chip + 1)] for chip in range(4))
            plane = np.block([[one, two], [np.rot90(three, 2), np.rot90(four, 2)]])
        images.append(plane)
    return np.array(images)


def block_file(path: Path) -> np.ndarray:
    """Frames of a block file: each is a square of bytes behind six bytes of its own."""
    stored = path.read_bytes()
    begin, side, columns, rows = (int.from_bytes(stored[at : at + size], "little") for at, size in _BLO_FIELDS)
    record = np.dtype([("mark", "u1", 6), ("frame", "u1", (side, side))])
    return np.frombuffer(stored, record, rows * columns, begin)["frame"]


_BLO_FIELDS = ((12, 4), (20, 2), (24, 2), (26, 2))
"""Place and size of the beginning of the frames, their side, columns and rows of the scan."""


def table(found: dict[str, Tally]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| suffix | files | same counts | other counts | read here only | refused |"
    yield "|---|---|---|---|---|---|"
    for suffix, tally in sorted(found.items()):
        why = ", ".join(f"{number} {reason}" for reason, number in tally.refused.most_common()) or "0"
        yield f"| `{suffix}` | {tally.files} | {tally.equal} | {len(tally.differ)} | {len(tally.alone)} | {why} |"


if __name__ == "__main__":
    every = tallies([Path(name) for name in sys.argv[1:]])
    print("\n".join(table(every)))
    for tally in every.values():
        print(*(f"differs: {path}" for path in tally.differ), *tally.alone, *tally.sentences.values(), sep="\n")
