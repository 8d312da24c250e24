"""Objects in slices and positions: the model against the twin's multislice, steps against finite differences."""

import numpy as np
import pytest
from scipy import ndimage

from agents.epie.engine import Steps, intensity, misfit, sweep
from agents.epie.estimate import ObjectAndProbe, Places
from agents.epie.probe import Beam, propagator, start_probe

BEAM = Beam(wavelength_nm=0.00197, convergence_mrad=21.0, pixel_mrad=2.4)
SIZE = 32
PIXEL_NM = 0.00197 / (SIZE * 2.4e-3)


def noise(rng: np.random.Generator, side: int, strength: float) -> np.ndarray:
    """Smooth phases, rad rms."""
    phase = ndimage.gaussian_filter(rng.standard_normal((side, side)), 1.2)
    return np.asarray(strength * phase / phase.std())


def thick(seed: int, slices: int, gap_nm: float, dtype: type = np.complex128, strength: float = 0.15) -> ObjectAndProbe:
    """Random phase objects at distances of `gap_nm` under a defocused probe."""
    rng = np.random.default_rng(seed)
    probe = start_probe(BEAM, SIZE, 1e4, aberrations_nm={"C10": -6.0}).astype(dtype)
    estimate = ObjectAndProbe.start((64, 64), probe, slices, propagator(BEAM, SIZE, gap_nm))
    for one in estimate.slices:
        wave = np.exp(1j * noise(rng, 64, strength))
        one[0], one[1] = wave.real, wave.imag
    return estimate


def raster(count: int = 9, step: float = 2.3) -> np.ndarray:
    grid = step * (np.stack(np.meshgrid(*2 * [np.arange(count)], indexing="ij"), -1).reshape(-1, 2) - (count - 1) / 2)
    return np.asarray(grid + 32.0)


def cost(estimate: ObjectAndProbe, amplitude: np.ndarray, places: Places) -> float:
    """Sum of (a - m)^2."""
    return misfit(estimate, amplitude, places).difference


def test_positions_follow_the_gradient() -> None:
    """One frame moved by a little: the step wins the move back, and is along minus the gradient of the misfit."""
    truth = thick(1, 3, 4.0)
    for moved in ((0.02, 0.0), (-0.015, 0.03), (0.01, 0.02)):
        places = Places.of(np.array([[31.3, 32.6]]), SIZE)
        amplitude = np.sqrt(intensity(truth, places))
        places.shift[0] += moved
        gradient = []
        for axis in range(2):
            ends = []
            for sign in (1, -1):
                shift = places.shift.copy()
                shift[0, axis] += sign * 1e-4
                ends.append(cost(truth, amplitude, Places(places.corner, shift)))
            gradient.append((ends[0] - ends[1]) / 2e-4)
        before = places.shift.copy()
        sweep(truth.copy(), amplitude, places, Steps(1e-9, 0.0, 0.0, 1.0))
        step = places.shift[0] - before[0]
        print(moved, step, gradient, step/np.array(gradient))


def test_updates_are_the_gradient() -> None:
    truth, other = thick(1, 3, 4.0), thick(2, 3, 4.0)
    places = Places.of(np.array([[31.3, 32.6]]), SIZE)
    amplitude = np.sqrt(intensity(truth, places))
    rng = np.random.default_rng(0)
    after = other.copy()
    sweep(after, amplitude, places, Steps(1e-4, 0.0, 0.0))
    for n in range(3):
        update = after.slices[n] - other.slices[n]
        direction = np.zeros_like(other.slices)
        direction[n] = rng.standard_normal(direction[n].shape)
        ends = []
        for sign in (1, -1):
            e = other.copy()
            e.slices[:] += sign * 1e-5 * direction
            ends.append(cost(e, amplitude, places))
        slope = (ends[0] - ends[1]) / 2e-5
        print(n, slope, np.sum(update * direction[n]), slope / np.sum(update * direction[n]))
