"""The evenness of the power spectrum, as the README's table says: what keeps it and what breaks it."""

import functools

import pytest

from benchmarks import evenness
from twin.optics import Optics


@functools.cache
def asymmetry(label: str) -> float:
    (case,) = [case for case in evenness.cases() if case.label == label]
    return evenness.asymmetry(case, Optics(), regions=2)


def test_a_weak_phase_object_is_even() -> None:
    assert asymmetry("weak phase, 1 % of the film") < 0.05
    assert asymmetry("weak phase, 10 % of the film") < 0.05


def test_a_real_film_is_nearly_even_and_a_strong_one_less() -> None:
    assert 0.05 < asymmetry("4 nm film, one plane") < 0.2
    assert asymmetry("phase tripled") > 2 * asymmetry("4 nm film, one plane")


def test_fixed_odd_residuals_keep_evenness() -> None:
    assert asymmetry("fixed C21, C23 of 30 nm") == pytest.approx(asymmetry("4 nm film, one plane"), rel=0.15)


def test_a_fixed_spherical_aberration_breaks_it_the_more_the_larger() -> None:
    half, one, five = (asymmetry(f"fixed C30 of {c30} um") for c30 in ("0.5", "1.5", "5"))
    assert asymmetry("4 nm film, one plane") < half < one < five
    assert five > 0.4


def test_a_thick_film_is_more_even_from_its_mid_plane() -> None:
    assert asymmetry("8 nm film, C10 from entrance") > 1.3 * asymmetry("8 nm film, C10 from mid-plane")
