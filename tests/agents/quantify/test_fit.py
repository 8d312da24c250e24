"""The fit of columns: derivatives, elimination, errors as stated, and shifts and tail put right."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from agents.quantify.bounds import column_bound, cross_section_sigma, mean_distance
from agents.quantify.columns import Columns, expectation
from agents.quantify.fit import fit
from agents.quantify.line_shifts import Series, prior_precision, reestimated
from agents.quantify.normal import column_jacobian, line_jacobian, normal_equations
from agents.quantify.quantify import Quantified, QuantifyOptions, quantify
from agents.quantify.smear import Smear, estimate, inverse, restored, smeared
from agents.quantify.step import FitOptions
from twin.scan.errors import ar1

Make = Callable[..., Any]
TWO = Columns(np.array([8.0, 15.5]), np.array([9.0, 11.0]), np.array([50.0, 70.0]), np.array([2.0, 2.5]), 4.0)
SHAPE = (20, 24)


def moved(columns: Columns, number: int, parameter: int, by: float) -> Columns:
    parts = [columns.x_px.copy(), columns.y_px.copy(), columns.height.copy(), np.log(columns.width_px)]
    parts[parameter][number] += by
    return Columns(parts[0], parts[1], parts[2], np.exp(parts[3]), columns.background, columns.halo)


@pytest.mark.parametrize("halo", [0.0, 0.2])
def test_derivatives_are_differences(halo: float) -> None:
    columns = replace(TWO, halo=halo)
    shift = np.random.default_rng(0).normal(0, 0.3, (2, SHAPE[0]))
    found, small = expectation(columns, shift, SHAPE), 1e-4
    jacobian = column_jacobian(found, 4).toarray()
    for number in (0, 1):
        for parameter in range(4):
            more, less = (
                expectation(moved(columns, number, parameter, s * small), shift, SHAPE).values for s in (1, -1)
            )
            difference = ((more - less) / (2 * small)).ravel()
            # The footprint ends where a column has 4e-5 of its height.
            np.testing.assert_allclose(jacobian[:, 4 * number + parameter], difference, atol=0.03)
    lines = line_jacobian(found).toarray()
    for axis in (0, 1):
        changed = shift.copy()
        changed[axis, 7] += small
        difference = (expectation(columns, changed, SHAPE).values - found.values).ravel() / small
        np.testing.assert_allclose(lines[:, axis * SHAPE[0] + 7], difference, atol=0.03)
    more, less = (expectation(replace(columns, halo=0.2 + s * small), shift, SHAPE).values for s in (1, -1))
    if halo:
        np.testing.assert_allclose(found.by_halo, (more - less) / (2 * small), atol=1e-6)


def test_a_cross_section_is_the_sum_of_the_image() -> None:
    columns = Columns(np.array([30.0]), np.array([31.0]), np.array([50.0]), np.array([2.5]), 0.0, 0.2)
    image = expectation(columns, np.zeros((2, 64)), (64, 64)).values
    assert columns.cross_section[0] == pytest.approx(image.sum(), rel=2e-3)


def test_elimination_of_columns_gives_what_all_equations_give() -> None:
    rng = np.random.default_rng(1)
    found = expectation(TWO, np.zeros((2, SHAPE[0])), SHAPE)
    residual, weight = rng.normal(size=SHAPE), rng.uniform(0.5, 2.0, SHAPE)
    shared, prior = np.ones((1, *SHAPE)), (np.full(8, 0.1), rng.normal(size=8))
    short = normal_equations(found, residual, weight, shared, prior, lines=True)
    lines = prior_precision((Series(), Series()), SHAPE[0])
    reduced = short.reduced.copy()
    reduced[: 2 * SHAPE[0], : 2 * SHAPE[0]] += lines
    border = np.linalg.solve(reduced, short.reduced_pull)
    step = np.concatenate([short.columns_step(border), border])

    jacobian = np.hstack(
        [column_jacobian(found, 4).toarray(), line_jacobian(found).toarray(), np.ones((residual.size, 1))]
    )
    whole = jacobian.T @ (weight.ravel()[:, None] * jacobian)
    whole[:8, :8] += np.diag(prior[0])
    whole[8:-1, 8:-1] += lines
    pull = jacobian.T @ (weight * residual).ravel()
    pull[:8] += prior[1]
    np.testing.assert_allclose(step, np.linalg.solve(whole, pull), rtol=1e-7, atol=1e-9)
    covariance = np.linalg.inv(whole)
    blocks = short.columns_covariance(np.linalg.inv(reduced), 4)
    np.testing.assert_allclose(blocks[1], covariance[4:8, 4:8], rtol=1e-6, atol=1e-12)


def test_the_bound_is_the_inverse_of_fisher_s_information() -> None:
    found = expectation(TWO, np.zeros((2, SHAPE[0])), SHAPE)
    jacobian = np.hstack([column_jacobian(found, 4).toarray(), np.ones((found.values.size, 1))])
    whole = np.linalg.inv(jacobian.T @ (jacobian / found.values.ravel()[:, None]))
    bound = column_bound(TWO, SHAPE)
    np.testing.assert_allclose(bound[0], whole[:4, :4], rtol=1e-6)
    gradient = np.array([0, 0, 2 * np.pi * 4.0, 4 * np.pi * 50.0 * 4.0])
    assert cross_section_sigma(TWO, bound)[0] == pytest.approx(np.sqrt(gradient @ whole[:4, :4] @ gradient))
    assert np.all(column_bound(TWO, SHAPE, (Series(), Series()))[:, 0, 0] > bound[:, 0, 0])


def test_the_mean_length_of_an_error() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 1.0]])
    drawn = np.random.default_rng(2).multivariate_normal((0, 0), covariance, 200_000)
    assert mean_distance(covariance[None])[0] == pytest.approx(np.hypot(*drawn.T).mean(), rel=0.01)
    assert mean_distance(np.eye(2)[None])[0] == pytest.approx(np.sqrt(np.pi / 2))


def test_noise_alone_errors_are_those_of_the_bound(recorded: Make) -> None:
    """100 columns, 4 parameters: the mean square of errors over bounds is 1 within 3.3 of its deviations, 0.14."""
    errors, stated = [], []
    for seed in range(4):
        image, true, _ = recorded(seed, 40.0)
        found = fit(image, true, FitOptions())
        assert found.converged
        bound = column_bound(true, (image.shape[0], image.shape[1]))
        ours = np.stack([found.columns.x_px - true.x_px, found.columns.y_px - true.y_px])
        errors.append(ours / np.sqrt([bound[:, 0, 0], bound[:, 1, 1]]))
        stated.append(found.columns.cross_section - true.cross_section)
        stated[-1] /= cross_section_sigma(found.columns, found.covariance)
        assert found.dispersion == pytest.approx(1.0, abs=0.08)
    assert np.mean(np.square(errors)) == pytest.approx(1.0, abs=0.33)
    assert np.mean(np.square(stated)) == pytest.approx(1.0, abs=0.47)


def particle(seed: int, halo: float) -> tuple[np.ndarray, Columns, np.ndarray]:
    """Electrons of a round particle in vacuum, its columns, and the shifts of the lines."""
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(*[np.arange(9) * 11.0 + 20.0] * 2))
    radius = np.hypot(x - 64, y - 64)
    x, y, radius = (a[radius < 50] for a in (x, y, radius))
    columns = Columns(x, y, 120 * np.sqrt(1.1 - (radius / 50) ** 2), np.full(len(x), 2.8), 0.2, halo)
    shift = np.stack([ar1(rng.normal(0, sigma, 128), 0.5, None) for sigma in (0.5, 0.25)])
    return rng.poisson(expectation(columns, shift, (128, 128)).values).astype(float), columns, shift


@pytest.mark.parametrize("halo", [0.0, 0.17])
def test_a_particle_in_vacuum_with_columns_that_are_no_gaussians_is_put_straight(halo: float) -> None:
    image, true, shift = particle(0, halo)
    found = quantify(image, options=QuantifyOptions(count="none", tail=False))
    distance, near = cKDTree(true.places).query(found.columns.places)
    assert len(found.columns) == len(true)
    assert found.fit.converged
    assert np.sqrt(np.mean(distance**2)) < 0.5
    assert found.fit.axes is not None
    assert 0.35 < found.fit.axes[0].sigma_px < 0.65
    assert found.fit.axes[0].correlation < 0.8
    assert np.std(found.fit.shift_px[0, 30:98] - shift[0, 30:98]) < 0.7 * np.std(shift[0, 30:98])
    ratio = found.columns.cross_section / true.cross_section[near]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    assert found.fit.dispersion == pytest.approx(1.0, abs=0.08)


def test_plain_least_squares_is_worse_than_the_weights_of_shot_noise(recorded: Make) -> None:
    image, true, _ = recorded(5, 400.0)
    weighted, plain = (fit(image, true, FitOptions(weighting=w)) for w in ("poisson", "uniform"))
    errors = [np.hypot(f.columns.x_px - true.x_px, f.columns.y_px - true.y_px).mean() for f in (weighted, plain)]
    assert errors[0] < errors[1] < 2 * errors[0]


def test_a_shared_width_is_one_width(recorded: Make) -> None:
    image, true, _ = recorded(6, 400.0)
    found = fit(image, true, FitOptions(width="shared"))
    assert np.ptp(found.columns.width_px) < 1e-12
    assert found.columns.width_px[0] == pytest.approx(true.width_px[0], abs=4 * np.sqrt(found.covariance[0, 3, 3]) * 3)


@pytest.fixture(scope="module")
def straightened(recorded: Make) -> tuple[Any, Quantified, Quantified]:
    scan = recorded(7, 2000.0, jitter_px=(0.5, 0.25), alpha=3.0)
    how = {scan_: QuantifyOptions(scan=scan_, count="none") for scan_ in ("joint", "perfect")}  # type: ignore[arg-type]
    return scan, quantify(scan.image, 0.015, how["joint"]), quantify(scan.image, 0.015, how["perfect"])


def errors_px(found: Quantified, true: Columns) -> np.ndarray:
    distance, _ = cKDTree(np.stack([found.columns.x_px, found.columns.y_px], 1)).query(
        np.stack([true.x_px, true.y_px], 1)
    )
    return np.asarray(distance)


def test_the_joint_fit_puts_the_scan_straight(straightened: Any) -> None:
    scan, joint, plain = straightened
    assert len(joint.columns) == len(scan.columns)
    ours, theirs = errors_px(joint, scan.columns).mean(), errors_px(plain, scan.columns).mean()
    axes = (Series(sigma_px=0.5, correlation=0.5), Series(sigma_px=0.25, correlation=0.5))
    bound = mean_distance(column_bound(scan.columns, scan.image.shape, axes)[:, :2, :2]).mean()
    assert ours < 0.75 * theirs
    assert ours < 1.6 * bound  # one image: the errors of a row of columns go together


def test_it_learns_the_scan_s_parameters(straightened: Any) -> None:
    _, joint, _ = straightened
    x, y = joint.fit.axes
    assert x.sigma_px == pytest.approx(0.5, abs=0.15)
    assert y.sigma_px == pytest.approx(0.25, abs=0.08)
    assert joint.fit.smear.shape == "half_lorentzian"
    assert joint.fit.smear.constant_per_px == pytest.approx(3.0, rel=0.15)
    assert joint.fit.dispersion == pytest.approx(1.0, abs=0.1)


def test_its_shifts_are_the_true_ones(straightened: Any) -> None:
    scan, joint, _ = straightened
    rows = slice(8, 64)  # where there are columns
    for axis in (0, 1):
        left = (joint.fit.shift_px - scan.shift_px)[axis, rows]
        assert left.std() < 0.6 * scan.shift_px[axis, rows].std()


# --- the series of shifts, the tail ----------------------------------------------------------------


def test_precision_is_the_inverse_of_the_covariance_of_the_series() -> None:
    lag = np.abs(np.subtract.outer(np.arange(9), np.arange(9)))
    covariance = 0.3**2 * 0.6**lag / (1 - 0.6**2)
    np.testing.assert_allclose(Series(sigma_px=0.3, correlation=0.6).precision(9), np.linalg.inv(covariance), atol=1e-8)


def test_a_known_series_tells_its_parameters() -> None:
    series = ar1(0.4 * np.random.default_rng(3).standard_normal(4000), 0.7, None)
    found = reestimated(series, np.zeros((4000, 4000)))
    assert found.sigma_px == pytest.approx(0.4, rel=0.05)
    assert found.correlation == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("smear", [Smear("half_lorentzian", 3.0), Smear("exponential", 0.7)])
def test_the_tail_is_removed_exactly(smear: Smear) -> None:
    rng = np.random.default_rng(4)
    image, level = rng.poisson(20.0, (6, 50)).astype(float), rng.uniform(10, 30, 6)
    weights = smear.weights(50)
    assert np.convolve(weights, inverse(weights))[:50] == pytest.approx(np.eye(50)[0], abs=1e-12)
    np.testing.assert_allclose(restored(smeared(image, weights, level), weights, level), image, atol=1e-9)


def test_the_noise_tells_the_tail() -> None:
    noise = np.random.default_rng(5).poisson(50.0, (128, 128)).astype(float)
    assert estimate(noise, 3.0)[1] is False
    recorded = smeared(noise, Smear("half_lorentzian", 8.0).weights(128), np.full(128, 50.0))
    found, seen = estimate(recorded, 3.0)
    assert seen
    assert found.constant_per_px == pytest.approx(8.0, rel=0.3)


def test_the_joint_fit_restores_the_image_on_the_true_grid(recorded: Make) -> None:
    image, columns, _ = recorded(5, 2000.0, (0.5, 0.25), 3.0)
    found = quantify(image, options=QuantifyOptions(count="none")).fit
    truth = expectation(columns, np.zeros((2, image.shape[0])), image.shape).values
    inner = (slice(6, -6), slice(6, -6))
    raw, straight, model = (
        float(np.sqrt(np.mean((values - truth)[inner] ** 2))) for values in (image, found.straight, found.restored)
    )
    assert model < 0.35 * raw
    assert straight < 0.75 * raw
