"""What a frame at each input is expected to tell: for choosing the next input of the amortised posterior."""

from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

from controller.posterior.artefact import PosteriorArtefact

Array = NDArray[np.floating]


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


def expected_information(states: Array, inputs: Array, precision: Callable[[NDArray[np.floating]], Array]) -> Array:
    """Expected fall of the posterior's entropy for each input, nats, (Q,).

    A frame at x gives a posterior about +-x of the precision learnt for x; two candidates are told apart as far as
    such posteriors do not overlap (pairwise Bhattacharyya bound: Kolchinsky & Tracey, Entropy 19 (2017) 361).

    Args:
        states: draws from the belief, scaled, (K, n).
        inputs: cumulative inputs to choose from, scaled, (Q, n).
        precision: scaled states (N, n) to (N, n, n).
    """
    visited = (states[None] + inputs[:, None]).reshape(-1, states.shape[1])
    matrices = precision(visited).reshape(len(inputs), len(states), *(states.shape[1],) * 2)
    gain: Array = _overlap(states, inputs, matrices)
    return gain


def second_order_information(states: Array, inputs: Array, cov_nm2: Array, trained: PosteriorArtefact) -> Array:
    """Expected fall of the second order's entropy for each input to the first order, nats, (Q,).

    Args:
        states, inputs: as in `expected_information`.
        cov_nm2: of the second order now, (m, m).
        trained: tells what a frame adds to the precision.
    """
    m = len(cov_nm2)
    visited = (states[None] + inputs[:, None]).reshape(-1, states.shape[1])
    added = trained.higher.precision(visited).reshape(len(inputs), len(states), m, m) - np.eye(m)
    now = np.linalg.inv(cov_nm2) * trained.higher_nm**2
    gain: Array = 0.5 * (np.linalg.slogdet(now + added)[1] - np.linalg.slogdet(now)[1]).mean(1)
    return gain
