"""Units of axes, as HyperSpy, RosettaSciIO and people spell them."""

import re

LENGTH_NM = {"nm": 1.0, "Å": 0.1, "A": 0.1, "pm": 1e-3, "µm": 1e3, "um": 1e3, "mm": 1e6, "m": 1e9}
ANGLE_MRAD = {"mrad": 1.0, "rad": 1e3, "µrad": 1e-3, "urad": 1e-3, "deg": 17.453292519943295, "°": 17.453292519943295}
WORDS = {
    "angstrom": "Å",
    "angstroms": "Å",
    "ångström": "Å",
    "nanometer": "nm",
    "nanometre": "nm",
    "nanometers": "nm",
    "nanometres": "nm",
    "picometer": "pm",
    "micrometer": "µm",
    "micron": "µm",
    "microns": "µm",
    "meter": "m",
    "metre": "m",
    "milliradian": "mrad",
    "milliradians": "mrad",
    "radian": "rad",
    "radians": "rad",
    "degree": "deg",
    "degrees": "deg",
}
UNKNOWN = ("", "_None_", "<undefined>", "t.Undefined", "None", "1", "px", "pixel", "pixels", "pix")
"""Spellings of no unit at all."""

_INVERSE = re.compile(r"(?:1/\(?(?P<over>[^)]+)\)?|(?P<power>.+?)(?:\^\(?-1\)?|-1))")


def plain(unit: object) -> str:
    """Return one spelling of a unit; '' for none."""
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else unit if isinstance(unit, str) else ""
    text = re.sub(r"\s+", "", text)
    for given, usual in (("\u03bc", "\u00b5"), ("\u212b", "\u00c5"), ("**", "^"), ("\u207b\u00b9", "^-1")):
        text = text.replace(given, usual)
    text = text.replace("[", "").replace("]", "")
    return "" if text in UNKNOWN else WORDS.get(text.lower(), text)


def length_nm(unit: object) -> float | None:
    """Return the length of a unit in nm; None if it is no length.

    Example:
        >>> length_nm("Å"), length_nm("1/nm")
        (0.1, None)
    """
    return LENGTH_NM.get(plain(unit))


def angle_mrad(unit: object, wavelength_nm: float | None) -> float | None:
    """Return the angle of a unit in mrad; None if it is neither an angle nor an inverse length with a known wavelength.

    An inverse length is a spatial frequency k; its angle is wavelength k, as in small-angle diffraction.

    Example:
        >>> angle_mrad("rad", None), round(angle_mrad("1/nm", 0.002), 9), angle_mrad("1/nm", None)
        (1000.0, 2.0, None)
    """
    if plain(unit) in ANGLE_MRAD:
        return ANGLE_MRAD[plain(unit)]
    inverse = inverse_nm(unit)
    return None if inverse is None or wavelength_nm is None else inverse * wavelength_nm * 1e3


def inverse_nm(unit: object) -> float | None:
    """Return a spatial frequency in 1/nm; None if it is none.

    Example:
        >>> [round(inverse_nm(unit), 9) for unit in ("1/nm", "1 / Å", "A^-1", "nm⁻¹", "1/m")]
        [1.0, 10.0, 10.0, 1.0, 1e-09]
    """
    found = _INVERSE.fullmatch(plain(unit))
    length = length_nm(found["over"] or found["power"]) if found else None
    return None if length is None else 1 / length
