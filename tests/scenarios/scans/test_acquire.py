"""Scan scenarios: a few lines of YAML become data that read back as what the microscope gave; mistakes cost nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes.tiny_scan import TINY_SCAN
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result

from agents.sources.t3p import T3pSource
from scenarios.cli import app
from scenarios.folders import NotWritten
from scenarios.memory import peak_memory_mib
from scenarios.scan_section import ScanSection
from scenarios.scans import plots as scan_plots
from scenarios.scans.acquire import acquire, begin, scanning_microscope
from scenarios.scans.data_file import DataFile
from scenarios.schema import Scenario, ScenarioError, library, load, parse
from twin.cameras.properties import CountingCamera, EventCamera, IntegratingCamera
from twin.detectors.layouts import Region
from twin.formats import FormatError, open_frames
from twin.formats.t3p import T3pReader
from twin.scan.setup import SCAN_OPTICS, ScanSetup
from twin.types import ScanBlock

SCANS = ("au_on_carbon", "graphene_twisted", "mos2_twisted", "sto_001")

TINY = (
    TINY_SCAN
    + """\
  detectors: [bf, abf]
  plan: {rows: 6, columns: 5, step_nm: 0.05, dose_e: 1000, dwell_s: 1.0e-4}
"""
)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Scenario]:
    def make(*overrides: str, text: str = TINY) -> Scenario:
        file = tmp_path / "tiny.yaml"
        file.write_text(text)
        return load(file, overrides)

    return make


def refused(*overrides: str, text: str = TINY) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse({"name": "tiny", **yaml.safe_load(text)}, "tiny.yaml", overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the section ---------------------------------------------------------------------------------


def test_a_short_scenario_is_enough(tiny: Callable[..., Scenario]) -> None:
    section: ScanSection = tiny().scan
    assert isinstance(section, ScanSetup)
    assert list(section.detectors) == ["bf", "abf"]
    assert section.plan.shape == (6, 5)
    assert section.corrected
    assert section.camera == CountingCamera()
    # What is left out is the scan's default, not the Ronchigram's.
    assert section.optics.convergence_mrad == SCAN_OPTICS.convergence_mrad == 20.0
    assert section.optics.grid == 64


def test_a_bare_scan_is_all_defaults() -> None:
    assert parse({"name": "x", "scan": {}}, "x").scan == ScanSection()
    assert parse({"name": "x"}, "x").scan is None
    assert "scan" not in parse({"name": "x"}, "x").resolved()


def test_detectors_and_cameras_have_shorthands(tiny: Callable[..., Scenario]) -> None:
    section = tiny("scan.detectors={haadf: {inner_mrad: 21, outer_mrad: 30}, bf: null}").scan
    assert section.detectors == {"haadf": (Region(inner_mrad=21.0, outer_mrad=30.0),), "bf": None}
    assert tiny("scan.camera={bit_depth: 6}").scan.camera == CountingCamera(bit_depth=6)
    integrating = tiny("scan.camera={kind: integrating, bit_depth: 14, gain: 3}").scan.camera
    assert integrating == IntegratingCamera(bit_depth=14, gain=3.0)
    assert tiny("scan.camera=null").scan.camera is None


def test_the_resolved_scenario_is_the_scenario(tiny: Callable[..., Scenario]) -> None:
    scenario = tiny(
        "scan.detectors={haadf: {inner_mrad: 21, outer_mrad: 30, segments: 4}}",
        "scan.camera={kind: integrating, bit_depth: 14}",
        "scan.chain={polya_b: 0.1}",
        "scan.plan.centre_nm=[0.7, 0.7]",
    )
    assert parse(yaml.safe_load(yaml.safe_dump(scenario.resolved())), "again") == scenario


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("scan.specimn=x", ["scan.specimn is not a key here", "specimen"]),
        ("scan.plan.rowss=3", ["scan.plan.rowss is not a key here", "rows"]),
        ("scan.plan.rows=0", ["scan.plan.rows", "greater than 0"]),
        ("scan.plan.pattern=rastr", ["scan.plan.pattern", "raster"]),
        ("scan.detectors=[haadff]", ["scan.detectors", "haadf"]),
        ("scan.camera={kind: countng}", ["scan.camera", "counting"]),
        ("scan.camera={bit_depth: 13}", ["scan.camera.bit_depth", "13"]),
        ("scan.camera={kind: integrating, threshold: 0.5}", ["scan.camera.threshold is not a key here"]),
        ("scan.optics={grid: 64, sampling_nm: 1.0}", ["sampling_nm"]),
        ("scan=sto_001", ["scan takes keys of its own", "plan"]),
        ("scan.corrected=7", ["scan.corrected", "7"]),
    ],
)
def test_mistakes_in_a_scan_name_key_value_and_nearest(override: str, parts: list[str]) -> None:
    message = refused(override)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("name", SCANS)
def test_library_scans_are_ready_to_go(name: str) -> None:
    scenario = load(name)
    assert scenario.description.startswith("Scan: ")
    assert scenario.scan.specimen == name
    assert scenario.scan.plan.count >= 1024
    scanning_microscope(scenario)  # detectors within the sampled angles, specimen and options known
    next_ = begin(scanning_microscope(load(name, ["scan.plan.rows=1", "scan.plan.columns=1"])), scenario, 0)
    next_.close()  # type: ignore[attr-defined]


def test_only_these_library_scenarios_scan() -> None:
    # Two are named for what they are for, not for their specimen.
    assert {name for name in library() if load(name).scan is not None} == {*SCANS, "calibrate_and_scan", "wse2_defects"}


def test_the_example_in_the_documentation_is_a_scenario() -> None:
    page = (Path(__file__).parents[3] / "docs" / "scan.md").read_text(encoding="utf-8")
    text = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0]
    assert len(text.splitlines()) <= 10
    scenario = parse({"name": "docs", **yaml.safe_load(text)}, "scan.md")
    begin(scanning_microscope(scenario), scenario, 0)


# --- the data ------------------------------------------------------------------------------------


def blocks(scenario: Scenario, seed: int) -> list[ScanBlock]:
    return list(begin(scanning_microscope(scenario), scenario, seed))


@pytest.mark.parametrize("suffix", [".zarr", ".mib", ".hspy", ".t3p"])
def test_the_file_reads_back_as_what_the_microscope_gave(
    tiny: Callable[..., Scenario], tmp_path: Path, suffix: str
) -> None:
    scenario = tiny()
    acquired = acquire(scenario, 3, tmp_path / f"data{suffix}")
    assert acquired.status == "complete"
    expected = np.concatenate([block.frames for block in blocks(scenario, 3) if block.frames is not None])
    assert expected.sum() > 0
    assert acquired.data is not None
    with open_frames(acquired.data) as reader:
        assert reader.layout.scan == (6, 5)
        assert reader.acquired.all()
        assert np.array_equal(reader.read(0, 30), expected)
        assert (reader.metadata.step_nm, reader.metadata.dose_e) == (0.05, 1000)
        assert reader.metadata.pixel_mrad == pytest.approx(scenario.scan.optics.camera_pixel_mrad)
        assert parse(reader.metadata.provenance["scenario"], "provenance") == scenario


@pytest.mark.parametrize("suffix", [".zarr", ".hspy"])
def test_a_file_is_in_image_order_whichever_way_the_beam_went(
    tiny: Callable[..., Scenario], tmp_path: Path, suffix: str
) -> None:
    scenario = tiny("scan.plan.pattern=serpentine")
    acquired = acquire(scenario, 0, tmp_path / f"data{suffix}")
    assert acquired.data is not None
    with open_frames(acquired.data) as reader:
        stored = reader.read(0, 30).reshape(6, 5, 16, 16)
    for block in blocks(scenario, 0):
        assert block.frames is not None
        for frame, (row, column) in zip(block.frames, block.path.pixel, strict=True):
            assert np.array_equal(stored[row, column], frame)


@pytest.mark.usefixtures("drawn")
def test_signals_lie_where_they_were_scanned(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    straight = acquire(tiny("scan.plan.dose_e=1e10"), 0, tmp_path / "a.zarr")
    winding = acquire(tiny("scan.plan.dose_e=1e10", "scan.plan.pattern=serpentine"), 0, tmp_path / "b.zarr")
    given = np.concatenate([block.signals["bf"] for block in blocks(straight.scenario, 0)])
    with np.load(straight.signals) as a, np.load(winding.signals) as b:
        assert np.array_equal(a["bf"].ravel(), given)
        assert set(a) == {"bf", "abf", "mean_frame"}
        assert a["bf"].shape == (6, 5)
        assert np.allclose(a["bf"], b["bf"], rtol=6e-5)  # six standard deviations of their noise
        assert np.abs(a["bf"] / a["bf"][:, ::-1] - 1).max() > 1e-3
        assert a["mean_frame"].shape == (16, 16)
    assert straight.picture.read_bytes().startswith(b"\x89PNG")
    told = json.loads(straight.signals.with_suffix(".json").read_text())
    assert told["positions"] == 30
    assert told["electrons_e"] == 30 * 1e10
    assert told["e_per_nm2"] == pytest.approx(1e10 / 0.05**2)
    assert told["simulated_s"] == pytest.approx(30e-4) == told["cost"]["simulated_s"]
    assert told["cost"]["electrons_e"] == told["electrons_e"]


def test_a_subsampled_scan_leaves_holes_and_a_list_keeps_its_places(
    tiny: Callable[..., Scenario], tmp_path: Path
) -> None:
    sparse = acquire(tiny("scan.plan.pattern=subsampled", "scan.plan.fraction=0.5"), 0, tmp_path / "s.zarr")
    with np.load(sparse.signals) as arrays:
        assert np.isnan(arrays["bf"]).sum() == 15
    listed = acquire(
        tiny("scan.plan={pattern: list, positions_nm: [[0.1, 0.0], [-0.1, 0.2]], dose_e: 10}"), 0, tmp_path / "l.zarr"
    )
    with np.load(listed.signals) as arrays:
        assert arrays["intended_nm"][1] - arrays["intended_nm"][0] == pytest.approx([-0.2, 0.2])
    assert listed.e_per_nm2 == pytest.approx(20 / (0.2 * 0.2))
    assert sparse.e_per_nm2 == pytest.approx(0.5 * 1000 / 0.05**2)


def test_without_a_camera_there_are_signals_only(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    acquired = acquire(tiny("scan.camera=null"), 0, tmp_path / "signals.npz")
    assert acquired.data is None
    with np.load(acquired.signals) as arrays:
        assert set(arrays) == {"bf", "abf"}
    with pytest.raises(ScenarioError, match=r"without a camera.*--out more\.npz"):
        acquire(tiny("scan.camera=null"), 0, tmp_path / "more.zarr")


EVENTS = ("scan.camera={kind: event}", "scan.plan.settle_s=3.0e-5", "scan.plan.flyback_s=5.0e-5")


@pytest.mark.parametrize("pattern", ["raster", "serpentine"])
def test_an_event_camera_leaves_its_events(tiny: Callable[..., Scenario], tmp_path: Path, pattern: str) -> None:
    scenario = tiny(*EVENTS, f"scan.plan.pattern={pattern}")
    file = tmp_path / "a.t3p"
    acquired = acquire(scenario, 3, file)
    sent = list(begin(scanning_microscope(scenario), scenario, 3))
    with T3pReader(file) as events:
        assert events.read(0, events.count).tobytes() == b"".join(
            b.events.tobytes() for b in sent if b.events is not None
        )
        assert events.frames == 30
    with T3pSource(file) as source:
        blocks = list(source.blocks())
    assert np.concatenate([b.pixel for b in blocks]).tolist() == np.concatenate([b.path.pixel for b in sent]).tolist()
    counts = np.concatenate([b.moments()[:, 0] for b in blocks])
    # All events are of some position, though the lines have pauses between them; the dose is 1000.
    assert source.counts.accepted == counts.sum() == source.counts.total
    assert (source.health.received, source.health.fault_count) == (30, 0)
    assert counts.min() > 800
    with np.load(acquired.signals) as arrays:
        assert arrays["mean_frame"] == pytest.approx(sum(b.frames.sum(axis=0) for b in blocks) / 30)
    if pattern == "raster":
        with open_frames(file) as reader:
            assert np.array_equal(reader.read(0, 30), np.concatenate([b.frames for b in blocks]))
            assert np.array_equal(reader.read(7, 3), np.concatenate([b.frames for b in blocks])[7:10])
    else:
        with pytest.raises(FormatError, match="serpentine"):
            open_frames(file)


def test_an_interrupted_scan_of_events_says_how_far_it_came(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    def stop(block: ScanBlock) -> None:
        if block.path.first >= 10:
            raise KeyboardInterrupt

    # Events leave up to almost a dwell late: those of the last position that was visited are not all there.
    acquire(tiny("scan.camera={kind: event, reorder_s: 0.9e-4}"), 0, tmp_path / "cut.t3p", stop)
    with T3pReader(tmp_path / "cut.t3p") as reader:
        assert reader.frames == 14
        assert reader.count > 10_000


def test_an_event_camera_is_for_the_beam_and_for_event_files(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    assert tiny("scan.camera={kind: event}").scan.camera == EventCamera()
    slow = tiny("scan.camera={kind: event}", "scan.optics.energy_kev=120", "optics.energy_kev=120").scan.camera
    assert (slow.energy_kev, slow.deposit_kev) == (120.0, 80.0)
    own = tiny("scan.camera={kind: event, deposit_kev: 100}").scan.camera
    assert (own.energy_kev, own.deposit_kev) == (300.0, 100.0)
    with pytest.raises(ScenarioError, match=r"x\.zarr: an event camera sends events.*--out x\.t3p"):
        acquire(tiny(*EVENTS), 0, tmp_path / "x.zarr")
    with pytest.raises(ScenarioError, match="lines of different length"):
        acquire(tiny(*EVENTS, "scan.plan.pattern=subsampled", "scan.plan.fraction=0.5"), 0, tmp_path / "x.t3p")
    assert not list(tmp_path.glob("x*"))


def test_corrected_means_that_only_the_residual_aberrations_are_left(tiny: Callable[..., Scenario]) -> None:
    scenario = tiny("day.residual_nm={C30: 100}")
    microscope = scanning_microscope(scenario)
    begin(microscope, scenario, 1)
    assert microscope.truth().state_nm == pytest.approx(np.zeros(3), abs=1e-9)
    assert np.abs(microscope.truth().initial_nm).max() > 1.0
    loose = tiny("scan.corrected=false", "space.start_nm=[4, 2, 2]")
    begin(microscope := scanning_microscope(loose), loose, 1)
    assert np.array_equal(microscope.truth().state_nm, microscope.truth().initial_nm)


def test_an_interrupt_keeps_what_was_scanned(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    def stop(block: ScanBlock) -> None:
        if block.path.first >= 10:
            raise KeyboardInterrupt

    acquired = acquire(tiny(), 0, tmp_path / "cut.zarr", stop)
    assert (acquired.status, acquired.positions) == ("interrupted", 15)
    assert acquired.electrons_e == 15 * 1000
    assert acquired.e_per_nm2 == pytest.approx(1000 / 0.05**2)
    assert acquired.data is not None
    with open_frames(acquired.data) as reader:
        assert reader.acquired.sum() == 15
        assert reader.read(0, 15).sum() > 0
    with np.load(acquired.signals) as arrays:
        assert np.isfinite(arrays["bf"]).sum() == 15


def test_where_the_beam_has_not_been_is_no_grey() -> None:
    axes = Figure().add_subplot()
    scan_plots.scan_image(axes, np.array([[1.0, np.nan], [np.nan, 2.0]]), 0.1, "bf")
    red, green, blue, _ = axes.get_facecolor()
    assert not red == green == blue


def test_a_scan_that_drifts_out_of_the_window_stops_and_keeps_what_it_has(
    tiny: Callable[..., Scenario], tmp_path: Path
) -> None:
    drifting = tiny("day.drift={rate_nm_per_sqrt_s: {C10: 1000}}", "scan.plan.flyback_s=1.0e-3")
    with pytest.raises(
        ScenarioError, match=r"stopped after \d+ of 30 positions, which are in .*needs a window"
    ) as caught:
        acquire(drifting, 0, tmp_path / "a.zarr")
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["status"] == "stopped"
    visited = told["positions"]
    assert 0 < visited < 30
    assert f"stopped after {visited} of" in str(caught.value)
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.isfinite(arrays["bf"]).sum() == visited
    with open_frames(tmp_path / "a.zarr") as reader:
        assert reader.acquired.sum() == visited


@pytest.mark.parametrize("plan", ["list", "raster"])
def test_a_file_that_takes_nothing_leaves_one_line(
    tiny: Callable[..., Scenario], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DataFile, "append", full)
    points = ["scan.plan.pattern=list", "scan.plan.positions_nm=[[0, 0], [0.1, 0]]"] if plan == "list" else []
    with pytest.raises(NotWritten, match=r"^tiny: .*No space left on device$"):
        acquire(tiny(*points), 0, tmp_path / "a.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


# --- refusals, before anything is computed ----------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "out", "parts"),
    [
        (["scan.specimen=sto_01"], "x.zarr", ["sto_01", "did you mean sto_001"]),
        (["scan.specimen_options.widht_nm=3"], "x.zarr", ["widht_nm", "width_nm"]),
        (["scan.plan.step_nm=1"], "x.zarr", ["the scan goes from", "the specimen spans 0 to 1.56"]),
        (["scan.camera.readout_s=1"], "x.zarr", ["dwell_s 0.0001 s", "read-out of 1 s"]),
        (["scan.camera.readout_s=1.0e-4"], "x.zarr", ["all taken up by the camera's read-out"]),
        (["scan.plan.dose_e=1.0e+12", "scan.chain={}"], "x.zarr", ["1e+12 electrons at a gain of", "two_step"]),
        (
            ["scan.specimen_options.thickness_nm=500", "scan.specimen_options.width_nm=200"],
            "x.zarr",
            ["limit is 5e+06"],
        ),
        (["scan.detectors=[haadf]"], "x.zarr", ["haadf", "190.0 mrad", "the sampled angles end at"]),
        (["scan.optics.grid=32", "scan.corrected=false"], "x.zarr", ["needs a window"]),
        ([], "x.zar", [".zar", ".zarr"]),
        ([], "nowhere/x.zarr", ["not a directory"]),
        (["scan.plan.pattern=serpentine"], "x.mib", ["raster order", "zarr"]),
    ],
)
def test_a_scan_that_cannot_be_is_refused_before_it_computes(
    tiny: Callable[..., Scenario],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    out: str,
    parts: list[str],
) -> None:
    def compute(*_: Any, **__: Any) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr("twin.scan.transmission.transmission_field", compute)
    with pytest.raises(ScenarioError) as caught:
        acquire(tiny(*overrides), 0, tmp_path / out)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert {file.name for file in tmp_path.iterdir()} == {"tiny.yaml"}


def test_nothing_is_written_over(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    (tmp_path / "taken.png").write_bytes(b"mine")
    with pytest.raises(ScenarioError, match=r"taken\.png exists"):
        acquire(tiny(), 0, tmp_path / "taken.zarr")


def test_a_scenario_without_a_scan_says_so() -> None:
    with pytest.raises(ScenarioError, match="nominal: no scan"):
        scanning_microscope(load("nominal"))


def test_memory_is_told_in_mebibytes() -> None:
    peak = peak_memory_mib()
    assert peak is None or 20 < peak < 20_000


# --- the command ------------------------------------------------------------------------------------


def stemtwin(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_command_prints_one_json_object(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    tiny()
    out = tmp_path / "data.zarr"
    result = stemtwin("acquire", str(tmp_path / "tiny.yaml"), "--out", str(out), "--seed", "2", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    told = json.loads(result.stdout)
    assert (told["scenario"], told["seed"], told["positions"], told["data"]) == ("tiny", 2, 30, str(out))
    assert told["positions_per_s"] > 0
    again = stemtwin("acquire", str(tmp_path / "tiny.yaml"), "--out", str(out))
    assert again.exit_code == 2
    assert again.stderr.startswith("stemtwin: ")
    assert again.stderr.count("\n") == 1
    assert "exists" in again.stderr


def test_the_command_tells_what_a_person_asks(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    tiny()
    out = tmp_path / "data.hspy"
    result = stemtwin("acquire", str(tmp_path / "tiny.yaml"), "--out", str(out), "--set", "scan.plan.rows=4")
    assert result.exit_code == 0, result.output
    for words in ("20 of 20, complete", "0.002 s", "e/nm2", "positions/s", "MiB", str(out)):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scan.detectors={x: {inner_mrd: 3, outer_mrad: 4}}", "'inner_mrd' is not a key of a ring of detector 'x'"),
        ("scan.detectors={x: {inner_mrad: 5, outer_mrad: 4}}", "scan.detectors.x.0: inner_mrad 5.0 must lie below"),
        ("scan.detectors={x: []}", "scan.detectors: detector 'x' has no rings"),
        ("scan.camera={kind: event, threshold_kev: -1}", "scan.camera.threshold_kev: input should be greater than 0"),
        ("scan.plan.dose_e=1.0e+20", "scan.plan.dose_e: a number up to 1e+15"),
    ],
)
def test_a_mistake_inside_an_override_is_the_override_s(override: str, message: str) -> None:
    told = refused(override)
    assert told.startswith(f"--set {override}: ")
    assert message in told
