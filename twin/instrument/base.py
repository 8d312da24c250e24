"""Base class of instruments whose corrector is set in absolute values: a backend connects, reads, moves and exposes.

The inputs of a session count from the corrector's position at `reset`. Nothing here depends on a vendor.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from twin.arrays import Array
from twin.errors import NoSession, printable
from twin.instrument.faults import ActuatorBusy, BadFrame, MicroscopeFault, OutOfReach, as_fault
from twin.optics import Optics
from twin.options import Count, OptionError, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Capabilities, Frame

Counts = NDArray[np.uint16]

ANGLE_MISMATCH = 0.05
"""Largest relative difference between the angle of a camera pixel and that of the scenario."""


@validated
class CameraView:
    """Conversion of a sensor's image to a frame: rotated or mirrored, cropped to its centre, binned, in counts.

    Attributes:
        transpose, flip_x, flip_y: applied in this order; afterwards y is the row and x the column, in the corrector's
            axes. An input of astigmatism shows whether a camera needs them (docs/hardware.md).
        binning: sensor pixels per frame pixel, along each axis; their values are added.
        gain: sensor units per count.
        offset: sensor units of a dark pixel, subtracted first.
        max_count: larger counts are clipped to it, as by saturation.
        sensor_pixel_mrad: angle of a sensor pixel, checked against the scenario; None: not checked.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    binning: Count = 1
    gain: Positive = 1.0
    offset: float = 0.0
    max_count: Annotated[int, Ge(1), Le(65535)] = 65535
    sensor_pixel_mrad: Positive | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], optics: Optics) -> Self:
        """Build from plain values, checked against the optics.

        Raises:
            OptionError: an unknown field or a bad value.
            ValueError: as `check`.
        """
        try:
            view = checked_options(cls, options)
        except OptionError as error:
            raise OptionError(f"view: {error}") from error
        view.check(optics)
        return view

    def check(self, optics: Optics) -> None:
        """Refuse a camera whose pixel angle is not that of the scenario.

        Raises:
            ValueError: names both angles and the nearest binning.
        """
        if self.sensor_pixel_mrad is None:
            return
        pixel_mrad, expected_mrad = self.sensor_pixel_mrad * self.binning, optics.camera_pixel_mrad
        if abs(pixel_mrad / expected_mrad - 1.0) > ANGLE_MISMATCH:
            best = max(1, round(expected_mrad / self.sensor_pixel_mrad))
            raise ValueError(
                f"a camera pixel spans {pixel_mrad:.4g} mrad ({self.binning} x {self.sensor_pixel_mrad:.4g});"
                f" the scenario has {expected_mrad:.4g} mrad. Nearest is camera.binning={best}"
            )


def to_counts(image: Array, view: CameraView, side: int) -> Counts:
    """Return a sensor's image as counts, shape (side, side), y before x.

    Raises:
        BadFrame: not an image, not finite, or smaller than `side * binning`.
    """
    values = np.asarray(image)
    need = side * view.binning
    if values.dtype.kind not in "fiub":
        raise BadFrame(f"the pixels of an image are real numbers; got {values.dtype}")
    if values.ndim != 2 or min(values.shape) < need:
        raise BadFrame(f"an image of at least {need} x {need} sensor pixels is expected; got {values.shape}")
    if not np.all(np.isfinite(values)):
        raise BadFrame(f"{np.count_nonzero(~np.isfinite(values))} sensor pixels are not finite")
    values = values.T if view.transpose else values
    values = values[:: -1 if view.flip_y else 1, :: -1 if view.flip_x else 1]
    # The centre is pixel H // 2 of the sensor and side // 2 of the frame.
    top, left = (length // 2 - (side // 2) * view.binning for length in values.shape)
    middle = values[max(0, top) :][:need, max(0, left) :][:, :need].astype(np.float64)
    if middle.shape != (need, need):
        raise BadFrame(f"{need} x {need} sensor pixels do not fit around the centre of {values.shape}")
    binned = middle.reshape(side, view.binning, side, view.binning).sum(axis=(1, 3))
    counts = (binned - view.offset * view.binning**2) / view.gain
    return np.clip(np.rint(counts), 0, view.max_count).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Exposure:
    """One camera image.

    Attributes:
        image: sensor units, any real dtype, shape (H, W).
        exposure_s: shutter time.
        dose_e: electrons of the beam in that time, as far as known.
        settings: known settings.
    """

    image: Array
    exposure_s: float
    dose_e: float
    settings: Mapping[str, float] = field(default_factory=dict)


class Instrument(ABC):
    """A microscope whose corrector is set in absolute values: `Microscope`, `ReadsBack` and `OutlivesPrograms`.

    A backend defines `connect`, `read_nm`, `move_nm` and `expose`. Nothing is connected before `reset` or `take_up`.

    Args:
        name: for messages and logs.
        optics: beam and camera as the controller assumes them.
        space: the calibrated coefficients.
        view: from the sensor's image to the frame.
        clock: monotonic, s.

    Raises:
        ValueError: the pixel angle is not that of the scenario.
    """

    def __init__(
        self,
        name: str,
        optics: Optics,
        space: StateSpace,
        view: CameraView | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view, self._clock = view or CameraView(), clock
        self._view.check(optics)
        side = optics.camera_pixels
        self._capabilities = Capabilities(name, optics, space, (side, side), self._view.max_count)
        self._space = space
        self._origin_nm: Array | None = None
        self._cumulative_nm: Array = space.zero
        self._began_s = 0.0

    # --- defined by a backend --------------------------------------------------------------------

    @abstractmethod
    def connect(self) -> None:
        """Connect to the instrument; called for every session, so a second call must be harmless.

        Raises:
            MicroscopeFault: it cannot be reached.
            ValueError: it lacks a control for a calibrated coefficient.
        """

    @abstractmethod
    def read_nm(self) -> Array:
        """Return the position that the corrector reports, nm, shape (n,), from any origin (signs: docs/conventions.md).

        Raises:
            MicroscopeFault: no answer.
        """

    @abstractmethod
    def move_nm(self, values_nm: Array) -> None:
        """Set the corrector to these values; returns when it has moved.

        Raises:
            ActuatorBusy, OutOfReach: nothing has moved.
            CommandTimeout: it may have moved.
        """

    @abstractmethod
    def expose(self) -> Exposure:
        """Expose the camera once.

        Raises:
            MicroscopeFault: no image.
        """

    # --- the seam --------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session at the present position of the corrector; nothing moves, the generator is not used.

        Raises:
            MicroscopeFault: it cannot be reached, or reports no valid position.
        """
        self.connect()
        self._origin_nm = self._position_nm()
        self._cumulative_nm, self._began_s = self._space.zero, self._clock()

    def apply(self, delta_nm: Array) -> None:
        """Add an input. After a missing answer, not after a refusal, inputs continue from the reported position.

        Raises:
            MicroscopeFault: as `move_nm`.
        """
        origin = self._check_session("apply")
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        try:
            self.move_nm(origin + cumulative)
        except (ActuatorBusy, OutOfReach):
            raise
        except Exception as error:
            with suppress(Exception):
                self._cumulative_nm = np.clip(self._position_nm() - origin, -self._space.input, self._space.input)
            # Not a ValueError: across this seam it would promise that nothing has moved.
            raise as_fault(error) from error
        self._cumulative_nm = cumulative

    def acquire(self) -> Frame:
        """Expose once.

        Raises:
            MicroscopeFault: no image, or none that makes a frame.
        """
        self._check_session("acquire")
        exposure = self.expose()
        counts = to_counts(exposure.image, self._view, self._capabilities.camera_shape[0])
        clock_s = self._clock() - self._began_s
        return Frame(counts, exposure.dose_e, exposure.exposure_s, clock_s, dict(exposure.settings))

    def read_back_nm(self) -> Array:
        """Return the cumulative input as the corrector reports it, shape (n,)."""
        return self._position_nm() - self._check_session("read_back_nm")

    def session(self) -> dict[str, Any]:
        """Return the position of the corrector at the start of the session."""
        return {"origin_nm": self._check_session("session").tolist()}

    def take_up(self, session: Mapping[str, Any], clock_s: float) -> None:
        """Continue a session that another program began: inputs count from its origin. Nothing moves.

        Raises:
            ValueError: `session` is not from an instrument of this space.
            MicroscopeFault: as `reset`.
        """
        origin = np.asarray(session.get("origin_nm", ()), dtype=np.float64)
        if origin.shape != (self._space.dimension,) or not np.all(np.isfinite(origin)):
            raise ValueError(f"the recorded session has no origin for {', '.join(self._space.names)}: {dict(session)}")
        self.connect()
        self._cumulative_nm = self._position_nm() - origin
        self._origin_nm, self._began_s = origin, self._clock() - clock_s

    def _position_nm(self) -> Array:
        """Return a checked `read_nm`.

        Raises:
            MicroscopeFault: not a position.
        """
        told = np.asarray(self.read_nm())
        # A copy: a driver may go on changing its own array.
        position = told.astype(np.float64) if told.dtype.kind in "fiu" else np.full(told.shape, np.nan)
        if position.shape != (self._space.dimension,) or not np.all(np.isfinite(position)):
            names = ", ".join(self._space.names)
            raise MicroscopeFault(f"the corrector reports {printable(told.tolist())}: no position of {names}")
        return position

    def _check_session(self, verb: str) -> Array:
        if self._origin_nm is None:
            raise NoSession(verb)
        return self._origin_nm
