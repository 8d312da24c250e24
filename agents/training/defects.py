"""Network that finds single-atom defects in dark-field images."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from annotated_types import Ge
from pydantic import model_validator

from agents.defects import network as defect_network
from agents.defects.conditions import CLEAN, RANDOM, only
from agents.defects.detection import calibration_error, find, score
from agents.defects.fitting import calibrate, loss_of, patches, rightness, simulated
from agents.defects.network import DefectNetwork, Trained
from agents.defects.sheet import Labelled
from learning import optimisation
from learning.torch_state import seeded
from learning.training import Training, TrainingRun, fit_network
from twin.options import Count, NonNegative, Positive, validated
from twin.zcontrast.profile import ZContrast, check_ring


@validated
class Options(optimisation.Options):
    """Settings of the training.

    Attributes:
        conditions: of the simulated images: "random" days, or "clean" without noise, dirt and errors of the scan.
        days: simulated images, each of another day; a tenth is held out.
        epochs: passes over the images; each takes another part of every image.
        weight_decay: weight decay of AdamW.
        inner_mrad: inner angle of the ring detector.
        outer_mrad: its outer angle.
    """

    conditions: Literal["random", "clean"] = "random"
    days: Annotated[int, Ge(10)] = 800
    epochs: Count = 16
    batch: Count = 16
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-3
    inner_mrad: NonNegative = 63.0
    outer_mrad: Positive = 200.0

    @model_validator(mode="after")
    def _ring(self) -> Self:
        check_ring(self.inner_mrad, self.outer_mrad)
        return self


def beam_of(options: Options, run: TrainingRun) -> ZContrast:
    """Beam of the run's optics and the ring of the options."""
    return ZContrast(
        energy_kev=run.optics.energy_kev,
        convergence_mrad=run.optics.convergence_mrad,
        inner_mrad=options.inner_mrad,
        outer_mrad=options.outer_mrad,
    )


def _images(options: Options, run: TrainingRun) -> list[Labelled]:
    ranges = RANDOM if options.conditions == "random" else only(CLEAN)
    images = []
    run.progress("simulating days", 0, options.days, "")
    for image in simulated(beam_of(options, run), ranges, options.days, options.seed):
        images.append(image)
        run.progress("simulating days", len(images), options.days, "")
    return images


def fit(network: DefectNetwork, images: list[Labelled], options: Options, run: TrainingRun) -> None:
    """Fit the network to labelled images, with a checkpoint after every pass."""
    data = patches(images)
    last = [0.0]

    def loss(chosen: torch.Tensor, generator: torch.Generator, _: float) -> torch.Tensor:
        value = loss_of(network, data, chosen, generator)
        last[0] = float(value.detach())
        return value

    def note(_: int) -> str:
        return f"cross entropy {last[0]:.4f}"

    decay = options.weight_decay
    fit_network(network, options, len(data), loss, run, "fitting the defects", note, decay, clip=5.0)


def held_out_figures(network: DefectNetwork, images: list[Labelled]) -> dict[str, float]:
    """Precision, recall, F1 at probability 1/2 and calibration error on held-out images."""
    found = [find(network, image.image, image.step_nm) for image in images]
    right = np.concatenate([rightness(one, image) for one, image in zip(found, images, strict=True)])
    chance = np.concatenate([one.probability for one in found])
    sure = chance >= 0.5
    total = score(int(right[sure].sum()), int(sure.sum()), sum(len(image.kind) for image in images))
    return {
        "held_out_precision": round(total.precision, 4),
        "held_out_recall": round(total.recall, 4),
        "held_out_f1": round(total.f1, 4),
        "held_out_calibration_error": round(calibration_error(chance, right), 4),
    }


def train(options: Options, run: TrainingRun) -> Trained:
    """Simulate labelled images, fit the network, calibrate its probabilities on images of other days."""
    images = _images(options, run)
    held = max(2, options.days // 10)
    with seeded(options.seed):
        network = DefectNetwork()
    fit(network, images[held:], options, run)
    calibrate(network, images[: held // 2])
    return Trained(network.eval(), run.optics, held_out_figures(network, images[held // 2 : held]))


def summary(trained: Trained, _: TrainingRun) -> Mapping[str, str]:
    """Return the held-out scores."""
    made: Mapping[str, Any] = trained.provenance
    return {
        "held out": f"precision {made['held_out_precision']:.2f}, recall {made['held_out_recall']:.2f},"
        f" F1 {made['held_out_f1']:.3f} at probability 1/2",
        "probabilities": f"calibration error {made['held_out_calibration_error']:.3f}",
    }


TRAINING = Training(Options, train, defect_network.WEIGHTS, summary, packages=("scikit-learn",), threads=1)
