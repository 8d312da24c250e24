"""Images from files of many kinds, as numbers: references of a camera, and Ronchigrams of a folder."""

import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from twin.arrays import Floats
from twin.errors import nearest, printable
from twin.formats import file_checks
from twin.formats.dataset import LARGEST_SIDE, FormatError
from twin.formats.signals.dictionaries import read_dictionaries

ROSETTASCIIO = {".mrc": "mrc", ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".hspy": "hspy"}
PICTURES = (".tif", ".tiff", ".png")
COLOURED = ("P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Pillow's modes whose pixels are colours, or numbers in a table of them."""
COLOURS = (3, 4)
"""Values of a pixel in colour, without and with its opacity."""
MRC_HEADER_BYTES = 1024
SUFFIXES = (".npy", *PICTURES, *ROSETTASCIIO)
_A_SCAN = "is a scan, not an image: `stemtwin stream` makes images of it, by the agents adf or columns"
NO_IMAGES = dict.fromkeys((".zarr", ".mib", ".t3p", ".tpx3", ".blo", ".zspy"), _A_SCAN) | {
    ".npz": "holds several arrays: save the one you mean as .npy"
}
"""What else a file is whose suffix is none of `SUFFIXES`."""


def read_image(path: Path) -> Floats:
    """Return an image, (H, W); a stack of images is averaged.

    Args:
        path: of a file of one of `SUFFIXES`.

    Raises:
        FormatError: no such file, an unknown suffix, no image in it, or values that are no numbers.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "dark.npy"
        >>> np.save(path, np.stack([np.full((2, 3), 4), np.full((2, 3), 6)]))
        >>> read_image(path).tolist()
        [[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]
    """
    suffix = path.suffix.lower()
    if path.exists() and suffix in NO_IMAGES:
        raise FormatError(f"{path} {NO_IMAGES[suffix]}; known: {', '.join(SUFFIXES)}")
    file_checks.check_file(path)
    if suffix not in SUFFIXES:
        raise FormatError(
            f"{path.name}: no image format {suffix or '(no suffix)'}{nearest(suffix, SUFFIXES, 0.5)}; known:"
            f" {', '.join(SUFFIXES)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, for programmers
            values = _values(path, suffix)
    except FormatError:
        raise
    except Exception as error:  # readers of other formats raise anything
        raise FormatError(f"{path}: no image can be read from it: {_reason(error)}") from None
    return _checked(path, values)


def _reason(error: Exception) -> str:
    """Return in words why a library could not read a file."""
    if isinstance(error, struct.error | EOFError | IndexError) or str(error).startswith("EOF"):
        return "it ends too early, or is damaged"
    if "decompression bomb" in str(error):
        return f"it announces {str(error).partition('(')[2].partition(' ')[0] or 'too many'} pixels"
    return printable(error, 200) or type(error).__name__


def _values(path: Path, suffix: str) -> Any:
    if suffix == ".npy":
        return read_array(path)
    if suffix in PICTURES:
        return _picture(path)
    if suffix == ".hspy":
        from twin.formats.hdf5.checked import open_hdf5

        open_hdf5(path).close()
    if suffix == ".mrc" and path.stat().st_size < MRC_HEADER_BYTES:
        raise FormatError(f"{path}: no image can be read from it: an MRC file has a header of {MRC_HEADER_BYTES} bytes")
    # Lazily: its size is checked before it is read.
    signals = read_dictionaries(path, ROSETTASCIIO[suffix])
    images = [plain["data"] for plain in signals if plain["data"].ndim >= 2]
    return images[-1] if images else np.empty(0)  # DM files have a thumbnail first


def read_array(path: Path) -> Any:
    """Return the array of a .npy file, on disc still.

    Raises:
        FormatError: the file is shorter than the array that its header announces.
        ValueError: no such header.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "shifts.npy"
        >>> np.save(path, np.zeros((2, 3)))
        >>> read_array(path).shape
        (2, 3)
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        stored = path.stat().st_size - file.tell()
    need = math.prod(shape) * dtype.itemsize
    if need > stored and not dtype.hasobject:
        raise FormatError(
            f"{path}: cut off, or damaged: an array of {shape}, {dtype}, has {need} bytes, and the file holds {stored}"
        )
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _picture(path: Path) -> Any:
    """Return the frames of a picture in grey, (n, H, W).

    Raises:
        FormatError: in colour, or larger than the free memory.
    """
    from PIL import Image

    with Image.open(path) as picture:
        pixels = picture.width * picture.height * getattr(picture, "n_frames", 1)
        file_checks.check_memory(8 * pixels, f"{path}: a picture of {pixels} pixels")
        return np.stack([_grey(path, frame) for frame in _frames(picture)])


def _frames(picture: Any) -> Any:
    for number in range(getattr(picture, "n_frames", 1)):
        picture.seek(number)
        yield picture


def _grey(path: Path, picture: Any) -> Any:
    """Return the values of a picture; one with a palette, or with colours that are all alike, is grey.

    Raises:
        FormatError: its colours differ.
    """
    values = np.asarray(picture.convert("RGBA") if picture.mode in COLOURED else picture)
    if values.ndim == 2:
        return values
    grey = values[..., 0]
    if not all(np.array_equal(grey, values[..., number]) for number in (1, 2)):
        raise FormatError(f"{path}: a colour picture, which holds no counts: save the image in grey")
    return grey


def _checked(path: Path, values: Any) -> Floats:
    """Return the mean of a stack of images of numbers.

    Raises:
        FormatError: another shape or type, or too large.
    """
    shape, dtype = tuple(values.shape), np.dtype(values.dtype)
    if len(shape) < 2 or dtype.kind not in "buif" or min(shape) < 1 or max(shape[-2:]) > LARGEST_SIDE:
        raise FormatError(
            f"{path}: an image has rows and columns of numbers, at most {LARGEST_SIDE} of each; this has shape {shape},"
            f" type {dtype}"
        )
    if len(shape) > 2 and shape[-1] in COLOURS and max(shape[:-1]) > max(COLOURS):
        raise FormatError(
            f"{path}: an array of {shape} has {shape[-1]} values for each pixel, as colours do; an image has one, and"
            " the frames of a stack come first"
        )
    file_checks.check_memory(8 * math.prod(shape), f"{path}: an array of {shape}")
    image = np.asarray(values, np.float64)
    return np.asarray(image.reshape(-1, *shape[-2:]).mean(axis=0), np.float64)
