"""neural_posterior_em: who works when, and that nothing is lost at the hand-over."""

import numpy as np
import pytest

from controller.base import Estimate
from controller.strategies.neural_posterior_em import NeuralPosteriorEm, Options
from twin.arrays import Array
from twin.state import FIRST_ORDER, StateSpace
from twin.types import Frame


class Part:
    """Remembers what it is told, refuses empty frames, and knows the day up to a number of frames."""

    def __init__(self, knows: int = 1000) -> None:
        self.knows, self.space, self.std_nm = knows, FIRST_ORDER, 1.0
        self.reset(FIRST_ORDER, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        self.input_nm, self.frames, self.inputs = space.zero, list[Frame](), list[Array]()

    def propose(self) -> Array:
        return self.space.zero

    def update(self, delta_nm: Array, frame: Frame) -> None:
        self.input_nm = self.input_nm + delta_nm
        if not frame.counts.any():
            raise ValueError("no signal")
        self.frames.append(frame)
        self.inputs.append(self.input_nm)

    @property
    def misfit(self) -> bool:
        return len(self.frames) > self.knows

    def estimate(self) -> Estimate:
        return Estimate(np.full(3, float(len(self.frames))), self.std_nm**2 * np.eye(3))

    @property
    def done(self) -> bool:
        return False


def frame(value: int) -> Frame:
    return Frame(np.full((4, 4), value), 1e6, 1.0, 0.0, {})


def told(knows: int, values: list[int]) -> tuple[NeuralPosteriorEm, Part, Part]:
    posterior, em = Part(knows), Part()
    both = NeuralPosteriorEm(posterior, em, Options(widening=4.0))  # type: ignore[arg-type]
    both.reset(FIRST_ORDER, np.random.default_rng(1))
    for value in values:
        try:
            both.update(np.full(3, float(max(value, 1))), frame(value))
        except ValueError:
            assert value == 0
    return both, posterior, em


def test_a_day_that_is_known_costs_no_joint_estimation() -> None:
    both, posterior, em = told(10, [1, 2, 3])
    assert (len(posterior.frames), len(em.frames)) == (3, 0)
    assert both.leader is posterior
    assert not both.estimate().misfit


@pytest.mark.parametrize("refused", [False, True])
def test_at_the_hand_over_nothing_is_lost(refused: bool) -> None:
    """A frame that was refused is not seen again, but its input was applied."""
    values = [1, 2, 0, 3, 4, 5] if refused else [1, 2, 3, 4, 5]
    both, posterior, em = told(2, values)
    assert both.leader is em
    assert [f.counts[0, 0] for f in em.frames] == [1, 2, 3, 4, 5]
    expected = np.cumsum([1, 2, 1 + 3, 4, 5] if refused else [1, 2, 3, 4, 5])
    np.testing.assert_array_equal([x[0] for x in em.inputs], expected)
    assert len(posterior.frames) == 3  # it rests from then on
    assert both.estimate().misfit
    assert both.estimate().mean_nm[0] == 5


def test_after_the_hand_over_a_refused_frame_is_the_leader_s_business() -> None:
    both, _, em = told(0, [1, 0, 2])
    assert [x[0] for x in em.inputs] == [1, 4]
    both.reset(FIRST_ORDER, np.random.default_rng(2))
    assert not both.handed_over
    assert em.frames == []


def test_what_joint_estimation_tells_is_widened_and_stops_by_that() -> None:
    both, posterior, em = told(2, [1, 2])
    assert both.estimate().cov_nm2 == pytest.approx(np.eye(3))
    assert both.done == posterior.done
    both, _, em = told(2, [1, 2, 3])
    assert em.estimate().cov_nm2 == pytest.approx(np.eye(3))
    assert both.estimate().cov_nm2 == pytest.approx(4 * np.eye(3))
    assert both.done  # five standard deviations of 2 nm
    em.std_nm = 2.6  # four by itself, two when widened
    assert Estimate(np.zeros(3), np.eye(3) * 2.6**2).in_spec_probability(FIRST_ORDER.tolerance) > 0.99
    assert not both.done
