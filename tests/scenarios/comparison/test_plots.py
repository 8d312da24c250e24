"""Figures of a comparison make room for many and long names."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from scenarios.comparison import plots
from scenarios.schema import Scenario

LONG = "neural_posterior:candidates=1200,selection=information,input_error=0.05"
NAMES = {
    "short": ["vae_em", "random"],
    "long": [LONG, "vae_em:selection=variance,candidates=500", "random"],
    "many": [LONG, *(f"controller_{i}" for i in range(17))],
}
LONG_SCENARIO = "a_scenario_of_my_own_with_a_rather_long_name_indeed"


def summary(names: list[str], scenarios: list[str]) -> dict[str, Any]:
    """The figures that pictures need, drawn at random."""
    rng = np.random.default_rng(0)

    def figures() -> dict[str, Any]:
        keys = ("in_spec", "coverage_50", "coverage_90", "seconds_per_step")
        errors = {"median_error_nm": 3.0, "p10_error_nm": 1.0, "p90_error_nm": 9.0}
        by_observation = {str(k): errors | {key: float(rng.random()) for key in keys} for k in range(1, 6)}
        per_coefficient = {c: {"median_abs_nm": 1.0, "p90_abs_nm": 4.0} for c in ("C10", "C12a", "C12b")}
        return {"runs": 5, "by_observation": by_observation, "per_coefficient": per_coefficient}

    controllers = {name: figures() for name in names}
    bound = {str(k): 1.0 for k in range(1, 6)}
    return {
        "controllers": controllers,
        "scenarios": {name: {"controllers": controllers, "bound_median_nm": bound} for name in scenarios},
    }


@pytest.fixture
def drawn(
    monkeypatch: pytest.MonkeyPatch, small: Callable[..., Scenario]
) -> Callable[[str, list[str], list[str]], Figure]:
    """Draw a kind of picture and return its figure, laid out."""
    monkeypatch.setattr(plots, "png", lambda figure: figure)

    def draw(kind: str, names: list[str], scenarios: list[str]) -> Figure:
        takes_scenarios = kind in ("error_curves", "coefficient_errors")
        more = ({name: small() for name in scenarios},) if takes_scenarios else ()
        figure: Any = getattr(plots, kind)(summary(names, scenarios), *more)
        figure.draw_without_rendering()
        assert isinstance(figure, Figure)
        return figure

    return draw


@pytest.mark.parametrize("scenarios", [["day_a"], ["day_a", LONG_SCENARIO]], ids=["one", "two"])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", ["error_curves", "in_spec_curves", "coverage_curves", "coefficient_errors"])
def test_nothing_is_cut_off_and_no_panel_is_a_sliver(
    kind: str, names: list[str], scenarios: list[str], drawn: Callable[..., Figure]
) -> None:
    figure = drawn(kind, names, scenarios)
    width, height = figure.get_size_inches() * figure.dpi
    for axes in figure.axes:
        box = axes.get_position()
        assert box.width * width / figure.dpi > 2.2
        assert box.height * height / figure.dpi > 1.5
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for text in [text for text in texts if text.get_text()]:
            extent = text.get_window_extent()
            assert extent.x0 > -1, text.get_text()
            assert extent.x1 < width + 1, text.get_text()
            assert -1 < extent.y0 < extent.y1 < height + 1, text.get_text()
    for legend in figure.legends:
        extent = legend.get_window_extent()
        assert -1 < extent.x0 < extent.x1 < width + 1


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_names_beside_the_lines_do_not_overlap(names: list[str], drawn: Callable[..., Figure]) -> None:
    figure = drawn("error_curves", names, ["day_a"])
    (axes,) = figure.axes
    shown = [text for text in axes.texts if text.get_text() in map(plots.wrapped, names)]
    assert len(shown) == len(names)
    boxes = [Text.get_window_extent(text) for text in shown]  # without the leader
    boxes = sorted(boxes, key=lambda box: box.y0)
    for below, above in pairwise(boxes):
        assert above.y0 > below.y1 - 2


def test_the_figure_grows_with_names_and_their_number(drawn: Callable[..., Figure]) -> None:
    short, long, many = (drawn("error_curves", names, ["day_a"]).get_size_inches() for names in NAMES.values())
    assert long[0] > short[0] + 0.5
    assert many[1] > short[1] + 0.5
    time = [drawn("computing_time", names, ["day_a"]).get_size_inches()[1] for names in NAMES.values()]
    assert time == sorted(time)
