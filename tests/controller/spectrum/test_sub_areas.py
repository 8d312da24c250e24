"""Local defocus and astigmatism of the second order: against the aberration function itself, and by brute force."""

import math

import numpy as np
import pytest

from controller.dataset import StateMixture
from controller.spectrum import sub_areas
from twin.aberrations import Aberrations, aberration_phase
from twin.optics import Optics
from twin.state import FIRST_ORDER

OPTICS = Optics()
PRIOR = StateMixture(whole=0.3, start=0.2, near=((0.3, 0.5), (0.2, 0.2)))


@pytest.mark.parametrize("name", sub_areas.NAMES)
@pytest.mark.parametrize("first", ["C10", "C12a", "C12b"])
def test_local_states_are_the_curvature_of_chi(name: str, first: str):
    x, y, step = 9.0, -14.0, 0.5  # mrad

    def chi(aberrations: Aberrations, dx: float, dy: float) -> float:
        angles = (np.array([x + dx]), np.array([y + dy]))
        return float(aberration_phase(aberrations, *angles, OPTICS.wavelength_nm)[0])

    def curvature(aberrations: Aberrations) -> np.ndarray:
        xx = chi(aberrations, step, 0) + chi(aberrations, -step, 0) - 2 * chi(aberrations, 0, 0)
        yy = chi(aberrations, 0, step) + chi(aberrations, 0, -step) - 2 * chi(aberrations, 0, 0)
        corners = [(1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)]
        xy = sum(sign * chi(aberrations, a * step, b * step) for a, b, sign in corners) / 4
        return np.array([xx, yy, xy])

    of_first = np.stack([curvature(Aberrations.of({n: 1.0})) for n in ("C10", "C12a", "C12b")], axis=1)
    # chi is cubic, so second differences are exact.
    expected = np.linalg.solve(of_first, curvature(Aberrations.of({name: 1.0})))
    row = ("C10", "C12a", "C12b").index(first)
    found = sub_areas.local_state(x * 1e-3, y * 1e-3)[row, sub_areas.NAMES.index(name)]
    assert found == pytest.approx(expected[row], rel=1e-6, abs=1e-12)


def test_the_middle_sees_nothing_and_opposite_sub_areas_see_opposites():
    found = sub_areas.geometry(OPTICS)
    assert found.shape == (9, 3, 4)
    assert np.abs(found[4]).max() < 2e-4  # its middle is half a pixel off the axis
    np.testing.assert_allclose(found[::-1], -found, atol=4e-4)
    # The right-hand sub-area, 14.8 mrad from the axis at its middle and a little nearer by its light.
    assert 0.0125 < found[5, 0, 0] * 3 / 4 < 0.0148


def brute(mixtures, state, directions, weight, step=1e-4):
    """Gradient of the log density of the sub-areas over the prior's at c = 0, by differences."""

    def total(c):
        log = 0.0
        for mixture, g in zip(mixtures, directions, strict=True):
            local, density = state + g @ c, 0.0
            for p in mixture.astype(float):
                white = p[4:].reshape(3, 3)
                for sign in (1, -1):
                    density += math.exp(p[0] - 0.5 * np.sum((white @ (local - sign * p[1:4])) ** 2))
            log += math.log(density) - PRIOR.log_density(FIRST_ORDER, local[:, None])[0]
        return weight * log

    eye = np.eye(directions.shape[2]) * step
    return np.array([(total(e) - total(-e)) / (2 * step) for e in eye])


def test_information_is_the_gradient_and_a_single_gaussian_s_curvature():
    rng = np.random.default_rng(1)
    white = np.tril(rng.standard_normal((9, 4, 3, 3))) + 3 * np.eye(3)
    parts = [rng.standard_normal((9, 4, 1)), rng.standard_normal((9, 4, 3)) * 0.4, white.reshape(9, 4, 9)]
    mixtures = np.concatenate(parts, axis=2).astype(np.float32)
    directions = rng.standard_normal((9, 3, 4)) * 0.1
    states = rng.standard_normal((5, 3)) * 0.1
    held = PRIOR.precision(FIRST_ORDER, states.T, PRIOR.log_density(FIRST_ORDER, states.T))
    areas = sub_areas.ready(mixtures, directions)
    expected_least = [np.linalg.eigvalsh(w.T @ w)[0] for w in white.reshape(-1, 3, 3)]
    np.testing.assert_allclose(areas.least.ravel(), expected_least, rtol=1e-3)
    matrix, vector = np.empty((5, 4, 4)), np.empty((5, 4))
    sub_areas.information(areas, states, held, 0.7, matrix, vector)
    for m, state in enumerate(states):
        np.testing.assert_allclose(vector[m], brute(mixtures, state, directions, 0.7), rtol=1e-3, atol=1e-4)
        assert np.linalg.eigvalsh(matrix[m]).min() > 0
    far = mixtures[:, :1].copy()
    far[:, :, 1:4] += 30.0  # its mirror image is out of sight
    sub_areas.information(sub_areas.ready(far, directions), states, held, 0.7, matrix, vector)
    w = far[:, 0, 4:].reshape(9, 3, 3).astype(float)
    precision = np.einsum("pca,pcb->pab", w, w)
    precision -= np.minimum(held[2], sub_areas.SAFE * areas.least[:, 0])[:, None, None] * np.eye(3)
    expected = 0.7 * np.einsum("pab,pau,pbv->uv", precision, directions, directions)
    np.testing.assert_allclose(matrix[2], expected, rtol=1e-5)
