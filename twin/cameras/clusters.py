"""Recover electrons from events: cluster neighbouring pixels that fired together; centre of their charge."""

import numba
import numpy as np
from numpy.typing import NDArray

from twin.cameras.event import Events, event_times_ns

CLUSTER = np.dtype([("time_ns", "f8"), ("x_px", "f4"), ("y_px", "f4"), ("tot", "<u4"), ("pixels", "<u2")])
"""One electron: time of its first pixel, centre weighted by time over threshold (pixel i is centred on i), sum of the
times over threshold, and number of pixels.
"""


def cluster(events: Events, width: int, window_ns: float = 200.0) -> NDArray[np.void]:
    """Electrons recovered from events, (n,) of `CLUSTER`, in order of time.

    Events are joined if their pixels touch, corners included, and their times differ by at most the window, directly
    or through other events. Electrons that arrive side by side within the window become one.

    Args:
        events: in any order.
        width: pixels per row of the sensor.
        window_ns: longer than the time walk, shorter than the time between electrons.

    Raises:
        ValueError: a window that is not positive, or a width below one.
    """
    if not window_ns > 0 or width < 1:
        raise ValueError(f"window_ns and width must be positive, got {window_ns!r} and {width!r}")
    time_ns = event_times_ns(events)
    order = np.argsort(time_ns, kind="stable")
    time_ns = time_ns[order]
    y, x = np.divmod(events["pixel"][order].astype(np.int64), width)
    tot = events["tot"][order].astype(np.float64)
    root = _join(time_ns, x, y, window_ns)
    _, first, member = np.unique(root, return_index=True, return_inverse=True)
    weight = np.bincount(member, tot)
    electrons = np.zeros(len(first), CLUSTER)
    electrons["time_ns"] = time_ns[first]
    electrons["x_px"] = np.bincount(member, tot * x) / weight
    electrons["y_px"] = np.bincount(member, tot * y) / weight
    electrons["tot"] = weight
    electrons["pixels"] = np.bincount(member)
    return electrons


@numba.njit(cache=True)
def _join(
    time_ns: NDArray[np.float64], x: NDArray[np.int64], y: NDArray[np.int64], window_ns: float
) -> NDArray[np.int64]:
    """First event of each event's cluster, (n,); events in order of time."""
    root = np.arange(len(time_ns))
    oldest = 0
    for i in range(len(time_ns)):
        while time_ns[i] - time_ns[oldest] > window_ns:
            oldest += 1
        for j in range(oldest, i):
            if abs(x[i] - x[j]) <= 1 and abs(y[i] - y[j]) <= 1:
                a, b = _find(root, i), _find(root, j)
                root[max(a, b)] = min(a, b)
    for i in range(len(root)):
        root[i] = _find(root, i)
    return root


@numba.njit(cache=True)
def _find(root: NDArray[np.int64], i: int) -> int:
    """First event of a cluster, with path compression."""
    while root[i] != i:
        root[i] = root[root[i]]
        i = root[i]
    return i
