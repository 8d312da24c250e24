"""Input selection: the expected information of a frame taken at each input."""

from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from controller.posterior.artefact import PosteriorArtefact
from twin.arrays import Array


@numba.njit(cache=True, fastmath=True)
def _overlap(states, inputs, precision):  # type: ignore[no-untyped-def]
    """Expected information, nats, (Q,): states (K, n) scaled, inputs (Q, n), precision at each sum (Q, K, n, n)."""
    queries, count, axes = precision.shape[:3]
    out = np.empty(queries)
    direct, mirrored = np.empty(axes), np.empty(axes)
    for q in range(queries):
        total = 0.0
        for i in range(count):
            alike = 0.0
            for j in range(count):
                for a in range(axes):
                    direct[a] = states[i, a] - states[j, a]
                    mirrored[a] = states[i, a] + states[j, a] + 2.0 * inputs[q, a]
                near, far = 0.0, 0.0
                for a in range(axes):
                    for b in range(axes):
                        pooled = 0.5 * (precision[q, i, a, b] + precision[q, j, a, b])
                        near += direct[a] * pooled * direct[b]
                        far += mirrored[a] * pooled * mirrored[b]
                alike += np.exp(-0.125 * min(near, far))
            total -= np.log(alike / count)
        out[q] = total / count
    return out


def most_informative(
    states_nm: Array, inputs_nm: Array, trained: PosteriorArtefact, second_order_nm2: Array | None = None
) -> Array:
    """The cumulative input (n,) with the largest expected information.

    Args:
        states_nm: draws from the posterior of the initial state, first order, (K, n).
        inputs_nm: cumulative inputs to choose from, (Q, n).
        trained: supplies the expected precision of a frame's posterior.
        second_order_nm2: covariance of the second order (m, m), if that is to be estimated, too.
    """
    states, inputs = states_nm / trained.first.range_nm, inputs_nm / trained.first.range_nm
    gain = expected_information(states, inputs, trained.precision.precision)
    if second_order_nm2 is not None:
        gain += second_order_information(states, inputs, second_order_nm2, trained)
    best: Array = inputs_nm[np.argmax(gain)]
    return best


def expected_information(states: Array, inputs: Array, precision: Callable[[NDArray[np.floating]], Array]) -> Array:
    """Expected decrease of the posterior's entropy for each input, nats, (Q,).

    A frame at x gives a posterior about +-x with the precision learnt for x. Two states are distinguished as far as
    such posteriors do not overlap (pairwise Bhattacharyya bound: Kolchinsky & Tracey, Entropy 19 (2017) 361).

    Args:
        states: draws from the posterior, scaled, (K, n).
        inputs: cumulative inputs to choose from, scaled, (Q, n).
        precision: maps scaled states (N, n) to expected precisions (N, n, n).
    """
    visited = (states[None] + inputs[:, None]).reshape(-1, states.shape[1])
    matrices = precision(visited).reshape(len(inputs), len(states), *(states.shape[1],) * 2)
    gain: Array = _overlap(states, inputs, matrices)
    return gain


def second_order_information(states: Array, inputs: Array, cov_nm2: Array, trained: PosteriorArtefact) -> Array:
    """Expected decrease of the second order's entropy for each input to the first order, nats, (Q,).

    Args:
        states, inputs: as in `expected_information`.
        cov_nm2: present covariance of the second order, (m, m).
        trained: supplies the precision that a frame is expected to add.
    """
    m = len(cov_nm2)
    visited = (states[None] + inputs[:, None]).reshape(-1, states.shape[1])
    added = trained.higher.precision(visited).reshape(len(inputs), len(states), m, m) - np.eye(m)
    now = np.linalg.inv(cov_nm2) * trained.higher_nm**2
    gain: Array = 0.5 * (np.linalg.slogdet(now + added)[1] - np.linalg.slogdet(now)[1]).mean(1)
    return gain
