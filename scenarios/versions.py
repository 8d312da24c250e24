"""Software and machine that a run was made with."""

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

PACKAGES = ("stemtwin", "abtem", "botorch", "gpytorch", "numpy", "scipy", "torch")
"""Packages whose versions change figures."""
OTHERS = ("gymnasium", "matplotlib", "numba", "pydantic", "zarr")
"""Packages that a bug report names, too."""
OPTIONAL = {
    "train ppo": "stable_baselines3",
    "autoscript backend": "autoscript_tem_microscope_client",
    "scan --view, Qt": "PySide6",
    "scan --view, Tk": "tkinter",
}
"""Parts of the package that need a module which may be missing."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return installed versions; a missing package is left out."""
    found = {}
    for package in packages:
        with suppress(ImportError):
            found[package] = version(package)
    return found


def environment() -> dict[str, dict[str, Any]]:
    """Return versions, system, threads and optional parts, by title and name.

    Example:
        >>> sorted(environment())
        ['optional parts', 'system', 'threads', 'versions']
    """
    import psutil

    memory = psutil.virtual_memory()
    return {
        "versions": {"python": platform.python_version(), **versions((*PACKAGES, *OTHERS))},
        "system": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": f"{psutil.cpu_count(logical=False) or 'unknown'} physical, {os.cpu_count()} logical",
            "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available",
        },
        "threads": {name: os.environ.get(name, "not set") for name in THREADS},
        "optional parts": {part: _present(module) for part, module in OPTIONAL.items()},
    }


def _present(module: str) -> str:
    return f"{module} is {'present' if find_spec(module) is not None else 'missing'}"


def _processor() -> str:
    """Return the processor's name; Python itself knows only its architecture on Linux."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
