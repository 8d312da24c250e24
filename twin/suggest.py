"""What an error message adds after a name nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(value: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean X?)', or nothing when no known name is near."""
    near = get_close_matches(value, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""
