"""Axes of a signal: which are the scan's and which the camera's, and the calibration they state."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from twin.formats.dataset import FormatError
from twin.formats.signals import units
from twin.optics import electron_wavelength_nm

SAME = 1e-4
"""Steps that differ by a smaller fraction are equal: files keep some as float32, or rounded to five digits."""

ENERGY = ("eV", "keV")
"""Units of spectra."""


@dataclass(frozen=True)
class Axis:
    """One axis: coordinate = offset + scale x index, in its unit.

    Attributes:
        name: as stated, or its number.
        size: number of positions or pixels.
        scale: None if its steps are unequal, or not stated.
        offset: coordinate of index 0.
        unit: '' if not stated.
        navigate: whether the axis is the scan's; None if not stated.
    """

    name: str
    size: int
    scale: float | None
    offset: float
    unit: str
    navigate: bool | None

    @classmethod
    def of(cls, plain: Mapping[str, Any], number: int, size: int) -> Self:
        """Read HyperSpy's entries (name, scale, offset, units, navigate; `axis`: the coordinates) of axis `number`.

        Raises:
            FormatError: a scale or offset that is not a finite number, or a scale of 0; names the axis.
        """
        name = plain.get("name")
        name = name if isinstance(name, str) and units.plain(name) else f"axis {number}"
        navigate = plain.get("navigate")
        unit = units.plain(plain.get("units"))
        scale, offset = _line(plain, name, size)
        return cls(name, size, scale, offset, unit, None if navigate is None else bool(navigate))

    @property
    def runs_backwards(self) -> bool:
        """Whether the coordinate decreases with the index."""
        return self.scale is not None and self.scale < 0

    @property
    def forwards(self) -> Self:
        """The same coordinates in increasing order."""
        if self.scale is None or self.scale > 0:
            return self
        return type(self)(
            self.name, self.size, -self.scale, self.offset + self.scale * (self.size - 1), self.unit, self.navigate
        )

    def differs(self, other: "Axis") -> bool:
        """Whether sizes, coordinates or units differ."""
        same = (self.size, self.unit) == (other.size, other.unit)
        return not (same and _equal(self.scale, other.scale) and _equal(self.offset, other.offset, self.scale or 1.0))


def _line(plain: Mapping[str, Any], name: str, size: int) -> tuple[float | None, float]:
    """Return scale and offset of an axis; the scale is None for unequal steps."""
    if plain.get("axis") is not None:
        values = np.asarray(plain["axis"], dtype=np.float64).ravel()
        if len(values) != size or not np.isfinite(values).all():
            raise FormatError(f"axis {name} has {len(values)} coordinates, or not finite ones, for {size} indices")
        steps = np.diff(values)
        even = len(steps) > 0 and steps[0] != 0 and np.allclose(steps, steps[0], rtol=SAME, atol=0)
        return (float(steps.mean()) if even else None), float(values[0])
    if "scale" not in plain:
        return None, 0.0
    scale, offset = (_number(plain.get(key, 0.0), key, name) for key in ("scale", "offset"))
    if scale == 0 and size > 1:
        raise FormatError(f"axis {name} has a scale of 0")
    return scale or None, offset


def _number(value: Any, key: str, name: str) -> float:
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise FormatError(f"axis {name} has the {key} {str(value)[:40]!r}, which is not a number")
    return number


def _equal(one: float | None, other: float | None, unit: float | None = None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME * abs(unit or 0.0))


def split(axes: Sequence[Axis]) -> tuple[list[int], list[int]]:
    """Return the numbers of the scan's and of the camera's axes, each in the order of the array.

    Axes without `navigate` in the file: the last two are the camera's.

    Raises:
        FormatError: not two camera axes, or more than two of the scan.
    """
    stated = [axis.navigate for axis in axes]
    if any(navigate is None for navigate in stated):
        stated = [number < len(axes) - 2 for number in range(len(axes))]
    scan = [number for number, navigate in enumerate(stated) if navigate]
    camera = [number for number, navigate in enumerate(stated) if not navigate]
    energy = [axis.name for axis in axes if axis.unit in ENERGY]
    if energy:
        raise FormatError(f"no frames on a scan: the axis {energy[0]} is an energy")
    if len(camera) != 2 or len(scan) > 2:
        raise FormatError(
            f"no frames on a scan: {len(scan)} axes of the scan (navigation) and {len(camera)} of the camera (signal),"
            " where frames have at most two and two"
        )
    return scan, camera


@dataclass(frozen=True)
class Calibration:
    """What axes state, and what they cannot.

    Attributes:
        known: entries of `Metadata`: step_nm, pixel_mrad, centre_px.
        notes: one sentence for each calibration that is stated and cannot be used.
    """

    known: dict[str, Any]
    notes: tuple[str, ...]


def calibration(scan: Sequence[Axis], camera: Sequence[Axis], energy_kev: float | None) -> Calibration:
    """Return step, angle of a pixel and zero angle from the axes, where all of them state it.

    Args:
        scan, camera: axes in image order, y before x, forwards.
        energy_kev: of the beam; axes in 1/nm need it.
    """
    wavelength_nm = None if energy_kev is None else electron_wavelength_nm(energy_kev)
    known: dict[str, Any] = {}
    notes: list[str] = []
    step = _common([axis for axis in scan if axis.size > 1] or scan, units.length_nm, "step_nm", "nm", notes)
    if step is not None:
        known["step_nm"] = step

    def angle(unit: str) -> float | None:
        return units.angle_mrad(unit, wavelength_nm)

    pixel = _common([axis for axis in camera if axis.size > 1] or camera, angle, "pixel_mrad", "mrad", notes)
    if pixel is not None:
        known["pixel_mrad"] = pixel
        # An offset of 0 on both axes is what files have that state none.
        if any(axis.offset for axis in camera):
            zero = [round(-axis.offset / axis.scale, 6) + 0.0 for axis in camera if axis.scale]
            inside = len(zero) == 2 and all(-0.5 <= z < axis.size for z, axis in zip(zero, camera, strict=True))
            if not inside:
                notes.append(f"centre_px is unknown: the axes put the zero angle outside the camera, at {zero}")
            elif zero != [axis.size // 2 for axis in camera]:
                known["centre_px"] = (zero[0], zero[1])
    return Calibration(known, tuple(notes))


def _common(axes: Sequence[Axis], factor: Any, what: str, unit: str, notes: list[str]) -> float | None:
    """Return the scale that all axes share, in `unit`; None, and a note, where they state something else."""
    stated = [axis for axis in axes if axis.unit]
    if not stated:
        return None
    values = [None if axis.scale is None else _times(axis.scale, factor(axis.unit)) for axis in axes]
    first = values[0]
    if first is not None and all(value is not None and math.isclose(value, first, rel_tol=SAME) for value in values):
        return first
    words = ", ".join(
        f"{axis.name} {'unequal steps' if axis.scale is None else f'{axis.scale:g}'} {axis.unit or '(no unit)'}"
        for axis in axes
    )
    why = "its axes differ" if all(value is not None for value in values) else f"not all of its axes give {unit}"
    if any(units.inverse_nm(axis.unit) for axis in stated) and unit == "mrad" and None in values:
        why = "1/length needs the beam energy, which the file does not state"
    notes.append(f"{what} is unknown: {why} ({words})")
    return None


def _times(scale: float, factor: float | None) -> float | None:
    return None if factor is None else scale * factor
