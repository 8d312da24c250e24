"""Step sizes through the passes: the published update by name."""

import pytest

from agents.epie.schedule import Schedule
from twin.options import OptionError, checked_options


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_the_published_update_has_no_caution_and_is_otherwise_the_same(progress: float) -> None:
    usual, published = Schedule(), Schedule(update="published")
    without = Schedule(caution=0.0, final_caution=0.0)
    assert usual.steps(progress, 500.0).caution >= 1.0
    assert published.steps(progress, 500.0) == without.steps(progress, 500.0)
    assert published.steps(progress, 500.0).probe == usual.steps(progress, 500.0).probe


def test_another_update_is_refused() -> None:
    with pytest.raises(OptionError, match="'fisher' or 'published'"):
        checked_options(Schedule, {"update": "lecture"})
