"""Single-sideband weights: transfer of each spatial frequency of the phase to every part of the bright-field disc.

They depend on geometry and aberrations, not on data. To first order in a phase object (Rodenburg, McCallum and Nellist,
Ultramicroscopy 48, 304, 1993; aperture A, aberrations chi), the Fourier transform over the probe positions of the
intensity at the angle K is

    G(K, Q) = i Phi(Q) a^2 g(K, Q),
    g = A(K) A(K - Q) exp(i [chi(K) - chi(K - Q)]) - A(K) A(K + Q) exp(-i [chi(K) - chi(K + Q)]).

Spatial frequencies Q are given as the angles by which they diffract, mrad, like K.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numba
import numpy as np
from numpy.typing import NDArray

from agents.geometry import along_scan
from twin.aberrations import Aberrations, aberration_phase, rotated
from twin.arrays import Floats

Singles = NDArray[np.float32]
Integers = NDArray[np.int32]

SAMPLES_PER_RADIUS = 24
"""Samples along the radius of the disc, at least one per camera pixel: areas are accurate to 1e-3."""
PHASE_TABLE = 64
"""Intervals of the table of chi along the radius of the disc; its error is chi / 4096 / 4 for defocus."""
SMALLEST_WEIGHT = 1e-4
SQUARES_PER_RADIUS = 8.0
PHASE_PER_SQUARE_RAD = 2.0
"""At these settings a phase image of atoms keeps 99.9 % of its correlation with the truth, see docs/ssb.md."""


@dataclass(frozen=True, eq=False)
class BrightField:
    """The bright-field disc, divided into squares of camera pixels.

    Attributes:
        label: square of every camera pixel, -1 outside the disc, (H, W).
        middle_mrad: centre of each square along the axes of the microscope (x, y), (K, 2); see `swapped`.
        side_mrad: side of a square.
        radius_mrad: radius of the disc.
        binning: camera pixels along the side of a square.
    """

    label: Integers
    middle_mrad: Floats
    side_mrad: float
    radius_mrad: float
    binning: int

    def __len__(self) -> int:
        return len(self.middle_mrad)

    @property
    def samples(self) -> int:
        """Number of samples along the side of a square."""
        return max(1, math.ceil(self.side_mrad * SAMPLES_PER_RADIUS / self.radius_mrad - 1e-9))

    @property
    def edge_mrad(self) -> float:
        """Width of the soft edge of the disc: the distance of the samples."""
        return self.side_mrad / self.samples

    def swapped(self) -> Self:
        """The disc of a transposed camera."""
        return replace(self, middle_mrad=np.ascontiguousarray(self.middle_mrad[:, ::-1]))

    @property
    def share(self) -> Floats:
        """Fraction of each square inside the disc, (K,)."""
        points = sample_points(self, 0.0)
        return np.asarray(_edge(np.hypot(points[..., 0], points[..., 1]), self).mean(axis=1), np.float64)


@dataclass(frozen=True, eq=False)
class Trotters:
    """Weights w = conj(g) of every spatial frequency of half the plane; only non-zero weights are kept.

    Frequencies along the fast axis are 0 ... columns // 2, those along the slow axis -(rows // 2) ... in rising order.
    A run is one square at consecutive slow frequencies: weights and sums are read in the order of memory.

    Attributes:
        first: number of the first run of each fast frequency, (columns // 2 + 2,).
        square, begin: square and first slow frequency of each run, (runs,).
        offset: index of the first weight of each run, (runs + 1,).
        real, imag: weights, (n,); `imag` is empty without aberrations.
        response: sum of w g over the squares, (columns // 2 + 1, rows): the sums for a phase of 1 rad in units of a^2.
            It differs slightly from the sum of |w|^2 where a square is only partly in the triple overlap.
        strength: effective number of squares at this frequency, |sum w g|^2 / sum |w|^2; of the same shape. Zero where
            no phase is transferred.
        full: number of squares of the whole disc, to compare `strength` with.
    """

    first: NDArray[np.int64]
    square: Integers
    begin: Integers
    offset: NDArray[np.int64]
    real: Singles
    imag: Singles
    response: NDArray[np.complex128]
    strength: Floats
    full: float

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        arrays = (self.first, self.square, self.begin, self.offset, self.real, self.imag, self.response, self.strength)
        return sum(array.nbytes for array in arrays)


def bright_field(
    camera: tuple[int, int],
    centre_px: tuple[float, float],
    pixel_mrad: float,
    radius_mrad: float,
    binning: int,
) -> BrightField:
    """Divide the disc into squares of `binning` pixels.

    Args:
        camera: (H, W).
        centre_px: (row, column) of zero angle.
        pixel_mrad, radius_mrad: angle of a camera pixel, radius of the disc.
        binning: camera pixels along the side of a square.

    Raises:
        ValueError: the disc extends beyond the camera, or its radius is less than one pixel.
    """
    radius = radius_mrad / pixel_mrad
    reach = min(centre_px[0], centre_px[1], camera[0] - 1 - centre_px[0], camera[1] - 1 - centre_px[1]) + 0.5
    if not 1.0 <= radius <= reach:
        raise ValueError(
            f"the bright-field disc has a radius of {radius:.1f} camera pixels; it must be at least 1 and at most"
            f" {reach:.1f}, the distance from its centre {centre_px} to the edge of the camera"
        )
    row, column = np.indices(camera)
    # The grid of squares is centred on the pixel nearest to the centre; only whole squares are used.
    down = (row - round(centre_px[0]) + binning // 2) // binning
    across = (column - round(centre_px[1]) + binning // 2) // binning
    down -= down.min()
    across -= across.min()
    number = down * (across.max() + 1) + across
    pixels = np.bincount(number.ravel())
    y = np.bincount(number.ravel(), row.ravel() - centre_px[0]) / pixels * pixel_mrad
    x = np.bincount(number.ravel(), column.ravel() - centre_px[1]) / pixels * pixel_mrad
    middle = np.stack([x, y], axis=-1)
    side = binning * pixel_mrad
    candidate = BrightField(np.zeros((1, 1), np.int32), middle, side, radius_mrad, binning)
    inside = (pixels == binning**2) & (candidate.share > 0)
    label = np.where(inside, np.cumsum(inside) - 1, -1).astype(np.int32)[number]
    return BrightField(label, middle[inside], side, radius_mrad, binning)


def suggested_binning(radius_px: float, aberrations: Aberrations, radius_mrad: float, wavelength_nm: float) -> int:
    """Camera pixels along the side of a square: `SQUARES_PER_RADIUS` squares, or more if aberrations require it.

    The phase of g must not vary by more than `PHASE_PER_SQUARE_RAD` across a square. Its slope is that of
    chi(K) - chi(K - Q), at most the largest difference of two slopes of chi in the disc.
    """
    turn = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    edge = radius_mrad * np.stack([np.cos(turn), np.sin(turn)])
    step = 1e-3 * radius_mrad
    slopes = [
        (
            aberration_phase(aberrations, edge[0] + dx, edge[1] + dy, wavelength_nm)
            - aberration_phase(aberrations, edge[0] - dx, edge[1] - dy, wavelength_nm)
        )
        / (2 * step)
        for dx, dy in ((step, 0.0), (0.0, step))
    ]
    # Half the largest difference is typical: few K and Q come near the extremes.
    slope = float(max(np.ptp(s) for s in slopes)) / 2
    squares = max(SQUARES_PER_RADIUS, slope * radius_mrad / PHASE_PER_SQUARE_RAD)
    return max(1, math.floor(radius_px / squares + 1e-9))


def trotters(
    field: BrightField,
    scan: tuple[int, int],
    step_mrad: tuple[float, float],
    rotation_deg: float,
    aberrations: Aberrations,
    wavelength_nm: float,
    triple_overlap: bool = False,
) -> Trotters:
    """Compute the weights of every spatial frequency of a scan.

    Args:
        field: squares of the bright-field disc.
        scan: rows and columns.
        step_mrad: lowest spatial frequency along the fast and the slow axis, wavelength / (count * step).
        rotation_deg: angle from the microscope's +x to the scan's fast axis, towards +y.
        aberrations: along the axes of the microscope.
        wavelength_nm: wavelength of the electrons.
        triple_overlap: use the region of the disc where both sidebands overlap with it. Without aberrations they
            cancel there; with aberrations they carry low frequencies that the double overlaps hardly transfer.
    """
    rows, columns = scan
    chi, interval = phase_table(field, rotated(aberrations, math.radians(rotation_deg)), wavelength_nm)
    disc = SampledDisc(sample_points(field, rotation_deg), field.radius_mrad, field.edge_mrad, chi, interval)
    slow: Floats = (np.arange(rows) - rows // 2) * np.float64(step_mrad[1])
    response = np.zeros((columns // 2 + 1, rows), np.complex128)
    power = np.zeros(response.shape)
    column, whole = np.zeros((2, len(field), rows), np.complex64)
    runs: list[tuple[Integers, Integers, NDArray[np.int64], Singles, Singles]] = []
    for fast in range(columns // 2 + 1):
        column[:] = 0
        # The Nyquist frequency is its own negative: the sign of its sidebands is undefined.
        if fast * step_mrad[0] < 2.1 * field.radius_mrad and 2 * fast != columns:
            sidebands(fast * step_mrad[0], slow, disc, triple_overlap, column)
            column[:, : 1 - rows % 2] = 0
            power[fast] = (np.abs(column) ** 2).sum(axis=0)
            response[fast] = power[fast]
            if chi.size and not triple_overlap:
                whole[:] = 0
                sidebands(fast * step_mrad[0], slow, disc, True, whole)
                response[fast] = (column.conj() * whole).sum(axis=0)
        square, begin, length, weight = _runs(column, SMALLEST_WEIGHT)
        # Real and imaginary parts are separated at once: the lists dominate the memory of a large scan.
        runs.append((square, begin, length, weight.real.copy(), -weight.imag[: len(weight) if chi.size else 0]))
    squares, begins, lengths, real, imag = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    return Trotters(
        first=np.cumsum([0, *(len(run[0]) for run in runs)]),
        square=squares,
        begin=begins,
        offset=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        real=real,
        imag=imag,
        response=response,
        strength=np.abs(response) ** 2 / np.where(power > 0, power, 1.0),
        full=float(field.share.sum()),
    )


def _edge(distance: Floats, field: BrightField) -> Floats:
    """Aperture function with a soft edge as wide as the distance of the samples."""
    return np.clip((field.radius_mrad - distance) / field.edge_mrad + 0.5, 0.0, 1.0)


def sample_points(field: BrightField, rotation_deg: float) -> Floats:
    """Samples of every square along the axes of the scan, (K, samples^2, 2), mrad."""
    s = field.samples
    axis = ((np.arange(s) + 0.5) / s - 0.5) * field.side_mrad
    offset = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(1, s * s, 2)
    return along_scan(field.middle_mrad[:, None] + offset, rotation_deg)


def phase_table(field: BrightField, aberrations: Aberrations, wavelength_nm: float) -> tuple[Floats, float]:
    """Tabulate chi on a square grid over the disc; return it with its interval in mrad. Empty without aberrations."""
    if not aberrations.nonzero():
        return np.empty((0, 0)), 1.0
    interval = field.radius_mrad / PHASE_TABLE
    half = math.ceil((field.radius_mrad + field.edge_mrad) / interval) + 1
    x, y = np.meshgrid(*2 * [np.arange(-half, half + 1) * interval])
    return np.asarray(aberration_phase(aberrations, x, y, wavelength_nm), np.float64), interval


@numba.njit(cache=True)
def inside(x: float, y: float, radius: float, width: float) -> float:
    """Aperture function at (x, y): 1 inside a disc, 0 outside, linear across a soft edge."""
    squared = x * x + y * y
    if squared >= (radius + width / 2) ** 2:
        return 0.0
    if squared <= max(radius - width / 2, 0.0) ** 2:
        return 1.0
    return (radius - math.sqrt(squared)) / width + 0.5


@numba.njit(cache=True)
def interpolated(table: Floats, x: float, y: float, interval: float) -> float:
    """Interpolate bilinearly in a table whose middle is zero angle."""
    half = table.shape[0] // 2
    u, v = x / interval + half, y / interval + half
    i, j = int(u), int(v)
    u, v = u - i, v - j
    top = (1 - u) * table[j, i] + u * table[j, i + 1]
    return (1 - v) * top + v * ((1 - u) * table[j + 1, i] + u * table[j + 1, i + 1])


class SampledDisc(NamedTuple):
    """The bright-field disc as the kernels take it.

    Attributes:
        points: samples of each square, (K, samples, 2), or one each, (K, 2), mrad.
        radius, width: radius of the disc and width of its soft edge, mrad.
        chi, interval: from `phase_table`, along the same axes as the points.
    """

    points: Floats
    radius: float
    width: float
    chi: Floats
    interval: float


@numba.njit(cache=True)
def sidebands(fast: float, slow: Floats, disc: SampledDisc, triple_overlap: bool, out: NDArray[np.complex64]) -> None:
    """Add g(K, Q) of one fast frequency, averaged over the samples of each square, to `out`, (K, slow frequencies).

    Without `triple_overlap`, a sample inside both sidebands counts for neither.

    Args:
        fast: one frequency along the fast axis, mrad.
        slow: frequencies along the slow axis, rising and evenly spaced, mrad.
        disc: along the axes of the scan.
    """
    points, radius, width, chi, interval = disc
    aberrated = chi.size > 0
    spacing = slow[1] - slow[0] if len(slow) > 1 else 1.0
    reach = radius + width / 2
    for k in range(points.shape[0]):
        for p in range(points.shape[1]):
            x, y = points[k, p, 0], points[k, p, 1]
            weight = inside(x, y, radius, width) / points.shape[1]
            if weight == 0.0:
                continue
            chi_direct = interpolated(chi, x, y, interval) if aberrated else 0.0
            for sign in (1.0, -1.0):
                half2 = reach**2 - (x - sign * fast) ** 2
                if half2 <= 0.0:
                    continue
                half = math.sqrt(half2)
                begin = max(0, math.ceil((sign * y - half - slow[0]) / spacing))
                end = min(len(slow) - 1, math.floor((sign * y + half - slow[0]) / spacing))
                for j in range(begin, end + 1):
                    to_x, to_y = x - sign * fast, y - sign * slow[j]
                    amount = weight * inside(to_x, to_y, radius, width)
                    if not triple_overlap:
                        amount *= 1.0 - inside(x + sign * fast, y + sign * slow[j], radius, width)
                    if amount == 0.0:
                        continue
                    if aberrated:
                        phase = sign * (chi_direct - interpolated(chi, to_x, to_y, interval))
                        out[k, j] += sign * amount * complex(math.cos(phase), math.sin(phase))
                    else:
                        out[k, j] += sign * amount


@numba.njit(cache=True)
def _runs(
    column: NDArray[np.complex64], smallest: float
) -> tuple[Integers, Integers, NDArray[np.int64], NDArray[np.complex64]]:
    """Find the runs of weights above `smallest`: square, first slow frequency, length, and all their weights."""
    squares, rows = column.shape
    square, begin = np.empty(column.size, np.int32), np.empty(column.size, np.int32)
    length, weight = np.empty(column.size, np.int64), np.empty(column.size, np.complex64)
    runs, n = 0, 0
    for k in range(squares):
        inside = False
        for j in range(rows):
            if abs(column[k, j]) <= smallest:
                inside = False
                continue
            if not inside:
                square[runs], begin[runs], length[runs] = k, j, 0
                runs += 1
                inside = True
            weight[n] = column[k, j]
            length[runs - 1] += 1
            n += 1
    return square[:runs].copy(), begin[:runs].copy(), length[:runs].copy(), weight[:n].copy()
