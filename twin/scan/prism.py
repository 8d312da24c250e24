"""Diffraction patterns of many positions from the plane waves of the aperture: PRISM (Ophus 2017) on the whole field.

A probe is a sum of plane waves, and moving it turns each one's phase: `Psi(q) = sum_k A(k) exp(-i chi(k) - 2 pi i k r)
S(k, q)`, with S(k, q) what becomes of the plane wave k behind the specimen. S is computed once per thermal snapshot by
`ScanRenderer`'s own slices; whatever follows is a product of matrices. The window has to be the whole periodic field:
then no wave is left out and no probe is cut, and patterns are those of multislice but for rounding. When that pays is
`Work`'s business.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import Aberrations
from twin.day import ScanProperties
from twin.optics import Optics
from twin.scan.diffraction import Complex, Ray, ScanRenderer, Waves, aperture_wave, ramps
from twin.scan.plan import ScanPlan
from twin.scan.setup import Propagation

Floats = NDArray[np.float64]

MAX_MATRIX_BYTES = 448 * 2**20
"""Plane waves beyond this are not kept: with the libraries, some 500 MiB, a scan stays within 1 GiB."""

GROUP = 32
"""Positions of one product. By rounding, a row of a product depends on its place, but not on what the other rows hold:
a position has the place of its number in the scan, and rows that are not asked for are zero."""

GAIN = 1.25
"""How much cheaper plane waves must be in the estimate: it is not better than that on other machines."""

# Nanoseconds of one core, measured by `python -m benchmarks.imaging.prism`; only their ratios count.
_SLICE_NS = 9.0  # per slice and pixel of the grid
_ENDS_NS = 1.0  # per pixel of the grid: probe and pattern
_PRODUCT_NS = 0.09  # per plane wave and pixel of the pattern, in a product of many positions
_PASS_NS = 0.4  # the same, to read the plane waves once for a line
_LINE_NS = 0.15  # the same, to sum them for each of a line's beams
_ALONG_NS = 0.13  # per column of plane waves and pixel of the pattern
_PIXEL_NS = 2.0  # per pixel of the pattern


@dataclass(frozen=True)
class Work:
    """What a scan asks for, and what it costs by either way; nothing is computed for it.

    Attributes:
        positions, lines: of the scan.
        level: every line runs along x, see `lines_are_level`.
        mixture: what is summed for each position.
        slices: along the beam.
        grid: side of the window, pixels.
        columns, waves: of the aperture: plane waves side by side, and all of them.
        pixels: of a pattern that anything looks at.
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
        """Thermal configurations."""
        return len({ray.snapshot for ray in self.mixture})

    @property
    def matrix_bytes(self) -> int:
        """Of the plane waves behind the specimen and of the sums for one line."""
        return 8 * self.pixels * (self.snapshots * self.waves + len(set(_beams(self.mixture))) * self.columns)

    @property
    def multislice_s(self) -> float:
        """Every position by itself."""
        return self.positions * len(self.mixture) * self._wave_s

    @property
    def prism_s(self) -> float:
        """Plane waves, and the products for every position."""
        pairs, rays = self.waves * self.pixels, len(self.mixture)
        built = self.snapshots * self.waves * self._wave_s
        if not self.level:
            return built + self.positions * rays * (pairs * _PRODUCT_NS + self.pixels * _PIXEL_NS) * 1e-9
        lines = self.lines * pairs * (self.snapshots * _PASS_NS + len(set(_beams(self.mixture))) * _LINE_NS)
        along = self.positions * rays * self.pixels * (self.columns * _ALONG_NS + _PIXEL_NS)
        return built + (lines + along) * 1e-9

    @property
    def _wave_s(self) -> float:
        """One wave through one snapshot."""
        return self.grid**2 * (self.slices * _SLICE_NS + _ENDS_NS) * 1e-9


class Choice(NamedTuple):
    """How a scan is propagated, why, in words, and whether that is slower than it could be for want of memory."""

    propagation: Literal["multislice", "prism"]
    reason: str
    short_of_memory: bool = False


def work(
    plan: ScanPlan, errors: ScanProperties, optics: Optics, mixture: Sequence[Ray], slices: int, pixels: int
) -> Work:
    """The work of a scan; `pixels` are those of a pattern that anything looks at."""
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
    """Whether y is the same all along every line, to the last bit. Jitter shifts whole lines, other errors tilt."""
    straight = plan.pattern != "list" and plan.rotation_deg == 0.0
    steady = (
        errors.hum_nm[1] == errors.drift_nm_per_s[1] == errors.drift_walk_nm_per_sqrt_s == 0.0
        and errors.coil_rotation_deg == errors.flyback_lag == 0.0
    )
    return straight and steady


def mismatch(optics: Optics, shape: tuple[int, int], cyclic: bool = True) -> str | None:
    """Why a window is not the whole of a field of (rows, columns), once or several times; None when it is.

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


def too_large(asked: Work) -> str | None:
    """Why the plane waves of a scan cannot be kept; None when they can."""
    size = asked.matrix_bytes
    if size <= MAX_MATRIX_BYTES:
        return None
    return (
        f"{asked.waves} plane waves through {asked.snapshots} snapshots take {size / 2**20:.0f} MiB at"
        f" {asked.pixels} pixels each; the limit is {MAX_MATRIX_BYTES / 2**20:.0f} MiB. A smaller window, aperture,"
        " detector or fewer snapshots would do"
    )


def choose(propagation: Propagation, asked: Work, unfit: str | None) -> Choice:
    """How to propagate a scan: for "auto" by plane waves when they fit and are cheaper by `GAIN` or more.

    Args:
        propagation: what was asked for.
        asked: the scan.
        unfit: what speaks against plane waves whatever they cost, see `mismatch`.

    Raises:
        ValueError: "prism" was asked for and cannot be.
    """
    if propagation == "multislice":
        return Choice("multislice", "asked for")
    large = too_large(asked)
    if propagation == "prism":
        if unfit or large:
            raise ValueError(f"propagation prism: {unfit or large}; or propagation auto, which then takes multislice")
        return Choice("prism", "asked for")
    if unfit:
        return Choice("multislice", unfit)
    gain = asked.multislice_s / asked.prism_s
    compared = f"{asked.waves} plane waves for {asked.positions} positions: {gain:.2g} times as fast as multislice"
    if gain < GAIN:
        return Choice("multislice", compared)
    return Choice("multislice", large, short_of_memory=True) if large else Choice("prism", compared)


class PlaneWaves:
    """Patterns of a `ScanRenderer` from its plane waves, all of which are propagated at once, before the first pattern.

    Positions on level lines are cheapest: the sum over k_y is the same all along a line and is kept, what is left for
    each position is one row of plane waves. Other positions are multiplied out in groups.

    Args:
        multislice: the renderer to stand in for.
        seen: pixels of a pattern that anything looks at, (size, size); the others stay zero. None: all.

    Raises:
        ValueError: the window is not the whole field.
    """

    def __init__(self, multislice: ScanRenderer, seen: NDArray[np.bool_] | None = None) -> None:
        optics, field = multislice.optics, multislice.field
        rows, columns = field.functions.shape[-2:]
        obstacle = mismatch(optics, (rows, columns))
        if obstacle is not None:
            raise ValueError(obstacle)
        self._multislice, self._optics, self._field = multislice, optics, field
        self._size = multislice.size
        kept = multislice.exit_mask > 0
        self._pixels = np.flatnonzero(kept if seen is None else kept & seen)
        inside = aperture_wave(optics, Aberrations()) != 0
        self._side = len(inside)
        # By columns, for the sum over k_y goes first.
        self._kx, self._ky = np.nonzero(inside.T)
        self._starts = np.searchsorted(self._kx, np.arange(self._side + 1)).tolist()
        self._matrix = np.empty((field.snapshots, len(self._kx), len(self._pixels)), np.complex64)
        self._propagate()
        self._beams = _beams(multislice.mixture)
        self._state: tuple[Aberrations, Waves] | None = None
        self._line: tuple[Waves, float, dict[Ray, Complex]] | None = None

    def _propagate(self) -> None:
        """Every plane wave through every snapshot, from where the field begins."""
        mask = self._multislice.exit_mask.ravel()[self._pixels]
        place = np.array(self._field.corner_nm)
        single = np.zeros((self._side, self._side), np.complex64)
        for snapshot, matrix in enumerate(self._matrix):
            for row, kx, ky in zip(matrix, self._kx, self._ky, strict=True):
                single[ky, kx] = 1.0
                row[:] = self._multislice.exit_wave(single, place, snapshot).ravel()[self._pixels] * mask
                single[ky, kx] = 0.0

    def waves(self, aberrations: Aberrations) -> Waves:
        """As `ScanRenderer.waves`; the same object for the same aberrations in succession.

        Raises:
            AliasingError: the window cannot hold the probe.
        """
        if self._state is None or self._state[0] != aberrations:
            self._state = aberrations, self._multislice.waves(aberrations)
        return self._state[1]

    def patterns(
        self, steps: Iterable[tuple[Waves, Floats]], level: bool = False, first: int = 0
    ) -> Iterator[NDArray[np.float32]]:
        """As `ScanRenderer.patterns`; the same to the last bit however a scan is cut.

        Args:
            steps: waves and positions (x, y), nm.
            level: consecutive positions mostly share y and waves. Any others are as right, but slow.
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
        """Sums over k_y for each beam, (columns of plane waves, pixels); those of the last line are kept."""
        if self._line is None or self._line[0] is not waves or self._line[1] != y_nm:
            self._line = None  # the old ones go before the new ones come
            found: dict[Ray, Complex] = {}
            for snapshot, matrix in enumerate(self._matrix):
                beams = [beam for beam in dict.fromkeys(self._beams) if beam.snapshot == snapshot]
                found.update(zip(beams, self._column_sums(waves, y_nm, beams, matrix), strict=True))
            self._line = waves, y_nm, found
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
        """Of every plane wave at each step, (steps, plane waves)."""
        positions_nm = np.array([position for _, position in group]) + ray.shift_nm
        along_x, along_y = (
            ramps(self._pixel(positions_nm[:, axis], axis), self._side, self._optics.grid) for axis in (0, 1)
        )
        found: Complex = along_y[:, self._ky] * along_x[:, self._kx]
        for row, (waves, _) in zip(found, group, strict=True):
            row *= waves[ray.defocus_nm][self._ky, self._kx]
        return found

    def _pixel(self, place_nm: float | Floats, axis: int) -> Floats:
        """Along x (0) or y (1), pixels from the field's corner, (N,)."""
        return np.atleast_1d(np.asarray(place_nm, np.float64) - self._field.corner_nm[axis]) / self._field.sampling_nm

    def _spread(self, intensity: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels to where they are in the pattern, (size, size)."""
        pattern = np.zeros(self._size**2, np.float32)
        pattern[self._pixels] = intensity
        return pattern.reshape(self._size, self._size)


def _beams(mixture: Sequence[Ray]) -> list[Ray]:
    """For each ray the one that stands for all whose sums over k_y are the same; to a millionth of a nanometre."""
    return [Ray(1.0, ray.defocus_nm, (0.0, round(ray.shift_nm[1], 9) + 0.0), ray.snapshot) for ray in mixture]


def _add_intensity(total: NDArray[np.float32], waves: Complex, weight: float) -> None:
    """`total += weight |waves|^2`, in place."""
    parts = waves.view(np.float32).reshape(*waves.shape, 2)
    np.square(parts, out=parts)
    intensity = parts[..., 0] + parts[..., 1]
    intensity *= np.float32(weight)
    total += intensity
