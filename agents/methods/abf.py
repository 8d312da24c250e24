"""Annular bright field: the outer half of the disc; atoms, light ones too, are dark."""

from collections.abc import Mapping
from typing import Any, ClassVar

from agents.base import Agent
from agents.methods.virtual import RingOptions, VirtualDetectors
from twin.options import checked_options, validated


@validated
class Options(RingOptions):
    """See `RingOptions`."""

    LAYOUT: ClassVar[str] = "abf"


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return VirtualDetectors(Options.LAYOUT, checked_options(Options, options))
