"""Whether the frames of a file have their positions by their numbers, and which number the first position has.

Numbers know of lost, repeated and exchanged frames. Where they begin anew in each line or part, stand still, or do not
fit the scan, the order of the file counts.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

Choice = Literal["number", "order"] | None
ENDS = 64
"""Frames at the beginning and at the end whose numbers are looked at."""
MOST = 2**15
"""Frames that are all looked at where those of the ends are not in order."""


class Numbering(NamedTuple):
    """How positions follow from numbers.

    Attributes:
        origin: number of the first frame of the scan.
        rise: by which numbers rise from one frame to the next.
        followed: positions follow the numbers, not the order of the file.
        absent: frames of the scan before the lowest number of the file.
        falling: some numbers are lower than the one before: what seems lost may come later.
    """

    origin: int
    rise: int
    followed: bool
    absent: int = 0
    falling: bool = False


def numbering(
    read: Callable[[range], Sequence[int]], frames: int, places: int, rise: int, choice: Choice, whole: bool, sure: bool
) -> Numbering:
    """Return how positions follow from the numbers of a file.

    Args:
        read: returns the numbers of frames, without those of damaged ones.
        frames: in the file.
        places: frames of a whole scan, those without a position included.
        rise: by which numbers rise from one frame to the next.
        choice: of the operator.
        whole: the file was not cropped by the operator, so that a scan begins with number 1 (or 0).
        sure: the order of the file is that of the numbers, unless frames are lost or repeated.
    """
    numbers = [*read(range(min(frames, ENDS))), *read(range(max(ENDS, frames - ENDS), frames))]
    plain = _in_order(numbers, frames, rise)
    if not plain and frames <= MOST:
        numbers = list(read(range(frames)))
    if not numbers:
        return Numbering(1, rise, False)
    low, high = min(numbers), max(numbers)
    lost_before = whole and low > 1 and frames < places and (high - 1) // rise < places
    origin = 1 if lost_before else low
    span, known = (high - origin) // rise + 1, len(numbers)
    if known < frames and (frames > MOST or plain):
        fits = frames < span <= places or frames > span == places or (sure and span <= places)
    else:
        fits = span <= places and (len(set(numbers)) == known or span == places)
    followed = choice == "number" or (choice is None and fits and (lost_before or sure or not plain))
    falling = any(after < before for before, after in pairwise(numbers))
    return Numbering(origin, rise, followed, (low - origin) // rise if followed else 0, falling)


def _in_order(numbers: Sequence[int], frames: int, rise: int) -> bool:
    """Return whether numbers rise evenly, also from the beginning to the end of a file of so many frames."""
    if not numbers or (numbers[-1] - numbers[0]) // rise + 1 != frames:
        return False
    steps = [after - before for before, after in pairwise(numbers)]
    return sum(step != rise for step in steps) <= (len(numbers) < frames)
