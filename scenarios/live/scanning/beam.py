"""The beam of a twin's scan in the page: corrected or not, or with the corrector as it stands in the hand."""

from dataclasses import dataclass, replace
from typing import Literal

from scenarios.live.plain import changes_in_words
from scenarios.schema import Scenario
from twin.arrays import Array

Choice = Literal["scenario", "uncorrected", "microscope", "corrected"]
"""As the scan's scenario says; as the seed hides it; with the corrector as it stands in the hand; corrected."""


@dataclass(frozen=True, eq=False)
class Beam:
    """The beam that scans.

    Attributes:
        choice: of the operator.
        input_nm: sum of the inputs of the corrector in the hand, (n,), for "microscope"; otherwise None.

    Example:
        >>> from scenarios.schema import load
        >>> Beam("scenario").words(load("sto_001"))
        'corrected; what the corrector does not reach is left'
    """

    choice: Choice
    input_nm: Array | None = None

    def of(self, scenario: Scenario) -> Scenario:
        """Return a scenario whose scan begins with this beam, but for `input_nm`."""
        if self.choice == "scenario" or scenario.scan is None:
            return scenario
        return scenario.model_copy(update={"scan": replace(scenario.scan, corrected=self.choice == "corrected")})

    def words(self, scenario: Scenario) -> str:
        """Return what the operator reads."""
        if self.input_nm is not None:
            return f"corrector as in Microscope: {changes_in_words(scenario.space, self.input_nm)}"
        if self.of(scenario).required_scan.corrected:
            return "corrected; what the corrector does not reach is left"
        return "uncorrected: as the seed hides it"
