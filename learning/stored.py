"""Files that trainings keep between two calls: tensors written whole or not at all, and simulated arrays read back."""

import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from twin.errors import StemtwinError, reason
from twin.text.aside import written_aside


class DamagedFile(StemtwinError, ValueError):
    """A file of a training that cannot be gone on with."""


def save_whole(path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
    """Write tensors and words about them, whole or not at all.

    Raises:
        OSError: it cannot be written, for example on a full disc; an earlier file is as it was.
    """
    with written_aside(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # as the user has it; safetensors would let nobody else read
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, dict(words))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        partial.chmod(mode)


def read_simulated(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file, by name.

    Raises:
        DamagedFile: cut off, or something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "frames.npz"
        >>> np.savez(path, counts=np.arange(3))
        >>> read_simulated(path)["counts"].tolist()
        [0, 1, 2]
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # which leaves a damaged one open
            return dict(file)
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error) as error:
        raise DamagedFile(f"{path}: damaged; delete it, and it is simulated anew ({reason(error)})") from error
