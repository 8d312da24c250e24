"""What an input is expected to tell, against the formula written out."""

import math

import numpy as np
import pytest

from controller.posterior.information import expected_information


def test_expected_information_is_the_overlap_written_out():
    rng = np.random.default_rng(9)
    states, inputs = rng.uniform(-0.4, 0.4, (6, 3)), rng.uniform(-0.4, 0.4, (3, 3))

    def precision(x):
        return np.eye(3) * (20 + 10 * (x**2).sum(1))[:, None, None]

    for q, u in enumerate(inputs):
        p = precision(states + u)
        total = 0.0
        for i in range(6):
            alike = 0.0
            for j in range(6):
                pooled = (p[i] + p[j]) / 2
                pair = (states[i] - states[j], states[i] + states[j] + 2 * u)
                alike += math.exp(-min(d @ pooled @ d for d in pair) / 8)
            total -= math.log(alike / 6) / 6
        assert expected_information(states, inputs, precision)[q] == pytest.approx(total, rel=1e-9)
