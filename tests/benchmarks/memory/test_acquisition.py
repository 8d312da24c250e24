"""The memory benchmark on a small scan: peak memory is bounded and does not grow with the rows."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.memory.acquisition import LIMIT_MB, measure


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell a process's peak memory")
def test_a_streamed_scan_does_not_gather_its_frames() -> None:
    found = measure(rows=20, columns=32, camera=128)
    assert found.data_mb == pytest.approx(20 * 32 * 128**2 * 2e-6)
    assert found.peak_mb < LIMIT_MB
    # Seventeen rows of 1 MB each after `early_mb`: a consumer that kept them, or a scan that did, would show.
    assert found.peak_mb - found.early_mb < 10.0
    assert found.electrons == pytest.approx(19 * 32 * 1e4, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the parent is counted")
def test_the_peak_of_a_process_is_its_own_and_not_its_parent_s() -> None:
    ballast = np.ones(2**26)  # 512 MiB, touched
    code = "from scenarios.memory import peak_memory_mib; print(peak_memory_mib())"
    own = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert float(own) < ballast.nbytes / 2**20
