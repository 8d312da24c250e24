"""Nion Swift's controls: names, metres and signs, against a stand-in. Its own simulator: test_nion_interop.py."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import physics
from fakes.nion import Camera, Instrument

from twin.backends import nion
from twin.instrument.faults import BadFrame, CommandTimeout, MicroscopeFault, Stopped
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.optics import CHARGE_C, Optics
from twin.options import OptionError
from twin.state import SECOND_ORDER, StateSpace

ROOT = Path(__file__).parents[3]
OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace()
START = {"C10": 30.0, "C12a": -8.0, "C12b": 4.0, "C21a": 100.0}


class Desk:
    """A Nion microscope on stand-ins."""

    def __init__(self, space: StateSpace = SPACE, **options: Any) -> None:
        self.column = physics.Column(OPTICS, START)
        self.instrument, self.camera = Instrument(self.column), Camera(self.column)
        settings = nion.Options(**{"view": {"gain": 4.0}, **options})
        self.microscope = nion.NionMicroscope(
            OPTICS, space, settings, lambda: (self.instrument, self.camera), physics.ticking()
        )

    def started(self) -> "Desk":
        self.microscope.reset(np.random.default_rng(0))
        return self


def test_a_session_starts_where_the_instrument_stands_and_moves_nothing() -> None:
    desk = Desk().started()
    assert desk.instrument.calls == []
    np.testing.assert_allclose(desk.microscope.read_back_nm(), 0.0)
    assert desk.microscope.session() == {"origin_nm": pytest.approx([30.0, -8.0, 4.0])}


def test_inputs_are_metres_at_the_control_of_their_coefficient() -> None:
    desk = Desk().started()
    desk.microscope.apply(np.array([10.0, 0.0, -5.0]))
    # C12a has not changed: it is not sent.
    assert [name for name, _ in desk.instrument.calls] == ["C10", "C12.y"]
    assert dict(desk.instrument.calls) == {"C10": pytest.approx(40e-9), "C12.y": pytest.approx(-1e-9)}
    desk.microscope.apply(np.array([0.0, 2.0, 0.0]))
    assert desk.instrument.calls[-1] == ("C12.x", pytest.approx(-6e-9))
    np.testing.assert_allclose(desk.microscope.read_back_nm(), [10.0, 2.0, -5.0])
    assert desk.column.nm["C10"] == pytest.approx(40.0)


def test_a_sign_turns_the_control_and_its_reading() -> None:
    desk = Desk(signs={"C10": -1}).started()
    desk.microscope.apply(np.array([10.0, 3.0, 0.0]))
    assert dict(desk.instrument.calls) == {"C10": pytest.approx(20e-9), "C12.x": pytest.approx(-5e-9)}
    np.testing.assert_allclose(desk.microscope.read_back_nm(), [10.0, 3.0, 0.0], atol=1e-12)


def test_every_calibrated_coefficient_has_its_name() -> None:
    assert [nion.control_name(name) for name in SECOND_ORDER.names] == [
        "C10",
        "C12.x",
        "C12.y",
        "C21.x",
        "C21.y",
        "C23.x",
        "C23.y",
    ]
    assert nion.control_name("C34b", ("a", "b")) == "C34.b"
    assert nion.control_name("C30") == "C30"
    with pytest.raises(ValueError, match="no control for C50: its coefficients end at order 3"):
        nion.control_name("C50")


def test_a_frame_is_the_cameras_electrons() -> None:
    desk = Desk().started()
    frame = desk.microscope.acquire()
    assert frame.counts.shape == (64, 64)
    assert float(frame.counts.sum()) == pytest.approx(desk.column.dose_e, rel=0.02)
    assert not desk.camera.live
    assert frame.dose_e == pytest.approx(2e-10 * 0.1 / CHARGE_C)
    assert Desk(beam_current_a=1e-12, exposure_s=0.2).started().microscope.next_dose_e() == pytest.approx(
        2e-13 / CHARGE_C
    )


def test_what_is_not_confirmed_is_silence_and_the_guard_brings_the_rest_back() -> None:
    desk = Desk().started()
    desk.instrument.refuse = {"C12.y"}
    with pytest.raises(CommandTimeout, match=r"C12\.y was not confirmed at -1e-09 m within 5 s"):
        desk.microscope.apply(np.array([10.0, 0.0, -5.0]))
    np.testing.assert_allclose(desk.microscope.read_back_nm(), [10.0, 0.0, 0.0], atol=1e-12)
    guarded = Desk()
    safe = SafeMicroscope(guarded.microscope, Limits(timeout_s=None), sleep=lambda _: None)
    safe.reset(np.random.default_rng(0))
    guarded.instrument.refuse = {"C12.y"}
    with pytest.raises(Stopped, match=r"C12.y was not confirmed.*restored to C10 \+0 nm"):
        safe.apply(np.array([10.0, 0.0, -5.0]))
    assert guarded.column.nm["C10"] == pytest.approx(30.0)


def test_a_control_that_lies_is_caught_by_the_guard() -> None:
    desk = Desk()
    safe = SafeMicroscope(desk.microscope, Limits(timeout_s=None), sleep=lambda _: None)
    safe.reset(np.random.default_rng(0))
    safe.apply(np.array([1.0, 0.0, 0.0]))
    desk.instrument.gain = 1.03
    with pytest.raises(Stopped, match="NotThere"):
        safe.apply(np.array([20.0, 0.0, 0.0]))


def test_an_image_that_is_none_or_not_finite_is_a_bad_frame_and_the_camera_is_stopped() -> None:
    desk = Desk().started()
    desk.camera.broken = True
    with pytest.raises(BadFrame, match="1 sensor pixels are not finite"):
        desk.microscope.acquire()
    desk.camera.acquire_image = lambda: None
    with pytest.raises(BadFrame, match="no image"):
        desk.microscope.acquire()
    assert not desk.camera.live


def test_mistakes_are_named_before_anything_moves() -> None:
    desk = Desk()
    del desk.instrument._values["C12.x"]
    with pytest.raises(MicroscopeFault, match=r"does not report C12\.x"):
        desk.started()
    for options, message in (
        ({"sgins": {}}, r"'sgins' is not an option here \(did you mean signs\?\)"),
        ({"signs": {"C10": 2}}, "signs.C10: input should be -1 or 1, got 2"),
        ({"signs": {"C13": 1}}, "'C13' is not an aberration coefficient"),
        ({"view": {"bining": 2}}, r"view: 'bining' is not an option here \(did you mean binning\?\)"),
        ({"exposure_s": 0}, "exposure_s: input should be greater than 0, got 0"),
    ):
        with pytest.raises(OptionError, match=message):
            nion.make(options, OPTICS, SPACE)


def test_without_nion_swift_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    microscope = nion.make({}, OPTICS, SPACE)
    monkeypatch.setitem(sys.modules, "nion.utils.Registry", None)
    with pytest.raises(MicroscopeFault, match="this Python has no Nion Swift"):
        microscope.reset(np.random.default_rng(0))


@pytest.mark.parametrize("told", ["5e-9", 1j, True, float("nan"), float("inf"), [1e-9], "\x1b[2J" * 10_000])
def test_a_control_that_tells_no_number_is_a_fault(told: Any) -> None:
    desk = Desk().started()
    desk.instrument._values["C10"] = told
    with pytest.raises(MicroscopeFault, match="the instrument does not report C10: ") as caught:
        desk.microscope.read_back_nm()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 100


def test_a_beam_without_current_is_not_exposed(tmp_path: Path) -> None:
    desk = Desk()
    safe = SafeMicroscope(desk.microscope, Limits(dose_e=1e9, retries=0, timeout_s=None), sleep=lambda _: None)
    safe.reset(np.random.default_rng(0))
    desk.instrument._values["BeamCurrent"] = 0.0
    with pytest.raises(Stopped, match=r"the reported dose of the next exposure is 0\.0 e"):
        safe.acquire()
