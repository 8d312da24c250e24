"""The shipped weights still calibrate: a few seeded runs on films and days that no training saw."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from controller.vae_em.artefact import FORMAT, load
from controller.weights import SHIPPED
from scenarios.calibration.results import Step
from scenarios.comparison.sweep import Job, run

SEEDS = range(5)


def last_steps(scenario: str, controller: str, observations: int, *overrides: str) -> list[Step]:
    return [run(Job(scenario, controller, seed, observations, overrides)).steps[-1] for seed in SEEDS]


def test_vae_em_is_in_spec_by_multislice_after_six_frames() -> None:
    found = last_steps("day_a", "vae_em", 6)
    assert all(step.in_spec for step in found)
    assert np.median([step.error_nm for step in found]) < 2.0


def test_joint_estimation_beats_the_known_map_on_a_strong_gap() -> None:
    fast = "renderer=fast"
    joint = last_steps("day_b", "vae_em", 8, fast)
    fixed = last_steps("day_b", "vae_em:model_estimation=false", 8, fast)
    assert np.median([step.error_nm for step in joint]) < np.median([step.error_nm for step in fixed])
    assert sum(step.in_spec for step in joint) >= 4


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.safetensors")), ids=lambda p: p.stem)
def test_weights_are_small_and_say_where_they_come_from(path: Path) -> None:
    assert path.stat().st_size < 5_000_000
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert {"format", "optics"} <= metadata.keys()
    assert {"names", "space"} & metadata.keys()
    provenance = json.loads(metadata["provenance"])
    assert {"training", "versions"} <= provenance.keys()
    assert "ranges" in provenance or path.stem == "ppo"  # trained on what another network makes of the frames
    if metadata["format"] == FORMAT:
        assert {"held_out_elbo_nats", "seconds"} <= load(path).provenance.keys()
