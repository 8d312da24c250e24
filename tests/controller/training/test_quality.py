"""The quality network's training: it learns the size of the aberrations, from seed alone, resumably."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from controller.dataset import Dataset
from controller.merit.quality_network import target
from controller.training.quality import Options, fit, r2
from learning.training import TrainingRun
from twin.optics import Optics
from twin.state import FIRST_ORDER


def toy(count: int, seed: int) -> Dataset:
    """Spectra whose level is the size of the state; no physics."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-1, 1, (count, 3)) * FIRST_ORDER.range_nm * rng.choice([1.0, 0.1], (count, 1))
    spectra = target(states)[:, None, None] + 0.5 * rng.standard_normal((count, 64, 32))
    none = np.zeros((count, 0, 0, 0), np.float16)
    return Dataset(spectra.astype(np.float16), states, np.ones(count), np.arange(count), none, np.zeros((count, 2)))


def test_it_learns_and_resumes_to_the_bit(tmp_path: Path) -> None:
    options, notes = Options(epochs=3, batch=32), []
    run = TrainingRun(Optics(), FIRST_ORDER, tmp_path / "a", tmp_path, lambda *a: notes.append(a[3]))
    again = replace(run, work=tmp_path / "b")
    run.work.mkdir()
    again.work.mkdir()
    straight = fit(toy(480, 1), toy(96, 2), options, run)
    assert r2(straight, toy(96, 3)) > 0.8
    assert notes[-1] == f"held-out R2 {r2(straight, toy(96, 2)):.4f}"

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(toy(480, 1), toy(96, 2), options, replace(again, progress=cut))
    resumed = fit(toy(480, 1), toy(96, 2), options, again)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
