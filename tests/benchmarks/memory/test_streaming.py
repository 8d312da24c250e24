"""The memory benchmark of agents on a small stream: what is resident does not go with the frames."""

import sys

import numpy as np
import pytest

from benchmarks.memory.streaming import BLOCK, DISC_COUNTS, LIMIT_MB, SHIFTS, Generated, measure

ROWS, COLUMNS, CAMERA = 64, 256, 128


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell a process's peak memory")
def test_agents_keep_no_frames():
    found = measure(ROWS, COLUMNS, CAMERA)
    assert found.data_mb == pytest.approx(ROWS * COLUMNS * CAMERA**2 * 2e-6)
    assert found.known == 1.0
    # Beyond what was there before: a block, images of 16384 positions, and the kernels, compiled where nobody has.
    assert found.peak_mb - found.before_mb < 0.3 * found.data_mb
    assert found.peak_mb < LIMIT_MB
    # One drawing of a disc of 2600 pixels at 5 counts, wherever it wanders: three standard deviations are 2.6 %.
    assert found.bf_counts == pytest.approx(DISC_COUNTS * np.pi * (CAMERA / 4 - SHIFTS) ** 2, rel=0.026)


def test_the_disc_wanders_and_every_block_has_memory_of_its_own():
    blocks = list(Generated((4, 150), 32).blocks())
    assert sum(len(block) for block in blocks) == 600
    assert not any(np.shares_memory(a.frames, b.frames) for a in blocks for b in blocks if a is not b)
    assert {block.frames.dtype.str for block in blocks} == {">u2"}
    np.testing.assert_array_equal(np.concatenate([block.pixel for block in blocks])[[0, 151]], [[0, 0], [1, 1]])
    moments = np.concatenate([block.moments() for block in blocks[:1]])
    centre = moments[:, 1:] / moments[:, :1]
    assert len(centre) == BLOCK
    for step, along in enumerate(np.stack([centre[1] - centre[0], centre[SHIFTS] - centre[0]])):
        # One pixel right, one pixel down; but what leaves the camera on one side comes in on the other.
        np.testing.assert_allclose(along, np.eye(2)[step], atol=0.3)
