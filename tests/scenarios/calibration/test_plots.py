"""What a report's pictures say they show, and which way up."""

from typing import Any

import numpy as np
import pytest

from scenarios.calibration import plots
from twin.optics import Optics
from twin.types import Frame


def panels(monkeypatch: pytest.MonkeyPatch, settings: dict[str, float]) -> list[Any]:
    counts = np.zeros((64, 64), np.uint16)
    counts[4:8, 20:40] = 500
    frame = Frame(counts + 50, 1e6, 0.5, 1.0, settings)
    monkeypatch.setattr(plots, "png", lambda figure: figure)
    figure: Any = plots.ronchigrams(frame, frame, Optics(camera_pixels=64, binning=6))
    return list(figure.axes)


def test_rows_run_downwards_as_the_camera_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    image = panels(monkeypatch, {"dark_level": 0.0})[0]
    bottom, top = image.get_ylim()
    assert bottom > 0 > top
    assert image.images[0].origin == "upper"
    assert image.get_title() == "Ronchigram before"
    assert image.get_xlabel() == "angle x (mrad)"


def test_an_image_of_a_scan_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, spectrum, _ = panels(monkeypatch, {"image_norm": 1.0})
    assert [axes.get_title() for axes in (before, after)] == ["Scan image before", "Scan image after"]
    assert before.get_xlabel() == "x (scan pixels)"
    assert spectrum.get_xlabel() == "frequency x (1/scan pixels)"


def test_a_saturated_frame_says_so_in_its_title(monkeypatch: pytest.MonkeyPatch) -> None:
    assert panels(monkeypatch, {"saturated_share": 0.129})[0].get_title() == "Ronchigram before, 13 % saturated"
