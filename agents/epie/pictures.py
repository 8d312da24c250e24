"""Phase, amplitude and probe of a ptychographic reconstruction as pictures, and the electrons behind each pixel."""

from collections.abc import Mapping

import numpy as np

from agents.base import Image
from agents.epie.data import Data
from agents.epie.estimate import Complex, ObjectAndProbe
from agents.epie.image import at, canonical, illumination, lit, low_pass, sampled
from agents.epie.probe import Geometry, intensity_centre
from twin.arrays import Floats

Pictures = dict[str, Floats]
"""`phase` and `amplitude` of the scanned rectangle on the object's pixels, `phase_on_scan` on the scan's grid; of an
object in slices also `phase_slice_1`, `phase_slice_2`, ... on the object's pixels.
"""


def electrons(estimate: ObjectAndProbe, data: Data) -> Floats:
    """Electrons that each pixel of the object met, (rows, columns)."""
    place = np.rint(data.geometry.positions(data.store.pixel)).astype(np.int64)
    visits = np.zeros(data.geometry.shape, np.int64)
    np.add.at(visits, (place[:, 0], place[:, 1]), 1)
    return illumination(visits, estimate.probe)


def electrons_of_pictures(estimate: ObjectAndProbe, data: Data) -> Pictures:
    """Electrons that each pixel of every picture met."""
    weight, geometry = electrons(estimate, data), data.geometry
    nearest = np.rint(_scan_positions(geometry)).astype(np.int64)
    native = weight[geometry.scanned]
    found = {"phase": native, "phase_on_scan": weight[nearest[..., 0], nearest[..., 1]], "amplitude": native}
    return found | dict.fromkeys(_slice_names(len(estimate.slices)), native)


def pictures(estimate: ObjectAndProbe, data: Data, first_probe: Complex) -> Pictures:
    """Phase and amplitude, NaN where the object is dark; of several slices the sum and the product.

    The phase on the grid of the scan is low-pass filtered: frequencies beyond its Nyquist limit would be aliased.

    Args:
        estimate: object and probe.
        data: the frames.
        first_probe: probe at the beginning of the iteration; a common shift of object and probe since is undone.
    """
    geometry, weight = data.geometry, electrons(estimate, data)
    bright = lit(weight, geometry.scanned)
    slices = [canonical(one[0] + 1j * one[1], np.where(bright, weight, 0.0)) for one in estimate.slices]
    drift = intensity_centre(estimate.probe) - intensity_centre(first_probe)
    scanned = np.moveaxis(np.mgrid[geometry.scanned], 0, -1)
    native, dark = np.stack([sampled(one, scanned + drift) for one in slices]), ~bright[geometry.scanned]
    whole = np.sum(np.angle(slices), axis=0)
    phase = low_pass(np.where(bright, whole, 0.0), min(0.5, 0.5 / geometry.step_px))
    positions = _scan_positions(geometry)
    nearest = np.rint(positions).astype(np.int64)
    phases = np.where(dark, np.nan, np.angle(native))
    return {
        "phase": np.sum(phases, axis=0),
        "phase_on_scan": np.where(bright[nearest[..., 0], nearest[..., 1]], at(phase, positions + drift), np.nan),
        "amplitude": np.where(dark, np.nan, np.prod(np.abs(native), axis=0)),
        **dict(zip(_slice_names(len(slices)), phases, strict=False)),
    }


def empty(geometry: Geometry, slices: int) -> dict[str, Image]:
    """Images of NaN, before the first round."""
    native = np.full(geometry.shape, np.nan)[geometry.scanned]
    unknown = {"phase": native, "phase_on_scan": np.full(geometry.scan, np.nan), "amplitude": native.copy()}
    unknown |= {name: native.copy() for name in _slice_names(slices)}
    return images(unknown, np.full((1, geometry.size, geometry.size), np.nan), geometry, {})


def images(
    values: Pictures, probe: Complex | Floats, geometry: Geometry, spread: Mapping[str, Floats]
) -> dict[str, Image]:
    """Pictures and the probe's amplitude with their units, pixel sizes and standard deviations, if known."""
    found = {
        name: Image(
            picture,
            "1" if name == "amplitude" else "rad",
            np.where(np.isnan(picture), np.nan, spread[name]) if name in spread else None,
            None if name == "phase_on_scan" else geometry.pixel_nm,
        )
        for name, picture in values.items()
    }
    amplitude = np.sqrt(np.sum(np.abs(probe) ** 2, axis=0)).astype(np.float64)
    return found | {"probe": Image(amplitude, "sqrt(counts)", step_nm=geometry.pixel_nm)}


def moves(data: Data) -> dict[str, Image]:
    """Refined minus planned positions along the axes of the scan, NaN where no frame is kept; none if not refined."""
    if data.moved_px is None:
        return {}
    moved, pixel = np.full((*data.geometry.scan, 2), np.nan), data.store.pixel
    chosen = pixel[:, 0], pixel[:, 1]
    moved[chosen] = data.geometry.along_scan_nm(data.moved_px[chosen])
    return {"shift_x": Image(moved[..., 0], "nm"), "shift_y": Image(moved[..., 1], "nm")}


def _slice_names(slices: int) -> list[str]:
    """Names of the images of slices; none of a single one."""
    return [f"phase_slice_{number}" for number in range(1, slices + 1)] if slices > 1 else []


def _scan_positions(geometry: Geometry) -> Floats:
    """Every scan position on the object, (rows, columns, 2)."""
    pixel = np.moveaxis(np.indices(geometry.scan), 0, -1)
    return geometry.positions(pixel.reshape(-1, 2)).reshape(*geometry.scan, 2)
