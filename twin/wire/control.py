"""Methods of the control channel of a served twin: parameters and results as plain JSON (docs/remote.md).

It covers what the protocols of corrector and camera do not: sessions from a seed, exact inputs, doses. The models of
its answers are in `schema.py`. Unlike the corrector's, inputs are in nm and exact to the bit: JSON has the shortest
text that gives the same float64.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.errors import printable
from twin.optics import Optics
from twin.options import checked_options
from twin.scan.plan import ScanPlan
from twin.state import StateSpace
from twin.types import Capabilities, Truth
from twin.wire import rpc, schema
from twin.wire.netstring import INVALID_PARAMS, RpcError, shown
from twin.wire.schema import ExposureNote as ExposureNote
from twin.wire.schema import Status as Status

CONTROL_PORT = 7073
SERVICE = "stemtwin control"
VERSION = 1
METHODS = {
    "getInfo": (),
    "capabilities": (),
    "reset": ("seed?", "entropy?"),
    "apply": ("delta_nm", "input?", "session?"),
    "status": (),
    "exposure": (),
    "stage": (),
    "setStage": ("region?", "position_nm?"),
    "dose": (),
    "clock": (),
    "scanPlan": (),
    "setScanPlan": ("plan",),
    "truth": (),
}
AUTO: Literal["auto"] = "auto"
"""Region chosen by the simulated day."""
WORDED = ("pattern", "subsample")
"""Keys of a plan with text values."""
WORDS = 4
"""Number of 32-bit words in the entropy of a session."""


# --- sessions ------------------------------------------------------------------------------------


def parse_reset(params: Mapping[str, Any]) -> int | tuple[int, ...]:
    """Return the origin of a session: a seed, or the four words that a microscope draws from its generator.

    Raises:
        RpcError: both, neither, or an invalid value.
    """
    given = {key: value for key, value in params.items() if value is not None}
    if len(given) != 1:
        raise RpcError("reset takes a seed or entropy, one of them", INVALID_PARAMS)
    if "seed" in given:
        return rpc.whole(given["seed"], "seed", 0, 2**64 - 1)
    words = given["entropy"]
    if not isinstance(words, list) or len(words) != WORDS:
        raise RpcError(f"entropy is a list of {WORDS} numbers, not {shown(words)}", INVALID_PARAMS)
    return tuple(rpc.whole(word, f"entropy[{k}]", 0, 2**32 - 1) for k, word in enumerate(words))


def draw_entropy(rng: np.random.Generator) -> list[int]:
    """Draw the words that `SimulatedMicroscope.reset` draws, so that a session over the wire equals one in process."""
    return [int(word) for word in rng.integers(2**32, size=WORDS)]


# --- state of a session --------------------------------------------------------------------------


def parse_status(result: Any) -> Status:
    """Parse a status from the result of reset, apply or status.

    Raises:
        RpcError: not a status; names the field, its value and the expectation.
    """
    return schema.parse(Status, result, "status")


def counts_digest(counts: NDArray[np.unsignedinteger]) -> str:
    """Return the SHA-256 of counts as little-endian 16-bit numbers, row after row."""
    return hashlib.sha256(np.ascontiguousarray(counts, dtype="<u2").tobytes()).hexdigest()


def parse_exposure(result: Any) -> ExposureNote:
    """Parse the note of an exposure.

    Raises:
        RpcError: not such a note, or one that contradicts itself.
    """
    return schema.check_coherent(schema.parse(ExposureNote, result, "exposure"))


def parse_delta(params: Mapping[str, Any], dimension: int) -> tuple[Array, int | None]:
    """Parse the input of apply, nm, shape (n,), and its number; None without one.

    Raises:
        RpcError: not an input.
    """
    delta = rpc.numbers(params["delta_nm"], "delta_nm", dimension, dimension)
    number = params.get("input")
    return np.array(delta), None if number is None else rpc.whole(number, "input", 1, schema.MOST_NUMBER)


# --- stage and scan ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageMove:
    """A command to the stage.

    Attributes:
        film: number of the film region for further Ronchigrams; `AUTO`: chosen by the day; None: no change.
        position_nm: (x, y) in the specimen, the centre of scans; None: no change.
    """

    film: int | Literal["auto"] | None = None
    position_nm: tuple[float, float] | None = None


def parse_stage(params: Mapping[str, Any]) -> StageMove:
    """Parse the parameters of setStage.

    Raises:
        RpcError: neither of them, or an invalid one.
    """
    region, position_nm = params.get("region"), params.get("position_nm")
    if region is None and position_nm is None:
        raise RpcError("setStage takes a region, a position_nm, or both", INVALID_PARAMS)
    x_y = None if position_nm is None else rpc.numbers(position_nm, "position_nm", 2, 2)
    position = None if x_y is None else (x_y[0], x_y[1])
    if region is None or region == AUTO:
        return StageMove(region, position)
    number = region.removeprefix("film ") if isinstance(region, str) else ""
    if not (number.isascii() and number.isdigit() and len(number) < 10) or number == region:
        raise RpcError(f"region is 'film N' or {AUTO!r}, not {shown(region)}", INVALID_PARAMS)
    return StageMove(int(number), position)


def parse_plan(params: Mapping[str, Any], now: ScanPlan) -> ScanPlan:
    """Parse the plan of setScanPlan: `now`, with the given values replaced.

    Raises:
        OptionError: an unknown key (names the nearest), or an invalid plan.
        RpcError: not an object, or not numbers.
    """
    given = params["plan"]
    if not isinstance(given, dict):
        raise RpcError(f"plan is an object, not {shown(given)}", INVALID_PARAMS)
    for name, value in given.items():
        # Pydantic would accept "1" and true as numbers.
        if isinstance(value, bool) or (isinstance(value, str) and name not in WORDED):
            raise RpcError(f"plan.{name[:40]} is a number, not {shown(value)}", INVALID_PARAMS)
    return checked_options(ScanPlan, {**asdict(now), **given})


def plan_digest(plan: ScanPlan) -> str:
    """Return the SHA-256 by which two programs agree on the plan of a scan.

    Example:
        >>> plan_digest(ScanPlan(rows=3)) == plan_digest(ScanPlan(rows=3)) != plan_digest(ScanPlan(rows=4))
        True
    """
    return hashlib.sha256(json.dumps(asdict(plan), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_scan_plan(result: Any) -> ScanPlan:
    """Parse the plan of the next scan from the result of scanPlan or setScanPlan.

    Raises:
        RpcError: not a plan, or one that its own digest or count contradicts.
    """
    told = schema.parse(schema.PlanTold, result, "scanPlan")
    try:
        plan = parse_plan({"plan": told.plan}, ScanPlan())
    except ValueError as error:
        raise RpcError(f"scanPlan.plan: {printable(error)}") from None
    if plan.count != told.positions:
        raise RpcError(f"scanPlan tells {told.positions} positions; its plan has {plan.count}")
    if told.digest is not None and told.digest != plan_digest(plan):
        raise RpcError(f"scanPlan tells the digest {told.digest[:12]}...; its plan has {plan_digest(plan)[:12]}...")
    return plan


# --- the truth -----------------------------------------------------------------------------------


def truth_plain(truth: Truth) -> dict[str, Any]:
    """Return the hidden state as plain JSON data."""
    return {"state_nm": truth.state_nm.tolist(), "initial_nm": truth.initial_nm.tolist()}


def parse_truth(result: Any, dimension: int) -> Truth:
    """Parse the hidden state.

    Raises:
        RpcError: not a truth of that many coefficients.
    """
    told = schema.parse(schema.TruthTold, result, "truth")
    state, initial = np.array(told.state_nm), np.array(told.initial_nm)
    if state.shape != (dimension,) or initial.shape != (dimension,):
        raise RpcError(f"a truth has {dimension} coefficients, not {len(state)} and {len(initial)}")
    return Truth(state, initial)


# --- the instrument ------------------------------------------------------------------------------


def capabilities_plain(capabilities: Capabilities) -> dict[str, Any]:
    """Return capabilities as plain JSON data."""
    space = capabilities.space
    return {
        "name": capabilities.name,
        "optics": asdict(capabilities.optics),
        "space": {f.name: list(getattr(space, f.name)) for f in fields(space) if f.init},
        "camera_shape": list(capabilities.camera_shape),
        "max_count": capabilities.max_count,
        "can_scan": capabilities.can_scan,
    }


def parse_capabilities(result: Any) -> Capabilities:
    """Parse capabilities.

    Raises:
        RpcError: missing or invalid values.
    """
    told = schema.parse(schema.CapabilitiesTold, result, "capabilities")
    try:
        optics, space = Optics(**asdict(told.optics)), StateSpace(**asdict(told.space))
    except ValueError as error:
        raise RpcError(f"invalid capabilities: {printable(error)}") from None
    return Capabilities(told.name, optics, space, told.camera_shape, told.max_count, told.can_scan)


def ports_of(info: Any) -> dict[str, int]:
    """Return the ports of the other services of the same twin by name, from the result of getInfo.

    Raises:
        RpcError: not a control channel of this version.
    """
    if not isinstance(info, dict) or info.get("service") != SERVICE:
        raise RpcError(f"not the control channel of a twin: {shown(info)}")
    if info.get("version") != VERSION:
        raise RpcError(f"the control channel has version {shown(info.get('version'))}, this client {VERSION}")
    return dict(schema.parse(schema.Greeting, info, "getInfo").ports or {})
