"""Scan one coefficient after the other and move to the optimum of a figure of merit, as an operator does.

Each scan takes a few inputs along one coefficient and ends at the vertex of a fitted parabola; further sweeps scan a
narrower range. Assumes that the figure of merit is best where the aberrations vanish.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from controller.base import Estimate, prior_variance
from controller.merit.merit_centre import merit_centre
from controller.merit.search import MeritSearch, SearchOptions
from twin.arrays import Array
from twin.optics import Optics
from twin.options import Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class Options(SearchOptions):
    """Settings of `coordinate_scan`.

    Attributes:
        points: frames per scan.
        shrink: ratio of the range of the next sweep to the present one.
        stop_nm: done when every coefficient's standard deviation, without the bias, is below this.
    """

    points: Annotated[int, Ge(3)] = 5
    shrink: Probability = 0.4


def vertex(at_nm: Array, values: Array) -> tuple[float, float]:
    """Maximum and its standard deviation, nm, of a parabola fitted to the best point and its neighbours.

    The maximum stays within the three points. The standard deviation is half their spacing: the figure of merit is no
    parabola.

    Args:
        at_nm: inputs, (P,), ascending, at least three.
        values: figure of merit at the inputs, (P,), larger is better.
    """
    middle = int(np.clip(np.argmax(values), 1, len(values) - 2))
    x, y = at_nm[middle - 1 : middle + 2], values[middle - 1 : middle + 2]
    bend, slope, _ = np.polyfit(x - x[1], y, 2)
    top = float(x[np.argmax(y)]) if bend >= 0 else float(np.clip(x[1] - slope / (2 * bend), x[0], x[2]))
    return top, float(x[2] - x[0]) / 4


class CoordinateScan(MeritSearch):
    """Scan one coefficient at a time, in the order of the space."""

    options: Options

    def begin(self) -> None:
        """Begin with the widest sweep of the first coefficient."""
        self.centre_nm: Array = self.space.zero
        self.std_nm: Array = self.space.start / np.sqrt(3.0)
        self.half_nm: Array = self.space.input
        self.coefficient = 0
        self.first = True
        self.scan: list[tuple[float, float]] = []
        self.remaining: list[float] = self._line()

    def _line(self) -> list[float]:
        """Return the inputs of the next scan, ascending, within the limits."""
        i = self.coefficient
        line = self.centre_nm[i] + np.linspace(-1, 1, self.options.points) * self.half_nm[i]
        return [float(v) for v in np.unique(np.clip(line, -self.space.input[i], self.space.input[i]))]

    def propose(self) -> Array:
        """Return no input before the first frame, then the input to the next point of the scan."""
        if self.first:
            return self.space.zero
        target = self.centre_nm.copy()
        target[self.coefficient] = self.remaining[0]
        return target - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Measure the frame; at the end of a scan, move the centre to its vertex."""
        value = self.measure(delta_nm, frame)
        others = np.arange(self.space.dimension) != self.coefficient
        position = float(self.cumulative_nm[self.coefficient])
        on_line = np.allclose(self.cumulative_nm[others], self.centre_nm[others], rtol=0, atol=1e-6)
        if on_line:
            self.scan.append((position, value))
            self.remaining = [v for v in self.remaining if abs(v - position) > 1e-6]
        self.first = False
        if not self.remaining:
            self._finish()

    def _finish(self) -> None:
        i = self.coefficient
        at, values = np.array(sorted(self.scan)).T
        self.centre_nm = self.centre_nm.copy()
        self.centre_nm[i], self.std_nm[i] = vertex(at, values)
        self.coefficient = (i + 1) % self.space.dimension
        if self.coefficient == 0:
            self.half_nm = self.half_nm * self.options.shrink
        self.scan, self.remaining = [], self._line()

    def estimate(self) -> Estimate:
        """Return minus the centre, in the scanned coefficient the weighted centre of the scan under way."""
        centre = self.centre_nm.copy()
        if self.scan:
            at, values = np.array(self.scan).T
            centre[self.coefficient] = float(merit_centre(at[:, None], values)[0])
        variance = np.minimum(self.std_nm**2 + self.options.bias_nm**2, prior_variance(self.space))
        mean = np.clip(-centre, -self.space.start, self.space.start)
        return Estimate(mean, np.diag(variance))

    @property
    def done(self) -> bool:
        """Whether the last sweep was finer than `stop_nm` in every coefficient."""
        return bool(np.all(self.std_nm < self.options.stop_nm))


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> CoordinateScan:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"points": 3})
        >>> counts = np.random.default_rng(0).poisson(60.0, (128, 128))
        >>> controller.update(controller.propose(), Frame(counts, dose_e=1e6, exposure_s=0.5, clock_s=0.0))
        >>> controller.propose().tolist()  # the lower end of the range of C10
        [-60.0, 0.0, 0.0]
    """
    return CoordinateScan(optics, space, checked_options(Options, options))


def reads_ronchigrams(options: Mapping[str, Any]) -> bool:
    """Unless the contrast is that of scanned images."""
    return checked_options(Options, options).contrast != "scan"
