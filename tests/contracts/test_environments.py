"""What every registered environment keeps: both libraries' checkers, seeds, bounds, vectors, pictures.

Finds the environments by their ids; a new registration is tested the day it is made.
"""

import hashlib
import json
import os
import subprocess
import sys
import warnings
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_with_gymnasium
from gymnasium.utils.env_checker import data_equivalence
from stable_baselines3.common.env_checker import check_env as check_with_stable_baselines

import twin  # noqa: F401  (registers the environments)
from twin.types import Frame, HasTruth

IDS = sorted(name for name in gymnasium.registry if name.startswith("stemtwin/"))

DIGEST = """
import hashlib, sys
import gymnasium, numpy as np
import twin

def seen(info):
    # What a detector or camera gave, before any scaling.
    return info["frame"].counts if "frame" in info else np.stack(list(info["counts"].values()))

def digest(name, seed):
    env = gymnasium.make(name)
    total = hashlib.sha256()
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(3):
        total.update(observation.tobytes() + seen(info).tobytes() + info["cumulative_nm"].tobytes())
        observation, reward, _, _, info = env.step(env.action_space.sample())
        total.update(np.float64(reward).tobytes())
    return total.hexdigest()
"""


def local_digest(name: str, seed: int) -> str:
    scope: dict[str, Any] = {"hashlib": hashlib}
    exec(DIGEST, scope)
    return str(scope["digest"](name, seed))


def test_there_are_environments() -> None:
    assert {
        "stemtwin/Calibration-v0",
        "stemtwin/Calibration7D-v0",
        "stemtwin/CalibrationSurrogate-v0",
        "stemtwin/Scan4D-v0",
    } <= set(IDS)


@pytest.mark.parametrize("name", IDS)
def test_gymnasiums_checker_has_nothing_to_say(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_with_gymnasium(gymnasium.make(name).unwrapped)


@pytest.mark.parametrize("name", IDS)
def test_stable_baselines_checker_has_nothing_to_say(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_with_stable_baselines(gymnasium.make(name, render_mode="rgb_array"), skip_render_check=False)


@pytest.mark.parametrize("name", IDS)
def test_spaces_are_bounded(name: str) -> None:
    env = gymnasium.make(name)
    for space in (env.observation_space, env.action_space):
        assert isinstance(space, gymnasium.spaces.Box)
        assert space.is_bounded()
        assert np.all(space.low < space.high)


@pytest.mark.parametrize("name", IDS)
def test_an_episode_is_bounded_in_time_and_stays_in_its_spaces(name: str) -> None:
    limit = gymnasium.spec(name).max_episode_steps
    assert limit is not None
    env = gymnasium.make(name, max_episode_steps=4)
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    for k in range(1, 5):
        assert observation in env.observation_space
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert np.isfinite(reward)
        assert not terminated
        assert truncated == (k == 4)


@pytest.mark.parametrize("name", IDS)
def test_cost_only_grows(name: str) -> None:
    env = gymnasium.make(name)
    _, info = env.reset(seed=0)
    costs = [(info["dose_e"], info["simulated_s"])]
    for _ in range(3):
        *_, info = env.step(np.zeros(env.action_space.shape or (), np.float32))
        costs.append((info["dose_e"], info["simulated_s"]))
    assert costs[0] > (0.0, 0.0)
    assert all(b[0] > a[0] and b[1] > a[1] for a, b in pairwise(costs))


@pytest.mark.parametrize("name", IDS)
def test_nothing_a_controller_receives_holds_the_truth(name: str) -> None:
    env = gymnasium.make(name)
    _, first = env.reset(seed=1)
    *_, second = env.step(env.action_space.sample())
    microscope = env.unwrapped.microscope  # type: ignore[attr-defined]
    assert isinstance(microscope, HasTruth)
    hidden = np.concatenate([microscope.truth().state_nm, microscope.truth().initial_nm])
    for info in (first, second):
        for value in _numbers(info):
            assert not np.any(np.isclose(value, hidden, rtol=1e-9, atol=0.0))


def _of_one(values: Any, i: int) -> Any:
    """Environment i's part of a vector environment's info, in plain numbers; without gymnasium's masks."""
    if isinstance(values, dict):
        return {key: _of_one(value, i) for key, value in values.items() if not key.startswith("_")}
    return values[i].item() if isinstance(values[i], np.generic) else values[i]


def _numbers(info: dict[str, Any]) -> list[float]:
    found: list[float] = []
    for value in info.values():
        if isinstance(value, dict):
            found += _numbers(value)
        elif isinstance(value, Frame):
            found += [value.dose_e, value.exposure_s, value.clock_s, *value.settings.values()]
        else:
            found += np.ravel(np.asarray(value, dtype=np.float64)).tolist()
    return found


@pytest.fixture(scope="module")
def digests_elsewhere() -> dict[str, str]:
    """By environment, of a process that starts from nothing, with one thread however many this one has."""
    code = DIGEST + f"import json; print(json.dumps({{name: digest(name, 7) for name in {IDS}}}))"
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=alone)
    return dict(json.loads(run.stdout))


@pytest.mark.parametrize("name", IDS)
def test_same_seed_same_bytes_in_another_process(name: str, digests_elsewhere: dict[str, str]) -> None:
    assert digests_elsewhere[name] == local_digest(name, 7)
    assert local_digest(name, 7) != local_digest(name, 8)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("mode", ["sync", "async"])
# From Python 3.12 on, fork warns wherever threads exist; gymnasium forks by default on Linux.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_vector_environments_repeat_the_single_one(name: str, mode: str) -> None:
    single = gymnasium.make(name)
    action = np.full(single.action_space.shape or (), 0.1, np.float32)
    vector = gymnasium.make_vec(name, num_envs=2, vectorization_mode=mode)
    try:
        observations, _ = vector.reset(seed=[3, 4])
        stepped, rewards, _, _, infos = vector.step(np.stack([action, action]))
        for i, seed in enumerate((3, 4)):
            observation, _ = single.reset(seed=seed)
            assert np.array_equal(observations[i], observation)
            observation, reward, _, _, info = single.step(action)
            assert np.array_equal(stepped[i], observation)
            assert rewards[i] == reward
            for key in info:
                assert data_equivalence(_of_one(infos[key], i), info[key], exact=True), key
            if "frame" in info:
                assert not infos["frame"][i].counts.flags.writeable
    finally:
        vector.close()


@pytest.mark.parametrize("name", IDS)
def test_rgb_array_is_a_picture_of_the_present(name: str) -> None:
    env = gymnasium.make(name, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(env.action_space.sample())
    after = env.render()
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    assert before.dtype == np.uint8
    assert before.ndim == 3
    assert before.shape[2] == 3
    assert before.shape == after.shape
    assert before.std() > 20  # not an empty page
    assert np.any(before != after)
    env.close()
