"""AutoScript: metres, signs, a stigmator with its own units, a blanked beam; against a stand-in strict about names."""

import sys
import types
from typing import Any

import numpy as np
import pytest
from fakes import physics
from fakes.autoscript import NAME as MODULE
from fakes.autoscript import install

from twin.backends import autoscript
from twin.instrument.faults import BadFrame, CommandTimeout, MicroscopeFault
from twin.optics import CHARGE_C, Optics
from twin.options import OptionError
from twin.state import SECOND_ORDER, StateSpace

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace()
MATRIX = [[2.0, 0.5], [-0.5, 3.0]]


class Desk:
    def __init__(self, space: StateSpace = SPACE, **options: Any) -> None:
        self.column = physics.Column(OPTICS, {"C10": 30.0, "C12a": -8.0, "C12b": 4.0})
        install(self.column)
        settings = autoscript.Options(**{"module": MODULE, "stigmator_nm": MATRIX, **options})
        self.microscope = autoscript.AutoScriptMicroscope(OPTICS, space, settings, physics.ticking())

    def started(self) -> "Desk":
        self.microscope.reset(np.random.default_rng(0))
        return self

    @property
    def client(self) -> Any:
        return self.microscope._client


def test_nothing_is_connected_before_a_session_and_then_once() -> None:
    desk = Desk(host="10.0.0.7:9111", park=[0.25, 0.75])
    assert desk.client is None
    first = desk.started().client
    assert first.address == ("10.0.0.7", 9111)
    assert first.optics.paused_scan_beam_position == [0.25, 0.75]
    assert desk.started().client is first
    assert desk.column.nm == pytest.approx({"C10": 30.0, "C12a": -8.0, "C12b": 4.0})


@pytest.mark.parametrize("sign", [1, -1])
def test_inputs_reach_the_lenses_in_their_units_and_signs(sign: int) -> None:
    desk = Desk(defocus_sign=sign).started()
    desk.microscope.apply(np.array([10.0, 3.0, -5.0]))
    assert desk.client.optics.defocus == pytest.approx((30 + sign * 10) * 1e-9)
    assert desk.column.nm == pytest.approx({"C10": 30.0 + sign * 10, "C12a": -5.0, "C12b": -1.0})
    point = desk.client.optics.stigmator
    np.testing.assert_allclose(np.array(MATRIX) @ [point.x, point.y], [-5.0, -1.0])
    np.testing.assert_allclose(desk.microscope.read_back_nm(), [10.0, 3.0, -5.0])


def test_without_astigmatism_the_stigmator_is_left_alone() -> None:
    only = StateSpace(("C10",), (60.0,), (60.0,), (10.0,))
    desk = Desk(only, stigmator_nm=None).started()
    desk.microscope.apply(np.array([5.0]))
    assert desk.column.nm == pytest.approx({"C10": 35.0, "C12a": -8.0, "C12b": 4.0})


def test_the_beam_is_on_for_the_exposure_only() -> None:
    desk = Desk().started()
    frame = desk.microscope.acquire()
    assert float(frame.counts.sum()) == pytest.approx(desk.column.dose_e, rel=0.02)
    assert desk.client.optics.blanker.is_beam_blanked
    assert frame.dose_e == pytest.approx(50e-12 * 0.5 / CHARGE_C)
    assert frame.exposure_s == 0.5

    def broken(settings: object) -> None:
        raise RuntimeError("camera retracted")

    desk.client.acquisition = types.SimpleNamespace(acquire_camera_image_advanced=broken)
    with pytest.raises(RuntimeError, match="retracted"):
        desk.microscope.acquire()
    assert desk.client.optics.blanker.is_beam_blanked
    desk.client.acquisition = types.SimpleNamespace(acquire_camera_image_advanced=lambda settings: None)
    with pytest.raises(BadFrame, match="no image"):
        desk.microscope.acquire()


def test_a_blanker_that_is_not_ours_is_left_alone() -> None:
    desk = Desk(blank=False).started()
    assert not desk.microscope.acquire().counts.any()  # as it was: blanked


def test_silence_is_a_fault_of_its_own() -> None:
    desk = Desk().started()
    desk.client.silent = True
    with pytest.raises(CommandTimeout, match="the server did not answer"):
        desk.microscope.apply(np.array([10.0, 0.0, 0.0]))


def test_what_cannot_work_is_refused_when_it_is_made() -> None:
    half = StateSpace(("C10", "C12a"), (60.0, 30.0), (60.0, 30.0), (10.0, 10.0))
    for space, options, message in (
        (SECOND_ORDER, {"stigmator_nm": MATRIX}, "AutoScript sets C10, C12a, C12b; the space has C21a"),
        (SPACE, {}, "give stigmator_nm"),
        (SPACE, {"stigmator_nm": [[1, 1], [1, 1]]}, "2 x 2 matrix that moves both"),
        (half, {"stigmator_nm": MATRIX}, "moves C12a and C12b together; the space has only C12a"),
        (SPACE, {"defocus_sign": 0}, "defocus_sign: input should be -1 or 1, got 0"),
        (SPACE, {"hots": "x"}, r"'hots' is not an option here \(did you mean host\?\)"),
    ):
        with pytest.raises(ValueError, match=message):
            autoscript.make(options, OPTICS, space)
    with pytest.raises(OptionError, match="view: binning: input should be a valid integer"):
        autoscript.make({"stigmator_nm": MATRIX, "view": {"binning": 0.5}}, OPTICS, SPACE)


def test_without_autoscript_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    microscope = autoscript.make({"stigmator_nm": MATRIX}, OPTICS, SPACE)
    monkeypatch.setitem(sys.modules, "autoscript_tem_microscope_client", None)
    with pytest.raises(MicroscopeFault, match="AutoScript TEM is not installed here"):
        microscope.reset(np.random.default_rng(0))
