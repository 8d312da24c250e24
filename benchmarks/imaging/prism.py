"""Plane waves beside multislice on SrTiO3: how fast, how wrong, and from how many positions on they pay.

    python -m benchmarks.imaging.prism [--slices 10 20 40] [--rounds 5] [--abtem]

The specimen of the scenario `sto_001` at rest, one slice per cell, with the whole periodic cell as the window: what
scans use, `twin.scan.prism`, beside `twin.scan.diffraction` position by position.
Seconds are processor time on one thread,
medians over interleaved rounds; rates are frames per second of a whole scan, the plane waves included. Errors are
relative L2 against multislice in the whole cell: of the diffraction patterns, and the largest among the scenario's
detectors. `gain` is what the automatic choice expects of a scan of 64 x 64, beside what was measured.

`--abtem` adds abTEM's SMatrix, without and with interpolation (Ophus 2017): with interpolation f it takes every f-th
wave and cuts the probe to 1/f of the cell; errors are against abTEM's own multislice.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
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
from twin.day import ScanProperties
from twin.detectors.geometry import DiffractionGrid, weights
from twin.detectors.layouts import Detector, standard
from twin.optics import Optics
from twin.scan.diffraction import ScanRenderer, TransmissionField
from twin.scan.plan import ScanPlan
from twin.scan.prism import GAIN, PlaneWaves, Work, work
from twin.scan.transmission import transmission_field

Floats = NDArray[np.floating]
Positions = NDArray[np.float64]

CELL_NM = 0.3905
CELLS = 5
"""Of SrTiO3 along a side: the scenario's."""
FACTORS = (1, 2, 4)
LINE = 64
"""Positions of a line."""
FEW = 8
"""Positions that one round takes through multislice."""
NARROW = 192
"""Pixels of a window that is a part of the cell, as a specimen that is not periodic needs one."""


@dataclass(frozen=True)
class Case:
    """A specimen of the library, at rest.

    Attributes:
        optics: of the scenario.
        field: its transmission functions.
        detectors: rings in mrad, by name.
    """

    optics: Optics
    field: TransmissionField
    detectors: Mapping[str, Detector]

    @property
    def whole(self) -> Optics:
        """With the whole field as the probe's window."""
        return replace(self.optics, grid=self.field.functions.shape[-1])


@dataclass(frozen=True)
class Row:
    """One way to compute a scan.

    Attributes:
        way: in words.
        frame_s: for one position.
        build_s: before the first one.
        patterns, signals: errors, where there is something to compare with.
    """

    way: str
    frame_s: float
    build_s: float = 0.0
    patterns: float | None = None
    signals: float | None = None

    def scan_s(self, side: int) -> float:
        """Of side x side positions."""
        return self.build_s + side**2 * self.frame_s


def strontium_titanate(slices: int) -> Case:
    """The scenario `sto_001` with a slice for each cell along the beam."""
    scan: Any = load("sto_001").scan
    side = {"width_nm": CELLS * CELL_NM, "height_nm": CELLS * CELL_NM, "thickness_nm": slices * CELL_NM}
    options = {**scan.specimen_options, **side, "thermal": False}
    field = transmission_field(specimens.build(scan.specimen, options), scan.optics, slice_nm=scan.slice_nm)
    return Case(scan.optics, field, scan.detectors)


def of_scan(case: Case, side: int, level: bool) -> Work:
    """What a scan of side x side positions of the case asks for, in the whole cell."""
    asked = work(
        ScanPlan(rows=side, columns=side),
        ScanProperties(),
        case.whole,
        ScanRenderer(case.whole, case.field).mixture,
        case.field.slices,
        int(np.count_nonzero(ScanRenderer(case.whole, case.field).exit_mask)),
    )
    return replace(asked, level=level)


def patterns(way: ScanRenderer | PlaneWaves, positions_nm: Positions, level: bool | None = None) -> Floats:
    """Of every position, (N, size, size), without aberrations; `level` is for plane waves."""
    waves = way.waves(Aberrations())
    steps = [(waves, position) for position in positions_nm]
    found: Iterable[Floats] = way.patterns(steps, bool(level)) if isinstance(way, PlaneWaves) else way.patterns(steps)
    return np.stack(list(found))


def ours(case: Case, rounds: int) -> list[Row]:
    """Multislice in a narrow window and in the whole cell, plane waves on level lines and anywhere."""
    window = replace(case.optics, grid=NARROW)
    narrow, multislice = ScanRenderer(window, case.field), ScanRenderer(case.whole, case.field)
    build_s, plane_waves = _timed(lambda: PlaneWaves(multislice), 1)
    generator, side_nm = np.random.default_rng(0), CELLS * CELL_NM
    seconds: list[list[float]] = []
    for _ in range(rounds + 1):
        anywhere = generator.uniform(0.0, side_nm, (LINE, 2))
        line = np.stack([np.linspace(0.0, 1.28, LINE), np.full(LINE, generator.uniform(0.0, side_nm))], axis=1)
        works = (
            partial(patterns, narrow, anywhere[:FEW]),
            partial(patterns, multislice, anywhere[:FEW]),
            partial(patterns, plane_waves, line, True),
            partial(patterns, plane_waves, anywhere, False),
        )
        counts = (FEW, FEW, LINE, LINE)
        timed = [_timed(work, count) for work, count in zip(works, counts, strict=True)]
        seconds.append([spent for spent, _ in timed])
    # The first round is for caches and plans.
    narrow_s, whole_s, level_s, anywhere_s = np.median(seconds[1:], axis=0).tolist()
    truth, on_line = timed[1][1], patterns(multislice, line[:FEW])
    cut = _worst(signals(case, truth, case.whole.pixel_mrad), signals(case, timed[0][1], window.pixel_mrad))
    return [
        Row(f"multislice, window of {NARROW}", narrow_s, signals=cut),
        Row(f"multislice, cell of {case.whole.grid}", whole_s, 0.0, 0.0, 0.0),
        Row("plane waves, level lines", level_s, build_s, *errors(case, on_line, timed[2][1][:FEW])),
        Row("plane waves, anywhere", anywhere_s, build_s, *errors(case, truth, timed[3][1][:FEW])),
    ]


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
    rows = [Row("abTEM, multislice", frame_s, 0.0, 0.0, 0.0)]
    for factor in factors:
        matrix, ctf = abtem.SMatrix(potential=potential, **beam, interpolation=factor), abtem.CTF(**beam, soft=False)
        build_s, waves = _timed(partial(matrix.build, lazy=False), 1)
        reduced = partial(waves.reduce, scan=scan, detectors=detector, ctf=ctf)
        reduced()
        frame_s, found = _timed(reduced, len(positions_nm))
        wrong = errors(case, truth, found.array, factor)
        rows.append(Row(f"abTEM, PRISM, f = {factor}", frame_s, build_s, *wrong))
    return rows


def errors(case: Case, truth: Floats, found: Floats, factor: int = 1) -> tuple[float, float]:
    """Relative L2 of patterns at the angles that both have, and the largest of the detectors' signals.

    Args:
        case: optics and detectors.
        truth: (N, n, n), of the whole cell, zero angle at n // 2; whole beam = 1.
        found: (N, m, m), of a window smaller by `factor`, zero angle at m // 2; whole beam = 1.
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


def print_rows(rows: Iterable[Row]) -> None:
    """One table."""
    heads = ("build s", "ms/frame", "64 x 64", "256 x 256", "patterns", "signals")
    print(f"{'':30s}", *(f"{head:>9s}" for head in heads))
    for row in rows:
        rates = (f"{side**2 / row.scan_s(side):9.0f}" for side in (64, 256))
        wrong = (f"{'':9s}" if error is None else f"{error:9.1e}" for error in (row.patterns, row.signals))
        print(f"{row.way:30s}", f"{row.build_s:9.2f} {row.frame_s * 1e3:9.3f}", *rates, *wrong)


def print_choice(case: Case, multislice: Row, row: Row, level: bool) -> None:
    """What the automatic choice expects, and what was measured."""
    asked = of_scan(case, 64, level)
    expected, measured = asked.multislice_s / asked.prism_s, multislice.scan_s(64) / row.scan_s(64)
    sides = np.arange(1, 512)
    taken = [one.multislice_s >= GAIN * one.prism_s for one in (of_scan(case, int(side), level) for side in sides[::8])]
    first = f"from {int(sides[::8][taken.index(True)])} squared on" if any(taken) else "never"
    even = row.build_s / (multislice.frame_s - row.frame_s) if multislice.frame_s > row.frame_s else float("inf")
    print(
        f"{row.way}: {asked.waves} waves, {asked.matrix_bytes / 2**20:.0f} MiB; 64 x 64 gains {measured:.2f},"
        f" {expected:.2f} expected; pays from {even:.0f} positions on; taken {first}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 10, 20, 40], help="of SrTiO3")
    parser.add_argument("--rounds", type=int, default=5, help="the median counts")
    parser.add_argument("--abtem", action="store_true", help="also abTEM's multislice and its SMatrix")
    given = parser.parse_args()
    settings = {"precision": "float32", "fftw.threads": 1, "dask.lazy": False, "diagnostics.progress_bar": False}
    with abtem.config.set(settings), threadpool_limits(1):
        for slices in given.slices:
            print(f"\nsto_001, {slices} slices")
            case = strontium_titanate(slices)
            rows = ours(case, given.rounds)
            if given.abtem:
                places = np.random.default_rng(1).uniform(0.0, CELLS * CELL_NM, (LINE, 2))
                rows += abtem_rows(case, places, FACTORS)
            print_rows(rows)
            print_choice(case, rows[1], rows[2], True)
            print_choice(case, rows[1], rows[3], False)


if __name__ == "__main__":
    main()
