"""The nearest known name, for error messages about an unknown one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(value: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean X?)', or '' if no known name is similar."""
    near = get_close_matches(value, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def check_known(value: object, known: Iterable[str], what: str, error: type[Exception] = ValueError) -> None:
    """Refuse an unknown name; `what` is the kind of thing, with its article.

    Raises:
        error: names the value, the nearest name and all known ones.
    """
    names = list(known)
    if value not in names:
        raise error(f"{value!r} is not {what}{nearest(str(value), names)}; known: {', '.join(names)}")
