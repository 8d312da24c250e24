"""The memory benchmark on a small scan: peak memory is bounded and does not grow with the rows."""

import sys

import pytest

from benchmarks.memory import LIMIT_MIB, measure


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell a process's peak memory")
def test_a_streamed_scan_does_not_gather_its_frames() -> None:
    found = measure(rows=40, columns=64, camera=128)
    assert found.data_mib == 80.0
    assert found.peak_mib < LIMIT_MIB
    # Thirty-eight rows of 2 MiB each after `early_mib`: a consumer that kept them, or a scan that did, would show.
    assert found.peak_mib - found.early_mib < 20.0
    assert found.electrons == pytest.approx(39 * 64 * 1e4, rel=0.05)
