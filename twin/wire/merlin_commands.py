"""Commands of a Merlin (Medipix3) camera's control port, as bytes: `GET,name`, `SET,name,value`, `CMD,name`.

Messages are framed as on the data port. The camera repeats the command with a status.
"""

from dataclasses import dataclass
from typing import Literal

from twin.errors import nearest
from twin.wire.merlin import PREFIX_BYTES, WireError, message, payload_length

CONTROL_PORT = 6341
MOST_COMMAND = 4096
"""Largest command or reply, bytes."""

Verb = Literal["GET", "SET", "CMD"]
VERBS: tuple[Verb, ...] = ("GET", "SET", "CMD")
OK, BUSY, UNRECOGNISED, OUT_OF_RANGE = range(4)
STATUS = ("ok", "busy", "not recognised", "parameter out of range")


@dataclass(frozen=True)
class Command:
    """A command of a client. Clients add a value of 0 to GET and CMD too, which is ignored."""

    verb: Verb
    name: str
    value: str | None = None


@dataclass(frozen=True)
class Reply:
    """A reply of the camera; `value` with GET only."""

    verb: Verb
    name: str
    value: str | None
    status: int


def build_command(command: Command) -> bytes:
    """Return a command as a message.

    Raises:
        WireError: a name or value that would break the message.
    """
    parts = [command.verb, command.name] + ([] if command.value is None else [command.value])
    return _joined(parts, strict=command.verb == "SET")


def build_reply(reply: Reply) -> bytes:
    """Return a reply as a message.

    Raises:
        WireError: a name or value that would break the message.
    """
    value = [reply.value or ""] if reply.verb == "GET" else []
    return _joined([reply.verb, reply.name, *value, str(reply.status)], strict=False)


def _joined(parts: list[str], strict: bool) -> bytes:
    for part in parts[1:]:
        if "," in part or not (part.isprintable() and part.isascii()) or (strict and not part):
            raise WireError(f"{part!r} cannot be part of a command: plain text without commas")
    payload = ",".join(parts).encode("ascii")
    if len(payload) > MOST_COMMAND:
        raise WireError(f"a command of {len(payload)} bytes; at most {MOST_COMMAND} are allowed")
    return message(payload)


def parse_command(payload: bytes) -> Command:
    """Parse a command from the payload of its message; the name becomes upper case.

    Raises:
        WireError: not a command.
    """
    verb, *parts = _fields(payload)
    if verb == "SET" and len(parts) == 2:
        return Command("SET", parts[0].upper(), parts[1])
    if verb in ("GET", "CMD") and len(parts) in (1, 2):
        return Command("GET" if verb == "GET" else "CMD", parts[0].upper())
    if verb not in VERBS:
        raise WireError(f"a command is {', '.join(VERBS)}, not {verb!r}{nearest(verb, VERBS, 0.5)}")
    raise WireError(f"{verb} takes a name{' and a value' if verb == 'SET' else ''}; got {len(parts)} fields")


def parse_reply(payload: bytes) -> Reply:
    """Parse a reply from the payload of its message.

    Raises:
        WireError: not a reply.
    """
    verb, *parts = _fields(payload)
    if verb not in VERBS or len(parts) != (3 if verb == "GET" else 2):
        raise WireError(f"a reply is a verb, a name, with GET a value, and a status; got {payload[:64]!r}")
    status = parts[-1]
    if len(status) != 1 or status not in "0123":
        raise WireError(f"a status is 0 to 3, not {status!r}")
    kind: Verb = "GET" if verb == "GET" else "SET" if verb == "SET" else "CMD"
    return Reply(kind, parts[0].upper(), parts[1] if verb == "GET" else None, int(status))


def _fields(payload: bytes) -> list[str]:
    try:
        text = payload.decode("ascii")
    except UnicodeDecodeError:
        raise WireError(f"commands are plain text, not {payload[:32]!r}") from None
    if not text.isprintable():
        raise WireError(f"commands are plain text, not {payload[:32]!r}")
    verb, *parts = text.split(",")
    if not parts or not parts[0]:
        raise WireError(f"{payload[:64]!r} has no name")
    return [verb.upper(), *parts]


class CommandDecoder:
    """Decodes the bytes that a client sends to the control port."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads of complete commands, for `parse_command`.

        Raises:
            WireError: no message where one should begin; the connection is unusable.
        """
        self._data += data
        payloads = []
        while len(self._data) >= PREFIX_BYTES:
            stop = self._stop(PREFIX_BYTES + payload_length(bytes(self._data[:PREFIX_BYTES]), MOST_COMMAND))
            if len(self._data) < stop:
                break
            payloads.append(bytes(self._data[PREFIX_BYTES:stop]))
            del self._data[:stop]
        return payloads

    def _stop(self, announced: int) -> int:
        """Return the end of the first message from the one that its prefix announces."""
        return announced


class ReplyDecoder(CommandDecoder):
    """Decodes the bytes that the camera sends on the control port; `parse_reply` takes each payload.

    One public simulator announces a byte less than it sends. That byte is the status: a reply that ends in a comma has
    one more byte.
    """

    def _stop(self, announced: int) -> int:
        return announced + (self._data[announced - 1 : announced] == b",")
