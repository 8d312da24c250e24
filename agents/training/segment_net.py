"""Network of segment_net, on simulated scans."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from agents.segment_net.network import WEIGHTS, Inputs, SegmentNetwork, Trained
from agents.segment_net.scan_set import ScanSet, simulated
from agents.segment_net.simulation import SIDE
from agents.segmented.linear import Linear, Singles, reconstruct, transfer
from agents.segmented.segments import mirrored
from learning import optimisation
from learning.torch_state import seeded
from learning.training import Training, TrainingRun, fit_network
from twin.arrays import Floats
from twin.optics import Optics
from twin.options import Count, NonNegative, validated

CROP = 48
"""Positions along the side of a training example, cut from a periodic scan: its edges are those of a real scan."""
ELECTRONS = (20.0, 3e5)
"""Electrons in a square resolution element, evenly spread in the logarithm."""
FLOOR = 3e-3
"""Relative squared error below which an example hardly counts."""
JUDGED_E = (100.0, 1e3, 2e4)
"""Electrons in a square resolution element at which the held-out scans are judged."""

JUDGED_EVERY = 4
"""Epochs between two looks at the held-out scans."""


@validated
class Options(optimisation.Options):
    """Settings of the training.

    Attributes:
        scans: simulated scans; a sixteenth is held out.
        epochs: passes over the scans, each with new counts.
        weight_decay: weight decay of AdamW.
        precision: of convolutions; bfloat16 is twice as fast where the processor has it.
    """

    scans: Annotated[int, Ge(16)] = 600
    epochs: Count = 12
    batch: Count = 8
    weight_decay: NonNegative = 1e-3
    precision: Literal["bfloat16", "float32"] = "bfloat16"


class Example(NamedTuple):
    """One noisy scan: inputs, true phase (R, C) of mean zero, and the linear images."""

    inputs: Inputs
    truth: Tensor
    linear: Linear


class Examples:
    """Noisy crops of simulated scans.

    Args:
        scans: without noise.
    """

    def __init__(self, scans: ScanSet) -> None:
        self.scans = scans
        self.responses = [transfer((CROP, CROP), float(sampling)) for sampling in scans.sampling]

    def draw(self, number: int, electrons: float, rng: np.random.Generator, scramble: bool = True) -> Example:
        """Draw counts of a scan at so many electrons in a resolution element, at a random place and orientation."""
        scans, sampling = self.scans, float(self.scans.sampling[number])
        sums, truth = scans.expected(number, electrons * sampling**2), scans.truth[number]
        if scramble:
            down, right = rng.integers(SIDE, size=2)
            sums, truth = np.roll(sums, (down, right), axis=(1, 2)), np.roll(truth, (down, right), axis=(0, 1))
            sums, truth = _turned(sums, truth, rng)
        sums, truth = sums[:, :CROP, :CROP], truth[:CROP, :CROP]
        linear = reconstruct(rng.poisson(sums).astype(np.float64), sampling, self.responses[number])
        inputs = Inputs.of(linear, sampling, float(scans.resolution_nm[number]))
        return Example(inputs, torch.from_numpy(truth - truth.mean()), linear)


def _turned(sums: Singles, truth: Singles, rng: np.random.Generator) -> tuple[Singles, Singles]:
    """Apply one of the eight symmetries of a square to the scan and to the segments."""
    reversed_fast, reversed_slow, swapped = rng.random(3) < 0.5
    if reversed_fast:
        sums, truth = sums[mirrored("fast")][..., ::-1], truth[..., ::-1]
    if swapped:
        sums, truth = sums[mirrored("swap")].swapaxes(1, 2), truth.T
    if reversed_slow:
        sums, truth = sums[mirrored("slow")][:, ::-1], truth[::-1]
    return sums, np.ascontiguousarray(truth)


def relative_error(network: SegmentNetwork, examples: list[Example], precision: str = "float32") -> Tensor:
    """Squared error over the variance of the truth, without the mean of either, (B,)."""
    maps = torch.stack([example.inputs.maps for example in examples])
    conditions = torch.stack([example.inputs.conditions for example in examples])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        found = network(maps.to(memory_format=torch.channels_last), conditions).float()
    scale = torch.tensor([e.inputs.scale_rad for e in examples])[:, None, None]
    found = found * scale
    found = found - found.mean(dim=(1, 2), keepdim=True)
    truth = torch.stack([e.truth for e in examples])
    return ((found - truth) ** 2).mean(dim=(1, 2)) / (truth**2).mean(dim=(1, 2)).clamp_min(1e-8)


def fit(training: Examples, test: Examples, options: Options, run: TrainingRun) -> SegmentNetwork:
    """Fit the network: mean logarithm of the relative squared error."""
    with seeded(options.seed):
        network = SegmentNetwork()

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        low, high = np.log(ELECTRONS).tolist()
        electrons = np.exp(rng.uniform(low, high, len(chosen)))
        drawn = [training.draw(int(i), float(e), rng) for i, e in zip(chosen, electrons, strict=True)]
        return torch.log(relative_error(network, drawn, options.precision) + FLOOR).mean()

    def note(epoch: int) -> str:
        if epoch % JUDGED_EVERY:
            return ""
        means = judged(network.eval(), test, JUDGED_E[1:2])
        return ", ".join(f"{name} {value:.3f}" for name, value in means.items() if "network" in name)

    decay = options.weight_decay
    fit_network(network, options, len(training.scans), loss, run, "fitting the network", note, decay, clip=1.0)
    return network.eval()


def judged(network: SegmentNetwork, test: Examples, electrons: tuple[float, ...] = JUDGED_E) -> dict[str, float]:
    """Mean correlation with the true phase by dose, with and without atoms: the network, sideband and integrated."""
    found: dict[str, list[float]] = {}
    for dose in electrons:
        rng = np.random.default_rng(0)
        for number, atomic in enumerate(test.scans.atomic):
            example = test.draw(number, dose, rng, scramble=False)
            images: dict[str, Floats | Singles] = {
                "network": Trained(network, Optics()).phase(example.inputs),
                "sideband": example.linear.sideband,
                "integrated": example.linear.integrated,
            }
            for name, image in images.items():
                key = f"{name}_{'atomic' if atomic else 'other'}_{dose:g}e"
                found.setdefault(key, []).append(_correlation(image, example.truth.numpy()))
    return {key: round(float(np.mean(values)), 4) for key, values in sorted(found.items())}


def _correlation(image: Floats | Singles, truth: Floats | Singles) -> float:
    a, b = image - image.mean(), truth - truth.mean()
    power = float((a**2).sum()) * float((b**2).sum())
    return float((a * b).sum()) / power**0.5 if power > 0 else 0.0


def train(options: Options, run: TrainingRun) -> Trained:
    """Simulate scans, fit the network, judge it on those held out."""
    held = max(4, options.scans // 16)

    def show(done: int) -> None:
        run.progress("simulating scans", done, options.scans, "")

    run.progress("simulating scans", 0, options.scans, "")
    scans = simulated(run.work / "scans", options.scans, options.seed, show)
    training, test = Examples(scans.part(held, len(scans))), Examples(scans.part(0, held))
    network = fit(training, test, options, run)
    return Trained(network, run.optics, {"held_out_correlation": judged(network, test)})


def summary(trained: Trained, _: TrainingRun) -> Mapping[str, str]:
    """Return the held-out correlations of the network and of what it starts from."""
    figures = trained.provenance["held_out_correlation"]
    return {key.replace("_", " "): f"{value:.3f}" for key, value in figures.items()}


TRAINING = Training(Options, train, WEIGHTS, summary, threads=1)
