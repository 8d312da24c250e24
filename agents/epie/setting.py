"""Window, geometry and empty store of a ptychographic reconstruction, from the metadata of a stream."""

import math

import numpy as np

from agents.base import MetaError, StreamMeta
from agents.epie.data import LONGEST_MOVE, Data
from agents.epie.probe import MARGIN_PX, Beam, Geometry, Window
from agents.epie.store import FrameStore
from twin.optics import Optics

AGENT = "epie"

OBJECT_COPIES = 2
"""Copies of the object in memory: the reconstruction, and one member of the ensemble at a time."""


def prepared(
    meta: StreamMeta,
    memory_bytes: int,
    reach_mrad: float | None,
    binning: int,
    finer: int,
    sub_pixel: bool,
    slices: int = 1,
    positions: bool = False,
) -> Data:
    """Prepare an empty store for the frames of a stream.

    Args:
        meta: of the stream.
        memory_bytes: memory of frames and object.
        reach_mrad: largest angle along rows and columns; None for the whole camera.
        binning: camera pixels along the side of a pixel of the window.
        finer: points of the model along the side of a pixel of the window.
        sub_pixel: use positions as they are; False rounds them.
        slices: most slices of the object.
        positions: whether positions will be refined.

    Raises:
        MetaError: the metadata lack something, or window or object do not fit.
    """
    grid, pixel_mrad = meta.need_grid(AGENT), meta.need("pixel_mrad", AGENT)
    wavelength_nm = Optics(energy_kev=meta.need("energy_kev", AGENT)).wavelength_nm
    step_nm, rotation = meta.need("step_nm", AGENT), meta.need("rotation_deg", AGENT)
    reach_px = math.inf if reach_mrad is None else reach_mrad / pixel_mrad
    try:
        window = Window.of(meta.layout.camera, binning, reach_px, bool(meta.transposed))
    except ValueError as error:
        raise MetaError(f"{AGENT}: {error}") from None
    beam = Beam(wavelength_nm, meta.need("convergence_mrad", AGENT), pixel_mrad * binning / finer)
    size = window.size * finer
    if 2.0 * beam.disc_px >= size:
        raise MetaError(
            f"{AGENT}: the bright-field disc is {2 * beam.disc_px / finer:.0f} pixels wide, the window"
            f" {window.size}; check convergence_mrad and pixel_mrad, or raise reach_mrad"
        )
    pixel_nm = wavelength_nm / (size * beam.pixel_mrad * 1e-3)
    step_px = step_nm / pixel_nm
    margin_px = MARGIN_PX + (math.ceil(LONGEST_MOVE * step_px) if positions else 0)
    geometry = Geometry(pixel_nm, step_px, rotation, grid, size, margin_px)
    object_bytes = OBJECT_COPIES * 8 * slices * math.prod(geometry.shape)
    if object_bytes > memory_bytes:
        in_slices = f" in {slices} slices" if slices > 1 else ""
        raise MetaError(
            f"{AGENT}: an object of {geometry.shape[0]} x {geometry.shape[1]} pixels{in_slices} takes"
            f" {object_bytes / 2**20:.0f} MiB; memory_bytes is {memory_bytes / 2**20:.0f} MiB: raise it or lower"
            f" {'slices or ' if slices > 1 else ''}reach_mrad"
        )
    moved_px = np.zeros((*grid, 2)) if positions else None
    return Data(FrameStore(window.size**2, memory_bytes - object_bytes), beam, window, geometry, sub_pixel, moved_px)
