"""Resumable gradient descent: shuffled batches, one cycle of the learning rate, a checkpoint after every epoch."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from learning.stored import DamagedFile, save_whole
from twin.errors import reason
from twin.options import Count, Positive, Seed, validated


@validated
class Options:
    """Settings of a fit; the options of a training have them among others.

    Attributes:
        epochs: passes over the examples.
        batch: examples per step; the last, incomplete batch of a pass is dropped.
        learning_rate: maximum learning rate, reached after a tenth of the steps.
        seed: seed of all random numbers.
    """

    epochs: Count = 20
    batch: Count = 64
    learning_rate: Positive = 2e-3
    seed: Seed = 1


Loss = Callable[[Tensor, torch.Generator, float], Tensor]
"""Mean loss of the examples with these indices (B,), given a random generator and the passes done (fractional)."""


def fit(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    options: Options,
    count: int,
    loss: Loss,
    checkpoint: Path,
    report: Callable[[int], None] = lambda epoch: None,
    clip: float = math.inf,
) -> None:
    """Minimise the loss over `options.epochs` passes, resuming from the checkpoint if there is one.

    An interrupted fit that is started again ends with the same weights, to the bit, as one without interruption.

    Args:
        network: trained in place.
        optimiser: of its parameters.
        options: epochs, batch size, learning rate, seed.
        count: number of examples.
        loss: of a batch.
        checkpoint: file written after every epoch.
        report: called after every epoch with the number of epochs done.
        clip: largest norm of the gradient.

    Example:
        >>> import tempfile
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> options = Options(epochs=40, batch=16, learning_rate=0.3, seed=1)
        >>> line = nn.Linear(1, 1)
        >>> def loss(chosen, generator, passes):
        ...     return nn.functional.mse_loss(line(x[chosen]), 3 * x[chosen])
        >>> path = Path(tempfile.mkdtemp()) / "line.safetensors"
        >>> fit(line, torch.optim.SGD(line.parameters(), lr=0.3), options, len(x), loss, path)
        >>> round(line.weight.item(), 1)
        3.0
        >>> epochs = []
        >>> fit(line, torch.optim.SGD(line.parameters(), lr=0.3), options, len(x), loss, path, epochs.append)
        >>> epochs  # complete: the checkpoint is read and nothing is repeated
        []
    """
    done = load_checkpoint(network, optimiser, checkpoint) if checkpoint.exists() else 0
    for epoch in range(done, options.epochs):
        one_epoch(network, optimiser, options, epoch, count, loss, clip)
        save_checkpoint(network, optimiser, epoch + 1, checkpoint)
        report(epoch + 1)


def one_epoch(
    network: nn.Module, optimiser: torch.optim.Optimizer, options: Options, epoch: int, count: int, loss: Loss,
    clip: float = math.inf,
) -> None:  # fmt: skip
    """Make one pass over `count` examples, with gradients of at most the norm `clip`.

    Its random numbers follow from seed and epoch alone, so that a resumed fit draws the same ones.
    """
    network.train()
    generator = torch.Generator().manual_seed(options.seed * 1000 + epoch)
    batches = torch.randperm(count, generator=generator).split(options.batch)[: count // options.batch]
    for step, chosen in enumerate(batches):
        passes = epoch + step / len(batches)
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * one_cycle(passes / options.epochs)
        optimiser.zero_grad()
        loss(chosen, generator, passes).backward()
        if math.isfinite(clip):
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()


def one_cycle(phase: float) -> float:
    """Learning rate factor at a phase in 0..1: linear rise over the first tenth, cosine decay to zero."""
    if phase < 0.1:
        return 0.04 + 0.96 * phase / 0.1
    return 0.5 * (1 + float(np.cos(np.pi * (phase - 0.1) / 0.9)))


def save_checkpoint(network: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, path: Path) -> None:
    """Write network and optimiser after `epoch` epochs; an interruption leaves the previous checkpoint.

    Raises:
        OSError: it cannot be written, for example on a full disc.
    """
    tensors = {f"network.{k}": v.contiguous() for k, v in network.state_dict().items()}
    for number, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{key}": value for key, value in state.items()}
    save_whole(path, tensors, {"epoch": str(epoch)})


def load_checkpoint(network: nn.Module, optimiser: torch.optim.Optimizer, path: Path) -> int:
    """Restore network and optimiser; return the number of epochs done.

    Raises:
        DamagedFile: no checkpoint of this network, or a damaged one.
    """
    try:
        return _restore(network, optimiser, path)
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path}: a damaged checkpoint; delete it to begin anew ({reason(error)})") from error


def _restore(network: nn.Module, optimiser: torch.optim.Optimizer, path: Path) -> int:
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
