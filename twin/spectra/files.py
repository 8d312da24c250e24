"""Spectrum images of HyperSpy files (.hspy): a scan of one or two axes, and an axis of energies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from twin.arrays import Floats
from twin.formats.dataset import FormatError, told
from twin.formats.file_checks import check_file, check_memory
from twin.formats.hdf5.checked import open_hdf5
from twin.formats.signals.axes import ENERGY, Axis
from twin.formats.signals.dictionaries import read_dictionaries
from twin.formats.signals.units import length_nm

KEV_EV = 1e3


@dataclass(frozen=True, eq=False)
class SpectrumImage:
    """Spectra on a scan.

    Attributes:
        counts: as stored, (rows, columns, E); a line of spectra is one row.
        energy_ev: of the channels, (E,), rising.
        step_nm: distance of the positions, None if the file lacks it.
    """

    counts: Floats
    energy_ev: Floats
    step_nm: float | None


def read_spectrum_image(path: Path) -> SpectrumImage:
    """Read the first spectrum image of a HyperSpy file.

    Raises:
        FormatError: no such file, damaged, no energies, or values that are not finite numbers.
    """
    check_file(path)
    if path.suffix.lower() != ".hspy":
        raise FormatError(f"{path.name}: spectrum images are read from .hspy, not from {path.suffix or '(no suffix)'}")
    with told(path):
        with open_hdf5(path) as file:  # its structure is whole, and its data are its own
            sizes: list[int] = []
            file.visititems(lambda _, item: sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
        check_memory(2 * sum(sizes), "spectra")
        signals = read_dictionaries(path, "hspy", lazy=False)
        found, why = [], ["no signal in it"]
        for plain in signals:
            try:
                found.append(_image(plain))
            except FormatError as error:
                why.append(str(error))
        if not found:
            raise FormatError(f"{path.name}: {why[-1]}")
    return found[0]


def _image(plain: Mapping[str, Any]) -> SpectrumImage:
    data = plain["data"]
    axes = [
        Axis.of(axis, number, size) for number, (axis, size) in enumerate(zip(plain["axes"], data.shape, strict=True))
    ]
    energies = [number for number, axis in enumerate(axes) if axis.unit in ENERGY]
    if len(energies) != 1 or not 1 <= len(axes) - 1 <= 2:
        units = ", ".join(axis.unit or "none" for axis in axes)
        raise FormatError(
            f"a spectrum image has one or two axes of a scan and one in eV or keV; these have units {units}"
        )
    energy, scan = axes[energies[0]], [axis for number, axis in enumerate(axes) if number != energies[0]]
    if energy.scale is None:
        raise FormatError(f"the energies of axis {energy.name} have unequal steps, or none stated")
    counts = np.moveaxis(np.asarray(data, np.float64), energies[0], -1)
    if not np.isfinite(counts).all():
        raise FormatError(f"{np.count_nonzero(~np.isfinite(counts))} values are not finite numbers")
    unit = KEV_EV if energy.unit == "keV" else 1.0
    energy_ev = np.asarray(unit * (energy.offset + energy.scale * np.arange(energy.size)), np.float64)
    if energy.scale < 0:
        counts, energy_ev = counts[..., ::-1], energy_ev[::-1]
    length = length_nm(scan[-1].unit)
    step = abs(scan[-1].scale) * length if scan[-1].scale and length else None
    return SpectrumImage(counts.reshape(-1, *counts.shape[-2:]) if counts.ndim == 3 else counts[None], energy_ev, step)
