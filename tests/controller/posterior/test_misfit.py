"""The misfit test: what training days' runs are like, and whether a run stands out from them."""

import numpy as np
import pytest

from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.misfit import MEASURES, p_value, training_moments


def test_nothing_stands_out_as_long_as_nobody_knows_what_is_usual() -> None:
    assert p_value({"deviance": 1e9, "turn": 1e9}, {}, 5) == 1.0


def test_what_is_usual_leaves_out_the_worst_runs() -> None:
    rng = np.random.default_rng(1)
    runs = [[dict.fromkeys(MEASURES, float(v)) for v in rng.chisquare(3, 5)] for _ in range(200)]
    clean = training_moments(runs)
    for name in MEASURES:
        runs[7][2] = dict.fromkeys(MEASURES, 1e6)
        mean, variance = np.array(training_moments(runs)[name]).T
        assert len(mean) == 5
        np.testing.assert_allclose(mean, np.array(clean[name])[:, 0], rtol=0.05)
        assert np.all((mean > 2.3) & (mean < 3.1) & (variance < 6))


def test_a_run_stands_out_by_its_most_unusual_measure() -> None:
    moments = dict.fromkeys(MEASURES, ((3.0, 6.0),))
    typical = dict.fromkeys(MEASURES, 3.0)
    assert p_value(typical, moments, 1) == 1.0
    for name in MEASURES:
        # The 0.5 % point of chi-square with three degrees.
        assert p_value(typical | {name: 12.838}, moments, 1) == pytest.approx(len(MEASURES) * 0.005, rel=0.01)


def test_every_measure_is_taken(posterior: PosteriorArtefact) -> None:
    assert posterior.usual.keys() == MEASURES.keys()
