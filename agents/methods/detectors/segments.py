"""Segmented detector: the disc cut into quadrants, annular quadrants or sixteen segments, one image each."""

from collections.abc import Mapping
from typing import Any, Literal

from agents.base import Agent, StreamMeta
from agents.methods.detectors.virtual import VirtualDetectors
from twin.detectors.layouts import Detector, standard
from twin.options import checked_options, validated

NAME = "segments"


@validated
class Options:
    """Settings of `segments`; can be changed while the stream runs. Other segments: agent `virtual`.

    Attributes:
        layout: one of `twin.detectors.layouts.LAYOUTS`; segments are counted from the camera's +x towards +y.
        centre_px: (row, column) of zero angle; None is that of the metadata, else (H // 2, W // 2).
    """

    layout: Literal["quadrants", "annular_quadrants", "sixteen_segments"] = "quadrants"
    centre_px: tuple[float, float] | None = None

    def detectors_of(self, meta: StreamMeta, agent: str) -> dict[str, Detector]:
        """The segments in mrad; see `DetectorOptions`."""
        return {self.layout: standard(self.layout, meta.need("convergence_mrad", agent))}

    def remarks(self, meta: StreamMeta, agent: str) -> tuple[str, ...]:
        """None."""
        return ()


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`.

    Example:
        >>> agent = make({"layout": "quadrants"})
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> meta = StreamMeta(Layout((4, 6), (16, 16)), Metadata(convergence_mrad=10, pixel_mrad=4))
        >>> agent.start(meta)
        >>> sorted(agent.result().images)
        ['quadrants_0', 'quadrants_1', 'quadrants_2', 'quadrants_3']
    """
    return VirtualDetectors(NAME, checked_options(Options, options))
