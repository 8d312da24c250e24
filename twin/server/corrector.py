"""A CEOS-style aberration corrector on a port: JSON-RPC in netstrings, four methods, metres.

`measureC1A1` and `acquireTableau` measure with a random error, as an operator's tool does; the result has its standard
deviation. `correctAberration` subtracts a measured value (twin/wire/ceos.py). Measurements take no time on the bench's
clock and no electrons.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from twin.aberrations import CEOS_FACTORS, Aberrations, to_ceos
from twin.arrays import Array
from twin.errors import NoSession
from twin.server.bench import Bench
from twin.server.rpc import RpcService
from twin.server.service import Service
from twin.wire import ceos, rpc
from twin.wire.netstring import CORRECTOR_PORT, Request, RpcError

PORT = CORRECTOR_PORT
STD_NM = 2.0
"""Standard deviation of a measurement of C1 or A1 from one pair of images."""
TILTS: Mapping[str, int] = {"Fast": 8, "Standard": 12, "Enhanced": 18}
"""Number of tilts of a tableau, with one measurement each."""
BUSY_S = 0.5
"""Longest wait for the bench; then the corrector answers that it is busy."""
_STREAM = 7072
"""Random stream of the measurements; those of the microscope are numbered from 0."""


def make(bench: Bench) -> Service:
    """Build the service."""
    return RpcService("corrector", Corrector(bench).handle)


def error_std_nm(n: int, tilt_mrad: float, tilts: int) -> float:
    """Return the standard deviation of a Krivanek coefficient of order n from a tableau, nm.

    Each tilted pair of images measures defocus and astigmatism at its tilt. A coefficient C_n changes them by about
    n C_n tilt^(n-1), the second derivative of its phase; the errors of different tilts average.
    """
    return float(STD_NM / np.sqrt(tilts) / (n * (tilt_mrad * 1e-3) ** (n - 1)))


class Corrector:
    """The four methods, on a bench.

    Args:
        bench: shared with other services.
        busy_s: longest wait for the bench.
    """

    def __init__(self, bench: Bench, busy_s: float = BUSY_S) -> None:
        self._bench, self._busy_s = bench, busy_s
        self._session, self._measured = 0, 0
        self._latest_nm: dict[str, tuple[float, float]] = {}

    def handle(self, request: Request) -> dict[str, Any]:
        """Return the result of a request.

        Raises:
            RpcError: invalid call, busy, no session, out of range, or a coefficient that this corrector does not move.
        """
        call = ceos.parse_call(request)
        if isinstance(call, ceos.GetInfo):
            return self._info()
        if not self._bench.lock.acquire(timeout=self._busy_s):
            raise RpcError("the corrector is busy; nothing has moved", rpc.BUSY)
        try:
            if self._bench.sessions == 0:
                raise RpcError(str(NoSession(request.method)), rpc.NO_SESSION)
            if isinstance(call, ceos.CorrectAberration):
                return _noted(self._correct(call), call.notes)
            if isinstance(call, ceos.MeasureC1A1):
                return self._measure({"C1": STD_NM, "A1": STD_NM})
            return _noted(self._measure(_tableau_std_nm(call)), call.notes)
        finally:
            self._bench.lock.release()

    def _info(self) -> dict[str, Any]:
        names = self._bench.capabilities.space.names
        return {
            "type": "stemtwin corrector",
            "version": 1,
            "measures": list(ceos.NAMES),
            "corrects": list(dict.fromkeys(_ceos_name(name) for name in names)),
            "unit": "m",
            "value": "as measured; it is subtracted",
        }

    def _measure(self, std_nm: Mapping[str, float]) -> dict[str, Any]:
        """Return truth plus error by CEOS name; the errors depend only on the session and the measurement's number."""
        if self._session != self._bench.sessions:
            self._session, self._measured, self._latest_nm = self._bench.sessions, 0, {}
        sequence = np.random.SeedSequence(list(self._bench.entropy), spawn_key=(_STREAM, self._measured))
        rng, truth = np.random.default_rng(sequence), to_ceos(self._bench.microscope.aberrations())
        measured = {}
        for name, std in std_nm.items():
            x, y = (part + std * error for part, error in zip(truth[name], rng.normal(size=2), strict=True))
            measured[name] = (float(x), 0.0 if name in ceos.ROUND else float(y))
        told = ceos.aberrations_result(measured, std_nm)
        self._measured += 1
        self._latest_nm |= measured
        return told

    def _correct(self, call: ceos.CorrectAberration) -> dict[str, Any]:
        known = self._latest_nm if self._session == self._bench.sessions else {}
        delta_nm = self._input_nm(call.name, call.measured(known).change)
        try:
            self._bench.apply(delta_nm)
        except ValueError as error:
            raise RpcError(f"{call.name}: {error}", rpc.OUT_OF_RANGE) from None
        # A measurement describes what was there before.
        self._latest_nm.pop(call.name, None)
        return {"name": call.name, "done": True}

    def _input_nm(self, name: str, change: Aberrations) -> Array:
        """Return a change of the coefficients as an input, nm, shape (n,).

        Raises:
            RpcError: a coefficient that this corrector does not move.
        """
        space = self._bench.capabilities.space
        missing = [part for part in change.nonzero() if part not in space.names]
        if missing:
            known = ", ".join(space.names)
            raise RpcError(f"{name} needs {', '.join(missing)}; this corrector moves {known}", rpc.NOT_AVAILABLE)
        return np.array([change[part] for part in space.names])


def _noted(result: dict[str, Any], notes: tuple[str, ...]) -> dict[str, Any]:
    """Return a result with what was taken differently, if it stays short enough for every client."""
    noted = {**result, "note": "; ".join(notes)}
    return noted if notes and len(str(noted)) < ceos.SHORT_BYTES - 64 else result


def _ceos_name(name: str) -> str:
    """Return the CEOS name of the coefficient of a component."""
    return CEOS_FACTORS[int(name[1]), int(name[2])][0]


def _tableau_std_nm(call: ceos.AcquireTableau) -> dict[str, float]:
    """Return standard deviations by CEOS name, in CEOS's units, up to the order of the tableau."""
    return {
        name: factor * error_std_nm(n, call.angle_mrad, TILTS[call.tab_type])
        for (n, _), (name, factor) in CEOS_FACTORS.items()
        if n <= call.highest_order
    }
