"""What can go wrong between a controller and an instrument, by kind, for retry, rollback and log.

No policy here; `twin.instrument.safety` has it.
"""

from twin.errors import StemtwinError


class MicroscopeFault(StemtwinError, RuntimeError):
    """An instrument did not do what it was told. The kind is the class; the message has the figures."""


class ActuatorBusy(MicroscopeFault):
    """The corrector refused because it was busy; nothing has moved."""


class CommandTimeout(MicroscopeFault):
    """No answer in time; what was commanded may or may not have happened."""


class OutOfReach(MicroscopeFault):
    """The instrument refused a value as beyond its own range; nothing has moved."""


class NotThere(MicroscopeFault):
    """The instrument says that it stands elsewhere than it was sent."""


class BadFrame(MicroscopeFault):
    """A frame that no exposure gives: wrong shape, not finite, all one value, counts beyond the camera's range."""


class StaleFrame(BadFrame):
    """A frame whose clock did not advance: the one before, again."""


class DoseExhausted(MicroscopeFault):
    """The next exposure would exceed the dose that is allowed; it was not taken."""


class Stopped(StemtwinError, RuntimeError):
    """The session was stopped, and why; the last good state was restored if the message says so."""


class Departure(StemtwinError, ValueError):
    """A replay was asked for what was never recorded: the inputs left the recorded ones."""
