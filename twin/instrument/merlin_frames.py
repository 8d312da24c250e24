"""A client of a Merlin camera that takes single frames on a soft trigger, for Ronchigrams (scans: `agents.sources`)."""

import math
from collections import deque
from dataclasses import dataclass
from time import monotonic, sleep

import numpy as np
from numpy.typing import NDArray

from twin.errors import printable, reason
from twin.formats import merlin_pixels
from twin.formats.merlin_header import MerlinHeader
from twin.instrument.faults import BadFrame, CommandTimeout, MicroscopeFault, StaleFrame
from twin.instrument.line import Line
from twin.instrument.merlin_control import CameraRefused, MerlinControl
from twin.wire.merlin import DATA_PORT, WireError
from twin.wire.merlin_commands import BUSY
from twin.wire.merlin_decoder import AcquisitionMessage, DataDecoder, Fault, FrameMessage, Message
from twin.wire.schema import LONGEST_EXPOSURE_S

_REMEMBERED = 4096
"""Latest frames whose repetition is recognised."""


@dataclass(frozen=True, eq=False)
class MerlinFrame:
    """A received frame.

    Attributes:
        number: the camera's frame number.
        counts: (H, W), unsigned integers.
        exposure_s: shutter time, from the header of the first frame of the connection; 0: not told.
    """

    number: int
    counts: NDArray[np.unsignedinteger]
    exposure_s: float


class MerlinFrames:
    """One connection to the data port; nothing is connected before `connect`.

    Args:
        host, port: of the camera.
        timeout_s: for connecting.
        most_frame: largest size of a frame, bytes.
    """

    def __init__(self, host: str, port: int = DATA_PORT, timeout_s: float = 5.0, most_frame: int = 2**25) -> None:
        self._line, self._most_frame = Line("the camera's data port", host, port, timeout_s), most_frame
        self._decoder = DataDecoder()
        self._numbers: deque[int] = deque(maxlen=_REMEMBERED)

    @property
    def connected(self) -> bool:
        """Whether a connection is open."""
        return self._line.connected

    def connect(self) -> None:
        """Connect if necessary.

        Raises:
            OSError: no answer at this address.
        """
        if self._line.connect():
            self._decoder = DataDecoder(slab_bytes=1, most_frame=self._most_frame, ahead=1)
            self._numbers.clear()

    def close(self) -> None:
        """Disconnect."""
        self._line.close()

    def discard(self, deadline: float) -> None:
        """Discard the frames that have arrived: they were exposed earlier.

        Args:
            deadline: on the monotonic clock, s.

        Raises:
            BadFrame: frames keep arriving: the camera does not wait for its trigger.
            OSError: connection lost.
            WireError: too much garbage.
        """
        while data := self._line.pending():
            self._first_new(self._decoder.feed(data) + self._decoder.flush())
            if monotonic() > deadline:
                raise BadFrame("the camera keeps sending frames without a trigger")

    def next(self, deadline: float) -> MerlinFrame:
        """Return the next frame that has not arrived before.

        Args:
            deadline: on the monotonic clock, s.

        Raises:
            BadFrame: not a frame, or of another kind than the first.
            StaleFrame: only earlier frames arrived.
            TimeoutError: nothing arrived.
            OSError: connection lost.
            WireError: too much garbage.
        """
        repeated: int | None = None
        while True:
            try:
                data = self._line.receive(deadline)
            except TimeoutError:
                if repeated is not None:
                    raise StaleFrame(f"frame {repeated} arrived again, and no other") from None
                raise TimeoutError("the camera sent no frame in time") from None
            # Flush: no further message will confirm that this frame is complete, for the next one needs a trigger.
            messages = self._decoder.feed(data) + self._decoder.flush()
            new, known = self._first_new(messages)
            if new is not None:
                return self._decoded(new)
            repeated = repeated if known is None else known
            for message in messages:
                if isinstance(message, Fault):
                    raise BadFrame(message.text)

    def _first_new(self, messages: list[Message]) -> tuple[FrameMessage | None, int | None]:
        """Return the first new frame and the number of a repeated one; remember the numbers of all frames."""
        new: FrameMessage | None = None
        repeated: int | None = None
        for message in messages:
            if isinstance(message, AcquisitionMessage):
                # The camera's numbers begin at one again.
                self._numbers.clear()
            elif isinstance(message, FrameMessage):
                if message.number in self._numbers:
                    repeated = message.number
                elif new is None:
                    new = message
                self._numbers.append(message.number)
        return new, repeated

    def _decoded(self, frame: FrameMessage) -> MerlinFrame:
        header: MerlinHeader | None = self._decoder.header
        if header is None:
            raise WireError("a frame without a header")
        counts = merlin_pixels.decode(frame.slab[frame.slot : frame.slot + 1], header)[0]
        if header.depth is not None and int(counts.max(initial=0)) >> header.depth:
            raise BadFrame(f"a pixel of frame {frame.number} counts {counts.max()}, beyond {header.depth} bits")
        return MerlinFrame(frame.number, counts, header.shutter_s)


_RETRY_S = 0.01
SOFT_TRIGGER = 5
"""TRIGGERSTART: one frame per SOFTTRIGGER command."""
FRAMES = 1_000_000
"""Length of an acquisition; a new one begins after it."""


class TriggeredCamera:
    """A Merlin camera that waits for a trigger; nothing is connected before `connect`.

    After any fault the next call reconnects both ports: a late frame must not be taken for the next one.

    Args:
        host: of the camera.
        control_port, data_port: its ports.
        timeout_s: for connecting, and for everything that is asked of the camera before a frame, together.
        frame_timeout_s: from the trigger to the complete frame.
        mode: STEMMODE of the twin's camera; None for a camera without modes.
        most_frame: largest size of a frame, bytes.

    Attributes:
        planned_s: exposure of the next frame as the camera tells; None before `connect`, or if it does not tell.
    """

    def __init__(
        self,
        host: str,
        control_port: int,
        data_port: int,
        timeout_s: float = 5.0,
        frame_timeout_s: float = 10.0,
        mode: str | None = None,
        most_frame: int = 2**25,
    ) -> None:
        self._host, self._port = host, control_port
        self._timeout_s, self._frame_timeout_s = timeout_s, frame_timeout_s
        self._frames = MerlinFrames(host, data_port, timeout_s, most_frame)
        self._mode = mode
        self._control: MerlinControl | None = None
        self.planned_s: float | None = None

    def connect(self, deadline: float | None = None) -> None:
        """Connect both ports and begin an acquisition, if necessary.

        Args:
            deadline: of the camera's answers, on the monotonic clock, s; None: `timeout_s` from now.

        Raises:
            MicroscopeFault: the camera cannot be reached, or refuses.
        """
        deadline = monotonic() + self._timeout_s if deadline is None else deadline
        if self._control is not None and self._frames.connected:
            self._control.deadline = deadline
            return
        self.close()
        try:
            # The data port first: an armed camera may send at once.
            self._frames.connect()
            self._control = MerlinControl(self._host, self._port, self._timeout_s)
            self._control.deadline = deadline
            self._begin(self._control)
            self.planned_s = _exposure_s(self._control)
        except (OSError, WireError, CameraRefused) as error:
            self.close()
            raise MicroscopeFault(f"the camera at {self._host}:{self._port}: {reason(error)}") from error

    def expose(self) -> MerlinFrame:
        """Trigger, and return the frame.

        Raises:
            BadFrame, StaleFrame: not a frame, or an earlier one.
            CommandTimeout: no reply, or no frame, in time.
            MicroscopeFault: the camera refused, or a connection was lost.
        """
        # One time for all of it: a camera that answers each command late must not add up.
        deadline = monotonic() + self._timeout_s
        self.connect(deadline)
        assert self._control is not None
        try:
            self._frames.discard(deadline)
            self._trigger(self._control)
            return self._frames.next(monotonic() + self._frame_timeout_s)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise CommandTimeout(f"the camera at {self._host}:{self._port}: {error}") from error
            if isinstance(error, OSError | WireError | CameraRefused):
                raise MicroscopeFault(f"the camera at {self._host}:{self._port}: {reason(error)}") from error
            raise

    def close(self) -> None:
        """Disconnect both ports."""
        control, self._control = self._control, None
        if control is not None:
            control.close()
        self._frames.close()

    def _trigger(self, control: MerlinControl) -> None:
        try:
            control.command("SOFTTRIGGER")
        except CameraRefused:
            # The acquisition has ended: all frames taken, or stopped by another client.
            self._begin(control)
            control.command("SOFTTRIGGER")

    def _begin(self, control: MerlinControl) -> None:
        """Set the camera to one frame per trigger and start; wait while it is busy.

        Raises:
            CameraRefused: it refuses, or is busy until the control port's deadline.
        """
        while True:
            try:
                control.command("STOPACQUISITION")
                if self._mode is not None:
                    control.set("STEMMODE", self._mode)
                control.set("TRIGGERSTART", SOFT_TRIGGER)
                control.set("NUMFRAMESPERTRIGGER", 1)
                control.set("NUMFRAMESTOACQUIRE", FRAMES)
                control.command("STARTACQUISITION")
            except CameraRefused as refused:
                if refused.status != BUSY or monotonic() > control.deadline:
                    raise
                sleep(_RETRY_S)
            else:
                return


def _exposure_s(control: MerlinControl) -> float | None:
    """Return the exposure that a camera is set to; None if it has no such parameter.

    Raises:
        WireError: it tells something that is no exposure.
    """
    try:
        text = control.get("ACQUISITIONTIME").strip()
    except CameraRefused:
        return None
    if not text:
        return None
    try:
        exposure_s = float(text) * 1e-3
    except ValueError:
        exposure_s = math.nan
    if not 0 < exposure_s <= LONGEST_EXPOSURE_S:
        most_ms = LONGEST_EXPOSURE_S * 1e3
        raise WireError(f"ACQUISITIONTIME is a time in ms up to {most_ms:g}, not {printable(text, 40)!r}")
    return exposure_s
