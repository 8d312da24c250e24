"""The image of a ring detector, and what an agent makes of it: made when asked, kept until more positions arrive."""

from abc import ABC, abstractmethod
from typing import Generic, Literal, TypeVar

from agents.base import Reconstruction, StreamMeta
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


class RingAgent(ABC, Generic[Made]):
    """Agent that sums the ring's counts as they arrive, and makes something of their image when asked.

    What was made is kept until more positions arrive.

    Args:
        name: of the agent.
        options: the ring.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self._ring = VirtualDetectors(name, options)
        self._made: tuple[Made, tuple[str, ...]] | None = None

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or a stream that lacks an angle.
            AngleError: the ring lies beyond the camera.
        """
        meta.need_grid(self.name)
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
            self._made = self.make(image), sums.notes
        return self._made

    @abstractmethod
    def make(self, image: Floats) -> Made:
        """Make something of the image in counts, (rows, columns), NaN where nothing has arrived."""

    @abstractmethod
    def result(self) -> Reconstruction:
        """The result so far, from what was made."""
