"""Live frames of a Merlin (Medipix3) camera over TCP: `merlin://host:port`.

A thread reads ahead as far as its queue allows. If the agents are slower, the queue fills, TCP holds up the camera, and
`Health.waits` counts it. Pixels are received into the memory of the blocks and not copied.
"""

import math
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import field
from time import monotonic
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge

from agents.base import StreamMeta
from agents.block import FrameBlock
from agents.source import Health, Source, SourceError
from agents.sources import Shape, endpoint, why_not_connected
from agents.sources.announced import MEMORY_BYTES, Digest, check_memory, check_plan, tidy
from agents.sources.merlin_assembly import Assembly, FrameOrder, FrameRun
from agents.sources.queue import BoundedQueue, read_ahead
from twin.errors import printable, reason
from twin.formats import merlin_header as mh
from twin.formats.dataset import FormatError, Layout, Metadata
from twin.formats.mib import METADATA, scan_shape
from twin.instrument.merlin_control import CameraRefused, MerlinControl
from twin.options import Bytes, OptionError, Port, Positive, checked_options, validated
from twin.text import json_text
from twin.wire import merlin
from twin.wire.merlin import WireError
from twin.wire.merlin_decoder import AcquisitionMessage, DataDecoder, Fault, FrameMessage, Message

CONNECT_S = 5.0
"""Longest time to connect, during which a thread cannot be stopped."""

LINGER_S = 0.5
"""Time to wait for missing frames after the last frame of the scan."""


@validated
class Options:
    """Options of the connection and of the scan.

    Attributes:
        scan: (rows, columns), or (N,); None is that of the camera's text header.
        first: number of the first frame; None for 1, or 0 if frame 0 comes first.
        skip_frames: frames at the beginning without a position.
        flyback_frames: frames at the end of each row without a position.
        serpentine: odd rows run backwards.
        counter: 0 or 1 where both counters of the chip are on, None for that of the first frame; "all" takes every
            frame as a position.
        control_port: port to set parameters and to start; None leaves the camera alone.
        settings: parameters of the camera, set before the start.
        start: send STARTACQUISITION.
        trigger: send SOFTTRIGGER once the camera is armed.
        start_timeout_s: longest time from opening to the first frame, whatever the camera does meanwhile.
        timeout_s: time without a frame of a new number after which the stream ends.
        latency_s: time after which an incomplete block is passed on.
        block_bytes: memory of the frames in a full block.
        queue_bytes: memory of the frames read ahead.
        reconnect: total number of attempts to restore a lost connection, `reconnect_s` apart.
        most_frame_bytes: largest frame that is accepted.
        memory_bytes: memory that the announced scan may take.
        plan: digest of the agreed plan of the scan; a stream that tells another one is refused.
    """

    scan: Shape | None = None
    first: Annotated[int, Ge(0)] | None = None
    skip_frames: Annotated[int, Ge(0)] = 0
    flyback_frames: Annotated[int, Ge(0)] = 0
    serpentine: bool = False
    counter: Literal["all"] | Annotated[int, Ge(0)] | None = None
    control_port: Port | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: bool = False
    trigger: bool = False
    start_timeout_s: Positive = 15.0
    timeout_s: Positive = 10.0
    latency_s: Positive = 0.02
    block_bytes: Bytes = 2**22
    queue_bytes: Bytes = 2**26
    reconnect: Annotated[int, Ge(0)] = 0
    reconnect_s: Positive = 0.5
    most_frame_bytes: Bytes = merlin.MOST_FRAME
    memory_bytes: Bytes = MEMORY_BYTES
    plan: Digest | None = None

    def __post_init__(self) -> None:
        if self.control_port is None and (self.settings or self.start or self.trigger):
            raise OptionError("settings, start and trigger need the control port: give control_port (6341)")


def make(where: str, options: Mapping[str, Any]) -> "MerlinSource":
    """Open a camera by `host:port`; see `agents.sources.open_source`."""
    host, port = endpoint(where, merlin.DATA_PORT)
    return MerlinSource(host, port, checked_options(Options, options))


class MerlinSource(Source):
    """The data port of a camera. The constructor returns when the header of the first frame has arrived.

    Args:
        host, port: address of the data port.
        options: see `Options`.

    Raises:
        SourceError: no server, no such camera, no frame within `start_timeout_s`, or a scan of unknown shape.
    """

    def __init__(self, host: str, port: int = merlin.DATA_PORT, options: Options | None = None) -> None:
        self.health = Health()
        self._options, self._label, self._address = options or Options(), f"merlin://{host}:{port}", (host, port)
        self._deadline = monotonic() + self._options.start_timeout_s
        self._stop = threading.Event()
        self._used = False
        self._announced: mh.Acquisition | None = None
        self._early: list[FrameMessage] = []
        self._socket: socket.socket | None = None
        try:
            self._connect()
            with _Remote(host, self._options, self._deadline) as camera:
                camera.start()
                self._await_first_frame(camera)
            self._describe()
        except (OSError, WireError, FormatError, CameraRefused) as error:
            self.close()
            raise SourceError(f"{self._label}: {why_not_connected(error)}") from error
        except BaseException:
            self.close()
            raise

    def blocks(self) -> Iterator[FrameBlock]:
        """Yield blocks; may be called once."""
        if self._used:
            raise SourceError(f"{self._label}: this stream was read already")
        self._used = True
        queue: BoundedQueue[FrameRun] = BoundedQueue(max_items=1024, max_bytes=self._options.queue_bytes)
        with closing(read_ahead(self._runs(), queue, lambda run: run.bytes, "merlin reader", self._stop.set)) as runs:
            for run in runs:
                self.health.received += run.stop - run.start
                self.health.waits = queue.waits
                self.health.waiting = max(self._assembly.received - self._assembly.waiting - self.health.received, 0)
                yield run.block(self._header)

    def close(self) -> None:
        self._stop.set()
        if self._socket is not None:
            self._socket.close()

    # --- opening ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Connect, with a new decoder."""
        if self._socket is not None:
            self._socket.close()
        timeout_s = min(self._options.start_timeout_s, CONNECT_S)
        self._socket = socket.create_connection(self._address, timeout=timeout_s)
        self._socket.settimeout(self._options.latency_s)
        self._read = _scattered(self._socket)
        self._decoder = DataDecoder(slab_bytes=self._options.block_bytes, most_frame=self._options.most_frame_bytes)

    def _await_first_frame(self, camera: "_Remote") -> None:
        """Read until the header of a frame has arrived."""
        while self._decoder.header is None:
            if monotonic() > self._deadline:
                problem = "the text header came, but no frame" if self._announced else "no valid data came"
                faults = f"; the last fault: {self.health.faults[-1]}" if self.health.faults else ""
                waited_s = self._options.start_timeout_s
                longer = f"; --option start_timeout_s={4 * waited_s:g} waits longer" if self._announced else ""
                raise SourceError(f"{self._label}: {problem} within {waited_s:g} s{faults or longer}")
            count = self._receive()
            if count == 0:
                raise SourceError(f"{self._label}: the camera hung up before the first frame")
            for message in self._decoder.filled(count or 0):
                if isinstance(message, AcquisitionMessage):
                    if self._announced is None:
                        camera.trigger()
                    self._announced = message.acquisition
                elif isinstance(message, Fault):
                    self.health.fault(message.text)
                else:
                    self._early.append(message)

    def _describe(self) -> None:
        """Set layout and metadata from the two headers and the options."""
        header, announced, options = self._decoder.header, self._announced, self._options
        assert header is not None
        self._header = header
        scan = options.scan
        if scan is None:
            counted = announced is not None and (announced.frames != 0 and not announced.both_counters)
            if announced is None or (announced.scan is None and not counted):
                raise SourceError(f"{self._label}: the shape of the scan is not known; give --option scan=ROWS,COLUMNS")
            scan = scan_shape(announced, announced.frames)
        depth = header.depth
        dtype = mh.PIXEL_BYTES.get(header.pixel) or (1 if depth in (1, 6) else 2 if depth == 12 else 4)
        limit = (1 << depth) - 1 if depth is not None else None
        queued = options.queue_bytes + options.block_bytes + header.payload_bytes
        check_memory(scan, min(queued, math.prod(scan) * header.payload_bytes), options.memory_bytes, self._label)
        layout = Layout(scan, header.image_shape, f"uint{8 * dtype}", limit)
        self.meta = StreamMeta(layout, self._metadata(header))
        first = min(header.sequence, 1) if options.first is None else options.first
        order = FrameOrder(scan, first, options.skip_frames, options.flyback_frames, options.serpentine)
        self._run_frames = max(1, options.block_bytes // header.payload_bytes)
        counter = self._counter(announced)
        mixed = options.counter == "all" or (announced is not None and announced.both_counters is False)
        self._assembly = Assembly(order, self.health, self._run_frames, counter, mixed)
        most = order.frames * (1 if counter is None else 2)
        if announced is not None and announced.frames not in (0, order.frames, most):
            self.health.fault(f"the camera announces {announced.frames} frames; a scan of {scan} takes {order.frames}")

    def _counter(self, announced: mh.Acquisition | None) -> int | None:
        """Return the counter whose frames are taken, where the camera sends those of both; None takes all."""
        chosen, both = self._options.counter, None if announced is None else announced.both_counters
        if chosen == "all" or both is False or (chosen is None and not both):
            return None
        if chosen is None:
            self.health.fault(f"both counters are on: these are the frames of counter {self._header.counter}")
        return self._header.counter if chosen is None else chosen

    def _metadata(self, header: mh.MerlinHeader) -> Metadata:
        """Metadata of the text header, and the exposure time.

        Raises:
            SourceError: another plan than the agreed one.
        """
        plain: dict[str, Any] = {}
        text = self._announced.extra.get(METADATA) if self._announced is not None else None
        exposure: dict[str, Any] = {"dwell_s": header.shutter_s} if header.shutter_s > 0 else {}
        try:
            plain = dict(json_text.loads(text)) if text else {}
            metadata = Metadata.of({**exposure, **tidy(plain)}, self._label)
        except (ValueError, TypeError, RecursionError) as error:
            self.health.fault(f"the metadata in the text header are left out: {printable(error)}")
            metadata = Metadata(**exposure)
        check_plan(self._options.plan, plain.get("provenance"), self.health, self._label)
        return metadata

    def _receive(self) -> int | None:
        """Receive into the decoder's buffer; return the number of bytes, 0 at the end, None if there are none."""
        assert self._socket is not None
        try:
            return self._read(self._decoder.buffers())
        except TimeoutError:
            return None

    # --- reading, in a thread of its own ---------------------------------------------------------

    def _runs(self) -> Iterator[FrameRun]:
        """Yield runs of frames to the end of the scan or of the connection."""
        assembly, attempts = self._assembly, self._options.reconnect
        try:
            for message in self._early:
                yield from assembly.add(message)
            while not self._stop.is_set():
                why = yield from self._listen()
                yield from assembly.take()
                if why is None or self._stop.is_set():
                    return
                self.health.fault(f"{why} after {assembly.received} of {self.meta.layout.count} positions")
                attempts = self._restore(attempts)
                if attempts < 0:
                    return
        finally:
            assembly.end()

    def _listen(self) -> Generator[FrameRun, None, str | None]:
        """Yield the runs of one connection; return why it ended early, or None."""
        assembly, options = self._assembly, self._options
        heard = handed = monotonic()
        while not self._stop.is_set() and not assembly.complete:
            try:
                count = self._receive()
                messages = self._take_in(count)
            except WireError as error:
                return f"gave up on the stream ({error})"
            except OSError as error:
                return f"the connection broke ({reason(error)})"
            now = monotonic()
            for message in messages:
                if isinstance(message, FrameMessage):
                    # Neither bytes nor frames that came before: one that trickles, or repeats itself, would never end.
                    heard = now if assembly.is_news(message) else heard
                    for run in assembly.add(message):
                        handed = now
                        yield run
                elif self._is_another(message):
                    return None
            if now - handed > options.latency_s:
                handed = now
                yield from assembly.take()
            if count == 0 or now - heard > (min(LINGER_S, options.timeout_s) if assembly.at_end else options.timeout_s):
                return self._why(count)
        return None

    def _take_in(self, count: int | None) -> list[Message]:
        """Decode the messages that the received bytes complete."""
        if count is None:
            return self._decoder.flush()
        messages = self._decoder.filled(count) if count else self._decoder.end()
        header = self._decoder.header
        if header is not None and header.kind != self._header.kind:
            raise WireError(f"frame {header.sequence} {mh.difference(header, self._header)}")
        return messages

    def _is_another(self, message: Message) -> bool:
        """Note a fault; return True for the text header of another acquisition (not that after a reconnection)."""
        if isinstance(message, Fault):
            self.health.fault(message.text)
            return False
        if self._decoder.header is None:
            return False
        if not self._assembly.complete:
            self.health.fault(f"another acquisition began after {self._assembly.received} positions of this one")
        return True

    def _why(self, count: int | None) -> str | None:
        """Describe why the connection ended; None at the end of the scan."""
        if self._assembly.at_end:
            return None
        return "the camera hung up" if count == 0 else f"no new frame came for {self._options.timeout_s:g} s"

    def _restore(self, attempts: int) -> int:
        """Reconnect; return the number of attempts left, or -1 after a failure."""
        while attempts > 0 and not self._stop.wait(self._options.reconnect_s):
            attempts -= 1
            try:
                self._connect()
            except OSError as error:
                self.health.fault(f"could not reconnect: {reason(error)}")
                continue
            self.health.reconnects += 1
            return attempts
        return -1


def _scattered(line: socket.socket) -> Callable[[list[memoryview]], int]:
    """Receive into several buffers at once, or into the first one if the system cannot."""
    if hasattr(line, "recvmsg_into"):
        return lambda places: line.recvmsg_into(places)[0]
    return lambda places: line.recv_into(places[0])


class _Remote:
    """The control port of the camera while a source is opened; does nothing without `control_port`."""

    def __init__(self, host: str, options: Options, deadline: float) -> None:
        self._host, self._options, self._deadline = host, options, deadline
        self._control: MerlinControl | None = None

    def start(self) -> None:
        """Set the parameters and start."""
        if self._control is None:
            return
        for name, value in self._options.settings.items():
            self._control.set(name, value)
        if self._options.start:
            self._control.command("STARTACQUISITION")

    def trigger(self) -> None:
        """Trigger the camera, once it is armed and has sent its text header."""
        if self._control is not None and self._options.trigger:
            self._control.command("SOFTTRIGGER")

    def __enter__(self) -> Self:
        if self._options.control_port is not None:
            try:
                self._control = MerlinControl(self._host, self._options.control_port)
                self._control.deadline = self._deadline
            except OSError as error:
                raise OSError(f"control port {self._options.control_port}: {reason(error)}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._control is not None:
            self._control.close()
