"""The base of all errors that this package raises by itself."""


class StemtwinError(Exception):
    """Bad input, or an instrument that does not do what it is told: one sentence for whoever asked.

    The command line prints it and exits; a program catches this to catch them all.
    """


class NoSession(StemtwinError, RuntimeError):
    """A microscope was asked for something before `reset` began a session."""

    def __init__(self, verb: str) -> None:
        super().__init__(f"{verb}() before reset(rng): the microscope has no session yet")
