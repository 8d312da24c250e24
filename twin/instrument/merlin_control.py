"""A client of the Merlin camera's control port: get and set parameters, start and trigger."""

import math
import threading
from time import monotonic

from twin.errors import StemtwinError
from twin.formats.closing import Closing
from twin.instrument.line import Line
from twin.wire import merlin_commands as commands
from twin.wire.merlin import WireError


class CameraRefused(StemtwinError, RuntimeError):
    """The camera refused a command.

    Attributes:
        status: as in `twin.wire.merlin_commands`: busy, not recognised, or out of range.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class MerlinControl(Closing):
    """One connection, one command at a time.

    Any error but a refusal disconnects: a late reply must not be taken for the next one.

    Args:
        host, port: of the camera.
        timeout_s: for connecting, and for each complete reply.

    Attributes:
        deadline: on the monotonic clock, s, for all replies together; infinite at first.

    Raises:
        OSError: no answer at this address; commands raise the errors of `ask`.
    """

    deadline = math.inf

    def __init__(self, host: str, port: int = commands.CONTROL_PORT, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._line = Line("the camera's control port", host, port, timeout_s)
        self._line.connect()
        self._decoder = commands.ReplyDecoder()
        self._one_at_a_time = threading.Lock()

    def get(self, name: str) -> str:
        """Return the value of a parameter, as the camera writes it."""
        return self.ask(commands.Command("GET", name)).value or ""

    def set(self, name: str, value: object) -> None:
        """Set a parameter."""
        self.ask(commands.Command("SET", name, str(value)))

    def command(self, name: str) -> None:
        """Execute STARTACQUISITION, STOPACQUISITION, SOFTTRIGGER, ..."""
        self.ask(commands.Command("CMD", name))

    def ask(self, command: commands.Command) -> commands.Reply:
        """Send a command and return its reply.

        Raises:
            CameraRefused: busy, not recognised or out of range.
            WireError: not a reply to this command.
            OSError: connection lost, or no reply in time (TimeoutError).
        """
        with self._one_at_a_time:
            try:
                reply = self._reply(command)
            except BaseException:
                self.close()
                raise
        if reply.status != commands.OK:
            asked = f"{command.verb},{command.name}" + (f",{command.value}" if command.value is not None else "")
            raise CameraRefused(f"{asked}: {commands.STATUS[reply.status]}", reply.status)
        return reply

    def _reply(self, command: commands.Command) -> commands.Reply:
        request, begun = commands.build_command(command), monotonic()
        deadline = min(begun + self._timeout_s, self.deadline)
        self._line.send(request)
        payloads: list[bytes] = []
        while not payloads:
            try:
                payloads = self._decoder.feed(self._line.receive(deadline))
            except TimeoutError:
                raise TimeoutError(f"no complete reply within {max(deadline - begun, 0.0):.2g} s") from None
        if len(payloads) > 1:
            raise WireError(f"{len(payloads)} replies to one command")
        reply = commands.parse_reply(payloads[0])
        if (reply.verb, reply.name) != (command.verb, command.name.upper()):
            raise WireError(f"{reply.verb},{reply.name} is no reply to {command.verb},{command.name}")
        return reply

    def close(self) -> None:
        """Disconnect."""
        self._line.close()
