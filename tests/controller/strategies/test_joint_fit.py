"""The strategy: what it gains on one same region, and what it does when the region changes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controller.base import Controller, build
from controller.film import fit as film_fit
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
    controller = build(name, Optics(), FIRST_ORDER, options)
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


@pytest.mark.parametrize(("old", "kept"), [(0.6, 0.95), (0.85, 0.85)])
def test_a_fit_of_poor_agreement_competes_with_fresh_ones(
    old: float, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two fresh fits at the third frame, for either sign; at the fourth the old one, then fresh ones of 0.95.
    scores = iter([0.9, 0.9, old, *[0.95] * 3])
    monkeypatch.setattr(film_fit, "agreement", lambda *_: (next(scores), 0.01))
    monkeypatch.setattr(film_fit, "refine", lambda model, fit, *_: replace(fit, misfit=1.0))
    monkeypatch.setattr(film_fit, "covariance", lambda *_: np.eye(3))
    microscope = SimulatedMicroscope(Optics(), FIRST_ORDER, Day(), "fast")
    microscope.reset(np.random.default_rng(4))
    controller: Any = build("joint_fit", Optics(), FIRST_ORDER, {"start": "random", "start_frames": 3})
    for _ in range(4):
        controller.update(FIRST_ORDER.zero, microscope.acquire())
    assert controller.agreement == kept


def test_chance_agreement_within_the_shot_noise_is_not_accepted() -> None:
    # 12 frames of other regions, of 1e4 electrons: a quarter agrees by more than `agreement`, none by 5 deviations.
    bright, faint = (SimulatedMicroscope(Optics(), FIRST_ORDER, Day(dose_e=dose), "fast") for dose in (1e6, 1e4))
    for microscope in (bright, faint):
        microscope.reset(np.random.default_rng(3))
        microscope.apply(-bright.truth().initial_nm)
    controller: Any = build("joint_fit", Optics(), FIRST_ORDER, {"start": "random"})
    model, null = controller.coarse, -bright.truth().initial_nm
    exposures = [film_fit.exposure(bright.acquire(), null)]
    fit = film_fit.refine(model, film_fit.start(model, -null, exposures), film_fit.stack(exposures), 12)
    assert controller.tested(model, fit, exposures[0]) != []
    unseen = [film_fit.exposure(faint.acquire(), null) for _ in range(12)]
    assert max(film_fit.agreement(model, fit, film_fit.stack([exposure]))[0] for exposure in unseen) > 0.5
    assert [controller.tested(model, fit, exposure) for exposure in unseen] == [[]] * 12


def test_it_cannot_start_itself() -> None:
    with pytest.raises(OptionError, match="must be another controller"):
        build("joint_fit", Optics(), FIRST_ORDER, {"start": "joint_fit"})
