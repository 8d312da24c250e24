"""The page's ES modules as one, for where a module cannot import others: a self-contained page, a notebook's widget."""

import re
from importlib import resources

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w.]+";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const |let |function |class )", re.MULTILINE)


def text_of(place: str) -> str:
    """Return a file of this package, such as "live/static/view.js"."""
    return (resources.files("scenarios") / place).read_text("utf-8")


def bundled(*places: str) -> str:
    """Return modules as one, in an order in which each comes after those that it imports from.

    They share one scope, so that no two may use one name for two things. Only a default export stays.

    Example:
        >>> text = bundled("live/static/view.js", "live/static/widget.js")
        >>> text.count("export "), "import {" in text
        (1, False)
    """
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", text_of(place))) for place in places)
