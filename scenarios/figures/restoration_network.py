"""Figs. 2.10 and 2.11 of Friedrich 2023 for the networks here: what follows what, with the numbers of weights."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from scenarios.calibration.plots import BELIEF, INK, png

if TYPE_CHECKING:
    from torch import nn

Stage = tuple[str, "nn.Module | None"]


def generator() -> bytes:
    """Draw the generator's stages (Fig. 2.10)."""
    from agents.restoration.network import DENSE, FOLD, GROWTH, HEADS, Generator

    network = Generator()
    stages: list[Stage] = [
        (f"image less filtered one,\nfiltered one, root;\nfolded {FOLD} x {FOLD}", None),
        ("3 x 3 convolution", network.first),
    ]
    for number, group in enumerate(network.groups, 1):
        text = f"group {number}: 2 residual\ndense blocks of {DENSE} layers,\n{GROWTH} channels more each"
        stages.append((text, group))
    stages += [
        ("all outputs joined,\n1 x 1 fusion, residual", network.fusion),
        (f"{HEADS} heads,\n3 x 3, 3 x 3, unfolded", network.heads),
        ("plus filtered image", None),
    ]
    return _drawn("generator", stages)


def discriminator() -> bytes:
    """Draw the discriminator's stages (Fig. 2.11)."""
    from torch.nn import Conv2d

    from agents.restoration.discriminator import PATCH, Discriminator

    stages: list[Stage] = [("noisy and restored\nor true image", None)]
    for layer in Discriminator().layers:
        if isinstance(layer, Conv2d):
            stages.append((f"4 x 4 convolution,\n{layer.out_channels} channels, step {layer.stride[0]}", layer))
        else:
            word = {"InstanceNorm2d": "instance norm", "LeakyReLU": "leaky ReLU"}[type(layer).__name__]
            stages[-1] = (f"{stages[-1][0]},\n{word}", stages[-1][1])
    stages.append((f"one number per patch\nof {PATCH} x {PATCH} px", None))
    return _drawn("discriminator", stages)


def _drawn(title: str, stages: list[Stage]) -> bytes:
    """Boxes from left to right."""
    figure = Figure(figsize=(2.1 * len(stages), 2.2), facecolor="white")
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.84))
    axes.set(xlim=(-0.5, len(stages) - 0.5), ylim=(-0.6, 0.6))
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    for place, (text, module) in enumerate(stages):
        weights = 0 if module is None else sum(value.numel() for value in module.parameters())
        label = f"{text}\n{weights:,} weights" if weights else text
        edge = BELIEF if weights else INK
        axes.text(place, 0, label, ha="center", va="center", fontsize=8, bbox={"fc": "white", "ec": edge, "pad": 5})
        if place:
            axes.annotate("", (place - 0.42, 0), (place - 0.58, 0), arrowprops={"arrowstyle": "->", "color": INK})
    return png(figure)
