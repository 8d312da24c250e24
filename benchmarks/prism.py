"""PRISM beside multislice on the library's thick specimens: how fast it is, and how wrong.

    python -m benchmarks.prism [--slices 10 20 40] [--positions 64]

PRISM (Ophus 2017) propagates every plane wave of the aperture once, in a cell that holds the whole scan, and then sums
them for each position; with interpolation f it takes every f-th wave and cuts the probe to 1/f of the cell. Rates are
frames per second of processor time, on one thread, for a scan of 64 x 64 positions, the plane waves included: of our
multislice, of abTEM's SMatrix, and of PRISM without interpolation on our own transforms, whose sum is one product of
matrices. Errors are relative L2 against multislice in the whole cell, by the same program: of the diffraction
patterns, and the largest among the scenario's detectors.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import abtem
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scenarios.schema import load
from twin import specimens
from twin.aberrations import Aberrations
from twin.detector_geometry import Detector, DiffractionGrid, standard, weights
from twin.optics import Optics
from twin.scan_multislice import transmission_field
from twin.scan_render import ScanRenderer, TransmissionField, aperture_wave, ramps

Floats = NDArray[np.floating]
Positions = NDArray[np.float64]

SCAN = 64 * 64
CELL_NM = 0.3905
CELLS, SMALLER_CELLS = 5, 4
"""Of SrTiO3 along a side: the scenario's, and as many as its window would need."""
FACTORS = (1, 2, 4)
WAVES = 8
"""Plane waves from which the time of all is estimated where all are too many."""


@dataclass(frozen=True)
class Case:
    """A specimen of the library, at rest.

    Attributes:
        name: to print.
        optics: of the scenario.
        field: its transmission functions.
        detectors: rings in mrad, by name.
    """

    name: str
    optics: Optics
    field: TransmissionField
    detectors: Mapping[str, Detector]

    @property
    def whole(self) -> Optics:
        """With the whole field as the probe's window."""
        return replace(self.optics, grid=self.field.functions.shape[-1])


@dataclass(frozen=True)
class Row:
    """One way to compute the scan; None where it was not tried.

    Attributes:
        way: in words.
        waves: plane waves.
        build_s: for them.
        frame_s: for one position after that.
        patterns, signals: errors.
    """

    way: str
    waves: int | None
    build_s: float
    frame_s: float | None
    patterns: float | None = None
    signals: float | None = None

    @property
    def rate(self) -> float:
        """Frames per second of the whole scan; an upper bound without `frame_s`."""
        return SCAN / (self.build_s + SCAN * (self.frame_s or 0.0))


def strontium_titanate(slices: int, cells: int) -> Case:
    """The scenario `sto_001` with a slice for each cell along the beam and `cells` along a side."""
    side = {"width_nm": cells * CELL_NM, "height_nm": cells * CELL_NM, "thickness_nm": slices * CELL_NM}
    return of_scenario("sto_001", side)


def of_scenario(name: str, changes: Mapping[str, float] | None = None) -> Case:
    """A scenario's specimen at rest, with other options if they are given."""
    scan: Any = load(name).scan
    options = {**scan.specimen_options, **(changes or {}), "thermal": False}
    field = transmission_field(specimens.build(scan.specimen, options), scan.optics, slice_nm=scan.slice_nm)
    return Case(f"{name}, {field.slices} slices", scan.optics, field, scan.detectors)


def multislice(case: Case, optics: Optics, positions_nm: Positions) -> tuple[float, Floats]:
    """Seconds per frame and patterns of our own renderer."""
    renderer = ScanRenderer(optics, case.field)
    renderer.diffraction(Aberrations(), positions_nm[:1])
    return _timed(lambda: renderer.diffraction(Aberrations(), positions_nm), len(positions_nm))


def plane_wave_s(case: Case, count: int = WAVES) -> float:
    """Seconds for one plane wave through the whole cell, by our own transforms."""
    renderer, middle = ScanRenderer(case.whole, case.field), np.zeros(2)
    wave = aperture_wave(case.whole, Aberrations())
    renderer._spectrum(wave, middle, 0)
    return _timed(lambda: [renderer._spectrum(wave, middle, 0) for _ in range(count)], count)[0]


def product(case: Case, positions_nm: Positions) -> tuple[Row, Floats]:
    """PRISM without interpolation, by our own transforms and a product of matrices; and its patterns.

    A ramp moves each plane wave to a position; behind the specimen, that moves the whole pattern's wave by a phase.
    """
    optics, renderer = case.whole, ScanRenderer(case.whole, case.field)
    size = renderer.size
    wave = aperture_wave(optics, Aberrations())
    inside = np.argwhere(wave != 0)
    matrix = np.empty((len(inside), size * size), np.complex64)

    def build() -> None:
        for column, (y, x) in zip(matrix, inside, strict=True):
            single = np.zeros_like(wave)
            single[y, x] = wave[y, x]
            column[:] = renderer._spectrum(single, np.array(case.field.corner_nm), 0).ravel()

    def patterns() -> Floats:
        pixel = (positions_nm - case.field.corner_nm) / case.field.sampling_nm
        along_x, along_y = (ramps(pixel[:, axis], len(wave), optics.grid) for axis in (0, 1))
        waves = (along_y[:, inside[:, 0]] * along_x[:, inside[:, 1]]) @ matrix
        return (waves.real**2 + waves.imag**2).reshape(-1, size, size) * renderer._exit

    build_s, _ = _timed(build, 1)
    patterns()
    frame_s, found = _timed(patterns, len(positions_nm))
    return Row(f"PRISM as one product, cell of {optics.grid}", len(inside), build_s, frame_s), found


def abtem_rows(case: Case, positions_nm: Positions, factors: tuple[int, ...]) -> list[Row]:
    """abTEM's multislice in the whole cell, and its SMatrix with each interpolation."""
    optics = case.whole
    phase = np.angle(case.field.functions[0]).swapaxes(1, 2) / (optics.interaction_rad_per_v_nm * 0.1)
    potential = abtem.PotentialArray(
        np.ascontiguousarray(phase, np.float32),
        slice_thickness=case.field.step_nm * 10,
        sampling=optics.sampling_nm * 10,
    )
    beam: dict[str, Any] = {"energy": optics.energy_kev * 1e3, "semiangle_cutoff": optics.convergence_mrad}
    corner = case.field.corner_nm
    scan, detector = abtem.CustomScan((positions_nm - corner) * 10), abtem.PixelatedDetector(max_angle="full")
    probe = abtem.Probe(**beam, extent=optics.window_nm * 10, gpts=optics.grid, soft=False)

    def scanned() -> Any:
        return probe.scan(potential, scan=scan, detectors=detector, max_batch=4, lazy=False)

    scanned()
    frame_s, measured = _timed(scanned, len(positions_nm))
    truth = measured.array
    rows = [Row("abTEM, multislice", None, 0.0, frame_s, 0.0, 0.0)]
    for factor in factors:
        matrix, ctf = abtem.SMatrix(potential=potential, **beam, interpolation=factor), abtem.CTF(**beam, soft=False)
        build_s, waves = _timed(partial(matrix.build, lazy=False), 1)
        reduced = partial(waves.reduce, scan=scan, detectors=detector, ctf=ctf)
        reduced()
        frame_s, found = _timed(reduced, len(positions_nm))
        wrong = errors(case, truth, found.array, factor)
        rows.append(Row(f"abTEM, PRISM, f = {factor}", len(matrix), build_s, frame_s, *wrong))
    return rows


def errors(case: Case, truth: Floats, found: Floats, factor: int = 1) -> tuple[float, float]:
    """Relative L2 of patterns at the angles that both have, and the largest of the detectors' signals.

    Args:
        case: optics and detectors.
        truth: (N, n, n), of the whole cell, zero angle at n // 2; whole beam = 1.
        found: (N, m, m), of a window smaller by `factor`, likewise.
        factor: pixels of `truth` per pixel of `found`, along a side.
    """
    middle = found.shape[1] // 2
    reach = min(truth.shape[1] // 2 // factor, middle) - 1
    steps = np.arange(-reach, reach + 1)
    at = truth.shape[1] // 2 + factor * steps
    # A wave of fewer pixels has more in each.
    patterns = _relative(truth[:, at][:, :, at] * factor**2, found[:, middle + steps][:, :, middle + steps])
    pixel_mrad = case.whole.pixel_mrad
    return patterns, _worst(signals(case, truth, pixel_mrad), signals(case, found, pixel_mrad * factor))


def signals(case: Case, patterns: Floats, pixel_mrad: float) -> Floats:
    """Of every detector, (N, D)."""
    grid = DiffractionGrid(shape=patterns.shape[1:], pixel_mrad=pixel_mrad)
    rings = {
        name: standard(name, case.optics.convergence_mrad) if ring is None else ring
        for name, ring in case.detectors.items()
    }
    return np.asarray(np.einsum("nhw,dhw->nd", patterns, weights(rings, grid)))


def _worst(truth: Floats, found: Floats) -> float:
    """Largest relative L2 among detectors, (N, D) each."""
    return max(_relative(one, other) for one, other in zip(truth.T, found.T, strict=True))


def _relative(truth: Floats, found: Floats) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def _timed(work: Callable[[], Any], count: int) -> tuple[float, Any]:
    """Seconds of processor time for one of `count`, and what came of it."""
    begun = time.process_time()
    made = work()
    return (time.process_time() - begun) / count, made


def crystal(slices: int, positions: int, factors: tuple[int, ...]) -> list[Row]:
    """Every way to compute SrTiO3 of so many slices; the cell of the scenario is the truth."""
    case, smaller = strontium_titanate(slices, CELLS), strontium_titanate(slices, SMALLER_CELLS)
    positions_nm = np.random.default_rng(0).uniform(0.0, CELLS * CELL_NM, (positions, 2))
    frame_s, narrow = multislice(case, case.optics, positions_nm)
    whole_s, truth = multislice(case, case.whole, positions_nm)
    row, found = product(case, positions_nm)
    small_row, small = product(smaller, positions_nm)
    wanted = signals(case, truth, case.whole.pixel_mrad)
    window = _worst(wanted, signals(case, narrow, case.optics.pixel_mrad))
    few_cells = _worst(wanted, signals(case, small, smaller.whole.pixel_mrad))
    patterns, of_signals = errors(case, truth, found)
    return [
        Row(f"multislice, window of {case.optics.grid}", None, 0.0, frame_s, None, window),
        Row(f"multislice, cell of {case.whole.grid}", None, 0.0, whole_s, 0.0, 0.0),
        replace(row, patterns=patterns, signals=of_signals),
        replace(small_row, signals=few_cells),
        *abtem_rows(case, positions_nm, factors),
    ]


def particle(factors: tuple[int, ...]) -> list[Row]:
    """Gold on carbon: our multislice, and what the plane waves alone of each interpolation would take."""
    gold = of_scenario("au_on_carbon")
    frame_s, _ = multislice(gold, gold.optics, np.full((16, 2), 1.0))
    waves, wave_s = int(np.count_nonzero(aperture_wave(gold.whole, Aberrations()))), plane_wave_s(gold)
    return [
        Row(f"multislice, window of {gold.optics.grid}", None, 0.0, frame_s),
        *(
            Row(f"plane waves, f = {f}, window of {gold.whole.grid // f}", waves // f**2, waves // f**2 * wave_s, None)
            for f in factors
        ),
    ]


def print_rows(title: str, found: list[Row]) -> None:
    """One table."""
    heads = (("waves", 6), ("build s", 8), ("ms/frame", 8), ("frames/s", 9), ("patterns", 9), ("signals", 9))
    print(title, f"{'':36s} " + " ".join(f"{head:>{width}s}" for head, width in heads), sep="\n")
    for row in found:
        frame = f"{'' if row.frame_s is None else f'{row.frame_s * 1e3:.2f}':>8s}"
        wrong = [f"{'' if error is None else f'{error:.1e}':>9s}" for error in (row.patterns, row.signals)]
        print(f"{row.way:36s} {row.waves or '':>6} {row.build_s:8.1f} {frame} {row.rate:9.1f} {wrong[0]} {wrong[1]}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[10, 20, 40], help="of SrTiO3")
    parser.add_argument("--positions", type=int, default=64, help="that are computed; the rate is for the whole scan")
    given = parser.parse_args()
    settings = {"precision": "float32", "fftw.threads": 1, "dask.lazy": False, "diagnostics.progress_bar": False}
    with abtem.config.set(settings), threadpool_limits(1):
        for slices in given.slices:
            print_rows(f"sto_001, {slices} slices", crystal(slices, given.positions, FACTORS))
        print_rows("au_on_carbon", particle(FACTORS))


if __name__ == "__main__":
    main()
