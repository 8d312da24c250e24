"""Files of HyperSpy: what its axes and metadata say is believed, whatever was done to the data there."""

import importlib.util
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.com.centre_map import ComOptions
from agents.sources.files import FileSource
from twin import formats
from twin.formats import FormatError, Layout, Metadata
from twin.formats.hdf5 import checked, walk
from twin.formats.hspy import HspyReader

_spec = importlib.util.spec_from_file_location("hyperspy_stand_in", Path(__file__).with_name("hyperspy_stand_in.py"))
assert _spec is not None
assert _spec.loader is not None
hs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hs)


@pytest.fixture(autouse=True)
def _structure_is_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of its own is tested elsewhere, and costs 0.2 s a file."""
    monkeypatch.setattr(checked, "_walk_elsewhere", lambda path: walk.walk(str(path)))


def counts(shape: tuple[int, ...] = (3, 4, 6, 8), dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).poisson(3, shape).astype(dtype)


def saved(path: Path, signal: Any) -> formats.FrameReader:
    hs.save(path, signal)
    return formats.open_frames(path)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [
        ("nm", 0.02),
        ("nanometers", 0.02),
        ("Å", 0.2),
        ("\u212b", 0.2),
        ("A", 0.2),
        ("angstrom", 0.2),
        ("pm", 20.0),
        ("µm", 2e-5),
        ("\u03bcm", 2e-5),
        ("um", 2e-5),
        ("m", 2e-11),
    ],
)
def test_scan_steps_in_any_unit_of_length(tmp_path: Path, unit: str, scale: float) -> None:
    with saved(tmp_path / "a.hspy", hs.signal(counts(), step=(scale, scale), units=(unit, "mrad"))) as reader:
        assert reader.metadata.step_nm == pytest.approx(0.02, rel=1e-9)
        assert reader.notes == ()


@pytest.mark.parametrize(
    ("unit", "scale", "energy_kev", "pixel_mrad"),
    [
        ("mrad", 0.8, None, 0.8),
        ("rad", 8e-4, None, 0.8),
        ("µrad", 800.0, None, 0.8),
        ("deg", 0.05, None, 0.872664626),
        ("1/nm", 0.4, 200.0, 0.4 * 2.50793),  # wavelength 2.50793 pm at 200 keV
        ("1/Å", 0.04, 200.0, 0.4 * 2.50793),
        ("nm^-1", 0.4, 300.0, 0.4 * 1.96875),
        ("1 / Å", 0.04, 300.0, 0.4 * 1.96875),
        ("A\u207b\u00b9", 0.04, 60.0, 0.4 * 4.86606),
    ],
)
def test_camera_angles_in_any_unit(
    tmp_path: Path, unit: str, scale: float, energy_kev: float | None, pixel_mrad: float
) -> None:
    about = {"Acquisition_instrument": {"TEM": {} if energy_kev is None else {"beam_energy": energy_kev}}}
    signal = hs.signal(counts(), pixel=(scale, scale), units=("nm", unit))
    signal["metadata"] = {"General": {"title": ""}, "Signal": {"signal_type": ""}} | about
    with saved(tmp_path / "a.hspy", signal) as reader:
        assert reader.metadata.pixel_mrad == pytest.approx(pixel_mrad, rel=1e-5)
        assert reader.metadata.energy_kev == energy_kev


def test_spatial_frequencies_without_an_energy_are_said_and_not_guessed(tmp_path: Path) -> None:
    with saved(tmp_path / "a.hspy", hs.signal(counts(), units=("nm", "1/nm"))) as reader:
        assert reader.metadata.pixel_mrad is None
        (note,) = reader.notes
        assert "needs the beam energy" in note


@pytest.mark.parametrize("zero", [(0.0, 0.5), (3.0, 4.0), (2.5, 5.25)])
def test_the_offset_of_the_camera_axes_is_the_zero_angle(tmp_path: Path, zero: tuple[float, float]) -> None:
    offset = (-zero[0] * 0.8, -zero[1] * 0.8)
    with saved(tmp_path / "a.hspy", hs.signal(counts(), offset=offset)) as reader:
        # The middle of the camera, pixel (3, 4) of 6 x 8, is what is taken without a statement.
        assert reader.metadata.centre_px == (None if zero == (3.0, 4.0) else pytest.approx(zero))


def test_offsets_of_zero_state_nothing_and_a_zero_angle_outside_is_said(tmp_path: Path) -> None:
    with saved(tmp_path / "a.hspy", hs.signal(counts())) as reader:
        assert reader.metadata.centre_px is None
        assert reader.notes == ()
    with saved(tmp_path / "b.hspy", hs.signal(counts(), offset=(80.0, 80.0))) as reader:
        assert reader.metadata.centre_px is None
        assert "outside the camera" in reader.notes[0]


def test_the_zero_angle_reaches_the_agents(tmp_path: Path) -> None:
    hs.save(tmp_path / "a.hspy", hs.signal(counts(), offset=(-1.6, -4.0)))
    with FileSource(tmp_path / "a.hspy") as source:
        assert ComOptions().centre(source.meta) == pytest.approx((2.0, 5.0))
        assert ComOptions(centre_px=(1.0, 1.0)).centre(source.meta) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("step", "pixel", "note"),
    [
        ((0.05, 0.02), (0.8, 0.8), "step_nm is unknown: its axes differ"),
        ((0.02, 0.02), (0.8, 0.4), "pixel_mrad is unknown: its axes differ"),
    ],
)
def test_unequal_steps_are_said_by_reader_and_source(tmp_path: Path, step: Any, pixel: Any, note: str) -> None:
    with saved(tmp_path / "a.hspy", hs.signal(counts(), step=step, pixel=pixel)) as reader:
        assert note in reader.notes[0]
        assert (reader.metadata.step_nm is None) == ("step" in note)
        assert (reader.metadata.pixel_mrad is None) == ("pixel" in note)
    with FileSource(tmp_path / "a.hspy") as source:
        assert note in source.health.faults[0]


def test_a_line_of_one_pixel_has_no_say_in_the_step(tmp_path: Path) -> None:
    with saved(tmp_path / "a.hspy", hs.signal(counts((1, 4, 6, 8)), step=(1.0, 0.02))) as reader:
        assert reader.metadata.step_nm == 0.02


def test_coordinates_one_by_one_are_read_where_they_are_even(tmp_path: Path) -> None:
    for values, step in (([0.0, 0.1, 0.2, 0.3], 0.1), ([0.0, 0.1, 0.3, 0.4], None)):
        signal = hs.signal(counts((4, 4, 6, 8)), step=(0.1, 0.1))
        signal["axes"][1] = {
            "_type": "DataAxis",
            "name": "x",
            "axis": np.array(values),
            "units": "nm",
            "navigate": True,
        }
        with saved(tmp_path / f"{step}.hspy", signal) as reader:
            assert reader.metadata.step_nm == (None if step is None else pytest.approx(step))
            assert ("unequal steps" in "".join(reader.notes)) == (step is None)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_axes_that_run_backwards_are_turned(tmp_path: Path, number: int) -> None:
    signal = hs.signal(counts(), offset=(-2.4, -3.2))
    entry = signal["axes"][number]
    last = entry["offset"] + entry["scale"] * (entry["size"] - 1)
    signal["axes"][number] = entry | {"scale": -entry["scale"], "offset": last}
    signal["data"] = np.flip(signal["data"], axis=number)
    with saved(tmp_path / "a.hspy", signal) as reader:
        assert np.array_equal(reader.read(0, 12), counts().reshape(12, 6, 8))
        assert np.array_equal(reader.read(5, 2), counts().reshape(12, 6, 8)[5:7])
        assert reader.metadata == Metadata(step_nm=0.02, pixel_mrad=0.8)


@pytest.mark.parametrize("order", [(2, 3, 0, 1), (2, 0, 3, 1), (0, 2, 1, 3)])
def test_the_attribute_navigate_tells_scan_from_camera(tmp_path: Path, order: tuple[int, ...]) -> None:
    signal = hs.transpose(hs.signal(counts()), order)
    with saved(tmp_path / "a.hspy", signal) as reader:
        assert (reader.layout.scan, reader.layout.camera) == ((3, 4), (6, 8))
        assert np.array_equal(reader.read(2, 7), counts().reshape(12, 6, 8)[2:9])


@pytest.mark.parametrize(
    ("navigate", "message"),
    [((True, True, False), "2 axes of the scan .* 1 of the camera"), ((False,) * 3, "3 of the camera")],
)
def test_spectra_and_volumes_are_no_frames(tmp_path: Path, navigate: tuple[bool, ...], message: str) -> None:
    axes = [hs.axis(name, size, navigate=n) for name, size, n in zip("abc", (3, 4, 6), navigate, strict=True)]
    hs.save(tmp_path / "a.hspy", {"data": counts((3, 4, 6)), "axes": axes})
    with pytest.raises(FormatError, match=message):
        formats.open_frames(tmp_path / "a.hspy")
    axes = [entry | {"navigate": k == 0, "units": "eV" if k == 2 else ""} for k, entry in enumerate(axes)]
    hs.save(tmp_path / "b.hspy", {"data": counts((3, 4, 6)), "axes": axes})
    with pytest.raises(FormatError, match="axis c is an energy"):
        formats.open_frames(tmp_path / "b.hspy")


def test_frames_are_found_beside_spectra_and_images(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hspy", "w") as out:
        for title, signal in (
            (
                "AAA spectra",
                {
                    "data": counts((3, 4, 6)),
                    "axes": [hs.axis("y", 3), hs.axis("x", 4), hs.axis("E", 6, navigate=False)],
                },
            ),
            ("BBB image", hs.signal(counts((6, 8)))),
            ("ZZZ frames", hs.signal(counts())),
        ):
            signal["metadata"] = {"General": {"title": title}, "Signal": {"signal_type": ""}}
            hs.save(tmp_path / "part.hspy", signal)
            with h5py.File(tmp_path / "part.hspy") as part:
                part.copy(f"Experiments/{title}", out.require_group("Experiments"))
        out.attrs.update({"file_format": "HyperSpy", "file_format_version": "3.3"})
    with formats.open_frames(tmp_path / "a.hspy") as reader:
        assert (reader.layout.scan, reader.layout.camera) == ((3, 4), (6, 8))


def test_one_image_is_one_frame(tmp_path: Path) -> None:
    with saved(tmp_path / "a.hspy", hs.signal(counts((6, 8)))) as reader:
        assert (reader.layout.scan, reader.metadata.pixel_mrad) == ((1,), 0.8)
        assert np.array_equal(reader.read(0, 1)[0], counts((6, 8)))


@pytest.mark.parametrize("place", ["TEM", "SEM"])
def test_energy_and_convergence_are_where_hyperspy_keeps_them(tmp_path: Path, place: str) -> None:
    about = {"Acquisition_instrument": {place: {"beam_energy": 200, "convergence_angle": 21.0}, "dwell_time": 1e-3}}
    signal = hs.signal(counts())
    signal["metadata"] = {"General": {"title": ""}, "Signal": {"signal_type": ""}} | about
    with saved(tmp_path / "a.hspy", signal) as reader:
        assert (reader.metadata.energy_kev, reader.metadata.convergence_mrad) == (200.0, 21.0)
        assert reader.metadata.dwell_s == 1e-3


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (">u2", "uint16"),
        (">u4", "uint32"),
        ("uint64", "uint32"),
        ("int32", "uint32"),
        ("int16", "uint16"),
        ("f4", "uint32"),
        ("f8", "uint32"),
        ("int64", "uint32"),
        ("bool", "uint8"),
        ("uint8", "uint8"),
        (">i4", "uint32"),
    ],
)
def test_counts_that_fit_are_read_from_any_type(tmp_path: Path, dtype: str, kept: str) -> None:
    with saved(tmp_path / "a.hspy", hs.signal(counts(dtype=dtype))) as reader:
        assert reader.layout.dtype == kept
        assert reader.read(0, 12).dtype == kept
        assert np.array_equal(reader.read(0, 12), counts(dtype=dtype).reshape(12, 6, 8))


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint64", 2**40), ("int32", -3), ("f4", 0.25), ("f8", np.nan), ("f8", 1e12)]
)
def test_values_that_are_no_counts_are_refused_with_their_frame(tmp_path: Path, dtype: str, value: float) -> None:
    data = counts(dtype=dtype)
    data[1, 2, 3, 4] = value
    with saved(tmp_path / "a.hspy", hs.signal(data)) as reader:
        assert reader.read(0, 6).shape == (6, 6, 8)
        with pytest.raises(
            FormatError, match=r"frame 6 holds .* at pixel \(3, 4\); counts are whole numbers"
        ) as refused:
            reader.read(4, 8)
        assert refused.value.complete == 6


def test_fractions_from_the_first_frame_on_are_refused_at_once(tmp_path: Path) -> None:
    for data in (counts(dtype="f4") + 0.5, counts().astype("c8")):
        hs.save(tmp_path / f"{data.dtype}.hspy", hs.signal(data))
        with pytest.raises(FormatError, match="counts are whole numbers"):
            formats.open_frames(tmp_path / f"{data.dtype}.hspy")


OWN = Metadata(
    step_nm=0.05, dwell_s=1e-5, rotation_deg=12.0, energy_kev=300.0, convergence_mrad=21.4, pixel_mrad=0.9, dose_e=100.0
)


def ours(path: Path, frames: np.ndarray, metadata: Metadata = OWN, acquired: int | None = None) -> None:
    """Write a 4D array, or its first frames."""
    layout = Layout(frames.shape[:2], frames.shape[2:], "uint16", 4095)
    with formats.create(path, layout, metadata) as writer:
        writer.append(frames.reshape(-1, *frames.shape[2:])[:acquired])


def through_hyperspy(folder: Path, metadata: Metadata, *steps: Any, acquired: int | None = None) -> formats.FrameReader:
    """Write our file, do `steps` in HyperSpy, and open what it saved."""
    ours(folder / "ours.hspy", counts((6, 8, 4, 6)), metadata, acquired)
    signal = hs.load(folder / "ours.hspy")
    for step, *arguments in steps:
        signal = step(signal, *arguments)
    hs.save(folder / "theirs.hspy", signal)
    return formats.open_frames(folder / "theirs.hspy")


def test_loaded_and_saved_nothing_is_lost(tmp_path: Path) -> None:
    with through_hyperspy(tmp_path, OWN) as reader:
        assert reader.metadata == OWN
        assert reader.layout == Layout((6, 8), (4, 6), "uint16", 4095)


def test_what_was_true_before_the_change_is_dropped(tmp_path: Path) -> None:
    with through_hyperspy(tmp_path, OWN, (hs.rebin, 2, 2), (hs.rebin, 3, 2)) as reader:  # camera
        assert (reader.metadata.pixel_mrad, reader.metadata.step_nm, reader.metadata.dose_e) == (1.8, 0.05, 100.0)
        assert reader.metadata.centre_px == pytest.approx((0.75, 1.25))  # pixel 2 of 4, and 3 of 6, before
        assert reader.layout.max_count is None
    (tmp_path / "theirs.hspy").unlink()
    (tmp_path / "ours.hspy").unlink()
    with through_hyperspy(tmp_path, OWN, (hs.rebin, 0, 2), (hs.rebin, 1, 2)) as reader:  # scan
        assert (reader.metadata.step_nm, reader.metadata.dose_e, reader.metadata.dwell_s) == (0.1, None, None)
        assert "dose and dwell time are unknown" in reader.notes[0]
        assert reader.metadata.rotation_deg == 12.0


@pytest.mark.parametrize(
    ("order", "rotation"), [((1, 0, 2, 3), None), ((0, 1, 3, 2), None), ((1, 0, 3, 2), -12.0), ((0, 1, 2, 3), 12.0)]
)
def test_the_rotation_follows_a_transposition(tmp_path: Path, order: tuple[int, ...], rotation: float | None) -> None:
    with through_hyperspy(tmp_path, OWN, (hs.transpose, order)) as reader:
        assert reader.metadata.rotation_deg == rotation
        assert ("rotation_deg is unknown" in "".join(reader.notes)) == (rotation is None)


def test_a_crop_takes_the_mask_of_acquired_positions_along(tmp_path: Path) -> None:
    cut = ((hs.crop, 0, 1, 5), (hs.crop, 1, 2, 6))
    with through_hyperspy(tmp_path, OWN, *cut, acquired=20) as reader:  # rows 0 and 1, and 4 positions of row 2
        mask = (np.arange(48) < 20).reshape(6, 8)[1:5, 2:6]
        assert np.array_equal(reader.acquired, mask)
        assert reader.metadata == OWN
    for file in tmp_path.iterdir():
        file.unlink()
    with through_hyperspy(tmp_path, OWN, (hs.rebin, 0, 2), (hs.rebin, 1, 2), acquired=20) as reader:
        assert reader.acquired.tolist() == [[True] * 4, [False] * 4, [False] * 4]
    for file in tmp_path.iterdir():
        file.unlink()
    with through_hyperspy(tmp_path, OWN, (hs.transpose, (1, 0, 2, 3)), acquired=20) as reader:
        assert np.array_equal(reader.acquired, (np.arange(48) < 20).reshape(6, 8).T)


def test_what_a_user_changes_in_hyperspy_counts(tmp_path: Path) -> None:
    def recalibrated(signal: Any) -> Any:
        signal["axes"][2]["scale"] = signal["axes"][3]["scale"] = 1.1
        signal["metadata"]["Acquisition_instrument"]["TEM"]["beam_energy"] = 200.0
        return signal

    with through_hyperspy(tmp_path, OWN, (recalibrated,)) as reader:
        assert (reader.metadata.pixel_mrad, reader.metadata.energy_kev) == (1.1, 200.0)
        assert reader.metadata.convergence_mrad == 21.4


def test_a_list_of_positions_keeps_its_step(tmp_path: Path) -> None:
    with formats.create(tmp_path / "a.hspy", Layout((5,), (4, 6)), OWN) as writer:
        writer.append(counts((5, 4, 6)))
    hs.save(tmp_path / "b.hspy", hs.crop(hs.load(tmp_path / "a.hspy"), 0, 1, 4))
    with formats.open_frames(tmp_path / "b.hspy") as reader:
        assert reader.metadata == OWN
        assert np.array_equal(reader.read(0, 3), counts((5, 4, 6))[1:4])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("crop"), st.integers(0, 3), st.integers(0, 2), st.integers(2, 5)),
        st.tuples(st.just("rebin"), st.integers(0, 3), st.integers(2, 3)),
        st.tuples(st.just("transpose"), st.sampled_from([(1, 0, 2, 3), (0, 1, 3, 2), (1, 0, 3, 2)])),
    ),
    max_size=4,
)


@settings(max_examples=25)
@given(
    st.floats(1e-3, 1.0),
    st.floats(0.05, 5.0),
    st.none() | st.tuples(st.floats(0.0, 7.0), st.floats(0.0, 9.0)),
    STEPS,
    st.sampled_from(["nm", "Å", "pm"]),
)
def test_the_round_trip_keeps_every_calibrated_axis(
    tmp_path_factory: pytest.TempPathFactory, step: float, pixel: float, centre: Any, steps: Any, unit: str
) -> None:
    folder = tmp_path_factory.mktemp("trip")
    frames = counts((6, 7, 8, 10))
    ours(folder / "a.hspy", frames, Metadata(step_nm=step, pixel_mrad=pixel, centre_px=centre))
    signal = hs.load(folder / "a.hspy")
    for name, *arguments in steps:
        if name == "crop":
            size = signal["data"].shape[arguments[0]]
            arguments = [
                arguments[0],
                min(arguments[1], size - 1),
                max(min(arguments[2], size), min(arguments[1], size - 1) + 1),
            ]
        if name == "rebin" and signal["data"].shape[arguments[0]] < arguments[1]:
            continue
        signal = getattr(hs, name)(signal, *arguments)
    factor = {"nm": 1.0, "Å": 10.0, "pm": 1000.0}[unit]
    for entry in signal["axes"][:2]:
        entry |= {"units": unit, "scale": entry["scale"] * factor, "offset": entry["offset"] * factor}
    hs.save(folder / "b.hspy", signal)
    with formats.open_frames(folder / "b.hspy") as reader:
        read, metadata = reader.read(0, reader.layout.count), reader.metadata
        scan = reader.layout.scan
    data, axes = signal["data"], signal["axes"]
    assert np.array_equal(read.reshape(data.shape), data)
    long = [entry["scale"] / factor for entry in axes[:2] if entry["size"] > 1] or [axes[0]["scale"] / factor]
    if len(long) == 1 or long[0] == pytest.approx(long[1]):
        assert metadata.step_nm == pytest.approx(long[0], rel=1e-9)
    elif all(entry["size"] > 1 for entry in axes[:2]):
        assert metadata.step_nm is None
    wide = [entry["scale"] for entry in axes[2:] if entry["size"] > 1]
    if len(wide) == 2 and wide[0] == pytest.approx(wide[1]):
        assert metadata.pixel_mrad == pytest.approx(wide[0], rel=1e-9)
    # And back: what we write of it has the same axes in HyperSpy.
    if metadata.step_nm is not None and metadata.pixel_mrad is not None and data.max() < 2**16:
        ours(folder / "c.hspy", data.astype("uint16"), metadata)
        again = hs.load(folder / "c.hspy")["axes"]
        assert [entry["size"] for entry in again] == [*scan, *data.shape[2:]]
        assert [entry["scale"] for entry in again[:2]] == pytest.approx([metadata.step_nm] * 2, rel=1e-9)
        inside = all(-0.5 <= -entry["offset"] / entry["scale"] < entry["size"] - 1e-6 for entry in axes[2:])
        if inside and any(entry["offset"] for entry in axes[2:]) and min(data.shape[2:]) > 1:
            for mine, theirs in zip(again[2:], axes[2:], strict=True):
                assert mine["scale"] == pytest.approx(theirs["scale"], rel=1e-9)
                assert mine["offset"] == pytest.approx(theirs["offset"], abs=2e-6 * theirs["scale"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"scale": "two"}, "axis y has the scale 'two', which is not a number"),
        ({"scale": np.nan}, "axis y has the scale 'nan'"),
        ({"scale": 0.0}, "axis y has a scale of 0"),
        ({"scale": np.array([1.0, 2.0])}, "axis y has the scale"),
        ({"offset": np.inf}, "axis y has the offset 'inf'"),
    ],
)
def test_axes_that_cannot_be_are_refused_by_name(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    hs.save(tmp_path / "a.hspy", hs.signal(counts()))
    with h5py.File(tmp_path / "a.hspy", "r+") as file:
        for name, value in entries.items():
            file["Experiments/__unnamed__/axis-0"].attrs[name] = value
    with pytest.raises(FormatError, match=message):
        HspyReader(tmp_path / "a.hspy")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30_000,
        '{"a":' * 10_000,
        "{",
        "[]",
        '{"step_nm": -1}',
        '{"step_mm": 1}',
        '{"step_nm": Infinity}',
        b"\xff",
        3,
    ],
)
def test_own_metadata_that_cannot_be_are_one_sentence(tmp_path: Path, text: Any) -> None:
    ours(tmp_path / "a.hspy", counts())
    with h5py.File(tmp_path / "a.hspy", "r+") as file:
        file["Experiments/4D-STEM/original_metadata/stemtwin"].attrs["metadata"] = text
    with pytest.raises(FormatError) as refused:
        HspyReader(tmp_path / "a.hspy")
    assert "\n" not in str(refused.value)


def test_the_recursion_limit_is_not_a_users_business() -> None:
    from twin.formats.dataset import json_object

    with pytest.raises(FormatError, match="sidecar is not a JSON object"):
        json_object("[" * 100_000, "sidecar")


@pytest.mark.parametrize(
    ("stated", "read"), [(200.0, 200.0), (60, 60.0), (200_000.0, None), (1e9, None), (0.0, None), (-1.0, None)]
)
def test_a_beam_energy_in_another_unit_is_not_taken_for_kev(tmp_path: Path, stated: float, read: float | None) -> None:
    """Some programs write V."""
    about = {"General": {"title": ""}, "Signal": {"signal_type": ""}}
    beam = {"Acquisition_instrument": {"TEM": {"beam_energy": stated, "convergence_angle": 21.0}}}
    hs.save(tmp_path / "a.hspy", hs.signal(counts(), metadata=about | beam))
    with HspyReader(tmp_path / "a.hspy") as reader:
        assert reader.metadata.energy_kev == read
        assert reader.metadata.convergence_mrad == 21.0


@pytest.mark.parametrize("unit", ["1/Å", "Å^-1", "Å⁻¹", "1 / A"])
def test_reciprocal_units_are_read_however_they_are_written(tmp_path: Path, unit: str) -> None:
    about = {"General": {"title": ""}, "Signal": {"signal_type": ""}}
    beam = {"Acquisition_instrument": {"TEM": {"beam_energy": 200.0}}}
    signal = hs.signal(counts(), pixel=(0.1, 0.1), units=("nm", unit), metadata=about | beam)
    hs.save(tmp_path / "a.hspy", signal)
    with HspyReader(tmp_path / "a.hspy") as reader:
        assert reader.metadata.pixel_mrad == pytest.approx(2.5079, rel=1e-4)  # the wavelength in pm


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Lazy loading of RGBA images is not supported. Please open an issue", "a colour image, which holds no counts"),
        (
            "The 'sparse' library was not found. To load EDS",
            "a Velox file with EDS spectra, which take the package",
        ),
        ("tag 4 is odd\nat 7", r"RosettaSciIO cannot read it: tag 4 is odd$"),
    ],
)
def test_what_rosettasciio_cannot_read_is_refused_as_such(
    tmp_path: Path, said: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rsciio.digitalmicrograph

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError(said)

    monkeypatch.setattr(rsciio.digitalmicrograph, "file_reader", refuse)
    (tmp_path / "a.dm4").write_bytes(b"x" * 100)
    with pytest.raises(FormatError, match=rf"a\.dm4: {message}"):
        formats.open_frames(tmp_path / "a.dm4")
