"""Runs in bulk: exact records, one microscope at a time, the same figures wherever they are made."""

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scenarios.comparison.sweep
from scenarios.calibration.results import Step
from scenarios.choices import split_list
from scenarios.comparison.executors import InThisProcess, SweepError, dask_cluster, processes
from scenarios.comparison.sweep import (
    Bench,
    Failure,
    Job,
    Queue,
    RunRecord,
    digest,
    microscope_key,
    resolve,
    run,
    spread,
    sweep,
)

HERE = [InThisProcess()]


@pytest.fixture
def job(small_overrides: tuple[str, ...]) -> Callable[..., Job]:
    def make(seed: int = 0, scenario: str = "nominal", controller: str = "random", *more: str) -> Job:
        return Job(scenario, controller, seed, 2, (*small_overrides, *more))

    return make


def untimed(record: RunRecord | Failure) -> RunRecord:
    """What does not depend on the machine."""
    assert isinstance(record, RunRecord), record
    return replace(record, steps=tuple(replace(step, seconds=0.0) for step in record.steps))


def by_identity(records: list[RunRecord | Failure]) -> list[RunRecord]:
    return sorted(map(untimed, records), key=lambda r: (r.scenario, r.controller, r.seed))


FLOATS = st.floats(allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(FLOATS, min_size=3, max_size=3), FLOATS)
def test_a_record_comes_back_from_json_bit_for_bit(vector: list[float], value: float) -> None:
    v = tuple(vector)
    step = Step(1, v, v, v, v, value, v, value, True, False, True, value, value, value)
    record = RunRecord("day_a", "vae_em:hard=true", 3, v, (step, step), "digest")
    again = RunRecord.from_json(record.to_json())
    assert repr(again) == repr(record)  # -0.0 and 0.0 are equal but not the same


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"steps": [{}]}', '{"scenario": "day_a", "steps": []}'])
def test_what_is_not_a_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the record of a run"):
        RunRecord.from_json(text)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4), st.data())
def test_every_item_is_taken_once_and_in_order_within_its_group(
    groups: list[int], lanes: int, data: st.DataObject
) -> None:
    queue = Queue(list(enumerate(groups)), lambda item: item[1])
    taken = []
    while (item := queue.take(data.draw(st.integers(0, lanes - 1)))) is not None:
        taken.append(item)
    assert sorted(taken) == list(enumerate(groups))
    for group in set(groups):
        own = [item for item in taken if item[1] == group]
        assert own == sorted(own)


def test_lanes_keep_apart_until_one_has_nothing_left_of_its_own() -> None:
    queue = Queue(["a1", "a2", "b1", "b2", "b3", "c1"], lambda item: item[0])
    assert [queue.take(0), queue.take(1), queue.take(0), queue.take(1)] == ["a1", "b1", "a2", "b2"]
    assert [queue.take(0), queue.take(0), queue.take(0)] == ["c1", "b3", None]


def test_controllers_on_one_day_share_its_microscope(job: Callable[..., Job]) -> None:
    bench = Bench()
    first = bench.session(resolve(job()), "random")
    hard = bench.session(resolve(job(0, "nominal", "random", "task.observations=1")), "random")
    assert hard is not first
    assert hard.bench is first.bench
    assert bench.session(resolve(job(5)), "random") is first
    assert bench.session(resolve(job(0, "day_b")), "random").bench is not first.bench
    assert bench.session(resolve(job()), "random") is not first  # one film at a time


def test_a_run_does_not_depend_on_the_runs_before_it(job: Callable[..., Job]) -> None:
    alone = untimed(run(job(7)))
    for other in (job(8), job(7, "day_b"), job(9)):
        run(other)
    assert untimed(run(job(7))) == alone
    assert untimed(run(job(8))) != alone


def test_the_day_of_a_random_scenario_depends_on_the_seed_alone(job: Callable[..., Job]) -> None:
    def key(seed: int, controller: str = "random") -> str:
        return microscope_key(resolve(job(seed, "random_1", controller)))

    assert key(1) == key(1, "vae_em:hard=true") != key(2)


def test_the_digest_knows_this_controllers_options_and_no_others(job: Callable[..., Job]) -> None:
    def of(controller: str, *more: str) -> str:
        asked = job(0, "nominal", controller, *more)
        return digest(resolve(asked), controller)

    assert of("vae_em") != of("vae_em:hard=true") == of("vae_em", "controllers.vae_em.hard=true")
    assert of("random") == of("random", "controllers.vae_em.hard=true")
    assert of("random") != of("random", "day.dose_e=3e5")


def test_commas_within_brackets_separate_nothing() -> None:
    assert split_list("a=[1,2], b={x: 1, y: 2},,c") == ["a=[1,2]", "b={x: 1, y: 2}", "c"]


def test_a_run_that_raises_does_not_stop_the_others(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(asked: Job) -> RunRecord:
        if asked.seed == 1:
            raise ArithmeticError("seed one")
        return run(asked)

    monkeypatch.setattr(scenarios.comparison.sweep, "run", fragile)
    outcomes = list(sweep([job(0), job(1), job(2)], HERE))
    assert [type(outcome) for outcome in outcomes] == [RunRecord, Failure, RunRecord]
    assert outcomes[1] == Failure(job(1), "ArithmeticError: seed one")


def die(job: Job) -> None:
    os._exit(3)


@pytest.fixture
def mixed(job: Callable[..., Job]) -> list[Job]:
    """Two days, and a controller that reads its frames."""
    jobs = [job(seed, scenario) for scenario in ("nominal", "day_b") for seed in (0, 1)]
    return [*jobs, Job("day_b", "vae_em:candidates=64", 3, 3, ("renderer=fast",))]


def test_processes_give_the_same_figures_and_a_dead_one_is_reported(mixed: list[Job]) -> None:
    expected = by_identity(list(sweep(mixed, HERE)))
    with processes(2) as lanes:
        assert by_identity(list(sweep(mixed, lanes))) == expected
        with pytest.raises(SweepError, match=r"a worker died .* during nominal, random, seed 0"):
            list(spread(die, mixed[:1], lanes))


def test_a_dask_cluster_gives_the_same_figures(mixed: list[Job]) -> None:
    distributed = pytest.importorskip("distributed")
    expected = by_identity(list(sweep(mixed, HERE)))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", scheduler_port=0
        ) as cluster,
        dask_cluster(cluster.scheduler_address) as lanes,
    ):
        assert len(lanes) == 1
        assert by_identity(list(sweep(mixed, lanes))) == expected


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("scenarios.comparison.executors.CONNECT_S", 0.5)
    with pytest.raises(SweepError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        enter(dask_cluster("tcp://127.0.0.1:9"))


def enter(lanes: object) -> list[Executor]:
    with lanes as ready:  # type: ignore[attr-defined]
        return list(ready)
