"""A Nion microscope through the controls of Nion Swift: C10, C12.x, C12.y, ... in metres, and its Ronchigram camera.

Runs inside Nion Swift's Python (or beside its simulator), without a network of ours.

Signs: Nion's coefficients are Krivanek's, as ours, and equal signs mean equal phase. The ray that leaves the aperture
at an angle theta meets the specimen at grad(chi), so that a positive C10 shows the specimen upright in both. The rays
of Nion's simulator were compared with `twin.aberrations`, coefficient by coefficient (test_nion_interop.py). A real
microscope was not: use `signs` for it.
"""

import importlib
import math
import numbers
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal

import numpy as np

from twin.aberrations import TERMS, index
from twin.arrays import Array
from twin.errors import printable
from twin.instrument.base import CameraView, Exposure, Instrument
from twin.instrument.faults import BadFrame, CommandTimeout, MicroscopeFault
from twin.optics import CHARGE_C, Optics
from twin.options import Count, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Microscope

NM = 1e-9
HIGHEST_ORDER = 3
"""Nion Swift has controls up to C34."""


@validated
class Options:
    """Options of a Nion microscope.

    Attributes:
        instrument, camera: names in Nion Swift's registry; the camera is that of the Ronchigram.
        axes: names of the two components of a control, along the camera's x and y.
        exposure_s: of a Ronchigram.
        sensor_binning: by the camera itself.
        signs: -1 for each coefficient that the instrument counts the other way; the others are +1.
        tolerance_factor, timeout_s: of `SetValAndConfirm`.
        beam_current_a: for the dose; None: read the control BeamCurrent.
        view: fields of a `CameraView`.
    """

    instrument: str = "stem_controller"
    camera: str = "usim_ronchigram_camera_device"
    axes: tuple[str, str] = ("x", "y")
    exposure_s: Positive = 0.1
    sensor_binning: Count = 1
    signs: Mapping[str, Literal[-1, 1]] = field(default_factory=dict)
    tolerance_factor: Positive = 1.0
    timeout_s: Positive = 5.0
    beam_current_a: Positive | None = None
    view: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.signs:
            index(name)


def make(options: Mapping[str, Any], optics: Optics, space: StateSpace) -> Microscope:
    """Build a Nion microscope, found in the registry at `reset`.

    Raises:
        OptionError: as `checked_options`.
        ValueError: as `NionMicroscope`.
    """
    chosen = checked_options(Options, options)
    return NionMicroscope(optics, space, chosen, lambda: _from_registry(chosen))


def _from_registry(options: Options) -> tuple[Any, Any]:
    """Return instrument and camera, the camera set to its exposure.

    Raises:
        MicroscopeFault: no Nion Swift, or no such components.
    """
    try:
        registry = importlib.import_module("nion.utils.Registry")
    except ImportError as error:
        raise MicroscopeFault(f"this Python has no Nion Swift: {printable(error)}") from error
    devices = registry.get_component(options.instrument), registry.get_component(options.camera)
    for name, component in zip((options.instrument, options.camera), devices, strict=True):
        if component is None:
            raise MicroscopeFault(f"Nion Swift's registry has no component {name!r}")
    parameters = importlib.import_module("nion.instrumentation.camera_base").CameraFrameParameters
    settings = {"exposure_ms": options.exposure_s * 1e3, "binning": options.sensor_binning}
    devices[1].set_frame_parameters(parameters(settings))
    return devices


def control_name(name: str, axes: tuple[str, str] = ("x", "y")) -> str:
    """Return Nion Swift's name of a coefficient: C12a is C12.x.

    Raises:
        ValueError: Nion Swift has no such control.
    """
    term = TERMS[index(name)]
    if term.n > HIGHEST_ORDER:
        raise ValueError(f"Nion Swift has no control for {name}: its coefficients end at order {HIGHEST_ORDER}")
    if not term.component:
        return name
    return f"C{term.n}{term.m}.{axes['ab'.index(term.component)]}"


class NionMicroscope(Instrument):
    """A Nion microscope.

    Args:
        optics, space: as the controller assumes them.
        options: of the backend.
        find: returns the instrument and its camera, ready to expose.
        clock: as in `Instrument`.

    Raises:
        ValueError: a coefficient without a control, or another pixel angle than that of the scenario.
    """

    def __init__(
        self,
        optics: Optics,
        space: StateSpace,
        options: Options,
        find: Callable[[], tuple[Any, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("nion", optics, space, CameraView.of(options.view, optics), clock)
        self._options, self._find = options, find
        self._controls = [control_name(name, options.axes) for name in space.names]
        self._signs = np.array([float(options.signs.get(name, 1.0)) for name in space.names])
        self._instrument: Any = None
        self._camera: Any = None

    def connect(self) -> None:
        """Find instrument and camera; check that every control answers."""
        self._instrument, self._camera = self._find()
        self.read_nm()

    def read_nm(self) -> Array:
        """Return the values of the controls."""
        return self._signs * np.array([self._value(name) for name in self._controls]) / NM

    def move_nm(self, values_nm: Array) -> None:
        """Set one control after the other, except those that have the value already."""
        for name, value in zip(self._controls, self._signs * values_nm * NM, strict=True):
            if self._value(name) == value:
                continue
            timeout_ms = round(self._options.timeout_s * 1e3)
            if not self._instrument.SetValAndConfirm(name, float(value), self._options.tolerance_factor, timeout_ms):
                raise CommandTimeout(f"{name} was not confirmed at {value:.4g} m within {self._options.timeout_s:g} s")

    def expose(self) -> Exposure:
        """Start the camera, take the first image, stop: it was exposed after the last input."""
        self._camera.start_live()
        try:
            element = self._camera.acquire_image()
        finally:
            self._camera.stop_live()
        image = None if element is None else element.get("data")
        if image is None:
            raise BadFrame("the camera gave no image")
        return Exposure(np.asarray(image), self._options.exposure_s, self.next_dose_e())

    def next_dose_e(self) -> float:
        """Return beam current times exposure."""
        current = self._options.beam_current_a
        if current is None:
            current = self._value("BeamCurrent")
        return abs(current) * self._options.exposure_s / CHARGE_C

    def _value(self, name: str) -> float:
        known, value = self._instrument.TryGetVal(name)
        if not known or isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise MicroscopeFault(
                f"the instrument does not report {name}: {printable(value, 40) if known else 'unknown'}"
            )
        return float(value)
