"""The layout of every HTML page: a title, a lead, and blocks. One look, light and dark; figures travel in the page.

Text is escaped by the template. Nothing is loaded from elsewhere.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w.]+";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const |let |function |class )", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """A figure with its label; `kind` is "good", "bad" or neither."""

    value: str
    label: str
    kind: str = ""


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    layout: ClassVar[str] = "cards"
    cards: Sequence[Card]


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a small note behind its text; `kind` is "yes", "no", "better", "worse" or none."""

    text: str
    note: str = ""
    kind: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are numbers."""

    layout: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


@dataclass(frozen=True)
class Picture:
    """A PNG image."""

    layout: ClassVar[str] = "picture"
    png: bytes
    alt: str

    @property
    def source(self) -> str:
        """The image as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section, with a paragraph."""

    layout: ClassVar[str] = "heading"
    title: str
    text: str = ""


@dataclass(frozen=True)
class Listing:
    """Preformatted text."""

    layout: ClassVar[str] = "listing"
    text: str


@dataclass(frozen=True)
class Items:
    """A bulleted list."""

    layout: ClassVar[str] = "items"
    lines: Sequence[str]


@dataclass(frozen=True)
class Details:
    """A table behind a line that opens it."""

    layout: ClassVar[str] = "details"
    summary: str
    block: Table


@dataclass(frozen=True)
class Section:
    """A box with a title, a paragraph and blocks."""

    layout: ClassVar[str] = "section"
    title: str
    text: str
    blocks: Sequence[Table | Picture | Heading | Listing | Items | Details]


def page(title: str, lead: str, blocks: Iterable[Section | Cards], link: tuple[str, str] | None = None) -> str:
    """Return a self-contained page; `link`, a text and the relative path of another page, follows the lead.

    Example:
        >>> text = page("A < B", "Two frames.", [Section("Table", "", [Table(["frame"], [["1"], ["2"]])])])
        >>> "<h1>A &lt; B</h1>" in text, text.count("<td>")
        (True, 2)
    """
    words, path = link or ("", "")
    return _template().render(title=title, lead=lead, blocks=list(blocks), link=words, address=quote(path))


def text_of(place: str) -> str:
    """Return a file of this package, such as "live/static/view.js"."""
    return (resources.files("scenarios") / place).read_text("utf-8")


def hand_written(place: str) -> str:
    """Return a page of this package, such as "live/static/live.html", behind the head of all pages.

    Example:
        >>> hand_written("live/static/live.html").splitlines()[0]
        '<!doctype html>'
    """
    return text_of(place).replace("<!-- head -->\n", text_of("templates/head.html"))


def bundled(*places: str) -> str:
    """Return ES modules as one, for where a module cannot import others: a page of one file, a notebook's widget.

    Each has to come after those that it imports from. They share one scope, so that no two may use one name for two
    things. Only a default export stays.

    Example:
        >>> text = bundled("live/static/view.js", "live/static/widget.js")
        >>> text.count("export "), "import {" in text
        (1, False)
    """
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", text_of(place))) for place in places)


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("scenarios"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["breakable"] = breakable
    return environment.get_template("page.html")


def breakable(text: str) -> "Markup":
    """A cell's text, escaped; long names of controllers may break behind : and , before they widen a column.

    Example:
        >>> str(breakable("vae_em:selection=variance,hard=true"))
        'vae_em:<wbr>selection=variance,<wbr>hard=true'
    """
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=[:,])(?=\S)", "<wbr>", str(escape(text))))
