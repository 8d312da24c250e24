"""High-angle annular dark field: 4.5 to 9.5 times the convergence angle; heavy atoms are bright."""

from collections.abc import Mapping
from typing import Any, ClassVar

from agents.base import Agent
from agents.methods.virtual import RingOptions, VirtualDetectors
from twin.options import checked_options, validated


@validated
class Options(RingOptions):
    """See `RingOptions`."""

    LAYOUT: ClassVar[str] = "haadf"


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return VirtualDetectors(Options.LAYOUT, checked_options(Options, options))
