"""Which versions a run was made with."""

from contextlib import suppress
from importlib.metadata import version

PACKAGES = ("stemtwin", "abtem", "botorch", "gpytorch", "numpy", "scipy", "torch")
"""Whose versions figures depend on."""


def versions() -> dict[str, str]:
    """Installed versions of what figures depend on; a missing package is left out."""
    found = {}
    for package in PACKAGES:
        with suppress(ImportError):
            found[package] = version(package)
    return found
