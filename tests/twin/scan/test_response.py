"""Fast-scan distortion: the point spread against brute-force integrals, impulses and edges; blocks do not matter."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import curve_fit
from scipy.stats import norm

from twin.day import ScanProperties
from twin.scan.plan import ScanPlan, path, paths
from twin.scan.response import DetectorResponse, response_weights, sampled_weights

FALSE_ALARM = 1e-4
Z = float(norm.isf(FALSE_ALARM / 2))
DENSITIES = {
    "exponential": lambda t, tau: math.exp(-t / tau) / tau,
    "half_lorentzian": lambda t, g: 2 / math.pi * g / (t**2 + g**2),
}
SHAPES = sorted(DENSITIES)


def recorded(signal: np.ndarray, plan: ScanPlan, **response: Any) -> np.ndarray:
    """The signal of a whole scan, (rows, columns) or anything that ravels to it in read-out order, as recorded."""
    properties = ScanProperties(**response)
    return DetectorResponse(properties).respond(signal.ravel(), path(plan, 0, plan.count)).reshape(signal.shape)


# --- the weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0])
def test_weights_are_the_decay_averaged_over_arrival_and_recording(shape: str, ratio: float) -> None:
    dwell_s = 2e-6
    weights = response_weights(shape, ratio * dwell_s, dwell_s, 6)
    for k in range(6):
        # The delay between two uniform moments, k dwells apart, has a triangular density.
        def share(t: float, k: int = k) -> float:
            return float(DENSITIES[shape](t, ratio)) * (1 - abs(t - k))

        halves = ((k - 1, k), (k, k + 1)) if k else ((0, 1),)
        assert weights[k] == pytest.approx(sum(quad(share, *half)[0] for half in halves), rel=1e-7)


@given(st.sampled_from(SHAPES), st.floats(1e-3, 1e3))
def test_weights_fall_and_sum_to_one(shape: str, ratio: float) -> None:
    weights = response_weights(shape, ratio, 1.0, 20_000)
    assert weights.min() >= -1e-10
    assert np.all(np.diff(weights[1:]) <= 1e-10)
    # What is left behind n dwells: exp(-n / ratio), or 2 / pi atan(ratio / n).
    late = np.arange(19_999, 20_001)
    left = np.exp(-late / ratio) if shape == "exponential" else 2 / np.pi * np.arctan2(ratio, late)
    assert 1 - left[0] - 1e-9 <= weights.sum() <= 1 - left[1] + 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_no_response_time_is_no_smear(shape: str) -> None:
    assert response_weights(shape, 0.0, 1e-6, 4).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_slow_decays_tend_to_the_thesis_s_sampled_ones() -> None:
    k = np.arange(1, 200)  # the first weight averages over the sudden begin, and is half of it
    beta, alpha = 0.05, 2 * np.pi * 20.0
    exponential = response_weights("exponential", 1 / beta, 1.0, 200)[1:]
    assert exponential / exponential[0] == pytest.approx(np.exp(-beta * (k - 1)), rel=1e-9)
    lorentzian = response_weights("half_lorentzian", alpha / (2 * np.pi), 1.0, 200)[1:]
    sampled = alpha / (4 * np.pi**2 * k**2 + alpha**2)  # eq 2.18
    assert lorentzian / lorentzian[0] == pytest.approx(sampled / sampled[0], rel=1e-3)


# --- impulses and edges -----------------------------------------------------------------------------


def impulse(plan: ScanPlan, row: int, column: int) -> np.ndarray:
    """An image with one bright pixel, in read-out order."""
    image = np.zeros(plan.shape)
    image[row, column] = 1.0
    scan = path(plan, 0, plan.count)
    return image[scan.pixel[:, 0], scan.pixel[:, 1]]


def as_image(values: np.ndarray, plan: ScanPlan) -> np.ndarray:
    scan = path(plan, 0, plan.count)
    image = np.zeros(plan.shape)
    image[scan.pixel[:, 0], scan.pixel[:, 1]] = values
    return image


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("row", [0, 1])
def test_an_impulse_smears_forward_along_its_line(shape: str, row: int) -> None:
    raster = ScanPlan(rows=3, columns=300, dwell_s=1e-6)
    response = {"response_s": 2e-6, "response_shape": shape}
    weights = response_weights(shape, 2e-6, 1e-6, 300)
    image = as_image(recorded(impulse(raster, row, 100), raster, **response), raster)
    assert image[row, 100:] == pytest.approx(weights[:200], abs=1e-12)
    assert np.abs(image[row, :100]).max() < 1e-12
    assert np.abs(np.delete(image, row, axis=0)).max() < 1e-12
    assert image.sum() == pytest.approx(1.0, abs=0.007 if shape == "half_lorentzian" else 1e-9)

    serpentine = replace(raster, pattern="serpentine")
    image = as_image(recorded(impulse(serpentine, row, 100), serpentine, **response), serpentine)
    forward = image[row, 100:] if row == 0 else image[row, 100::-1]
    assert forward == pytest.approx(weights[: len(forward)], abs=1e-12)
    assert np.count_nonzero(np.abs(image) > 1e-12) <= len(forward)


@given(st.sampled_from(SHAPES), st.floats(1e-8, 1e-4), st.floats(-1e3, 1e3))
def test_a_flat_field_stays_flat(shape: str, response_s: float, level: float) -> None:
    plan = ScanPlan(rows=3, columns=40, dwell_s=1e-6)
    flat = np.full(plan.shape, level)
    assert recorded(flat, plan, response_s=response_s, response_shape=shape) == pytest.approx(flat)


@pytest.mark.parametrize("dwell_s", [0.5e-6, 2e-6])
def test_time_constant_and_width_come_back_from_a_noisy_edge(dwell_s: float) -> None:
    plan = ScanPlan(rows=400, columns=240, dwell_s=dwell_s)
    edge = np.where(np.arange(240) < 80, 20.0, 120.0)
    noisy = np.random.default_rng(6).poisson(edge, plan.shape).astype(np.float64)
    tail = np.arange(1, 150)
    for shape, response_s in (("exponential", 3e-6), ("half_lorentzian", 1e-6)):
        profile = recorded(noisy, plan, response_s=response_s, response_shape=shape).mean(axis=0)
        missing = 1 - (profile[80:] - 20.0) / 100.0

        def model(k: np.ndarray, seconds: float, shape: str = shape) -> np.ndarray:
            # What arrives later than k dwells: the integral of the density over the recording dwell.
            late = np.linspace(0, 1, 41) + k[:, None]
            if shape == "exponential":
                return np.trapezoid(np.exp(-late * dwell_s / seconds), dx=1 / 40)
            return np.trapezoid(2 / np.pi * np.arctan2(seconds, late * dwell_s), dx=1 / 40)

        (fitted,), _ = curve_fit(model, tail, missing[tail], p0=[2e-6])
        # Poisson noise of 120 per pixel over 400 rows is 0.55 % of the edge per column, and correlated by the smear.
        assert fitted == pytest.approx(response_s, rel=0.03)


def test_noise_is_damped_along_the_line_as_the_spectrum_of_the_weights() -> None:
    plan = ScanPlan(rows=2000, columns=128, dwell_s=1e-6)
    noise = np.random.default_rng(2).standard_normal(plan.shape)
    smeared = recorded(noise, plan, response_s=1e-6, response_shape="exponential")[:, 64:]
    transfer = np.abs(np.fft.rfft(response_weights("exponential", 1e-6, 1e-6, 64), 512)) ** 2
    # Lags of the covariance, which have no leakage: each is a mean over 2000 lines, known to about 1 / sqrt(1e5).
    expected = np.fft.irfft(transfer)[:8]
    found = [np.mean(smeared[:, : 64 - lag] * smeared[:, lag:]) for lag in range(8)]
    assert found == pytest.approx(expected, abs=Z * 2 / math.sqrt(2000 * 56))
    down = np.mean(smeared[1:] * smeared[:-1])
    assert abs(down) < Z / math.sqrt(2000 * 20)


# --- blocks -----------------------------------------------------------------------------------------


@given(
    st.sampled_from(SHAPES),
    st.sampled_from(["raster", "serpentine", "subsampled", "list"]),
    st.integers(1, 90),
    st.floats(0.0, 1e-4),
    st.integers(0, 2**32 - 1),
)
def test_the_recorded_signal_does_not_depend_on_how_a_scan_is_cut_to_the_bit(
    shape: str, pattern: str, block: int, response_s: float, seed: int
) -> None:
    grid: dict[str, Any] = {"rows": 9, "columns": 8, "fraction": 0.6 if pattern == "subsampled" else 1.0}
    if pattern == "list":
        grid = {"positions_nm": ((0.0, 0.0),) * 70}
    plan = ScanPlan(pattern=pattern, dwell_s=1e-6, **grid)
    signal = np.random.default_rng(seed).random(plan.count)
    response = DetectorResponse(ScanProperties(response_s=response_s, response_shape=shape))
    parts = [response.respond(signal[part.first : part.first + len(part)], part) for part in paths(plan, block)]
    assert np.array_equal(np.concatenate(parts), recorded(signal, plan, response_s=response_s, response_shape=shape))


def test_positions_of_a_list_do_not_smear() -> None:
    plan = ScanPlan(pattern="list", positions_nm=((0.0, 0.0),) * 5)
    signal = np.array([1.0, 5.0, 2.0, 0.0, 7.0])
    assert np.array_equal(recorded(signal, plan, response_s=1.0), signal)


def test_the_signal_handed_in_is_left_alone_and_checked() -> None:
    plan = ScanPlan(rows=2, columns=8, dwell_s=1e-6)
    signal = np.arange(16.0)
    recorded(signal, plan, response_s=1e-6)
    recorded(signal, plan)
    assert np.array_equal(signal, np.arange(16.0))
    response = DetectorResponse(ScanProperties(response_s=1e-6))
    with pytest.raises(ValueError, match=r"shape \(7,\) does not go with 8 positions"):
        response.respond(signal[:7], path(plan, 0, 8))
    response.respond(signal[:8], path(plan, 0, 8))
    with pytest.raises(ValueError, match="starts at position 9, position 8 is next"):
        response.respond(signal[9:], path(plan, 9, 16))
    again = response.respond(signal, path(plan, 0, 16))  # another scan
    assert np.array_equal(again, recorded(signal, plan, response_s=1e-6))


# --- sampled at whole pixels ------------------------------------------------------------------------


def test_sampled_weights_are_those_of_the_thesis() -> None:
    assert sampled_weights("half_lorentzian", 3.0, 128)[:3] == pytest.approx([0.76, 0.14, 0.04], abs=0.005)
    assert sampled_weights("exponential", 2.0, 128)[:3] == pytest.approx([0.87, 0.12, 0.02], abs=0.006)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("constant", [0.5, 2.0, 20.0])
def test_sampled_weights_follow_the_decay_and_sum_to_one(shape: str, constant: float) -> None:
    weights = sampled_weights(shape, constant, 2000)
    assert weights.sum() == pytest.approx(1.0)
    k = np.arange(3)
    law = np.exp(-constant * k) if shape == "exponential" else 1 / (4 * np.pi**2 * k**2 + constant**2)
    seen = weights[:3] > 0
    assert weights[:3][seen] / weights[0] == pytest.approx((law / law[0])[seen])


def test_a_scan_can_have_sampled_weights() -> None:
    plan, signal = ScanPlan(rows=1, columns=32, step_nm=0.1, dwell_s=1e-6), np.zeros((1, 32))
    signal[0, 10] = 1.0
    response_s = 3.0 / (2 * np.pi) * 1e-6
    found = recorded(signal, plan, response_s=response_s, response_sampling="pixel")
    np.testing.assert_allclose(found[0, 10:], sampled_weights("half_lorentzian", 3.0, 32)[:22], atol=1e-12)
    assert recorded(signal, plan, response_s=response_s)[0, 10] < 0.6
