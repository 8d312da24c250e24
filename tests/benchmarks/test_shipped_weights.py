"""The shipped weights still calibrate: a few seeded runs on films and days that no training saw."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import Job, Outcome, run
from controller.artefact import SHIPPED, load

SEEDS = range(5)


def outcomes(scenario: str, controller: str, observations: int, *overrides: str) -> list[Outcome]:
    return [run(Job(scenario, controller, seed, observations, overrides)) for seed in SEEDS]


def test_vae_em_is_in_spec_by_multislice_after_six_frames() -> None:
    found = outcomes("day_a", "vae_em", 6)
    assert all(o.in_spec[-1] for o in found)
    assert np.median([o.error_nm[-1] for o in found]) < 2.0


def test_joint_estimation_beats_the_known_map_on_a_strong_gap() -> None:
    fast = "renderer=fast"
    joint = outcomes("day_b", "vae_em", 8, fast)
    fixed = outcomes("day_b", "vae_em:model_estimation=false", 8, fast)
    assert np.median([o.error_nm[-1] for o in joint]) < np.median([o.error_nm[-1] for o in fixed])
    assert sum(o.in_spec[-1] for o in joint) >= 4


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda p: p.stem)
def test_weights_are_small_and_say_where_they_come_from(path: Path) -> None:
    assert path.stat().st_size < 5_000_000
    provenance = load(path).provenance
    assert {"training", "ranges", "held_out_elbo_nats", "seconds", "versions"} <= set(provenance)
