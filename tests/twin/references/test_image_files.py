"""Images of other people: what is no image of counts is one sentence, told before memory is taken."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twin.formats import FormatError
from twin.references.image_files import read_image

GREY = np.arange(20 * 12).reshape(20, 12).astype(np.uint8)


def colours(*levels: float) -> np.ndarray:
    """The image with a channel for each level, scaled by it."""
    return np.stack([(GREY * level).astype(np.uint8) for level in levels], axis=-1)


def announced(shape: tuple[int, ...]) -> Callable[[Path], None]:
    """A writer of a .npy file whose header announces an array that is not there."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})

    return write


def bomb(path: Path) -> None:
    """A picture of 100,000 x 100,000 pixels in 100 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 16, 0, 0, 0, 0)
    parts = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def cut(suffix: str) -> Callable[[Path], None]:
    """A writer of the first half of a good file."""

    def write(path: Path) -> None:
        whole = path.with_name(f"whole{suffix}")
        np.save(whole, GREY) if suffix == ".npy" else Image.fromarray(GREY).save(whole)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 5 // 8])

    return write


def saved(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, values) if path.suffix == ".npy" else Image.fromarray(values).save(path)


NO_IMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a colour picture": ("a.png", saved(colours(1.0, 0.5, 0.2)), "a colour picture, which holds no counts"),
    "with opacity": ("a.png", saved(colours(1.0, 0.5, 0.2, 1.0)), "a colour picture"),
    "a colour .tif": ("a.tif", saved(colours(1.0, 0.5, 0.2)), "a colour picture"),
    "colours in .npy": ("a.npy", saved(colours(1.0, 0.5, 0.2)), "3 values for each pixel, as colours do"),
    "no rows": ("a.npy", saved(np.zeros((0, 5))), "rows and columns of numbers"),
    "one axis": ("a.npy", saved(np.zeros(5)), "rows and columns of numbers"),
    "complex": ("a.npy", saved(np.ones((4, 4), complex)), "type complex128"),
    "text": ("a.npy", saved(np.array([["a", "b"]])), "rows and columns of numbers"),
    "times": ("a.npy", saved(np.zeros((4, 4), "M8[s]")), "rows and columns of numbers"),
    "records": ("a.npy", saved(np.zeros((4, 4), [("x", "f4")])), "rows and columns of numbers"),
    "80 GB": ("a.npy", announced((100_000, 100_000)), "80000000000 bytes, and the file holds 0"),
    "beyond any memory": ("a.npy", announced((2**40, 2**40)), "and the file holds 0"),
    "negative sides": ("a.npy", announced((-1, 5)), "no image can be read"),
    "a picture of 1e10 pixels": ("a.png", bomb, "it announces 10000000000 pixels"),
    "half a .npy": ("a.npy", cut(".npy"), "cut off, or damaged"),
    "half a .tif": ("a.tif", cut(".tif"), "truncated"),
    "half a .png": ("a.png", cut(".png"), "truncated"),
    "an empty file": ("a.npy", Path.touch, "it ends too early, or is damaged"),
    "an empty picture": ("a.png", Path.touch, "no image can be read"),
    "half a .dm4": ("a.dm4", lambda path: path.write_bytes(b"\0\0\0\4" + bytes(9)) and None, "no image can be read"),
    "a folder": ("a.npy", Path.mkdir, "is a folder; a file is expected"),
    "a pipe": ("a.png", os.mkfifo, "is a pipe; a file is expected"),
    "a device": ("a.npy", lambda path: path.symlink_to("/dev/zero"), "is a device; a file is expected"),
    "a loop of links": ("a.npy", lambda path: path.symlink_to(path), "symbolic links"),
    "a link to nothing": ("a.npy", lambda path: path.symlink_to("nowhere"), "does not exist"),
    "a picture by name": ("a.jpg", Path.touch, r"no image format \.jpg"),
}


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_is_one_sentence(tmp_path: Path, kind: str) -> None:
    name, write, words = NO_IMAGES[kind]
    write(tmp_path / name)
    with pytest.raises(FormatError, match=words) as refused:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value) or name in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_in_colours_is_grey(tmp_path: Path, suffix: str) -> None:
    """As screenshots and many programs save it."""
    for number, picture in enumerate((colours(1, 1, 1), colours(1, 1, 1, 0.5))):
        Image.fromarray(picture).save(tmp_path / f"{number}{suffix}")
        np.testing.assert_array_equal(read_image(tmp_path / f"{number}{suffix}"), GREY)
    Image.fromarray(GREY).convert("P").save(tmp_path / f"table{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"table{suffix}"), GREY)


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "int32", "float32", "float64"])
def test_numbers_of_any_type_are_read(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", (GREY > 9).astype(dtype))
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy"), GREY > 9)


def test_a_narrow_stack_is_no_colour_picture(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3, 3)))
    assert read_image(tmp_path / "a.npy").shape == (3, 3)


def test_another_programs_reader_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """RosettaSciIO logs on standard output, where a command prints its result as JSON."""
    import logging

    from twin.formats.signals.dictionaries import silent

    with silent():
        logging.getLogger("rsciio.emd").error("an axis is odd")
    assert capfd.readouterr().out == ""
    assert logging.getLogger("rsciio").level <= logging.WARNING
