"""Events of a Timepix3 camera from LiberTEM's sparse live stream (TCP), as blocks of whole positions."""

import math
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from time import monotonic
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt

from agents.base import StreamMeta
from agents.events.block import EventBlock
from agents.source import Health, Source, SourceError
from agents.sources import endpoint, why_not_connected
from agents.sources.announced import MEMORY_BYTES, Digest, check_memory, check_plan, tidy
from agents.sources.queue import BoundedQueue, read_ahead
from twin.errors import printable, reason
from twin.formats.dataset import FormatError, Layout, Metadata
from twin.options import Count, checked_options, validated
from twin.wire.csr import (
    PORT,
    AcquisitionEnd,
    AcquisitionStart,
    Chunk,
    CsrDecoder,
    CsrError,
    Limits,
    Message,
    ScanEnd,
    ScanStart,
)

LEAST_BYTES = 2**16
"""A message that takes longer than the time-out goes on while this many bytes arrive within it."""


@validated
class Options:
    """Options of the connection.

    Attributes:
        timeout_s: longest time to connect, and for a message, or for `LEAST_BYTES` of a large one.
        start_timeout_s: longest time from connecting to the start of a scan.
        reconnect: number of attempts to restore a lost connection.
        reconnect_s: delay before each attempt.
        queue_bytes: memory of events read ahead; beyond it the sender waits.
        chunk_bytes: largest chunk that is accepted.
        frames: provide frames to agents that need them, at the cost of memory and time.
        memory_bytes: memory that the announced scan may take.
        plan: digest of the agreed plan of the scan; a stream that tells another one is refused.
    """

    timeout_s: Annotated[float, Gt(0), Lt(1e6)] = 10.0
    start_timeout_s: Annotated[float, Gt(0), Lt(1e6)] = 15.0
    reconnect: Annotated[int, Ge(0)] = 0
    reconnect_s: Annotated[float, Ge(0), Lt(1e6)] = 0.5
    queue_bytes: Count = 64 * 2**20
    chunk_bytes: Count = 256 * 2**20
    frames: bool = False
    memory_bytes: Count = MEMORY_BYTES
    plan: Digest | None = None


class CsrSource(Source):
    """The first scan of the stream. Chunks have a number of positions, but not their indices.

    After a reconnection the sender has to repeat the same scan from its beginning: positions that were received already
    are counted as duplicates. Another scan or camera ends the stream.

    Args:
        host, port: address of the sender.
        options: see `Options`.

    Raises:
        SourceError: no server, no data in time, or no valid stream.
    """

    def __init__(self, host: str, port: int = PORT, options: Options | None = None) -> None:
        self.options, self.health = options or Options(), Health()
        self._address, self._closed = (host, port), False
        try:
            self._connection = _Connection(self._address, self.options)
        except OSError as error:
            raise SourceError(f"csr://{host}:{port}: {error.strerror or error}") from error
        try:
            self._acquisition, self._scan = self._connection.begin()
            self._describe(f"csr://{host}:{port}")
        except (OSError, CsrError, FormatError) as error:
            self.close()
            raise SourceError(f"csr://{host}:{port}: {why_not_connected(error)}") from error
        except BaseException:
            self.close()
            raise
        self._next = 0

    def _describe(self, label: str) -> None:
        """Set layout and metadata from the headers.

        Raises:
            SourceError: more memory than is allowed, or another plan than the agreed one.
            FormatError: no valid layout.
        """
        options, (height, width) = self.options, self._acquisition.camera
        check_memory(self._acquisition.scan, 8 * height * width if options.frames else 0, options.memory_bytes, label)
        check_plan(options.plan, self._scan.metadata.get("provenance"), self.health, label)
        layout = Layout(self._acquisition.scan, (height, width), "uint32")
        self.meta = StreamMeta(layout, _metadata(self._scan.metadata, self.health), has_frames=options.frames)

    def blocks(self) -> Iterator[EventBlock]:
        """Yield events by position while a thread reads ahead; the source counts what is waiting."""
        queue: BoundedQueue[EventBlock] = BoundedQueue(max_items=64, max_bytes=self.options.queue_bytes)
        ahead = read_ahead(self._read(), queue, _size, "csr", self._hang_up)
        try:
            for block in ahead:
                self.health.waits = queue.waits
                self.health.received += len(block)
                self.health.waiting = max(self._next - self.health.received, 0)
                yield block
        finally:
            ahead.close()
            self.health.waits = queue.waits
            self.health.missing = self.meta.layout.count - self.health.received

    def close(self) -> None:
        self._hang_up()
        self._connection.close()

    def _hang_up(self) -> None:
        self._closed = True
        self._connection.hang_up()

    def _read(self) -> Iterator[EventBlock]:
        """Yield blocks to the end of the scan, reconnecting if necessary."""
        tries = self.options.reconnect
        skip = 0  # positions received over an earlier connection
        while not self._closed:
            try:
                yield from self._scanned(skip)
                return
            except CsrError as error:
                self.health.fault(f"position {self._next}: {error}")
                return
            except OSError as error:
                if self._closed:
                    return
                self.health.fault(f"position {self._next}: connection lost: {reason(error)}")
            while tries and not self._closed:
                tries -= 1
                if self._connect_again():
                    skip = self._next
                    break
            else:
                return

    def _scanned(self, skip: int) -> Iterator[EventBlock]:
        """Yield blocks of the running scan, without the first `skip` positions."""
        count = self.meta.layout.count
        while True:
            message = self._connection.message()
            if isinstance(message, Chunk):
                repeated = min(skip, len(message))
                skip -= repeated
                self.health.duplicates += repeated
                if repeated < len(message):
                    yield self._block(message, repeated)
                continue
            if isinstance(message, ScanEnd | AcquisitionEnd) and self._next < count:
                self.health.fault(f"the scan ends with position {self._next} of {count}")
            return

    def _block(self, chunk: Chunk, start: int) -> EventBlock:
        """Block of the positions of a chunk from `start`. Each entry of times over threshold is one event."""
        first, self._next = self._next, self._next + len(chunk) - start
        pixel = np.stack(np.divmod(np.arange(first, self._next), self.meta.layout.scan[1]), axis=1).astype(np.int32)
        weight = None
        if self._acquisition.format == "counts":
            if chunk.value.dtype.itemsize > 4 and int(chunk.value.max(initial=0)) >= 2**32:
                raise CsrError(f"a count of {chunk.value.max()}; the largest is {2**32 - 1}")
            weight = np.require(chunk.value, np.uint32, ["C", "A"])
        index = np.require(chunk.index, np.uint32, ["C", "A"])
        return EventBlock(index, weight, chunk.indptr[start:].astype(np.int64), pixel, self.meta.layout.camera)

    def _connect_again(self) -> bool:
        """Reconnect; return whether the sender repeats the same scan."""
        self._connection.close()
        time.sleep(self.options.reconnect_s)
        try:
            self._connection = _Connection(self._address, self.options)
            begun = self._connection.begin()
        except OSError as error:
            self.health.fault(f"no connection: {reason(error)}")
            return False
        except CsrError as error:
            self.health.fault(f"after a new connection: {error}")
            return False
        self.health.reconnects += 1
        same = begun[0] == self._acquisition and begun[1].sequence == self._scan.sequence
        if not same:
            self.health.fault("another scan has begun; this one stays incomplete")
            self._closed = True
        return same


class _Connection:
    """A socket and its decoder."""

    def __init__(self, address: tuple[str, int], options: Options) -> None:
        self._timeout_s, self._start_timeout_s = options.timeout_s, options.start_timeout_s
        self._socket = socket.create_connection(address, options.timeout_s)
        self._decoder = CsrDecoder(Limits(chunk_bytes=options.chunk_bytes))

    def begin(self) -> tuple[AcquisitionStart, ScanStart]:
        """Receive the messages before the first chunk.

        Raises:
            CsrError: an unexpected message.
            OSError: the connection is lost, or silent for too long.
        """
        last = monotonic() + self._start_timeout_s
        start = self.message(last)
        while isinstance(start, AcquisitionStart):
            scan = self.message(last)
            if isinstance(scan, ScanStart):
                return start, scan
            if monotonic() > last:
                raise TimeoutError(f"acquisitions begin and end, but no scan began within {self._start_timeout_s:g} s")
            start = self.message(last)  # an acquisition without a scan
        raise CsrError(f"{type(start).__name__} came before an acquisition and its scan")

    def message(self, last: float = math.inf) -> Message:
        """Receive the next message.

        Args:
            last: on the monotonic clock, s, however fast it comes.

        Raises:
            CsrError: no valid stream.
            OSError: the connection is lost, silent, or slower than `LEAST_BYTES` within the time-out.
        """
        begun, arrived = monotonic(), 0
        deadline = begun + self._timeout_s
        while True:
            self._socket.settimeout(max(min(deadline, last) - monotonic(), 1e-3))
            try:
                count = self._socket.recv_into(self._decoder.space())
            except TimeoutError:
                within_s = round(min(self._timeout_s, max(last - begun, 0.0)), 1)
                raise TimeoutError(f"no message within {within_s:g} s, only {arrived} bytes of one") from None
            if count == 0:
                raise ConnectionError("the sender has closed it")
            message = self._decoder.filled(count)
            if message is not None:
                return message
            arrived += count
            if arrived >= LEAST_BYTES:
                deadline, arrived = monotonic() + self._timeout_s, 0

    def hang_up(self) -> None:
        """End a `message` call that waits in another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def make(where: str, options: Mapping[str, Any]) -> CsrSource:
    """Open a stream by `host:port`; see `agents.sources.open_source`."""
    host, port = endpoint(where, PORT)
    return CsrSource(host, port, checked_options(Options, options))


def _size(block: EventBlock) -> int:
    weight = 0 if block.weight is None else block.weight.nbytes
    return block.index.nbytes + weight + block.indptr.nbytes + block.pixel.nbytes


def _metadata(sent: Mapping[str, Any], health: Health) -> Metadata:
    """Metadata from the known entries of the scan's JSON; the others become its provenance."""
    known = {key: value for key, value in sent.items() if key in Metadata.__dataclass_fields__ and key != "provenance"}
    rest = tidy({key: value for key, value in sent.items() if key not in known})
    valid: dict[str, Any] = {"provenance": {"stream": rest}} if rest else {}
    for key, value in known.items():
        try:
            Metadata.of({key: value}, "metadata")
            valid[key] = value
        except FormatError as error:
            health.fault(f"the scan's {printable(error)}")
    return Metadata.of(valid, "metadata")
