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
        >>> agent = make({"layout": "bf"})
        >>> from agents.base import StreamMeta
        >>> from twin.formats.dataset import Layout, Metadata
        >>> meta = StreamMeta(Layout((4, 6), (16, 16)), Metadata(convergence_mrad=10, pixel_mrad=4))
        >>> agent.start(meta)
        >>> agent.result().images["wiener"].values.shape
        (4, 6)
    """
    return RestoredRing(NAME, checked_options(Options, options), lambda image: (wiener(image), None))
