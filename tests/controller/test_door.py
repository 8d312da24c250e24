"""The door of the package: what it offers, and that it is light."""

import subprocess
import sys

import controller


def test_the_package_offers_what_programs_need() -> None:
    assert controller.__all__ == ["Controller", "Estimate", "load", "names"]
    assert all(hasattr(controller, name) for name in controller.__all__)


def test_importing_and_listing_load_neither_torch_nor_abtem() -> None:
    code = "import sys, controller; controller.names(); print({'torch', 'abtem', 'gpytorch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
