"""MkDocs hook: the parts of the pages that follow from the repository.

The architecture's drawing from the imports, the list of decisions from their titles, the reference from the names of
controllers, agents and the other kinds that are one file each, the microscope of the front page, and the gallery where
one was written before.
"""

import sys
from pathlib import Path

from architecture import drawing
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LEARNING = ROOT / "learning" / "__init__.py"
GALLERY = ROOT / "runs" / "docs" / "gallery.html"

KINDS = {
    "controllers": "controller/strategies",
    "trainings": "controller/training",
    "agents": "agents/methods",
    "backends": "twin/backends",
    "specimens": "twin/specimens",
}
"""`<!-- every: KIND -->` in a page becomes an entry for every file of the folder."""


PLAY = """<style>
  #play { width: 100%; height: 700px; border: 1px solid var(--md-default-fg-color--lightest); border-radius: 9px; }
  @media (max-width: 1219px) { #play { height: 1200px; } }
</style>
<iframe id="play" src="play.html" title="A microscope whose knobs can be turned"></iframe>"""
"""`<!-- play -->` in a page becomes the microscope to play with; below this width its parts stand one below another."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the package `learning` in the reference where there is one."""
    if LEARNING.is_file():
        (reference,) = (part["Reference"] for part in config.nav or () if "Reference" in part)
        reference.insert(4, {"learning": "reference/learning.md"})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    files.append(File.generated(config, "images/architecture.svg", content=drawing()))
    shown = GALLERY.read_text() if GALLERY.is_file() else "<p>Write it with <code>stemtwin gallery</code>.</p>"
    files.append(File.generated(config, "gallery.html", content=shown))
    files.append(File.generated(config, "play.html", content=_playable()))
    if LEARNING.is_file():
        modules = sorted(path.stem for path in (ROOT / "learning").glob("*.py") if path.stem != "__init__")
        text = "# learning\n\n::: learning\n\n" + "\n\n".join(f"::: learning.{name}" for name in modules) + "\n"
        files.append(File.generated(config, "reference/learning.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the markers of a page."""
    markdown = markdown.replace("<!-- decisions -->", _decisions()).replace("<!-- play -->", PLAY)
    for kind, folder in KINDS.items():
        markdown = markdown.replace(f"<!-- every: {kind} -->", _entries(folder))
    return markdown


def _playable() -> str:
    sys.path.insert(0, str(ROOT))
    try:
        from scenarios.gallery.play import page  # needs nothing but Python
    finally:
        sys.path.remove(str(ROOT))
    return page()


def _decisions() -> str:
    rows = ["| | decision |", "|---|---|"]
    for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = path.read_text().partition("\n")[0].removeprefix("# ").partition(". ")[2]
        rows.append(f"| {path.stem[:4]} | [{title}]({path.name}) |")
    return "\n".join(rows)


def _entries(folder: str) -> str:
    found = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py") if not path.stem.startswith("_")]
    named = [path for path in found if not any(part.startswith("_") for part in path.parts)]
    return "\n\n".join(
        f"::: {'.'.join(path.with_suffix('').parts)}" for path in sorted(named, key=lambda path: path.stem)
    )
