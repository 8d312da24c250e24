"""Pictures of the page against closed forms, and the live renderer against the one it stands for."""

import math

import numpy as np
import pytest

from scenarios.live import pictures
from scenarios.live.renderer import LiveRenderer
from twin.aberrations import Aberrations
from twin.day import Day
from twin.optics import Optics
from twin.probe import probe_d50_nm
from twin.ronchigram.phase_screens import FastRenderer
from twin.types import Frame

OPTICS = Optics()
SMALL = Optics(convergence_mrad=14, sampling_nm=0.05, grid=256, camera_pixels=64, binning=4)


def test_the_contour_is_where_defocus_makes_a_phase_of_a_quarter_pi() -> None:
    """chi = pi theta^2 C10 / lambda, hence theta = sqrt(lambda / (4 C10))."""
    c10_nm = 5.0
    plate = pictures.phase_plate(Aberrations.of({"C10": c10_nm}), OPTICS).values
    rows, columns = np.nonzero(plate == pictures.CONTOUR)
    pixel_mrad = 2.08 * OPTICS.convergence_mrad / (pictures.PHASE_PIXELS - 1)
    middle = (pictures.PHASE_PIXELS - 1) / 2
    radius_mrad = np.hypot(rows - middle, columns - middle) * pixel_mrad
    expected_mrad = 1e3 * math.sqrt(OPTICS.wavelength_nm / (4 * c10_nm))
    assert len(rows) > 30
    assert np.all(np.abs(radius_mrad - expected_mrad) < 1.5 * pixel_mrad)


def test_without_aberrations_the_plate_is_flat() -> None:
    _, plate = pictures.of_probe(Aberrations.of({}), OPTICS)
    assert len(set(plate.values[plate.values != pictures.OUTSIDE].tolist())) == 1


def test_a_small_probe_is_magnified_and_has_its_size() -> None:
    sharp, wide = (pictures.probe(Aberrations.of({"C10": c10}), OPTICS) for c10 in (0.0, 60.0))
    assert sharp.scale["field_nm"] < 0.5 * wide.scale["field_nm"]
    pixel_nm = sharp.scale["field_nm"] / pictures.PROBE_PIXELS
    half_nm = np.sqrt((sharp.values > 127).sum() * 4 / np.pi) * pixel_nm
    assert half_nm == pytest.approx(probe_d50_nm(Aberrations.of({}), OPTICS), rel=0.35)


def test_a_message_holds_its_pictures_in_order() -> None:
    first, second = np.arange(10, dtype=np.uint8).reshape(2, 5), np.full((3, 4), 7, np.uint8)
    message = pictures.packed("view", 1, [pictures.Picture("a", first, {}), pictures.Picture("b", second.T, {})], {})
    header, data = pictures.unpacked(message)
    assert [(p["name"], p["height"], p["width"]) for p in header["pictures"]] == [("a", 2, 5), ("b", 4, 3)]
    assert data == bytes(range(10)) + bytes([7] * 12)


def test_a_frame_without_signal_has_pictures() -> None:
    dark = Frame(np.zeros((64, 64), np.uint16), 1e5, 0.1, 1.0)
    assert [picture.values.max() for picture in pictures.of_frame(dark)] == [0, 0]


def test_large_images_are_averaged_down() -> None:
    image = np.arange(600.0 * 900).reshape(600, 900)
    small = pictures.binned(image)
    assert small.shape == (150, 225)
    assert small[0, 0] == pytest.approx(image[:4, :4].mean())


def test_a_full_frame_is_that_of_the_phase_screen_renderer() -> None:
    day = Day(residual_nm={"C30": 500.0})
    state = Aberrations.of({"C10": 12.0, "C12a": 5.0}) + day.residual
    live = LiveRenderer(SMALL, day)
    assert np.array_equal(live.probability([state], [9]), FastRenderer(SMALL, day).probability([state], [9]))
    other = live.probability([state], [10])
    assert not np.array_equal(other, live.probability([state], [9]))  # what it remembers is of one region
