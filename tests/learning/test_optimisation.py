"""The pass that trainings share: every frame at most once, the same again from seed and epoch, gradients in bounds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learning.optimisation import fit, one_cycle, one_epoch


@dataclass(frozen=True)
class Fit:
    epochs: int = 4
    batch: int = 5
    learning_rate: float = 0.1
    seed: int = 3


def passed(
    epoch: int, clip: float = np.inf, slope: float = 1.0
) -> tuple[list[Tensor], list[float], list[float], float]:
    """Frames chosen, passes and rates of every step of one epoch over 17 frames, and how far the weight moved."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    chosen, passes, rates = [], [], []

    def loss(frames: Tensor, generator: torch.Generator, after: float) -> Tensor:
        assert network.training
        chosen.append(frames)
        passes.append(after)
        rates.append(optimiser.param_groups[0]["lr"])
        return slope * network.weight.sum()

    network.eval()
    one_epoch(network, optimiser, Fit(), epoch, 17, loss, clip)
    return chosen, passes, rates, -network.weight.item()


def test_a_pass_takes_whole_batches_of_frames_once() -> None:
    chosen, passes, rates, moved = passed(1)
    assert [len(frames) for frames in chosen] == [5, 5, 5]
    assert len(set(torch.cat(chosen).tolist())) == 15
    assert passes == pytest.approx([1, 4 / 3, 5 / 3])
    assert rates == pytest.approx([0.1 * one_cycle(p / 4) for p in passes])
    assert moved == pytest.approx(sum(rates))  # a gradient of one at every step: none is left over from the last


def test_the_order_follows_from_seed_and_epoch() -> None:
    first, again, later = (torch.cat(passed(epoch)[0]) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_gradients_are_cut_at_their_norm() -> None:
    _, _, rates, moved = passed(2, clip=0.5, slope=40.0)
    assert moved == pytest.approx(0.5 * sum(rates), rel=1e-4)
    _, _, rates, moved = passed(2, slope=40.0)
    assert moved == pytest.approx(40.0 * sum(rates))


def test_one_cycle_climbs_for_a_tenth_and_falls_to_nothing() -> None:
    phases = np.linspace(0, 1, 1001)
    factor = np.array([one_cycle(p) for p in phases])
    assert factor[0] == pytest.approx(0.04)
    assert factor[100] == pytest.approx(1.0)
    assert one_cycle(0.55) == pytest.approx(0.5)
    assert factor[-1] == pytest.approx(0.0, abs=1e-12)
    assert np.all(np.diff(factor[:101]) > 0)
    assert np.all(np.diff(factor[100:]) < 0)
    assert np.abs(np.diff(factor)).max() < 0.02


def line(work: Path, interrupt: int = 99) -> tuple[nn.Linear, list[int]]:
    """A line fitted to noisy examples by a loss that draws random numbers; the epochs reported."""
    torch.manual_seed(8)
    network, x = nn.Linear(2, 1), torch.randn(33, 2)
    optimiser, epochs = torch.optim.AdamW(network.parameters(), lr=0.1), []

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        noise = torch.randn(len(chosen), generator=generator)
        return ((network(x[chosen])[:, 0] - x[chosen, 0] + 0.1 * noise) ** 2).mean()

    def report(epoch: int) -> None:
        epochs.append(epoch)
        if epoch == interrupt:
            raise KeyboardInterrupt

    fit(network, optimiser, Fit(), len(x), loss, work / "line.safetensors", report)
    return network, epochs


def test_a_resumed_fit_is_the_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    straight, epochs = line(tmp_path / "a")
    assert epochs == [1, 2, 3, 4]
    with pytest.raises(KeyboardInterrupt):
        line(tmp_path, interrupt=2)
    resumed, epochs = line(tmp_path)
    assert epochs == [3, 4]
    assert torch.equal(resumed.weight, straight.weight)
    assert torch.equal(resumed.bias, straight.bias)
    finished, epochs = line(tmp_path)
    assert epochs == []
    assert torch.equal(finished.weight, straight.weight)
