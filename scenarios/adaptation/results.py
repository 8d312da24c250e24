"""A network fitted to a day as files: weights, the day's conditions, the defects of its images."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agents.defects.day import EstimatedDay
from agents.defects.detection import Defects, find
from agents.defects.network import WEIGHTS, Trained
from agents.defects.sheet import KINDS
from learning.weights_file import WeightsError
from scenarios.folders import NotWritten, sentence, write_text
from twin.arrays import Floats
from twin.options import checked_options
from twin.zcontrast.profile import ZContrast

TABLE, SUMMARY, NETWORK = "defects.csv", "summary.json", "defects.safetensors"
FILES = (TABLE, SUMMARY, NETWORK)
LEAST = 0.5
"""Probability from which on a place counts as a defect."""


def beam_of(trained: Trained, ring_mrad: tuple[float, float]) -> ZContrast:
    """Beam of a network's training with the ring of the detector.

    Raises:
        OptionError: the ring is empty, or beyond a right angle.
    """
    optics, (inner, outer) = trained.optics, ring_mrad
    given = {"energy_kev": optics.energy_kev, "convergence_mrad": optics.convergence_mrad}
    return checked_options(ZContrast, {**given, "inner_mrad": inner, "outer_mrad": outer})


def is_ours(out: Path) -> bool:
    """Return whether a folder holds the network of an earlier adaptation, and no link in its place."""
    try:
        WEIGHTS.load(out / NETWORK)
    except WeightsError:
        return False
    return not (out / NETWORK).is_symlink()


def write(
    trained: Trained, day: EstimatedDay, images: Mapping[str, Floats], step_nm: float, out: Path
) -> dict[str, Any]:
    """Write the network, the day and the defects of the images; return the summary.

    Raises:
        NotWritten: the disc is full, or the folder cannot be written.
    """
    found = {name: find(trained.network, image, step_nm) for name, image in images.items()}
    sure = [defects.above(LEAST) for defects in found.values()]
    plain = {
        "images": len(images),
        "conditions": asdict(day.conditions),
        "intervals": {name: [interval.low, interval.high] for name, interval in day.ranges.items()},
        "defects": {kind: int(sum((one.kind == number).sum() for one in sure)) for number, kind in enumerate(KINDS)},
        "out": str(out),
    }
    made = {**trained.provenance, "adapted": {"conditions": plain["conditions"], "intervals": plain["intervals"]}}
    try:
        WEIGHTS.save(replace(trained, provenance=made), out / NETWORK)
        write_text(out / TABLE, _csv(found))
        write_text(out / SUMMARY, json.dumps(plain, indent=2) + "\n")
    except OSError as error:
        raise NotWritten(f"the results could not be written: {sentence(error, out)}") from error
    return plain


def _csv(found: Mapping[str, Defects]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "x_nm", "y_nm", "kind", "probability"])
    for name, defects in found.items():
        for x, y, kind, chance in zip(defects.x_nm, defects.y_nm, defects.kind, defects.probability, strict=True):
            writer.writerow([name, f"{x:.4f}", f"{y:.4f}", KINDS[kind], f"{chance:.4f}"])
    return text.getvalue()
