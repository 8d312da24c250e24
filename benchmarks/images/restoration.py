"""Restorations beside each other: distance from the truth, positions, columns invented in vacuum, vacancies filled.

    python -m benchmarks.images.restoration psnr --runs 5
    python -m benchmarks.images.restoration invented --runs 100
    python -m benchmarks.images.restoration filled --runs 100
    python -m benchmarks.images.restoration speed --runs 1

Every run is a line of runs/restoration_STUDY.jsonl; a study that is repeated goes on where it stopped.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
from scipy.ndimage import maximum_filter

from agents.quantify.errors import QuantifyError
from agents.quantify.quantify import QuantifyOptions, quantify
from agents.restoration.wiener import wiener
from benchmarks.images.studies import arguments, runs
from scenarios.figures.restoration import position_error_px, restore
from scenarios.quantification.studies import BULK, MARGIN, distorted
from twin import specimens
from twin.arrays import Floats
from twin.zcontrast.image import ColumnImages
from twin.zcontrast.profile import ZContrast

DOSES_E_A2 = (5e2, 5e3, 5e4)
STEP_NM, SIDE = 0.016, 128
SEEN = 0.3
"""Height over that of a column from which on a maximum in vacuum is a column."""
FILLED = 0.5
"""Height at a vacancy, over that of its neighbours, from which on it is filled."""

Method = Callable[[Floats], Floats]


def methods() -> dict[str, Method]:
    """Restorations by name; BM3D if its package is there."""
    found: dict[str, Method] = {"raw": lambda image: image, "wiener": wiener, "restore": restore}
    if find_spec("bm3d"):
        from agents.methods.images.bm3d import block_matched

        found["bm3d"] = block_matched
    return found


@lru_cache
def dislocation() -> Floats:
    """Pt [112] with the dislocation, part of the beam, with `MARGIN` pixels on each side."""
    images = ColumnImages.of(specimens.build("pt_112_dislocation", {"width_nm": 5.0, "height_nm": 5.0}), BULK)
    corner = 2.5 - SIDE * STEP_NM / 2 - MARGIN * STEP_NM
    return images.image((SIDE + 2 * MARGIN,) * 2, STEP_NM, (corner, corner))


def inner(wide: Floats) -> Floats:
    """An image without its margin."""
    return wide[MARGIN:-MARGIN, MARGIN:-MARGIN]


def psnr(found: Floats, truth: Floats) -> float:
    """Peak signal to noise: square of the truth's maximum over the mean square error, dB."""
    return 10 * math.log10(float(truth.max()) ** 2 / float(np.mean((found - truth) ** 2)))


def psnr_run(dose: float, seed: int) -> dict[str, float]:
    """PSNR and mean position error of every method on the dislocation."""
    options = QuantifyOptions(scan="perfect", count="none")
    truth = inner(dislocation()) * dose * (10 * STEP_NM) ** 2
    true_columns = quantify(truth * 1e6 / truth.mean(), STEP_NM, options)
    counts = distorted(dislocation(), dose, STEP_NM, np.random.default_rng([seed, int(dose)]))
    result: dict[str, float] = {}
    for name, method in methods().items():
        found = method(counts)
        result[f"{name}_psnr_db"] = psnr(found, truth)
        try:
            error_px = position_error_px(quantify(found, STEP_NM, options), true_columns)
        except QuantifyError:
            error_px = math.nan
        result[f"{name}_mae_pm"] = 1e3 * STEP_NM * error_px
    return result


@lru_cache
def half_crystal() -> tuple[Floats, Floats]:
    """Pt [001] beside vacuum, and which pixels are vacuum at least 0.15 nm away from it."""
    crystal = specimens.build("pt_001", {"width_nm": 3.1, "height_nm": 3.93, "thickness_nm": 2.0})
    images = ColumnImages.of(crystal, BULK)
    wide = images.image((SIDE + 2 * MARGIN,) * 2, STEP_NM, (1.9, 0.8))
    x = 1.9 + STEP_NM * np.arange(SIDE + 2 * MARGIN)
    edge = float(images.labels.x_nm.max())
    return wide, np.broadcast_to(x > edge + 0.15, wide.shape)


def invented_run(dose: float, seed: int) -> dict[str, float]:
    """Number of maxima in vacuum as high as columns, for every method."""
    wide, vacuum = half_crystal()
    counts = distorted(wide, dose, STEP_NM, np.random.default_rng([seed, int(dose), 1]))
    height, far = float(inner(wide).max()) * dose * (10 * STEP_NM) ** 2, inner(vacuum)
    result = {}
    for name, method in methods().items():
        found = method(counts)
        peaks = (found == maximum_filter(found, 5)) & (found > SEEN * height) & far
        result[name] = float(np.count_nonzero(peaks))
    return result


@lru_cache
def monolayer() -> tuple[Floats, tuple[int, int], Floats]:
    """WSe2 without one selenium column, its pixel (row, column), and the image of the perfect sheet."""
    beam = ZContrast(energy_kev=80.0, convergence_mrad=30.0, source_nm=0.03, inner_mrad=60.0, outer_mrad=160.0)
    size = {"width_nm": 4.4, "height_nm": 4.4}
    perfect = specimens.build("wse2", size)
    for seed in range(100):
        lacking = specimens.build("wse2", {**size, "double_vacancies": 1, "seed": seed})
        images = ColumnImages.of(lacking, beam, perfect)
        empty = images.labels.defect.index("empty")
        corner = 1.0 - MARGIN * STEP_NM
        row, column = ((v[empty] - 1.0) / STEP_NM for v in (images.labels.y_nm, images.labels.x_nm))
        if 30 < row < SIDE - 30 and 30 < column < SIDE - 30:
            break
    shape = (SIDE + 2 * MARGIN,) * 2
    whole = ColumnImages.of(perfect, beam).image(shape, STEP_NM, (corner, corner))
    return images.image(shape, STEP_NM, (corner, corner)), (round(row), round(column)), whole


def filled_run(dose: float, seed: int) -> dict[str, float]:
    """Height at the vacancy over that of a selenium column, less what is there without one, for every method."""
    wide, (row, column), whole = monolayer()
    scale = dose * (10 * STEP_NM) ** 2
    counts = distorted(wide, dose, STEP_NM, np.random.default_rng([seed, int(dose), 2]))
    near = (slice(row - 2, row + 3), slice(column - 2, column + 3))
    empty, full = (float(inner(image)[near].mean()) * scale for image in (wide, whole))
    return {name: (float(method(counts)[near].mean()) - empty) / (full - empty) for name, method in methods().items()}


def speed_run(dose: float, seed: int) -> dict[str, float]:
    """Megapixels per second of processor time, on 512 x 512 pixels."""
    image = np.random.default_rng([seed, int(dose)]).poisson(5.0, (512, 512)).astype(np.float64)
    result = {}
    for name, method in methods().items():
        method(image[:64, :64])
        began = time.process_time()
        method(image)
        result[name] = image.size / 1e6 / max(time.process_time() - began, 1e-9)
    return result


STUDIES = {"psnr": psnr_run, "invented": invented_run, "filled": filled_run, "speed": speed_run}


def summarise(study: str, dose: float, runs: Sequence[Mapping[str, float]]) -> str:
    """One line for a dose."""
    names = [name for name in runs[0] if name not in ("dose", "seed")]
    values = {name: np.array([run[name] for run in runs]) for name in names}
    if study == "invented":
        text = {name: f"{100 * np.mean(v > 0):.0f} % of images" for name, v in values.items()}
    elif study == "filled":
        text = {name: f"{100 * np.mean(v > FILLED):.0f} % (mean height {v.mean():.2f})" for name, v in values.items()}
    else:
        text = {name: f"{np.nanmean(v):.2f}" for name, v in values.items()}
    return f"{study} {dose:6.0f} e/A2, {len(runs)} images: " + ", ".join(f"{name} {text[name]}" for name in names)


def main() -> None:
    """Run a study, printing one line for each dose."""
    given = arguments(__doc__, STUDIES, runs=10)
    path = given.out / f"restoration_{given.study}.jsonl"
    for dose in DOSES_E_A2:
        found = list(runs(path, STUDIES[given.study], [(dose, seed) for seed in range(given.runs)]))
        print(summarise(given.study, dose, found), flush=True)


if __name__ == "__main__":
    main()
