"""The flagship's decisions: when it stops, when it calls a day out of distribution, when it searches again."""

import math
from dataclasses import replace

import numpy as np
import pytest

from controller.base import Estimate
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.frames import FramePosteriors, deviance
from controller.posterior.likelihood import likelihood
from controller.posterior.misfit import MEASURES, p_value
from controller.posterior.particle_filter import ParticleFilter, Particles
from controller.strategies import neural_posterior
from controller.strategies.neural_posterior import SEARCHED, NeuralPosterior, Options
from twin.options import checked_options
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.types import Frame


def frame(seed: int) -> Frame:
    counts = np.random.default_rng(seed).poisson(90, (64, 64)).astype(np.uint16)
    return Frame(counts, 1e6, 0.5, float(seed), {"dark_level": 0.0})


def run(
    posterior: PosteriorArtefact, frames: int, space: StateSpace = FIRST_ORDER, **options: object
) -> NeuralPosterior:
    controller = NeuralPosterior(space, posterior, checked_options(Options, {"candidates": 64, **options}))
    controller.reset(space, np.random.default_rng(1))
    for k in range(frames):
        controller.update(controller.propose(), frame(k))
    return controller


def on_strange_days(posterior: PosteriorArtefact) -> PosteriorArtefact:
    """Weights to which every run looks out of distribution: training runs had next to no deviance."""
    return replace(posterior, usual=dict.fromkeys(MEASURES, ((1e-9, 1e-18), (2e-9, 2e-18))))


def sure(controller: NeuralPosterior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every estimate one of a hundredth of a nm."""
    exact = Estimate(np.zeros(3), np.eye(3) * 1e-4)
    monkeypatch.setattr(controller, "estimate", lambda: replace(exact, misfit=controller.misfit))


def test_a_run_never_stops_before_the_third_frame(
    posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two frames the mirror image may be as probable as the truth, however narrow both are."""
    plain = replace(posterior, usual={})
    for frames, stops in ((0, False), (1, False), (2, False), (3, True), (4, True)):
        controller = run(plain, frames)
        sure(controller, monkeypatch)
        assert controller.done == stops


def test_a_day_is_called_out_of_distribution_from_the_third_frame_on_and_never_stops(
    posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = on_strange_days(posterior)
    assert [run(strange, frames).misfit for frames in (1, 2, 3, 4)] == [False, False, True, True]
    controller = run(strange, 5)
    sure(controller, monkeypatch)
    assert not controller.done


def test_once_out_of_distribution_always(posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = run(posterior, 2)
    # Before and after the first restart; before and after the second, which explains the day; then as common as can be.
    values = iter([1e-6, 1e-6, 1e-6, 1.0, *[1.0] * 20])
    monkeypatch.setattr(controller, "p_value", lambda: next(values))
    for k in range(2, 8):
        controller.update(controller.propose(), frame(k))
        assert controller.estimate().misfit


def test_a_restart_that_explains_the_day_is_no_misfit(
    posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = run(posterior, 2)
    values = iter([1e-6, 1.0])  # the particles had lost the truth
    monkeypatch.setattr(controller, "p_value", lambda: next(values))
    controller.update(controller.propose(), frame(2))
    assert not controller.estimate().misfit


def test_a_strange_day_is_searched_again_as_the_run_grows_but_not_at_every_frame(
    posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def restart(self: ParticleFilter, particles: Particles, frames: FramePosteriors) -> Particles:
        tried.append(len(frames))
        return particles

    monkeypatch.setattr(ParticleFilter, "restart", restart)
    run(on_strange_days(posterior), 24)
    assert tried[0] == 3
    growth = np.array(tried[1:]) / np.array(tried[:-1])
    assert np.all((growth > 1.3) & (growth < 2.0))
    assert tried[-1] > 24 / 2


def test_measures_that_add_up_are_judged_by_the_number_of_frames(posterior: PosteriorArtefact) -> None:
    """Moments of one training frame; a run four times as long may deviate four times as much, but not rotate more."""
    moments = dict.fromkeys(MEASURES, ((3.0, 6.0),))
    typical = dict.fromkeys(MEASURES, 3.0)
    for name, adds_up in {"deviance": True, "strangeness": True, "turn": False, "hidden": False}.items():
        assert (p_value(typical | {name: 4 * 7.0}, moments, 4) > 0.2) == adds_up
        assert (p_value(typical | {name: 4 * 7.0}, moments, 1) > 0.2) is False


def test_inputs_correct_the_second_order_as_estimated(posterior: PosteriorArtefact) -> None:
    """Cumulative input plus estimate of the initial state: nothing is left of the second order."""
    strong = replace(posterior, area_weight=200.0, correlation=0.0)  # an opinion, though the network is not trained
    controller = run(strong, 4, SECOND_ORDER, second_order="network")
    estimate = controller.estimate().mean_nm[3:]
    assert np.abs(estimate).max() > 1.0
    cumulative = controller.input_nm + controller.propose()
    np.testing.assert_allclose(cumulative[3:] + estimate, 0.0, atol=1e-9)


# --- how much frames count -----------------------------------------------------------------------


def with_frames(posterior: PosteriorArtefact, count: int, correlation: float) -> FramePosteriors:
    frames = run(posterior, 1).frames
    rows = {name: np.repeat(getattr(frames, name), count, 0) for name in ("mixtures", "areas", "inputs_nm", "shifts")}
    alike = replace(frames, **rows, features=frames.features.repeat(count, 1), weights=np.ones(count))
    return replace(alike, trained=replace(posterior, correlation=correlation))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_variance_is_inflated_by_kish_s_design_effect(posterior: PosteriorArtefact, count: int) -> None:
    """A single frame shares errors with none; frames that share all of their errors count as one."""
    assert with_frames(posterior, count, 0.0).variance_inflation == 1.0
    assert with_frames(posterior, count, 1.0).variance_inflation == pytest.approx(count)
    assert with_frames(posterior, count, 0.1).variance_inflation == pytest.approx(1 + 0.1 * (count - 1))
    alone, all_alike = (likelihood(with_frames(posterior, n, 1.0), np.zeros((1, 3))) for n in (1, count))
    assert all_alike.constant[0] / count == pytest.approx(alone.constant[0])


def test_one_frame_excludes_a_state_at_odds_of_about_a_thousand_to_one(posterior: PosteriorArtefact) -> None:
    """A wrong frame can be overruled by a few good ones, and a good one still means something."""
    frames = with_frames(posterior, 1, 0.0)
    frames.mixtures[:, :, 0] -= 80.0
    odds = math.exp(-likelihood(frames, np.zeros((1, 3))).marginal(frames.prior)[0])
    assert 300 < odds < 3000


def test_a_scattered_run_widens_what_is_reported_and_not_the_search(
    posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, scattered = (replace(posterior, usual=dict.fromkeys(MEASURES, ((m, m), (2 * m, m)))) for m in (1e9, 1e-9))
    for usual, wide in ((calm, False), (scattered, True)):
        controller = run(usual, 4)
        monkeypatch.setattr(controller, "p_value", lambda: 1.0)
        controller.update(controller.propose(), frame(9))
        assert controller.frames.dispersion <= SEARCHED
        inside = controller._with_second_order().cov_nm2
        assert (controller.estimate().cov_nm2[0, 0] > 10 * inside[0, 0]) == wide


def test_scatter_is_measured_at_the_likeliest_particle_if_the_mean_lies_between_two_modes(
    posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = run(posterior, 3)
    best = controller.particles.candidates.states_nm[controller.particles.best][0]
    far = Estimate(best + 500.0, np.eye(3))
    monkeypatch.setattr(controller, "_first_order", lambda: far)
    seen = []
    monkeypatch.setattr(neural_posterior, "dispersion", lambda scatter, *rest: seen.append(scatter) or 1.0)
    controller._follow_scatter()
    assert seen == [pytest.approx(deviance(controller.frames, best))]
