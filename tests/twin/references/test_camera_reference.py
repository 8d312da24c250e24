"""References of a camera: a camera with known defects is undone, and files of every kind hold the same image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twin.formats.dataset import FormatError
from twin.options import OptionError, checked_options
from twin.references.camera_reference import CameraReference, ReferenceOptions, corrected, corrected_frame
from twin.references.image_files import read_image
from twin.types import Frame

CAMERA = (12, 16)


def reference(camera: tuple[int, int] = CAMERA, **options: Any) -> CameraReference:
    return CameraReference.of(checked_options(ReferenceOptions, options), camera)


def spot(camera: tuple[int, int] = CAMERA) -> np.ndarray:
    row, column = np.indices(camera)
    return 400.0 * np.exp(-((row - 5.0) ** 2 + (column - 8.0) ** 2) / 30.0) + 50


def test_dark_gain_and_bad_pixels_of_a_camera_are_undone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gain, dark = rng.uniform(0.8, 1.2, CAMERA), rng.uniform(90.0, 110.0, CAMERA)
    gain /= np.median(gain)
    np.save(tmp_path / "gain.npy", 3000.0 * gain)
    np.save(tmp_path / "dark.npy", np.stack([dark - 1, dark + 1]))
    counts = np.rint(gain * spot() + dark).astype(np.uint16)
    counts[3, 4] = 65535
    known = reference(gain=str(tmp_path / "gain.npy"), dark=str(tmp_path / "dark.npy"), bad_pixels=[(3, 4)])
    found = corrected(counts[None], known)[0]
    assert found.dtype == np.float32
    # Rounding of the counts over the smallest gain, and the median of the gain without a pixel.
    assert np.all(np.abs(found - spot())[~known.bad] < 0.7 + 0.003 * spot()[~known.bad])
    assert abs(found[3, 4] - spot()[3, 4]) < 6


def test_a_gap_between_chips_is_bridged_and_the_rest_untouched() -> None:
    counts = np.rint(spot()).astype(np.uint16)
    broken = counts.copy()
    broken[6:8] = 0
    broken[:, 9] = 60000
    found = corrected(broken[None], reference(bad_rows=[6, 7], bad_columns=9))[0]
    good = np.ones(CAMERA, bool)
    good[6:8], good[:, 9] = False, False
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[good], counts[good])
    assert np.abs(found.astype(int) - counts)[~good].max() < 50  # of up to 450, where the spot is round
    ramp = (50 + 10 * np.arange(12)[:, None] + 7 * np.arange(16)).astype(np.uint16)
    known = reference(bad_rows=[6, 7], bad_columns=9)
    assert np.abs(corrected(np.where(known.bad, 0, ramp)[None], known)[0].astype(int) - ramp).max() <= 2


def test_pixels_without_gain_are_bad(tmp_path: Path) -> None:
    gain = np.ones(CAMERA)
    gain[2, 3], gain[4, 5], gain[6, 7] = 0.0, np.nan, 1e-3
    np.save(tmp_path / "gain.npy", gain)
    known = reference(gain=str(tmp_path / "gain.npy"))
    assert np.argwhere(known.bad).tolist() == [[2, 3], [4, 5], [6, 7]]
    assert np.isfinite(corrected(np.ones((1, *CAMERA), np.uint16), known)).all()


def test_a_frame_keeps_whole_counts_above_a_level_that_it_tells() -> None:
    rng = np.random.default_rng(1)
    dark = np.linspace(80.0, 120.0, CAMERA[1]) * np.ones(CAMERA)
    counts = rng.poisson(dark).astype(np.uint16)
    known = CameraReference(np.zeros(CAMERA, bool), dark)
    frame = Frame(counts, 1e6, 0.5, 3.0, {"gain_setting": 2.0})
    seen = corrected_frame(frame, known)
    level = seen.settings["dark_level"]
    assert seen.counts.dtype == np.uint16
    assert np.abs(seen.counts - level - (counts - dark)).max() <= 0.5
    assert (seen.dose_e, seen.exposure_s, seen.clock_s, seen.settings["gain_setting"]) == (1e6, 0.5, 3.0, 2.0)
    assert np.array_equal(frame.counts, counts)


def test_the_dark_level_that_a_frame_tells_stays_where_there_is_no_dark_image() -> None:
    gain = np.where(np.arange(CAMERA[1]) < 8, 0.5, 1.5) * np.ones(CAMERA)
    frame = Frame((100 + 200 * gain).astype(np.uint16), 1e6, 0.5, 0.0, {"dark_level": 100.0})
    seen = corrected_frame(frame, CameraReference(np.zeros(CAMERA, bool), None, gain))
    assert (seen.counts == 300).all()
    assert seen.settings["dark_level"] == 100.0


@pytest.mark.parametrize("centre", [(5.0, 8.0), (5.4, 7.6)])
def test_the_centre_comes_to_the_middle(centre: tuple[float, float]) -> None:
    counts = np.rint(spot()).astype(np.uint16)
    seen = corrected_frame(Frame(counts, 1.0, 1.0, 0.0), reference(centre_px=centre))
    assert np.unravel_index(int(np.argmax(seen.counts)), CAMERA) == (6, 8)
    np.testing.assert_array_equal(seen.counts[1:], counts[:-1])
    assert seen.settings == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bad_pixels": [(12, 0)]}, r"bad_pixels: \[12, 0\] lies outside a camera of \[12, 16\]"),
        ({"bad_columns": 16}, r"bad_columns: \[16\] lies outside"),
        ({"bad_rows": list(range(12))}, "all 192 pixels"),
        ({"centre_px": (5, 16)}, "centre_px.*lies outside a camera"),
        ({"bad_pixel": []}, "did you mean bad_pixels"),
        ({"gain": "flat.npy"}, "median of 0"),
        ({"dark": "small.npy"}, r"dark: .*small\.npy has the shape \(2, 2\), the camera \(12, 16\)"),
    ],
)
def test_what_the_camera_cannot_have_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    np.save(tmp_path / "flat.npy", np.zeros(CAMERA))
    np.save(tmp_path / "small.npy", np.ones((2, 2)))
    options = {k: str(tmp_path / v) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(OptionError, match=words):
        reference(**options)


def write_image(path: Path, image: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix in (".tif", ".png"):
        Image.fromarray(image.astype(np.float32) if path.suffix == ".tif" else image.astype(np.uint16)).save(path)
    elif path.suffix == ".mrc":
        header = np.zeros(256, "<i4")
        header[:4], header[52] = (*image.shape[::-1], 1, 2), int.from_bytes(b"MAP ", "little")
        header[7:10] = (*image.shape[::-1], 1)
        path.write_bytes(header.tobytes() + image.astype("<f4").tobytes())
    else:
        from rsciio.hspy import file_writer

        axes = [
            {"name": name, "size": size, "scale": 1.0, "offset": 0.0, "units": "", "navigate": False}
            for name, size in zip("yx", image.shape, strict=True)
        ]
        about = {"General": {"title": "dark"}, "Signal": {"signal_type": ""}}
        rest: dict[str, Any] = {
            key: {} for key in ("original_metadata", "models", "learning_results", "tmp_parameters")
        }
        signal = {"data": image, "axes": axes, "metadata": about, "attributes": {"_lazy": False}, **rest}
        file_writer(str(path), {**signal, "package": "rsciio", "package_version": "0", "package_info": ""})


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".png", ".mrc", ".hspy"])
def test_every_kind_of_file_holds_the_same_image(tmp_path: Path, suffix: str) -> None:
    image = np.arange(192.0).reshape(CAMERA) * 7
    write_image(tmp_path / f"a{suffix}", image)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), image)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npz", b"", r"a\.npz holds several arrays: save the one you mean as \.npy"),
        ("a.npy", b"hello", "no image can be read from it"),
        ("a.tif", b"II*\0", "no image can be read from it"),
        ("a.mrc", bytes(100), "no image can be read from it|an image has rows"),
        ("a.hspy", b"\x89HDF\r\n", "HDF5"),
        ("a.dm3", bytes(64), "no image can be read from it"),
        ("b.npy", None, "does not exist"),
    ],
    ids=["npz", "npy", "tif", "mrc", "hspy", "dm3", "absent"],
)
def test_what_is_no_image_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=words) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="no image can be read"):
        read_image(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros(5))
    with pytest.raises(FormatError, match=r"shape \(5,\)"):
        read_image(tmp_path / "b.npy")
