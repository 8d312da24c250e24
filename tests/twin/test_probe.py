import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import j0, j1

from twin.aberrations import NAMES, TERMS, Aberrations, to_abtem
from twin.optics import Optics
from twin.probe import (
    probe_d50_nm,
    probe_intensity,
    quarter_pi_limit_nm,
    residual_phase_rad,
    strehl_ratio,
)

OPTICS = Optics()
EDGE_RAD = 2 * np.pi / OPTICS.wavelength_nm * (OPTICS.convergence_mrad * 1e-3) ** 2 / 2
"""Phase at the edge per nm of defocus."""


def test_a_perfect_probe_has_strehl_one_and_no_phase() -> None:
    assert strehl_ratio(Aberrations(), OPTICS) == pytest.approx(1.0, abs=1e-12)
    assert residual_phase_rad(Aberrations(), OPTICS) == 0.0


@pytest.mark.parametrize("c10_nm", [0.3, -1.2, 5.0, 60.0])
def test_defocus_is_sinc_squared_on_the_axis(c10_nm: float) -> None:
    # <exp(-i phi u)> over u = (theta / alpha)^2 in [0, 1] is a sinc (Born & Wolf, 8.8.2).
    phase = EDGE_RAD * c10_nm
    expected = np.sinc(phase / (2 * np.pi)) ** 2
    assert strehl_ratio(Aberrations.of({"C10": c10_nm}), OPTICS) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["C10", "C12b", "C21a", "C23b", "C30", "C34a"])
def test_small_aberrations_obey_marechal(name: str) -> None:
    term = TERMS[NAMES.index(name)]
    edge_rad = 0.2
    aberrations = Aberrations.of({name: edge_rad / residual_phase_rad(Aberrations.of({name: 1.0}), OPTICS)})
    # Variance over the disc of edge * rho^(n+1) cos(m phi), less piston or (C21) the best tilt, 2/3 rho cos(phi).
    variance = edge_rad**2 * (1.0 if term.m == 0 else 0.5) / (term.n + 2)
    if term.m == 0:
        variance -= (edge_rad * 2 / (term.n + 3)) ** 2
    if name == "C21a":
        variance -= (edge_rad * 2 / 3) ** 2 / 4
    assert 1 - strehl_ratio(aberrations, OPTICS) == pytest.approx(variance, rel=0.02)


def test_the_phase_of_one_coefficient_is_its_edge_phase() -> None:
    assert residual_phase_rad(Aberrations.of({"C10": -3.0}), OPTICS) == pytest.approx(3.0 * EDGE_RAD)
    assert residual_phase_rad(Aberrations.of({"C10": 3.0, "C12a": 4.0}), OPTICS) == pytest.approx(7.0 * EDGE_RAD)
    assert quarter_pi_limit_nm("C12b", OPTICS) == pytest.approx(np.pi / 4 / EDGE_RAD)


def test_an_inner_extremum_counts() -> None:
    # C30 against C10: the phase turns round inside the aperture, at zero on the edge.
    c30 = 1e4
    alpha = OPTICS.convergence_mrad * 1e-3
    aberrations = Aberrations.of({"C30": c30, "C10": -c30 * alpha**2 / 2})
    extremum = 2 * np.pi / OPTICS.wavelength_nm * c30 * alpha**4 / 16
    assert residual_phase_rad(aberrations, OPTICS) == pytest.approx(extremum, rel=1e-3)


@pytest.mark.parametrize("convergence_mrad", [15.0, 28.0])
def test_half_of_an_airy_pattern(convergence_mrad: float) -> None:
    # Rayleigh's encircled energy 1 - J0^2(v) - J1^2(v), v = 2 pi alpha r / lambda (Born & Wolf, 8.5.2).
    optics = Optics(convergence_mrad=convergence_mrad)
    v = brentq(lambda v: 0.5 - j0(v) ** 2 - j1(v) ** 2, 0.1, 3.0)
    expected = 2 * v * optics.wavelength_nm / (2 * np.pi * convergence_mrad * 1e-3)
    assert probe_d50_nm(Aberrations(), optics) == pytest.approx(expected, rel=2e-3)


def test_a_strong_defocus_is_a_disc() -> None:
    # Geometric optics: a uniform disc of radius alpha |C10|, half of it within 1 / sqrt(2) of that.
    c10_nm = 100.0
    expected = 2 * c10_nm * OPTICS.convergence_mrad * 1e-3 / np.sqrt(2)
    assert probe_d50_nm(Aberrations.of({"C10": c10_nm}), OPTICS) == pytest.approx(expected, rel=0.01)


def test_the_size_does_not_depend_on_the_sign_of_the_phase() -> None:
    aberrations = Aberrations.of({"C10": 4.0, "C12b": -3.0, "C21a": 40.0, "C23b": 25.0})
    assert probe_d50_nm(-aberrations, OPTICS) == pytest.approx(probe_d50_nm(aberrations, OPTICS), rel=1e-6)
    assert strehl_ratio(-aberrations, OPTICS) == pytest.approx(strehl_ratio(aberrations, OPTICS), rel=1e-6)


def test_half_of_the_electrons_of_the_sampled_probe_lie_within_the_size() -> None:
    aberrations = Aberrations.of({"C10": 6.0, "C12a": -4.0, "C30": 2000.0})
    sampling_nm, pixels = 0.005, 1024
    intensity = probe_intensity(aberrations, OPTICS, sampling_nm, pixels)
    axis = (np.arange(pixels) - pixels // 2) * sampling_nm
    inside = np.hypot(axis[:, None], axis[None, :]) <= probe_d50_nm(aberrations, OPTICS) / 2
    assert intensity[inside].sum() == pytest.approx(0.5, abs=0.01)


def test_a_sampling_too_coarse_for_the_aperture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sampling_nm is 0\.05; this aperture needs at most 0\.035"):
        probe_intensity(Aberrations(), OPTICS, 0.05, 256)


@pytest.mark.parametrize("seed", range(3))
def test_probe_and_strehl_agree_with_abtem(seed: int) -> None:
    import abtem

    rng = np.random.default_rng(seed)
    # Two radians or so from every coefficient: aberrated, but within the window.
    scale = np.array([1.0 / residual_phase_rad(Aberrations.of({name: 1.0}), OPTICS) for name in NAMES])
    aberrations = Aberrations.from_array(rng.standard_normal(len(NAMES)) * scale)
    pixels, sampling_nm = 512, 0.0125
    probe = abtem.Probe(
        energy=OPTICS.energy_kev * 1e3,
        semiangle_cutoff=OPTICS.convergence_mrad,
        aberrations=to_abtem(aberrations),
        gpts=pixels,
        sampling=sampling_nm * 10,
        soft=False,
    )
    wave = probe.build(scan=(pixels // 2 * sampling_nm * 10,) * 2, lazy=False).array
    theirs = np.abs(np.asarray(wave)).T ** 2  # abTEM has x first
    ours = probe_intensity(aberrations, OPTICS, sampling_nm, pixels)
    theirs /= theirs.sum()
    assert np.sum(np.abs(ours - theirs)) < 0.02
    assert np.sum(np.abs(ours - theirs[::-1, ::-1])) > 0.2  # the comparison can tell a flipped probe
