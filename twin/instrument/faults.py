"""Kinds of failure between a controller and an instrument. How each is handled: `twin.instrument.safety`."""

from twin.errors import StemtwinError, printable


class MicroscopeFault(StemtwinError, RuntimeError):
    """An instrument did not execute a command. The class is the kind of fault; the message has the figures."""


class ActuatorBusy(MicroscopeFault):
    """The corrector refused because it was busy; nothing has moved."""


class CommandTimeout(MicroscopeFault):
    """No answer in time; the command may or may not have been executed."""


class StillBusy(CommandTimeout):
    """An earlier call of the driver has not returned; this command was not sent."""


class OutOfReach(MicroscopeFault):
    """The instrument refused a value beyond its own range; nothing has moved."""


class NotThere(MicroscopeFault):
    """The instrument reports another position than the commanded one, or none."""


class AnotherClient(NotThere):
    """What the instrument tells does not follow from what this program did: another program uses it, or it is wrong."""


class BadFrame(MicroscopeFault):
    """A frame that no exposure can give: wrong shape, not finite, all one value, counts beyond the camera's range."""


class StaleFrame(BadFrame):
    """The previous frame again: its clock did not advance."""


class DoseExhausted(MicroscopeFault):
    """The next exposure would exceed the dose limit; it was not taken."""


class Stopped(StemtwinError, RuntimeError):
    """The session was stopped. The message has the reason, and whether the last good state was restored."""


class NotInTurn(StemtwinError, RuntimeError):
    """A call to the guard from within one of its own calls; nothing was sent."""


class Departure(StemtwinError, ValueError):
    """A replay was asked for a frame that was never recorded: the inputs differ from the recorded ones."""


def as_fault(error: BaseException, kind: type[MicroscopeFault] = MicroscopeFault) -> MicroscopeFault:
    """Return a fault as it is, and any other error, as a driver may raise, as a fault of this kind."""
    return error if isinstance(error, MicroscopeFault) else kind(described(error))


def described(error: BaseException) -> str:
    """Return class and message of an error, printable, in one line."""
    words = words_of(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def words_of(error: BaseException) -> str:
    """Return the message of an error, printable, in one line; a driver's error may fail even at that."""
    try:
        return printable(error)
    except BaseException:
        return "its message cannot be printed"
