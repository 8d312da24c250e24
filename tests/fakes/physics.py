"""An instrument for tests with the twin's Ronchigrams: its camera shows the state of its corrector."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import Aberrations
from twin.day import Day
from twin.optics import Optics


class Column:
    """Aberrations in nm by name, and a sensor of `sensor_binning` pixels per frame pixel with a margin around."""

    def __init__(self, optics: Optics, nm: dict[str, float], dose_e: float = 1e5, sensor_binning: int = 1) -> None:
        from twin.ronchigram.phase_screens import FastRenderer  # imports torch, which a clock does without

        self.nm, self.dose_e = dict(nm), dose_e
        self._renderer = FastRenderer(optics, Day())
        self._binning, self._rng, self._exposures = sensor_binning, np.random.default_rng(0), 0

    def sensor_image(self) -> NDArray[np.float64]:
        """Return electrons per sensor pixel, of another film region each time."""
        self._exposures += 1
        probability = self._renderer.probability([Aberrations.of(self.nm)], [self._exposures])[0]
        fine = np.kron(probability, np.ones((self._binning, self._binning))) / self._binning**2
        margin = 3 * self._binning
        return np.pad(self._rng.poisson(fine * self.dose_e).astype(np.float64), margin)


def ticking(step_s: float = 1.0) -> Callable[[], float]:
    """A clock that advances by one step whenever it is read."""
    now = [0.0]

    def clock() -> float:
        now[0] += step_s
        return now[0]

    return clock
