"""The base class of all errors of this package, and what messages need: the nearest known name, printable text."""

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


LONGEST_WORDS = 300
"""Characters of a foreign text that a message repeats."""


def printable(text: object, most: int = LONGEST_WORDS) -> str:
    r"""Return a foreign text for a message: one line, without control characters, cut after `most` characters.

    Line breaks and tabs become blanks; other characters that a terminal would obey (escape sequences, changes of the
    direction of writing) and lone surrogates become "?".

    Example:
        >>> printable("beam\x1b[2J off\r\nnow")
        'beam?[2J off now'
        >>> printable("A" * 1000, most=8)
        'AAAAA...'
    """
    words = text if isinstance(text, str) else str(text)
    # Cut first: a text may have megabytes.
    line = " ".join(words[: 4 * most].split())
    clean = "".join(letter if letter.isprintable() else "?" for letter in line)
    return clean if len(clean) <= most and len(words) <= 4 * most else clean[: most - 3] + "..."


def reason(error: BaseException) -> str:
    """Return why something failed, in words: an error of the system without its number and file.

    Example:
        >>> reason(ConnectionRefusedError(111, "Connection refused")), reason(TimeoutError("timed out"))
        ('Connection refused', 'timed out')
    """
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return str(error) or type(error).__name__


BEGINS = 4
"""Letters of a short word that the beginning of a longer name shares, to be meant by it."""


def nearest(value: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean X?)', or '' if no known name is similar or begins alike.

    Example:
        >>> nearest("day-a", ["day_a", "nominal"]), nearest("skip", ["scan", "skip_frames"]), nearest("x", ["scan"])
        (' (did you mean day_a?)', ' (did you mean skip_frames?)', '')
    """
    names, beginning = list(known), value[: max(BEGINS, len(value) - 1)]
    near = get_close_matches(value[:100], names, n=1, cutoff=cutoff)
    if not near and len(beginning) >= BEGINS:
        near = [name for name in names if name.startswith(beginning)]
    return f" (did you mean {near[0]}?)" if near else ""


def check_known(value: object, known: Iterable[str], what: str, error: type[Exception] = ValueError) -> None:
    """Refuse an unknown name; `what` is the kind of thing, with its article.

    Raises:
        error: names the value, the nearest name and all known ones.
    """
    names = list(known)
    if value not in names:
        raise error(
            f"{printable(repr(value), 60)} is not {what}{nearest(str(value), names)}; known: {', '.join(names)}"
        )
