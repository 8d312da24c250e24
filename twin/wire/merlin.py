"""What a Merlin (Medipix3) camera sends on its data port, as bytes: no sockets, no threads.

Every message is `MPX,` + ten digits + `,` + payload, the number being the payload's length plus one. A text header
(HDR) comes first, then a frame per message: an MQ1 header and big-endian pixels (`twin.formats.merlin_header`). The
control port is `merlin_commands.py`.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.errors import StemtwinError
from twin.formats import merlin_header as mh
from twin.formats import merlin_pixels
from twin.formats.dataset import FormatError, Frames

Bytes = NDArray[np.uint8]

DATA_PORT = 6342
PREFIX_BYTES = 15
MOST_TEXT = 2**20
"""Bytes of a text header; real ones have some thousands."""
MOST_FRAME = 2**26
"""Bytes of a frame with its header, unless the caller says otherwise: 4096 x 4096 pixels of 32 bits."""
MOST_GARBAGE = 2**24
"""Bytes that belong to no message before a decoder gives up."""
MOST_FAULTS = 100
"""Faults without a good frame between them before a decoder gives up."""
MOST_ROWS = 1024
"""Frames of a slab."""

_PREFIX = re.compile(rb"MPX,[0-9]{10},")
_SCRATCH = 2**16


class WireError(StemtwinError, ValueError):
    """Bytes that no Merlin sends, or more of them than was agreed."""


def prefix(length: int) -> bytes:
    """What goes before a payload of `length` bytes."""
    return b"MPX,%010d," % (length + 1)


def message(payload: bytes) -> bytes:
    """A payload with its prefix."""
    return prefix(len(payload)) + payload


def payload_length(raw: bytes, most: int) -> int:
    """Bytes of the payload that a prefix announces.

    Raises:
        WireError: no prefix, or it announces nothing or more than `most`.
    """
    if len(raw) != PREFIX_BYTES or not _PREFIX.fullmatch(raw):
        raise WireError(f"a message begins with MPX and ten digits, not with {raw[:PREFIX_BYTES]!r}")
    length = int(raw[4:14]) - 1
    if not 1 <= length <= most:
        raise WireError(f"a message of {length} bytes; 1 to {most} are allowed")
    return length


# --- the data port: encoding ---------------------------------------------------------------------


def acquisition_message(acquisition: mh.Acquisition, assembly: str = "1x1") -> bytes:
    """The first message of an acquisition."""
    return message(mh.build_hdr(acquisition, assembly))


def frame_messages(frames: Frames, header: mh.MerlinHeader, begun_s: float = 0.0, dwell_s: float = 0.0) -> Bytes:
    """Messages of consecutive frames, one per row, (n, bytes): contiguous, ready to send.

    Args:
        frames: counts, (n, H, W).
        header: of the first of them; the others count on from its `sequence`.
        begun_s: camera time of the first.
        dwell_s: from one to the next.

    Raises:
        FormatError: frames that are not what the header says.
    """
    payload = merlin_pixels.encode(frames, header)
    front = PREFIX_BYTES + header.length
    rows = np.empty((len(frames), front + header.payload_bytes), np.uint8)
    rows[:, front:] = payload
    mark = "@TIME@"
    pattern = mh.build_header(replace(header, sequence=0, time=mark))
    before, middle, after = _cut(pattern.rstrip(b"\0"), mark.encode())
    start = prefix(header.length + header.payload_bytes) + b"MQ1,"
    for k in range(len(frames)):
        time = mh.stamp(begun_s + k * dwell_s).encode()
        second = time.replace(b" ", b"T") if after else b""
        head = b"".join((start, b"%06d" % (header.sequence + k), before, time, middle, second, after))
        if len(head) >= front:
            raise FormatError(f"a header takes {len(head) - PREFIX_BYTES + 1} bytes; {header.length} were given")
        rows[k, :front] = np.frombuffer(head.ljust(front, b"\0"), np.uint8)
    return rows


def _cut(pattern: bytes, mark: bytes) -> tuple[bytes, bytes, bytes]:
    """A header after its number, cut where the first and, if there is one, the second time stamp stand."""
    before, *rest = pattern[len(b"MQ1,000000") :].split(mark)
    return before, rest[0], rest[1] if len(rest) > 1 else b""


# --- the data port: decoding ---------------------------------------------------------------------


class AcquisitionMessage(NamedTuple):
    """The text header of an acquisition."""

    acquisition: mh.Acquisition


class FrameMessage(NamedTuple):
    """A frame; its pixels are row `slot` of `slab`, (K, bytes), and stay there.

    `number` is the camera's own count.
    """

    number: int
    slab: Bytes
    slot: int


class Fault(NamedTuple):
    """Something was left out, and why."""

    text: str


Message = AcquisitionMessage | FrameMessage | Fault
Step = Callable[["DataDecoder"], list[Message]]
"""What to do when a part of a message is there; a plain function, for a bound one would keep its decoder alive."""


class UsualHeader:
    """Recognises headers that differ from the first one in number and time only, without taking them apart.

    Args:
        header: of the first frame.
        raw: its bytes.
    """

    def __init__(self, header: mh.MerlinHeader, raw: bytes) -> None:
        self.header = header
        self._same = b"," + b",".join(raw.split(b",", 8)[2:8]) + b","

    def number(self, raw: bytes) -> int | None:
        """The frame's number; None for a header that has to be looked at closely."""
        comma = raw.find(b",", 4, 24)
        digits = raw[4:comma]
        if raw[:4] != b"MQ1," or comma < 5 or not digits.isdigit():
            return None
        if raw[comma : comma + len(self._same)] != self._same or _counter_depth(raw) != self.header.depth:
            return None
        return int(digits)


def _counter_depth(raw: bytes) -> int | None:
    """Bits, as the MQ1A part says; None without one, -1 where it is odd."""
    at = raw.find(b",MQ1A,")
    if at < 0:
        return None
    fields = raw[at + 6 :].split(b",", 3)
    return int(fields[2]) if len(fields) > 3 and fields[2].isdigit() and len(fields[2]) <= 2 else -1


class DataDecoder:
    """Bytes of the data port in, messages out. Pixels go straight to their place: nothing is copied.

    Fill `buffers()` from the start of the first on, then say how much to `filled()`. The first good frame fixes what
    frames are; any that is different is a fault and left out. After garbage or a frame that was cut off the decoder
    looks for the next message. A frame is handed out when the next message begins as it should, or on `flush()`: until
    then it may turn out to be cut off.

    Args:
        slab_bytes: pixels of several frames lie side by side in slabs of about this size.
        most_frame: bytes of a frame with its header; a message that claims more is garbage.
        most_garbage: bytes of garbage in a row before giving up.
        most_faults: faults in a row before giving up.
        ahead: frames that `buffers` takes into account beyond the present one.

    Attributes:
        header: of the first frame, as soon as it is known.
    """

    def __init__(
        self,
        slab_bytes: int = 2**23,
        most_frame: int = MOST_FRAME,
        most_garbage: int = MOST_GARBAGE,
        most_faults: int = MOST_FAULTS,
        ahead: int = 16,
    ) -> None:
        self.header: mh.MerlinHeader | None = None
        self._slab_bytes, self._most_frame = slab_bytes, most_frame
        self._most_garbage, self._most_faults = most_garbage, most_faults
        self._most = max(most_frame, MOST_TEXT)
        self._front = memoryview(bytearray(mh.LONGEST_BYTES))
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._usual: UsualHeader | None = None
        self._usual_prefix = b""
        self._slab: Bytes = np.empty((0, 0), np.uint8)
        self._rows: list[memoryview] = []
        self._heads = [memoryview(b"") for _ in range(ahead)]
        self._plan: list[memoryview] = []
        self._plan_begins_in_pixels = False
        self._slot = 0
        self._held: FrameMessage | None = None
        self._again, self._given_up = b"", ""
        self._faults = self._garbage = 0
        self._length = self._left = self._number = 0
        self._text = memoryview(b"")
        self._view, self._want = self._front, 0
        self._have = 0
        self._eager = False
        self._step: Step = DataDecoder._prefix_done
        self._begin()

    def buffers(self) -> list[memoryview]:
        """Where the next bytes go, for a scattered read; the first is never empty.

        In the middle of a stream: the rest of a frame, the place of a header, the place of the next frame, and so on.
        Bytes that turn out to be something else than frames like the first are gathered again.
        """
        usual, plan = self._usual, self._plan
        plan.clear()
        self._plan_begins_in_pixels = self._step is DataDecoder._pixels_done
        if usual is not None and (self._plan_begins_in_pixels or self._between):
            if self._slot == len(self._slab):
                self._new_slab(usual.header.payload_bytes)
            slot = self._slot
            if self._plan_begins_in_pixels:
                plan.append(self._view[self._have : self._want])
                slot += 1
            for head, row in zip(self._heads, self._rows[slot : slot + len(self._heads)], strict=False):
                plan += (head, row)
        return plan or [self._view[self._have : self._want]]

    def filled(self, count: int) -> list[Message]:
        """`count` bytes were put into `buffers()`.

        Raises:
            WireError: a call before found too much garbage, or too many faults, to go on.
        """
        self._check_line()
        if not self._plan:
            messages = self._advance(count)
            if self._again:
                again, self._again = self._again, b""
                messages += self._feed(again)
            return messages
        assert self._usual is not None
        messages, is_head = [], not self._plan_begins_in_pixels
        for k, view in enumerate(self._plan):
            part = min(count, len(view))
            if part == 0:
                break
            if not is_head:
                messages += self._advance(part)
            else:
                number = self._usual_number(view) if part == len(view) else None
                if number is None:
                    return messages + self._feed(b"".join(self._plan[k:])[:count])
                messages += self._release()
                self._pixels_follow(number, b"")
            count, is_head = count - part, not is_head
        return messages

    def _usual_number(self, head: memoryview) -> int | None:
        """The frame's number, from prefix and header; None unless they are as usual."""
        raw = bytes(head)
        if self._usual is None or not raw.startswith(self._usual_prefix):
            return None
        return self._usual.number(raw[PREFIX_BYTES:])

    def feed(self, data: bytes) -> list[Message]:
        """As `buffers` and `filled`, for bytes that lie somewhere already.

        Raises:
            WireError: as `filled`.
        """
        self._check_line()
        return self._feed(data)

    def _feed(self, data: bytes) -> list[Message]:
        messages: list[Message] = []
        rest = memoryview(data)
        while rest:
            count = min(len(rest), self._want - self._have)
            self._view[self._have : self._have + count] = rest[:count]
            rest = rest[count:]
            messages += self._advance(count)
            if self._again:
                rest, self._again = memoryview(self._again + bytes(rest)), b""
        return messages

    def flush(self) -> list[Message]:
        """The frame that is held back, if nothing has come since its last byte: for when the line goes quiet.

        Raises:
            WireError: as `filled`.
        """
        self._check_line()
        return self._release() if self._between else []

    def end(self) -> list[Message]:
        """The line was closed: what is still held back, and a fault if a message was cut off.

        Raises:
            WireError: as `filled`.
        """
        self._check_line()
        if self._between:
            return self._release()
        what = f"frame {self._number}" if self._step is DataDecoder._pixels_done else "a message"
        if self._eager:
            return [Fault(f"{self._garbage} bytes of garbage to the end")]
        return [
            *self._release(),
            Fault(f"{what} is cut off: the line was closed {self._want - self._have} bytes early"),
        ]

    def _check_line(self) -> None:
        # Not raised where it is found: frames that came before in the same call would be lost.
        if self._given_up:
            raise WireError(self._given_up)

    @property
    def _between(self) -> bool:
        return self._have == 0 and self._step is DataDecoder._prefix_done

    def _advance(self, count: int) -> list[Message]:
        self._have += count
        return self._step(self) if self._have == self._want or self._eager else []

    def _expect(self, view: memoryview, have: int, want: int, step: Step) -> list[Message]:
        self._view, self._have, self._want, self._step = view, have, want, step
        return step(self) if have == want else []

    def _begin(self) -> None:
        self._expect(self._front, 0, PREFIX_BYTES, DataDecoder._prefix_done)

    def _release(self) -> list[Message]:
        if self._held is None:
            return []
        held, self._held = self._held, None
        self._faults = 0
        return [held]

    def _prefix_done(self) -> list[Message]:
        raw = bytes(self._front[:PREFIX_BYTES])
        if self._usual is not None and raw == self._usual_prefix:
            self._expect(self._front, 0, self._usual.header.length, DataDecoder._usual_head_done)
            return self._release()
        try:
            self._length = payload_length(raw, self._most)
        except WireError:
            return self._lost(raw)
        return [
            *self._release(),
            *self._expect(self._front, 0, min(self._length, len(self._front)), DataDecoder._odd_head_done),
        ]

    def _usual_head_done(self) -> list[Message]:
        assert self._usual is not None
        number = self._usual.number(bytes(self._front[: self._want]))
        if number is None:
            self._length = self._usual.header.length + self._usual.header.payload_bytes
            want = min(self._length, len(self._front))
            return self._expect(self._front, self._want, want, DataDecoder._odd_head_done)
        return self._pixels_follow(number, b"")

    def _odd_head_done(self) -> list[Message]:
        """A message that is not known to be a frame like the first: all that a header can need is here."""
        head = bytes(self._front[: self._want])
        if head.startswith(b"HDR") and self._length <= MOST_TEXT:
            self._text = memoryview(bytearray(self._length))
            self._text[: len(head)] = head
            return self._expect(self._text, len(head), self._length, DataDecoder._text_done)
        try:
            header = mh.parse_header(head)
            self._check(header)
        except FormatError as error:
            return self._leave_out(f"a message was left out: {error}", len(head))
        if self._usual is None:
            self.header, self._usual = header, UsualHeader(header, head)
            self._usual_prefix = prefix(self._length)
            self._heads = [memoryview(bytearray(PREFIX_BYTES + header.length)) for _ in self._heads]
        return self._pixels_follow(header.sequence, head[header.length :])

    def _check(self, header: mh.MerlinHeader) -> None:
        """Refuse a frame that its message does not hold, that is too large, or unlike the first."""
        whole = header.length + header.payload_bytes
        if whole != self._length:
            raise FormatError(f"frame {header.sequence} has {whole} bytes by its header, {self._length} by its message")
        if whole > self._most_frame:
            raise FormatError(f"frame {header.sequence} has {whole} bytes; at most {self._most_frame} are allowed")
        if self.header is not None and header.kind != self.header.kind:
            raise FormatError(f"frame {header.sequence} {mh.difference(header, self.header)}")

    def _pixels_follow(self, number: int, begun: bytes) -> list[Message]:
        """Pixels go to the next free row of the slab; the first of them may be here already."""
        assert self.header is not None
        size = self.header.payload_bytes
        if self._slot == len(self._slab):
            self._new_slab(size)
        self._number = number
        row = self._rows[self._slot]
        row[: len(begun)] = begun
        return self._expect(row, len(begun), size, DataDecoder._pixels_done)

    def _new_slab(self, size: int) -> None:
        rows = min(max(1, self._slab_bytes // size), MOST_ROWS)
        self._slab, self._slot = np.empty((rows, size), np.uint8), 0
        self._rows = [memoryview(row) for row in self._slab]

    def _pixels_done(self) -> list[Message]:
        self._held = FrameMessage(self._number, self._slab, self._slot)
        self._slot += 1
        self._begin()
        return []

    def _text_done(self) -> list[Message]:
        raw = bytes(self._text)
        self._text = memoryview(b"")
        self._begin()
        try:
            return [AcquisitionMessage(mh.parse_hdr(raw))]
        except FormatError as error:
            return self._fault(f"a text header was left out: {error}")

    def _leave_out(self, text: str, had: int) -> list[Message]:
        """Go past the rest of a message."""
        self._left = self._length - had
        return [*self._fault(text), *self._skip_done(0)]

    def _skip_done(self, count: int | None = None) -> list[Message]:
        self._left -= self._want if count is None else count
        if self._left == 0:
            self._begin()
            return []
        return self._expect(self._scratch, 0, min(self._left, _SCRATCH), DataDecoder._skip_done)

    def _lost(self, raw: bytes) -> list[Message]:
        """No message begins where one should. Either the frame before was cut off, and the next message lies within
        what was taken for its pixels, or something was put in between.
        """
        self._begin()
        if self._held is not None:
            pixels = self._held.slab[self._held.slot].tobytes()
            found = _PREFIX.search(pixels + raw)
            if found is not None and found.start() < len(pixels):
                number = self._held.number
                if self._held.slab is self._slab:
                    self._slot = self._held.slot
                self._held = None
                self._again = pixels[found.start() :] + raw
                return self._fault(f"frame {number} is cut off after {found.start()} of {len(pixels)} bytes of pixels")
        messages = self._release()
        # The first byte is garbage for certain: a prefix that announces too much must not be found again.
        self._garbage, self._eager = 1, True
        self._scratch[: len(raw) - 1] = raw[1:]
        self._expect(self._scratch, len(raw) - 1, _SCRATCH, DataDecoder._scan)
        return messages + self._scan()

    def _scan(self) -> list[Message]:
        """Look for a message in what is on the scratch; keep what may be the start of one."""
        data = bytes(self._scratch[: self._have])
        found = _PREFIX.search(data)
        if found is not None:
            self._eager = False
            self._again = data[found.start() :]
            self._begin()
            return self._fault(f"{self._garbage + found.start()} bytes of garbage were passed over")
        keep = data[-(PREFIX_BYTES - 1) :]
        self._garbage += len(data) - len(keep)
        if self._garbage > self._most_garbage:
            self._given_up = f"no message within {self._garbage} bytes"
        self._scratch[: len(keep)] = keep
        self._have = len(keep)
        return []

    def _fault(self, text: str) -> list[Message]:
        self._faults += 1
        if self._faults > self._most_faults:
            self._given_up = f"{self._faults} faults without a good frame between them; the last: {text}"
        return [Fault(text)]
