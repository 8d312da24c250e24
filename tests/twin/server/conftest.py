"""A served microscope and a raw connection to one of its services, as the module that asks names them."""

import runpy
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from twin.server.bench import Bench

FAKES = types.SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "fakes" / "served.py")))


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The bench of the module's `microscope()`."""
    with FAKES.served(request.module.microscope()) as made:
        yield made


@pytest.fixture
def client(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Any]:
    """Connected to the module's `SERVICE`."""
    with FAKES.Raw(bench.ports[request.module.SERVICE]) as raw:
        yield raw
