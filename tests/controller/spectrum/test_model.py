"""The parametric spectrum: closed forms, symmetries, and averages of rendered Ronchigrams."""

import numpy as np
import pytest

from controller import preprocess
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.fit import Observation
from controller.spectrum.model import Nuisance, Periodogram
from twin.day import Day
from twin.optics import Optics
from twin.ronchigram.phase_screens import FastRenderer
from twin.state import FIRST_ORDER

OPTICS = Optics()
GRID = spectrum_model.grid(OPTICS)
DAY = Nuisance(focal_spread_nm=1.5, source_size_nm=0.04, thickness_nm=4.0)
BAND = spectrum_model.band(OPTICS.camera_pixels)


def signal(*state: float, day: Nuisance = DAY) -> np.ndarray:
    return spectrum_model.expected_signal(np.array([state]), day, GRID)[0]


def test_it_is_even_in_the_state() -> None:
    assert np.allclose(signal(40, 15, -10), signal(-40, -15, 10), rtol=1e-12, atol=1e-12)


def test_turning_the_camera_turns_the_astigmatism_twice_as_far() -> None:
    turned = Nuisance(rotation_rad=0.3, focal_spread_nm=1.5, source_size_nm=0.04, thickness_nm=4.0)
    pair = np.exp(0.6j) * (12 + 5j)
    assert np.allclose(signal(40, 12, 5, day=turned), signal(40, pair.real, pair.imag), rtol=1e-9)


def test_swapping_the_axes_is_minus_c12a() -> None:
    one, other = signal(40, 15, 0), signal(40, -15, 0)
    n = OPTICS.camera_pixels // 2
    # The quadrant of positive frequencies, transposed.
    assert np.allclose(one[n : 2 * n - 4, : n - 4], other[n : 2 * n - 4, : n - 4].T, rtol=0, atol=1e-3 * one.max())


def test_the_first_zero_of_a_defocused_film_lies_where_sin_squared_vanishes() -> None:
    # sin(pi lambda C10 q^2) = 0 at q = 1 / sqrt(lambda C10), seen at rho = lambda C10 q = sqrt(lambda C10).
    sharp = Nuisance(focal_spread_nm=0.0, source_size_nm=0.0, thickness_nm=1e-3)
    defocus = 60.0
    along = signal(defocus, 0, 0, day=sharp)[OPTICS.camera_pixels // 2]
    zero = np.sqrt(OPTICS.wavelength_nm * defocus) / GRID.nodes.bin_nm
    low = int(np.argmin(along[5:14])) + 5
    assert abs(low - zero) < 1.0


def test_focal_spread_and_source_only_take_power_away() -> None:
    sharp = Nuisance(focal_spread_nm=0.0, source_size_nm=0.0, thickness_nm=4.0)
    for blurred in (Nuisance(focal_spread_nm=3.0, source_size_nm=0.0, thickness_nm=4.0),
                    Nuisance(focal_spread_nm=0.0, source_size_nm=0.08, thickness_nm=4.0)):  # fmt: skip
        assert signal(40, 0, 0, day=blurred)[BAND].sum() < 0.95 * signal(40, 0, 0, day=sharp)[BAND].sum()


@pytest.mark.parametrize("state", [(40.0, 15.0, -10.0), (15.0, 5.0, 0.0), (80.0, 0.0, 0.0)])
def test_it_agrees_with_averages_of_rendered_frames(state: tuple[float, ...]) -> None:
    # 24 film regions without shot noise: speckle of 1 / sqrt(24) = 0.20 per frequency, less in 4 x 4 tiles.
    renderer = FastRenderer(OPTICS, Day(focal_spread_nm=1.5, source_size_nm=0.04))
    aberrations = FIRST_ORDER.to_aberrations(np.array(state))
    mean = np.zeros((128, 128))
    for region in range(24):
        frame = renderer.probability([aberrations], [region])[0].astype(np.float64)
        windowed = np.sum(preprocess.hann_window(128) * frame)
        mean += preprocess.spectrum(frame) / windowed**2 * (preprocess.REFERENCE_DOSE_E / 2.25) / 24
    measured, model = mean[:, 64:] * BAND, signal(*state) * BAND
    # Second-order scattering and the tails of the disc's transform are not in the model: up to a quarter more power.
    assert 0.95 < measured.sum() / model.sum() < 1.30
    tiles = [x.reshape(32, 4, 16, 4).mean((1, 3)) for x in (measured, model)]
    assert np.linalg.norm(tiles[0] - tiles[1]) < 0.25 * np.linalg.norm(tiles[0])
    # The shape alone, for the amplitude is fitted: a state 6 nm off is worse.
    wrong = (signal(state[0] + 6, *state[1:]) * BAND).reshape(32, 4, 16, 4).mean((1, 3))
    assert misfit(tiles[0], wrong) > misfit(tiles[0], tiles[1])


def misfit(measured: np.ndarray, model: np.ndarray) -> float:
    """Residual norm at the model's best amplitude."""
    return float(np.linalg.norm(measured - model * np.sum(measured * model) / np.sum(model**2)))


def draw(state: np.ndarray, inputs: np.ndarray, rng: np.random.Generator) -> list[Observation]:
    """Spectra from the model itself, exponentially distributed, neighbours independent."""
    theta = spectrum_fit.starting_theta(state)
    mean = spectrum_model.expected_periodogram(state + inputs, spectrum_fit.nuisance(theta), GRID, 1.0)
    return [
        Observation(u, Periodogram(m * rng.exponential(size=m.size), 1.0)) for u, m in zip(inputs, mean, strict=True)
    ]


def test_the_fit_finds_the_state_behind_its_own_model() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([30.0, -12.0, 8.0])
    seen = draw(truth, np.array([[0.0, 0, 0], [-20, 5, 0], [-40, 0, -10]]), rng)
    mode = spectrum_fit.fit(spectrum_fit.starting_theta(truth + np.array([3, -2, 2])), seen, GRID, np.full(3, 60.0), 10)
    # The covariance allows for correlated neighbours, which these are not: z is half of a standard normal's.
    z = (mode.state_nm - truth) / np.sqrt(np.diag(mode.covariance)[:3])
    assert np.all(np.abs(z) < 2.5)
    assert np.all(np.sqrt(np.diag(mode.covariance)[:3]) < 1.5)
    assert mode.misfit < 1.5


def test_a_model_that_does_not_fit_shows_in_the_misfit() -> None:
    rng = np.random.default_rng(1)
    ratio = rng.exponential(size=(4, int(BAND.sum())))
    assert spectrum_fit.tile_misfit(ratio, 128) == 1.0  # independent neighbours: below the correlated expectation
    ramp = np.linspace(0.2, 1.8, ratio.shape[1])
    assert spectrum_fit.tile_misfit(ratio * ramp, 128) > 1.5
