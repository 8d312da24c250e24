"""The twin as a Merlin (Medipix3) camera: a control port and a data port, Ronchigrams or a whole scan.

STARTACQUISITION sends the text header on the data port; frames follow at once, or with TRIGGERSTART 5 after
SOFTTRIGGER: one trigger begins a whole scan, or in Ronchigram mode exposes NUMFRAMESPERTRIGGER frames. STEMMODE, which
no Merlin has, selects the mode. A stopped stream ends after a complete frame.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

from twin.errors import nearest
from twin.server import merlin_settings as parameters
from twin.server.bounded_log import BoundedLog
from twin.server.connection import TICK_S, Connection, Pace, Patience
from twin.server.frame_supply import Batch, FrameSupply
from twin.server.merlin_settings import Mode, OutOfRange, Settings
from twin.wire import merlin
from twin.wire import merlin_commands as commands
from twin.wire.merlin_commands import BUSY, CONTROL_PORT, OK, OUT_OF_RANGE, UNRECOGNISED, Command, Reply

log = logging.getLogger("twin.server")

DATA_PORT = merlin.DATA_PORT
PORT = CONTROL_PORT
ARMED_S = 10.0
"""Longest wait of an armed camera for a client on its data port."""
SEND_BYTES = 2**20
"""Size of frames that are sent between two checks whether to stop."""
LONGEST_NAME = 64
"""Longest name of a parameter, so that a reply can hold it."""

State = Literal["idle", "armed", "running"]
STATUS_NUMBER: Mapping[State, int] = {"idle": 0, "running": 1, "armed": 4}
"""DETECTORSTATUS."""


@dataclass(frozen=True)
class Job:
    """An acquisition that was started.

    Attributes:
        supply: source of the frames.
        frames: number of frames; 0: until stopped.
        per_trigger: frames per trigger.
        triggered: wait for a SOFTTRIGGER before the first frame.
        each: wait for one before every further `per_trigger` frames.
        depth: of the counter, bits.
    """

    supply: FrameSupply
    frames: int
    per_trigger: int
    triggered: bool
    each: bool
    depth: int


class MerlinCamera:
    """State of the camera, shared by its two ports. Every wait raises `Stopping` when the server stops.

    Args:
        supplies: sources of frames by mode; the first is the initial mode.
    """

    def __init__(self, supplies: Mapping[Mode, FrameSupply]) -> None:
        if not supplies:
            raise ValueError("a camera needs a source of frames")
        self.supplies = dict(supplies)
        self.settings = Settings(next(iter(self.supplies)))
        self._state: State = "idle"
        self._job: Job | None = None
        self._armed_at = 0.0
        self._triggers = 0
        self._stop = False
        self._changed = threading.Condition()
        self._waiting, self._gives_way = 0, False
        self._warnings = BoundedLog(log, "merlin control")

    @property
    def supply(self) -> FrameSupply:
        """Source of frames of the present mode."""
        return self.supplies[self.settings.mode]

    # --- for the control port --------------------------------------------------------------------

    def answer(self, command: Command) -> Reply:
        """Execute a command and return its reply; never fails."""
        with self._changed:
            self._disarm_forgotten()
            if command.verb == "GET":
                value = self._get(command.name)
                return Reply("GET", command.name, value or "", UNRECOGNISED if value is None else OK)
            if command.verb == "SET":
                return Reply("SET", command.name, None, self._set(command.name, command.value or ""))
            return Reply("CMD", command.name, None, self._command(command.name))

    def _get(self, name: str) -> str | None:
        if name == "DETECTORSTATUS":
            return str(STATUS_NUMBER[self._state])
        return self.settings.mode if name == "STEMMODE" else parameters.read(name, self.settings, self.supply.format)

    def _set(self, name: str, value: str) -> int:
        if self._state != "idle":
            return BUSY
        try:
            if name == "STEMMODE":
                self.settings = self._in_mode(value)
                return OK
            changed = parameters.write(name, value, self.settings)
        except OutOfRange as error:
            self._warnings.warning("%s", error)
            return OUT_OF_RANGE
        depths = self.supply.format.depths
        if changed is not None and changed.depth not in (None, *depths):
            self._warnings.warning("this scan was prepared for a counter of %s bits, not %s", depths[0], changed.depth)
            return OUT_OF_RANGE
        if changed is None:
            known = (*parameters.PARAMETERS, *parameters.KEPT, "STEMMODE")
            self._warnings.warning("no parameter %s%s", name, nearest(name, known))
            return UNRECOGNISED
        self.settings = changed
        return OK

    def _in_mode(self, value: str) -> Settings:
        """Return the settings in another mode, with its default numbers of frames and depth."""
        mode = next((mode for mode in self.supplies if mode == value.strip().upper()), None)
        if mode is None:
            raise OutOfRange(f"STEMMODE is one of {', '.join(self.supplies)}; got {value[:24]!r}")
        return replace(self.settings, mode=mode, frames=None, per_trigger=None, depth=None)

    def _command(self, name: str) -> int:
        if name == "STARTACQUISITION":
            return self._arm()
        if name == "STOPACQUISITION":
            self._stop = self._state != "idle"
            self._disarm_forgotten()
            self._changed.notify_all()
            return OK
        if name == "SOFTTRIGGER":
            # Ignored by a camera that needs no trigger.
            if self._state == "idle":
                return BUSY
            self._triggers += 1
            self._changed.notify_all()
            return OK
        known = ("STARTACQUISITION", "STOPACQUISITION", "SOFTTRIGGER")
        self._warnings.warning("no command %s%s", name, nearest(name, known))
        return UNRECOGNISED

    def _arm(self) -> int:
        if self._state != "idle":
            return BUSY
        settings, supply = self.settings, self.supply.now()
        soft = settings.trigger_start == parameters.SOFT_TRIGGER
        self._job = Job(
            supply,
            settings.frames_of(supply.format),
            settings.per_trigger_of(supply.format),
            soft,
            soft and settings.mode == "RONCHIGRAM",
            settings.depth_of(supply.format),
        )
        self._state, self._armed_at, self._triggers, self._stop = "armed", monotonic(), 0, False
        self._changed.notify_all()
        return OK

    def _disarm_forgotten(self) -> None:
        if self._state == "armed" and (self._stop or monotonic() - self._armed_at > ARMED_S):
            if not self._stop:
                self._warnings.warning("no client on the data port within %g s: the acquisition is cancelled", ARMED_S)
            self._state, self._job = "idle", None

    # --- for the data port -----------------------------------------------------------------------

    def next_job(self, connection: Connection) -> Job | None:
        """Wait for an acquisition; return None when the client is gone or has to give way to another one.

        Raises:
            ClientGone: it sent something.
        """
        with self._changed:
            self._waiting, self._gives_way = self._waiting + 1, False
        try:
            while True:
                connection.check()
                if connection.gone:
                    return None
                with self._changed:
                    self._disarm_forgotten()
                    if self._job is not None:
                        job, self._job, self._state = self._job, None, "running"
                        return job
                    if self._gives_way:
                        return None
                    self._changed.wait(TICK_S)
        finally:
            with self._changed:
                self._waiting -= 1

    @property
    def has_client(self) -> bool:
        """Whether a data client waits for an acquisition."""
        return self._waiting > 0

    def give_way(self) -> bool:
        """End the wait of a data client without an acquisition; return whether there is one that waits."""
        with self._changed:
            if self._state != "idle" or not self._waiting:
                return False
            self._gives_way = True
            self._changed.notify_all()
            return True

    def wait_for_trigger(self, number: int, connection: Connection) -> bool:
        """Wait for trigger `number`, from 1; return False when the acquisition was stopped or the client is gone."""
        while True:
            connection.check()
            if connection.gone:
                return False
            with self._changed:
                if self._stop or self._triggers >= number:
                    return not self._stop
                self._changed.wait(TICK_S)

    def wait_until(self, due: float, connection: Connection) -> bool:
        """Wait for a time of `monotonic`; return False when the acquisition was stopped or the client is gone."""
        while True:
            connection.check()
            with self._changed:
                remaining_s = due - monotonic()
                if self._stop or remaining_s <= 0:
                    return not self._stop
                self._changed.wait(min(remaining_s, TICK_S))
            if connection.gone:
                return False

    @property
    def stopped(self) -> bool:
        """Whether the running acquisition should end."""
        return self._stop

    def finished(self) -> None:
        """Return to idle after an acquisition, however it ended."""
        with self._changed:
            self._state, self._job, self._stop = "idle", None, False


class MerlinControl:
    """The control port.

    Args:
        camera: shared with the data port.
    """

    name = "merlin control"
    silent = latest_first = False
    patience = Patience()

    def __init__(self, camera: MerlinCamera) -> None:
        self._camera, self._warnings = camera, BoundedLog(log, self.name)

    def serve(self, connection: Connection) -> None:
        """Answer commands in order."""
        for payload in connection.payloads(commands.CommandDecoder().feed):
            connection.send(commands.build_reply(self.answer(payload)))

    def refuse(self, connection: Connection) -> None:
        """Answer the first command with the status busy."""
        for payload in connection.payloads(commands.CommandDecoder().feed, idle_s=connection.patience.message_s):
            connection.send(commands.build_reply(_refusal(payload, BUSY)))
            return

    def turned_away(self, words: str) -> bytes:
        """Nothing: a status has no words."""
        return b""

    def give_way(self) -> bool:
        return False

    def answer(self, payload: bytes) -> Reply:
        """Return the reply to the payload of a message; never fails."""
        try:
            command = commands.parse_command(payload)
        except merlin.WireError as error:
            # The message was complete: the connection is still usable.
            self._warnings.warning("%s", error)
            return _refusal(payload, UNRECOGNISED)
        if len(command.name) > LONGEST_NAME:
            return _refusal(b"", UNRECOGNISED)
        return self._camera.answer(command)


class MerlinData:
    """The data port.

    Args:
        camera: shared with the control port.
        paced: send frames at the time of the instrument's clock, not as soon as they are computed.
    """

    name = "merlin data"
    silent = latest_first = True
    # Short: what begins an acquisition comes on the control port.
    patience = Patience(send_s=60.0, quiet_s=0.05)

    def __init__(self, camera: MerlinCamera, paced: bool = True) -> None:
        self._camera, self._paced, self._warnings = camera, paced, BoundedLog(log, self.name)

    def serve(self, connection: Connection) -> None:
        """Send one acquisition after another."""
        while (job := self._camera.next_job(connection)) is not None:
            try:
                self._acquire(job, connection)
            except RuntimeError as error:
                # For example a session that was reset meanwhile. Disconnect, so that a waiting client notices.
                self._warnings.warning("%s: the acquisition failed: %s", connection.peer, error)
                return
            finally:
                self._camera.finished()

    def refuse(self, connection: Connection) -> None:
        """Only disconnect: this port has no message for it."""

    def turned_away(self, words: str) -> bytes:
        return b""

    def give_way(self) -> bool:
        """A client without an acquisition gives way: it may have been forgotten."""
        return self._camera.give_way()

    def _acquire(self, job: Job, connection: Connection) -> None:
        connection.send(merlin.acquisition_message(job.supply.about(job.frames, job.per_trigger, job.depth)))
        if job.triggered and not self._camera.wait_for_trigger(1, connection):
            return
        sent, pace = 0, Pace()
        for batch in job.supply.batches(job.depth, job.frames):
            if self._camera.stopped or connection.gone or not self._send(batch, pace, connection):
                return
            sent += len(batch.messages)
            more = job.frames == 0 or sent < job.frames
            if job.each and more and not self._camera.wait_for_trigger(sent // job.per_trigger + 1, connection):
                return

    def _send(self, batch: Batch, pace: Pace, connection: Connection) -> bool:
        """Send the frames that are due, a few at a time; return False when the acquisition was stopped."""
        messages, done = batch.messages, 0
        batch_size = max(1, SEND_BYTES // messages.shape[1])
        while done < len(messages):
            stop = min(done + batch_size, len(messages))
            if self._paced:
                stop = min(stop, max(done + 1, done + pace.due(batch.ready_s[done:stop])))
                if not self._camera.wait_until(pace.when(float(batch.ready_s[stop - 1])), connection):
                    return False
            connection.send(messages[done:stop].data)
            done = stop
            if self._camera.stopped and done < len(messages):
                return False
        return True


def _refusal(payload: bytes, status: int) -> Reply:
    """Return a refusal that repeats the command as far as possible."""
    try:
        command = commands.parse_command(payload)
        return Reply(command.verb, command.name, "" if command.verb == "GET" else None, status)
    except merlin.WireError:
        return Reply("CMD", "UNKNOWN", None, status)
