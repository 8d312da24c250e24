"""The drawing of the architecture page, made from the imports of the code whenever the pages are built.

    python docs/hooks/architecture.py > architecture.svg

A box is a folder or a module at the first level of a package, in a row below everything that imports it. A line inside
a package is a direct import; one that a longer path implies is left out. Arrows between packages carry the number of
imports.
"""

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
FLOORS = (("stemtwin",), ("scenarios",), ("controller", "agents"), ("learning",), ("twin",))
"""Packages from top to bottom; those that import nothing of each other stand side by side."""

WIDTH, GAP, BOX, ROW, HEAD = 1180, 26, 26, 44, 38
CHARACTER = 7.0

Edges = set[tuple[str, str]]


def packages(root: Path = ROOT) -> list[list[str]]:
    """The floors, without packages that are not there."""
    floors = [[name for name in floor if (root / name / "__init__.py").is_file()] for floor in FLOORS]
    return [floor for floor in floors if floor]


def imports(root: Path = ROOT) -> Edges:
    """Every import between modules, but those that the layer contracts ignore."""
    names = [name for floor in packages(root) for name in floor]
    sys.path.insert(0, str(root))
    try:
        graph = grimp.build_graph(names[0], *names[1:], cache_dir=None)
    finally:
        sys.path.remove(str(root))
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    ignored = [_pattern(text) for contract in contracts for text in contract.get("ignore_imports", ())]
    found = {(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)}
    return {pair for pair in found if not any(rule.fullmatch(" -> ".join(pair)) for rule in ignored)}


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*\*", r".+").replace(r"\*", r"[^.]+"))


def rooms(edges: Edges, package: str) -> Edges:
    """Imports between the first-level modules and folders of a package."""
    inside = ((a.split("."), b.split(".")) for a, b in edges)
    named = ((a[1], b[1]) for a, b in inside if a[0] == b[0] == package and min(len(a), len(b)) > 1)
    return {(a, b) for a, b in named if a != b}


def heights(nodes: Iterable[str], edges: Edges) -> dict[str, int]:
    """Longest path from each node down to one that imports nothing.

    Raises:
        ValueError: imports go round in a circle.
    """
    below: dict[str, set[str]] = {node: {b for a, b in edges if a == node} for node in nodes}
    height: dict[str, int] = {}
    while len(height) < len(below):
        ready = [node for node in below if node not in height and below[node] <= height.keys()]
        if not ready:
            raise ValueError(f"a circle of imports among {', '.join(sorted(below.keys() - height.keys()))}")
        height |= {node: 1 + max((height[other] for other in below[node]), default=-1) for node in ready}
    return height


def direct(edges: Edges) -> Edges:
    """Edges that no longer path implies."""
    reach: dict[str, set[str]] = {}

    def reached(node: str) -> set[str]:
        if node not in reach:
            reach[node] = set()
            for a, b in edges:
                if a == node:
                    reach[node] |= {b} | reached(b)
        return reach[node]

    for a, _ in edges:
        reached(a)
    return {(a, b) for a, b in edges if not any(b in reach.get(c, ()) for x, c in edges if x == a and c != b)}


def panel(root: Path, package: str, edges: Edges, left: float, top: float, width: float) -> tuple[str, float]:
    """One package: its boxes in rows, and the height of it all."""
    inside = rooms(edges, package)
    found = {path.name if path.is_dir() else path.stem for path in (root / package).iterdir() if _is_room(path)}
    linked = {name for pair in inside for name in pair} | found
    rows: dict[int, list[str]] = {}
    for node, height in heights(sorted(linked), inside).items():
        rows.setdefault(height, []).append(node)
    lines = [line for height in sorted(rows, reverse=True) for line in _wrapped(root, package, rows[height], width)]
    middle: dict[str, tuple[float, float]] = {}
    boxes = []
    for i, line in enumerate(lines):
        y = top + HEAD + i * ROW
        spare = (width - sum(_wide(root, package, node) for node in line)) / (len(line) + 1)
        x = left + spare
        for node in line:
            wide = _wide(root, package, node)
            middle[node] = (x + wide / 2, y + BOX / 2)
            kind = "folder" if (root / package / node).is_dir() else "module"
            boxes.append(f'<rect class="{kind}" x="{x:.0f}" y="{y}" width="{wide:.0f}" height="{BOX}" rx="4"/>')
            label = escape(_label(root, package, node))
            boxes.append(f'<text x="{x + wide / 2:.0f}" y="{y + 17}" text-anchor="middle">{label}</text>')
            x += wide + spare
    height = HEAD + len(lines) * ROW
    strokes = [
        '<line x1="{:.0f}" y1="{:.0f}" x2="{:.0f}" y2="{:.0f}"/>'.format(*middle[a], *middle[b])
        for a, b in sorted(direct(inside))
    ]
    frame = f'<rect class="package" x="{left}" y="{top}" width="{width}" height="{height}" rx="8"/>'
    title = f'<text class="title" x="{left + 12}" y="{top + 23}">{package}</text>'
    return "\n".join([frame, title, *strokes, *boxes]), height


def _is_room(path: Path) -> bool:
    if path.is_dir():
        return (path / "__init__.py").is_file()
    return path.suffix == ".py" and path.stem != "__init__"


def _label(root: Path, package: str, node: str) -> str:
    folder = root / package / node
    count = sum(1 for path in folder.glob("*.py") if path.stem != "__init__") if folder.is_dir() else 0
    return f"{node}/ {count}" if count else node


def _wide(root: Path, package: str, node: str) -> float:
    return CHARACTER * len(_label(root, package, node)) + 16


def _wrapped(root: Path, package: str, nodes: list[str], width: float) -> list[list[str]]:
    """A row that is too long for its panel, in several."""
    lines: list[list[str]] = [[]]
    for node in nodes:
        if sum(_wide(root, package, other) + 12 for other in [*lines[-1], node]) > width - 12:
            lines.append([])
        lines[-1].append(node)
    return lines


def between(edges: Edges) -> Mapping[tuple[str, str], int]:
    """Number of imports from one package to another."""
    tops = ((a.partition(".")[0], b.partition(".")[0]) for a, b in edges)
    return Counter((a, b) for a, b in tops if a != b)


Places = Mapping[str, tuple[float, float, float, float]]


def arrows(floors: list[list[str]], counts: Mapping[tuple[str, str], int], place: Places) -> list[str]:
    """From each package to those one floor below, with the number of imports."""
    drawn = []
    for upper, lower in pairwise(floors):
        for a, b in ((a, b) for a in upper for b in lower if counts.get((a, b))):
            narrow = min(place[a], place[b], key=lambda box: box[2])
            x, end = narrow[0] + narrow[2] / 2, place[b][1] - 4
            start = place[a][1] + place[a][3]
            drawn.append(f'<path class="flow" d="M{x} {start} V{end} m-5 -8 l5 8 l5 -8"/>')
            drawn.append(f'<text x="{x + 10}" y="{end - 14}">{counts[a, b]} imports</text>')
    return drawn


STYLE = """
svg { background: #ffffff; font: 12px "DejaVu Sans", Verdana, sans-serif; }
text { fill: #1b2a41; } .title { font-size: 15px; font-weight: bold; }
.package { fill: #f4f6fa; stroke: #8fa1bd; } .folder { fill: #cfe0f5; stroke: #4a6fa5; }
.module { fill: #ffffff; stroke: #8fa1bd; }
line { stroke: #8fa1bd; stroke-width: 0.7; } .flow { fill: none; stroke: #c2410c; stroke-width: 2; }
"""


def drawing(root: Path = ROOT) -> str:
    """The whole picture as SVG."""
    edges = imports(root)
    parts: list[str] = []
    top, place = 10.0, {}
    for floor in packages(root):
        width = (WIDTH - 20 - GAP * (len(floor) - 1)) / len(floor)
        tallest = 0.0
        for i, package in enumerate(floor):
            left = 10 + i * (width + GAP)
            text, height = panel(root, package, edges, left, top, width)
            parts.append(text)
            place[package] = (left, top, width, height)
            tallest = max(tallest, height)
        top += tallest + 2.2 * GAP
    counts = between(edges)
    parts += arrows(packages(root), counts, place)
    notes = [f"{a} to {b}: {n}" for (a, b), n in sorted(counts.items(), key=lambda item: -item[1])]
    parts.append(f'<text x="12" y="{top}">Imports between packages: {escape("; ".join(notes))}</text>')
    size = f'viewBox="0 0 {WIDTH} {top + 16:.0f}" width="{WIDTH}" height="{top + 16:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    print(drawing())
