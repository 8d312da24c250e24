"""A surrogate microscope for quick experiments: Thon rings instead of Ronchigrams, about a thousand frames a second.

It is no simulation of a Ronchigram, and controllers for Ronchigrams cannot use it. A frame shows the diffractogram of a
thin amorphous film under coherent illumination, `sin^2` of the even part of the aberration phase (Thon 1966, Z.
Naturforsch. 21a, 476), with an envelope and Poisson noise. Task, inputs, limits, reward and the ambiguity of a single
frame (x and -x look alike) are those of the calibration from Ronchigrams. There are no days, no drift, no regions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import aberration_basis
from twin.arrays import Array
from twin.envs.calibration import CalibrationEnv
from twin.errors import NoSession
from twin.optics import Optics
from twin.state import FIRST_ORDER, StateSpace
from twin.types import Capabilities, Frame, Truth

SIDE = 40
REACH_MRAD = 10.0
"""Angle at the edge of the picture: up to five rings per 100 nm of defocus, resolved by its 40 pixels."""
MEAN_COUNTS = 40.0
"""Counts of a bright ring before the envelope."""
EXPOSURE_S = 1.0


class ThonRings:
    """Diffractograms of a weak phase object: `Microscope` and `HasTruth`.

    Args:
        space: calibrated coefficients.

    Example:
        >>> microscope = ThonRings()
        >>> microscope.reset(np.random.default_rng(0))
        >>> microscope.acquire().counts.shape
        (40, 40)
    """

    def __init__(self, space: StateSpace = FIRST_ORDER) -> None:
        pixel_mrad = 2.0 * REACH_MRAD / SIDE
        optics = Optics(camera_pixels=SIDE)
        self._capabilities = Capabilities("surrogate (Thon rings)", optics, space, (SIDE, SIDE), 65535)
        axis = (np.arange(SIDE) - SIDE // 2) * pixel_mrad
        y, x = np.meshgrid(axis, axis, indexing="ij")
        basis = aberration_basis(space.names, x, y, optics.wavelength_nm)
        self._even = (basis + aberration_basis(space.names, -x, -y, optics.wavelength_nm)) / 2
        self._mean = MEAN_COUNTS * np.exp(-(x**2 + y**2) / REACH_MRAD**2)
        self._rng: np.random.Generator | None = None
        self._initial_nm = self._state_nm = self._cumulative_nm = space.zero
        self._clock_s = 0.0

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session; generators in the same state give the same bytes."""
        self._rng = np.random.default_rng(rng.integers(2**32, size=4).tolist())
        self._initial_nm = self._capabilities.space.draw_start(self._rng)
        self._state_nm, self._cumulative_nm = self._initial_nm, self._capabilities.space.zero
        self._clock_s = 0.0

    def apply(self, delta_nm: Array) -> None:
        if self._rng is None:
            raise NoSession("apply")
        self._cumulative_nm = self._capabilities.space.check_input(delta_nm, self._cumulative_nm)
        self._state_nm = self._state_nm + np.asarray(delta_nm, dtype=np.float64)

    def acquire(self) -> Frame:
        if self._rng is None:
            raise NoSession("acquire")
        chi = np.tensordot(self._state_nm, self._even, axes=1)
        counts: NDArray[np.uint16] = self._rng.poisson(self._mean * np.sin(chi) ** 2).astype(np.uint16)
        self._clock_s += EXPOSURE_S
        return Frame(counts, float(self._mean.sum()), EXPOSURE_S, self._clock_s)

    def truth(self) -> Truth:
        """The hidden state now."""
        if self._rng is None:
            raise NoSession("truth")
        return Truth(self._state_nm.copy(), self._initial_nm.copy())


class SurrogateEnv(CalibrationEnv):
    """`CalibrationEnv` on a surrogate: Thon rings of 40 x 40 pixels instead of Ronchigrams. For quick experiments.

    What is learned here does not transfer to Ronchigrams; an algorithm that fails here will fail there: inputs, limits,
    reward and the sign that one frame does not show are the same. There are no days: `reset(options=...)` is refused.

    Registered as `stemtwin/CalibrationSurrogate-v0`, with 40 steps. Observation: Box(0, 255, (40, 40, 1), uint8), y
    before x, 0.5 mrad per pixel; everything else as in `CalibrationEnv`.

    Args:
        space: calibrated coefficients; default C10, C12a, C12b. Odd ones (coma, three-fold astigmatism) do not show.
        observe_input: as in `CalibrationEnv`.
        render_mode: as in `CalibrationEnv`.

    Example:
        >>> env = SurrogateEnv()
        >>> observation, _ = env.reset(seed=0)
        >>> observation.shape
        (40, 40, 1)
    """

    def __init__(
        self, *, space: StateSpace | None = None, observe_input: bool = False, render_mode: str | None = None
    ) -> None:
        made: Any = ThonRings(space or FIRST_ORDER)
        super().__init__(made, observe_input=observe_input, render_mode=render_mode)
