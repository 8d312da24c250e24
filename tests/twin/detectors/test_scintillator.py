"""The dark-field detector against the cascade rule, a loop over single electrons, and the peaks of single electrons."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare, ks_2samp, nbinom, norm

from twin.detectors.scintillator import (
    MODELS,
    ScintillatorChain,
    anode_cascade,
    anode_two_step,
    count_variance,
    expected_counts,
    expose_adf,
    polya,
    read_out,
    relative_variance,
)

FALSE_ALARM = 1e-4
"""Probability that a statistical test here fails with correct code (the seeds are fixed: it does not)."""

SIGMAS = float(norm.isf(FALSE_ALARM / 2))

CHAINS = {
    "default": ScintillatorChain(),
    "noisy": ScintillatorChain(
        photons_per_kev=0.5, light_excess=0.05, polya_b=0.3, dynodes=6, secondary_emission=2.5, bit_depth=32
    ),
}


def agree_with(sample: np.ndarray, mean: float, variance: float) -> None:
    """Mean and variance within their own sampling error; the variance's from the sample's fourth moment."""
    values = np.asarray(sample, float).ravel()
    assert abs(values.mean() - mean) < SIGMAS * math.sqrt(variance / values.size)
    fourth = float(np.mean((values - values.mean()) ** 4))
    assert abs(values.var() - variance) < SIGMAS * math.sqrt((fourth - values.var() ** 2) / values.size)


def one_by_one(electrons: int, chain: ScintillatorChain, rng: np.random.Generator) -> int:
    """The same chain a particle at a time, and stage by stage: emission, collection, photocathode, every dynode."""

    def spread(mean: float, b: float) -> int:
        return int(rng.poisson(mean * (rng.gamma(1 / b, b) if b else 1.0)))

    total = 0
    for _ in range(electrons):
        photons = spread(chain.energy_kev * chain.photons_per_kev, chain.light_excess)
        charge = sum(
            rng.random() < chain.collection and rng.random() < chain.quantum_efficiency for _ in range(photons)
        )
        for _ in range(chain.dynodes):
            charge = sum(spread(chain.secondary_emission, chain.polya_b) for _ in range(charge))
        total += charge
    return total


def test_polya_is_the_distribution_of_eq_2_10() -> None:
    mean, b = 3.0, 0.4
    k = np.arange(14)
    # Eq 2.10 with the product written out from j = 0, whose factor is one.
    rising = np.cumprod(np.r_[1.0, 1 + b * np.arange(13)])
    factorial = np.cumprod(np.r_[1.0, np.arange(1, 14)])
    stated = mean**k / factorial * (1 + b * mean) ** (-k - 1 / b) * rising
    assert stated == pytest.approx(nbinom.pmf(k, 1 / b, 1 / (1 + b * mean)))
    drawn = polya(mean, b, np.ones(100_000, np.int64), np.random.default_rng(1))
    observed = np.array([np.sum(drawn == i) for i in k] + [np.sum(drawn > 13)], float)
    expected = np.r_[stated, 1 - stated.sum()] * drawn.size
    assert chisquare(observed, expected).pvalue > FALSE_ALARM


@pytest.mark.parametrize("b", [0.0, 0.4])
def test_one_draw_for_many_parents_is_the_sum_of_one_draw_each(b: float) -> None:
    rng = np.random.default_rng(2)
    together = polya(1.5, b, np.full(20_000, 5), rng)
    apart = polya(1.5, b, np.ones((20_000, 5), np.int64), rng).sum(1)
    assert together.var() == pytest.approx(5 * 1.5 * (1 + b * 1.5), rel=0.06)
    # The two-sample test on integers is conservative: ties only lower the false-alarm rate.
    assert ks_2samp(together, apart).pvalue > FALSE_ALARM


def test_cascade_equals_a_loop_over_single_particles() -> None:
    chain = ScintillatorChain(
        photons_per_kev=0.05,
        collection=0.6,
        light_excess=0.2,
        quantum_efficiency=0.4,
        dynodes=2,
        secondary_emission=2.5,
        polya_b=0.5,
    )
    rng = np.random.default_rng(3)
    slow = np.array([one_by_one(2, chain, rng) for _ in range(4000)])
    fast = anode_cascade(np.full(40_000, 2), chain, rng)
    mean, variance = 2 * chain.gain, 2 * chain.gain**2 * relative_variance(chain)
    agree_with(slow, mean, variance)
    agree_with(fast, mean, variance)
    assert ks_2samp(slow, fast).pvalue > FALSE_ALARM


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CHAINS)
def test_mean_and_variance_of_a_fixed_number_of_electrons(name: str, model: str) -> None:
    chain = CHAINS[name]
    charge = MODELS[model](np.full(60_000, 3), chain, np.random.default_rng(4)) / chain.gain
    agree_with(charge, 3.0, 3.0 * relative_variance(chain))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("expected_e", [0.3, 20.0])
def test_mean_and_variance_of_counts_under_poisson_arrivals(name: str, model: str, expected_e: float) -> None:
    chain = CHAINS[name]
    # 400 counts per electron: rounding adds 1/12 to a variance above 5e4. The offset is 13 times the largest
    # downward noise, so that nothing is clipped at zero.
    fine = ScintillatorChain(
        **{field: getattr(chain, field) for field in chain.__dataclass_fields__ if field != "counts_per_electron"},
        counts_per_electron=400.0,
    )
    counts = expose_adf(np.full(60_000, expected_e), fine, np.random.default_rng(5), model)
    assert counts.max() < fine.largest_count
    agree_with(counts, float(expected_counts(expected_e, fine)), float(count_variance(expected_e, fine)) + 1 / 12)


def test_the_two_models_draw_the_same_histogram() -> None:
    rng = np.random.default_rng(6)
    chain = ScintillatorChain()
    cascade, gaussian = (expose_adf(np.full(20_000, 8.0), chain, rng, model) for model in MODELS)
    # 75 photoelectrons per electron are nearly Gaussian: 20 000 draws do not tell the two apart.
    assert ks_2samp(cascade, gaussian).pvalue > FALSE_ALARM


def test_closed_form_is_eq_2_11_in_its_limits() -> None:
    # Thesis figures: about one collected photon per kV, eta 25 %, delta 4, ten dynodes.
    chain = ScintillatorChain()
    assert chain.photoelectrons == pytest.approx(75.0)
    assert chain.gain == pytest.approx(75.0 * 4**10)
    collected, eta, delta = 300.0, 0.25, 4.0
    light_variance = collected  # Poisson
    eq_2_11 = (1 - eta + 1 / (delta - 1)) / (collected * eta) + light_variance / collected**2
    assert relative_variance(chain) == pytest.approx(eq_2_11, rel=1e-5)
    # Exact for two dynodes, with Polya spread: the rule of eq 2.4 applied by hand.
    short = ScintillatorChain(dynodes=2, polya_b=0.3, light_excess=0.01)
    mean, variance = short.photoelectrons, short.photoelectrons + 0.01 * short.photoelectrons**2
    for _ in range(2):
        mean, variance = mean * delta, delta**2 * variance + mean * (delta + 0.3 * delta**2)
    assert relative_variance(short) == pytest.approx(variance / mean**2)


@pytest.mark.parametrize("model", MODELS)
def test_low_dose_histogram_has_evenly_spaced_single_electron_peaks(model: str) -> None:
    # Fig. 2.3: the k-th peak at offset + k counts_per_electron, of width sqrt(k) sigma, resolved from its neighbours.
    chain = ScintillatorChain(counts_per_electron=500.0, offset=300.0)
    counts = expose_adf(np.full(400_000, 1.2), chain, np.random.default_rng(7), model).astype(float)
    sigma = 500.0 * math.sqrt(relative_variance(chain))
    assert np.mean(np.abs(counts - 300.0) < 0.5) == pytest.approx(math.exp(-1.2), rel=0.02)  # nothing arrived
    histogram, edges = np.histogram(counts, bins=np.arange(300 + 125, 300 + 3.5 * 500, 25))
    centres = (edges[1:] + edges[:-1]) / 2
    for k in (1, 2, 3):
        near = np.abs(counts - 300.0 - 500.0 * k) < 2 * sigma
        peak = counts[near]
        # Symmetric window: the mean is the peak, up to the skew of the chain and the neighbours' tails.
        assert peak.mean() == pytest.approx(300.0 + 500.0 * k, abs=0.08 * 500)
        assert (
            histogram[np.abs(centres - 300 - 500 * k) < 26].max()
            > 0.9 * histogram[np.abs(centres - 300 - 500 * k) < 150].max()
        )
    for k in (1, 2):
        valley = histogram[np.abs(centres - 300 - 500 * (k + 0.5)) < 26].min()
        peaks = (
            histogram[np.abs(centres - 300 - 500 * k) < 26].max(),
            histogram[np.abs(centres - 800 - 500 * k) < 26].max(),
        )
        assert valley < (0.15, 0.6)[k - 1] * min(peaks)


def test_many_photons_without_spread_leave_only_poisson_noise() -> None:
    chain = ScintillatorChain(
        photons_per_kev=2e4, collection=1.0, quantum_efficiency=1.0, dynodes=1, counts_per_electron=1.0, offset=0.0
    )
    counts = expose_adf(np.full(100_000, 50.0), chain, np.random.default_rng(8))
    assert relative_variance(chain) < 1e-6
    agree_with(counts, 50.0, 50.0)


def test_read_out_takes_electrons_that_arrived_and_keeps_their_number() -> None:
    chain = ScintillatorChain(counts_per_electron=1000.0, offset=10.0, bit_depth=24)
    counts = read_out(np.array([[0, 1], [100, 10_000]]), chain, np.random.default_rng(9))
    assert counts.dtype == np.uint32
    assert counts[0, 0] == 10
    assert (counts.astype(float) - 10)[1] / 1000 == pytest.approx([100, 10_000], rel=0.06)


def test_digitiser_noise_offset_and_saturation() -> None:
    rng = np.random.default_rng(10)
    dark = expose_adf(np.zeros(50_000), ScintillatorChain(offset=300.4, readout_rms=5.0), rng)
    assert dark.dtype == np.uint16
    agree_with(dark, 300.4, 25.0 + 1 / 12)
    assert expose_adf(np.full(9, 900.0), ScintillatorChain(), rng).max() == 65535
    assert expose_adf(np.full(9, 900.0), ScintillatorChain(bit_depth=12), rng).min() == 4095
    assert expose_adf(np.full(9, 900.0), ScintillatorChain(saturation=5000), rng).min() == 5000
    assert np.all(expose_adf(np.zeros(4), ScintillatorChain(offset=20.6), rng) == 21)


@given(
    st.floats(0, 1e3), st.integers(1, 32), st.floats(0, 1.0), st.sampled_from(list(MODELS)), st.integers(0, 2**32 - 1)
)
def test_counts_always_stay_on_the_scale(mean: float, bits: int, b: float, model: str, seed: int) -> None:
    chain = ScintillatorChain(bit_depth=bits, offset=1.0, polya_b=b, readout_rms=3.0)
    counts = expose_adf(np.full((3, 4), mean), chain, np.random.default_rng(seed), model)
    assert counts.shape == (3, 4)
    assert counts.max() <= 2**bits - 1


def test_same_generator_state_same_bytes() -> None:
    first, second = (expose_adf(np.full(50, 7.0), ScintillatorChain(), np.random.default_rng(11)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_bad_input_is_refused_with_the_value_and_the_choice() -> None:
    rng = np.random.default_rng(12)
    with pytest.raises(ValueError, match=r"'cascde' is not a model of the chain \(did you mean cascade\?\)"):
        expose_adf(np.ones(3), ScintillatorChain(), rng, "cascde")
    with pytest.raises(ValueError, match=r"not negative, got -1.5"):
        expose_adf(np.array([1.0, -1.5]), ScintillatorChain(), rng)
    with pytest.raises(ValueError, match="not negative, got nan"):
        expose_adf(np.array([np.nan]), ScintillatorChain(), rng)
    with pytest.raises(ValueError, match="integers, got float64"):
        read_out(np.array([1.0]), ScintillatorChain(), rng)
    with pytest.raises(ValueError, match="negative, got -2"):
        read_out(np.array([3, -2]), ScintillatorChain(), rng)
    with pytest.raises(ValueError, match="use fewer dynodes"):
        read_out(np.array([10**6]), ScintillatorChain(dynodes=20), rng)
    with pytest.raises(ValidationError, match="beyond 12 bits"):
        ScintillatorChain(bit_depth=12, saturation=4096)
    with pytest.raises(ValidationError, match="above the largest count 255"):
        ScintillatorChain(bit_depth=8, offset=300.0)
    with pytest.raises(ValidationError, match="Unexpected keyword argument"):
        ScintillatorChain(gian=3.0)  # type: ignore[call-arg]


def test_two_step_is_gaussian_about_its_mean() -> None:
    chain = ScintillatorChain()
    charge = anode_two_step(np.full(20_000, 4), chain, np.random.default_rng(13)) / chain.gain
    z = (charge - 4.0) / (2.0 * math.sqrt(relative_variance(chain)))
    assert abs(float(np.mean(z**3))) < SIGMAS * math.sqrt(15 / z.size)
