"""Options of the sources that read a list of frames in read-out order and give the frames their positions."""

from typing import Annotated

from annotated_types import Ge

from agents.sources import Shape
from twin.options import Count, validated


@validated
class FrameListOptions:
    """Which frames of a file are read, and where in the scan they belong.

    Attributes:
        scan: (rows, columns), or (N,).
        first_frame, last_frame: of the stored frames, the first that is read and the one after the last; negative ones
            count from the end.
        skip_frames: frames at the beginning without a position.
        serpentine: odd rows run backwards.
        block_bytes: memory of the frames in a block.
    """

    scan: Shape | None = None
    first_frame: int | None = None
    last_frame: int | None = None
    skip_frames: Annotated[int, Ge(0)] = 0
    serpentine: bool = False
    block_bytes: Count = 2**22
