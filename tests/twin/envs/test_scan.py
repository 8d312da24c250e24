"""The scan environment: it shows what the detectors gave, where and when; inputs act on the rows that follow."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest

import twin  # noqa: F401  (registers the environments)
from twin.cameras.properties import CountingCamera, EventCamera
from twin.day import Day, ScanProperties
from twin.detectors.scintillator import ScintillatorChain
from twin.envs.scan import SCAN_SPACE, SMALL_PLAN, SMALL_SETUP, ScanEnv, shares
from twin.optics import AliasingError, Optics
from twin.scan.plan import ScanPlan
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER

COHERENT = Day(focal_spread_nm=0.0, source_size_nm=0.0)
PLAN = ScanPlan(rows=6, columns=5, step_nm=0.05, dwell_s=1e-4, flyback_s=1e-3, dose_e=1e4)


def tiny(**changes: Any) -> ScanEnv:
    return ScanEnv(**{"plan": PLAN, "rows_per_step": 2, **changes})


def whole(env: ScanEnv, seed: int = 0, action: float = 0.0) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The image of every detector, (D, rows, columns), and all infos of an episode."""
    _, info = env.reset(seed=seed)
    infos, over = [info], False
    while not over:
        _, _, over, _, info = env.step(np.full(3, action, np.float32))
        infos.append(info)
    return np.concatenate([i["images"] for i in infos], axis=1), infos


def test_observation_is_the_images_flattened_detector_first_then_row() -> None:
    env = tiny()
    observation, info = env.reset(seed=3)
    assert env.detectors == ("bf", "abf", "adf")
    assert observation.shape == (3 * 2 * 5,)
    assert observation.dtype == np.float32
    assert observation[(2 * 2 + 1) * 5 + 3] == info["images"][2, 1, 3]
    assert np.array_equal(observation.reshape(3, 2, 5), info["images"])


def test_the_images_are_the_microscopes_own_scan() -> None:
    env = tiny()
    images, _ = whole(env, seed=5)
    microscope = SimulatedMicroscope(Optics(), SCAN_SPACE, COHERENT, scan=SMALL_SETUP)
    generator = gymnasium.utils.seeding.np_random(5)[0]
    microscope.reset(generator)
    (block,) = microscope.scan(PLAN, block=PLAN.count)
    for d, name in enumerate(env.detectors):
        assert np.array_equal(images[d], np.float32(block.signals[name].reshape(6, 5) / 1e4))


def test_a_serpentine_scan_shows_the_same_places_as_a_raster() -> None:
    bright = replace(PLAN, dose_e=1e12)
    raster, _ = whole(tiny(plan=bright))
    serpentine, infos = whole(tiny(plan=replace(bright, pattern="serpentine")))
    assert np.abs(raster - serpentine).max() < 1e-5
    assert [info["first_row"] for info in infos] == [0, 2, 4]
    assert np.abs(raster - raster[..., ::-1]).max() > 1e-4  # there is something to mix up


def test_an_input_acts_on_the_rows_that_follow_and_on_no_others() -> None:
    bright = replace(PLAN, dose_e=1e12)
    still, _ = whole(tiny(plan=bright), seed=2)
    env = tiny(plan=bright)
    env.reset(seed=2)
    start = env.microscope.truth().state_nm  # type: ignore[attr-defined]
    _, reward, _, _, info = env.step(np.array([0.1, 0.0, 0.0], np.float32))
    assert info["applied_nm"] == pytest.approx([3.0, 0.0, 0.0])
    moved = env.microscope.truth().state_nm  # type: ignore[attr-defined]
    assert moved - start == pytest.approx([3.0, 0.0, 0.0], abs=1e-6)
    assert reward == pytest.approx(-np.max(np.abs(moved) / 2.5))
    assert np.abs(info["images"] - still[:, 2:4]).max() > 1e-3
    again, _ = whole(tiny(plan=bright), seed=2)
    assert np.array_equal(again, still)


def test_a_step_after_the_end_or_before_reset_is_refused() -> None:
    env = tiny()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(3, np.float32))
    _, infos = whole(env)
    assert len(infos) == 3
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(3, np.float32))


def test_clock_and_dose_are_the_plans() -> None:
    _, infos = whole(tiny())
    # Two rows of five dwells each step; a flyback before every row but the first.
    assert [info["simulated_s"] for info in infos] == pytest.approx(
        [2 * n * 5e-4 + (2 * n - 1) * 1e-3 for n in (1, 2, 3)]
    )
    assert [info["dose_e"] for info in infos] == [1e5, 2e5, 3e5]


def test_the_cumulative_input_stays_in_its_box() -> None:
    env = tiny()
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.ones(3, np.float32))
    assert info["clipped"]
    assert info["cumulative_nm"] == pytest.approx(SCAN_SPACE.input)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        env.step(np.zeros(2, np.float32))


def test_frames_come_in_image_order_too() -> None:
    setup = replace(SMALL_SETUP, camera=CountingCamera(bit_depth=24), detectors={"bf": None})
    plan = replace(PLAN, pattern="serpentine", dose_e=1e9)
    env = tiny(setup=setup, plan=plan)
    _, info = env.reset(seed=0)
    assert info["frames"].shape == (2, 5, 64, 64)
    # The bright-field disc is the camera's inner part.
    y, x = np.mgrid[:64, :64] - 32.0
    pixel = setup.optics.camera_pixel_mrad
    inside = np.hypot(x, y) * pixel < 20.0
    from_camera = info["frames"][..., inside].sum(-1) / plan.dose_e
    assert np.corrcoef(from_camera.ravel(), info["images"][0].ravel())[0, 1] > 0.95


def test_shares_take_the_chains_offset_and_gain_off() -> None:
    chain = ScintillatorChain(offset=200.0, counts_per_electron=50.0)
    setup = replace(SMALL_SETUP, chain=chain)
    counts = np.array([200, 200 + 50 * 5000, 200 + 50 * 10_000, 10**7], np.uint32)
    assert shares(counts, setup, PLAN).tolist() == [0.0, 0.5, 1.0, 2.0]
    assert shares(np.array([5000]), SMALL_SETUP, PLAN).tolist() == [0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows_per_step": 4}, "rows_per_step 4 does not divide 6 rows; the nearest that does is 3"),
        ({"rows_per_step": 6}, "whole scan"),
        ({"plan": ScanPlan(pattern="list", positions_nm=((0.0, 0.0),))}, "raster or serpentine"),
        ({"setup": replace(SMALL_SETUP, detectors={}, camera=CountingCamera())}, "needs detectors"),
        ({"render_mode": "human"}, "not a render mode"),
    ],
)
def test_bad_arguments_name_what_would_do(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_a_state_space_that_the_window_cannot_hold_is_refused_at_once() -> None:
    with pytest.raises(AliasingError, match="window"):
        tiny(space=FIRST_ORDER)


def test_a_microscope_is_taken_as_it_is() -> None:
    blind = SimulatedMicroscope(Optics(), SCAN_SPACE, COHERENT)
    with pytest.raises(ValueError, match="not set up for scans"):
        tiny(microscope=blind)
    shaky = Day(focal_spread_nm=0.0, source_size_nm=0.0, scan=ScanProperties(jitter_x_nm=0.1))
    mine = SimulatedMicroscope(Optics(), SCAN_SPACE, shaky, scan=SMALL_SETUP)
    with pytest.raises(ValueError, match="not both"):
        tiny(microscope=mine, day=shaky)
    env = tiny(microscope=mine)
    assert env.microscope is mine
    assert not np.allclose(whole(env)[0], whole(tiny())[0], atol=1e-2)


def test_correcting_the_state_raises_reward_and_contrast() -> None:
    bright = replace(SMALL_PLAN, rows=20, columns=20, dose_e=1e8)
    env = ScanEnv(plan=bright, rows_per_step=10)
    env.reset(seed=4)
    start = env.microscope.truth().initial_nm  # type: ignore[attr-defined]
    _, left, _, _, blurred = env.step(np.zeros(3, np.float32))
    env.reset(seed=4)
    _, corrected, _, _, sharp = env.step((-start / (2 * SCAN_SPACE.input)).astype(np.float32))
    assert corrected > -1e-3 > left
    adf = env.detectors.index("adf")
    assert sharp["images"][adf].std() > 1.5 * blurred["images"][adf].std()


def test_an_event_camera_s_events_come_with_their_rows() -> None:
    env = tiny(setup=replace(SMALL_SETUP, camera=EventCamera()))
    _, infos = whole(env, seed=2)
    microscope = SimulatedMicroscope(Optics(), SCAN_SPACE, COHERENT, scan=env.setup)
    microscope.reset(gymnasium.utils.seeding.np_random(2)[0])
    (block,) = microscope.scan(PLAN, block=PLAN.count)
    assert block.events is not None
    assert len(block.events) > 1000
    assert np.concatenate([info["events"] for info in infos]).tobytes() == block.events.tobytes()
    assert all("frames" not in info for info in infos)


def test_rewards_are_not_affected_by_what_is_seen() -> None:
    env = tiny()
    _, infos = whole(env)
    assert all(b["simulated_s"] > a["simulated_s"] for a, b in pairwise(infos))
    assert all("truth" not in key for info in infos for key in info)
