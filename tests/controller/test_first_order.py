"""A controller of the first order where there is more: it moves its own coefficients and knows no others."""

import numpy as np
import pytest

from controller.base import Controller, Estimate, load
from controller.first_order import FirstOrderOnly, first_order_first
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.types import Frame

SHUFFLED = StateSpace(
    ("C21a", "C10", "C12a", "C12b"), (150.0, 60.0, 30.0, 30.0), (150.0, 60.0, 30.0, 30.0), (10.0,) * 4
)


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[np.ndarray] = []

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        self.space = space

    def propose(self) -> np.ndarray:
        return np.array([1.0, 2.0, 3.0])

    def update(self, delta_nm: np.ndarray, frame: Frame) -> None:
        self.told.append(delta_nm)

    def estimate(self) -> Estimate:
        return Estimate(np.array([4.0, 5.0, 6.0]), np.diag([1.0, 2.0, 3.0]), 0.9)

    @property
    def done(self) -> bool:
        return True


@pytest.mark.parametrize(("space", "first"), [(SECOND_ORDER, [0, 1, 2]), (SHUFFLED, [1, 2, 3])])
def test_it_passes_on_the_first_order_and_nothing_else(space: StateSpace, first: list[int]):
    inner = Recorder()
    controller = FirstOrderOnly(space, inner)
    assert isinstance(controller, Controller)
    controller.reset(space, np.random.default_rng(0))
    assert inner.space.names == ("C10", "C12a", "C12b")
    asked = controller.propose()
    np.testing.assert_array_equal(asked[first], [1.0, 2.0, 3.0])
    assert np.count_nonzero(asked) == 3
    controller.update(np.arange(float(space.dimension)), Frame(np.zeros((2, 2), np.uint16), 1.0, 1.0, 0.0))
    np.testing.assert_array_equal(inner.told[0], first)
    found = controller.estimate()
    np.testing.assert_array_equal(found.mean_nm[first], [4.0, 5.0, 6.0])
    np.testing.assert_array_equal(np.diag(found.cov_nm2)[first], [1.0, 2.0, 3.0])
    rest = [i for i in range(space.dimension) if i not in first]
    np.testing.assert_allclose(found.std_nm[rest], 150.0 / np.sqrt(3))
    assert found.sign_probability == 0.9
    assert not controller.done


def test_a_first_order_task_gets_the_controller_itself():
    inner = Recorder()
    assert first_order_first(FIRST_ORDER, lambda space: inner) is inner
    assert isinstance(first_order_first(SECOND_ORDER, lambda space: inner), FirstOrderOnly)


@pytest.mark.parametrize("name", ["vae_em", "vae_fixed", "bo_scalar"])
def test_trained_first_order_controllers_take_a_second_order_task(name: str):
    controller = load(name, Optics(), SECOND_ORDER)
    controller.reset(SECOND_ORDER, np.random.default_rng(0))
    assert controller.estimate().mean_nm.shape == (7,)
