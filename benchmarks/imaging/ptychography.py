"""ePIE on thick specimens and at wrong positions, on scans whose truth comes from multislice with finer slices.

    python -m benchmarks.imaging.ptychography [layers crystal positions transforms] [--json]

- `layers`: two sheets of MoS2, 10 nm apart and turned by 20 degrees, in two slices: correlation of each slice's phase
  with the true projected phase of each sheet. The scan takes slices of 0.5 nm.
- `crystal`: 20 nm of SrTiO3 [001]: correlation with the true projected phase of one slice and of several. The scan
  takes slices of 0.2 nm.
- `positions`: a thin sheet scanned with position errors of 0.3 steps rms: correlation with the true phase without
  errors, with errors, and with errors that are corrected; what is won back of what they cost.
- `transforms`: time of a pass over that of the transforms it needs: 4 S for each frame and S slices, and 6 S more to
  refine the positions.

The truth is band-limited to 2 alpha / lambda, images are compared as they are, pixel by pixel on the object's grid.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from agents.base import Image, StreamMeta
from agents.block import FrameBlock
from agents.epie.engine import Steps, sweep
from agents.epie.estimate import ObjectAndProbe, Places
from agents.epie.fourier import plan, transform
from agents.epie.positions import pull
from agents.epie.probe import Beam, propagator, start_probe
from agents.methods.phase.epie import Epie, Options
from scenarios.scans.truth import aperture_limit_per_nm, cross_correlation, low_pass
from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.formats.dataset import Layout, Metadata
from twin.matter.structure import Structure
from twin.optics import Optics
from twin.scan.diffraction import ScanRenderer, to_camera
from twin.scan.transmission import projected_phase, transmission_field
from twin.specimens import build

ELECTRONS = 1e5
"""Electrons of a position."""

STEP_NM = 0.04
"""Step over thick specimens."""

COARSE_STEP_NM, COARSE_DEFOCUS_NM = 0.1, -20.0
"""Step and C10 of the scan with position errors: few positions under a wide probe, where each one counts."""

ERROR_STEPS = 0.3
"""Position errors along each axis, rms, in steps of the scan."""

GAP_NM = 10.0
"""Distance of the two sheets."""

SHEETS_OPTICS = Optics(
    energy_kev=300.0, convergence_mrad=21.4, grid=256, sampling_nm=0.0128, camera_pixels=64, binning=2
)
SHEET_OPTICS = Optics(
    energy_kev=300.0, convergence_mrad=21.4, grid=128, sampling_nm=0.0128, camera_pixels=64, binning=1
)
CRYSTAL_OPTICS = Optics(
    energy_kev=300.0, convergence_mrad=21.4, grid=160, sampling_nm=0.3905 / 32, camera_pixels=64, binning=1
)

STRONG: Mapping[str, Any] = {"final_caution": 4.0, "caution": 0.0, "object_step": 1.5}
"""Options for phases of many radians: steps that stay long."""


@dataclass(frozen=True, eq=False)
class Scan:
    """Simulated frames and what is known of them.

    Attributes:
        counts: (n * n, H, W).
        planned_nm: (x, y) of each position as planned, (n * n, 2).
        meta: metadata of the stream.
        structure, optics: specimen and beam.
    """

    counts: np.ndarray
    planned_nm: Floats
    meta: StreamMeta
    structure: Structure
    optics: Optics


def scanned(
    structure: Structure,
    optics: Optics,
    side: int,
    step_nm: float,
    slice_nm: float,
    defocus_nm: float,
    errors_nm: Floats | None = None,
) -> Scan:
    """Scan `side` x `side` positions in the middle of a specimen by multislice, with Poisson noise.

    Args:
        structure: the specimen.
        optics: beam and camera.
        side: positions along each axis.
        step_nm: from one to the next.
        slice_nm: thickest slice.
        defocus_nm: C10 at the entrance surface.
        errors_nm: true minus planned positions, (side * side, 2).
    """
    pixel = np.moveaxis(np.indices((side, side)), 0, -1).reshape(-1, 2)
    middle = np.array([structure.width_nm, structure.height_nm]) / 2
    planned = middle + step_nm * (pixel[:, ::-1] - (side - 1) / 2)
    renderer = ScanRenderer(optics, transmission_field(structure, optics, slice_nm=slice_nm))
    waves = renderer.waves(Aberrations.of({"C10": defocus_nm}))
    true = planned if errors_nm is None else planned + errors_nm
    expected = np.stack([to_camera(renderer.pattern(waves, position), optics) for position in true])
    counts = np.random.default_rng(1).poisson(ELECTRONS * expected).astype(np.uint32)
    known = Metadata(
        energy_kev=optics.energy_kev,
        convergence_mrad=optics.convergence_mrad,
        pixel_mrad=optics.camera_pixel_mrad,
        step_nm=step_nm,
        rotation_deg=0.0,
    )
    layout = Layout((side, side), (counts.shape[1], counts.shape[2]), "uint32")
    return Scan(counts, planned, StreamMeta(layout, known, transposed=False), structure, optics)


def reconstructed(scan: Scan, **options: Any) -> Epie:
    """The agent after the whole scan."""
    agent, rows = Epie(Options(members=0, every=10**6, **options)), scan.meta.layout.scan
    agent.start(scan.meta)
    agent.update(FrameBlock(scan.counts, np.moveaxis(np.indices(rows), 0, -1).reshape(-1, 2)))
    agent.finish()
    return agent


def true_phase(scan: Scan, image: Image, within_nm: tuple[float, float] = (-np.inf, np.inf)) -> Floats:
    """Projected phase of the atoms between two depths on the pixels of an image of the object, rad."""
    depth = scan.structure.positions_nm[:, 2]
    chosen = (depth >= within_nm[0]) & (depth < within_nm[1])
    part = replace(
        scan.structure,
        numbers=scan.structure.numbers[chosen].copy(),
        positions_nm=scan.structure.positions_nm[chosen].copy(),
    )
    phase, corner_nm = projected_phase(part, scan.optics)
    smooth = low_pass(phase, scan.optics.sampling_nm, aperture_limit_per_nm(scan.optics))
    row, column = np.indices(image.values.shape)
    place = scan.planned_nm[0] + np.stack([column, row], -1) * (image.step_nm or np.nan)
    x, y = np.moveaxis((place - np.array(corner_nm)) / scan.optics.sampling_nm, -1, 0)
    return np.asarray(ndimage.map_coordinates(smooth, (y, x), order=3, mode="grid-wrap"))


def sheets(gap_nm: float | None = None) -> Structure:
    """Two sheets of MoS2, turned by 20 degrees and `gap_nm` apart or as in the bilayer; the atoms are at rest."""
    bilayer = build("mos2_twisted", {"angle_deg": 20.0, "width_nm": 6.0, "height_nm": 6.0, "thermal": False})
    further = 0.0 if gap_nm is None else gap_nm - bilayer.thickness_nm / 2
    positions = bilayer.positions_nm.copy()
    # Each sheet stays in the middle of its half.
    positions[:, 2] += further * np.where(positions[:, 2] < bilayer.thickness_nm / 2, 0.5, 1.5)
    cell = (bilayer.width_nm, bilayer.height_nm, bilayer.thickness_nm + 2 * further)
    return replace(bilayer, positions_nm=positions, cell_nm=cell)


def layers(side: int = 32, passes: int = 40, optics: Optics = SHEETS_OPTICS, slice_nm: float = 0.5) -> dict[str, float]:
    """Correlation of each slice's phase with that of each sheet, and of the sum with the whole."""
    scan = scanned(sheets(GAP_NM), optics, side, STEP_NM, slice_nm, -GAP_NM)
    options = {"passes": passes, "anneal": max(1, passes // 2), "aberrations": {"C10": -GAP_NM}}
    found = reconstructed(scan, slices=2, thickness_nm=2 * GAP_NM, **options).result().images
    halves = {1: (0.0, GAP_NM), 2: (GAP_NM, 2 * GAP_NM)}
    figures = {
        f"slice_{of}_with_sheet_{with_}": cross_correlation(
            found[f"phase_slice_{of}"].values, true_phase(scan, found[f"phase_slice_{of}"], halves[with_])
        )
        for of in halves
        for with_ in halves
    }
    thin = reconstructed(scan, **options).result().images["phase"]
    return figures | {
        "sum_of_slices": cross_correlation(found["phase"].values, true_phase(scan, found["phase"])),
        "one_slice": cross_correlation(thin.values, true_phase(scan, thin)),
    }


def crystal(side: int = 32, passes: int = 60, thickness_nm: float = 20.0, slices: int = 10) -> dict[str, float]:
    """Correlation of one slice's phase, and of that summed over several, with the true one.

    The probe has its focus 10 nm before the entrance surface, so that it does not channel along single columns.
    """
    extent = {"width_nm": 1.9525, "height_nm": 1.9525, "thickness_nm": thickness_nm, "thermal": False}
    scan = scanned(build("sto_001", extent), CRYSTAL_OPTICS, side, STEP_NM, 0.2, 10.0)
    depth = {"slices": slices, "thickness_nm": scan.structure.thickness_nm}
    figures = {}
    for name, options in {
        "one_slice": {},
        "one_slice_long_steps": STRONG,
        f"{slices}_slices": {**STRONG, **depth},
    }.items():
        result = reconstructed(scan, passes=passes, aberrations={"C10": 10.0}, **options).result()
        image = result.images["phase"]
        figures[name] = cross_correlation(image.values, true_phase(scan, image))
        figures[f"{name}_error_left"] = result.figures["error_left"]
    return figures


def positions(side: int = 24, passes: int = 60) -> dict[str, float]:
    """Correlation with the true phase without position errors, with errors, and with errors that are corrected."""
    errors_nm = ERROR_STEPS * COARSE_STEP_NM * np.random.default_rng(5).standard_normal((side**2, 2))
    right, wrong = (
        scanned(sheets(), SHEET_OPTICS, side, COARSE_STEP_NM, 0.7, COARSE_DEFOCUS_NM, moved)
        for moved in (None, errors_nm)
    )
    options: dict[str, Any] = {"passes": passes, "aberrations": {"C10": COARSE_DEFOCUS_NM}}
    agents = {
        "without_errors": reconstructed(right, **options),
        "with_errors": reconstructed(wrong, **options),
        "corrected": reconstructed(wrong, **options, positions=True),
    }
    figures = {}
    for name, agent in agents.items():
        image = agent.result().images["phase"]
        figures[name] = cross_correlation(image.values, true_phase(right, image))
    best, worst = figures["without_errors"], figures["with_errors"]
    moved = agents["corrected"].result().images
    found = np.stack([moved["shift_x"].values, moved["shift_y"].values], -1).reshape(-1, 2)
    left = found - (errors_nm - errors_nm.mean(axis=0))
    return figures | {
        "won_back": (figures["corrected"] - worst) / (best - worst),
        "error_nm": float(np.sqrt(np.mean((errors_nm - errors_nm.mean(axis=0)) ** 2))),
        "error_left_nm": float(np.sqrt(np.mean(left**2))),
    }


def transforms(slices: int = 4, size: int = 64, frames: int = 200, rounds: int = 5) -> dict[str, float]:
    """Processor time of a pass, and of the refinement of positions, over that of the transforms they need."""
    rng, beam = np.random.default_rng(0), Beam(SHEETS_OPTICS.wavelength_nm, SHEETS_OPTICS.convergence_mrad, 1.2)
    probe = start_probe(beam, size, 2.0 * size**2).astype(np.complex64)
    estimate = ObjectAndProbe.start((2 * size, 2 * size), probe, slices, propagator(beam, size, 5.0))
    places = Places.of(rng.uniform(0.75, 1.25, (frames, 2)) * size, size)
    amplitude = np.sqrt(rng.poisson(2.0, (frames, size, size))).astype(np.float32)
    measured = np.ones((size, size), np.float32)
    transformer, parts = plan(size), np.ones((4, size, size), np.float32)

    def needed(count: int) -> None:
        for _ in range(count):
            transform(parts[0], parts[1], parts[2], parts[3], transformer.radices, transformer.turns)

    works: Sequence[Callable[[], object]] = [
        lambda: sweep(estimate, amplitude, places, Steps(1e-3, 1e-3, 10.0)),
        lambda: pull(estimate, amplitude, places, measured),
        lambda: needed(4 * slices * frames),
        lambda: needed(6 * slices * frames),
    ]
    seconds = np.array([[_seconds(work) for work in works] for _ in range(rounds + 1)])[1:]
    update, refined, four, six = np.median(seconds, axis=0)
    return {"pass_over_transforms": update / four, "positions_over_transforms": refined / six}


def _seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


STUDIES: Mapping[str, Callable[[], dict[str, float]]] = {
    "layers": layers, "crystal": crystal, "positions": positions, "transforms": transforms,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"{', '.join(STUDIES)}; default: all")
    parser.add_argument("--json", dest="as_json", action="store_true")
    chosen = parser.parse_args(arguments)
    for name in chosen.studies:
        if name not in STUDIES:
            parser.error(f"{name!r} is not a study; known: {', '.join(STUDIES)}")
    figures = {name: STUDIES[name]() for name in chosen.studies or STUDIES}
    if chosen.as_json:
        print(json.dumps(figures, indent=1))
        return
    for name, found in figures.items():
        for figure, value in found.items():
            print(f"{name:12} {figure:28} {value:.3f}")


if __name__ == "__main__":
    main()
