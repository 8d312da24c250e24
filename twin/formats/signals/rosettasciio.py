"""Files that RosettaSciIO reads well, behind this package's seam: EMPAD, DM3 and DM4, EMD (Berkeley, Velox), MRC.

Lazily: RosettaSciIO returns dask arrays, of which each block reads its part. Axes and beam are taken as in .hspy
files; what a reader of RosettaSciIO is known to make up is left out.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from twin.formats import file_checks
from twin.formats.dataset import FormatError, first_line, told
from twin.formats.signals.axes import Axis
from twin.formats.signals.dictionaries import read_dictionaries, silent
from twin.formats.signals.reader import Signal, SignalReader, choose

MODULES = {".xml": "empad", ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".mrc": "mrc"}
"""Module of RosettaSciIO by suffix."""
EMPAD_FRAME_BYTES = 130 * 128 * 4
MOST_XML = 2**22
"""Largest description of an EMPAD acquisition that is read, bytes."""


class RosettaReader(SignalReader):
    """Reads a file with RosettaSciIO: the signal with the most scan axes.

    Args:
        path: of the file.
        tolerate: leave out frames that cannot be read, and note them, instead of raising.
        module: of RosettaSciIO; None: by the suffix.

    Raises:
        FormatError: not of this format, damaged, data in other files, or values that are not counts.
    """

    def __init__(self, path: Path, tolerate: bool = False, module: str | None = None) -> None:
        self.tolerate = tolerate
        name = module or MODULES[path.suffix.lower()]
        check = CHECKS.get(name)
        with told(path):
            if check is not None:
                check(path)
            signals = [_signal(name, plain) for plain in _read(path, name)]
            super().__init__(path, choose(path, signals), _nothing)


def _nothing() -> None:
    """Do nothing: RosettaSciIO's lazy arrays close their files when they are freed."""


def _read(path: Path, module: str) -> list[dict[str, Any]]:
    """Return what RosettaSciIO reads, as HyperSpy's dictionaries.

    Raises:
        FormatError: it cannot read the file.
    """
    with silent():  # also of the files that a reader which fails leaves open
        try:
            return read_dictionaries(path, module)
        except Exception as error:  # its readers raise anything
            why = first_line(error)
    if "'sparse' library" in why:
        raise FormatError(
            f"{path}: a Velox file with EDS spectra, which take the package sparse: save its images alone"
        )
    if "RGBA" in why:
        raise FormatError(f"{path}: a colour image, which holds no counts")
    raise FormatError(f"{path}: RosettaSciIO cannot read it: {why}")


def _signal(module: str, plain: Mapping[str, Any]) -> Signal:
    data, about = plain["data"], plain.get("metadata", {})
    title = about.get("General", {}).get("title") or ""
    axes = [
        Axis.of(_without_none(axis), number, size)
        for number, (axis, size) in enumerate(zip(plain["axes"], data.shape, strict=True))
    ]
    if not any(axis.navigate for axis in axes) and len(axes) > 2:
        # Berkeley's EMD does not say which axes are the scan's.
        axes = [replace(axis, navigate=None) for axis in axes]
    instrument = dict(about.get("Acquisition_instrument") or {})
    if module == "mrc":
        axes = [_as_stated(axis) for axis in axes]
    if module == "empad":
        instrument = _empad_instrument(plain.get("original_metadata", {}))
    # EMPAD's counts lie in another file, which `check_empad` has looked at.
    stored = math.prod(data.shape) if module == "empad" else None
    return Signal(str(title), data, axes, instrument, analogue=module == "empad", stored_bytes=stored)


def _without_none(axis: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in axis.items() if value is not None}


def _as_stated(axis: Axis) -> Axis:
    """Return an axis of MRC without the scale 1 or -1 that RosettaSciIO and cameras give for none."""
    return axis if axis.scale is not None and axis.scale > 0 and axis.scale != 1 else replace(axis, scale=1.0, unit="")


def _empad_instrument(original: Mapping[str, Any]) -> dict[str, Any]:
    """Return beam energy (V in the file) in HyperSpy's place and unit."""
    source = original.get("root", {}).get("iom_measurements", {}).get("source", {})
    try:
        return {"TEM": {"beam_energy": float(source["get_voltage"]) / 1e3}}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def check_empad(path: Path) -> None:
    """Refuse a description whose counts lie elsewhere than beside it, or are too few.

    Raises:
        FormatError: not a description of an EMPAD acquisition, or a raw file that is not a plain name beside it.
    """
    if path.stat().st_size > MOST_XML:
        raise FormatError(f"{path}: larger than the description of an EMPAD acquisition, {MOST_XML} bytes")
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise FormatError(f"{path}: not the description of an EMPAD acquisition: {error}") from None
    raw = root.find("raw_file")
    name = None if raw is None else raw.get("filename")
    if not name:
        raise FormatError(f"{path}: not the description of an EMPAD acquisition: it names no raw file")
    if Path(name).name != name or not (path.parent / name).is_file():
        raise FormatError(f"{path}: the raw file {name} is not a file beside it")
    sides = [root.findtext(f".//{tag}") for tag in ("pix_x", "pix_y")]
    sides = sides if all(sides) else [root.findtext(".//series_count"), "1"]
    stored = (path.parent / name).stat().st_size // EMPAD_FRAME_BYTES
    if all(side and side.strip().isdigit() and len(side) < 20 for side in sides):
        file_checks.check_positions(math.prod(int(side or 1) for side in sides), stored, str(path), given=True)


def check_mrc(path: Path) -> None:
    """Refuse a header that announces far more frames than the file has.

    Raises:
        FormatError: as `file_checks.check_positions`.
    """
    with path.open("rb") as file:
        sides = np.frombuffer(file.read(12).ljust(12, b"\0"), "<i4").astype(np.int64)
    if sides.min() > 0:
        file_checks.check_positions(
            int(sides[2]), path.stat().st_size // int(sides[0] * sides[1]), str(path), given=True
        )


def check_emd(path: Path) -> None:
    """Refuse HDF5 whose structure is damaged, or whose data are in other files.

    Raises:
        FormatError: names what is wrong.
    """
    from twin.formats.hdf5.checked import open_hdf5

    open_hdf5(path).close()


CHECKS: dict[str, Callable[[Path], None]] = {"empad": check_empad, "emd": check_emd, "mrc": check_mrc}
