"""Agents over a stream: what is on disc equals what they found, faults and interrupts included."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from matplotlib.figure import Figure
from typer.testing import CliRunner

from agents import base
from agents.base import Image, Reconstruction, StreamMeta, Trust
from agents.block import Block, FrameBlock
from agents.source import Health, Source
from agents.stream import Progress
from scenarios.cli import app
from scenarios.folders import NotWritten
from scenarios.scans import live_view, reconstruction_plots
from scenarios.scans.half_dose import Halves
from scenarios.scans.live_view import LiveView
from scenarios.scans.stream import choose_agents, compare, run
from scenarios.schema import ScenarioError
from twin.formats import create
from twin.formats.dataset import Layout, Metadata

ROWS, COLUMNS, SIDE = 6, 5, 8
LAYOUT = Layout((ROWS, COLUMNS), (SIDE, SIDE), "uint8")
METADATA = Metadata(step_nm=0.1, energy_kev=80.0, convergence_mrad=25.0, pixel_mrad=8.0)


def frames() -> np.ndarray:
    return np.random.default_rng(4).poisson(3.0, (ROWS * COLUMNS, SIDE, SIDE)).astype(np.uint8)


class Rows(Source):
    """A raster scan, row by row; stops or raises where it is told."""

    def __init__(self, stop: BaseException | None = None, after: int = ROWS) -> None:
        self.meta, self.health = StreamMeta(LAYOUT, METADATA, transposed=False), Health()
        self.stop, self.after = stop, after

    def blocks(self) -> Iterator[Block]:
        for row in range(ROWS):
            if row == self.after and self.stop is not None:
                self.health.missing = (ROWS - row) * COLUMNS
                raise self.stop
            pixel = np.stack([np.full(COLUMNS, row), np.arange(COLUMNS)], axis=1)
            yield FrameBlock(frames()[row * COLUMNS : (row + 1) * COLUMNS], pixel)


class Total:
    """Counts of each frame; NaN where nothing came."""

    def __init__(self, fail_at: int | None = None, stop_at: int | None = None) -> None:
        self.fail_at, self.stop_at = fail_at, stop_at

    def start(self, meta: StreamMeta) -> None:
        self.image = np.full(meta.layout.scan, np.nan)

    def update(self, block: Block) -> None:
        if self.fail_at is not None and block.pixel[0, 0] >= self.fail_at:
            raise ArithmeticError("too much")
        if self.stop_at is not None and block.pixel[0, 0] >= self.stop_at:
            raise KeyboardInterrupt
        self.image[tuple(block.pixel.T)] = block.moments()[:, 0]

    def result(self) -> Reconstruction:
        image = self.image.copy()
        trust = Trust(0.1, 1.2, 0.0, 0.001, False, "a flat specimen")
        images = {"total": Image(image, "e", np.sqrt(image)), "fine": Image(np.ones((12, 10)), "rad", step_nm=0.05)}
        return Reconstruction(images, {"mean_e": float("nan")}, trust, ("a <note>",))


TOTAL = frames().reshape(ROWS, COLUMNS, -1).sum(axis=2).astype(float)


# --- what is left on disc ------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_arrays_pictures_and_figures_are_written(tmp_path: Path) -> None:
    recorded = run(Rows(), {"total": Total()}, tmp_path / "new" / "out", truth=2 - 3 * TOTAL)
    out = tmp_path / "new" / "out"
    root = zarr.open_group(str(out / "reconstructions.zarr"), mode="r")
    assert np.array_equal(np.asarray(root["total/total"]), TOTAL)
    assert np.allclose(np.asarray(root["total/spread_total"]), np.sqrt(TOTAL))
    assert dict(root["total/fine"].attrs) == {"unit": "rad", "step_nm": 0.05}
    assert np.array_equal(np.asarray(root["true_phase"]), 2 - 3 * TOTAL)
    assert root.attrs["metadata"]["step_nm"] == 0.1
    assert (out / "total.png").read_bytes().startswith(b"\x89PNG")

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    summary = json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    assert summary == json.loads(json.dumps(recorded.summary()))
    assert (summary["status"], summary["frames"], summary["of_frames"]) == ("complete", 30, 30)
    assert summary["frames_per_s"] > 0
    agent = summary["agents"]["total"]
    assert agent["cross_correlation"] == pytest.approx(-1.0)
    assert agent["images"]["fine"]["cross_correlation"] is None
    assert agent["figures"] == {"mean_e": None}
    assert agent["trust"]["fits"] is False
    assert agent["notes"] == ["a <note>"]
    assert recorded.problems == []


def test_a_scan_that_leaves_positions_out_is_whole_without_them(tmp_path: Path) -> None:
    class SubSampled(Rows):
        def blocks(self) -> Iterator[Block]:
            yield from list(super().blocks())[::2]

    recorded = run(SubSampled(), {"total": Total()}, tmp_path)
    summary, half = recorded.summary(), COLUMNS * -(-ROWS // 2)
    assert (summary["status"], summary["frames"], summary["of_frames"]) == ("complete", half, half)


def test_an_earlier_stream_is_replaced(tmp_path: Path) -> None:
    run(Rows(), {"old": Total(), "total": Total()}, tmp_path)
    run(Rows(), {"total": Total()}, tmp_path)
    assert list(zarr.open_group(str(tmp_path / "reconstructions.zarr"), mode="r").group_keys()) == ["total"]
    assert not (tmp_path / "old.png").exists()


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), "interrupted"), (OSError("torn"), "incomplete")])
def test_what_came_before_the_end_is_kept(tmp_path: Path, stop: BaseException, status: str) -> None:
    recorded = run(Rows(stop, after=2), {"total": Total()}, tmp_path)
    assert recorded.streamed.status == status
    image = np.asarray(zarr.open_group(str(tmp_path / "reconstructions.zarr"), mode="r")["total/total"])
    assert np.array_equal(image[:2], TOTAL[:2])
    assert np.isnan(image[2:]).all()
    assert any(f"{status}: 10 of 30" in words for words in recorded.problems)


def test_an_agent_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    recorded = run(Rows(), {"bad": Total(fail_at=3), "total": Total()}, tmp_path)
    summary = recorded.summary()
    assert "too much" in summary["agents"]["bad"]["error"]
    assert summary["agents"]["total"]["error"] is None
    assert any("bad failed" in words for words in recorded.problems)
    with pytest.raises(ScenarioError, match=r"summary\.json"):
        run(Rows(), {"total": Total()}, tmp_path / "summary.json")


def test_only_images_on_the_scans_grid_are_compared() -> None:
    found = Total()
    found.start(StreamMeta(LAYOUT))
    assert list(compare(found.result(), TOTAL)) == ["total"]
    assert math.isnan(compare(found.result(), TOTAL)["total"])
    assert compare(Reconstruction({"probability": Image(TOTAL, "1")}), TOTAL) == {}


def test_agents_set_aside_leave_nothing_but_their_result(tmp_path: Path) -> None:
    recorded = run(Rows(), {"total": Total()}, tmp_path, aside={"halves": Halves(Total)})
    first, second = (image.values for image in recorded.aside["halves"].images.values())
    assert np.array_equal(first + second, TOTAL)
    assert list(recorded.summary()["agents"]) == ["total"]
    assert not (tmp_path / "halves.png").exists()


def test_halves_are_independent_and_of_half_the_dose() -> None:
    """Counts dealt by a coin: covariance of the halves zero within four standard errors (false alarm 1e-4)."""
    rng, agent = np.random.default_rng(8), Halves(Total, seed=1)
    agent.start(StreamMeta(Layout((1, 4000), (2, 2), "uint8")))
    counts = rng.poisson(5.0, (4000, 2, 2)).astype(np.uint8)
    agent.update(FrameBlock(counts, np.stack([np.zeros(4000, int), np.arange(4000)], axis=1)))
    first, second = (image.values.ravel() for image in agent.result().images.values())
    assert first.mean() == pytest.approx(10.0, abs=4 * math.sqrt(10 / 4000))
    assert abs(np.cov(first, second)[0, 1]) < 4 * 10 / math.sqrt(4000)
    assert np.var(first) == pytest.approx(10.0, rel=4 * math.sqrt(2 / 4000))


# --- choosing ------------------------------------------------------------------------------------


@pytest.fixture
def tiny_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, options: Mapping[str, Any] | None = None) -> Total:
        return Total(**dict(options or {}))

    monkeypatch.setattr(base, "load", load)


@pytest.mark.usefixtures("tiny_agents")
def test_agents_of_one_name_are_numbered() -> None:
    chosen = choose_agents(["total:fail_at=2,total", "other", "total"])
    assert list(chosen) == ["total", "total-2", "other", "total-3"]
    assert chosen["total"].fail_at == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ricomm", "did you mean 'ricom'|ricom"),
        ("ricom:kernel=3", "kernel_px"),
        ("ricom:kernel_px=4", "odd"),
        ("", "got none"),
        ("x=1", "follows no agent"),
    ],
)
def test_a_wrong_agent_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as caught:
        choose_agents([text])
    assert "\n" not in str(caught.value)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "scan.zarr"
    with create(path, LAYOUT, METADATA) as writer:
        writer.append(frames())
    return path


def stemtwin(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["stream", *arguments])


@pytest.mark.usefixtures("tiny_agents")
def test_a_file_streams_through_agents(stored: Path, tmp_path: Path) -> None:
    done = stemtwin(str(stored), "--agents", "total", "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["source"]) == (30, str(stored))
    root = zarr.open_group(str(tmp_path / "out" / "reconstructions.zarr"), mode="r")
    assert np.array_equal(np.asarray(root["total/total"]), TOTAL)


@pytest.mark.usefixtures("tiny_agents")
def test_the_operator_knows_better(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = stemtwin(
        str(stored), "--agents", "total", "--meta", "step_nm=0.25", "--meta", "transposed=true", "--out", str(out)
    )
    assert done.exit_code == 0, done.output
    assert zarr.open_group(str(out / "reconstructions.zarr"), mode="r").attrs["metadata"]["step_nm"] == 0.25
    assert "30 of 30, complete" in done.stdout
    assert "DOES NOT FIT" in done.stdout


@pytest.mark.usefixtures("tiny_agents")
def test_an_agent_left_behind_is_exit_code_1(stored: Path, tmp_path: Path) -> None:
    done = stemtwin(str(stored), "--agents", "total:fail_at=2,total", "--out", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "total failed: ArithmeticError: too much" in done.stdout


@pytest.mark.usefixtures("tiny_agents")
def test_faults_do_not_get_into_the_json(tmp_path: Path) -> None:
    path = tmp_path / "cut.mib"
    with create(path, LAYOUT, METADATA) as writer:
        writer.append(frames())
    path.write_bytes(path.read_bytes()[:-5])
    done = stemtwin(str(path), "--agents", "total", "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["health"]["missing"] == 1
    assert "fault: " in done.stderr
    assert "cut off" in done.stderr


@pytest.mark.usefixtures("tiny_agents")
def test_a_folder_that_cannot_be_written_is_refused_before_the_source_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the camera was started")

    monkeypatch.setattr("agents.sources.open_source", opened)
    (tmp_path / "file").write_text("")
    done = stemtwin("merlin://127.0.0.1:1", "--agents", "total", "--out", str(tmp_path / "file" / "out"))
    assert done.exit_code == 2, done.output
    assert str(tmp_path / "file") in done.stderr


def test_a_disc_that_fills_up_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "out/summary.json")

    monkeypatch.setattr("scenarios.scans.stream.write_text", full)
    with pytest.raises(NotWritten, match=r"could not be written: out/summary\.json: No space left"):
        run(Rows(), {"total": Total()}, tmp_path / "out")


@pytest.mark.usefixtures("tiny_agents")
def test_ctrl_c_is_exit_code_130_with_the_results_written(stored: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = stemtwin(str(stored), "--agents", "total,total:stop_at=2", "--option", "block_bytes=320", "--out", str(out))
    assert done.exit_code == 130, done.output
    assert "interrupted" in done.stdout
    image = np.asarray(zarr.open_group(str(out / "reconstructions.zarr"), mode="r")["total/total"])
    assert np.array_equal(image[:2], TOTAL[:2])
    assert np.isnan(image[3:]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.zarr"], "nowhere.zarr"),
        (["scan.tif"], ".tif"),
        (["SCAN", "--agents", "nobody"], "nobody"),
        (["SCAN", "--meta", "step=3"], "step"),
        (["SCAN", "--meta", "step_nm"], "key=value"),
        (["SCAN", "--option", "scann=3"], "scan"),
        (["SCAN", "--option", "meta=3"], "--option meta"),
        (["SCAN", "--option", "block_bytes=big"], "block_bytes: input should be a valid integer"),
        (["SCAN", "--view"], "--view needs a screen"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], words: str, stored: Path) -> None:
    done = stemtwin(*(str(stored) if part == "SCAN" else part for part in arguments))
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_the_window_is_drawn_by_time_not_by_frame() -> None:
    now, shown = [0.0], []

    def show() -> bool:
        shown.append(now[0])
        now[0] += 0.1  # what drawing takes
        return True

    agent = Total()
    agent.start(StreamMeta(LAYOUT))
    figure = Figure()
    view = LiveView(figure, {"total": agent}, 0.1, show, clock=lambda: now[0])
    for positions in range(1, 200):
        now[0] += 0.02
        view(Progress(positions, 200, now[0], 50.0, 0.0, Health()))
    # In 4 s and more: every half second, however many frames come.
    assert 6 <= len(shown) <= 10
    assert min(np.diff(shown)) >= live_view.REFRESH_S
    view(Progress(200, 200, now[0], 50.0, 0.0, Health()))
    assert shown[-1] == pytest.approx(now[0] - 0.1)  # the last picture is that of the whole scan
    figure.savefig(Path("/dev/null"), format="png")


def test_slow_drawing_slows_the_pictures_not_the_scan() -> None:
    now, shown = [0.0], []

    def show() -> bool:
        shown.append(now[0])
        now[0] += 2.0
        return True

    view = LiveView(Figure(), {}, None, show, clock=lambda: now[0])
    for positions in range(1000):
        now[0] += 0.1
        view(Progress(positions, 2000, now[0], 50.0, 0.0, Health()))
    assert 2.0 * len(shown) <= (live_view.SHARE + 0.02) * now[0]


def test_a_screen_that_goes_away_does_not_end_the_scan(tmp_path: Path) -> None:
    def show() -> bool:
        raise RuntimeError("the display is gone")

    told: list[str] = []
    view = LiveView(Figure(), {}, 0.1, show, tell=told.append)
    recorded = run(Rows(), {"total": Total()}, tmp_path / "out", view, every_s=0.0)
    assert recorded.streamed.status == "complete"
    assert recorded.streamed.health.faults == []
    assert len(told) == 1
    assert "the display is gone" in told[0]


@pytest.mark.parametrize("backend", ["WebAgg", "TkAgg"])
def test_a_window_that_cannot_be_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_display(*_: object, **__: object) -> None:
        raise ValueError("no display name")

    monkeypatch.setattr("matplotlib.get_backend", lambda: backend)
    monkeypatch.setattr("matplotlib.pyplot.figure", no_display)
    with pytest.raises(ScenarioError, match=r"--view needs a screen: .*Leave --view out"):
        live_view.open_view({}, None)


def test_a_closed_window_stops_the_pictures() -> None:
    view = LiveView(Figure(), {"broken": Total()}, None, lambda: False, clock=lambda: 0.0)
    for _ in range(3):  # an agent without a result is no reason to stop
        view(Progress(1, 1, 1.0, 50.0, 0.0, Health()))
    assert view.drawn == 1


def test_a_picture_has_a_scale_bar_of_a_round_length() -> None:
    figure = Figure()
    image = Image(np.arange(60.0).reshape(6, 10), "rad")
    reconstruction_plots.overview(figure, {"a": Reconstruction({"phase": image})}, 0.13, "title")
    (axes,) = (axes for axes in figure.axes if axes.get_title())
    assert axes.get_title() == "a: phase"
    (text,) = axes.texts
    assert text.get_text() == "0.2 nm"
    (patch,) = axes.patches
    assert patch.get_width() == pytest.approx(0.2 / 0.13)
    for width, length in ((1.0, 0.2), (1.6, 0.5), (30.0, 10.0), (0.16, 0.05)):
        assert reconstruction_plots.round_length_nm(width) == pytest.approx(length)


@pytest.mark.usefixtures("drawn")
def test_nothing_known_is_a_picture_too() -> None:
    nothing = Reconstruction({"a": Image(np.full((3, 4), np.nan), "e"), "list": Image(np.arange(5.0)[None], "e")})
    assert reconstruction_plots.png_of("x", nothing, None).startswith(b"\x89PNG")
    assert reconstruction_plots.png_of("x", Reconstruction({}), 0.1).startswith(b"\x89PNG")


def test_sixteen_segments_are_all_shown_and_what_is_not_is_told() -> None:
    def found(count: int) -> Reconstruction:
        image = Image(np.arange(60.0).reshape(6, 10), "counts", np.ones((6, 10)))
        return Reconstruction({f"segment_{k}": image for k in range(count)})

    for count, shown, words in (
        (8, 16, []),
        (16, 16, ["not shown, for lack of room: 16 spreads"]),
        (18, 16, ["not shown, for lack of room: 2 images and 18 spreads"]),
    ):
        panels = reconstruction_plots._panels(found(count))
        assert len(panels) == shown
        assert reconstruction_plots._left_out(found(count), panels) == words


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [
        (1, (11, 6.5), (1, 1)),
        (2, (11, 6.5), (1, 2)),
        (4, (11, 6.5), (2, 2)),
        (5, (11, 6.5), (2, 3)),
        (3, (4, 12), (3, 1)),
    ],
)
def test_the_window_is_filled(count: int, size: tuple[float, float], grid: tuple[int, int]) -> None:
    assert reconstruction_plots._filling(count, *size) == grid
