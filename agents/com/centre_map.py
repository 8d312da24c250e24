"""Map of the centres of mass of a scan, the basis of every method of the COM family.

One entry per scan position, in any order of arrival; a repeated position replaces the earlier value. Memory: 32 bytes
per position.
"""

import math
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from agents.base import MetaError, StreamMeta
from agents.block import Block
from agents.frames import sums as dense
from agents.frames.region import Region
from agents.geometry import along_scan, assumed_orientation, phase_gradient
from twin.arrays import Floats
from twin.optics import electron_wavelength_nm
from twin.options import NonNegative, Positive, validated

Reference = Literal["mean", "plane", "lines", "centre", "vacuum"]


@validated
class ComOptions:
    """Region and reference of the centre of mass, and orientation of the camera against the scan.

    All can be changed while the stream runs. Radii and `centre_px` apply to the positions to come, all else to the
    whole map.

    Attributes:
        inner_px, outer_px: disc or ring of camera pixels; without them the whole camera.
        inner_mrad, outer_mrad: the same as angles.
        centre_px: (row, column) of its centre; None is that of the metadata, else (H // 2, W // 2).
        reference: zero of the shift. "mean": the mean of the positions so far. "plane": a plane fitted to them, for
            incomplete descan. "lines": an offset for every line and one common slope along the lines. "centre":
            `centre_px`. "vacuum": one of the next three.
        vacuum_px: (row, column) of the centre of mass without a specimen.
        vacuum_area: scan positions without a specimen: first row, row after the last, first column, column after.
        vacuum_file: frames without a specimen, in any format that `twin.formats` opens.
        rotation_deg: angle from the camera's +x to the scan's fast axis, towards +y; None is that of the stream.
        transposed: the camera's rows and columns are swapped; None is that of the stream.
    """

    inner_px: NonNegative | None = None
    outer_px: Positive | None = None
    inner_mrad: NonNegative | None = None
    outer_mrad: Positive | None = None
    centre_px: tuple[float, float] | None = None
    reference: Reference = "mean"
    vacuum_px: tuple[float, float] | None = None
    vacuum_area: tuple[int, int, int, int] | None = None
    vacuum_file: str | None = None
    rotation_deg: float | None = None
    transposed: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        in_px = self.inner_px is not None or self.outer_px is not None
        in_mrad = self.inner_mrad is not None or self.outer_mrad is not None
        if in_px and in_mrad:
            raise ValueError("radii are given in px or in mrad, not in both")
        for unit, inner, outer in (("px", self.inner_px, self.outer_px), ("mrad", self.inner_mrad, self.outer_mrad)):
            if inner is not None and inner >= (math.inf if outer is None else outer):
                raise ValueError(f"inner_{unit} {inner:g} must lie below outer_{unit} {outer}")
        vacuum = [self.vacuum_px, self.vacuum_area, self.vacuum_file]
        given = sum(entry is not None for entry in vacuum)
        if given != (1 if self.reference == "vacuum" else 0):
            raise ValueError(
                "reference vacuum goes with one of vacuum_px, vacuum_area and vacuum_file;"
                f" got reference {self.reference} and {given} of them"
            )
        return self

    def region(self, meta: StreamMeta, agent: str) -> Region | None:
        """Pixels of the centre of mass; None is the whole camera.

        Raises:
            MetaError: radii in mrad, but the angle of a pixel is not known.
        """
        height, width = meta.layout.camera
        inner, outer = self.inner_px, self.outer_px
        if self.inner_mrad is not None or self.outer_mrad is not None:
            pixel_mrad = meta.need("pixel_mrad", agent)
            inner = None if self.inner_mrad is None else self.inner_mrad / pixel_mrad
            outer = None if self.outer_mrad is None else self.outer_mrad / pixel_mrad
        if inner is None and outer is None:
            return None
        # Default outer radius: beyond the farthest corner.
        centre = self.centre(meta)
        reach = math.hypot(height, width) + math.hypot(*centre)
        return Region(centre, outer_px=reach if outer is None else outer, inner_px=inner or 0.0)

    def centre(self, meta: StreamMeta) -> tuple[float, float]:
        """(row, column) of the centre of the pattern."""
        return meta.centre_px if self.centre_px is None else self.centre_px


class ComMap:
    """Centres of mass of a scan, their shifts, gradients and variances.

    A position without an electron has no centre of mass: it is NaN, like one that has not arrived.

    Args:
        options: see `ComOptions`.
        agent: name of the agent, for error messages.
    """

    def __init__(self, options: ComOptions, agent: str) -> None:
        self.options, self.agent = options, agent

    def start(self, meta: StreamMeta) -> None:
        """Begin a new scan.

        Raises:
            MetaError: an option that this stream does not allow.
        """
        self.meta = meta
        scan = meta.layout.scan
        self.shape: tuple[int, int] = (scan[0], scan[1]) if len(scan) == 2 else (1, scan[0])
        # Counts, and sums of column, row and column^2 + row^2 times counts.
        self._sums: Floats = np.zeros((*self.shape, 4))
        self.visited: NDArray[np.bool_] = np.zeros(self.shape, bool)
        self.configure(self.options)

    def configure(self, options: ComOptions) -> None:
        """Change the options; see `ComOptions` for their effect on earlier positions.

        Raises:
            MetaError: as in `start`; nothing has changed.
        """
        region = options.region(self.meta, self.agent)
        if options.vacuum_area is not None:
            _check_area(options.vacuum_area, self.shape, self.agent)
        self._vacuum_px = _vacuum(options, self.meta, region)
        self.options, self._region = options, region

    def add(self, block: Block) -> Floats:
        """Fold in the next positions.

        Returns:
            Their centres of mass on the camera, (N, 2), (column, row) in px from the middle of the first pixel.
        """
        moments = block.moments(self._region)
        row, column = block.pixel.T
        self._sums[row, column, :3] = moments
        self._sums[row, column, 3] = block.squares(self._region)
        self.visited[row, column] = True
        return _ratio(moments[:, 1:3], moments[:, 0])

    @property
    def electrons(self) -> Floats:
        """Counts of each centre of mass, (rows, columns); NaN where not visited."""
        return np.where(self.visited, self._sums[..., 0], np.nan)

    @property
    def known_rotation_deg(self) -> float | None:
        """Rotation of the scan against the camera by the options, else by the stream; None if unknown."""
        set_deg = self.options.rotation_deg
        return self.meta.metadata.rotation_deg if set_deg is None else set_deg

    @property
    def known_transposed(self) -> bool | None:
        """Transpose of the camera by the options, else by the stream; None if unknown."""
        return self.meta.transposed if self.options.transposed is None else self.options.transposed

    @property
    def rotation_deg(self) -> float:
        """The known rotation, else zero."""
        return 0.0 if self.known_rotation_deg is None else self.known_rotation_deg

    @property
    def transposed(self) -> bool:
        """The known transpose, else False."""
        return bool(self.known_transposed)

    @property
    def takes_whole_camera(self) -> bool:
        """The region is the whole camera."""
        return self._region is None

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions about the orientation."""
        return assumed_orientation(self.known_rotation_deg, self.known_transposed)[2]

    def centre_px(self) -> Floats:
        """Centres of mass on the camera, (rows, columns, 2), (column, row); NaN where unknown."""
        return _ratio(self._sums[..., 1:3], self._sums[..., 0])

    def reference_px(self) -> Floats:
        """Reference of each shift, (column, row), (rows, columns, 2), or (2,) if it is the same for all."""
        centre, kind = self.centre_px(), self.options.reference
        if kind == "centre":
            return np.array(self.options.centre(self.meta)[::-1])
        if kind == "vacuum" and self.options.vacuum_area is not None:
            top, bottom, left, right = self.options.vacuum_area
            return _mean(centre[top:bottom, left:right])
        if kind == "vacuum":
            return self._vacuum_px
        if kind == "plane":
            return plane(centre)
        return lines(centre) if kind == "lines" else _mean(centre)

    def camera_shift_px(self) -> Floats:
        """Shift from the reference along the camera's (column, row), (rows, columns, 2)."""
        shift = self.centre_px()
        shift -= self.reference_px()
        return shift

    def shift_px(self) -> Floats:
        """Shift from the reference along the scan's (fast, slow) axes, (rows, columns, 2), camera pixels."""
        return along_scan(self.camera_shift_px(), self.rotation_deg, self.transposed)

    def gradient(self) -> Floats:
        """Gradient of the phase along the scan's (fast, slow) axes, (rows, columns, 2), rad / nm.

        Raises:
            MetaError: pixel_mrad or energy_kev is not known.
        """
        return phase_gradient(self.shift_px(), *self.calibration())

    def calibration(self) -> tuple[float, float]:
        """Angle of a camera pixel, mrad, and wavelength, nm, for `geometry.phase_gradient`.

        Raises:
            MetaError: pixel_mrad or energy_kev is not known.
        """
        pixel_mrad = self.meta.need("pixel_mrad", self.agent)
        return pixel_mrad, electron_wavelength_nm(self.meta.need("energy_kev", self.agent))

    def width_px2(self) -> Floats:
        """Mean squared distance of each pattern's electrons from their centre of mass, (rows, columns)."""
        centre = self.centre_px()
        return _ratio(self._sums[..., 3:], self._sums[..., 0])[..., 0] - (centre**2).sum(axis=-1)

    def variance_px2(self) -> Floats:
        """Poisson variance of each centre of mass along either axis, (rows, columns), if a count is one electron.

        It is the variance of the pattern, pooled over the scan and both axes, divided by the counts. NaN where the
        centre of mass is unknown.
        """
        counts, x, y, squares = np.moveaxis(self._sums, -1, 0)
        about = squares - _ratio((x**2 + y**2)[..., None], counts)[..., 0]
        # Bessel's correction: each centre of mass takes one degree of freedom.
        free = np.where(counts > 1, counts - 1, 0.0)
        if not free.any():
            return np.full(self.shape, np.nan)
        width = float(about[counts > 1].sum()) / float(free.sum()) / 2.0
        return np.where(counts > 0, width / np.where(counts > 0, counts, 1.0), np.nan)


def plane(centre: Floats) -> Floats:
    """Fit a plane to each component of a map, (rows, columns, 2), by least squares of least norm about the mean.

    Args:
        centre: (rows, columns, 2), NaN where unknown.
    """
    known = np.isfinite(centre[..., 0])
    rows, columns = np.indices(known.shape)
    basis = np.stack([np.ones(known.shape), rows, columns], axis=-1)
    return _fitted(basis, centre, known)


def lines(centre: Floats) -> Floats:
    """Fit an offset for every line and one common slope along the lines to each component of a map.

    Args:
        centre: (rows, columns, 2), NaN where unknown; a line without known positions stays NaN.
    """
    known = np.isfinite(centre[..., 0])
    count = np.maximum(known.sum(axis=1), 1)
    column = np.where(known, np.arange(known.shape[1], dtype=np.float64), 0.0)
    middle = np.asarray(column.sum(axis=1) / count)[:, None]
    offset = np.where(known[..., None], centre, 0.0).sum(axis=1)[:, None] / count[:, None, None]
    along = np.where(known, column - middle, 0.0)
    scatter = float((along**2).sum())
    product = np.where(known[..., None], along[..., None] * centre, 0.0).sum(axis=(0, 1))
    slope = product / scatter if scatter > 0 else np.zeros(2)
    fitted = offset + slope * (np.arange(known.shape[1]) - middle)[..., None]
    visited = np.any(known, axis=1, keepdims=True)[..., None]
    return np.where(visited, fitted, np.nan)


def _fitted(basis: Floats, centre: Floats, known: NDArray[np.bool_]) -> Floats:
    """Fit each component of `centre` by the functions along the last axis of `basis`, least squares of least norm."""
    if not known.any():
        return np.full(centre.shape, np.nan)
    mean = centre[known].mean(axis=0)
    coefficients = np.linalg.lstsq(basis[known], centre[known] - mean, rcond=None)[0]
    return np.asarray(mean + basis @ coefficients)


def _mean(centre: Floats) -> Floats:
    """Mean of the known entries, (2,); NaN where there are none."""
    known = np.isfinite(centre[..., 0])
    # `where` avoids a copy of a large map.
    return np.asarray(centre.mean(axis=(0, 1), where=known[..., None])) if known.any() else np.full(2, np.nan)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    """Divide sums (..., k) by counts (...,); NaN for zero counts."""
    counts = np.where(counts > 0, counts, np.nan)
    return np.asarray(sums / counts[..., None])


def _check_area(area: tuple[int, int, int, int], shape: tuple[int, int], agent: str) -> None:
    """Refuse an area beyond the scan.

    Raises:
        MetaError: the message has both shapes.
    """
    top, bottom, left, right = area
    if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]):
        raise MetaError(f"{agent}: vacuum_area {area} is not part of this scan of {shape[0]} x {shape[1]}")


def _vacuum(options: ComOptions, meta: StreamMeta, region: Region | None) -> Floats:
    """(column, row) of the centre of mass without a specimen; NaN without `vacuum_px` and `vacuum_file`.

    Raises:
        MetaError: the file has frames of another shape, or no electron.
    """
    if options.vacuum_px is not None:
        return np.array(options.vacuum_px[::-1])
    if options.vacuum_file is None:
        return np.full(2, np.nan)
    from twin.formats import open_frames

    total = np.zeros(3)
    with open_frames(options.vacuum_file) as reader:
        if reader.layout.camera != meta.layout.camera:
            raise MetaError(
                f"{options.vacuum_file} has frames of {reader.layout.camera}; this stream has {meta.layout.camera}"
            )
        for _, frames in reader.blocks():
            total += dense.moments(frames, region).sum(axis=0)
    if total[0] == 0:
        raise MetaError(f"{options.vacuum_file} has no electron in the region of the centre of mass")
    return total[1:] / total[0]
