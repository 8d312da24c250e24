"""Images from files of many kinds, as numbers: references of a camera, and Ronchigrams of a folder."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from twin.arrays import Floats
from twin.errors import nearest
from twin.formats import file_checks
from twin.formats.dataset import LARGEST_SIDE, FormatError

ROSETTASCIIO = {".mrc": "mrc", ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".hspy": "hspy"}
PICTURES = (".tif", ".tiff", ".png")
MRC_HEADER_BYTES = 1024
SUFFIXES = (".npy", *PICTURES, *ROSETTASCIIO)


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
    file_checks.check_file(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FormatError(
            f"{path.name}: no image format {suffix or '(no suffix)'}{nearest(suffix, SUFFIXES, 0.5)}; known:"
            f" {', '.join(SUFFIXES)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the readers, for programmers
            values = _values(path, suffix)
    except FormatError:
        raise
    except Exception as error:  # readers of other formats raise anything
        text = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(f"{path}: no image can be read from it: {text[:200]}") from None
    return _checked(path, values)


def _values(path: Path, suffix: str) -> Any:
    if suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if suffix in PICTURES:
        from PIL import Image

        with Image.open(path) as picture:
            pixels = picture.width * picture.height * getattr(picture, "n_frames", 1)
            file_checks.check_memory(8 * pixels, f"{path}: a picture of {pixels} pixels")
            return np.stack([np.asarray(frame) for frame in _frames(picture)])
    if suffix == ".hspy":
        from twin.formats.hdf5.checked import open_hdf5

        open_hdf5(path).close()
    if suffix == ".mrc" and path.stat().st_size < MRC_HEADER_BYTES:
        raise FormatError(f"{path}: no image can be read from it: an MRC file has a header of {MRC_HEADER_BYTES} bytes")
    file_reader = importlib.import_module(f"rsciio.{ROSETTASCIIO[suffix]}").file_reader
    # Lazily: its size is checked before it is read.
    images = [plain["data"] for plain in file_reader(str(path), lazy=True) if plain["data"].ndim >= 2]
    return images[-1] if images else np.empty(0)  # DM files have a thumbnail first


def _frames(picture: Any) -> Any:
    for number in range(getattr(picture, "n_frames", 1)):
        picture.seek(number)
        yield picture


def _checked(path: Path, values: Any) -> Floats:
    """Return the mean of a stack of images of numbers.

    Raises:
        FormatError: another shape or type, or too large.
    """
    shape, dtype = tuple(values.shape), np.dtype(values.dtype)
    if len(shape) < 2 or dtype.kind not in "buif" or min(shape) < 1 or max(shape[-2:]) > LARGEST_SIDE:
        raise FormatError(f"{path}: an image has rows and columns of numbers; this has shape {shape}, type {dtype}")
    file_checks.check_memory(8 * int(np.prod(shape)), f"{path}: an array of {shape}")
    image = np.asarray(values, np.float64)
    return np.asarray(image.reshape(-1, *shape[-2:]).mean(axis=0), np.float64)
