"""The gallery's scenes are right where physics says so, its figures are pictures, its page needs nothing else."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from scenarios.cli import app
from scenarios.gallery import page as gallery
from scenarios.gallery import plots as gallery_plots
from scenarios.gallery import scenes as gallery_scenes
from twin.optics import Optics

pytestmark = pytest.mark.usefixtures("drawn")
PNG = b"\x89PNG\r\n\x1a\n"


def pattern(cell: np.ndarray, x: float, y: float) -> float:
    """Value of a cell at a place in units of its sides."""
    side = len(cell)
    return float(cell[round(y * side) % side, round(x * side) % side])


@pytest.fixture(scope="module")
def titanate() -> dict[str, np.ndarray]:
    # 8 steps hold every column; two cells thick and one snapshot: contrast, not figures.
    return gallery_scenes.strontium_titanate(thickness_nm=8 * 0.3905, snapshots=1, steps=8)


def test_haadf_orders_columns_by_atomic_number(titanate: dict[str, np.ndarray]) -> None:
    haadf = next(image for name, image in titanate.items() if name.startswith("HAADF"))
    sr, ti, o, hollow = (pattern(haadf, *place) for place in ((0, 0), (0.5, 0.5), (0.5, 0), (0.25, 0.25)))
    assert sr > 1.3 * ti > 1.3 * o
    assert o < 0.3 * sr
    assert hollow < 0.3 * sr


def test_bright_field_is_dark_where_dark_field_is_bright(titanate: dict[str, np.ndarray]) -> None:
    bf, abf, adf, _ = titanate.values()
    assert pattern(bf, 0, 0) < pattern(bf, 0.25, 0.25)
    assert pattern(adf, 0, 0) > pattern(adf, 0.25, 0.25)
    # ABF shows the oxygen columns against their surroundings.
    assert pattern(abf, 0.5, 0) < pattern(abf, 0.25, 0.25)
    assert np.all(bf + adf < 1.0 + 1e-6)


def test_the_symmetry_of_the_cell_is_kept_about_its_corner() -> None:
    cell = np.random.default_rng(0).random((6, 6))
    even = gallery_scenes.symmetrised(cell)
    assert even.mean() == pytest.approx(cell.mean())
    assert even[0, 0] == pytest.approx(cell[0, 0])
    assert even[3, 3] == pytest.approx(cell[3, 3])
    assert even[1, 0] == pytest.approx(np.mean([cell[1, 0], cell[-1, 0], cell[0, 1], cell[0, -1]]))
    assert np.allclose(gallery_scenes.symmetrised(even), even)


@pytest.mark.parametrize(("pixels", "cells"), [(9, 1), (24, 2), (30, 3)])
def test_a_cell_is_resampled_as_its_fourier_series(pixels: int, cells: int) -> None:
    def wave(side: int) -> np.ndarray:
        y, x = np.meshgrid(*(2 * np.pi * np.arange(side) / side,) * 2, indexing="ij")
        return 2.0 + np.cos(x - 0.3) + 0.5 * np.sin(3 * y + x)

    fine = gallery_scenes.repeated(wave(12), pixels, cells)
    assert fine.shape == (cells * pixels,) * 2
    assert np.allclose(fine, np.tile(wave(pixels), (cells, cells)), atol=1e-12)


def test_probes_carry_the_symmetry_of_their_aberration() -> None:
    perfect, coma, threefold = gallery_scenes.probes(("C21a", "C23a"))
    assert perfect.strehl == pytest.approx(1.0)
    assert perfect.intensity.max() == pytest.approx(1.0)
    assert coma.label.startswith("C21a ")
    for view in (coma, threefold):
        assert view.strehl < 0.9
        assert view.d50_nm > perfect.d50_nm
        assert not np.allclose(view.intensity, view.intensity[:, ::-1], atol=0.02)  # odd along x
        assert np.allclose(view.intensity, view.intensity[::-1], atol=1e-6)  # even along y


def test_lengths_are_told_in_the_unit_that_suits() -> None:
    assert [gallery_scenes._length(v) for v in (7.38, 1234.0, 2.5e6)] == ["7.38 nm", "1.23 µm", "2.5 mm"]


def test_thin_silicon_diffracts_into_discs_at_the_lattice_angles() -> None:
    """220 reflections of Si lie at lambda sqrt(8) / a = 13.1 mrad at 200 kV, along both axes of the cell's diagonal."""
    optics = gallery_scenes.silicon_optics(5.0, 4, 48)
    image = gallery_scenes.silicon_cbed(5.0, 2.7, snapshots=1, cells=4, pixels=48)
    angle = (np.arange(len(image)) - len(image) // 2) * optics.pixel_mrad
    x, y = np.meshgrid(angle, angle)
    bragg = optics.wavelength_nm * 2e3 / gallery_scenes.SILICON_NM  # index 2 along an axis, mrad
    assert bragg * np.sqrt(2) == pytest.approx(13.1, abs=0.05)

    def near(u: float, v: float) -> float:
        return float(image[np.hypot(x - u * bragg, y - v * bragg) < 3.0].sum())

    # 220 and its kin are allowed; 200 is forbidden (structure factor of the diamond lattice).
    assert min(near(1, 1), near(-1, 1), near(1, -1)) > 10 * max(near(1, 0), near(0, 1))
    assert image.sum() == pytest.approx(1.0, abs=0.02)


def test_the_histogram_has_a_peak_per_electron_where_the_model_has_it() -> None:
    scene = gallery_scenes.low_dose(side=128)
    chain = scene.chain
    for k in range(4):
        centre = chain.offset + k * chain.counts_per_electron
        between = centre + 0.5 * chain.counts_per_electron
        here, gap = (np.count_nonzero(np.abs(scene.image - place) < 15) for place in (centre, between))
        assert here > 2 * gap
    at = np.arange(0.0, 3000.0)
    density = scene.density(at)
    assert density.sum() == pytest.approx(1.0, abs=1e-4)
    assert (at * density).sum() == pytest.approx(chain.offset + 1.5 * chain.counts_per_electron, rel=1e-4)
    # Kolmogorov-Smirnov distance between the histogram and the two-step model: 1.63 / sqrt(n) is exceeded by 1 % of
    # samples of the model itself; the cascade's skewed single electrons may add as much again.
    found = np.searchsorted(np.sort(scene.image.ravel()), at, side="right") / scene.image.size
    assert np.abs(found - density.cumsum()).max() < 2 * 1.63 / np.sqrt(scene.image.size)


def test_jitter_moves_lines_and_its_spectrum_is_the_closed_form() -> None:
    y, x = np.meshgrid(*(2 * np.pi * np.arange(18) / 18,) * 2, indexing="ij")
    scene = gallery_scenes.jitter(2 + np.cos(x) + np.cos(y), 0.02, side=64)
    still, along_x, along_y = (scene.images[label] for label in ("still", "x-jitter", "y-jitter"))
    # A line that moves along x keeps its own mean over whole periods; one that moves along y does not.
    periods = slice(0, 54)
    assert np.allclose(along_x[:, periods].mean(1), still[:, periods].mean(1), atol=0.02)
    assert np.abs(along_y[:, periods].mean(1) - still[:, periods].mean(1)).max() > 0.1
    assert np.abs(along_x - still).max() > 0.2
    # 128 pieces: each density has a relative error of 9 %; five of its spreads, 127 frequencies: 1e-4 false alarms.
    assert np.abs(scene.measured / scene.expected - 1).max() < 5 / np.sqrt(128)
    assert scene.frequency[-1] == 0.5


def test_a_slow_detector_damps_the_fast_axis_alone() -> None:
    scene = gallery_scenes.fast_scan(side=64, repeats=6)
    slow, fast = scene.power["slow detector"], scene.power["fast detector"]
    assert scene.images["slow detector"].shape == (64, 64)
    assert np.abs(scene.measured - scene.expected).max() < 0.1
    assert scene.expected[-1] < 0.5
    # Along y nothing is damped: the column of zero frequency along x is the same.
    middle = 32
    ratio = slow[1:, middle].sum() / fast[1:, middle].sum()
    assert ratio == pytest.approx(1.0, abs=0.2)


def test_ronchigrams_are_laid_out_by_astigmatism_then_defocus() -> None:
    optics = Optics(convergence_mrad=14, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
    frames = gallery_scenes.ronchigrams((-60.0, 0.0, 60.0), (0.0, 20.0), optics)
    assert frames.shape == (2, 3, 64, 64)
    assert frames.sum(axis=(2, 3)) == pytest.approx(np.ones((2, 3)), abs=0.1)
    alone = gallery_scenes.ronchigrams((60.0,), (20.0,), optics)
    assert np.allclose(alone[0, 0], frames[1, 2], rtol=1e-4, atol=1e-9)
    assert gallery_plots.ronchigrams(frames, (-60.0, 0.0, 60.0), (0.0, 20.0), optics).startswith(PNG)


def test_every_section_says_what_to_see_and_makes_a_picture() -> None:
    names = [each.name for each in gallery.SECTIONS]
    assert names == ["ronchigrams", "probes", "cbed", "detectors", "histogram", "jitter", "fast_scan"]
    for each in gallery.SECTIONS:
        assert len(each.text) > 100
    for each in gallery.sections(["histogram", "probes"]):
        assert each.make().startswith(PNG)


def test_figures_of_the_slow_sections_draw(titanate: dict[str, np.ndarray]) -> None:
    cells = {name: gallery_scenes.repeated(cell, 12, 2) for name, cell in titanate.items()}
    assert gallery_plots.detector_images(cells, {"Sr": [(1, 1)]}).startswith(PNG)
    optics = {5.0: gallery_scenes.silicon_optics(5.0, 2, 32)}
    flat = np.full((43, 43), 1e-4)
    assert gallery_plots.cbeds({5.0: {0.1: flat, 1.0: flat}}, optics, {5.0: 30.0}).startswith(PNG)
    scene = gallery_scenes.jitter(next(iter(titanate.values())), 0.05, side=32)
    assert gallery_plots.jitter(scene).startswith(PNG)
    assert gallery_plots.fast_scan(gallery_scenes.fast_scan(side=32, repeats=1)).startswith(PNG)


def test_the_page_is_one_file(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["gallery", "--out", str(out), "--only", "histogram"])
    assert result.exit_code == 0, result.output
    page = out.read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 1
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "Fig. 2.3" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--only", "probe"], "did you mean probes"), (["--out", "nowhere/page.html"], "has to be a directory")],
)
def test_the_command_refuses_before_it_renders(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["gallery", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_ronchigrams_show_rows_downwards_as_those_of_reports_do(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.ones((1, 1, 16, 16), np.float32)
    frames[0, 0, 0, 1] = 2.0
    monkeypatch.setattr(gallery_plots, "png", lambda figure: figure)
    figure: Any = gallery_plots.ronchigrams(frames, [0.0], [0.0], Optics(camera_pixels=16, binning=24))
    (axes,) = figure.axes
    bottom, top = axes.get_ylim()
    assert bottom > 0 > top
    (image,) = axes.images
    assert (image.origin, image.get_array()[0, 1]) == ("upper", 2.0)
