"""A microscope small enough for tests: the fast renderer on a 256-pixel grid and a 64-pixel camera."""

from collections.abc import Callable

import pytest

from scenarios.schema import Scenario, load

SMALL = (
    "renderer=fast",
    "optics.convergence_mrad=14",
    "optics.sampling_nm=0.05",
    "optics.grid=256",
    "optics.camera_pixels=64",
    "optics.binning=4",
)


@pytest.fixture(autouse=True)
def reports_without_pictures(request: pytest.FixtureRequest) -> None:
    """Runs write their reports without drawing; quicker tests have none, and do not wait for matplotlib."""
    if request.node.get_closest_marker("slow"):
        request.getfixturevalue("undrawn")


@pytest.fixture(scope="session")
def small_overrides() -> tuple[str, ...]:
    """`--set` arguments that make any library scenario small."""
    return SMALL


@pytest.fixture(scope="session")
def small() -> Callable[..., Scenario]:
    """The nominal scenario, small, with a number of observations and further overrides."""

    def make(observations: int = 3, *overrides: str, name: str = "nominal") -> Scenario:
        return load(name, [*SMALL, f"task.observations={observations}", *overrides])

    return make
