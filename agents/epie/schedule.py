"""Step sizes through the passes of ePIE, and the criterion that ends them."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from agents.epie.engine import Steps
from twin.options import Count, NonNegative, validated

PROBE_COUNTS = 1000.0
"""Counts of a frame at which the step of the probe is half of `probe_step`: faint frames hardly determine it."""

PROBE_END = 0.1
"""Step of the probe in the last pass over that in the first: its noise has to average out over all frames."""

POSITIONS_AFTER = 5
"""Passes after the scan before positions may change: they need an object to be found on."""

POSITION_STEP = 0.5
"""Fraction of the most likely correction of a position that is made after each pass: the object follows."""

FLAT_PASSES = 5
"""Passes over which the error has to stay within the tolerance to be converged."""


@validated
class Schedule:
    """Options of the iteration.

    Attributes:
        passes: largest number of passes over all retained frames after the scan.
        anneal: number of passes through which caution grows and the step of the probe falls; at most `passes`.
        tolerance: relative change of the amplitude error over 5 passes, after annealing, below which it has converged.
        object_step: see `epie.engine.Steps`.
        probe_step: see `epie.engine.Steps`; frames of c counts scale it by c / (c + 1000), and it falls to a tenth
            through the annealing. 0 keeps the probe fixed.
        probe_after: passes before the probe may change.
        caution, final_caution: see `epie.engine.Steps`; of live rounds and the first pass after the scan, and of the
            last pass of the annealing. 0 and 0 is ePIE as published.
        update: "fisher" (a step of Fisher scoring), or "published": the measured amplitude replaces the modelled one
            (Maiden and Rodenburg 2009), whatever the caution.
        positions: whether the positions of the scan are refined in the passes after it.
    """

    passes: Annotated[int, Ge(0)] = 100
    anneal: Count = 40
    tolerance: NonNegative = 1e-3
    object_step: Annotated[float, Gt(0), Le(2)] = 1.0
    probe_step: Annotated[float, Ge(0), Le(2)] = 0.5
    probe_after: Annotated[int, Ge(0)] = 3
    caution: NonNegative = 1.0
    final_caution: NonNegative = 100.0
    update: Literal["fisher", "published"] = "fisher"
    positions: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.caution <= self.final_caution:
            raise ValueError(f"need 0 <= caution <= final_caution, got {self.caution} and {self.final_caution}")

    def steps(self, progress: float, counts: float, hold_probe: bool = False) -> Steps:
        """Step sizes at a `progress` of 0 to 1 of the annealing for frames of `counts`; caution grows geometrically."""
        caution = (1.0 + self.caution) ** (1.0 - progress) * (1.0 + self.final_caution) ** progress - 1.0
        if self.update == "published":
            caution = 0.0
        probe = self.probe_step * PROBE_END**progress * counts / (counts + PROBE_COUNTS)
        return Steps(self.object_step, 0.0 if hold_probe else probe, caution)

    def progress(self, done: int) -> float:
        """Progress of the annealing after `done` passes, 0 to 1."""
        return min(1.0, done / max(min(self.anneal, self.passes) - 1, 1))

    def flat(self, errors: Sequence[float]) -> bool:
        """True if the errors, one of each pass after the scan, have converged."""
        if len(errors) < self.anneal + FLAT_PASSES:
            return False
        return abs(errors[-1] - errors[-1 - FLAT_PASSES]) < self.tolerance * errors[-1]

    def ending(self, errors: Sequence[float]) -> str:
        """Describe why the passes after the scan ended."""
        if self.flat(errors):
            return (
                f"converged in {len(errors)} passes: the last {FLAT_PASSES} changed the error by less than"
                f" {self.tolerance:.2g} of it"
            )
        before = errors[max(0, len(errors) - 1 - FLAT_PASSES)]
        return (
            f"not converged: the {len(errors)} passes allowed are over (option passes);"
            f" the last {min(len(errors) - 1, FLAT_PASSES)} changed the error by"
            f" {abs(errors[-1] / before - 1):.2g} of it"
        )
