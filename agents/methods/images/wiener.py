"""Dark-field image under Wiener's filter of stabilised counts: the classical restoration against shot noise."""

from collections.abc import Mapping
from typing import Any

from agents.base import Agent
from agents.methods.detectors._ring_image import Options
from agents.methods.images._restored import RestoredRing
from agents.restoration.wiener import wiener
from twin.options import checked_options

NAME = "wiener"


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`.

    Example:
        >>> make({"layout": "bf"}).name
        'wiener'
    """
    return RestoredRing(NAME, checked_options(Options, options), lambda image: (wiener(image), None))
