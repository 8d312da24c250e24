"""What makes Ronchigrams: from aberrations and regions of the specimen to the expected intensity on the camera."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import Aberrations


class Renderer(Protocol):
    """From aberrations and a specimen region to the expected intensity on the camera."""

    def probability(
        self,
        aberrations: Sequence[Aberrations],
        region_seeds: Sequence[int],
        grown_nm: Sequence[float] | None = None,
    ) -> NDArray[np.float32]:
        """Expected fraction of the beam per camera pixel (whole beam = 1), shape (N, H, W).

        Args:
            aberrations: N full states, calibrated and residual; C10 counts from the film's mid-plane.
            region_seeds: N film regions; the same seed gives the same region.
            grown_nm: contamination of each region; None: none.

        Raises:
            AliasingError: the window cannot hold a probe.
            ValueError: not as many states as regions.
        """
        ...


class FrameByFrame(ABC):
    """A `Renderer` of one frame after the other."""

    def probability(
        self, aberrations: Sequence[Aberrations], region_seeds: Sequence[int], grown_nm: Sequence[float] | None = None
    ) -> NDArray[np.float32]:
        """See `Renderer.probability`."""
        if len(aberrations) != len(region_seeds):
            raise ValueError(f"{len(aberrations)} aberration states for {len(region_seeds)} regions")
        for state in aberrations:  # before any work
            self.check(state)
        grown_nm = grown_nm or [0.0] * len(region_seeds)
        return np.stack([self.frame(*exposed) for exposed in zip(aberrations, region_seeds, grown_nm, strict=True)])

    @abstractmethod
    def check(self, aberrations: Aberrations) -> None:
        """Refuse a state whose probe the computing window cannot hold.

        Raises:
            AliasingError: with the window that it needs.
        """

    @abstractmethod
    def frame(self, aberrations: Aberrations, region_seed: int, grown_nm: float = 0.0) -> NDArray[np.float32]:
        """One frame of `probability`, shape (H, W); the state is not checked."""
