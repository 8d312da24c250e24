"""Bright field: electrons within the aperture's disc."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from agents.base import Agent
from agents.methods.virtual import STRICT, RingOptions, VirtualDetectors
from twin.options import checked_options


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Options(RingOptions):
    """See `RingOptions`."""

    LAYOUT: ClassVar[str] = "bf"


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return VirtualDetectors(Options.LAYOUT, checked_options(Options, options))
