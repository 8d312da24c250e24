"""The base class of all errors of this package, and the nearest known name for messages about an unknown one."""

from collections.abc import Iterable
from difflib import get_close_matches


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


def shortened(text: str, most: int = 60) -> str:
    """Cut a text that somebody else wrote to a length that a message can hold.

    Example:
        >>> shortened("9" * 5000, 12)
        '999999999...'
    """
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(value: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean X?)', or '' if no known name is similar."""
    near = get_close_matches(value[:100], list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def check_known(value: object, known: Iterable[str], what: str, error: type[Exception] = ValueError) -> None:
    """Refuse an unknown name; `what` is the kind of thing, with its article.

    Raises:
        error: names the value, the nearest name and all known ones.
    """
    names = list(known)
    if value not in names:
        raise error(f"{shortened(repr(value))} is not {what}{nearest(str(value), names)}; known: {', '.join(names)}")
