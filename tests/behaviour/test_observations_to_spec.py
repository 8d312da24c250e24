"""`observations_to_spec`: the first observation from which on a run stays in spec, run by run."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from scenarios.calibration.results import Step, Vector
from scenarios.comparison.figures import Run, figures
from scenarios.schema import load


@dataclass(frozen=True)
class Record:
    seed: int
    truth_nm: Vector
    steps: tuple[Step, ...]


def run(in_spec: Sequence[bool]) -> Run:
    """A run whose first coefficient is off by 1 nm where it is in spec, else by 20 nm."""
    errors = [(1.0 if good else 20.0, 0.0, 0.0) for good in in_spec]
    steps = tuple(
        Step(
            observation=k,
            input_nm=(0.0,) * 3,
            cumulative_nm=(0.0,) * 3,
            estimate_nm=(0.0,) * 3,
            std_nm=(1.0,) * 3,
            sign_probability=1.0,
            error_component_nm=error,
            error_nm=error[0],
            in_spec=error[0] < 10.0,
            covers_50=True,
            covers_90=True,
            seconds=0.0,
            dose_e=1e6 * k,
            simulated_s=2.0 * k,
        )
        for k, error in enumerate(errors, start=1)
    )
    return Run(Record(0, errors[0], steps), load("day_a"), len(steps))


@pytest.mark.parametrize(
    ("in_spec", "expected"),
    [
        ([True, False, True, True], 3),  # in spec, out again, then for good
        ([False, True, True, True], 2),
        ([True, True, True, True], 1),
        ([False, False, False, True], 4),
        ([True, True, True, False], None),  # it ends out of spec
    ],
)
def test_a_run_is_in_spec_from_when_on_it_stays_there(in_spec: list[bool], expected: int | None) -> None:
    found = figures([run(in_spec)])
    assert found["observations_to_spec"] == expected
    assert found["simulated_s_to_spec"] == (None if expected is None else 2.0 * expected)
    assert found["dose_e_to_spec"] == (None if expected is None else 1e6 * expected)
