"""What an error message adds after a name nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(value: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean X?)', or nothing when no known name is near."""
    near = get_close_matches(value, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def check_known(value: object, known: Iterable[str], what: str, error: type[Exception] = ValueError) -> None:
    """Refuse a name that is none of the known ones; `what` they are, with its article.

    Raises:
        error: names the value, the nearest and all of them.
    """
    names = list(known)
    if value not in names:
        raise error(f"{value!r} is not {what}{nearest(str(value), names)}; known: {', '.join(names)}")
