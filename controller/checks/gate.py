"""The gate: which frames a controller may learn from, and why the others are refused."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from controller import preprocess
from controller.canonical.preparation import Prepared
from controller.checks import specimen
from controller.checks.saturation import saturated
from twin.optics import Optics
from twin.types import Frame

SATURATED = 0.005
"""Fraction of the lit pixels at the largest count from which a frame is saturated."""
LEAST_DOSE_E = 2e4
"""Effective dose below which nothing can be read: training days have at least 1.5e5 electrons."""

UNCERTAIN = "the frames so far may be of no specimen at all: more of them, or a higher dose, will tell"
NO_SPECIMEN = "no specimen is seen, only an evenly lit disc"


@dataclass
class FrameGate:
    """Examines the frames of one run, in order.

    Attributes:
        optics: beam, on the reference camera.
        seen: number of each earlier frame, from 1, by the digest of its counts.
        log_odds: of a specimen, by the frames that were used.
    """

    optics: Optics
    seen: dict[str, int] = field(default_factory=dict)
    log_odds: float = 0.0

    @property
    def shows_specimen(self) -> bool:
        """Whether the frames that were used together show more than an empty disc."""
        return self.log_odds >= specimen.CERTAIN

    def examine(self, raw: Frame, prepared: Prepared, may_be_flat: bool) -> str:
        """Return why a frame cannot be used; empty if it can.

        Args:
            raw: as the camera gave it.
            prepared: the same, prepared.
            may_be_flat: the run has shown a specimen and expects one in focus, which shows nothing without coma.
        """
        digest = hashlib.sha1(np.ascontiguousarray(raw.counts).tobytes(), usedforsecurity=False).hexdigest()
        if digest in self.seen:
            return f"the frame is frame {self.seen[digest]} again, byte for byte: the camera does not deliver new ones"
        self.seen[digest] = len(self.seen) + 1
        share = saturated(raw)
        if share > SATURATED:
            return f"the frame is saturated: {100 * share:.1f} % of its lit pixels have the largest count"
        if prepared.dose_e < LEAST_DOSE_E:
            return f"the frame is nearly empty: {prepared.dose_e:.1e} electrons, at least {LEAST_DOSE_E:.0e} are needed"
        evidence = specimen.evidence(preprocess.above_dark(prepared.frame), self.optics)
        if evidence.none and not may_be_flat:
            return NO_SPECIMEN
        self.log_odds += max(evidence.any_film, 0.0) if may_be_flat else evidence.any_film
        return ""
