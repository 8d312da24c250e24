"""How well columns are measured: against bounds under noise, with scan distortions, and atoms of a sphere.

    python -m benchmarks.images.quantify noise --runs 100
    python -m benchmarks.images.quantify distortion --runs 20
    python -m benchmarks.images.quantify sphere --runs 5
    python -m benchmarks.images.quantify contrast

Every run is a line of runs/quantify_STUDY.jsonl; a study that is repeated goes on where it stopped.
"""

import math
import time
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from agents.quantify.bounds import column_bound, cross_section_sigma, mean_distance
from agents.quantify.columns import Columns
from agents.quantify.fit import fit
from agents.quantify.intervals import mean_interval
from agents.quantify.quantify import Quantified, QuantifyOptions, quantify
from agents.quantify.step import FitOptions
from benchmarks.images.studies import Run, arguments, runs
from scenarios.quantification.studies import AXES, BULK, MARGIN, SPHERE, distorted, exposed
from twin import specimens
from twin.arrays import Floats
from twin.zcontrast.image import ColumnImages
from twin.zcontrast.profile import ZContrast


def gaussian_truth(image: Floats, step_nm: float) -> Quantified:
    """Columns fitted to an image without noise: what a fit of Gaussians can find at best."""
    return quantify(image * 1e6, step_nm, QuantifyOptions(scan="perfect", count="none"))


def matched(found: Quantified, truth: Quantified) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the columns found and true that belong together, without those cut by an edge."""
    places = np.stack([truth.columns.x_px, truth.columns.y_px], axis=1)
    distance, near = cKDTree(places).query(np.stack([found.columns.x_px, found.columns.y_px], axis=1))
    good = (distance < 0.4 * truth.spacing_px) & ~truth.at_edge[near] & ~found.at_edge
    return np.flatnonzero(good), near[good]


def noise_run(dose: float, seed: int) -> dict[str, Any]:
    """Errors of one image of Pt [001] under noise alone, over the bound of each column."""
    step_nm, side = 0.015, 64
    image, truth = _bulk_image(side, step_nm)
    scale = dose * (10 * step_nm) ** 2
    counts = exposed(image, dose, step_nm, np.random.default_rng([seed, int(dose)]))
    electrons = truth.fit.columns.scaled(scale / 1e6)
    found = fit(counts, electrons, FitOptions(), inside=truth.fit.inside)
    bound = column_bound(electrons, (side, side))
    inner = ~_at_edge(electrons, side)
    errors = {
        "x": (found.columns.x_px - electrons.x_px) / np.sqrt(bound[:, 0, 0]),
        "cross_section": (found.columns.cross_section - electrons.cross_section)
        / cross_section_sigma(electrons, bound),
        "x_stated": (found.columns.x_px - electrons.x_px) / np.sqrt(found.covariance[:, 0, 0]),
    }
    return {name: values[inner].tolist() for name, values in errors.items()}


def distortion_run(dose: float, seed: int) -> dict[str, Any]:
    """Errors of one image of the dislocation in Pt [112] under all distortions, from found peaks."""
    step_nm, side = 0.016, 128
    images = _dislocation()
    corner = 2.5 - side * step_nm / 2
    wide = images.image((side + 2 * MARGIN,) * 2, step_nm, (corner - MARGIN * step_nm,) * 2)
    truth = gaussian_truth(wide[MARGIN:-MARGIN, MARGIN:-MARGIN], step_nm)
    counts = distorted(wide, dose, step_nm, np.random.default_rng([seed, int(dose)]))
    began = time.process_time()
    found = quantify(counts, step_nm, QuantifyOptions(count="none"))
    seconds = time.process_time() - began
    scale, own = dose * (10 * step_nm) ** 2 / 1e6, truth.fit.columns
    electrons = own.scaled(scale)
    here, there = matched(found, truth)
    true, seen = truth.columns.only(there), found.columns.only(here)
    bound = mean_distance(column_bound(electrons, (side, side), AXES)[:, :2, :2])
    nearest = cKDTree(np.stack([own.x_px, own.y_px], 1)).query(np.stack([true.x_px, true.y_px], 1))[1]
    distance = np.hypot(seen.x_px - true.x_px, seen.y_px - true.y_px)
    ratio = seen.cross_section / (true.cross_section * scale) - 1
    return {
        "columns": len(here),
        "true_columns": int(np.count_nonzero(~truth.at_edge)),
        "mae_pm": float(distance.mean()) * step_nm * 1e3,
        "bound_pm": float(bound[nearest].mean()) * step_nm * 1e3,
        "cross_section_percent": 100 * float(np.abs(ratio).mean()),
        "alpha": None if found.fit.smear is None else found.fit.smear.constant_per_px,
        "seconds": seconds,
    }


def sphere_run(dose: float, seed: int) -> dict[str, Any]:
    """Atoms of the sphere of 333 columns without and with distortions, by a library of a larger sphere."""
    step_nm = 0.015
    result: dict[str, Any] = {}
    images = _sphere()
    side, corner = 320, 0.35
    wide = images.image((side + 2 * MARGIN,) * 2, step_nm, (corner - MARGIN * step_nm,) * 2)
    library = _library(step_nm)
    rng = np.random.default_rng([seed, int(dose)])
    electrons = exposed(wide[MARGIN:-MARGIN, MARGIN:-MARGIN], dose, step_nm, rng)
    for name, counts, scan in (
        ("perfect", electrons, "perfect"), ("distorted", distorted(wide, dose, step_nm, rng), "joint"),
    ):  # fmt: skip
        options = QuantifyOptions(scan=scan, count="library")  # type: ignore[arg-type]
        found = quantify(counts, step_nm, options, (library * dose * (10 * step_nm) ** 2).tolist())
        assert found.counts is not None
        places = np.stack([images.labels.x_nm, images.labels.y_nm], 1)
        seen = np.stack([found.columns.x_px, found.columns.y_px], 1) * step_nm + corner
        distance, near = cKDTree(seen).query(places)
        missed = found.counts.atoms[near] - images.labels.atoms
        missed = np.where(distance < 0.08, missed, np.inf)
        result[name] = {
            "exact": float(np.mean(missed == 0)),
            "off_by_one": float(np.mean(np.abs(missed) == 1)),
            "not_found": int(np.count_nonzero(np.isinf(missed))),
            "stated": float(found.counts.probability.mean()),
        }
    return result


def contrast_run(_: float, seed: int) -> dict[str, Any]:
    """On-column signal of the generator over multislice with frozen phonons, by number of atoms, for Pt [001]."""
    from twin.optics import Optics
    from twin.scan.diffraction import ScanRenderer, rays
    from twin.scan.transmission import transmission_field

    beam, atoms = ZContrast(source_nm=0.0), (1, 2, 4, 6, 8, 10)
    crystal = specimens.build("pt_001", {"width_nm": 1.96, "height_nm": 1.96, "thickness_nm": 3.93})
    optics = Optics(
        energy_kev=300.0, convergence_mrad=21.1, grid=576, sampling_nm=crystal.width_nm / 576, camera_pixels=32
    )
    images = ColumnImages.of(crystal, beam)
    plane = crystal.thickness_nm / 20
    field = transmission_field(crystal, optics, slice_nm=plane, snapshots=2, seed=seed)
    renderer = ScanRenderer(optics, field, rays(0.0, 0.0, field.snapshots))
    return {"ratio": _contrast(images, renderer, beam, atoms, plane), "atoms": atoms}


def _contrast(
    images: ColumnImages, renderer: Any, beam: ZContrast, atoms: tuple[int, ...], plane: float
) -> list[float]:
    """Generator over multislice, on the column of the field's first atom."""
    from twin.aberrations import Aberrations
    from twin.scan.diffraction import aperture_wave, exit_wave, probe_wave

    optics, size = renderer.optics, renderer.size
    mrad = (np.arange(size) - size // 2) * optics.wavelength_nm * 1e3 / (optics.grid * optics.sampling_nm)
    angle = np.hypot(mrad[:, None], mrad[None, :])
    ring = (angle >= beam.inner_mrad) & (angle < beam.outer_mrad)
    labels = images.labels
    first = int(np.argmin([depth[0] for depth in labels.depth_nm]))
    middle = np.array([labels.x_nm[first], labels.y_nm[first]])
    wave, ratios = aperture_wave(optics, Aberrations()), []
    for count in atoms:
        total = 0.0
        for snapshot in range(renderer.field.snapshots):
            nearest = np.rint(middle / optics.sampling_nm).astype(np.int64)
            patch = renderer._patch(snapshot, nearest - optics.grid // 2)[: 2 * count]
            psi = probe_wave(wave, middle / optics.sampling_nm - nearest, optics.grid)
            far = exit_wave(psi, patch, renderer._propagator)
            total += float((np.abs(far) ** 2)[ring].sum()) / renderer.field.snapshots
        ratios.append(_generated(images, middle, 2 * count * plane) / total)
    return ratios


def _generated(images: ColumnImages, place_nm: Floats, thickness_nm: float) -> float:
    """Signal at a place of the atoms above a depth."""
    from twin.zcontrast.columns import ColumnLabels

    labels, kept = images.labels, [depth < thickness_nm for depth in images.labels.depth_nm]
    cut = ColumnLabels(
        labels.x_nm,
        labels.y_nm,
        tuple(tuple(np.array(e)[k].tolist()) for e, k in zip(labels.elements, kept, strict=True)),
        tuple(d[k] for d, k in zip(labels.depth_nm, kept, strict=True)),
        np.array([float(k.sum()) for k in kept]),
        labels.defect,
    )
    rms = {78: 0.00623720452930714}
    thin = ColumnImages.of_labels(cut, rms, ZContrast(source_nm=0.0))
    return float(thin.image((1, 1), 0.01, (float(place_nm[0]), float(place_nm[1])))[0, 0])


@lru_cache
def _bulk_image(side: int, step_nm: float) -> tuple[Floats, Quantified]:
    """Image of Pt [001] without noise, and its columns."""
    crystal = specimens.build("pt_001", {"width_nm": 3.93, "height_nm": 3.93, "thickness_nm": 3.93})
    image = ColumnImages.of(crystal, BULK).image((side, side), step_nm, (1.43, 1.43))
    return image, gaussian_truth(image, step_nm)


@lru_cache
def _sphere() -> ColumnImages:
    return ColumnImages.of(specimens.build("pt_sphere"), SPHERE)


@lru_cache
def _dislocation() -> ColumnImages:
    return ColumnImages.of(specimens.build("pt_112_dislocation", {"width_nm": 5.0, "height_nm": 5.0}), BULK)


def _at_edge(columns: Columns, side: int) -> np.ndarray:
    reach = 1.5 * columns.width_px
    low, high = np.minimum(columns.x_px, columns.y_px), np.maximum(columns.x_px, columns.y_px)
    return np.asarray((low < reach) | (high > side - 1 - reach))


@lru_cache
def _library(step_nm: float) -> Floats:
    """Cross-sections, nm2 of the whole beam, of 1 to 13 atoms: means over a sphere of 13 cells without noise."""
    larger = ColumnImages.of(specimens.build("pt_sphere", {"cells": 13, "side_nm": 6.5}), SPHERE)
    found = gaussian_truth(larger.image((400, 400), step_nm, (0.25, 0.25)), step_nm)
    seen = np.stack([found.columns.x_px, found.columns.y_px], 1) * step_nm + 0.25
    near = cKDTree(seen).query(np.stack([larger.labels.x_nm, larger.labels.y_nm], 1))[1]
    value = found.cross_section[near] / 1e6
    return np.array([value[larger.labels.atoms == n].mean() for n in range(1, int(larger.labels.atoms.max()) + 1)])


STUDIES: dict[str, tuple[Run, tuple[float, ...]]] = {
    "noise": (noise_run, (5e2, 5e3, 5e4)),
    "distortion": (distortion_run, (5e4, 5e5)),
    "sphere": (sphere_run, (5e4,)),
    "contrast": (contrast_run, (0.0,)),
}


def summarise(study: str, found: list[dict[str, Any]]) -> list[str]:
    """One line for each dose."""
    lines = []
    for dose in dict.fromkeys(run["dose"] for run in found):
        mine = [run for run in found if run["dose"] == dose]
        head = f"{study} {dose:8.0f} e/A2, {len(mine)} images: "
        if study == "noise":
            spread = {
                k: np.sqrt(np.mean(np.concatenate([run[k] for run in mine]) ** 2)) for k in ("x", "cross_section")
            }
            stated = np.abs(np.concatenate([run["x_stated"] for run in mine]))
            inside = float(np.mean(stated < 1.6449))
            lines.append(
                f"{head}rms error over bound: x {spread['x']:.3f}, cross-section {spread['cross_section']:.3f};"
                f" 90 % intervals cover {100 * inside:.1f} %"
            )
        elif study == "distortion":
            mean = {
                k: float(np.mean([run[k] for run in mine])) for k in ("mae_pm", "bound_pm", "cross_section_percent")
            }
            ratios = [run["mae_pm"] / run["bound_pm"] for run in mine]
            low, high = mean_interval(np.array(ratios)) if len(ratios) > 1 else (math.nan, math.nan)
            lines.append(
                f"{head}MAE {mean['mae_pm']:.2f} pm, bound {mean['bound_pm']:.2f} pm, ratio {np.mean(ratios):.3f}"
                f" ({low:.2f} to {high:.2f}), cross-sections {mean['cross_section_percent']:.2f} %"
            )
        elif study == "sphere":
            for name in ("perfect", "distorted"):
                part = {k: float(np.mean([run[name][k] for run in mine])) for k in mine[0][name]}
                lines.append(f"{head}{name} {part}")
        else:
            ratio = np.mean([run["ratio"] for run in mine], axis=0)
            lines.append(f"{study}: generator over multislice for {mine[0]['atoms']} atoms: {np.round(ratio, 3)}")
    return lines


def main() -> None:
    """Run one study and print its summary."""
    given = arguments(__doc__, STUDIES, runs=3)
    run, doses = STUDIES[given.study]
    wanted = [(dose, seed) for seed in range(given.runs) for dose in doses]
    found = list(runs(given.out / f"quantify_{given.study}.jsonl", run, wanted))
    print("\n".join(summarise(given.study, found)))


if __name__ == "__main__":
    main()
