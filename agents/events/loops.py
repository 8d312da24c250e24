"""Compiled loops of `events.order` over events as four 32-bit words, (n, 4), the layout of a `.t3p` record.

All in one file: numba's cache checks the file of the function that is called, and would miss a change elsewhere.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from twin.formats.event_clock import AFTER, BEFORE, BETWEEN, LAST_TICK, PER_TICK, REFUSED, Ticks

Words = NDArray[np.uint32]
Indptr = NDArray[np.int64]

OUTSIDE, ABSURD, LATE, EARLY = -5, -6, -7, -8
"""Codes instead of a position: beyond the camera, invalid time, of a finished position, far ahead of the others."""

NEVER = np.iinfo(np.int64).min
"""Invalid time."""


def ended(time: int, clock: Ticks) -> int:
    """Number of positions whose dwell time has ended at a time, in quarters of a picosecond."""
    line, within = divmod(time - clock.start, clock.line)
    column = min(max((within - clock.settle) // clock.dwell, 0), clock.columns)
    return min(max(line * clock.columns + column, 0), clock.positions)


@numba.njit(cache=True)
def arrival(words: Words, i: int, fine: int) -> int:
    """Time of one event in quarters of a picosecond, or NEVER; see `event_clock.event_time`."""
    tick = np.int64(np.uint64(words[i, 1]) | (np.uint64(words[i, 2]) << np.uint64(32)))
    if not 0 <= tick < LAST_TICK:
        return NEVER
    return int(tick) * PER_TICK - ((int(words[i, 3]) >> 8) & 255) * fine - fine // 2


@numba.njit(cache=True)
def divide(time: int, unit: int, inverse: float) -> tuple[int, int]:
    """Quotient and remainder of a non-negative time without an integer division, which is slow.

    For quotients below 2^31 the product with the inverse is wrong by less than one; the remainder corrects it.
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
    """Position of one event, see `EventClock.position`."""
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
    """Start of the dwell time of a position."""
    line = position // clock.columns
    return clock.start + line * clock.line + clock.settle + (position - line * clock.columns) * clock.dwell


@numba.njit(cache=True)
def in_order(words: Words, pixels: int, fine: int) -> bool:
    """True if the times do not fall and no event is obviously invalid.

    Without a branch per event, in pieces, to end early for a stream that is not in order. A tick of 2^46, 20 days, is
    taken for invalid.
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
    """Compute `split_sorted` of events in order in a scan without pauses, by a search for the boundaries alone."""
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
    """Find the boundaries of positions in events that are in order.

    Consecutive events of one position take a comparison each: there is one division per position.

    Args:
        words: (n, 4).
        pixels: number of camera pixels.
        fine: length of a step of fine time; zero to use the tick alone.
        clock: clock of the scan.
        first: first position.
        indptr: result, (N + 1,), for N positions from the first.

    Returns:
        Number of events in these positions, or -1 if the events are not in order or one has no position.
    """
    stop, position = first + len(indptr) - 1, first
    low, high, given = 0, 0, -1
    for i in range(len(words)):
        time = arrival(words, i, fine)
        if words[i, 0] >= pixels:
            return -1
        if low <= time < high:
            continue
        current = place(time, clock)
        if current < position:
            return -1
        for k in range(position, min(current, stop)):
            indptr[k - first + 1] = i
        if current >= stop and given < 0:
            given = i
        position = current
        low = begins(current, clock)
        high = low + clock.accept
    given = len(words) if given < 0 else given
    for k in range(position, stop):
        indptr[k - first + 1] = given
    return given


@numba.njit(cache=True)
def classify(words: Words, pixels: int, fine: int, clock: Ticks, position: NDArray[np.int64]) -> None:
    """Write the position of each event, or the code of its fault, to `position`, (n,)."""
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
    """Mark events of positions before `done` as late, and earlier waiting ones beyond `limit` as early."""
    for i in range(len(words)):
        if 0 <= position[i] < done:
            position[i] = LATE
        elif i < known and position[i] >= 0 and arrival(words, i, fine) > limit:
            position[i] = EARLY


@numba.njit(cache=True)
def tally(position: NDArray[np.int64], first: int, indptr: Indptr, dropped: NDArray[np.int64]) -> int:
    """Count events by position.

    Args:
        position: position of each event, or the negative code of its fault, (n,).
        first: first position.
        indptr: result, (N + 1,): boundaries of N positions from the first.
        dropped: result: number of events of each code.

    Returns:
        Number of events of later positions.
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
    """Sort events by position into `ordered`, those of later positions into `waiting`, both in order of arrival."""
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
def latest(words: Words, pixels: int, fine: int, number: int) -> NDArray[np.int64]:
    """Times of the last `number` events that are not obviously invalid, in order of arrival."""
    found = np.empty(number, np.int64)
    count = 0
    for i in range(len(words) - 1, -1, -1):
        time = arrival(words, i, fine)
        if words[i, 0] < pixels and time != NEVER:
            found[count] = time
            count += 1
            if count == number:
                break
    return found[:count][::-1].copy()


@numba.njit(cache=True)
def unwrap(words: Words, bits: int, reference: int) -> int:
    """Unwrap a tick counter that rolls over, in place; return the time of the stream in ticks after these events.

    Times jump by less than half the range of the counter: a larger jump backwards is a rollover, a larger one forwards
    an event from before it.

    Args:
        words: (n, 4).
        bits: bits of the counter; a time beyond it, or before its first round, becomes invalid.
        reference: result of the last call.
    """
    span = 1 << bits
    half, limit = span >> 1, span >> 3
    for i in range(len(words)):
        tick = int(words[i, 1]) | int(words[i, 2]) << 32
        if not 0 <= tick < span:
            words[i, 1], words[i, 2] = np.uint32(2**32 - 1), np.uint32(2**31 - 1)
            continue
        step = ((tick - reference + half) & (span - 1)) - half
        unwrapped = np.uint64(reference + step)  # before the first round: beyond 2^63, invalid
        words[i, 1], words[i, 2] = np.uint32(unwrapped & np.uint64(0xFFFFFFFF)), np.uint32(unwrapped >> np.uint64(32))
        # A limited step: a few events with an invalid time must not move the reference to another round.
        reference += min(max(step, -limit), limit)
    return reference
