"""Methods of a CEOS-style aberration corrector: parameters and results as plain JSON.

Lengths are metres on the wire and nm in this package; names and factors are those of `twin.aberrations`. The meaning of
`correctAberration` is not public. Here `value` is the measured aberration, which the corrector replaces by `target`
(zero by default): the coefficient changes by target - value.

Public clients (BEACON, asyncroscopy) send one number for a round aberration or two for every one, `value` or none, the
name of a tableau in any case, and tools of the column that a simulated one does not have. All of it is taken; what is
taken differently than it may be meant is in `notes`, and a server repeats it in its answer. Results hold pairs, so that
a measured value can be sent back unchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from twin.aberrations import CEOS_FACTORS, Aberrations, from_ceos
from twin.wire import rpc
from twin.wire.netstring import INVALID_PARAMS, Request, RpcError

NAMES = tuple(name for name, _ in CEOS_FACTORS.values())
ORDERS = {name: n for (n, _), (name, _) in CEOS_FACTORS.items()}
"""Order n by name."""
ROUND = tuple(name for (_, m), (name, _) in CEOS_FACTORS.items() if m == 0)
"""Aberrations with one component."""
METHODS = {
    "getInfo": (),
    "measureC1A1": (),
    "acquireTableau": ("tabType", "angle?", "maxFit?"),
    "correctAberration": ("name", "value?", "target?", "select?"),
}
HIGHEST_ORDER: Mapping[str, int] = {"Fast": 2, "Standard": 3, "Enhanced": 5}
"""Highest order n that each kind of tableau measures."""
DEFAULT_MRAD: Mapping[str, float] = {"Fast": 9.0, "Standard": 18.0, "Enhanced": 34.0}
"""Tilt of each kind of tableau when a client gives none, or zero."""
SELECT = ("coarse", "fine", "condenser", "projector", "objective")
"""Tools by which CEOS correctors change an aberration; a simulated one has a single one."""
BEAM = ("We", "WD")
"""Image shift and beam tilt: CEOS names that are no aberrations of the probe."""
ANGLE_MRAD = (1.0, 100.0)
"""Range of the tilt of a tableau."""
LARGEST_M = 1.0
SHORT_BYTES = 1024
"""Longest answer that one public client reads."""
_NM = 1e-9

Pairs = Mapping[str, tuple[float, float]]
"""Coefficients by CEOS name: x and y; y is zero for round ones."""


@dataclass(frozen=True)
class GetInfo:
    """Identify the corrector."""


@dataclass(frozen=True)
class MeasureC1A1:
    """Measure defocus and two-fold astigmatism."""


@dataclass(frozen=True)
class AcquireTableau:
    """Measure up to the order of a kind of tableau.

    Attributes:
        tab_type: kind of tableau.
        angle_mrad: largest tilt.
        max_fit: measure up to the order of this aberration; None: as far as the tableau reaches.
        notes: what is taken differently than it may be meant.
    """

    tab_type: str
    angle_mrad: float
    max_fit: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def highest_order(self) -> int:
        """Highest order n that is measured."""
        reach = HIGHEST_ORDER[self.tab_type]
        return reach if self.max_fit is None else min(reach, ORDERS[self.max_fit])


@dataclass(frozen=True)
class CorrectAberration:
    """Correct an aberration.

    Attributes:
        name: CEOS name.
        value_nm: measured, (x, y); None: the corrector's own latest measurement.
        target_nm: after the correction, (x, y).
        select: one of `SELECT`.
        notes: what is taken differently than it may be meant.
    """

    name: str
    value_nm: tuple[float, float] | None
    target_nm: tuple[float, float] = (0.0, 0.0)
    select: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def change(self) -> Aberrations:
        """Change of the coefficients: target - value.

        Raises:
            RpcError: no value: `measured` fills it in.
        """
        if self.value_nm is None:
            raise RpcError(f"no value for aberration {self.name} available: measure it first", rpc.NOT_AVAILABLE)
        x, y = (target - value for target, value in zip(self.target_nm, self.value_nm, strict=True))
        return from_ceos({self.name: (x, y)})

    def measured(self, latest_nm: "Pairs") -> "CorrectAberration":
        """Return the call with the corrector's own latest measurement, if it has no value."""
        return self if self.value_nm is not None else replace(self, value_nm=latest_nm.get(self.name))


Call = GetInfo | MeasureC1A1 | AcquireTableau | CorrectAberration


def parse_call(request: Request) -> Call:
    """Parse a call of one of the four methods.

    Raises:
        RpcError: unknown method, parameter or aberration (names the nearest), or an invalid value.
    """
    rpc.check_call(request, METHODS)
    given = request.params
    if request.method == "getInfo":
        return GetInfo()
    if request.method == "measureC1A1":
        return MeasureC1A1()
    return _tableau(given) if request.method == "acquireTableau" else _correction(given)


def _tableau(given: Mapping[str, Any]) -> AcquireTableau:
    asked = given["tabType"]
    by_lower = {kind.lower(): kind for kind in HIGHEST_ORDER}
    known = by_lower.get(asked.lower(), asked) if isinstance(asked, str) else asked
    kind = rpc.choice(known, "tabType", tuple(HIGHEST_ORDER))
    angle = 0.0 if given.get("angle") is None else rpc.number(given["angle"], "angle")
    max_fit = None if given.get("maxFit") in (None, "") else known_name(given["maxFit"])
    notes: tuple[str, ...] = ()
    if angle == 0.0:
        angle = DEFAULT_MRAD[kind]
        notes = (f"angle is {angle:g} mrad, as none was given",)
    if not ANGLE_MRAD[0] <= angle <= ANGLE_MRAD[1]:
        raise RpcError(f"angle lies in {ANGLE_MRAD[0]:g} to {ANGLE_MRAD[1]:g} mrad, got {angle:g}", rpc.OUT_OF_RANGE)
    return AcquireTableau(kind, angle, max_fit, notes)


def _correction(given: Mapping[str, Any]) -> CorrectAberration:
    name = known_name(given["name"])
    select = None if given.get("select") in (None, "") else rpc.choice(given["select"], "select", SELECT)
    notes = () if select is None else (f"select {select} makes no difference here",)
    value, target = given.get("value"), given.get("target")
    value_nm = None if value is None else _pair(value, "value", name)
    if value_nm is None:
        notes = ("value is the latest measurement, as none was given", *notes)
    target_nm = _pair([0.0] if target is None else target, "target", name)
    return CorrectAberration(name, value_nm, target_nm, select, notes)


def known_name(name: Any) -> str:
    """Return a CEOS name.

    Raises:
        RpcError: unknown; names the nearest.
    """
    if name in BEAM:
        raise RpcError(f"{name} is image shift or beam tilt, which no corrector here moves", rpc.NOT_AVAILABLE)
    return rpc.choice(name, "the aberration", NAMES)


def _pair(value: Any, label: str, name: str) -> tuple[float, float]:
    """Return (x, y) in nm from one or two numbers in metres."""
    is_round = name in ROUND
    parts = rpc.numbers(value, f"{label} of {name}", 1 if is_round or label == "target" or value == [0] else 2, 2)
    x, y = parts if len(parts) == 2 else (parts[0], 0.0)
    if is_round and y != 0.0:
        raise RpcError(f"{name} is round: its {label} has one component, or a second of 0", INVALID_PARAMS)
    if len(parts) == 1 and not is_round and x != 0.0:
        raise RpcError(f"{label} of {name} has two components", INVALID_PARAMS)
    if max(abs(x), abs(y)) > LARGEST_M:
        raise RpcError(f"{label} of {name} is in metres; got {x:g}, {y:g}", rpc.OUT_OF_RANGE)
    return x / _NM, y / _NM


# --- the client's side ---------------------------------------------------------------------------


def correction(name: str, change_nm: tuple[float, float], value_is: Literal["error", "offset"] = "error") -> Request:
    """Return the call that changes a coefficient.

    Args:
        name: CEOS name.
        change_nm: to be added, (x, y).
        value_is: "error" for a corrector that subtracts `value`, as here; "offset" for one that adds it.
    """
    sign = -1.0 if value_is == "error" else 1.0
    x, y = (sign * part * _NM for part in change_nm)
    # + 0.0: no minus zero in a log or on the wire.
    return Request("correctAberration", {"name": known_name(name), "value": [x + 0.0, y + 0.0]})


def aberrations_result(measured_nm: Pairs, std_nm: Mapping[str, float]) -> dict[str, Any]:
    """Return the result of a measurement, with seven digits, so that the longest fits into `SHORT_BYTES`."""
    return {
        "aberrations": {name: [_short(x), _short(y)] for name, (x, y) in measured_nm.items()},
        "std": {name: _short(std_nm[name], 3) for name in measured_nm},
    }


def _short(value_nm: float, digits: int = 7) -> float:
    return float(f"{value_nm * _NM:.{digits}g}") + 0.0
