"""A served microscope and a raw connection to one of its services, as the module that asks names them."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fakes import served

from twin.server.bench import Bench


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The bench of the module's `microscope()`."""
    with served.served(request.module.microscope()) as made:
        yield made


@pytest.fixture
def client(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Any]:
    """Connected to the module's `SERVICE`."""
    with served.Raw(bench.ports[request.module.SERVICE]) as raw:
        yield raw


@pytest.fixture
def open_() -> Iterator[ExitStack]:
    """What a test opens; closed after it."""
    with ExitStack() as stack:
        yield stack
