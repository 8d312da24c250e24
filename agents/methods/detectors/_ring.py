"""One disc or ring detector: the agents bf, abf, adf and haadf are presets of it."""

from collections.abc import Mapping
from typing import Any, Literal

from agents.base import Agent, StreamMeta
from agents.methods.detectors.virtual import VirtualDetectors, camera_grid
from twin.detectors.layouts import LAYOUTS, Detector, Region
from twin.options import NonNegative, OptionError, Positive, checked_options, validated


@validated
class Options:
    """Settings of one disc or ring; can be changed while the stream runs.

    Attributes:
        layout: usual radii, multiples of the convergence angle; the name of the agent.
        inner_mrad, outer_mrad: the ring; None is the usual radius, the outer one limited to the camera.
        centre_px: (row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2).
    """

    layout: Literal["bf", "abf", "adf", "haadf"]
    inner_mrad: NonNegative | None = None
    outer_mrad: Positive | None = None
    centre_px: tuple[float, float] | None = None

    def detectors_of(self, meta: StreamMeta, agent: str) -> dict[str, Detector]:
        """The ring in mrad; see `DetectorOptions`."""
        inner, outer = self._radii_mrad(meta, agent)
        reach = min(camera_grid(meta, self.centre_px, agent).reach_mrad)
        if self.outer_mrad is None and inner < reach:
            outer = min(outer, reach)
        try:
            return {self.layout: (Region(inner_mrad=inner, outer_mrad=outer),)}
        except ValueError as error:
            raise OptionError(f"{agent}: inner_mrad {inner:g} must lie below outer_mrad {outer:g}") from error

    def remarks(self, meta: StreamMeta, agent: str) -> tuple[str, ...]:
        """Note a ring that the camera cuts off."""
        usual, used = self._radii_mrad(meta, agent)[1], self.detectors_of(meta, agent)[self.layout][0].outer_mrad
        return (f"ends with the camera at {used:.1f} mrad, not at {usual:.1f} mrad",) if used < usual else ()

    def _radii_mrad(self, meta: StreamMeta, agent: str) -> tuple[float, float]:
        """Radii as set, else the usual multiples of the convergence angle."""
        usual = LAYOUTS[self.layout].radii
        inner, outer = (
            usual[side] * meta.need("convergence_mrad", agent) if given is None else given
            for side, given in ((0, self.inner_mrad), (-1, self.outer_mrad))
        )
        return inner, outer


class Ring(VirtualDetectors):
    """One disc or ring, named after its usual radii."""

    def configure(self, **changes: Any) -> None:
        """Change the radii or the centre for the positions to come.

        Raises:
            OptionError: as `VirtualDetectors.configure`, or a `layout`, which is another agent.
        """
        if changes.get("layout", self.name) != self.name:
            raise OptionError(f"{self.name} has layout={self.name}, got {changes['layout']!r}: choose another agent")
        super().configure(**changes)


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent of a preset; see `agents.load`."""
    checked = checked_options(Options, options)
    return Ring(checked.layout, checked)
