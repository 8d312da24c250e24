"""The compiled loops of `events.order`: events as four 32-bit words each, (n, 4), as they lie in a `.t3p` record.

All in one file: numba's cache looks at the file of the function that is called, and would miss a change elsewhere.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from twin.formats.event_clock import AFTER, BEFORE, BETWEEN, LAST_TICK, PER_TICK, REFUSED, Ticks

Words = NDArray[np.uint32]
Indptr = NDArray[np.int64]

OUTSIDE, ABSURD, LATE, EARLY = -5, -6, -7, -8
"""In place of a position: beyond the camera, no time at all, of a position that is done, far ahead of the rest."""

NEVER = np.iinfo(np.int64).min
"""What is no time."""


def ended(time: int, clock: Ticks) -> int:
    """Positions whose dwell is over at a time, in quarters of a picosecond."""
    line, within = divmod(time - clock.start, clock.line)
    column = min(max((within - clock.settle) // clock.dwell, 0), clock.columns)
    return min(max(line * clock.columns + column, 0), clock.positions)


@numba.njit(cache=True)
def arrival(words: Words, i: int, fine: int) -> int:
    """Time of one event in quarters of a picosecond, or NEVER; the `event_clock.event_time` of one record."""
    tick = np.int64(np.uint64(words[i, 1]) | (np.uint64(words[i, 2]) << np.uint64(32)))
    if not 0 <= tick < LAST_TICK:
        return NEVER
    return int(tick) * PER_TICK - ((int(words[i, 3]) >> 8) & 255) * fine - fine // 2


@numba.njit(cache=True)
def divide(time: int, unit: int, inverse: float) -> tuple[int, int]:
    """Quotient and rest of a time that is not negative, without the slow division of whole numbers.

    The product with the inverse is off by less than one, for quotients below 2^31; the rest tells.
    """
    quotient = int(time * inverse)
    rest = time - quotient * unit
    if rest < 0:
        return quotient - 1, rest + unit
    if rest >= unit:
        return quotient + 1, rest - unit
    return quotient, rest


@numba.njit(cache=True)
def place(time: int, clock: Ticks) -> int:
    """`EventClock.position` of one event."""
    if time < clock.start:
        return BEFORE
    if time >= clock.end:
        return AFTER
    line, within = divide(time - clock.start, clock.line, 1.0 / clock.line)
    within -= clock.settle
    if within < 0 or within >= clock.columns * clock.dwell:
        return BETWEEN
    column, since = divide(within, clock.dwell, 1.0 / clock.dwell)
    if since >= clock.accept:
        return REFUSED
    return line * clock.columns + column


@numba.njit(cache=True)
def begins(position: int, clock: Ticks) -> int:
    """When a position's dwell begins."""
    line = position // clock.columns
    return clock.start + line * clock.line + clock.settle + (position - line * clock.columns) * clock.dwell


@numba.njit(cache=True)
def in_order(words: Words, pixels: int, fine: int) -> bool:
    """Whether no event comes before the one in front of it, and none is garbage on the face of it.

    Without a branch per event, in pieces: a stream that is not in order shows that soon. A tick of 2^46, 20 days, is as
    good as garbage here.
    """
    before, back = np.int64(0), np.int64(fine > 0)
    for begin in range(0, len(words), 1024):
        part = words[begin : begin + 1024]
        bad = np.int64(0)
        for i in range(len(part)):
            tick = np.int64(np.uint64(part[i, 1]) | (np.uint64(part[i, 2]) << np.uint64(32)))
            time = (tick << 4) - ((np.int64(part[i, 3]) >> 8) & 255) * back
            bad |= np.int64(part[i, 0] >= pixels) | np.int64(time < before) | (tick >> 46)
            before = time
        if bad != 0:
            return False
    return True


@numba.njit(cache=True)
def split_ordered(words: Words, pixels: int, fine: int, clock: Ticks, first: int, indptr: Indptr) -> int:
    """`split_sorted` of events that are `in_order` within a scan without pauses: only the boundaries are looked for."""
    whole = clock.accept == clock.dwell and clock.settle == 0 and clock.line == clock.columns * clock.dwell
    if not whole or not in_order(words, pixels, fine):
        return -1
    count = len(words)
    if count and (arrival(words, 0, fine) < begins(first, clock) or arrival(words, count - 1, fine) >= clock.end):
        return -1
    low = 0
    for k in range(1, len(indptr)):
        time, step = begins(first + k, clock), 1
        while low + step <= count and arrival(words, low + step - 1, fine) < time:
            low += step
            step *= 2
        high = min(low + step - 1, count)
        while low < high:
            middle = (low + high) // 2
            if arrival(words, middle, fine) < time:
                low = middle + 1
            else:
                high = middle
        indptr[k] = low
    return low


@numba.njit(cache=True)
def split_sorted(words: Words, pixels: int, fine: int, clock: Ticks, first: int, indptr: Indptr) -> int:
    """Boundaries of positions within events that are in order already; how many events they hold.

    Runs of one position cost a comparison each: the division is done once per run.

    Args:
        words: (n, 4).
        pixels: of the camera.
        fine: length of a step of fine time, zero to go by the tick alone.
        clock: of the scan.
        first: position.
        indptr: result, (N + 1,), for N positions from the first.

    Returns:
        Events within these positions, or -1 when the events are not in order or one belongs nowhere.
    """
    stop, position = first + len(indptr) - 1, first
    low, high, given = 0, 0, -1
    for i in range(len(words)):
        time = arrival(words, i, fine)
        if words[i, 0] >= pixels:
            return -1
        if low <= time < high:
            continue
        here = place(time, clock)
        if here < position:
            return -1
        for k in range(position, min(here, stop)):
            indptr[k - first + 1] = i
        if here >= stop and given < 0:
            given = i
        position = here
        low = begins(here, clock)
        high = low + clock.accept
    given = len(words) if given < 0 else given
    for k in range(position, stop):
        indptr[k - first + 1] = given
    return given


@numba.njit(cache=True)
def classify(words: Words, pixels: int, fine: int, clock: Ticks, position: NDArray[np.int64]) -> None:
    """The position of each event into `position`, (n,), or what speaks against it."""
    for i in range(len(words)):
        time = arrival(words, i, fine)
        if words[i, 0] >= pixels:
            position[i] = OUTSIDE
        elif time == NEVER:
            position[i] = ABSURD
        else:
            position[i] = place(time, clock)


@numba.njit(cache=True)
def refuse(words: Words, fine: int, done: int, known: int, limit: int, position: NDArray[np.int64]) -> None:
    """Marks events that come too late, before position `done`, and waiting ones that are still beyond `limit`."""
    for i in range(len(words)):
        if 0 <= position[i] < done:
            position[i] = LATE
        elif i < known and position[i] >= 0 and arrival(words, i, fine) > limit:
            position[i] = EARLY


@numba.njit(cache=True)
def tally(position: NDArray[np.int64], first: int, indptr: Indptr, dropped: NDArray[np.int64]) -> int:
    """Counts events by position.

    Args:
        position: of each event, or the negative code of what speaks against it, (n,).
        first: position.
        indptr: result, (N + 1,): boundaries of N positions from the first.
        dropped: result: how many events there are of each code.

    Returns:
        Events of later positions.
    """
    later = 0
    indptr[:] = 0
    for p in position:
        if p < 0:
            dropped[-p] += 1
        elif p < first + len(indptr) - 1:
            indptr[p - first + 1] += 1
        else:
            later += 1
    for k in range(1, len(indptr)):
        indptr[k] += indptr[k - 1]
    return later


@numba.njit(cache=True)
def group(
    words: Words, position: NDArray[np.int64], first: int, indptr: Indptr, ordered: Words, waiting: Words
) -> None:
    """Events into their places by position, and those of later positions into `waiting`; both in order of arrival."""
    free = indptr[:-1].copy()
    later = 0
    for i in range(len(words)):
        if position[i] < 0:
            continue
        k = position[i] - first
        if k < len(free):
            slot = free[k]
            free[k] += 1
            for j in range(4):
                ordered[slot, j] = words[i, j]
        else:
            for j in range(4):
                waiting[later, j] = words[i, j]
            later += 1


@numba.njit(cache=True)
def latest(words: Words, pixels: int, fine: int, most: int) -> NDArray[np.int64]:
    """Times of the last `most` events that are no garbage on the face of it, in order of arrival."""
    found = np.empty(most, np.int64)
    count = 0
    for i in range(len(words) - 1, -1, -1):
        time = arrival(words, i, fine)
        if words[i, 0] < pixels and time != NEVER:
            found[count] = time
            count += 1
            if count == most:
                break
    return found[:count][::-1].copy()


@numba.njit(cache=True)
def unwrap(words: Words, bits: int, reference: int) -> int:
    """Count on over the rollovers of a tick counter, in place; the stream's time in ticks after these events.

    A time jumps by less than half the counter's range: a larger jump backwards is a rollover, a larger one forwards an
    event from before it.

    Args:
        words: (n, 4).
        bits: of the counter; a time beyond it, or before its first round, becomes none.
        reference: what came of the last call.
    """
    span = 1 << bits
    half, most = span >> 1, span >> 3
    for i in range(len(words)):
        tick = int(words[i, 1]) | int(words[i, 2]) << 32
        if not 0 <= tick < span:
            words[i, 1], words[i, 2] = np.uint32(2**32 - 1), np.uint32(2**31 - 1)
            continue
        step = ((tick - reference + half) & (span - 1)) - half
        known = np.uint64(reference + step)  # before the first round: beyond 2^63, no time
        words[i, 1], words[i, 2] = np.uint32(known & np.uint64(0xFFFFFFFF)), np.uint32(known >> np.uint64(32))
        # Not the whole step at once: a few events with a broken time must not carry the count into another round.
        reference += min(max(step, -most), most)
    return reference
