"""What instruments share: sensor images become frames, inputs count from where the corrector stood."""

from typing import Any

import numpy as np
import pytest
from fakes import physics
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from twin.instrument.abilities import OutlivesPrograms, ReadsBack
from twin.instrument.base import CameraView, Exposure, Instrument, to_counts
from twin.instrument.faults import ActuatorBusy, BadFrame, CommandTimeout, MicroscopeFault, Stopped
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Microscope

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace()


class Bench(Instrument):
    """A corrector with an origin of its own, and a gradient for an image."""

    def __init__(self, **view: Any) -> None:
        super().__init__("bench", OPTICS, SPACE, CameraView(**view), physics.ticking())
        self.stands, self.connected = np.array([100.0, -50.0, 25.0]), 0
        self.faults: list[Exception] = []
        self.share = 1.0

    def connect(self) -> None:
        self.connected += 1

    def read_nm(self) -> NDArray[np.float64]:
        return self.stands

    def move_nm(self, values_nm: NDArray[np.float64]) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, ActuatorBusy):
            raise fault
        self.stands = self.stands + self.share * (values_nm - self.stands)
        if fault is not None:
            raise fault

    def expose(self) -> Exposure:
        return Exposure(np.arange(64 * 64, dtype=np.float32).reshape(64, 64), 0.5, 1e6, {"gain": 2.0})


def started(**view: Any) -> Bench:
    bench = Bench(**view)
    bench.reset(np.random.default_rng(0))
    return bench


# --- images --------------------------------------------------------------------------------------


def by_hand(image: NDArray[np.floating], view: CameraView, side: int) -> NDArray[np.integer]:
    """Pixel by pixel from the definition: the sensor's middle pixel H // 2 belongs to the frame's pixel side // 2."""
    turned = image.T if view.transpose else image
    turned = np.flipud(turned) if view.flip_y else turned
    turned = np.fliplr(turned) if view.flip_x else turned
    b, out = view.binning, np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            top, left = turned.shape[0] // 2 + (y - side // 2) * b, turned.shape[1] // 2 + (x - side // 2) * b
            block = turned[top : top + b, left : left + b]
            out[y, x] = (block.sum() - b * b * view.offset) / view.gain
    return np.clip(np.rint(out), 0, view.max_count).astype(np.uint16)


@given(
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.integers(1, 3),
    st.integers(2, 5),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_an_image_becomes_a_frame_as_the_definition_says(
    turns: tuple[bool, bool, bool], binning: int, side: int, margin: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    # Sensors of odd and even sides, with the room that a middle pixel needs.
    shape = tuple(side * binning + 2 * binning + extra for extra in margin)
    image = rng.uniform(0, 900, shape)
    transpose, flip_x, flip_y = turns
    view = CameraView(
        transpose=transpose, flip_x=flip_x, flip_y=flip_y, binning=binning, gain=1.7, offset=3.0, max_count=3000
    )
    np.testing.assert_array_equal(to_counts(image, view, side), by_hand(image, view, side))


def test_dark_pixels_do_not_wrap_around_and_bright_ones_saturate() -> None:
    image = np.array([[-50.0, 10.0], [70000.0, 1e9]])
    np.testing.assert_array_equal(to_counts(image, CameraView(max_count=4095), 2), [[0, 10], [4095, 4095]])


def test_images_that_make_no_frame_are_refused() -> None:
    with pytest.raises(BadFrame, match=r"at least 8 x 8 sensor pixels is expected; got \(8, 6\)"):
        to_counts(np.zeros((8, 6)), CameraView(binning=2), 4)
    spoilt = np.zeros((8, 8))
    spoilt[0, 0] = np.inf
    with pytest.raises(BadFrame, match="1 sensor pixels are not finite"):
        to_counts(spoilt, CameraView(), 4)


def test_a_camera_of_other_angles_is_refused_with_the_binning_that_fits() -> None:
    pixel = OPTICS.camera_pixel_mrad / 4.1
    Bench(binning=4, sensor_pixel_mrad=pixel)
    with pytest.raises(ValueError, match=r"camera pixel spans .* Nearest is camera\.binning=4"):
        Bench(binning=3, sensor_pixel_mrad=pixel)
    for bad in ({"binning": 0}, {"gain": 0.0}, {"max_count": 70000}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            CameraView(**bad)


# --- the corrector -------------------------------------------------------------------------------


def test_inputs_count_from_where_the_corrector_stood() -> None:
    bench = started()
    assert isinstance(bench, Microscope)
    assert isinstance(bench, ReadsBack)
    assert isinstance(bench, OutlivesPrograms)
    np.testing.assert_array_equal(bench.stands, [100.0, -50.0, 25.0])
    bench.apply(np.array([10.0, 0.0, -5.0]))
    bench.apply(np.array([-4.0, 1.0, 0.0]))
    np.testing.assert_allclose(bench.stands, [106.0, -49.0, 20.0])
    np.testing.assert_allclose(bench.read_back_nm(), [6.0, 1.0, -5.0])
    bench.reset(np.random.default_rng(0))
    np.testing.assert_allclose(bench.read_back_nm(), 0.0)
    frame = bench.acquire()
    assert (frame.dose_e, frame.exposure_s, frame.settings) == (1e6, 0.5, {"gain": 2.0})
    assert bench.connected == 2


def test_another_program_takes_a_session_up_where_it_was() -> None:
    first = started()
    first.apply(np.array([10.0, 0.0, -5.0]))
    session, cumulative = first.session(), np.array([10.0, 0.0, -5.0])
    second = Bench()
    second.stands = np.array([0.0, 0.0, 0.0])
    second.take_up(session, 12.0)
    np.testing.assert_array_equal(second.stands, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(second.read_back_nm(), [-100.0, 50.0, -25.0])
    assert second.acquire().clock_s == 13.0
    second.apply(cumulative - second.read_back_nm())
    np.testing.assert_allclose(second.stands, [110.0, -50.0, 20.0])
    for nothing in ({}, {"origin_nm": [1.0, float("nan"), 2.0]}):
        with pytest.raises(ValueError, match="no origin for C10, C12a, C12b"):
            second.take_up(nothing, 0.0)


@pytest.mark.parametrize("told", [[1.0, 2.0], [1.0, float("nan"), 2.0]])
def test_what_is_no_position_begins_no_session(told: list[float]) -> None:
    bench = Bench()
    bench.stands = np.array(told)
    with pytest.raises(MicroscopeFault, match="no position of C10, C12a, C12b"):
        bench.reset(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="before reset"):
        bench.apply(np.zeros(3))


def test_a_refusal_leaves_the_account_and_silence_corrects_it() -> None:
    bench, delta = started(), np.array([10.0, 0.0, 0.0])
    bench.faults = [ActuatorBusy("ramping")]
    with pytest.raises(ActuatorBusy):
        bench.apply(delta)
    bench.apply(delta)
    np.testing.assert_allclose(bench.read_back_nm(), delta)
    bench.faults, bench.share = [CommandTimeout("silence")], 0.5
    with pytest.raises(CommandTimeout):
        bench.apply(delta)
    bench.share = 1.0
    np.testing.assert_allclose(bench.read_back_nm(), 1.5 * delta)
    bench.apply(-1.5 * delta)
    np.testing.assert_allclose(bench.read_back_nm(), 0.0)


@pytest.mark.parametrize("fault", [CommandTimeout("silence"), ActuatorBusy("ramping"), KeyError("vendor bug")])
def test_guarded_it_survives_silence(fault: Exception) -> None:
    bench = Bench()
    safe = SafeMicroscope(bench, Limits(timeout_s=None), sleep=lambda _: None)
    safe.reset(np.random.default_rng(0))
    bench.faults = [fault]
    safe.apply(np.array([10.0, 0.0, 0.0]))
    safe.apply(np.array([5.0, 5.0, 0.0]))
    np.testing.assert_allclose(bench.read_back_nm(), [15.0, 5.0, 0.0])


def test_guarded_it_is_brought_back_when_it_stopped_half_way() -> None:
    bench = Bench()
    safe = SafeMicroscope(bench, Limits(timeout_s=None), sleep=lambda _: setattr(bench, "share", 1.0))
    safe.reset(np.random.default_rng(0))
    bench.faults, bench.share = [CommandTimeout("silence")], 0.5
    with pytest.raises(Stopped, match=r"it stands at \+5\.000.*; restored to C10 \+0 nm"):
        safe.apply(np.array([10.0, 0.0, 0.0]))
    np.testing.assert_allclose(bench.stands, [100.0, -50.0, 25.0])
