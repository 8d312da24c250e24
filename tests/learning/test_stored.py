"""What trainings keep: whole or not at all, and damage is one sentence that says how to go on."""

import resource
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from learning.optimisation import load_checkpoint, save_checkpoint
from learning.stored import DamagedFile, read_simulated, save_whole


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_full_disc_is_an_error_of_the_system_and_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_whole(path, {"weight": torch.ones(3)}, {"of": "before"})
    before = path.read_bytes()
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it where the user lets them
    (tmp_path / "plain").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError, match="File too large") as refused:
            save_whole(path, {"weight": torch.ones(3000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert refused.value.filename == str(path)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])


def checkpoint(path: Path, width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Linear(width, 1)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, width)).sum().backward()
    optimiser.step()
    save_checkpoint(network, optimiser, 2, path)
    return network, optimiser


@pytest.mark.parametrize("keep", [0, 1, 9, 100, 300])
def test_a_checkpoint_cut_off_is_told(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "network.safetensors"
    network, optimiser = checkpoint(path)
    assert load_checkpoint(network, optimiser, path) == 2
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=r"network\.safetensors: a damaged checkpoint; delete it to begin anew"):
        load_checkpoint(network, optimiser, path)


def test_a_checkpoint_of_another_network_is_told(tmp_path: Path) -> None:
    network, optimiser = checkpoint(tmp_path / "a.safetensors")
    checkpoint(tmp_path / "b.safetensors", width=5)
    with pytest.raises(DamagedFile):
        load_checkpoint(network, optimiser, tmp_path / "b.safetensors")


@pytest.mark.parametrize("keep", [0, 1, 50, 200, 400])
def test_simulated_arrays_cut_off_are_told(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "frames.npz"
    np.savez(path, counts=np.arange(40), days=np.arange(3))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=r"frames\.npz: damaged; delete it, and it is simulated anew"):
        read_simulated(path)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", days=np.array([{}], dtype=object))
    with pytest.raises(DamagedFile):
        read_simulated(tmp_path / "a.npz")
