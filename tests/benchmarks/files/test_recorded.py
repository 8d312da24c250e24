"""The comparison with other decoders sees the same counts, other counts, and why a file is refused."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.files import recorded
from twin.formats import Layout, Metadata, create
from twin.formats.mib import MibWriter

FRAMES = np.random.default_rng(0).integers(0, 2, (1, 512, 512)).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scan as .hspy, one as raw and one as plain .mib, and a file that is none."""
    for name, camera in (("whole.hspy", 16), ("plain.mib", 256)):
        with create(tmp_path / name, Layout((1,), (camera, camera), max_count=1)) as writer:
            writer.append(FRAMES[:, :camera, :camera])
    for name, camera in (("single.mib", 256), ("quad.mib", 512)):
        with MibWriter(tmp_path / name, Layout((1,), (camera, camera), max_count=1), Metadata(), raw=True) as raw:
            raw.append(FRAMES[:, :camera, :camera])
    (tmp_path / "junk.mib").write_bytes(b"x" * 1000)
    return tmp_path


def test_the_same_counts_are_found_by_another_way(folder: Path) -> None:
    found = recorded.tallies([folder])
    assert (found[".mib"].equal, found[".mib"].refused.total(), found[".hspy"].equal) == (3, 1, 1)
    assert found[".mib"].differ == found[".mib"].alone == []
    lines = list(recorded.table(found))
    assert lines[-1] == "| `.mib` | 4 | 3 | 0 | 0 | 1 another reason |"


@pytest.mark.parametrize("name", ["plain.mib", "single.mib", "quad.mib", "whole.hspy"])
def test_one_count_that_differs_is_seen(folder: Path, name: str) -> None:
    side = {"whole.hspy": 16, "quad.mib": 512}.get(name, 256)
    frames = FRAMES[:, :side, :side].copy()
    assert recorded.same_counts(folder / name, frames)
    frames[0, 3, 5] ^= 1
    assert not recorded.same_counts(folder / name, frames)
    assert not recorded.same_counts(folder / name, FRAMES[:, :side, :side][:, ::-1])
