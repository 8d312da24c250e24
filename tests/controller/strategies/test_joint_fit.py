"""The strategy: what it gains on one same region, and what it does when the region changes."""

import numpy as np
import pytest

from controller.base import Controller, load
from twin.day import Day
from twin.optics import Optics
from twin.options import OptionError
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER

CHEAP = {"work": 60, "attempts": 1}


def after(name: str, day: Day, frames: int, options: dict[str, float] | None = None) -> tuple[Controller, float]:
    """A controller after so many frames of seed 2, and the norm of its error, nm."""
    microscope = SimulatedMicroscope(Optics(), FIRST_ORDER, day, "fast")
    microscope.reset(np.random.default_rng(2))
    controller = load(name, Optics(), FIRST_ORDER, options)
    controller.reset(FIRST_ORDER, np.random.default_rng(2))
    for k in range(frames):
        delta = controller.propose() if k else FIRST_ORDER.zero
        microscope.apply(delta)
        controller.update(delta, microscope.acquire())
    return controller, float(np.linalg.norm(microscope.truth().initial_nm - controller.estimate().mean_nm))


def test_on_one_region_it_is_far_better_than_what_it_starts_from() -> None:
    controller, error = after("joint_fit", Day(same_region=True), 6, CHEAP)
    assert controller.fit is not None  # type: ignore[attr-defined]
    _, starting = after("vae_em", Day(same_region=True), 6)
    assert error < 0.6
    assert error < starting
    assert controller.estimate().std_nm.max() < 2.0


def test_on_fresh_regions_it_says_so_and_leaves_the_estimate_to_the_other() -> None:
    controller, _ = after("joint_fit", Day(), 5, CHEAP)
    assert controller.fit is None  # type: ignore[attr-defined]
    assert controller.failures == 1  # type: ignore[attr-defined]
    # To the last bit what the starting controller would have said alone: inputs and estimates are its own.
    alone, _ = after("vae_em", Day(), 5)
    assert np.array_equal(controller.estimate().mean_nm, alone.estimate().mean_nm)
    assert np.array_equal(controller.estimate().cov_nm2, alone.estimate().cov_nm2)


def test_a_stage_that_moves_ends_the_fit() -> None:
    controller, _ = after("joint_fit", Day(same_region=True), 5, CHEAP)
    assert controller.fit is not None  # type: ignore[attr-defined]
    elsewhere = SimulatedMicroscope(Optics(), FIRST_ORDER, Day(same_region=True), "fast")
    elsewhere.reset(np.random.default_rng(77))
    controller.update(controller.propose(), elsewhere.acquire())
    assert controller.fit is None  # type: ignore[attr-defined]


def test_it_cannot_start_itself() -> None:
    with pytest.raises(OptionError, match="must be another controller"):
        load("joint_fit", Optics(), FIRST_ORDER, {"start": "joint_fit"})
