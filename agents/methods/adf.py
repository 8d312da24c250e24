"""Annular dark field: electrons scattered beyond the disc, to 4.5 times the convergence angle."""

from collections.abc import Mapping
from typing import Any, ClassVar

from agents.base import Agent
from agents.methods.virtual import RingOptions, VirtualDetectors
from twin.options import checked_options, validated


@validated
class Options(RingOptions):
    """See `RingOptions`."""

    LAYOUT: ClassVar[str] = "adf"


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return VirtualDetectors(Options.LAYOUT, checked_options(Options, options))
