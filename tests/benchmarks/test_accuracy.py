"""The figures that the accuracy benchmark makes of its runs."""

import numpy as np

from benchmarks.accuracy import Job, Outcome, run, summarise, sweep


def test_the_table_counts_runs_by_observation() -> None:
    job = Job("nominal", "random", 0, 2, ())
    one = Outcome(job, np.array([4.0, 1.0]), np.array([True, True]), np.array([False, True]), np.array([0.1, 0.2]))
    two = Outcome(job, np.array([8.0, 3.0]), np.array([False, True]), np.array([False, False]), np.array([0.3, 0.2]))
    table = summarise([one, two])
    assert table["1"]["median_error_nm"] == 6.0
    assert table["1"]["in_spec"] == 0.5
    assert table["2"]["coverage_90"] == 0.5
    assert table["2"]["seconds_per_step"] == 0.2


def test_a_run_repeats_and_a_sweep_keeps_its_order() -> None:
    jobs = [Job("nominal", "random", seed, 2, ("day.film.thickness_nm=2",)) for seed in (3, 1)]
    outcomes = list(sweep(jobs, workers=1))
    assert [outcome.job.seed for outcome in outcomes] == [3, 1]
    assert np.array_equal(run(jobs[0]).error_nm, outcomes[0].error_nm)
