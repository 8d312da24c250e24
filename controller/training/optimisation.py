"""Gradient descent as every training here does it: shuffled batches, one cycle of the learning rate, checkpoints."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class Schedule(Protocol):
    """What a training's configuration says of its fit."""

    @property
    def epochs(self) -> int:
        """Passes over the frames."""
        ...

    @property
    def batch(self) -> int:
        """Frames of a step; what does not fill a batch is left out of a pass."""
        ...

    @property
    def learning_rate(self) -> float:
        """At its highest."""
        ...

    @property
    def seed(self) -> int:
        """Of the order of the frames, and of whatever the loss draws."""
        ...


Loss = Callable[[Tensor, torch.Generator, float], Tensor]
"""Of the frames chosen, (B,), with random numbers from the generator, after so many passes (broken ones count)."""


def one_epoch(
    network: nn.Module, optimiser: torch.optim.Optimizer, schedule: Schedule, epoch: int, count: int, loss: Loss,
    clip: float = math.inf,
) -> None:  # fmt: skip
    """One pass over `count` frames, with gradients of at most the norm `clip`.

    Its random numbers follow from seed and epoch, so that a resumed training goes the same way.
    """
    network.train()
    generator = torch.Generator().manual_seed(schedule.seed * 1000 + epoch)
    batches = torch.randperm(count, generator=generator).split(schedule.batch)[: count // schedule.batch]
    for step, chosen in enumerate(batches):
        passes = epoch + step / len(batches)
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * one_cycle(passes / schedule.epochs)
        optimiser.zero_grad()
        loss(chosen, generator, passes).backward()
        if math.isfinite(clip):
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()


def one_cycle(phase: float) -> float:
    """Learning rate factor at a phase in 0..1: up over the first tenth, cosine down to nothing."""
    if phase < 0.1:
        return 0.04 + 0.96 * phase / 0.1
    return 0.5 * (1 + float(np.cos(np.pi * (phase - 0.1) / 0.9)))


def save_checkpoint(network: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, path: Path) -> None:
    """Network and optimiser after so many epochs, whole or not at all."""
    tensors = {f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{key}": value for key, value in state.items()}
    partial = path.with_suffix(".part")
    save_file(tensors, partial, {"epoch": str(epoch)})
    partial.rename(path)


def load_checkpoint(network: nn.Module, optimiser: torch.optim.Optimizer, path: Path) -> int:
    """Restore network and optimiser; returns the epochs done."""
    states: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        weights = {key[8:]: file.get_tensor(key) for key in file.keys() if key.startswith("network.")}  # noqa: SIM118
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            if key.startswith("optimiser."):
                _, number, name = key.split(".")
                states.setdefault(int(number), {})[name] = file.get_tensor(key)
        epochs = int(file.metadata()["epoch"])
    network.load_state_dict(weights)
    optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    return epochs
