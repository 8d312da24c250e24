"""Coma and three-fold astigmatism by the Whittle likelihood of sub-areas, on frames whose state is known."""

import numpy as np
import pytest

from controller import preprocess
from controller.dataset import DayRanges, DaySource, draw_day
from controller.posterior import second_order as second_order_fit
from controller.posterior.examples import nuisances_of
from controller.posterior.second_order import LEAST_FRAMES, SecondOrderFit, expand
from controller.spectrum import areas as area_spectrum
from controller.spectrum import model as spectrum_model
from controller.spectrum.areas import AreaPeriodograms
from controller.spectrum.model import NodePower, Nuisance
from twin.day import Day, FilmProperties
from twin.optics import Optics
from twin.state import SECOND_ORDER

OPTICS = Optics()
DAY = Day(film=FilmProperties(thickness_nm=4.0), focal_spread_nm=1.5, source_size_nm=0.04, dose_e=1e6)
NUISANCE = Nuisance(log_amplitude=-0.2, thickness_nm=4.0, focal_spread_nm=1.5, source_size_nm=0.04)
START_NM = SECOND_ORDER.start[3:]
FIRST_NM = np.array([[10, 6, 0], [-10, 0, 6], [18, -8, 4], [-18, 10, 0], [14, 6, 8], [-15, -8, -6.0]])


def fitted(higher_nm: np.ndarray, count: int, seed: int) -> SecondOrderFit:
    """A fit on frames at `FIRST_NM`, with so much of the second order in all of them."""
    source = DaySource(DAY, OPTICS, SECOND_ORDER, np.random.default_rng(seed))
    fit = SecondOrderFit(OPTICS, START_NM)
    for k in range(count):
        input_nm = np.concatenate([FIRST_NM[k % len(FIRST_NM)], np.zeros(4)])
        fit.add(source.frame(input_nm + np.concatenate([np.zeros(3), higher_nm])), input_nm)
    settle(fit)
    return fit


def settle(fit: SecondOrderFit) -> None:
    """Until no expansion is stale, in bounded time."""
    fit.renew(np.zeros(3), NUISANCE)
    for _ in range(30):
        if not fit.renew(np.zeros(3), NUISANCE):
            break


@pytest.mark.parametrize("axis", range(4))
def test_unbiased_on_its_own_model(axis: int) -> None:
    """Periodograms drawn from the model itself: exponential about the expectation."""
    # Within 3.5 deviations in each of 16 figures: 0.7 % false alarms; a flipped sign is 7 deviations off.
    truth, rng = np.zeros(4), np.random.default_rng(20 + axis)
    truth[axis] = 90.0 if axis < 2 else -45.0
    grid = area_spectrum.area_grid(OPTICS)
    power = area_spectrum.node_power(grid, NUISANCE)
    levels, frames = np.full(len(grid.corners), 5.0), []
    for first in np.concatenate([FIRST_NM, -FIRST_NM]):
        mean = 1 + area_spectrum.expected_signal(first, truth, NUISANCE, grid, power) / levels[:, None]
        frames.append(
            (np.append(first, np.zeros(4)), AreaPeriodograms(mean * rng.exponential(size=mean.shape), levels))
        )
    point = np.zeros(5)
    for _ in range(3):
        terms = [expand(point, np.zeros(3), u, seen, NUISANCE, grid, power)[:2] for u, seen in frames]
        curvature, pull = (sum(parts) for parts in zip(*terms, strict=True))
        point = np.linalg.solve(curvature, pull)
    deviation = np.sqrt(np.diag(np.linalg.inv(curvature)))
    assert np.all(np.abs(point[:4] - truth) < 3.5 * deviation[:4])
    assert abs(point[axis]) > 3 * deviation[axis]
    assert point[4] == pytest.approx(NUISANCE.log_amplitude, abs=0.05)


def test_finds_the_second_order_of_rendered_frames() -> None:
    # Four figures within 4 deviations of about 18 and 9 nm: 0.03 % false alarms.
    truth = np.array([90.0, -90.0, 50.0, -50.0])
    found = fitted(truth, 18, 11).estimate()
    assert found is not None
    mean, cov = found
    assert np.all(np.abs(mean - truth) < 4 * np.sqrt(np.diag(cov)))
    assert 0.7 < np.mean(mean / truth) < 1.3


def test_known_inputs_are_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_order_fit, "STALE_NM", 0.2)
    source = DaySource(DAY, OPTICS, SECOND_ORDER, np.random.default_rng(4))
    # In a wide box, where the prior pulls neither.
    plain, moved = SecondOrderFit(OPTICS, 100 * START_NM), SecondOrderFit(OPTICS, 100 * START_NM)
    shift = np.array([0, 0, 0, 30.0, -20.0, 10.0, 5.0])
    for first in np.concatenate([FIRST_NM, -FIRST_NM])[:LEAST_FRAMES]:
        state = np.concatenate([first, np.zeros(4)])
        frame = source.frame(state)
        plain.add(frame, state)
        moved.add(frame, state + shift)
    for fit in (plain, moved):
        settle(fit)
    (a, _), (b, _) = plain.estimate(), moved.estimate()  # type: ignore[misc]
    assert b - a == pytest.approx(-shift[3:], abs=1.0)


def test_expected_power_is_the_measured_one() -> None:
    """Mean ratio over all areas and frames, and by area, away from what the fit may adjust."""
    source = DaySource(DAY, OPTICS, SECOND_ORDER, np.random.default_rng(5))
    grid = area_spectrum.area_grid(OPTICS)
    power = area_spectrum.node_power(grid, NUISANCE)
    state = np.array([16.0, 6.0, -4.0, 0, 0, 0, 0])
    counts = [preprocess.signal(source.frame(state)) for _ in range(16)]
    mean = sum(c / c.sum() for c in counts) / len(counts)
    expected = area_spectrum.expected_signal(state[:3], state[3:], NUISANCE, grid, power)
    ratios = []
    for one in counts:
        seen = area_spectrum.periodograms(one, mean, len(counts), grid)
        ratios.append(np.mean(seen.values / (1 + expected / seen.levels[:, None]), axis=1))
    # Speckle: 1 / sqrt(16 frames x 1500 / 3.8 frequencies) = 1.3 % each; the rest is the model.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.06)
    assert np.mean(ratios, axis=0) == pytest.approx(np.ones(len(grid.corners)), abs=0.15)


def test_middle_area_equals_the_model_of_the_whole_camera() -> None:
    """On the axis and with a window twice as narrow, power per nm of frequency is the same."""
    grid = area_spectrum.area_grid(OPTICS)
    middle = len(grid.corners) // 2
    assert grid.directions[middle] == pytest.approx(np.zeros((3, 4)), abs=1e-9)
    whole = spectrum_model.grid(OPTICS)
    state = np.array([[20.0, 0.0, 0.0]])
    power = area_spectrum.node_power(grid, NUISANCE)
    here = slice(middle, middle + 1)
    of_middle = NodePower(power.direct[here], power.cross[here], power.lean[:, here], power.tilt[:, here])
    of_area = spectrum_model.deposited(state, NUISANCE, grid.nodes, of_middle)
    of_whole = spectrum_model.expected_signal(state, NUISANCE, whole)
    # Both are powers under a window normalised by its own sum: the same total but for the disc's edge.
    assert of_area.sum() / of_whole.sum() == pytest.approx(1.0, abs=0.15)


def test_correlation_of_windows() -> None:
    grid = area_spectrum.area_grid(OPTICS)
    assert np.diag(grid.correlation) == pytest.approx(np.ones(len(grid.corners)))
    assert grid.correlation == pytest.approx(grid.correlation.T)
    first, last = grid.correlation[0, 1], grid.correlation[0, -1]
    assert 0.3 < first < 0.8
    assert last < 1e-3


def test_overlap_is_not_counted_twice() -> None:
    fit = fitted(np.zeros(4), LEAST_FRAMES, 7)
    curvature = sum(term.curvature for term in fit._terms)
    found = fit.estimate()
    assert found is not None
    naive = np.diag(np.linalg.inv(curvature))[:4]
    assert np.all(np.diag(found[1]) > 1.5 * naive)


def test_no_estimate_before_some_frames() -> None:
    fit = fitted(np.zeros(4), LEAST_FRAMES - 1, 8)
    assert fit.estimate() is None


def test_nuisances_back_and_forth() -> None:
    day = draw_day(DayRanges(), np.random.default_rng(3))
    back = second_order_fit.film_and_camera(np.array(nuisances_of(day, DayRanges())))
    assert np.exp(back.log_scale) == pytest.approx(day.camera.scale)
    assert back.rotation_rad == pytest.approx(-np.radians(day.camera.rotation_deg))
    assert back.focal_spread_nm == pytest.approx(day.focal_spread_nm)
    assert back.source_size_nm == pytest.approx(day.source_size_nm)
    assert back.thickness_nm == pytest.approx(day.film.thickness_nm)
