"""The reason of an error in an answer of JSON-RPC, wherever a server puts it.

A CEOS server answers "Server error" and gives the reason in `data.message`; others use other keys, a wrapped error, the
last line of a traceback, or an error that is no error of JSON-RPC at all.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from twin.errors import printable

KEYS = ("message", "reason", "detail", "details", "error", "errors", "description", "data", "args", "msg", "text")
"""Keys of a reason, the likeliest first; those of an error's data, and of an error that has no message."""
BESIDE = ("type", "code", "traceback", "stack", "id", "jsonrpc", "method")
"""Keys whose text is not the reason."""
TRACES = ("traceback", "stack")
MOST_ENTRIES = 8
"""Entries of a list, and numbers, that are looked at."""


def words_of_error(error: Any) -> str:
    """Return what an error says, one of JSON-RPC or whatever stands in its place; nothing if it says nothing."""
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return words_of("", error)
    beside = {key: value for key, value in error.items() if key not in ("code", "message", "data")}
    return words_of(error["message"], error.get("data"), beside)


def words_of(message: str, *places: Any) -> str:
    """Return the message of an error with the reason in its data, if there is one; the first place that has it.

    Example:
        >>> words_of("Server error", {"type": "<class 'Exception'>", "message": "no beam"})
        'Server error: no beam'
        >>> words_of("Server error", {"measured_px": 25.5, "target_px": 20})
        'Server error: measured_px 25.5, target_px 20'
    """
    words = [printable(message, 200)]
    for reason in chain.from_iterable(map(reasons, places)):
        shown_reason = printable(reason)
        if shown_reason and shown_reason not in words[0]:
            words.append(shown_reason)
            break
    return ": ".join(word for word in words if word)


def reasons(data: Any) -> Iterator[str]:
    """Yield the texts in the data of an error that may be its reason, the likeliest first."""
    yield from _texts(data)
    yield from _last_lines(data)
    if isinstance(data, dict):
        numbers = [
            f"{key} {value:g}"
            for key, value in data.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e40
            if key.lower() not in BESIDE
        ]
        yield ", ".join(numbers[:MOST_ENTRIES])
        yield str(data.get("type", ""))


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, list):
        # A text before what is wrapped; neither goes without end.
        for kind in (str, list | dict):
            for item in data[:MOST_ENTRIES]:
                if isinstance(item, kind):
                    yield from _texts(item)
    elif isinstance(data, dict):
        by_lower = {key.lower(): value for key, value in data.items()}
        for key in KEYS:
            yield from _texts(by_lower.pop(key, None))
        for key, value in by_lower.items():
            if key not in BESIDE and isinstance(value, str | dict):  # a list of other names is one of choices
                yield from _texts(value)


def _last_lines(data: Any) -> Iterator[str]:
    """Yield the last line of a traceback, which has the reason."""
    if isinstance(data, list):
        for item in data[:MOST_ENTRIES]:
            yield from _last_lines(item)
    elif isinstance(data, dict):
        for key, value in data.items():
            if key.lower() in TRACES:
                lines = value if isinstance(value, list) else [value]
                texts = [line for line in lines[-MOST_ENTRIES:] if isinstance(line, str) and line.strip()]
                if texts:
                    yield texts[-1].strip().splitlines()[-1]
            elif isinstance(value, list | dict):
                yield from _last_lines(value)
