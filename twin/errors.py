"""The base class of all errors of this package."""


class StemtwinError(Exception):
    """Bad input, or an instrument that does not respond as it should; the message is one sentence.

    The command line prints it and exits; a program catches this class to catch every error of the package.
    """


class NoSession(StemtwinError, RuntimeError):
    """A call that needs a session came before `reset`.

    Args:
        verb: the method that was called.
    """

    def __init__(self, verb: str) -> None:
        super().__init__(f"{verb}() before reset(rng): the microscope has no session yet")
