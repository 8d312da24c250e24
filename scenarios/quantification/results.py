"""Columns of an image as files: a table, arrays, a picture, a summary."""

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from agents.quantify.quantify import Quantified
from scenarios.folders import NotWritten, carries, sentence, write_bytes, write_text
from twin.arrays import Floats
from twin.errors import StemtwinError
from twin.formats.file_checks import read_text
from twin.options import LARGEST

TABLE, ARRAYS, PICTURE, SUMMARY = "columns.csv", "columns.zarr", "columns.png", "summary.json"
RESTORED = "restored.npy"
"""Image of the fitted columns on the true grid."""
FILES = (TABLE, ARRAYS, PICTURE, SUMMARY, RESTORED)
FORMAT, VERSION = "stemtwin-columns", 1


MOST_ATOMS, MOST_LIBRARY_BYTES = 1000, 2**20
"""Of a library: thicker columns than these are no thin specimen."""


class LibraryError(StemtwinError, ValueError):
    """A file that is no library of cross-sections."""


def read_library(path: Path) -> list[float]:
    r"""Cross-sections of 1, 2, ... atoms from the last number of every line of a text file; # begins a comment.

    Raises:
        FormatError: no such file, or no text.
        LibraryError: a line without a number, or cross-sections that do not rise from zero on.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pt.txt"
        >>> _ = path.write_text("# atoms, cross-section in nm2\n1, 0.7\n2, 1.6\n")
        >>> read_library(path)
        [0.7, 1.6]
    """
    found: list[float] = []
    for number, line in enumerate(read_text(path, MOST_LIBRARY_BYTES, "a library of cross-sections").splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            value = float(words[-1])
        except ValueError:
            value = math.nan
        before = found[-1] if found else 0.0
        if not before < value <= LARGEST:
            wanted = f"above {before:g}, the one before," if found else "above 0"
            raise LibraryError(f"{path}, line {number}: a cross-section {wanted} is expected, got {words[-1][:40]!r}")
        found.append(value)
        if len(found) > MOST_ATOMS:
            raise LibraryError(f"{path}: a library has cross-sections of at most {MOST_ATOMS} atoms")
    if not found:
        raise LibraryError(f"{path}: no cross-section in it")
    return found


def summary(found: Quantified, source: str) -> dict[str, Any]:
    """What the command prints: how many columns, how well, and what could not be had."""
    fit, inner = found.fit, ~found.at_edge
    table = found.table()
    unit, area = ("px", "px2") if found.step_nm is None else ("nm", "nm2")
    scale = 1.0 if found.step_nm is None else found.step_nm

    def median(name: str) -> float | None:
        return float(np.median(table[name][inner])) if inner.any() else None

    plain: dict[str, Any] = {
        "source": source,
        "columns": len(found.columns),
        "at_edge": int(np.count_nonzero(found.at_edge)),
        f"spacing_{unit}": found.spacing_px * scale,
        f"position_sigma_{unit}": median(f"x_sigma_{unit}"),
        f"cross_section_{area}": median(f"cross_section_{area}"),
        f"cross_section_sigma_{area}": median(f"cross_section_sigma_{area}"),
        "background": fit.columns.background,
        "background_sigma": fit.background_sigma,
        "halo": fit.columns.halo,
        "dispersion": fit.dispersion,
        "steps": fit.steps,
        "converged": fit.converged,
        "tail": None if fit.smear is None else [fit.smear.shape, fit.smear.constant_per_px],
        "notes": list(found.notes),
    }
    if fit.axes is not None:
        for name, series in zip("xy", fit.axes, strict=True):
            plain[f"jitter_{name}_{unit}"] = series.sigma_px * scale
            plain[f"jitter_{name}_correlation"] = series.correlation
    if found.counts is not None:
        known = found.counts.known
        plain["atoms"] = int(found.counts.atoms[known].sum())
        plain["atoms_sigma"] = math.sqrt(float(np.sum(found.counts.sigma[known] ** 2)))
        plain["not_counted"] = int(np.count_nonzero(~known))
        if found.counts.icl.size:  # of a mixture, which counts from an assumed number on
            plain["first"] = found.counts.first
        plain["cross_section_of_counts"] = found.counts.means.tolist()
    return plain


def is_ours(out: Path) -> bool:
    """Return whether a folder holds the columns of an earlier run."""
    return carries(out / ARRAYS, FORMAT)


def write(found: Quantified, image: Floats, source: str, out: Path) -> None:
    """Write all files.

    Raises:
        NotWritten: the disc is full, or the folder cannot be written.
    """
    from scenarios.quantification.plots import picture

    try:
        write_text(out / TABLE, _csv(found))
        write_text(out / SUMMARY, json.dumps(summary(found, source), indent=2) + "\n")
        write_bytes(out / PICTURE, picture(found, image))
        restored = io.BytesIO()
        np.save(restored, found.fit.restored)
        write_bytes(out / RESTORED, restored.getvalue())
        _write_arrays(found, out / ARRAYS, source)
    except OSError as error:
        raise NotWritten(f"the columns could not be written: {sentence(error, out)}") from error


def _csv(found: Quantified) -> str:
    table, text = found.table(), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["column", *table])
    for number, row in enumerate(zip(*table.values(), strict=True)):
        writer.writerow([number, *(f"{value:.8g}" for value in row)])
    return text.getvalue()


def _write_arrays(found: Quantified, path: Path, source: str) -> None:
    """Table, covariances, shifts of the lines, measured and expected image and residuals as a zarr group."""
    import zarr

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    group = zarr.create_group(path, zarr_format=3, attributes={"format": FORMAT, "version": VERSION})
    fit = found.fit
    arrays = {
        **{f"table/{name}": values for name, values in found.table().items()},
        "covariance": found.covariance,
        "shift_px": fit.shift_px,
        "shift_sigma_px": fit.shift_sigma_px,
        "measured": fit.measured,
        "expected": fit.expected,
        "residual": fit.residual,
        "restored": fit.restored,
        "straight": fit.straight,
    }
    for name, values in arrays.items():
        group.create_array(name, data=np.ascontiguousarray(values))
    group.attrs.update(summary(found, source))
