"""The image of a ring detector, and what an agent makes of it: made when asked, kept until more positions arrive."""

from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from agents.base import StreamMeta
from agents.block import Block
from agents.methods.detectors import _ring
from agents.methods.detectors.virtual import VirtualDetectors
from twin.arrays import Floats
from twin.options import validated

Made = TypeVar("Made")


@validated
class Options(_ring.Options):
    """The ring.

    Attributes:
        layout: usual radii of the ring, multiples of the convergence angle.
    """

    layout: Literal["bf", "abf", "adf", "haadf"] = "adf"


class RingImage(Generic[Made]):
    """Sums the ring's counts as they arrive.

    Args:
        name: of the agent.
        options: the ring.
        make: called with the image in counts, (rows, columns), NaN where nothing has arrived.
    """

    def __init__(self, name: str, options: Options, make: Callable[[Floats], Made]) -> None:
        self._name, self._make = name, make
        self._ring = VirtualDetectors(name, options)
        self._made: tuple[Made, tuple[str, ...]] | None = None

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or a stream that lacks an angle.
            AngleError: the ring lies beyond the camera.
        """
        meta.need_grid(self._name)
        self._ring.start(meta)
        self._made = None

    def update(self, block: Block) -> None:
        """Add the counts of the positions."""
        self._ring.update(block)
        self._made = None

    def made(self) -> tuple[Made, tuple[str, ...]]:
        """What `make` returns for the image so far, and the notes of the ring."""
        if self._made is None:
            sums = self._ring.result()
            (image,) = (found.values for found in sums.images.values())
            self._made = self._make(image), sums.notes
        return self._made
