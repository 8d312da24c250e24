"""A client of a Merlin camera that takes single frames on a soft trigger, for Ronchigrams.

Scans are read by `agents.sources`.
"""

from collections import deque
from dataclasses import dataclass
from time import monotonic, sleep

import numpy as np
from numpy.typing import NDArray

from twin.formats import merlin_pixels
from twin.formats.merlin_header import MerlinHeader
from twin.instrument.faults import BadFrame, CommandTimeout, MicroscopeFault, StaleFrame
from twin.instrument.line import Line
from twin.instrument.merlin_control import CameraRefused, MerlinControl
from twin.wire.merlin import DATA_PORT, AcquisitionMessage, DataDecoder, Fault, FrameMessage, Message, WireError
from twin.wire.merlin_commands import BUSY

_REMEMBERED = 16
"""Latest frames that are known again when they come twice."""
_AGAIN_S = 0.01
SOFT_TRIGGER = 5
"""TRIGGERSTART: a frame per SOFTTRIGGER command."""
FRAMES = 1_000_000
"""Of an acquisition: it is begun again when they are used up."""


@dataclass(frozen=True, eq=False)
class MerlinFrame:
    """A frame as it came.

    Attributes:
        number: the camera's own count.
        counts: (H, W), unsigned integers.
        exposure_s: shutter time of the line's first frame, by its header.
    """

    number: int
    counts: NDArray[np.unsignedinteger]
    exposure_s: float


class MerlinFrames:
    """One connection to the data port; nothing is connected before `connect`.

    Args:
        host, port: of the camera.
        timeout_s: for connecting.
        most_frame: bytes of a frame.
    """

    def __init__(self, host: str, port: int = DATA_PORT, timeout_s: float = 5.0, most_frame: int = 2**25) -> None:
        self._line, self._most_frame = Line("the camera's data port", host, port, timeout_s), most_frame
        self._decoder = DataDecoder()
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)

    @property
    def connected(self) -> bool:
        """Whether there is a line."""
        return self._line.connected

    def connect(self) -> None:
        """Make a line if there is none.

        Raises:
            OSError: nobody there.
        """
        if self._line.connect():
            self._decoder = DataDecoder(slab_bytes=1, most_frame=self._most_frame, ahead=1)
            self._seen.clear()

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def forget(self, deadline: float) -> None:
        """Throw away what has come so far: it was exposed before what comes next.

        Args:
            deadline: on the monotonic clock.

        Raises:
            BadFrame: there is no end to it: the camera does not wait for its trigger.
            OSError: the line broke.
            WireError: too much garbage.
        """
        while data := self._line.pending():
            self._new(self._decoder.feed(data) + self._decoder.flush())
            if monotonic() > deadline:
                raise BadFrame("the camera keeps sending what nobody asked for")

    def next(self, deadline: float) -> MerlinFrame:
        """The next frame that has not come before.

        Args:
            deadline: on the monotonic clock.

        Raises:
            BadFrame: what came is no frame, or none like those before.
            StaleFrame: only frames that had come before.
            TimeoutError: nothing came.
            OSError: the line broke.
            WireError: too much garbage.
        """
        again: int | None = None
        while True:
            try:
                data = self._line.receive(deadline)
            except TimeoutError:
                if again is not None:
                    raise StaleFrame(f"frame {again} came again, and no other") from None
                raise TimeoutError("the camera sent no frame in time") from None
            # What is whole is handed out at once: the next frame comes only when it is asked for.
            messages = self._decoder.feed(data) + self._decoder.flush()
            new, known = self._new(messages)
            if new is not None:
                return self._decoded(new)
            again = again if known is None else known
            for message in messages:
                if isinstance(message, Fault):
                    raise BadFrame(message.text)

    def _new(self, messages: list[Message]) -> tuple[FrameMessage | None, int | None]:
        """The first frame that has not come before, and the number of one that has; from now on all of them have."""
        new: FrameMessage | None = None
        again: int | None = None
        for message in messages:
            if isinstance(message, AcquisitionMessage):
                # The camera counts from one again.
                self._seen.clear()
            elif isinstance(message, FrameMessage):
                if message.number in self._seen:
                    again = message.number
                elif new is None:
                    new = message
                self._seen.append(message.number)
        return new, again

    def _decoded(self, frame: FrameMessage) -> MerlinFrame:
        header: MerlinHeader | None = self._decoder.header
        if header is None:
            raise WireError("a frame without a header")
        counts = merlin_pixels.decode(frame.slab[frame.slot : frame.slot + 1], header)[0]
        return MerlinFrame(frame.number, counts, header.shutter_s)


class TriggeredCamera:
    """A Merlin camera that waits for a trigger; nothing is connected before `connect`.

    After any fault both lines are made anew by the next call: what comes late must not pass for the next frame.

    Args:
        host: of the camera.
        control_port, data_port: its ports.
        timeout_s: for connecting, and for each command.
        frame_timeout_s: from the trigger to the whole frame.
        mode: of the twin's camera (STEMMODE), None for a camera that has no modes.
    """

    def __init__(
        self,
        host: str,
        control_port: int,
        data_port: int,
        timeout_s: float = 5.0,
        frame_timeout_s: float = 30.0,
        mode: str | None = None,
    ) -> None:
        self._host, self._port = host, control_port
        self._timeout_s, self._frame_timeout_s = timeout_s, frame_timeout_s
        self._frames = MerlinFrames(host, data_port, timeout_s)
        self._mode = mode
        self._control: MerlinControl | None = None

    def connect(self) -> None:
        """Connect both ports and begin an acquisition, if that is not done.

        Raises:
            MicroscopeFault: the camera cannot be reached, or refuses.
        """
        if self._control is not None and self._frames.connected:
            return
        self.close()
        try:
            # The data line first: what an armed camera sends must have somewhere to go.
            self._frames.connect()
            self._control = MerlinControl(self._host, self._port, self._timeout_s)
            self._begin(self._control)
        except (OSError, WireError, CameraRefused) as error:
            self.close()
            raise MicroscopeFault(f"the camera at {self._host}:{self._port}: {error}") from error

    def expose(self) -> MerlinFrame:
        """Trigger, and wait for the frame.

        Raises:
            BadFrame, StaleFrame: what came is no frame, or an earlier one.
            CommandTimeout: no answer, or no frame, in time.
            MicroscopeFault: the camera refuses, or a line broke.
        """
        self.connect()
        assert self._control is not None
        try:
            self._frames.forget(monotonic() + self._timeout_s)
            self._trigger(self._control)
            return self._frames.next(monotonic() + self._frame_timeout_s)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise CommandTimeout(f"the camera at {self._host}:{self._port}: {error}") from error
            if isinstance(error, OSError | WireError | CameraRefused):
                raise MicroscopeFault(f"the camera at {self._host}:{self._port}: {error}") from error
            raise

    def close(self) -> None:
        """Hang up on both ports."""
        control, self._control = self._control, None
        if control is not None:
            control.close()
        self._frames.close()

    def _trigger(self, control: MerlinControl) -> None:
        try:
            control.command("SOFTTRIGGER")
        except CameraRefused:
            # Its acquisition has ended: all its frames taken, or stopped by somebody else.
            self._begin(control)
            control.command("SOFTTRIGGER")

    def _begin(self, control: MerlinControl) -> None:
        """Set the camera to one frame per trigger and start; one that is still busy with another client is waited for.

        Raises:
            CameraRefused: it refuses, or is busy for longer than `timeout_s`.
        """
        deadline = monotonic() + self._timeout_s
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
                if refused.status != BUSY or monotonic() > deadline:
                    raise
                sleep(_AGAIN_S)
            else:
                return
