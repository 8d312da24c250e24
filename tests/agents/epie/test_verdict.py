"""The verdict on the amplitude error: counting noise does not count, and the limits are those of the rule."""

import numpy as np
import pytest

from agents.epie.verdict import counting_error, error_left, error_verdict


@pytest.mark.parametrize("counts", [0.02, 10.0, 500.0])
def test_noise_alone_leaves_nothing(counts: float) -> None:
    drawn = np.random.default_rng(0).poisson(counts, 200_000)
    error = float(np.sqrt(((np.sqrt(drawn) - np.sqrt(counts)) ** 2).sum() / drawn.sum()))
    assert error_left(error, 2.0, counting_error(np.full(4, counts))) < (0.4 if counts < 1 else 0.05)


def test_without_noise_it_is_the_plain_ratio() -> None:
    assert error_left(0.01, 0.5, 0.0) == pytest.approx(0.02)
    assert error_left(0.5, 0.5, 0.1) == 1.0
    assert error_left(0.05, 0.5, 0.1) == 0.0


@pytest.mark.parametrize(("left", "word"), [(0.049, "converged"), (0.07, "more passes"), (0.2, "above 10 %")])
def test_limits(left: float, word: str) -> None:
    assert word in error_verdict(left)
