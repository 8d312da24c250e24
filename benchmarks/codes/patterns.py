"""Codes of simulated diffraction patterns and images: orientations, a tilt, an angle, single vacancies.

python -m benchmarks.codes.patterns [orientations] [tilt] [angle] [vacancies]
"""

import argparse
import time
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from agents.base import StreamMeta
from agents.base import load as load_agent
from agents.block import FrameBlock
from agents.codes.base import load
from twin import specimens
from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.formats.dataset import Layout, Metadata
from twin.matter.structure import Structure
from twin.optics import Optics
from twin.scan.diffraction import ScanRenderer, to_camera
from twin.scan.transmission import transmission_field
from twin.specimens._parts.bilayer import sheet_positions
from twin.specimens.graphene_twisted import LATTICE_NM
from twin.zcontrast.image import ColumnImages
from twin.zcontrast.profile import ZContrast

WIDE = Optics(energy_kev=80.0, convergence_mrad=4.0, grid=160, sampling_nm=0.02, camera_pixels=64, binning=1)
"""Beam of a few mrad: separate discs."""
FOCUSED = Optics(energy_kev=80.0, convergence_mrad=25.0, grid=96, sampling_nm=0.02, camera_pixels=48, binning=1)
TURNS_DEG = (0.0, 12.0, 24.0)
EACH = 100
"""Positions of each orientation."""
STEP_NM, SIDE_NM, VACANCIES, DOSE_E_PER_NM2 = 0.04, 5.0, 50, 1e6


def patterns(structure: Structure, optics: Optics, places_nm: Floats, slice_nm: float) -> Floats:
    """Expected part of the beam in every pixel of the camera, (N, H, W)."""
    field = transmission_field(structure, optics, slice_nm=slice_nm, seed=1)
    renderer = ScanRenderer(optics, field)
    waves = renderer.waves(Aberrations.of({}))
    return np.stack([to_camera(renderer.pattern(waves, place), optics) for place in places_nm]).astype(np.float64)


@cache
def orientations() -> tuple[Floats, NDArray[np.int64]]:
    """Expected patterns of one sheet of WSe2 at three angles, (N, H, W), and the index of the angle, (N,)."""
    rng = np.random.default_rng(1)
    found = []
    for turn in TURNS_DEG:
        sheet = specimens.build("wse2", {"rotation_deg": turn, "width_nm": 8.0, "height_nm": 8.0})
        found.append(patterns(sheet, WIDE, rng.uniform(3.0, 5.0, (EACH, 2)), sheet.thickness_nm))
    return np.concatenate(found), np.repeat(np.arange(len(TURNS_DEG)), EACH)


def orientation_scores(dose_e: float) -> tuple[float, float]:
    """Adjusted Rand indices of k-means on the counts n and on ten principal components of 2 sqrt(n + 3/8)."""
    expected, label = orientations()
    counts = np.random.default_rng(2).poisson(expected * dose_e).reshape(len(label), -1).astype(np.float64)
    even = 2 * np.sqrt(counts + 0.375)
    codes = load("pca", {"size": 10}).fit(even).encode(even)
    found = [KMeans(len(TURNS_DEG), n_init=10, random_state=0).fit_predict(values) for values in (counts, codes)]
    return adjusted_rand_score(label, found[0]), adjusted_rand_score(label, found[1])


def tilt_correlation(dose_e: float = 3e4, tilts: int = 24, each: int = 20) -> float:
    """Rank correlation of the one number of an autoencoder with the tilt of a crystal, 0 to 12 mrad, 6 nm thick."""
    crystal = specimens.build("sto_001", {"width_nm": 1.5, "height_nm": 1.5, "thickness_nm": 6.0, "thermal": False})
    optics = replace(WIDE, grid=160, sampling_nm=crystal.width_nm / 80)
    rng = np.random.default_rng(3)
    counts, truth = [], []
    for tilt_mrad in np.linspace(0.0, 12.0, tilts):
        positions = crystal.positions_nm.copy()
        positions[:, 0] = (positions[:, 0] + 1e-3 * tilt_mrad * positions[:, 2]) % crystal.width_nm
        tilted = replace(crystal, positions_nm=positions)
        expected = patterns(tilted, optics, rng.uniform(0.0, 1.5, (each, 2)), 0.4)
        counts.append(rng.poisson(expected * dose_e).reshape(each, -1))
        truth += [tilt_mrad] * each
    examples = 2 * np.sqrt(np.concatenate(counts) + 0.375)
    code = load("autoencoder", {"size": 1, "epochs": 60}).fit(examples)
    return float(abs(spearmanr(code.encode(examples)[:, 0], truth).statistic))


def hexagons(seed: int, sheets: int = 24, each: int = 40, disorder_nm: float = 0.01) -> tuple[Floats, Floats]:
    """Noisy pictures of hexagons of disordered graphene as rows (N, 24 * 24), and the sheets' angles in rad, (N,)."""
    rng, side, step = np.random.default_rng(seed), 24, 0.028
    beam = ZContrast(energy_kev=60.0, convergence_mrad=35.0, inner_mrad=60.0, outer_mrad=200.0)
    rows, angles = [], []
    for turn in rng.uniform(0.0, 60.0, sheets):
        options = {"rotation_deg": float(turn), "width_nm": 4.0, "height_nm": 4.0}
        sheet = specimens.build("graphene", options)
        moved = sheet.positions_nm.copy()
        moved[:, :2] += disorder_nm * rng.standard_normal((len(moved), 2))
        images = ColumnImages.of(replace(sheet, positions_nm=moved), beam)
        middles = sheet_positions([("C", (2 / 3, 2 / 3), 0.0)], LATTICE_NM, float(turn), 4.0, 4.0)[:, :2]
        inner = middles[(np.abs(middles - 2.0) < 1.4).all(axis=1)]
        for middle in inner[rng.permutation(len(inner))[:each]]:
            corner = middle - (side - 1) / 2 * step + 0.01 * rng.standard_normal(2)
            image = images.image((side, side), step, (float(corner[0]), float(corner[1])))
            rows.append(rng.poisson(image * 2e7 * step**2).ravel())
            angles.append(np.radians(turn))
    return np.array(rows, np.float64), np.array(angles)


def angle_error_deg(seed: int = 4) -> float:
    """Root mean square error of the rVAE's angle on pictures it has not seen, modulo 60 degrees and one offset."""
    rows, _ = hexagons(seed)
    others, angle = hexagons(seed + 1, sheets=12)
    code = load("rvae", {"symmetry": 6, "epochs": 60}).fit(rows)
    apart = np.exp(6j * (code.encode(others)[:, 0] - angle))
    apart /= apart.mean() / abs(apart.mean())
    return float(np.degrees(np.sqrt(np.mean((np.angle(apart) / 6) ** 2))))


def vacancy_scores(pooled: float = 1.5, groups: int = 24, size: int = 10, bins: int = 12) -> tuple[float, float]:
    """Recall of 50 vacancies of graphene at 1e4 e/A^2 and the false alarms of the agent `anomaly` at 1 %.

    The upper third of the scan, which has no vacancy, is the reference. False alarms are flagged positions farther than
    0.2 nm from any vacancy, of those positions; a vacancy is found if a position within 0.1 nm is flagged.
    """
    frames, places, axis = vacancy_scan()
    rows = len(axis)
    counts = np.random.default_rng(5).poisson(frames * DOSE_E_PER_NM2 * STEP_NM**2).astype(np.uint16)
    options = {"pooled_positions": pooled, "groups": groups, "size": size, "bins": bins}
    agent = load_agent("anomaly", {**options, "reference": (0, rows // 3, 0, rows), "false_alarms": 0.01})
    agent.start(StreamMeta(Layout((rows, rows), counts.shape[1:], "uint16"), Metadata(step_nm=STEP_NM)))
    agent.update(FrameBlock(counts, np.stack(np.divmod(np.arange(rows * rows), rows), axis=1)))
    flags = agent.result().images["anomaly"].values == 1
    x, y = np.meshgrid(axis, axis)
    distance = np.hypot(x[..., None] - places[:, 0], y[..., None] - places[:, 1])
    usual = (distance.min(axis=2) > 0.2) & (np.arange(rows)[:, None] >= rows // 3)
    found = (flags[..., None] & (distance < 0.1)).any(axis=(0, 1))
    return float(found.mean()), float(flags[usual].mean())


@cache
def vacancy_scan() -> tuple[Floats, Floats, Floats]:
    """Expected patterns (N, H, W) of graphene with vacancies below its upper third, their places, the scan's axis."""
    rng = np.random.default_rng(6)
    sheet = specimens.build("graphene", {"width_nm": SIDE_NM + 1.0, "height_nm": SIDE_NM + 1.0, "rotation_deg": 7.0})
    axis = np.asarray(0.5 + np.arange(int(SIDE_NM / STEP_NM)) * STEP_NM, np.float64)
    x, y = sheet.positions_nm[:, 0], sheet.positions_nm[:, 1]
    inside = (np.abs(x - 3.0) < 2.3) & (y > 0.5 + SIDE_NM / 3 + 0.3) & (y < SIDE_NM + 0.3)
    gone: list[int] = []
    for atom in rng.permutation(np.flatnonzero(inside)).tolist():
        near = [np.hypot(x[atom] - x[other], y[atom] - y[other]) for other in gone]
        if len(gone) < VACANCIES and all(distance > 0.3 for distance in near):
            gone.append(atom)
    kept = np.setdiff1d(np.arange(len(x)), gone)
    damaged = replace(sheet, numbers=sheet.numbers[kept], positions_nm=sheet.positions_nm[kept])
    places = np.stack([axis[index] for index in np.divmod(np.arange(len(axis) ** 2), len(axis))[::-1]], axis=1)
    return patterns(damaged, FOCUSED, places, sheet.thickness_nm), sheet.positions_nm[gone, :2], axis


def main() -> None:
    """Print one line per question."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("which", nargs="*", default=["orientations", "tilt", "angle", "vacancies"])
    for name in parser.parse_args().which:
        begun = time.process_time()
        if name == "orientations":
            for dose in (1e3, 3e3, 1e4, 3e4, 1e5):
                raw, coded = orientation_scores(dose)
                print(f"orientations at {dose:g} e per pattern: adjusted Rand index {raw:.2f} raw, {coded:.2f} coded")
        elif name == "tilt":
            print(f"tilt: rank correlation {tilt_correlation():.3f}")
        elif name == "angle":
            print(f"angle: error {angle_error_deg():.2f} degrees (rms)")
        else:
            recall, alarms = vacancy_scores()
            print(f"vacancies: {recall:.0%} of {VACANCIES} found, {alarms:.2%} false alarms")
        print(f"  {time.process_time() - begun:.0f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
