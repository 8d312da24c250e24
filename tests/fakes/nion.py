"""Stand-ins for Nion Swift's instrument and camera, from public code: names, metres, return values, live mode."""

import datetime
from typing import Any

import numpy as np


class Instrument:
    """Controls in metres. Two-dimensional ones have only `.x` and `.y`, as in the simulator."""

    def __init__(self, column: Any) -> None:
        self.column, self.calls = column, []
        self.refuse: set[str] = set()
        self.gain = 1.0
        self._names = {"C10": "C10", "C30": "C30"}
        for base in ("C12", "C21", "C23", "C32", "C34"):
            self._names |= {f"{base}.x": f"{base}a", f"{base}.y": f"{base}b"}
        self._values = {name: column.nm.get(ours, 0.0) * 1e-9 for name, ours in self._names.items()}
        self._values |= {"BeamCurrent": 2e-10, "EHT": 3e5}

    def TryGetVal(self, name: str) -> tuple[bool, float | None]:  # noqa: N802
        return (True, self._values[name]) if name in self._values else (False, None)

    def SetValAndConfirm(self, name: str, value: float, tolfactor: float, timeout_ms: int) -> bool:  # noqa: N802
        assert tolfactor > 0
        assert isinstance(timeout_ms, int)
        if name not in self._values or name in self.refuse:
            return False
        self.calls.append((name, value))
        self._values[name] = value * self.gain
        if name in self._names:
            self.column.nm[self._names[name]] = self._values[name] * 1e9
        return True


class Camera:
    """Returns images while live, as a dictionary with float32 data."""

    def __init__(self, column: Any, counts_per_electron: float = 4.0) -> None:
        self.column, self.scale, self.live, self.broken = column, counts_per_electron, False, False

    def start_live(self) -> None:
        self.live = True

    def stop_live(self) -> None:
        self.live = False

    def acquire_image(self) -> dict[str, Any]:
        if not self.live:
            raise RuntimeError("the camera is not live and would wait for ever")
        data = (self.column.sensor_image() * self.scale).astype(np.float32)
        if self.broken:
            data[5, 5] = np.nan
        return {"version": 1, "data": data, "timestamp": datetime.datetime(2026, 1, 1), "properties": {}}
