"""The speed benchmark runs; how fast it finds things is not a test's business."""

import pytest

from benchmarks import speed


def test_the_em_step_is_timed() -> None:
    figure = speed.em_step()
    assert figure.ours > 0
    assert figure.ratio == pytest.approx(figure.ours / figure.reference)
