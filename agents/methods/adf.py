"""Annular dark field: electrons scattered beyond the disc, to 4.5 times the convergence angle."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from agents.base import Agent
from agents.methods.virtual import STRICT, RingOptions, VirtualDetectors
from twin.options import checked_options


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Options(RingOptions):
    """See `RingOptions`."""

    LAYOUT: ClassVar[str] = "adf"


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent."""
    return VirtualDetectors(Options.LAYOUT, checked_options(Options, options))
