"""Wedge, contamination and holes: closed forms on the window."""

import numpy as np
import pytest

from twin.day import FilmProperties
from twin.matter.region import phase_scale, vacuum


def test_an_even_film_is_left_alone():
    assert phase_scale(FilmProperties(), 8) is None
    assert vacuum(FilmProperties(), 8, 0.1, 5) is None


def test_contamination_adds_the_variance_of_its_thickness():
    assert phase_scale(FilmProperties(thickness_nm=4.0), 8, 4.0) == pytest.approx(np.sqrt(2.0))


@pytest.mark.parametrize(("direction_deg", "axis"), [(0.0, 1), (90.0, 0)])
def test_a_wedge_is_thicker_in_its_direction(direction_deg, axis):
    scale = phase_scale(FilmProperties(wedge=0.8, wedge_deg=direction_deg), 64)
    thickness = np.moveaxis(scale**2, axis, 0)[:, 0]
    assert thickness[-1] - thickness[0] == pytest.approx(0.8 * 63 / 64)
    assert thickness[32] == pytest.approx(1.0)
    assert np.ptp(np.moveaxis(scale, axis, 0), axis=1).max() < 1e-12


def test_a_wedge_ends_at_vacuum():
    assert phase_scale(FilmProperties(wedge=1.9, wedge_deg=0.0), 64, 0.0).min() >= 0.0


def test_a_share_of_the_regions_is_vacuum():
    """400 regions, 30 %: the bound is four standard errors."""
    film = FilmProperties(hole_share=0.3)
    missing = [vacuum(film, 4, 0.1, seed) is not None for seed in range(400)]
    assert np.mean(missing) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 400))


def test_the_edge_of_a_hole_lies_at_its_distance():
    film = FilmProperties(edge_nm=2.0)
    for seed in range(20):
        hole = vacuum(film, 101, 0.1, seed)
        axis = (np.arange(101) - 50) * 0.1
        distance = np.hypot(axis[None, :], axis[:, None])
        assert not hole[distance < 1.99].any()
        nearest = distance[hole].min()
        assert nearest == pytest.approx(2.0, abs=0.11)
