"""The page to play with: one file with a renderer of its own, so that anybody can turn the knobs without installing.

Nothing is computed here; `scenarios.gallery.film` makes the numbers that the page's renderer needs.
"""

from pathlib import Path

from scenarios.page import bundled, hand_written, text_of

STYLES = ("templates/style.css", "live/static/live.css", "gallery/static/play.css")
MODULES = ("live/static/view.js", "gallery/static/renderer.js", "gallery/static/play.js")
OPTICS = "gallery/static/optics.json"


def page() -> str:
    """Return the page, self-contained HTML.

    Example:
        >>> text = page()
        >>> "<canvas" in text, "import {" in text, "/* modules */" in text
        (True, False, False)
    """
    script = bundled(*MODULES).replace("/* optics */ null", text_of(OPTICS).strip())
    styles = "".join(text_of(place) for place in STYLES)
    return hand_written("gallery/static/play.html").replace("/* styles */", styles).replace("/* modules */", script)


def write(out: Path) -> None:
    """Write the page.

    Raises:
        GalleryError: the page cannot be written.
        InUse: another run writes it.
    """
    from scenarios.folders import locked, write_text
    from scenarios.gallery.page import check_place

    check_place(out)
    with locked(out):
        write_text(out, page())
