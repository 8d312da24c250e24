"""A Thermo Fisher microscope through AutoScript TEM, from any computer in its network: defocus, a stigmator, a camera.

AutoScript is the vendor's client and not part of this package; it is imported when a session begins. Written from the
calls of public programs, tested against a stand-in, never on a microscope.

Signs: `optics.defocus` is in metres and assumed positive for overfocus, as C10 is (docs/conventions.md has
defocus = -C10 because abTEM's defocus is positive for underfocus). A stigmator has its own units: `stigmator_nm` is the
change of C12a and C12b per unit. Measure `defocus_sign` and that matrix once per instrument (docs/hardware.md).
"""

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import reduce
from typing import Any, Literal

import numpy as np

from twin.arrays import Array
from twin.errors import printable
from twin.instrument.base import CameraView, Exposure, Instrument
from twin.instrument.faults import BadFrame, CommandTimeout, MicroscopeFault
from twin.instrument.line import split_address
from twin.optics import CHARGE_C, Optics
from twin.options import Count, Port, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Microscope

ADDRESS = "host"
NM = 1e-9
KNOWN = ("C10", "C12a", "C12b")


@validated
class Options:
    """Options of an AutoScript microscope.

    Attributes:
        host: address of the AutoScript server; "host:port" also sets the port.
        port: of the server.
        module: package of the client.
        detector, size: of the camera, as `CameraAcquisitionSettings` takes them.
        exposure_s: of a Ronchigram.
        beam_current_a: for the dose.
        defocus_sign: +1 if a positive defocus is a positive C10, else -1.
        stigmator: attribute with x and y of the stigmator.
        stigmator_nm: ((C12a per x, C12a per y), (C12b per x, C12b per y)), nm per unit; None: astigmatism is not
            calibrated.
        park: position of the beam during an exposure, fractions of the scan field (x, y); None: unchanged.
        blank: blank the beam between exposures.
        view: fields of a `CameraView`.
    """

    host: str = "127.0.0.1"
    port: Port = 9095
    module: str = "autoscript_tem_microscope_client"
    detector: str = "BM-Ceta"
    size: Count = 1024
    exposure_s: Positive = 0.5
    beam_current_a: Positive = 50e-12
    defocus_sign: Literal[-1, 1] = 1
    stigmator: str = "optics.stigmator"
    stigmator_nm: tuple[tuple[float, float], tuple[float, float]] | None = None
    park: tuple[float, float] | None = None
    blank: bool = True
    view: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        host, port = split_address(self.host, self.port)
        object.__setattr__(self, "host", host)
        object.__setattr__(self, "port", port)


def make(options: Mapping[str, Any], optics: Optics, space: StateSpace) -> Microscope:
    """Build an AutoScript microscope, connected at `reset`.

    Raises:
        OptionError: as `checked_options`.
        ValueError: as `AutoScriptMicroscope`.
    """
    return AutoScriptMicroscope(optics, space, checked_options(Options, options))


class AutoScriptMicroscope(Instrument):
    """A Thermo Fisher microscope.

    Args:
        optics, space: as the controller assumes them; the space may have C10, C12a and C12b.
        options: of the backend.
        clock: as in `Instrument`.

    Raises:
        ValueError: a coefficient that it cannot set, or another pixel angle than that of the scenario.
    """

    def __init__(
        self, optics: Optics, space: StateSpace, options: Options, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__("autoscript", optics, space, CameraView.of(options.view, optics), clock)
        self._options = options
        self._stigmator_nm = _stigmator_matrix(space, options)
        self._client: Any = None
        self._structures: Any = None

    def connect(self) -> None:
        """Connect once; the vendor's client keeps the connection."""
        if self._client is not None:
            return
        chosen = self._options
        try:
            package = importlib.import_module(chosen.module)
            self._structures = importlib.import_module(f"{chosen.module}.structures")
        except ImportError as error:
            raise MicroscopeFault(f"AutoScript TEM is not installed here: {printable(error)}") from error
        client = package.TemMicroscopeClient()
        client.connect(chosen.host, chosen.port)
        self._client = client
        if chosen.park is not None:
            client.optics.paused_scan_beam_position = [float(value) for value in chosen.park]

    def read_nm(self) -> Array:
        """Return defocus and stigmator as coefficients."""
        by_name = {"C10": self._options.defocus_sign * float(self._client.optics.defocus) / NM}
        if self._stigmator_nm is not None:
            unit = _pair(_attribute(self._client, self._options.stigmator))
            by_name |= dict(zip(("C12a", "C12b"), self._stigmator_nm @ unit, strict=True))
        return np.array([by_name[name] for name in self._space.names])

    def move_nm(self, values_nm: Array) -> None:
        """Set the stigmator, then the defocus; leave those that are not in the space."""
        values = dict(zip(self._space.names, values_nm, strict=True))
        try:
            if self._stigmator_nm is not None:
                unit = np.linalg.solve(self._stigmator_nm, [values["C12a"], values["C12b"]])
                path, _, last = self._options.stigmator.rpartition(".")
                point = self._structures.Point(x=float(unit[0]), y=float(unit[1]))
                setattr(_attribute(self._client, path), last, point)
            if "C10" in values:
                self._client.optics.defocus = float(self._options.defocus_sign * values["C10"] * NM)
        except TimeoutError as error:
            raise CommandTimeout(printable(error)) from error

    def expose(self) -> Exposure:
        """Unblank, expose, blank again in any case."""
        chosen, optics = self._options, self._client.optics
        settings = self._structures.CameraAcquisitionSettings(
            camera_detector=chosen.detector, size=chosen.size, exposure_time=chosen.exposure_s
        )
        if chosen.blank:
            optics.blanker.unblank()
        try:
            image = self._client.acquisition.acquire_camera_image_advanced(settings)
        finally:
            if chosen.blank:
                optics.blanker.blank()
        if getattr(image, "data", None) is None:
            raise BadFrame("the camera gave no image")
        return Exposure(np.asarray(image.data), chosen.exposure_s, self.next_dose_e())

    def next_dose_e(self) -> float:
        """Return beam current times exposure."""
        return self._options.beam_current_a * self._options.exposure_s / CHARGE_C


def _stigmator_matrix(space: StateSpace, options: Options) -> Array | None:
    """Return nm per unit of the stigmator, shape (2, 2); None if astigmatism is not calibrated.

    Raises:
        ValueError: a coefficient that cannot be set, half a pair, or a singular matrix.
    """
    for name in space.names:
        if name not in KNOWN:
            raise ValueError(f"AutoScript sets {', '.join(KNOWN)}; the space has {name}")
    pair = [name for name in ("C12a", "C12b") if name in space.names]
    if not pair:
        return None
    if len(pair) == 1:
        raise ValueError(f"a stigmator moves C12a and C12b together; the space has only {pair[0]}")
    if options.stigmator_nm is None:
        raise ValueError("the space has astigmatism: give stigmator_nm, nm of C12a and C12b per unit of the stigmator")
    matrix = np.asarray(options.stigmator_nm, dtype=np.float64)
    if matrix.shape != (2, 2) or not np.all(np.isfinite(matrix)) or np.linalg.cond(matrix) > 1e3:
        raise ValueError(f"stigmator_nm is a 2 x 2 matrix that moves both components; got {matrix.tolist()}")
    return matrix


def _attribute(root: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), root)


def _pair(point: Any) -> Array:
    """Return x and y of an AutoScript point, or of any pair."""
    return np.array([point.x, point.y] if hasattr(point, "x") else list(point), dtype=np.float64)
