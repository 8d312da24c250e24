"""A folder of Ronchigrams, from any camera and program, as a recording that replays and resumes like one of our own."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from scenarios.calibration.instruments import Wiring, provenance
from scenarios.calibration.session import microscope_generator
from scenarios.schema import Scenario, ScenarioError
from twin.arrays import Array, Floats
from twin.errors import StemtwinError, nearest, reason
from twin.formats.dataset import FormatError
from twin.instrument.recorder import fingerprint
from twin.instrument.recording import RecordingWriter
from twin.options import Positive, validated
from twin.references.camera_reference import CameraReference, ReferenceOptions, corrected
from twin.references.image_files import SUFFIXES, read_image
from twin.state import StateSpace
from twin.types import Capabilities, Frame

LARGEST_COUNT = 60_000
"""Counts are scaled down to this where they do not fit into 16 bits, and up to it where they are fractions."""
MOST_TABLE = 2**24
"""Largest table that is read, bytes."""
CUMULATIVE, STATE = "cumulative.", "state."


@validated
class FolderOptions:
    """What a folder of images does not say.

    Attributes:
        pixel_mrad: angle of one pixel of the images; None: the middle square of an image is the scenario's camera.
        dose_e: electrons per image; None: as many as the image has counts.
        exposure_s: of each image.
        dark_level: counts without a beam, of every pixel.
    """

    pixel_mrad: Positive | None = None
    dose_e: Positive | None = None
    exposure_s: Positive = 1.0
    dark_level: Annotated[float, Ge(0)] = 0.0


@dataclass(frozen=True)
class Entry:
    """One image, and what is known of the corrector when it was taken.

    Attributes:
        path: of the image.
        cumulative_nm: input since the beginning of the session, shape (n,).
        state_nm: state of the coefficients; None if unknown.
        dose_e, exposure_s: of the image; None if the table does not say.
    """

    path: Path
    cumulative_nm: Array
    state_nm: Array | None
    dose_e: float | None = None
    exposure_s: float | None = None


@dataclass(frozen=True)
class Recorded:
    """Outcome: the recording, its frames, and what was done to the images, sentences."""

    path: Path
    frames: int
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"recording": str(self.path), "frames": self.frames, "notes": list(self.notes)}


def entries(folder: Path, space: StateSpace, table: Path | None = None) -> list[Entry]:
    """Return the images of a folder in the order of their names, or those of a table in its order.

    Args:
        folder: of images.
        space: its coefficients name columns of the table.
        table: CSV with a column `file`, and any of cumulative.NAME and state.NAME (nm, NAME a coefficient), dose_e and
            exposure_s.

    Raises:
        ScenarioError: no images, an unknown column, or a value that is no number.
    """
    if not folder.is_dir():
        raise ScenarioError(f"{folder} is no folder of images")
    if table is not None:
        return _of_table(folder, space, table)
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ScenarioError(f"{folder} has no images; known are {', '.join(SUFFIXES)}")
    return [Entry(path, space.zero, None) for path in paths]


def _of_table(folder: Path, space: StateSpace, table: Path) -> list[Entry]:
    known = ["file", "dose_e", "exposure_s", *(f"{part}{name}" for part in (CUMULATIVE, STATE) for name in space.names)]
    try:
        if not table.exists():
            raise ScenarioError(f"{table} does not exist")
        if not table.is_file() or table.stat().st_size > MOST_TABLE:
            raise ScenarioError(f"{table}: a table is a CSV file of at most {MOST_TABLE} bytes")
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [(name or "").strip() for name in reader.fieldnames or ()]
            for name in columns:
                if name not in known:
                    raise ScenarioError(f"{table}: no column {name!r}{nearest(name, known)}; known: {', '.join(known)}")
            if "file" not in columns:
                raise ScenarioError(f"{table}: a table needs a column file; it has {', '.join(columns) or 'none'}")
            reader.fieldnames = columns
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{table}: {reason(error)}") from error
    return [_entry(folder, space, row, f"{table}, line {line}") for line, row in enumerate(rows, start=2)]


def _entry(folder: Path, space: StateSpace, row: Mapping[str, Any], label: str) -> Entry:
    def number(column: str) -> float | None:
        text = (row.get(column) or "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        positive = column in ("dose_e", "exposure_s")
        if not math.isfinite(value) or (positive and value <= 0):
            kind = "a number above zero" if positive else "a number"
            raise ScenarioError(f"{label}: {column} is {text[:40]!r}, and {kind} is expected")
        return value

    name = (row.get("file") or "").strip()
    path = folder / name
    if not name or not path.is_file():
        raise ScenarioError(f"{label}: there is no file {name!r} in {folder}")
    state = [number(STATE + coefficient) for coefficient in space.names]
    known = all(value is not None for value in state)
    if not known and any(value is not None for value in state):
        raise ScenarioError(f"{label}: a state has all of {', '.join(space.names)}, or none")
    return Entry(
        path=path,
        cumulative_nm=np.array([number(CUMULATIVE + coefficient) or 0.0 for coefficient in space.names]),
        state_nm=np.array(state, dtype=np.float64) if known else None,
        dose_e=number("dose_e"),
        exposure_s=number("exposure_s"),
    )


def record(
    scenario: Scenario,
    images: Sequence[Entry],
    out: Path,
    options: FolderOptions | None = None,
    references: ReferenceOptions | None = None,
    wiring: Wiring | None = None,
) -> Recorded:
    """Write a recording of images, each corrected, cut to the square of the camera and binned to its pixels.

    Args:
        scenario: its optics and coefficients are those of the recording.
        images: from `entries`, in the order in which they were taken.
        out: of the new recording, .zarr.
        options: what the images do not say.
        references: of the camera that took them, applied before they are cut.
        wiring: seed and controller, for which `calibrate --resume` goes on with the recording.

    Raises:
        ScenarioError: an image that cannot be read, or of another shape than the first; nothing is written.
    """
    chosen, wiring = options or FolderOptions(), wiring or Wiring(seed=0, controller="vae_em")
    side = scenario.optics.camera_pixels
    prepared = [_read(entry, references) for entry in images]
    shapes = {image.shape for image in prepared}
    if len(shapes) > 1:
        raise ScenarioError(f"images of one recording have one shape; these have {', '.join(map(str, sorted(shapes)))}")
    notes: list[str] = []
    centre = None if references is None else references.centre_px
    cut = _field(prepared[0].shape, side, scenario, chosen.pixel_mrad, centre, notes)
    counts = np.stack([_binned(_cut(image - chosen.dark_level, *cut), side) for image in prepared])
    if chosen.dark_level:
        notes.append(f"a dark level of {chosen.dark_level:g} counts is taken out")
    whole, level = _whole(counts, notes)
    capabilities = Capabilities("a folder of images", scenario.optics, scenario.space, (side, side), 2**16 - 1)
    about = {**provenance(scenario, wiring), "images": _origin(images, notes)}
    try:
        writer = RecordingWriter(out, capabilities, about)
        writer.begin(_session(images[0], wiring.seed or 0))
        before, clock_s = scenario.space.zero, 0.0
        for entry, frame, image in zip(images, whole, counts, strict=True):
            exposure_s = entry.exposure_s or chosen.exposure_s
            clock_s += exposure_s
            dose_e = entry.dose_e or chosen.dose_e or max(float(image.sum()), 1.0)
            shot = Frame(frame, dose_e, exposure_s, clock_s, {"dark_level": level} if level else {})
            writer.append(shot, entry.cumulative_nm - before, entry.cumulative_nm, entry.state_nm)
            before = entry.cumulative_nm
    except FormatError as error:
        raise ScenarioError(str(error)) from error
    except OSError as error:
        raise ScenarioError(f"{error.filename or out}: {error.strerror or error}") from error
    return Recorded(out, len(images), tuple(notes))


def _session(first: Entry, seed: int) -> dict[str, Any]:
    """Return the entry of the session: the generator of a run of that seed, and the state at its beginning."""
    entry: dict[str, Any] = {"fingerprint": fingerprint(microscope_generator(seed))}
    if first.state_nm is not None:
        entry["initial_nm"] = (first.state_nm - first.cumulative_nm).tolist()
    return entry


def _origin(images: Sequence[Entry], notes: Sequence[str]) -> dict[str, Any]:
    return {"files": [entry.path.name for entry in images], "notes": list(notes)}


def _read(entry: Entry, references: ReferenceOptions | None) -> Floats:
    try:
        image = read_image(entry.path)
        if references is not None:
            image = corrected(image[None], CameraReference.of(references, (image.shape[0], image.shape[1])))[0]
    except StemtwinError as error:
        raise ScenarioError(str(error)) from error
    if not np.isfinite(image).all():
        raise ScenarioError(f"{entry.path}: {int((~np.isfinite(image)).sum())} pixels are no numbers; give bad_pixels")
    return np.asarray(image, np.float64)


def _field(
    shape: tuple[int, ...],
    side: int,
    scenario: Scenario,
    pixel_mrad: float | None,
    centre: tuple[float, float] | None,
    notes: list[str],
) -> tuple[int, int, int]:
    """Return first row, first column and side of the square of an image that is the scenario's camera."""
    middle = (shape[0] // 2, shape[1] // 2) if centre is None else (round(centre[0]), round(centre[1]))
    if pixel_mrad is not None:
        wide = round(side * scenario.optics.camera_pixel_mrad / pixel_mrad)
        if not 8 <= wide <= 4 * max(shape):
            raise ScenarioError(
                f"pixel_mrad: the camera of {side} x {scenario.optics.camera_pixel_mrad:.3g} mrad takes {wide} pixels"
                f" of {pixel_mrad:g} mrad, and an image has {shape[0]} x {shape[1]}"
            )
    else:
        wide = 2 * min(*middle, shape[0] - middle[0], shape[1] - middle[1])
        if wide < 8:
            raise ScenarioError(f"the middle of the images, {middle}, is at the edge of {shape[0]} x {shape[1]} pixels")
    notes.append(f"of {shape[0]} x {shape[1]} pixels the square of {wide} about {middle} became {side} x {side}")
    return middle[0] - wide // 2, middle[1] - wide // 2, wide


def _cut(image: Floats, top: int, left: int, side: int) -> Floats:
    """Return a square of an image, (side, side); beyond its edge there is nothing."""
    square = np.zeros((side, side))
    rows, columns = (np.arange(first, first + side) for first in (top, left))
    inside = np.ix_((rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1]))
    square[inside] = image[np.ix_(rows[inside[0].ravel()], columns[inside[1].ravel()])]
    return square


def _binned(image: Floats, side: int) -> Floats:
    """Return an image of (side, side) with the same sum: each pixel by the area it covers."""
    edges = np.linspace(0.0, len(image), side + 1)
    pixels = np.arange(len(image))
    overlap = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0.0, 1.0)
    return np.asarray(overlap @ image @ overlap.T)


def _whole(counts: Floats, notes: list[str]) -> tuple[np.ndarray, float]:
    """Return counts of 16 bits, and the level that was added to keep them above zero.

    Raises:
        ScenarioError: images without a signal.
    """
    largest, lowest = float(counts.max()), float(min(counts.min(), 0.0))
    if largest <= 0:
        raise ScenarioError("the images have no counts above zero")
    level, scale = float(np.ceil(-lowest)), 1.0
    fractions = largest < 256 and not np.allclose(counts, np.rint(counts), atol=1e-6)
    if fractions or largest + level > 2**16 - 1:
        scale = LARGEST_COUNT / (largest - lowest)
        level = float(np.ceil(-lowest * scale))
        notes.append(f"counts are scaled by {scale:.4g} to fit into 16 bits")
    if level:
        notes.append(f"a level of {level:g} counts is added, told as dark_level: some values were negative")
    return np.rint(counts * scale + level).astype(np.uint16), level
