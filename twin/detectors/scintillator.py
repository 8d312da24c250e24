"""The analogue dark-field detector: scintillator, photomultiplier and digitiser, from electrons to counts.

For the electrons of one scan position; which electrons reach the detector is in `detectors.geometry`, the slow response
(fast-scan distortion) in `scan.response`.
"""

import math
from collections.abc import Callable
from typing import Annotated, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from twin.errors import check_known
from twin.options import Count, NonNegative, Positive, validated

Share = Annotated[float, Gt(0), Le(1)]
Counts = NDArray[np.uint16] | NDArray[np.uint32]

LARGEST_CHARGE = 1e17
"""Anode electrons up to which the cascade is drawn: numpy's Poisson variate ends at 9e18, float64 integers at 9e15."""

LEAST_SPREAD = 1e-12
"""A smaller Polya b is Poisson for every possible number of electrons; its gamma shapes would overflow."""


@validated
class ScintillatorChain:
    """Scintillator, photocathode, dynodes and digitiser; defaults as quoted in the thesis (section 2.2.1).

    Attributes:
        energy_kev: beam energy, fully deposited in the scintillator.
        photons_per_kev: light yield (YAP: 20).
        collection: fraction of the photons that reach the photocathode.
        light_excess: excess relative variance of the light of one electron, (variance - mean) / mean^2.
        quantum_efficiency: photoelectrons per photon.
        dynodes: stages of the multiplier.
        secondary_emission: mean electrons out per electron in, of each dynode.
        polya_b: their excess relative variance, the b of eq 2.10; 0 is Poisson.
        counts_per_electron: mean counts per beam electron: the calibrated gain of the whole chain.
        offset: counts without electrons.
        readout_rms: Gaussian noise of preamplifier and digitiser, counts.
        bit_depth: bits of the digitiser.
        saturation: largest count, if the amplifier saturates before the digitiser.
        model: "cascade" draws every stage, "two_step" a Gaussian of the same mean and variance (eqs 2.12-2.13).
    """

    energy_kev: Positive = 300.0
    photons_per_kev: Positive = 20.0
    collection: Share = 0.05
    light_excess: NonNegative = 0.0
    quantum_efficiency: Share = 0.25
    dynodes: Annotated[int, Ge(1), Le(20)] = 10
    secondary_emission: Annotated[float, Gt(1)] = 4.0
    polya_b: NonNegative = 0.0
    counts_per_electron: Positive = 100.0
    offset: NonNegative = 200.0
    readout_rms: NonNegative = 0.0
    bit_depth: Annotated[int, Ge(1), Le(32)] = 16
    saturation: Count | None = None
    model: Literal["cascade", "two_step"] = "cascade"

    @model_validator(mode="after")
    def _scale(self) -> Self:
        if self.saturation is not None and self.saturation >= 2**self.bit_depth:
            raise ValueError(
                f"saturation {self.saturation} is beyond {self.bit_depth} bits (largest count {2**self.bit_depth - 1})"
            )
        if self.offset > self.largest_count:
            raise ValueError(f"offset {self.offset} is above the largest count {self.largest_count}")
        return self

    @property
    def largest_count(self) -> int:
        """Saturation of digitiser or amplifier."""
        return 2**self.bit_depth - 1 if self.saturation is None else self.saturation

    @property
    def photoelectrons(self) -> float:
        """Mean photoelectrons of one beam electron, m_c eta (eq 2.5)."""
        return self.energy_kev * self.photons_per_kev * self.collection * self.quantum_efficiency

    @property
    def multiplier_gain(self) -> float:
        """Mean anode electrons of one photoelectron, delta^n (eq 2.8)."""
        return self.secondary_emission**self.dynodes

    @property
    def gain(self) -> float:
        """Mean anode electrons of one beam electron, G = m_c eta delta^n (eq 2.9)."""
        return self.photoelectrons * self.multiplier_gain

    @property
    def counts_per_anode_electron(self) -> float:
        """Gain of the digitiser alone."""
        return self.counts_per_electron / self.gain


def relative_variance(chain: ScintillatorChain) -> float:
    """(sigma / G)^2 of the anode charge of one beam electron: eq 2.11, derived from the cascade rule, eq 2.4.

    The relative variances of a cascade add, each divided by the mean number of its input: with
    v = sigma_A^2 / n_A^2, eq 2.4 is v_AB = v_A + v_B / n_A. The chain has

    - the light: v_c = 1 / m + q for m emitted photons, q = `light_excess`; collection and conversion of photons are
      Bernoulli trials of success p (variance p - p^2, eq 2.6), which together give
      v_p = q + 1 / (m_c eta), m_c = m * collection (eq 2.7);
    - n equal dynodes of v = (1 + b delta) / delta, whose cascade is the geometric series
      v_M = (1 + b delta) / delta * (1 + 1 / delta + ... + delta^(1 - n))
          = (1 + b delta) / (delta - 1) * (1 - delta^-n).

    In total v = v_p + v_M / (m_c eta). Eq 2.11 is the case of b = 0 and many dynodes, if its G in front of the root is
    read as the multiplier's delta^n alone and its delta_c as the spread sigma_c of the collected light.
    """
    delta = chain.secondary_emission
    multiplier = (1 + chain.polya_b * delta) / (delta - 1) * (1 - delta**-chain.dynodes)
    return chain.light_excess + (1 + multiplier) / chain.photoelectrons


def expected_counts(expected_e: ArrayLike, chain: ScintillatorChain) -> NDArray[np.float64]:
    """Mean count, before rounding and saturation, for a mean of `expected_e` electrons; same shape."""
    return chain.offset + chain.counts_per_electron * np.asarray(expected_e, np.float64)


def count_variance(expected_e: ArrayLike, chain: ScintillatorChain) -> NDArray[np.float64]:
    """Variance of the count, before rounding and saturation, under Poisson arrivals of mean `expected_e`; same shape.

    Eq 2.4 with n_A = sigma_A^2 = lambda: lambda (G^2 + sigma^2), then the digitiser's noise.
    """
    per_electron = chain.counts_per_electron**2 * (1 + relative_variance(chain))
    return per_electron * np.asarray(expected_e, np.float64) + chain.readout_rms**2


def polya(mean: float, b: float, parents: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Sum of `parents` independent Polya variates (eq 2.10), one draw per element; any shape.

    A Polya variate is a Poisson variate whose mean is itself gamma distributed, of shape 1 / b. Gammas of one scale
    add their shapes, so the sum over k parents is again a Polya variate, of mean k `mean` and shape k / b: one draw
    replaces k, exactly. b = 0 is Poisson.
    """
    if b < LEAST_SPREAD:
        return rng.poisson(mean * parents)
    return rng.poisson(b * mean * rng.standard_gamma(parents / b))


def check_charge(electrons: float, chain: ScintillatorChain) -> None:
    """Refuse more electrons at a time than the cascade can draw.

    Raises:
        ValueError: more charge than `LARGEST_CHARGE`; names a remedy.
    """
    largest = electrons * chain.gain
    if largest > LARGEST_CHARGE:
        raise ValueError(
            f"{electrons:.3g} electrons at a gain of {chain.gain:.3g} are {largest:.3g} anode electrons;"
            f" the cascade is drawn up to {LARGEST_CHARGE:.0e}: use fewer dynodes (the noise hardly changes)"
            " or model two_step"
        )


def anode_cascade(
    electrons: NDArray[np.int64], chain: ScintillatorChain, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Electrons on the anode, drawn stage by stage, shape as `electrons`.

    The detected light is drawn in one step: a Bernoulli selection of a Polya variate is a Polya variate with the
    same b.

    Raises:
        ValueError: more charge than `LARGEST_CHARGE`.
    """
    check_charge(float(np.max(electrons, initial=0)), chain)
    charge = polya(chain.photoelectrons, chain.light_excess, electrons, rng)
    for _ in range(chain.dynodes):
        charge = polya(chain.secondary_emission, chain.polya_b, charge, rng)
    return charge


def anode_two_step(
    electrons: NDArray[np.int64], chain: ScintillatorChain, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Electrons on the anode, Gaussian about their mean, shape as `electrons` (eqs 2.12-2.13).

    The variance is proportional to the number x of electrons: sigma(x) = sqrt(x) sigma. Negative in the far tail.
    """
    spread = math.sqrt(relative_variance(chain))
    return chain.gain * (electrons + spread * np.sqrt(electrons) * rng.standard_normal(electrons.shape))


Model = Callable[[NDArray[np.int64], ScintillatorChain, np.random.Generator], NDArray[np.int64] | NDArray[np.float64]]
MODELS: dict[str, Model] = {"cascade": anode_cascade, "two_step": anode_two_step}


def digitise(charge: ArrayLike, chain: ScintillatorChain, rng: np.random.Generator) -> Counts:
    """Convert anode electrons to counts: gain, offset, noise, rounding, saturation; uint16, or uint32 above 16 bits."""
    signal = np.asarray(charge, np.float64) * chain.counts_per_anode_electron + chain.offset
    if chain.readout_rms > 0.0:
        signal += chain.readout_rms * rng.standard_normal(signal.shape)
    counts = np.clip(np.rint(signal), 0, chain.largest_count)
    return counts.astype(np.uint16) if chain.bit_depth <= 16 else counts.astype(np.uint32)


def read_out(
    electrons: ArrayLike, chain: ScintillatorChain, rng: np.random.Generator, model: str | None = None
) -> Counts:
    """Counts of electrons that arrived.

    Args:
        electrons: numbers of electrons, integers, any shape.
        chain: the detector.
        rng: source of the noise.
        model: overrides the chain's.

    Returns:
        Counts of the same shape, uint16, or uint32 above 16 bits.

    Raises:
        ValueError: unknown model, electrons negative or not integers, more charge than the cascade can draw.
    """
    model = chain.model if model is None else model
    check_known(model, MODELS, "a model of the chain")
    arrived = np.asarray(electrons)
    if not np.issubdtype(arrived.dtype, np.integer):
        raise ValueError(f"electrons that arrived are integers, got {arrived.dtype}; expose_adf takes expectations")
    if arrived.size and arrived.min() < 0:
        raise ValueError(f"electrons must not be negative, got {arrived.min()}")
    return digitise(MODELS[model](arrived.astype(np.int64), chain, rng), chain, rng)


def expose_adf(
    expected_e: ArrayLike, chain: ScintillatorChain, rng: np.random.Generator, model: str | None = None
) -> Counts:
    """Counts for a mean of `expected_e` electrons, Poisson distributed (eq 2.1).

    Args:
        expected_e: mean number of electrons on the detector, any shape, not negative.
        chain: the detector.
        rng: source of the noise.
        model: see `read_out`.

    Raises:
        ValueError: a mean that is negative or not finite; and see `read_out`.
    """
    mean = np.asarray(expected_e, np.float64)
    wrong = mean[~(np.isfinite(mean) & (mean >= 0))]
    if wrong.size:
        raise ValueError(f"expected electrons must be finite and not negative, got {wrong.flat[0]}")
    return read_out(np.asarray(rng.poisson(mean)), chain, rng, model)
