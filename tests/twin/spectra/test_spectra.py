"""Spectra: peaks where they belong, noise of the stated size, the same for the same seed."""

import numpy as np
import pytest

from twin.spectra.noise import SpectrumNoise, draw, measured, spectrum_image
from twin.spectra.phases import IRON, Peak, SpectralPhase, Variation, iron_axis_ev, spectra_of

STILL = Variation(shift_ev=0.0, broadening=0.0, height=0.0)


def test_a_peak_stands_where_its_phase_has_it() -> None:
    phase = SpectralPhase((Peak(710.0, 1.0, 1.0), Peak(725.0, 1.0, 0.5)), background=0.0)
    axis = np.linspace(700.0, 740.0, 401)
    (spectrum,) = spectra_of(phase, axis, 1, STILL, np.random.default_rng(1))
    assert axis[spectrum.argmax()] == pytest.approx(710.0, abs=0.05)
    assert spectrum[np.argmin(np.abs(axis - 725.0))] == pytest.approx(0.5, rel=1e-3)
    width = np.ptp(axis[spectrum > np.exp(-0.5)]) / 2
    assert width == pytest.approx(1.0, abs=0.11)


def test_shifts_have_the_stated_spread() -> None:
    phase = SpectralPhase((Peak(720.0, 1.0, 1.0),), background=0.0)
    axis = np.linspace(700.0, 740.0, 2001)
    drawn = spectra_of(phase, axis, 2000, Variation(shift_ev=0.5, broadening=0.0), np.random.default_rng(2))
    assert axis[drawn.argmax(axis=1)].std() == pytest.approx(0.5, rel=0.05)


def test_noise_is_that_of_counts_and_of_the_read_out() -> None:
    expected = np.full((400, 100), 0.25)
    noise = SpectrumNoise(peak_e=40.0, readout_e=3.0)
    found = measured(expected, noise, np.random.default_rng(3))
    assert found.mean() == pytest.approx(0.25, abs=0.005)
    assert found.var() == pytest.approx((0.25 * 40.0 + 9.0) / 40.0**2, rel=0.03)


def test_a_map_of_phases_has_their_spectra() -> None:
    label = np.array([[0, 1, 1], [1, 0, 0]])
    found = spectrum_image(label, ["FeO", "Fe2O3"], np.random.default_rng(4), variation=STILL)
    assert found.measured.shape == (2, 3, 128)
    peak = iron_axis_ev()[found.expected.argmax(axis=-1)]
    np.testing.assert_allclose(peak, np.where(label == 0, 706.6, 709.5), atol=0.2)


def test_the_same_seed_gives_the_same_and_an_unknown_phase_is_refused() -> None:
    np.testing.assert_array_equal(draw(list(IRON), 3, 42).measured, draw(list(IRON), 3, 42).measured)
    with pytest.raises(ValueError, match=r"'amorphos' is not a phase \(did you mean amorphous\?\)"):
        draw(["amorphos"], 3, 42)
