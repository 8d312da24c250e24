"""What stands between frames and claims: refusals, translated units, claims that need support."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from controller.base import Controller, Estimate, build, halt, load
from controller.canonical import units
from controller.checks import specimen
from controller.checks.checked import CheckedController, at_edge
from controller.checks.saturation import SATURATED_SHARE, saturated
from controller.dataset import DaySource
from learning.weights_file import WeightsError
from twin.arrays import Array
from twin.day import Day
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, StateSpace
from twin.types import Frame

REFERENCE, SPACE = Optics(), FIRST_ORDER
OTHER = Optics(energy_kev=200.0, convergence_mrad=25.0)
TOLD = np.array([12.0, -4.0, 3.0])


class Scripted:
    """A controller that says what it is told to and keeps what it hears."""

    def __init__(self, said: Callable[[int], Estimate], done: bool = True) -> None:
        self.said, self._done = said, done
        self.heard: list[tuple[Array, Frame]] = []

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        self.space, self.heard = space, []

    def propose(self) -> Array:
        return np.array([5.0, -2.0, 1.0])

    def update(self, delta_nm: Array, frame: Frame) -> None:
        self.heard.append((delta_nm, frame))

    def estimate(self) -> Estimate:
        return self.said(len(self.heard))

    @property
    def done(self) -> bool:
        return self._done


def sure(mean_nm: Array = TOLD) -> Callable[[int], Estimate]:
    return lambda _: Estimate(mean_nm, np.eye(3), 1.0)


def wrapped(
    said: Callable[[int], Estimate], optics: Optics = REFERENCE, reference: Optics = REFERENCE
) -> CheckedController:
    inner = Scripted(said)
    chosen = CheckedController(inner, optics, reference, SPACE, reads_ronchigrams=True)
    chosen.reset(SPACE, np.random.default_rng(0))
    return chosen


def empty(seed: int, mean: float = 86.0) -> Frame:
    y, x = np.mgrid[:128, :128] - 63.75
    disc = np.clip(60.7 - np.hypot(x, y) + 0.5, 0, 1)
    return Frame(np.random.default_rng(seed).poisson(disc * mean).astype(np.uint16), 1e6, 0.1, float(seed))


@pytest.fixture
def film() -> DaySource:
    return DaySource(Day(), REFERENCE, SPACE, np.random.default_rng(1))


def shown(chosen: CheckedController, film: DaySource, inputs: list[Array], start: Array = TOLD) -> None:
    """Feed the frames of a true start at cumulative inputs."""
    before = SPACE.zero
    for total in inputs:
        chosen.update(total - before, film.frame(start + total))
        before = total


MOVES = [np.zeros(3), np.array([8.0, 5.0, -5.0]), np.array([-20.0, 9.0, 4.0]), np.array([-2.0, 12.0, -9.0])]


@pytest.mark.parametrize("mean", [86.0, 400.0])
def test_an_empty_disc_is_refused(mean: float) -> None:
    chosen = wrapped(sure())
    for seed in range(8):
        chosen.update(SPACE.zero, empty(seed, mean))
    assert chosen.usable == 0
    assert not chosen.done


def test_an_empty_disc_in_a_faint_beam_is_never_claimed_to_be_a_specimen() -> None:
    chosen = wrapped(sure())
    for seed in range(20):
        chosen.update(np.full(3, 4.0 * (-1) ** seed), empty(seed, 13.0))
        assert not chosen.done
    assert "no specimen" in chosen.estimate().reason


def test_films_of_severity_one_are_seen() -> None:
    rng, seen = np.random.default_rng(5), []
    for _ in range(25):
        source = DaySource(Day.random(rng, 1.0), REFERENCE, SPACE, rng)
        counts = source.frame(SPACE.draw_start(rng)).counts.astype(float)
        seen.append(specimen.evidence(counts, REFERENCE).any_film > specimen.CERTAIN)
    assert np.mean(seen) >= 0.95


def test_a_perfect_frame_in_focus_is_used_once_a_specimen_was_seen(film: DaySource) -> None:
    chosen = wrapped(sure())
    chosen.update(SPACE.zero, film.frame(TOLD))
    chosen.update(-TOLD, film.frame(SPACE.zero))
    assert chosen.usable == 2


def test_nobody_learns_from_vacuum_and_the_run_is_told_to_stop() -> None:
    chosen = load("cnn_regression", REFERENCE, SPACE)
    chosen.reset(SPACE, np.random.default_rng(0))
    prior, total = chosen.estimate(), SPACE.zero
    for seed in range(5):
        delta = chosen.propose()
        total = SPACE.check_input(delta, total)
        chosen.update(delta, empty(seed))
    assert np.array_equal(chosen.estimate().mean_nm, prior.mean_nm)
    assert not chosen.done
    assert halt(chosen).startswith("5 frames in a row cannot be used: no specimen is seen")
    assert "move the stage" in halt(chosen)
    assert np.any(total != 0)  # it looked at another focus


def test_inputs_of_refused_frames_are_not_lost(film: DaySource) -> None:
    chosen = wrapped(sure())
    chosen.update(np.array([3.0, 0.0, 0.0]), empty(0))
    chosen.update(np.array([0.0, 2.0, 0.0]), film.frame(TOLD + np.array([3.0, 2.0, 0.0])))
    ((delta, _),) = chosen.inner.heard
    assert delta.tolist() == [3.0, 2.0, 0.0]


def test_a_frame_that_comes_again_is_refused(film: DaySource) -> None:
    chosen = wrapped(sure())
    frame = film.frame(np.array([30.0, 5.0, 0.0]))
    chosen.update(SPACE.zero, frame)
    chosen.update(np.array([5.0, 0.0, 0.0]), replace(frame, clock_s=9.0))
    assert len(chosen.inner.heard) == 1
    assert "frame 1 again" in chosen.estimate().reason


def test_saturated_and_nearly_empty_frames_are_refused(film: DaySource) -> None:
    frame = film.frame(np.array([30.0, 5.0, 0.0]))
    full = replace(frame, counts=np.minimum(frame.counts, 80).astype(np.uint16))
    rng = np.random.default_rng(0)
    faint = replace(frame, counts=rng.binomial(frame.counts, 0.005).astype(np.uint16))
    for bad, word in ((full, "saturated"), (faint, "nearly empty")):
        chosen = wrapped(sure())
        chosen.update(SPACE.zero, bad)
        assert word in chosen.estimate().reason
        assert not chosen.inner.heard


@pytest.mark.parametrize("limit", [5, 20, 40, 90])
def test_a_camera_that_cuts_off_is_seen_at_any_count(film: DaySource, limit: int) -> None:
    """Also at so few counts that nearly all lit pixels are cut."""
    frame = film.frame(np.array([30.0, 5.0, 0.0]))
    cut = replace(frame, counts=np.minimum(frame.counts, limit).astype(np.uint16))
    chosen = wrapped(sure())
    chosen.update(SPACE.zero, cut)
    assert "saturated" in chosen.estimate().reason
    assert saturated(frame) == 0.0


@pytest.mark.parametrize("mean", [0.3, 2.0, 9.0, 40.0, 500.0])
def test_electrons_alone_do_not_look_saturated(mean: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        counts = rng.poisson(mean, (64, 64)).astype(np.uint16)
        assert saturated(Frame(counts, dose_e=1e5, exposure_s=0.5, clock_s=0.0)) == 0.0


def test_a_gain_reference_does_not_hide_the_limit(film: DaySource) -> None:
    frame = film.frame(np.array([30.0, 5.0, 0.0]))
    spread = np.minimum(frame.counts, 60) * np.random.default_rng(0).uniform(0.9, 1.1, frame.counts.shape)
    told = replace(frame, counts=np.rint(spread).astype(np.uint16), settings={SATURATED_SHARE: 0.3})
    chosen = wrapped(sure())
    chosen.update(SPACE.zero, told)
    assert "saturated: 30.0 %" in chosen.estimate().reason


def test_a_claim_needs_three_frames_at_different_inputs_and_another_that_confirms_it(film: DaySource) -> None:
    chosen = wrapped(sure())
    done = []
    for k in range(4):
        chosen.update(MOVES[k] - chosen.input_nm, film.frame(TOLD + MOVES[k]))
        done.append(chosen.done)
    assert done == [False, False, True, True]


def test_frames_at_one_input_leave_the_sign_open(film: DaySource) -> None:
    chosen = wrapped(sure())
    for _ in range(4):
        chosen.update(SPACE.zero, film.frame(TOLD))
        assert chosen.estimate().sign_probability < 0.9
    assert not chosen.done


def test_a_claim_that_jumps_is_not_made(film: DaySource) -> None:
    chosen = wrapped(lambda k: Estimate(TOLD + (20.0 if k % 2 else 0.0), np.eye(3), 1.0))
    shown(chosen, film, MOVES)
    assert not chosen.done


@pytest.mark.parametrize("wrong", [np.array([-40.0, 10.0, -12.0]), np.array([30.0, -20.0, 20.0])])
def test_a_claim_that_the_spectra_contradict_is_a_misfit(film: DaySource, wrong: Array) -> None:
    chosen = wrapped(sure(wrong))
    shown(chosen, film, MOVES)
    assert not chosen.done
    assert chosen.estimate().misfit
    assert "spectra" in chosen.estimate().reason


def test_the_edge_of_the_box_is_named() -> None:
    inside = Estimate(np.array([12.0, 3.0, 0.0]), np.eye(3))
    edge = Estimate(np.array([-59.5, 3.0, 0.0]), np.eye(3))
    assert at_edge(inside, SPACE) == ""
    assert "C10 of -59.5 nm lies at the edge" in at_edge(edge, SPACE)
    # Drift may carry the state of `kalman` far out of the box, where there is no edge.
    assert at_edge(Estimate(np.array([80.0, 3.0, 0.0]), np.eye(3)), SPACE) == ""


def test_units_are_translated_on_the_way_in_and_out(film: DaySource) -> None:
    chosen = wrapped(sure(), OTHER, REFERENCE)
    factor = units.scale(SPACE.names, OTHER, REFERENCE)
    assert chosen.inner.space.start == pytest.approx(SPACE.start * factor)
    assert chosen.propose() == pytest.approx(np.array([5.0, -2.0, 1.0]) / factor)
    source = DaySource(Day(), OTHER, SPACE, np.random.default_rng(0))
    chosen.update(np.array([4.0, 2.0, 0.0]), source.frame(np.array([40.0, 2.0, 0.0])))
    assert chosen.inner.heard[0][0] == pytest.approx(np.array([4.0, 2.0, 0.0]) * factor)
    assert chosen.estimate().mean_nm == pytest.approx(TOLD / factor)
    assert chosen.estimate().std_nm == pytest.approx(1 / factor)


def calibrated(controller: Controller, optics: Optics, frames: int, seed: int) -> Array:
    microscope = SimulatedMicroscope(optics, SPACE, Day(), "fast")
    microscope.reset(np.random.default_rng(seed))
    controller.reset(SPACE, np.random.default_rng(seed))
    for _ in range(frames):
        delta = controller.propose()
        microscope.apply(delta)
        controller.update(delta, microscope.acquire())
    return controller.estimate().mean_nm - microscope.truth().initial_nm


@pytest.mark.parametrize("optics", [OTHER, Optics(camera_pixels=64, binning=6)])
@pytest.mark.parametrize("name", ["neural_posterior", "vae_em"])
def test_shipped_weights_serve_other_microscopes(name: str, optics: Optics) -> None:
    error = calibrated(load(name, optics, SPACE), optics, 4, 1)
    assert np.abs(error).max() < (SPACE.tolerance / units.scale(SPACE.names, optics, REFERENCE)).max()


@pytest.mark.parametrize("name", ["vae_em", "neural_posterior"])
def test_at_the_trained_optics_nothing_changes(name: str) -> None:
    plain, behind = build(name, REFERENCE, SPACE), load(name, REFERENCE, SPACE)
    assert calibrated(plain, REFERENCE, 3, 4).tobytes() == calibrated(behind, REFERENCE, 3, 4).tobytes()


def test_a_disc_of_another_radius_than_told_is_said() -> None:
    source = DaySource(Day(), Optics(convergence_mrad=24.0), SPACE, np.random.default_rng(0))
    chosen = wrapped(sure())
    chosen.update(SPACE.zero, source.frame(np.array([30.0, 5.0, 0.0])))
    estimate = chosen.estimate()
    assert estimate.misfit
    assert "radius of 52" in estimate.reason
    assert "60.7" in estimate.reason


def test_a_box_too_wide_for_the_weights_is_refused_with_the_factor() -> None:
    with pytest.raises(WeightsError, match=r"C10 2\.04"):
        load("vae_em", Optics(convergence_mrad=40.0, sampling_nm=0.02), SPACE)
