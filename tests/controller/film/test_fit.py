"""The joint model against the twin's renderer, and what its search and its test promise."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from controller.film import fit as film_fit
from controller.film import model as film_model
from controller.film.fit import FilmData, FilmExposure
from twin.day import CameraProperties, Day
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, SECOND_ORDER

OPTICS = Optics()
INPUTS = 12.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, -1.0], [-1, 0, 0]])
DAY = Day(
    residual_nm={"C21a": 20.0},
    camera=CameraProperties(rotation_deg=2.0, scale=1.02, shift_px=(1.0, -0.5), mtf_nyquist=0.7, dark_level=10.0),
    same_region=True,
)


def frames(day: Day, seed: int = 3) -> tuple[list[FilmExposure], NDArray[np.float64]]:
    """Exposures at `INPUTS` about the null, and the initial state."""
    microscope = SimulatedMicroscope(OPTICS, FIRST_ORDER, day, "fast")
    microscope.reset(np.random.default_rng(seed))
    null = -microscope.truth().initial_nm
    at, out = np.zeros(3), []
    for offset in INPUTS:
        target = np.clip(null + offset, -FIRST_ORDER.input, FIRST_ORDER.input)
        microscope.apply(target - at)
        at = target
        out.append(film_fit.exposure(microscope.acquire(), at))
    return out, -null


@pytest.fixture(scope="module")
def same_region() -> tuple[list[FilmExposure], NDArray[np.float64]]:
    return frames(DAY)


def fitted(
    exposures: list[FilmExposure], state_nm: NDArray[np.float64], apertures: tuple[float, ...]
) -> film_fit.FilmFit:
    model = film_model.model(OPTICS, FIRST_ORDER, slices=1)
    fit, data = film_fit.start(model, state_nm, exposures), film_fit.stack(exposures)
    for aperture in apertures:
        fit = film_fit.refine(model, fit, data, 30, aperture)
    return fit


def test_without_a_film_the_frame_is_the_disc() -> None:
    model = film_model.model(OPTICS, FIRST_ORDER)
    film = torch.zeros(model.slices, model.optics.grid, model.optics.grid)
    image = film_model.expected(model, film, model.prior_mean, torch.tensor([[20.0, -10.0, 5.0]]))[0]
    radius_px = OPTICS.convergence_mrad / OPTICS.camera_pixel_mrad
    assert float(image.sum()) == pytest.approx(1.0, abs=0.005)  # the whole beam is on the camera
    assert float(image[64, 64]) == pytest.approx(1 / (np.pi * radius_px**2), rel=0.01)
    assert float(image[2, 2]) < 1e-3 * float(image[64, 64])


def test_a_film_scatters_and_loses_no_electron() -> None:
    model = film_model.model(OPTICS, FIRST_ORDER)
    film = torch.randn(model.slices, model.optics.grid, model.optics.grid, generator=torch.Generator().manual_seed(1))
    image = film_model.expected(model, film, model.prior_mean, torch.tensor([[10.0, 0.0, 0.0]]))[0]
    inside = image[34:94, 34:94]
    assert 0.02 < float(inside.std() / inside.mean()) < 0.3
    assert 0.95 < float(image.sum()) < 1.005  # some leave the camera


def test_turned_camera_and_turned_astigmatism_are_one() -> None:
    """A rotation by 45 degrees makes C12a out of C12b; without a film only the symmetric disc would tell nothing."""
    model = film_model.model(OPTICS, FIRST_ORDER)
    film = torch.randn(model.slices, model.optics.grid, model.optics.grid, generator=torch.Generator().manual_seed(2))
    turned = model.prior_mean.clone()
    turned[model.parameters.index("rotation_rad")] = np.pi / 4
    one = film_model.expected(model, film, turned, torch.tensor([[0.0, 0.0, 15.0]]))
    other = film_model.expected(model, film, model.prior_mean, torch.tensor([[0.0, 15.0, 0.0]]))
    opposite = film_model.expected(model, film, model.prior_mean, torch.tensor([[0.0, -15.0, 0.0]]))
    distances = [float((one - image).abs().mean() / one.mean()) for image in (other, opposite)]
    assert min(distances) < 0.01
    assert max(distances) > 0.05


def test_an_exposure_finds_disc_and_noise(same_region: tuple[list[FilmExposure], NDArray[np.float64]]) -> None:
    exposure = same_region[0][0]
    nominal = OPTICS.convergence_mrad / OPTICS.camera_pixel_mrad
    assert exposure.radius_px == pytest.approx(1.02 * nominal, rel=0.01)
    assert exposure.centre_px == pytest.approx((1.0 - 1 / 3, -0.5 - 1 / 3), abs=0.25)
    # Differences of neighbours are nearly all shot noise: the precision must be its inverse.
    used = exposure.precision[40:90, 40:90]
    steps = np.diff(exposure.signal[40:90, 40:90], axis=1) * np.sqrt(used[:, 1:] / 2)
    assert np.mean(steps**2) == pytest.approx(1.0, abs=0.25)


def test_it_finds_the_state_on_one_region_and_not_without_a_film(
    same_region: tuple[list[FilmExposure], NDArray[np.float64]],
) -> None:
    exposures, truth = same_region
    guess = truth + np.array([1.5, -1.5, 1.0])
    fit = fitted(exposures, guess, (0.5, 0.7, 1.0))
    error = fit.values[:3].numpy() - truth
    assert np.linalg.norm(error) < 0.8, error
    assert 0.8 < fit.misfit < 1.05
    model = film_model.model(OPTICS, FIRST_ORDER, slices=1)
    covariance = film_fit.covariance(model, fit)
    assert np.all(np.linalg.eigvalsh(covariance) > 0)
    assert np.sqrt(np.diag(covariance)).max() < 0.5


def test_an_unseen_frame_agrees_on_the_same_region_alone(
    same_region: tuple[list[FilmExposure], NDArray[np.float64]],
) -> None:
    exposures, truth = same_region
    model = film_model.model(OPTICS, FIRST_ORDER, slices=1)
    fit = fitted(exposures[:4], truth + 0.5, (0.5, 1.0))
    same, std = film_fit.agreement(model, fit, film_fit.stack(exposures[4:]))
    assert same > 0.7
    assert 0 < std < 0.05
    elsewhere, _ = frames(DAY, seed=4)
    others, inputs_nm = film_fit.stack(elsewhere[4:]), film_fit.stack(exposures[4:]).inputs_nm
    moved = FilmData(others.signal.clone(), others.precision.clone(), inputs_nm.clone())
    other, _ = film_fit.agreement(model, fit, moved)
    assert abs(other) < 0.25


def test_only_narrow_probes_are_usable() -> None:
    model = film_model.model(OPTICS, FIRST_ORDER)
    assert film_model.usable(model, np.array([20.0, 10.0, 0.0]))
    assert not film_model.usable(model, np.array([60.0, 20.0, 0.0]))


def test_a_larger_state_takes_its_coefficients_from_the_residuals() -> None:
    model = film_model.model(OPTICS, SECOND_ORDER)
    assert model.coefficients == (*SECOND_ORDER.names, "C30")
    assert len(set(model.parameters)) == len(model.parameters) == len(model.unit)


def test_a_fit_without_refinement_has_no_covariance(
    same_region: tuple[list[FilmExposure], NDArray[np.float64]],
) -> None:
    model = film_model.model(OPTICS, FIRST_ORDER, slices=1)
    with pytest.raises(ValueError, match="before it was refined"):
        film_fit.covariance(model, film_fit.start(model, np.zeros(3), same_region[0]))
