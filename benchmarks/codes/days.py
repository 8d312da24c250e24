"""Single vacancies of WSe2 on days whose conditions no network has seen: naive, randomised and adapted networks.

    python -m benchmarks.codes.days --naive NAIVE.safetensors [--images 6]

The naive network is that of `stemtwin train defects wse2_defects --conditions clean`, the randomised one the
shipped. Days A and B have conditions of their own, AB is both together. The adapted network sees images of the day
alone, without labels, and is measured on others.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.defects.adaptation import AdaptOptions, adapted
from agents.defects.conditions import Conditions
from agents.defects.day import EstimatedDay, estimated
from agents.defects.detection import calibration_error, find, score
from agents.defects.fitting import rightness
from agents.defects.network import SHIPPED, WEIGHTS, DefectNetwork, Trained
from agents.defects.sheet import Labelled, labelled_image
from learning.weights_file import find as found_file
from scenarios.adaptation.results import beam_of

DAYS = {
    "A": Conditions(
        step_nm=0.021, dose_e_per_nm2=2.5e5, c10_nm=1.0, source_nm=0.04, roundness=0.85, jitter_nm=0.008,
        smear_px=0.3, contamination=0.35, contamination_nm=0.9, readout=0.2, shear=0.01,
    ),
    "B": Conditions(
        step_nm=0.021, dose_e_per_nm2=6e5, c10_nm=-2.0, source_nm=0.05, roundness=0.7, jitter_nm=0.015,
        smear_px=0.6, contamination=0.2, contamination_nm=1.6, readout=0.4, shear=0.015,
    ),
}  # fmt: skip
"""Conditions of the test days."""
RING_MRAD = (63.0, 200.0)
SIDE_PX = 256


def images_of(day: str, count: int, seed: int) -> list[Labelled]:
    """Labelled images of a day."""
    beam = beam_of(WEIGHTS.load(found_file("defects", SHIPPED)), RING_MRAD)
    children = np.random.SeedSequence([seed, *day.encode()]).spawn(count)
    return [labelled_image(beam, DAYS[day], (SIDE_PX, SIDE_PX), np.random.default_rng(child)) for child in children]


def measured(network: DefectNetwork, images: Sequence[Labelled]) -> tuple[float, float, float, float]:
    """Precision, recall and F1 of single vacancies at probability 1/2, and the calibration error of all defects."""
    right = found = true = 0
    chances, rights = [], []
    for image in images:
        defects = find(network, image.image, image.step_nm)
        ok = rightness(defects, image)
        chances.append(defects.probability)
        rights.append(ok)
        sure = (defects.probability >= 0.5) & (defects.kind == 0)
        right, found, true = right + int(ok[sure].sum()), found + int(sure.sum()), true + int((image.kind == 0).sum())
    total = score(right, found, true)
    return total.precision, total.recall, total.f1, calibration_error(np.concatenate(chances), np.concatenate(rights))


def adapted_to(trained: Trained, images: Sequence[Labelled]) -> tuple[Trained, EstimatedDay]:
    """Network for the day of these images, whose labels are not used."""
    beam = beam_of(trained, RING_MRAD)
    day = estimated([image.image for image in images], images[0].step_nm, beam)
    return adapted(trained, beam, day.ranges, AdaptOptions()), day


def main() -> None:
    """Print a line per network and day."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--naive", type=Path, help="weights trained on clean images")
    parser.add_argument("--images", type=int, default=6, help="unlabelled images of the day")
    parser.add_argument("--test", type=int, default=12, help="test images of each day")
    given = parser.parse_args()
    shipped = WEIGHTS.load(found_file("defects", SHIPPED))
    networks = {"naive": WEIGHTS.load(given.naive)} if given.naive else {}
    networks["random"] = shipped
    test = {day: images_of(day, given.test, 1) for day in DAYS}
    test["AB"] = [*test["A"], *test["B"]]
    for name, trained in networks.items():
        for day, images in test.items():
            print(f"{name:8} day {day:2}: " + _line(measured(trained.network, images)), flush=True)
    for day in test:
        begun = time.process_time()
        unlabelled = [image for part in day for image in images_of(part, given.images // len(day), 2)]
        ours, found = adapted_to(shipped, unlabelled)
        print(f"adapted  day {day:2}: " + _line(measured(ours.network, test[day])), end="")
        print(f", {time.process_time() - begun:.0f} s of processor time; {found.conditions}", flush=True)


def _line(figures: tuple[float, float, float, float]) -> str:
    precision, recall, f1, error = figures
    return f"precision {precision:.2f}, recall {recall:.2f}, F1 {f1:.3f}, calibration error {error:.3f}"


if __name__ == "__main__":
    main()
