"""The scan panel on a file: images, knobs that act at once, an early end, agents that fail."""

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.base import Reconstruction, Trust
from agents.sources import open_source
from scenarios.live import messages
from scenarios.live.desk import Desk, Settings
from scenarios.live.hand import TwinHand
from scenarios.live.pictures import Picture
from scenarios.live.scanning import kept
from scenarios.live.scanning.agents import told
from scenarios.live.scanning.scan import ScanRun, of_source
from scenarios.scans import scan as twin_scan
from scenarios.schema import load
from twin.formats import Layout, Metadata, create

BEAM = Metadata(energy_kev=300, convergence_mrad=20, pixel_mrad=4, step_nm=0.05, rotation_deg=0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scan.zarr"
    rng = np.random.default_rng(0)
    axis = np.arange(16) - 8
    disc = np.hypot(axis[:, None], axis[None, :]) < 5
    with create(str(path), Layout((22, 20), (16, 16)), BEAM) as writer:
        writer.append(rng.poisson(20.0 * disc, (440, 16, 16)).astype(np.uint16))
    return path


class Shown:
    """What a page would have been shown."""

    def __init__(self) -> None:
        self.pictures: dict[str, Picture] = {}
        self.details: dict[str, Any] = {}

    def __call__(self, pictures: list[Picture], details: Any) -> None:
        self.pictures = {picture.name: picture for picture in pictures}
        self.details = dict(details)


def scanned(file: Path, out: Path, agents: list[str], shown: Shown) -> ScanRun:
    run = of_source(str(file), partial(open_source, file), agents, out, lambda: True, shown, lambda: None)
    run.start()
    run._thread.join(60)
    assert not run.running
    return run


def test_images_pattern_and_verdict(file: Path, tmp_path: Path) -> None:
    shown = Shown()
    run = scanned(file, tmp_path, ["adf", "ricom"], shown)
    assert run.outcome.startswith("complete")
    assert {"pattern", "adf/image", "ricom/image", "ricom/spread"} <= set(shown.pictures)
    assert shown.pictures["adf/image"].values.shape == (22, 20)
    assert shown.pictures["pattern"].scale["centre_px"] == [8.0, 8.0]
    assert shown.details["agents"]["ricom"]["figures"] == {"kernel_px": 61.0}
    knobs = {knob["name"]: knob for knob in run.plain()["agents"][0]["knobs"]}
    assert knobs["inner_mrad"]["value"] >= BEAM.convergence_mrad  # the usual radius, before anybody turns it
    assert (tmp_path / "stream" / "summary.json").is_file()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan large enough for a test of residuals, over which the bright disc moves round in circles."""
    path = tmp_path_factory.mktemp("data") / "wide.zarr"
    rng, axis = np.random.default_rng(0), np.arange(8) - 4
    with create(str(path), Layout((64, 64), (8, 8)), BEAM) as writer:
        for row in range(64):
            x = 1.5 * np.sin((row - 32) / 9.0) * np.ones(64)
            discs = np.hypot(axis[:, None], axis[None, :] - x[:, None, None]) < 2.6
            writer.append(rng.poisson(100.0 * discs).astype(np.uint16))
    return path


def test_the_residuals_of_a_verdict_are_shown_where_they_were_tested(wide: Path, tmp_path: Path) -> None:
    shown = Shown()
    scanned(wide, tmp_path, ["adf", "icom:rotation_deg=0"], shown)
    label = next(name for name in shown.details["agents"] if name.startswith("icom"))
    assert shown.details["agents"][label]["verdict"]["fits"] is False  # columns shift along a row: no gradient
    residual = shown.pictures[f"{label}/residual"]
    assert residual.scale["title"] == "residuals, scan"
    assert residual.values.shape == (64, 64)
    middle = residual.values[24:40, 24:40].astype(float)
    assert np.all(residual.values[0] == 127)  # not tested: as if it fitted
    assert np.abs(middle - 127.5).mean() > 80.0  # noise would give 25
    assert "adf/residual" not in shown.pictures


def test_a_verdict_is_a_sentence_and_its_misfit_no_note() -> None:
    trust = Trust(0.0, 2.0, 0.4, 1e-9, False, "the model")
    found = told(Reconstruction({}, {"kernel_px": float("nan")}, trust, ("does not fit: badly", "turned by 3 degrees")))
    assert (found["figures"], found["notes"]) == ({"kernel_px": None}, ["turned by 3 degrees"])
    assert found["verdict"]["words"].startswith("does not fit: residuals of neighbouring pixels correlate by +0.40")
    good = told(Reconstruction({}, trust=Trust(0.0, 1.0, 0.0, 0.5, True, "the model")))
    assert good["verdict"] == {"fits": True, "words": "fits: the model (p = 0.5; level of the test: 0.01)"}


def test_a_knob_acts_after_the_scan_and_a_bad_value_is_told(file: Path, tmp_path: Path) -> None:
    shown = Shown()
    run = scanned(file, tmp_path, ["ricom"], shown)
    before = shown.pictures["ricom/image"].values
    run.tune("ricom", {"kernel_px": 3})
    assert not np.array_equal(shown.pictures["ricom/image"].values, before)
    run.tune("ricom", {"kernel_px": 4})
    assert "kernel" in run.plain()["agents"][0]["problem"]
    assert run.plain()["agents"][0]["knobs"][0]["value"] == 3
    with pytest.raises(ValueError, match="is not an agent of this scan"):
        run.tune("rikom", {})


def test_a_knob_acts_on_the_running_scan(file: Path, tmp_path: Path) -> None:
    """A change that is noted while a block is on its way acts before the next block."""
    run = of_source(str(file), partial(open_source, file), ["ricom"], tmp_path, lambda: False, Shown(), lambda: None)
    agent = run.agents["ricom"]
    held, go_on = threading.Event(), threading.Event()
    inner, blocks = agent.after, []

    def after(block: Any) -> None:
        blocks.append(agent.inner.options.kernel_px)  # type: ignore[attr-defined]
        held.set()
        go_on.wait(30)
        assert inner is not None
        inner(block)

    agent.after = after
    run.start()
    assert held.wait(60)
    run.tune("ricom", {"kernel_px": 5})
    go_on.set()
    run._thread.join(60)
    assert (blocks[0], agent.inner.options.kernel_px) == (61, 5)  # type: ignore[attr-defined]


def held_after_the_first_block(run: ScanRun) -> threading.Event:
    """Start a scan and have it wait after its first block, until the event."""
    last = list(run.agents.values())[-1]
    inner, there, go_on = last.after, threading.Event(), threading.Event()

    def after(block: Any) -> None:
        assert inner is not None
        inner(block)
        there.set()
        go_on.wait(30)

    last.after = after
    run.start()
    assert there.wait(60)
    return go_on


def image_of(run: ScanRun, label: str) -> np.ndarray[Any, Any]:
    return next(iter(run.agents[label].result().images.values())).values


@pytest.mark.parametrize(
    ("agent", "changes", "when"),
    [
        ("adf", {"inner_mrad": 21.5, "outer_mrad": 27.0}, "running"),
        ("adf", {"inner_mrad": 21.5, "outer_mrad": 27.0}, "over"),
        ("ricom", {"outer_mrad": 12.0}, "running"),
        ("ssb", {"aberrations": {"C10": 8.0}}, "over"),
    ],
)
def test_a_change_of_what_is_taken_in_redraws_the_whole_image(
    file: Path, tmp_path: Path, agent: str, changes: dict[str, Any], when: str
) -> None:
    runs = []
    for turned in (True, False):
        run = of_source(str(file), partial(open_source, file), [agent], tmp_path, lambda: False, Shown(), lambda: None)
        tuned = run.agents[agent]
        if turned and when == "running":
            go_on = held_after_the_first_block(run)
            run.tune(agent, changes)
            go_on.set()
        else:
            if not turned:
                tuned.inner.options = replace(tuned.inner.options, **changes)  # type: ignore[attr-defined]
            run.start()
        run._thread.join(60)
        if turned and when == "over":
            run.tune(agent, changes)
        assert tuned.problem == ""
        runs.append(image_of(run, agent))
    assert np.isfinite(runs[0]).all()
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-6, atol=1e-12)


def test_where_a_scan_is_too_large_to_keep_a_changed_ring_begins_anew(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 1000)
    run = of_source(str(file), partial(open_source, file), ["bf"], tmp_path, lambda: False, Shown(), lambda: None)
    go_on = held_after_the_first_block(run)
    before = run._positions
    run.tune("bf", {"outer_mrad": 11.0})
    run.agents["bf"].apply()
    assert np.isnan(image_of(run, "bf")).all()
    assert run.plain()["agents"][0]["note"] == f"changed after {before} positions: the image is empty before that"
    go_on.set()
    run._thread.join(60)
    run.tune("bf", {"outer_mrad": 16.0})
    (told_of,) = run.plain()["agents"]
    assert "this scan is over: scan again" in told_of["problem"]
    assert {knob["name"]: knob["value"] for knob in told_of["knobs"]}["outer_mrad"] == 11.0


def test_adf_begins_clear_of_the_bright_disc_unless_it_was_told_where(file: Path, tmp_path: Path) -> None:
    inner = []
    for agent in ("adf", "adf:inner_mrad=21"):
        run = scanned(file, tmp_path, [agent], Shown())
        (told_of,) = run.plain()["agents"]
        inner.append((told_of["knobs"][0]["value"], told_of["note"]))
    # One and a half pixels of 4 mrad beyond the disc of 20 mrad.
    assert inner == [(26.0, "begins at 26 mrad, clear of the bright disc of 20 mrad"), (21.0, "")]


def test_the_end_of_the_page_names_the_scan_that_it_interrupts(file: Path, tmp_path: Path) -> None:
    desk = Desk(Settings(load("nominal"), 0, tmp_path, True, str(file)), lambda: None, lambda *_: None, lambda _: False)
    assert desk.close("nothing runs") == ""
    desk.scan = run = of_source(
        str(file), partial(open_source, file), ["bf"], tmp_path, lambda: False, Shown(), lambda: None
    )
    go_on = held_after_the_first_block(run)
    threading.Timer(0.2, go_on.set).start()
    assert desk.close("a test ends").startswith(("The scan: interrupted, in ", "The scan: incomplete, in "))
    assert str(tmp_path / "stream") in run.outcome


@pytest.mark.parametrize("beam", ["uncorrected", "microscope", "corrected"])
def test_a_twin_scans_with_the_beam_that_was_chosen(tmp_path: Path, beam: Any) -> None:
    """The seed hides the same state from the scan as from the hand, so that the corrector's knobs carry over."""
    desk = Desk(Settings(load("nominal"), 3, tmp_path), lambda: None, lambda *_: None, lambda _: False)
    assert isinstance(desk.hand, TwinHand)
    desk.hear(messages.Knobs({"C10": 9.0, "C12b": -4.0}))
    scenario = load("calibrate_and_scan").for_seed(3)
    chosen = desk._beam(beam, scenario)
    session = twin_scan.prepare(chosen.of(scenario), 3, ["bf"], tmp_path / "scan")
    if chosen.input_nm is not None:
        session.acquisition.microscope.apply(chosen.input_nm)
    found = session.acquisition.microscope.truth().state_nm
    of_hand = desk.hand.aberrations().array()[:3]
    expected = {"uncorrected": of_hand - desk.hand.knobs_nm, "microscope": of_hand, "corrected": np.zeros(3)}[beam]
    assert np.allclose(found, expected, atol=1e-6)
    words = {"uncorrected": "uncorrected:", "microscope": "C10 +9.00, C12a +0.00, C12b -4.00 nm"}
    assert words.get(beam, "corrected;") in chosen.words(scenario)


def test_an_end_keeps_the_results_so_far(file: Path, tmp_path: Path) -> None:
    run = of_source(str(file), partial(open_source, file), ["adf"], tmp_path, lambda: True, Shown(), lambda: None)
    run.stop()
    run.start()
    run._thread.join(60)
    assert run.outcome.startswith(("interrupted", "incomplete"))
    assert (tmp_path / "stream" / "summary.json").is_file()


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    run = scanned(tmp_path / "none.mib", tmp_path, ["adf"], Shown())
    assert "none.mib" in run.problem


def test_what_is_told_of_a_source_reaches_it(file: Path, tmp_path: Path) -> None:
    settings = Settings(load("nominal"), 0, tmp_path, True, str(file), {"pixel_mrad": 2.5}, {"skip_frames": 0})
    desk = Desk(settings, lambda: None, lambda *_: None, lambda _: False)
    try:
        desk.hear(messages.Scan(str(file), ["ricom"]))
        assert desk.scan is not None
        desk.scan._thread.join(60)
        assert desk.scan.problem == ""
        assert desk.scan.outcome.startswith("complete")
        (ricom,) = desk.scan.agents.values()
        assert ricom.meta is not None
        assert ricom.meta.metadata.pixel_mrad == 2.5  # the file says 4
        assert {knob["name"]: knob["high"] for knob in ricom.plain()["knobs"]}["outer_mrad"] == 20.0
    finally:
        desk.close("the end")
