"""Memory of this process."""

import sys
from pathlib import Path


def peak_memory_mib() -> float | None:
    """Return the largest resident memory of this process so far; None where the system does not report it.

    psutil reports the peak on Windows only.
    """
    status = Path("/proc/self/status")
    # `ru_maxrss` on Linux includes what the parent held when it started this process; VmHWM does not.
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)
