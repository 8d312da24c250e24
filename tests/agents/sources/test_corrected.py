"""References of a camera in a stream: every agent sees what a camera without defects would have shown."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import base, load
from agents.epie.store import encoded
from agents.source import SourceError
from agents.sources import REFERENCES, open_source
from agents.stream import run
from twin.formats import Layout, Metadata, create
from twin.formats.t3p import RECORD
from twin.options import OptionError
from twin.references.camera_reference import ReferenceOptions

SCAN, CAMERA = (6, 7), (24, 24)
BEAM = Metadata(step_nm=0.03, energy_kev=300.0, convergence_mrad=20.0, pixel_mrad=3.0, dwell_s=1e-3, rotation_deg=0.0)


def frames() -> np.ndarray:
    """A disc of 200 counts a pixel that moves by a fraction of a pixel from position to position."""
    row, column = np.indices(CAMERA)
    k = np.arange(SCAN[0] * SCAN[1])[:, None, None]
    distance = np.hypot(row - 12 - 0.4 * np.sin(k), column - 12 - 0.4 * np.cos(2 * k))
    return np.rint(200 * np.clip(7.0 - distance, 0, 1) + 10).astype(np.uint16)


def store(path: Path, counts: np.ndarray) -> Path:
    with create(path, Layout(SCAN, CAMERA, "uint16"), BEAM) as writer:
        writer.append(counts)
    return path


def outcome(path: Path, name: str, **options: Any) -> Any:
    with open_source(path, **options) as source:
        done = run(source, {name: load(name)})
    assert not done.errors, done.errors
    return done


OTHERWISE = ("haadf", "epie", "columns", "defects", "anomaly", "bm3d")
"""Agents that see nothing here: no electron, whole numbers only (tested below), no lattice, nothing odd; or that need a
package that may be absent."""


def test_the_options_are_those_of_the_reference() -> None:
    assert set(REFERENCES) == set(ReferenceOptions.__dataclass_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in base.names() if name not in OTHERWISE])
def test_every_agent_takes_corrected_frames(tmp_path: Path, name: str) -> None:
    suffix, clean = ".mib", frames()
    gain = np.random.default_rng(0).uniform(0.7, 1.3, CAMERA)
    gain /= np.median(gain)
    np.save(tmp_path / "gain.npy", gain)
    spoilt = np.minimum(np.rint(clean * gain + 30), 4000).astype(np.uint16)
    spoilt[:, 3, 5] = 4000
    reference = {"gain": str(tmp_path / "gain.npy"), "dark": 30, "bad_pixels": [(3, 5)]}
    right = outcome(store(tmp_path / f"clean{suffix}", clean), name).results[name].images
    found = outcome(store(tmp_path / f"spoilt{suffix}", spoilt), name, **reference).results[name].images
    raw = outcome(tmp_path / f"spoilt{suffix}", name).results[name].images
    key = next(iter(right))
    scale = np.nanstd(right[key].values) + 0.002 * np.nanmax(np.abs(right[key].values))

    def off(image: np.ndarray) -> float:
        return float(np.nanmax(np.abs(image - right[key].values)) / scale)

    assert off(found[key].values) < 0.3
    assert off(found[key].values) < off(raw[key].values)


def test_epie_keeps_counts_that_a_dark_level_made_negative_at_zero() -> None:
    counts = np.array([[[-3.2, 0.4], [1.7, 9.6]]], np.float32)
    assert encoded(counts).tolist() == encoded(np.array([[[0, 0], [2, 10]]], np.uint16)).tolist()


def test_only_bad_pixels_leave_whole_counts(tmp_path: Path) -> None:
    with open_source(store(tmp_path / "a.mib", frames()), bad_columns=[11, 12]) as source:
        block = next(iter(source.blocks()))
    assert block.frames.dtype.kind == "u"
    assert np.abs(block.frames.astype(int) - frames()[: len(block)]).max() < 90
    np.testing.assert_array_equal(np.delete(block.frames, [11, 12], axis=2), np.delete(frames(), [11, 12], axis=2))


def test_events_of_bad_pixels_are_dropped(tmp_path: Path) -> None:
    events = np.zeros(300, RECORD)
    events["pixel"], events["toa"] = np.arange(300) % 24, np.arange(300)
    events.tofile(tmp_path / "a.t3p")
    options = {"scan": (3, 4), "camera": (4, 6), "dwell_s": 25 * 25e-9}
    with open_source(tmp_path / "a.t3p", bad_pixels=[(0, 0), (3, 5)], **options) as source:
        blocks = list(source.blocks())
        assert source.counts.accepted == 300  # type: ignore[attr-defined]
    index = np.concatenate([b.index for b in blocks])
    assert sorted(set(index.tolist())) == list(range(1, 23))
    per = np.concatenate([np.diff(b.indptr) for b in blocks])
    assert per.tolist() == [int(np.sum(~np.isin(np.arange(25 * k, 25 * k + 25) % 24, (0, 23)))) for k in range(12)]
    source = open_source(tmp_path / "a.t3p", dark=1.0, **options)
    with source, pytest.raises(SourceError, match="counts single electrons"):
        list(source.blocks())


def test_references_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", frames())
    np.save(tmp_path / "small.npy", np.ones((3, 3)))
    with pytest.raises(SourceError, match=r"dark: .*shape \(3, 3\), the camera \(24, 24\)"):
        open_source(path, dark=str(tmp_path / "small.npy"))
    with pytest.raises(OptionError, match="did you mean bad_rows"):
        open_source(path, bad_row=[1])
    with pytest.raises(OptionError, match="bad_rows"):
        open_source(path, bad_rows=[-1])
