"""The `com` agent: units, noise, settings that change while it runs.

The map itself: tests/agents/com/test_centre_map.py.
"""

import math

import numpy as np
import pytest

from agents.base import MetaError, StreamMeta, load
from agents.block import FrameBlock
from twin.formats.dataset import Layout, Metadata
from twin.options import OptionError

CAMERA, SCAN = (16, 18), (5, 6)
PIXEL = np.stack(np.divmod(np.arange(30), 6), axis=1)


def meta(transposed=False, **known):
    return StreamMeta(Layout(SCAN, CAMERA), Metadata(**known), transposed)


def shifted(per_column_px, per_row_px):
    """Frames whose centre moves along x with the scan's columns and along y with its rows: exact fractions."""
    frames = np.zeros((30, *CAMERA), np.uint32)
    for frame, (row, column) in zip(frames, PIXEL, strict=True):
        x, y = 5 + per_column_px * column, 6 + per_row_px * row
        left, top = math.floor(x), math.floor(y)
        for dy, share_y in ((0, top + 1 - y), (1, y - top)):
            for dx, share_x in ((0, left + 1 - x), (1, x - left)):
                frame[top + dy, left + dx] = round(1e6 * share_x * share_y)
    return frames


def run(options, about, frames):
    agent = load("com", options)
    agent.start(about)
    agent.update(FrameBlock(frames, PIXEL))
    return agent.result()


@pytest.mark.parametrize(("known", "unit", "scale"), [({}, "px", 1.0), ({"pixel_mrad": 0.25}, "mrad", 0.25)])
def test_images_are_shifts_along_the_scan(known, unit, scale):
    found = run({}, meta(rotation_deg=0.0, **known), shifted(0.5, 0.25))
    x, y, magnitude = (found.images[name] for name in ("com_x", "com_y", "magnitude"))
    assert {x.unit, y.unit, magnitude.unit} == {unit}
    np.testing.assert_allclose(x.values, np.broadcast_to((np.arange(6) - 2.5) * 0.5 * scale, SCAN), atol=1e-5)
    np.testing.assert_allclose(y.values, np.broadcast_to((np.arange(5) - 2)[:, None] * 0.25 * scale, SCAN), atol=1e-5)
    np.testing.assert_allclose(magnitude.values, np.hypot(x.values, y.values))
    rms = math.sqrt((np.mean(x.values**2) + np.mean(y.values**2)) / 2)
    assert found.figures[f"shift_rms_{unit}"] == pytest.approx(rms)
    assert found.figures["electrons_e"] == pytest.approx(1e6, rel=1e-5)
    assert found.notes == ()


def test_a_quarter_turn_swaps_the_axes():
    found = run({"rotation_deg": 90.0}, meta(rotation_deg=0.0), shifted(0.5, 0.0))
    # The fast axis points along the camera's +y; +x is then against the slow axis.
    np.testing.assert_allclose(found.images["com_x"].values, 0.0, atol=1e-5)
    np.testing.assert_allclose(found.images["com_y"].values[0], -(np.arange(6) - 2.5) * 0.5, atol=1e-5)
    swapped = run({"transposed": True}, meta(rotation_deg=0.0), shifted(0.5, 0.0))
    np.testing.assert_allclose(swapped.images["com_y"].values[0], (np.arange(6) - 2.5) * 0.5, atol=1e-5)


def test_unknown_orientation_is_assumed_and_said():
    found = run({}, meta(None), shifted(0.5, 0.25))
    assert len(found.notes) == 2
    assert "rotation" in found.notes[0]
    assert "transposed" in found.notes[1]


def test_the_spread_is_the_scatter_of_a_flat_specimen():
    """30 positions of one pattern, 600 electrons each, ten times: chi-squared with 580 degrees of freedom, the means
    apart; two-sided 1e-3 is 13 %.
    """
    y, x = np.indices(CAMERA)
    pattern = 600 * np.exp(-((x - 8) ** 2 + (y - 7) ** 2) / 18) / (18 * math.pi)
    statistic, draw = 0.0, np.random.default_rng(4)
    for _ in range(10):
        found = run({}, meta(rotation_deg=25.0, pixel_mrad=0.7), draw.poisson(pattern, (30, *CAMERA)).astype(np.uint16))
        for name in ("com_x", "com_y"):
            statistic += float(np.sum((found.images[name].values / found.images[name].spread) ** 2))
    assert abs(statistic / 580 - 1) < 0.13 * 1.5  # 20 residual means of 30: their own scatter is in the 580


def test_settings_change_while_it_runs():
    agent = load("com", {"outer_px": 30.0})
    agent.start(meta(rotation_deg=0.0))
    agent.update(FrameBlock(shifted(0.5, 0.25), PIXEL))
    agent.configure(rotation_deg=90.0, reference="centre")
    # Against (column 9, row 8): x runs 5 to 7.5, y from 6 to 7.
    np.testing.assert_allclose(agent.result().images["com_x"].values[:, 0], 6 + 0.25 * np.arange(5) - 8, atol=1e-5)
    np.testing.assert_allclose(agent.result().images["com_y"].values[0], 9 - 5 - 0.5 * np.arange(6), atol=1e-5)
    before = agent.result().images["com_x"].values
    with pytest.raises(OptionError, match="did you mean outer_px"):
        agent.configure(outer_pix=3)
    with pytest.raises(MetaError, match="com needs pixel_mrad"):
        agent.configure(outer_mrad=3.0, outer_px=None)
    np.testing.assert_array_equal(agent.result().images["com_x"].values, before)


def test_plain_json_builds_it():
    """What a command line or a scenario gives: lists for tuples."""
    agent = load("com", {"reference": "vacuum", "vacuum_area": [0, 1, 0, 6], "centre_px": [7, 8], "outer_px": 6})
    agent.start(meta())
    assert np.isnan(agent.result().images["com_x"].values).all()
    assert agent.result().figures == {}
