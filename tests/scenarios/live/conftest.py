"""A small microscope, a live server on it, and a page without a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from benchmarks.live.fuzz import SMALL, TOKEN
from benchmarks.live.page import BarePage
from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import Scenario, load
from twin.server.access import Access


@pytest.fixture(scope="session")
def small() -> Scenario:
    return load("nominal", [*SMALL, "task.observations=3"])


@pytest.fixture
def server(small: Scenario, tmp_path: Path) -> Iterator[LiveServer]:
    with LiveServer(Settings(small, 3, tmp_path), Access("127.0.0.1", TOKEN), TOKEN) as live:
        yield live


@pytest.fixture
def page(server: LiveServer) -> Iterator[BarePage]:
    opened = BarePage(server.port, TOKEN)
    opened.until(lambda: opened.state and "hello" in opened.heard)
    yield opened
    opened.close()
