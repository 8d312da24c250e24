"""Dark-field image restored by a network: shot noise, jitter and the detector's tail, with a spread for every pixel.

The network is that of `stemtwin train restoration`. It knows crystals, their edges and defects, and amorphous matter
from simulated images (docs/quantify.md says what it does wrong).
"""

from collections.abc import Mapping
from typing import Any

from agents.base import Agent
from agents.methods.detectors import _ring_image
from agents.methods.images._restored import RestoredRing
from twin.arrays import Floats
from twin.options import checked_options, validated

NAME = "restore"


@validated
class Options(_ring_image.Options):
    """The ring and the network.

    Attributes:
        weights: name of shipped weights, or a file.
    """

    weights: str = "restoration"


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`.

    Example:
        >>> make({"layout": "adf"}).name
        'restore'
    """
    checked = checked_options(Options, options)
    # Torch is imported when the agent is chosen.
    from agents.restoration.apply import restored
    from agents.restoration.network import WEIGHTS
    from learning.weights_file import find

    trained = WEIGHTS.load(find(checked.weights, WEIGHTS.shipped))

    def restore(image: Floats) -> tuple[Floats, Floats | None]:
        found = restored(image, trained)
        return found.values, found.spread

    return RestoredRing(NAME, checked, restore)
