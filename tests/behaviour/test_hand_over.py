"""A day outside the training distribution: `neural_posterior` finds it out, `neural_posterior_em` hands over.

After the hand-over the covariance is joint estimation's, times `widening`: two runs of different `widening` are the
same up to there, and from then on differ in their standard deviations alone.
"""

from collections.abc import Callable

import numpy as np

from scenarios.calibration.results import Result

Calibrated = Callable[..., Result]


def widened(calibrated: Calibrated, name: str, observations: int, seed: int) -> tuple[Result, list[float]]:
    """The run with default settings, and by which factor four times the `widening` widens the regions, by frame."""
    usual, wide = (
        calibrated(name, "neural_posterior_em", observations, seed, *setting)
        for setting in ((), ("controllers.neural_posterior_em.widening=8",))
    )
    assert [step.estimate_nm for step in wide.steps] == [step.estimate_nm for step in usual.steps]
    ratios = [np.divide(w.std_nm, u.std_nm) for w, u in zip(wide.steps, usual.steps, strict=True)]
    return usual, [float(np.round(ratio.mean(), 9)) for ratio in ratios]


def test_a_day_outside_the_training_distribution_is_handed_over(calibrated: Calibrated) -> None:
    usual, factors = widened(calibrated, "random_2", 7, 1)
    assert factors == [1, 1] + [2] * 5
    assert [step.misfit for step in usual.steps] == [False, False] + [True] * 5
    assert all(step.in_spec for step in usual.steps[2:])
    assert usual.steps[-1].done


def test_a_day_like_the_training_days_is_not(calibrated: Calibrated) -> None:
    usual, factors = widened(calibrated, "day_a", 6, 0)
    assert factors == [1] * 6
    assert not any(step.misfit for step in usual.steps)
    assert usual.steps[-1].done


def test_a_misfit_stays_and_forbids_to_stop(calibrated: Calibrated) -> None:
    """At this level the third frame is a misfit; the fifth brings the statistic back to where training days lie."""
    settings = ("controllers.neural_posterior.misfit_level=0.1", "controllers.neural_posterior.candidates=64")
    steps = calibrated("random_2", "neural_posterior", 8, 3, *settings).steps
    assert [step.misfit for step in steps] == [False, False] + [True] * 6
    assert not any(step.done for step in steps)
