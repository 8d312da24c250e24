"""Decoder of a Merlin camera's data port: bytes in, messages out. No sockets, no threads."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.errors import printable
from twin.formats import merlin_header as mh
from twin.formats.dataset import FormatError
from twin.wire import schema
from twin.wire.merlin import MOST_FRAME, MOST_TEXT, PREFIX, PREFIX_BYTES, WireError, payload_length, prefix
from twin.wire.netstring import RpcError

Bytes = NDArray[np.uint8]

MOST_GARBAGE = 2**24
"""Bytes outside any message before a decoder gives up."""
MOST_FAULTS = 100
"""Consecutive faults before a decoder gives up."""
MOST_ROWS = 1024
"""Most frames in a slab."""
_SCRATCH = 2**16


class AcquisitionMessage(NamedTuple):
    """The text header of an acquisition."""

    acquisition: mh.Acquisition


class FrameMessage(NamedTuple):
    """A frame; its pixels are row `slot` of `slab`, (K, bytes), and stay there.

    `number` is the camera's frame number.
    """

    number: int
    slab: Bytes
    slot: int


class Fault(NamedTuple):
    """A part of the stream was skipped; `text` has the reason."""

    text: str


Message = AcquisitionMessage | FrameMessage | Fault
Step = Callable[["DataDecoder"], list[Message]]
"""Handles a complete part of a message. A plain function: a bound one would keep its decoder alive."""


class DataDecoder:
    """Decodes the data port. Pixels are received directly into their place: nothing is copied.

    Fill `buffers()` from the start of the first one, then pass the number of bytes to `filled()`. The first valid frame
    fixes the kind of frame; any other is a fault and is skipped. After garbage or a truncated frame the decoder
    searches for the next message. A frame is returned when the next message begins as it should, or by `flush()`:
    until then it may be truncated.

    Args:
        slab_bytes: approximate size of a slab, which holds the pixels of several frames side by side.
        most_frame: largest frame with its header, bytes; a message that claims more is garbage.
        most_garbage: bytes of consecutive garbage before giving up.
        most_faults: consecutive faults before giving up.
        ahead: frames that `buffers` provides beyond the present one.

    Attributes:
        header: of the first frame; None before it.
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
        self._usual: mh.UsualHeader | None = None
        self._usual_prefix = b""
        self._slab: Bytes = np.empty((0, 0), np.uint8)
        self._rows: list[memoryview] = []
        self._heads = [memoryview(b"") for _ in range(ahead)]
        self._plan: list[memoryview] = []
        self._plan_begins_in_pixels = False
        self._slot = 0
        self._held: FrameMessage | None = None
        self._replay, self._given_up = b"", ""
        self._faults = self._garbage = 0
        self._length = self._remaining = self._number = 0
        self._text = memoryview(b"")
        self._view, self._want = self._front, 0
        self._have = 0
        self._eager = False
        self._step: Step = DataDecoder._prefix_done
        self._begin()

    def buffers(self) -> list[memoryview]:
        """Return the buffers for the next bytes, for a scattered read; the first is never empty.

        In the middle of a stream: the rest of a frame, a header, the next frame, and so on. Bytes that are not frames
        like the first are collected again and decoded in order.
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
        """Decode `count` bytes that were put into `buffers()`.

        Raises:
            WireError: an earlier call found too much garbage or too many faults.
        """
        self._check_alive()
        if not self._plan:
            messages = self._advance(count)
            if self._replay:
                replay, self._replay = self._replay, b""
                messages += self._feed(replay)
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
        """Return the frame number from prefix and header; None unless both are as usual."""
        raw = bytes(head)
        if self._usual is None or not raw.startswith(self._usual_prefix):
            return None
        return self._usual.number(raw[PREFIX_BYTES:])

    def feed(self, data: bytes) -> list[Message]:
        """Decode bytes that are in memory already, instead of `buffers` and `filled`.

        Raises:
            WireError: as `filled`.
        """
        self._check_alive()
        return self._feed(data)

    def _feed(self, data: bytes) -> list[Message]:
        messages: list[Message] = []
        rest = memoryview(data)
        while rest:
            count = min(len(rest), self._want - self._have)
            self._view[self._have : self._have + count] = rest[:count]
            rest = rest[count:]
            messages += self._advance(count)
            if self._replay:
                rest, self._replay = memoryview(self._replay + bytes(rest)), b""
        return messages

    def flush(self) -> list[Message]:
        """Return the frame that is held back, if no byte has followed it: for a connection that goes quiet.

        Raises:
            WireError: as `filled`.
        """
        self._check_alive()
        return self._release() if self._between else []

    def end(self) -> list[Message]:
        """Return the frame that is held back, and a fault if a message is truncated, after the connection has closed.

        Raises:
            WireError: as `filled`.
        """
        self._check_alive()
        if self._between:
            return self._release()
        what = f"frame {self._number}" if self._step is DataDecoder._pixels_done else "a message"
        if self._eager:
            return [Fault(f"{self._garbage} bytes of garbage to the end")]
        return [
            *self._release(),
            Fault(f"{what} is cut off: the connection closed {self._want - self._have} bytes early"),
        ]

    def _check_alive(self) -> None:
        # Not raised at once: earlier frames of the same call would be lost.
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
        except WireError as error:
            reason = self._fault(f"{error} (option most_frame_bytes)") if PREFIX.fullmatch(raw) else []
            return [*self._resynchronise(raw), *reason]
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
        """Handle a message that may not be a frame like the first; the buffer holds the largest possible header."""
        head = bytes(self._front[: self._want])
        if head.startswith(b"HDR") and self._length <= MOST_TEXT:
            self._text = memoryview(bytearray(self._length))
            self._text[: len(head)] = head
            return self._expect(self._text, len(head), self._length, DataDecoder._text_done)
        try:
            header = mh.parse_header(head)
            self._check(header)
        except (FormatError, RpcError) as error:
            return self._skip(f"a message was skipped: {error}", len(head))
        if self._usual is None:
            self.header, self._usual = header, mh.UsualHeader(header, head)
            self._usual_prefix = prefix(self._length)
            self._heads = [memoryview(bytearray(PREFIX_BYTES + header.length)) for _ in self._heads]
        return self._pixels_follow(header.sequence, head[header.length :])

    def _check(self, header: mh.MerlinHeader) -> None:
        """Refuse a frame that does not fit its message, is too large, differs from the first, or tells nonsense."""
        told = {"number": header.sequence, "shutter_s": header.shutter_s}
        schema.parse(
            schema.FrameHeaderTold, {**told, "assembly": header.assembly, "time": header.time}, "the frame's header"
        )
        whole = header.length + header.payload_bytes
        if whole != self._length:
            raise FormatError(f"frame {header.sequence} has {whole} bytes by its header, {self._length} by its message")
        if whole > self._most_frame:
            raise FormatError(
                f"frame {header.sequence} has {whole} bytes; at most {self._most_frame} are allowed"
                " (option most_frame_bytes)"
            )
        if self.header is not None and header.kind != self.header.kind:
            raise FormatError(f"frame {header.sequence} {mh.difference(header, self.header)}")

    def _pixels_follow(self, number: int, begun: bytes) -> list[Message]:
        """Receive pixels into the next free row of the slab; `begun` are those received already."""
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
            acquisition = mh.parse_hdr(raw)
            values = {name: getattr(acquisition, name) for name in ("frames", "frames_per_trigger", "scan", "depth")}
            schema.parse(schema.AcquisitionTold, values, "text header")
        except (FormatError, RpcError) as error:
            return self._fault(f"a text header was skipped: {error}")
        return [AcquisitionMessage(acquisition)]

    def _skip(self, text: str, had: int) -> list[Message]:
        """Skip the rest of a message."""
        self._remaining = self._length - had
        return [*self._fault(text), *self._skip_done(0)]

    def _skip_done(self, count: int | None = None) -> list[Message]:
        self._remaining -= self._want if count is None else count
        if self._remaining == 0:
            self._begin()
            return []
        return self._expect(self._scratch, 0, min(self._remaining, _SCRATCH), DataDecoder._skip_done)

    def _resynchronise(self, raw: bytes) -> list[Message]:
        """Resynchronise where a message should begin and does not.

        Either the previous frame is truncated, and the next message lies within what was taken for its pixels, or there
        is garbage between two messages.
        """
        self._begin()
        if self._held is not None:
            pixels = self._held.slab[self._held.slot].tobytes()
            match = PREFIX.search(pixels + raw)
            if match is not None and match.start() < len(pixels):
                number = self._held.number
                if self._held.slab is self._slab:
                    self._slot = self._held.slot
                self._held = None
                self._replay = pixels[match.start() :] + raw
                return self._fault(f"frame {number} is cut off after {match.start()} of {len(pixels)} bytes of pixels")
        messages = self._release()
        # The first byte is certainly garbage: a prefix that announces too much must not be found again.
        self._garbage, self._eager = 1, True
        self._scratch[: len(raw) - 1] = raw[1:]
        self._expect(self._scratch, len(raw) - 1, _SCRATCH, DataDecoder._scan)
        return messages + self._scan()

    def _scan(self) -> list[Message]:
        """Search the scratch buffer for a message; keep a possible beginning of one."""
        data = bytes(self._scratch[: self._have])
        match = PREFIX.search(data)
        if match is not None:
            self._eager = False
            self._replay = data[match.start() :]
            self._begin()
            return self._fault(f"{self._garbage + match.start()} bytes of garbage were skipped")
        keep = data[-(PREFIX_BYTES - 1) :]
        self._garbage += len(data) - len(keep)
        if self._garbage > self._most_garbage:
            self._given_up = f"no message within {self._garbage} bytes"
        self._scratch[: len(keep)] = keep
        self._have = len(keep)
        return []

    def _fault(self, text: str) -> list[Message]:
        self._faults += 1
        text = printable(text)
        if self._faults > self._most_faults:
            self._given_up = f"{self._faults} faults without a good frame between them; the last: {text}"
        return [Fault(text)]
