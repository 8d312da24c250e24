"""The map of centres of mass that every method of the COM family starts from.

One entry per scan position, whatever the order in which they come; a position that comes again replaces the old one.
Memory goes with the scan, 32 bytes per position.
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
from agents.geometry import along_scan, phase_gradient
from twin.optics import electron_wavelength_nm
from twin.options import NonNegative, Positive, validated

Floats = NDArray[np.float64]
Reference = Literal["mean", "plane", "lines", "centre", "vacuum"]


@validated
class ComOptions:
    """Where the centre of mass is taken, what it is compared with, and how the camera lies against the scan.

    Radii and `centre_px` can be changed while the stream runs and count from then on; all else also counts for what
    has been seen.

    Attributes:
        inner_px, outer_px: disc or ring of camera pixels; the whole camera without them.
        inner_mrad, outer_mrad: the same as angles.
        centre_px: (row, column) of its middle; None is (H // 2, W // 2).
        reference: what the shift counts from. "mean": the average of the positions known so far, at the end that of
            the scan. "plane": a plane fitted to them, for a scan that drags the pattern along (descan). "lines": an
            offset for every line and one slope along it. "centre": `centre_px`. "vacuum": one of the next three.
        vacuum_px: (row, column) of the centre of mass without a specimen.
        vacuum_area: scan positions without a specimen: first row, row behind the last, first column, column behind.
        vacuum_file: frames without a specimen, of any format that `twin.formats` opens.
        rotation_deg: turns the scan's fast axis from the camera's +x towards its +y; None takes it from the stream.
        transposed: the camera's rows and columns are swapped; None takes it from the stream.
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
        """Pixels that the centre of mass is taken over; None is the whole camera.

        Raises:
            MetaError: radii in mrad on a camera whose angles are not known.
        """
        height, width = meta.layout.camera
        inner, outer = self.inner_px, self.outer_px
        if self.inner_mrad is not None or self.outer_mrad is not None:
            pixel_mrad = meta.need("pixel_mrad", agent)
            inner = None if self.inner_mrad is None else self.inner_mrad / pixel_mrad
            outer = None if self.outer_mrad is None else self.outer_mrad / pixel_mrad
        if inner is None and outer is None:
            return None
        # Without an outer radius: beyond the farthest corner from wherever the centre may lie.
        centre = self.centre(meta)
        reach = math.hypot(height, width) + math.hypot(*centre)
        return Region(centre, outer_px=reach if outer is None else outer, inner_px=inner or 0.0)

    def centre(self, meta: StreamMeta) -> tuple[float, float]:
        """(row, column) of the middle of the pattern."""
        height, width = meta.layout.camera
        return (float(height // 2), float(width // 2)) if self.centre_px is None else self.centre_px


class ComMap:
    """Centres of mass of a scan, and what follows from them without the frames.

    A position that received no electron has no centre of mass: it is NaN as if it had not come.

    Args:
        options: see there.
        agent: for whom; opens error messages.
    """

    def __init__(self, options: ComOptions, agent: str) -> None:
        self.options, self.agent = options, agent

    def start(self, meta: StreamMeta) -> None:
        """Forget the old scan.

        Raises:
            MetaError: radii or a rotation that this stream does not allow.
        """
        self.meta = meta
        scan = meta.layout.scan
        self.shape: tuple[int, int] = (scan[0], scan[1]) if len(scan) == 2 else (1, scan[0])
        # Counts and the sums of column, row and column^2 + row^2 over them.
        self._sums: Floats = np.zeros((*self.shape, 4))
        self.seen: NDArray[np.bool_] = np.zeros(self.shape, bool)
        self.configure(self.options)

    def configure(self, options: ComOptions) -> None:
        """Other settings from now on; see `ComOptions` for what they do to positions already seen.

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
        self.seen[row, column] = True
        return _ratio(moments[:, 1:3], moments[:, 0])

    @property
    def electrons(self) -> Floats:
        """Counts that each centre of mass rests on, (rows, columns); NaN where nothing arrived."""
        return np.where(self.seen, self._sums[..., 0], np.nan)

    @property
    def known_rotation_deg(self) -> float | None:
        """Of the scan against the camera: as set, else as the stream says."""
        set_deg = self.options.rotation_deg
        return self.meta.metadata.rotation_deg if set_deg is None else set_deg

    @property
    def known_transposed(self) -> bool | None:
        """Whether the camera's axes are swapped: as set, else as the stream says."""
        return self.meta.transposed if self.options.transposed is None else self.options.transposed

    @property
    def rotation_deg(self) -> float:
        """The known rotation, or zero."""
        return 0.0 if self.known_rotation_deg is None else self.known_rotation_deg

    @property
    def transposed(self) -> bool:
        """The known orientation, or not transposed."""
        return bool(self.known_transposed)

    @property
    def takes_whole_camera(self) -> bool:
        """No region is left out."""
        return self._region is None

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed."""
        assumed = []
        if self.known_rotation_deg is None:
            assumed.append("rotation of the scan against the camera not known: taken as 0 deg")
        if self.known_transposed is None:
            assumed.append("orientation of the camera not known: taken as not transposed")
        return tuple(assumed)

    def centre_px(self) -> Floats:
        """Centres of mass on the camera, (rows, columns, 2), (column, row); NaN where not known."""
        return _ratio(self._sums[..., 1:3], self._sums[..., 0])

    def reference_px(self) -> Floats:
        """What each shift counts from, (column, row), (rows, columns, 2), or (2,) where it is one for all."""
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
        """Shift against the reference along the camera's (column, row), (rows, columns, 2)."""
        shift = self.centre_px()
        shift -= self.reference_px()
        return shift

    def shift_px(self) -> Floats:
        """Shift against the reference along the scan's (fast, slow) axes, (rows, columns, 2), px of the camera."""
        return along_scan(self.camera_shift_px(), self.rotation_deg, self.transposed)

    def gradient(self) -> Floats:
        """Gradient of the phase along the scan's (fast, slow) axes, (rows, columns, 2), rad / nm.

        Raises:
            MetaError: pixel_mrad or energy_kev is not known.
        """
        return phase_gradient(self.shift_px(), *self.calibration())

    def calibration(self) -> tuple[float, float]:
        """Angle of a camera pixel, mrad, and wavelength, nm: what `geometry.phase_gradient` takes.

        Raises:
            MetaError: pixel_mrad or energy_kev is not known.
        """
        pixel_mrad = self.meta.need("pixel_mrad", self.agent)
        return pixel_mrad, electron_wavelength_nm(self.meta.need("energy_kev", self.agent))

    def width_px2(self) -> Floats:
        """Mean squared distance of each pattern's electrons from their own centre of mass, (rows, columns)."""
        centre = self.centre_px()
        return _ratio(self._sums[..., 3:], self._sums[..., 0])[..., 0] - (centre**2).sum(axis=-1)

    def variance_px2(self) -> Floats:
        """Variance of each centre of mass along either axis, (rows, columns), when each count is one electron.

        Width of the pattern about its own centre of mass, averaged over the scan and over both axes, over the counts.
        NaN where no centre of mass is known.
        """
        counts, x, y, squares = np.moveaxis(self._sums, -1, 0)
        about = squares - _ratio((x**2 + y**2)[..., None], counts)[..., 0]
        # Each centre of mass was found from the same counts and takes one of them.
        free = np.where(counts > 1, counts - 1, 0.0)
        if not free.any():
            return np.full(self.shape, np.nan)
        width = float(about[counts > 1].sum()) / float(free.sum()) / 2.0
        return np.where(counts > 0, width / np.where(counts > 0, counts, 1.0), np.nan)


def plane(centre: Floats) -> Floats:
    """Least-squares plane through each component of a map, (rows, columns, 2); its mean where the map fixes no plane.

    Args:
        centre: (rows, columns, 2), NaN where not known.
    """
    known = np.isfinite(centre[..., 0])
    rows, columns = np.indices(known.shape)
    basis = np.stack([np.ones(known.shape), rows, columns], axis=-1)
    return _fitted(basis, centre, known)


def lines(centre: Floats) -> Floats:
    """An offset for every line and one slope along all of them, fitted to each component of a map.

    Args:
        centre: (rows, columns, 2), NaN where not known; a line of which nothing is known stays NaN.
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
    """Least squares of each component of `centre` over the last axis of `basis`; of least norm if not unique."""
    if not known.any():
        return np.full(centre.shape, np.nan)
    mean = centre[known].mean(axis=0)
    coefficients = np.linalg.lstsq(basis[known], centre[known] - mean, rcond=None)[0]
    return np.asarray(mean + basis @ coefficients)


def _mean(centre: Floats) -> Floats:
    """Mean of the known entries, (2,); NaN where there are none."""
    known = np.isfinite(centre[..., 0])
    # Without a copy of the known ones: a map may be large.
    return np.asarray(centre.mean(axis=(0, 1), where=known[..., None])) if known.any() else np.full(2, np.nan)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    """Sums (..., k) over counts (...,), NaN where nothing was counted."""
    counts = np.where(counts > 0, counts, np.nan)
    return np.asarray(sums / counts[..., None])


def _check_area(area: tuple[int, int, int, int], shape: tuple[int, int], agent: str) -> None:
    """Refuse a part of the scan that it does not have.

    Raises:
        MetaError: names both.
    """
    top, bottom, left, right = area
    if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]):
        raise MetaError(f"{agent}: vacuum_area {area} is not part of this scan of {shape[0]} x {shape[1]}")


def _vacuum(options: ComOptions, meta: StreamMeta, region: Region | None) -> Floats:
    """(column, row) of the centre of mass without a specimen; NaN unless `vacuum_px` or `vacuum_file` says.

    Raises:
        MetaError: the file holds frames of another camera, or no electron.
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
        raise MetaError(f"{options.vacuum_file} holds no electron in the region that the centre of mass is taken over")
    return total[1:] / total[0]
