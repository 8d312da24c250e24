"""Diffraction patterns of many positions from the plane waves of the aperture: PRISM (Ophus 2017) on the whole field.

A probe is a sum of plane waves, and moving it changes the phase of each: `Psi(q) = sum_k A(k) exp(-i chi(k) -
2 pi i k r) S(k, q)`, with S(k, q) the far field of plane wave k behind the specimen. S is computed once per thermal
snapshot with the slices of `ScanRenderer`; the rest are matrix products. The window must be the whole periodic field:
then no wave is left out and no probe is cropped, and the patterns equal those of multislice to rounding. `Work`
estimates which is faster.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.day import ScanProperties
from twin.optics import Optics
from twin.scan.diffraction import Complex, Ray, ScanRenderer, Waves, aperture_wave, ramps
from twin.scan.plan import ScanPlan
from twin.scan.setup import Propagation

MAX_MATRIX_BYTES = 448 * 2**20
"""Memory limit of the plane waves: with the libraries, some 500 MiB, a scan stays within 1 GiB."""

GROUP = 32
"""Positions per matrix product. The rounding of a row depends on its index, but not on the values of other rows: every
position has the row of its number in the scan, and rows outside the block are zero."""

GAIN = 1.25
"""Estimated speed-up from which plane waves are chosen; the estimate is about that accurate on other machines."""

# Costs in nanoseconds on one core, measured by `python -m benchmarks.imaging.prism`. Only their ratios matter: they
# decide between two ways to the same patterns, never a result.
SLICE_NS = 9.0
"""Multislice: transmission and two transforms, per slice and pixel of the grid."""
ENDS_NS = 1.0
"""Multislice: making the probe and adding the pattern, per pixel of the grid."""
GROUP_PRODUCT_NS = 0.09
"""Plane waves times a group of positions, per position, plane wave and pixel of the pattern."""
READ_NS = 0.4
"""Reading all plane waves from memory for one line, per plane wave and pixel of the pattern."""
COLUMN_SUM_NS = 0.15
"""Sum over k_y for one beam of a line, per plane wave and pixel of the pattern."""
LINE_PRODUCT_NS = 0.13
"""Sum over k_x for one position of a line, per column of plane waves and pixel of the pattern."""
PATTERN_NS = 2.0
"""Adding |Psi|^2 of one position, per pixel of the pattern."""


@dataclass(frozen=True)
class Work:
    """Size of a scan and estimated times of both propagations.

    Attributes:
        positions, lines: numbers of the scan.
        level: every line runs along x, see `lines_are_level`.
        mixture: coherent contributions of each position.
        slices: number along the beam.
        grid: side of the window, pixels.
        columns, waves: plane waves of the aperture: along k_x, and all of them.
        pixels: number of pattern pixels that a detector or the camera covers.
    """

    positions: int
    lines: int
    level: bool
    mixture: Sequence[Ray]
    slices: int
    grid: int
    columns: int
    waves: int
    pixels: int

    @property
    def snapshots(self) -> int:
        """Number of thermal configurations."""
        return len({ray.snapshot for ray in self.mixture})

    @property
    def matrix_bytes(self) -> int:
        """Memory of the plane waves behind the specimen and of the sums for one line."""
        return 8 * self.pixels * (self.snapshots * self.waves + len(set(_beams(self.mixture))) * self.columns)

    @property
    def multislice_s(self) -> float:
        """Time of multislice at every position."""
        return self.positions * len(self.mixture) * self._wave_s

    @property
    def prism_s(self) -> float:
        """Time of the plane waves and of the products for every position."""
        pairs, rays = self.waves * self.pixels, len(self.mixture)
        built = self.snapshots * self.waves * self._wave_s
        if not self.level:
            return built + self.positions * rays * (pairs * GROUP_PRODUCT_NS + self.pixels * PATTERN_NS) * 1e-9
        lines = self.lines * pairs * (self.snapshots * READ_NS + len(set(_beams(self.mixture))) * COLUMN_SUM_NS)
        along = self.positions * rays * self.pixels * (self.columns * LINE_PRODUCT_NS + PATTERN_NS)
        return built + (lines + along) * 1e-9

    @property
    def _wave_s(self) -> float:
        """Time of one wave through one snapshot."""
        return self.grid**2 * (self.slices * SLICE_NS + ENDS_NS) * 1e-9


class Choice(NamedTuple):
    """How a scan is propagated, the reason in words, and whether lack of memory prevented the faster way."""

    propagation: Literal["multislice", "prism"]
    reason: str
    short_of_memory: bool = False


def work(
    plan: ScanPlan, errors: ScanProperties, optics: Optics, mixture: Sequence[Ray], slices: int, pixels: int
) -> Work:
    """The work of a scan; `pixels` is the number of pattern pixels that a detector or the camera covers."""
    inside = aperture_wave(optics, Aberrations()) != 0
    return Work(
        positions=plan.count,
        lines=plan.count if plan.pattern == "list" else min(plan.rows, plan.count),
        level=lines_are_level(plan, errors),
        mixture=mixture,
        slices=slices,
        grid=optics.grid,
        columns=len(inside),
        waves=int(np.count_nonzero(inside)),
        pixels=pixels,
    )


def lines_are_level(plan: ScanPlan, errors: ScanProperties) -> bool:
    """Whether y is constant to the last bit along every line. Jitter shifts whole lines; other errors tilt them."""
    straight = plan.pattern != "list" and plan.rotation_deg == 0.0
    steady = (
        errors.hum_nm[1] == errors.drift_nm_per_s[1] == errors.drift_walk_nm_per_sqrt_s == 0.0
        and errors.coil_rotation_deg == errors.flyback_lag == 0.0
    )
    return straight and steady


def mismatch(optics: Optics, shape: tuple[int, int], cyclic: bool = True) -> str | None:
    """Reason why a window is not a whole multiple of a field of (rows, columns); None if it is.

    Args:
        optics: window.
        shape, cyclic: of the field, see `scan.transmission.layout`.
    """
    rows, columns = shape
    if cyclic and optics.grid % rows == 0 and optics.grid % columns == 0:
        return None
    if not cyclic:
        return "plane waves need a periodic specimen whose sides are whole pixels, as the window; this one has a margin"
    would = f"optics.grid={rows} would do" if rows == columns else "the specimen would have to be square"
    return (
        f"plane waves need the whole periodic field as the window; the window has {optics.grid} x {optics.grid}"
        f" pixels, the field {rows} x {columns}: {would}"
    )


def too_large(scan: Work) -> str | None:
    """Reason why the plane waves of a scan exceed the memory limit; None if they do not."""
    size = scan.matrix_bytes
    if size <= MAX_MATRIX_BYTES:
        return None
    return (
        f"{scan.waves} plane waves through {scan.snapshots} snapshots take {size / 2**20:.0f} MiB at"
        f" {scan.pixels} pixels each; the limit is {MAX_MATRIX_BYTES / 2**20:.0f} MiB. A smaller window, aperture,"
        " detector or fewer snapshots would do"
    )


def choose(propagation: Propagation, scan: Work, unfit: str | None) -> Choice:
    """Choose how to propagate a scan: "auto" takes plane waves if they fit and are faster by `GAIN` or more.

    Args:
        propagation: the setting.
        scan: its size.
        unfit: reason that rules plane waves out, see `mismatch`.

    Raises:
        ValueError: the setting is "prism" and plane waves are impossible.
    """
    if propagation == "multislice":
        return Choice("multislice", "asked for")
    large = too_large(scan)
    if propagation == "prism":
        if unfit or large:
            raise ValueError(f"propagation prism: {unfit or large}; or propagation auto, which then takes multislice")
        return Choice("prism", "asked for")
    if unfit:
        return Choice("multislice", unfit)
    gain = scan.multislice_s / scan.prism_s
    compared = f"{scan.waves} plane waves for {scan.positions} positions: {gain:.2g} times as fast as multislice"
    if gain < GAIN:
        return Choice("multislice", compared)
    return Choice("multislice", large, short_of_memory=True) if large else Choice("prism", compared)


class PlaneWaves:
    """Patterns of a `ScanRenderer` from its plane waves, which are all propagated before the first pattern.

    Positions on level lines are cheapest: the sum over k_y is the same along a line and is kept, which leaves a sum
    over k_x for each position. Other positions are multiplied out in groups.

    Args:
        multislice: the renderer whose patterns are computed.
        used: pixels of a pattern to compute, (size, size); the others are zero. None: all.

    Raises:
        ValueError: the window is not the whole field.
    """

    def __init__(self, multislice: ScanRenderer, used: NDArray[np.bool_] | None = None) -> None:
        optics, field = multislice.optics, multislice.field
        rows, columns = field.functions.shape[-2:]
        obstacle = mismatch(optics, (rows, columns))
        if obstacle is not None:
            raise ValueError(obstacle)
        self._multislice, self._optics, self._field = multislice, optics, field
        self._size = multislice.size
        kept = multislice.exit_mask > 0
        self._pixels = np.flatnonzero(kept if used is None else kept & used)
        inside = aperture_wave(optics, Aberrations()) != 0
        self._side = len(inside)
        # By columns, since the sum over k_y comes first.
        self._kx, self._ky = np.nonzero(inside.T)
        self._starts = np.searchsorted(self._kx, np.arange(self._side + 1)).tolist()
        self._matrix = np.empty((field.snapshots, len(self._kx), len(self._pixels)), np.complex64)
        self._propagate()
        self._beams = _beams(multislice.mixture)
        self._state: tuple[Aberrations, Waves] | None = None
        self._line: tuple[Waves, float, dict[Ray, Complex]] | None = None

    def _propagate(self) -> None:
        """Propagate every plane wave through every snapshot, from the corner of the field."""
        mask = self._multislice.exit_mask.ravel()[self._pixels]
        place = np.array(self._field.corner_nm)
        single = np.zeros((self._side, self._side), np.complex64)
        for snapshot, matrix in enumerate(self._matrix):
            for row, kx, ky in zip(matrix, self._kx, self._ky, strict=True):
                single[ky, kx] = 1.0
                row[:] = self._multislice.exit_wave(single, place, snapshot).ravel()[self._pixels] * mask
                single[ky, kx] = 0.0

    def waves(self, aberrations: Aberrations) -> Waves:
        """See `ScanRenderer.waves`; returns the same object for the same aberrations in succession.

        Raises:
            AliasingError: the window cannot hold the probe.
        """
        if self._state is None or self._state[0] != aberrations:
            self._state = aberrations, self._multislice.waves(aberrations)
        return self._state[1]

    def patterns(
        self, steps: Iterable[tuple[Waves, Floats]], level: bool = False, first: int = 0
    ) -> Iterator[NDArray[np.float32]]:
        """See `ScanRenderer.patterns`; the same to the last bit however a scan is cut into blocks.

        Args:
            steps: waves and positions (x, y), nm.
            level: consecutive positions mostly share y and waves; others are also correct, but slow.
            first: number of the first step in its scan.
        """
        return self._along_lines(steps) if level else self._in_groups(iter(steps), first % GROUP)

    def _along_lines(self, steps: Iterable[tuple[Waves, Floats]]) -> Iterator[NDArray[np.float32]]:
        for waves, position_nm in steps:
            lines, total = self._lines(waves, float(position_nm[1])), np.zeros(len(self._pixels), np.float32)
            for ray, beam in zip(self._multislice.mixture, self._beams, strict=True):
                x = self._pixel(position_nm[0] + ray.shift_nm[0], 0)
                _add_intensity(total, ramps(x, self._side, self._optics.grid)[0] @ lines[beam], ray.weight)
            yield self._spread(total)

    def _lines(self, waves: Waves, y_nm: float) -> dict[Ray, Complex]:
        """Sums over k_y for each beam, (columns of plane waves, pixels); keeps those of the last line."""
        if self._line is None or self._line[0] is not waves or self._line[1] != y_nm:
            self._line = None  # free the old sums first
            sums: dict[Ray, Complex] = {}
            for snapshot, matrix in enumerate(self._matrix):
                beams = [beam for beam in dict.fromkeys(self._beams) if beam.snapshot == snapshot]
                sums.update(zip(beams, self._column_sums(waves, y_nm, beams, matrix), strict=True))
            self._line = waves, y_nm, sums
        return self._line[2]

    def _column_sums(self, waves: Waves, y_nm: float, beams: list[Ray], matrix: Complex) -> Complex:
        """(beams, columns of plane waves, pixels), in one pass through the plane waves of a snapshot."""
        y = self._pixel(np.array([y_nm + beam.shift_nm[1] for beam in beams]), 1)
        amplitudes = ramps(y, self._side, self._optics.grid)[:, self._ky]
        for row, beam in zip(amplitudes, beams, strict=True):
            row *= waves[beam.defocus_nm][self._ky, self._kx]
        sums = np.empty((len(beams), self._side, len(self._pixels)), np.complex64)
        for k, (first, end) in enumerate(pairwise(self._starts)):
            sums[:, k] = amplitudes[:, first:end] @ matrix[first:end]
        return sums

    def _in_groups(self, steps: Iterator[tuple[Waves, Floats]], place: int) -> Iterator[NDArray[np.float32]]:
        while group := list(islice(steps, GROUP - place)):
            rows = slice(place, place + len(group))
            total = np.zeros((GROUP, len(self._pixels)), np.float32)
            for ray in self._multislice.mixture:
                amplitudes = np.zeros((GROUP, len(self._kx)), np.complex64)
                amplitudes[rows] = self._amplitudes(group, ray)
                _add_intensity(total, amplitudes @ self._matrix[ray.snapshot], ray.weight)
            for intensity in total[rows]:
                yield self._spread(intensity)
            place = 0

    def _amplitudes(self, group: list[tuple[Waves, Floats]], ray: Ray) -> Complex:
        """Amplitude of every plane wave at each step, (steps, plane waves)."""
        positions_nm = np.array([position for _, position in group]) + ray.shift_nm
        along_x, along_y = (
            ramps(self._pixel(positions_nm[:, axis], axis), self._side, self._optics.grid) for axis in (0, 1)
        )
        amplitudes: Complex = along_y[:, self._ky] * along_x[:, self._kx]
        for row, (waves, _) in zip(amplitudes, group, strict=True):
            row *= waves[ray.defocus_nm][self._ky, self._kx]
        return amplitudes

    def _pixel(self, place_nm: float | Floats, axis: int) -> Floats:
        """Position along x (0) or y (1) in pixels from the field's corner, (N,)."""
        return np.atleast_1d(np.asarray(place_nm, np.float64) - self._field.corner_nm[axis]) / self._field.sampling_nm

    def _spread(self, intensity: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put the computed pixels into the pattern, (size, size)."""
        pattern = np.zeros(self._size**2, np.float32)
        pattern[self._pixels] = intensity
        return pattern.reshape(self._size, self._size)


def _beams(mixture: Sequence[Ray]) -> list[Ray]:
    """For each ray a representative of all rays with the same sums over k_y, to 1e-9 nm in y."""
    return [Ray(1.0, ray.defocus_nm, (0.0, round(ray.shift_nm[1], 9) + 0.0), ray.snapshot) for ray in mixture]


def _add_intensity(total: NDArray[np.float32], waves: Complex, weight: float) -> None:
    """`total += weight |waves|^2`, in place."""
    parts = waves.view(np.float32).reshape(*waves.shape, 2)
    np.square(parts, out=parts)
    intensity = parts[..., 0] + parts[..., 1]
    intensity *= np.float32(weight)
    total += intensity
