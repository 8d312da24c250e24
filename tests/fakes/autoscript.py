"""A stand-in for AutoScript TEM's client, from public code, strict about names; install() adds it to the modules."""

import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np

NAME = "fake_autoscript"


@dataclass
class Point:
    x: float
    y: float


@dataclass
class CameraAcquisitionSettings:
    camera_detector: str
    size: int
    exposure_time: float


class _Blanker:
    __slots__ = ("is_beam_blanked",)

    def __init__(self) -> None:
        self.is_beam_blanked = True

    def blank(self) -> None:
        self.is_beam_blanked = True

    def unblank(self) -> None:
        self.is_beam_blanked = False


class _Optics:
    __slots__ = ("_client", "blanker", "paused_scan_beam_position")

    def __init__(self, client: Any) -> None:
        self._client, self.blanker, self.paused_scan_beam_position = client, _Blanker(), [0.5, 0.5]

    @property
    def defocus(self) -> float:
        return self._client.column.nm["C10"] * 1e-9

    @defocus.setter
    def defocus(self, metres: float) -> None:
        if self._client.silent:
            raise TimeoutError("the server did not answer")
        assert isinstance(metres, float)
        self._client.column.nm["C10"] = metres * 1e9

    @property
    def stigmator(self) -> Point:
        nm = self._client.column.nm
        x, y = np.linalg.solve(self._client.matrix, [nm["C12a"], nm["C12b"]])
        return Point(x, y)

    @stigmator.setter
    def stigmator(self, point: Point) -> None:
        assert isinstance(point, Point)
        a, b = self._client.matrix @ [point.x, point.y]
        self._client.column.nm |= {"C12a": a, "C12b": b}


class _Acquisition:
    __slots__ = ("_client",)

    def __init__(self, client: Any) -> None:
        self._client = client

    def acquire_camera_image_advanced(self, settings: CameraAcquisitionSettings) -> Any:
        assert isinstance(settings, CameraAcquisitionSettings)
        assert settings.camera_detector == "BM-Ceta"
        data = self._client.column.sensor_image()
        dark = self._client.optics.blanker.is_beam_blanked
        return types.SimpleNamespace(data=(0 * data if dark else data).astype(np.uint16))


class TemMicroscopeClient:
    """Clients are built without arguments; the class holds the column they connect to."""

    column: Any = None
    matrix = np.array([[2.0, 0.5], [-0.5, 3.0]])

    def __init__(self) -> None:
        self.optics, self.acquisition, self.silent, self.address = _Optics(self), _Acquisition(self), False, None

    def connect(self, host: str, port: int) -> None:
        self.address = (host, port)


def install(column: Any) -> None:
    """Let `import fake_autoscript` return a client of this column."""
    package, structures = types.ModuleType(NAME), types.ModuleType(f"{NAME}.structures")
    package.TemMicroscopeClient = type("TemMicroscopeClient", (TemMicroscopeClient,), {"column": column})
    structures.Point, structures.CameraAcquisitionSettings = Point, CameraAcquisitionSettings
    sys.modules |= {NAME: package, f"{NAME}.structures": structures}
