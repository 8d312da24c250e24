"""Noise-free segment sums of scans of random thin specimens, for the training.

By reciprocity the wave at one detector angle K as a function of the probe position is the inverse transform of the
transmission function's spectrum under an aperture centred at K: one transform for each angle gives a whole scan.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from agents.segment_net.specimens import NON_ATOMIC, Field, limited, random_phase
from agents.segmented.segments import RINGS, fractions
from twin.arrays import Floats
from twin.detectors.geometry import DiffractionGrid
from twin.optics import Optics

SIDE = 64
"""Positions along the side of a simulated scan, which is periodic."""
FINER = 4
"""Pixels of the specimen along a scan step."""
AT_ONCE = 128
"""Detector angles transformed together."""
SAMPLING = (0.13, 0.62)
"""Scan steps over the resolution element lambda / (2 alpha)."""


@dataclass(frozen=True)
class Conditions:
    """How a scan is taken; lengths in resolution elements, angles in convergence angles, phases in rad.

    Attributes:
        optics: energy and angle.
        sampling: scan step.
        aberrations: chi at the edge of the aperture: defocus, two of astigmatism, two of coma, spherical aberration.
        source: standard deviation of the source's image.
        shift: of the detector against the beam (fast, slow).
        pixel: side of a camera pixel.
        reach: largest angle of the camera.
    """

    optics: Optics
    sampling: float
    aberrations: tuple[float, float, float, float, float, float] = (0.0,) * 6
    source: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    pixel: float = 0.16
    reach: float = RINGS[-1][1]

    @property
    def resolution_nm(self) -> float:
        """Resolution element lambda / (2 alpha)."""
        return self.optics.wavelength_nm / (2e-3 * self.optics.convergence_mrad)

    def field(self, side: int = SIDE) -> Field:
        """The scanned square of the specimen."""
        return Field(side * self.sampling * self.resolution_nm, side * FINER, self.optics)


def random_conditions(rng: np.random.Generator) -> Conditions:
    """Draw energy, angle, step and the errors that the network is not given."""
    optics = Optics(energy_kev=float(rng.uniform(60, 300)), convergence_mrad=float(rng.uniform(15, 32)))
    sampling = float(np.exp(rng.uniform(*np.log(SAMPLING))))
    strength = np.array([3.0, 1.0, 1.0, 0.7, 0.7, 0.7]) * (rng.random() < 0.6)
    chi = tuple(float(value) for value in rng.uniform(-strength, strength))
    shift = rng.uniform(-0.2, 0.2, 2) * (rng.random() < 0.7)
    return Conditions(
        optics,
        sampling,
        chi,  # type: ignore[arg-type]
        source=float(rng.uniform(0.0, 0.4)) * float(rng.random() < 0.5),
        shift=(float(shift[0]), float(shift[1])),
        pixel=float(rng.uniform(0.13, 0.2)),
        reach=float(rng.uniform(1.4, RINGS[-1][1])) if rng.random() < 0.3 else RINGS[-1][1],
    )


def segment_sums(phase: Floats, conditions: Conditions) -> NDArray[np.float32]:
    """Fraction of the beam in each segment at every position of a periodic scan, (34, n, n).

    Args:
        phase: of the specimen, rad, (FINER * n, FINER * n).
        conditions: of the scan.
    """
    n, pixel = len(phase) // FINER, conditions.pixel
    half = math.ceil((RINGS[-1][1] + 0.25) / pixel)
    grid = DiffractionGrid(
        shape=(2 * half + 1, 2 * half + 1),
        pixel_mrad=pixel,
        centre_px=(half + conditions.shift[1] / pixel, half + conditions.shift[0] / pixel),
    )
    part = fractions(grid, 1.0).reshape(-1, (2 * half + 1) ** 2)
    y, x = ((axis.ravel() - half) * pixel for axis in np.indices(grid.shape))
    used = (part.sum(axis=0) > 0) & (np.maximum(np.abs(x), np.abs(y)) <= conditions.reach)
    spectrum = scipy.fft.fft2(np.exp(1j * phase)).astype(np.complex64) / phase.size
    angles, part = np.stack([x, y], axis=-1)[used], part[:, used]
    total = np.zeros((len(part), n * n), np.float32)
    interval = 2.0 / (n * conditions.sampling)
    for first in range(0, len(angles), AT_ONCE):
        some = angles[first : first + AT_ONCE]
        waves = np.zeros((len(some), n, n), np.complex64)
        _cut(spectrum, some, interval, np.array(conditions.aberrations), waves)
        waves = scipy.fft.ifft2(waves, overwrite_x=True, norm="forward")
        total += part[:, first : first + AT_ONCE] @ (waves.real**2 + waves.imag**2).reshape(len(some), -1)
    sums = total.reshape(-1, n, n) * (pixel**2 / math.pi)
    return _blurred(sums, conditions.source / conditions.sampling)


def true_phase(phase: Floats, conditions: Conditions) -> NDArray[np.float32]:
    """The phase at the positions of the scan, band-limited to 2 alpha / lambda, (n, n)."""
    n = len(phase) // FINER
    return limited(phase, conditions.field(n))[::FINER, ::FINER].astype(np.float32)


@dataclass(frozen=True, eq=False)
class Scan:
    """A simulated scan.

    Attributes:
        sums: from `segment_sums`.
        truth: from `true_phase`.
        conditions: of the scan.
        atomic: the specimen has atoms.
    """

    sums: NDArray[np.float32]
    truth: NDArray[np.float32]
    conditions: Conditions
    atomic: bool


def random_scan(seed: tuple[int, ...], side: int = SIDE) -> Scan:
    """Draw conditions and specimen, and simulate the scan."""
    rng = np.random.default_rng(seed)
    conditions, atomic = random_conditions(rng), bool(rng.random() >= NON_ATOMIC)
    phase = random_phase(conditions.field(side), rng, atomic)
    return Scan(segment_sums(phase, conditions), true_phase(phase, conditions), conditions, atomic)


def _blurred(sums: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur each map by a Gaussian, in steps; periodic."""
    if sigma <= 0:
        return sums
    k2 = np.fft.fftfreq(sums.shape[1])[:, None] ** 2 + np.fft.rfftfreq(sums.shape[2]) ** 2
    gain = np.exp(-2 * np.pi**2 * sigma**2 * k2).astype(np.float32)
    return np.maximum(scipy.fft.irfft2(scipy.fft.rfft2(sums) * gain, s=sums.shape[1:]), 0.0).astype(np.float32)


@numba.njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _cut(
    spectrum: NDArray[np.complex64], angles: Floats, interval: float, chi: Floats, out: NDArray[np.complex64]
) -> None:
    """Copy the spectrum under the aberrated aperture around each angle (x, y), wrapped to the frequencies of the scan.

    The aperture's phase is that of the incident direction K - Q.
    """
    size, n, reach = spectrum.shape[0], out.shape[1], 1.0 / interval
    aberrated = np.any(chi != 0.0)
    for i in range(len(angles)):
        middle_x, middle_y = angles[i, 0] / interval, angles[i, 1] / interval
        for row in range(math.ceil(middle_y - reach), math.floor(middle_y + reach) + 1):
            v = (middle_y - row) * interval
            width = math.sqrt(max(0.0, 1.0 - v * v)) * reach
            for column in range(math.ceil(middle_x - width), math.floor(middle_x + width) + 1):
                u = (middle_x - column) * interval
                value = spectrum[row % size, column % size]
                if aberrated:
                    r2 = u * u + v * v
                    phase = chi[0] * r2 + chi[1] * (u * u - v * v) + chi[2] * 2 * u * v
                    phase += r2 * (chi[3] * u + chi[4] * v) + chi[5] * r2 * r2
                    value *= complex(math.cos(phase), -math.sin(phase))
                out[i, row % n, column % n] += value
