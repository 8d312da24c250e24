"""Whether the frames of a run agree with each other, and what makes them agree where they do not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from controller.checks import causes, residual
from controller.checks.residual import Residual
from controller.dataset import DaySource
from twin.arrays import Array
from twin.day import Day
from twin.optics import Optics
from twin.state import FIRST_ORDER

START = np.array([22.0, -9.0, 6.0])
INPUTS = [np.zeros(3), np.array([18.0, 6.0, -8.0]), np.array([-58.0, 12.0, 5.0]), np.array([9.0, -9.0, 12.0])]


def told(shown: Callable[[int], Array], day: Day | None = None) -> Residual:
    """A run whose frame k shows the state `shown(k)`, whatever the inputs say."""
    film = DaySource(day or Day(), Optics(), FIRST_ORDER, np.random.default_rng(3))
    frames = residual.residual(Optics(), FIRST_ORDER.names)
    assert frames is not None
    before = np.zeros(3)
    for k, total in enumerate(INPUTS):
        frames = frames.append(total, before, film.frame(shown(k)))
        before = total
    return frames


def test_frames_of_one_state_agree() -> None:
    opinion = told(lambda k: START + INPUTS[k]).opinion(START)
    assert opinion.objection == ""
    assert opinion.scatter == ""


def test_an_uneven_film_is_named_and_leaves_defocus_open() -> None:
    heights = (7.0, -8.0, 6.0, -5.0)
    opinion = told(lambda k: START + INPUTS[k] + np.array([heights[k], 0.0, 0.0])).opinion(START)
    assert opinion.objection == ""
    assert "uneven height" in opinion.scatter
    assert 2.0 < opinion.defocus_nm < 12.0


WRONG = {
    "one input late": lambda k: START + INPUTS[max(k - 1, 0)],
    "defocus moves against": lambda k: START + np.array([-1.0, 1.0, 1.0]) * INPUTS[k],
    "camera is mirrored": lambda k: np.array([1.0, 1.0, -1.0]) * (START + INPUTS[k]),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_with_the_inputs_is_named(words: str) -> None:
    frames = told(WRONG[words])
    assert frames.opinion(START).objection != ""
    assert words in frames.cause(START)


def test_a_corrector_turned_by_ninety_degrees_is_named() -> None:
    turn = causes.turned(90)
    assert "turned by about 90 degrees" in told(lambda k: START + turn @ INPUTS[k]).cause(START)


def test_nothing_is_named_where_the_inputs_are_right() -> None:
    assert told(lambda k: START + INPUTS[k]).cause(START) == ""


@pytest.mark.parametrize(
    ("focal_spread_nm", "source_size_nm", "thickness_nm", "coma_nm"),
    [(0.6, 0.023, 8.9, 29.0), (0.72, 0.022, 5.6, -75.0), (1.0, 0.02, 3.5, -60.0), (0.8, 0.026, 7.1, 60.0)],
)
def test_a_true_claim_is_not_objected_to_where_the_beam_is_coherent(
    focal_spread_nm: float, source_size_nm: float, thickness_nm: float, coma_nm: float
) -> None:
    """Days far from the start of the fit, whose spectra the model describes all the same."""
    film = replace(Day().film, thickness_nm=thickness_nm)
    day = replace(
        Day(), film=film, focal_spread_nm=focal_spread_nm, source_size_nm=source_size_nm, dose_e=2e6,
        residual_nm={"C21a": coma_nm, "C23b": -40.0, "C30": -1000.0},
    )  # fmt: skip
    opinion = told(lambda k: START + INPUTS[k], day).opinion(START)
    assert opinion.objection == ""
