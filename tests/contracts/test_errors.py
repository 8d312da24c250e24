"""Every error that the packages define can be caught as one: `twin.errors.StemtwinError`."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import agents
import controller
import scenarios
import twin
from twin.errors import StemtwinError

PACKAGES = (twin, controller, agents, scenarios)
CONTROL_FLOW = {
    "Stopping": "ends the threads of a server",
    "ClientGone": "ends the service of one client",
    "Refused": "printed by the process that reads the structure of HDF5 files, which imports h5py alone",
}
"""Exceptions that are always caught inside the package, with the reason; those with an underscore are, too."""


def modules() -> Iterator[ModuleType]:
    """All modules of the packages."""
    for package in PACKAGES:
        yield package
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(info.name)


@pytest.fixture(scope="module")
def exceptions() -> dict[str, type[BaseException]]:
    return {
        name: value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == module.__name__
    }


def test_errors_share_one_base(exceptions: dict[str, type[BaseException]]) -> None:
    assert len(exceptions) > 30
    others = {name for name, kind in exceptions.items() if not issubclass(kind, StemtwinError) and name[0] != "_"}
    assert others == set(CONTROL_FLOW)
