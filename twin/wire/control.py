"""Methods of the control channel of a served twin: parameters and results as plain JSON (docs/remote.md).

It covers what the protocols of corrector and camera do not: sessions from a seed, exact inputs, doses. Unlike the
corrector's, inputs are in nm and exact to the bit: JSON has the shortest text that gives the same float64.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.optics import Optics
from twin.options import checked_options
from twin.scan.plan import ScanPlan
from twin.state import StateSpace
from twin.types import Capabilities, Truth
from twin.wire import rpc
from twin.wire.netstring import INVALID_PARAMS, RpcError, shown

CONTROL_PORT = 7073
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
_MOST = 2**53
_LONGEST_NAME = 200


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


@dataclass(frozen=True)
class Status:
    """State of a session.

    Attributes:
        session: unique among all sessions of all servers; empty before the first.
        inputs, exposures: their numbers in this session.
        cumulative_nm: sum of the inputs.
        clock_s: of the instrument.
        region: specimen region of the next exposure; empty before the first session.
        next_e: electrons of the next exposure.
    """

    session: str
    inputs: int
    exposures: int
    cumulative_nm: tuple[float, ...]
    clock_s: float
    region: str = ""
    next_e: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "cumulative_nm": list(self.cumulative_nm)}


def parse_status(result: Any) -> Status:
    """Parse a status from the result of reset, apply or status.

    Raises:
        RpcError: not a status.
    """
    values = _object(result, "a status", Status)
    for name in ("session", "region"):
        if not isinstance(values[name], str) or len(values[name]) > _LONGEST_NAME:
            raise RpcError(f"status.{name} is a text; got {shown(values[name])}")
    return Status(
        values["session"],
        rpc.whole(values["inputs"], "status.inputs", 0, _MOST),
        rpc.whole(values["exposures"], "status.exposures", 0, _MOST),
        rpc.numbers(values["cumulative_nm"], "status.cumulative_nm", 0, 64),
        rpc.number(values["clock_s"], "status.clock_s"),
        values["region"],
        rpc.number(values["next_e"], "status.next_e"),
    )


@dataclass(frozen=True)
class ExposureNote:
    """Data of a frame that the camera's header does not hold.

    Attributes:
        number: of the exposure in its session, from 1.
        dose_e: electrons of the beam.
        exposure_s: shutter time.
        clock_s: of the instrument at the end of the exposure.
        settings: known settings.
        sha256: `counts_digest` of the frame.
        status: of the session after the exposure.
    """

    number: int
    dose_e: float
    exposure_s: float
    clock_s: float
    settings: Mapping[str, float]
    sha256: str
    status: Status

    def plain(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "settings": dict(self.settings), "status": self.status.plain()}


def counts_digest(counts: NDArray[np.unsignedinteger]) -> str:
    """Return the SHA-256 of counts as little-endian 16-bit numbers, row after row."""
    return hashlib.sha256(np.ascontiguousarray(counts, dtype="<u2").tobytes()).hexdigest()


def parse_exposure(result: Any) -> ExposureNote:
    """Parse the note of an exposure.

    Raises:
        RpcError: not such a note.
    """
    values = _object(result, "an exposure", ExposureNote)
    settings, digest = values["settings"], values["sha256"]
    if not isinstance(settings, dict) or not isinstance(digest, str) or len(digest) > 64:
        raise RpcError("an exposure has settings, an object, and sha256, a text")
    return ExposureNote(
        rpc.whole(values["number"], "exposure.number", 1, _MOST),
        rpc.number(values["dose_e"], "exposure.dose_e"),
        rpc.number(values["exposure_s"], "exposure.exposure_s"),
        rpc.number(values["clock_s"], "exposure.clock_s"),
        {str(key)[:64]: rpc.number(value, f"settings.{str(key)[:64]}") for key, value in settings.items()},
        digest,
        parse_status(values["status"]),
    )


def parse_delta(params: Mapping[str, Any], dimension: int) -> tuple[Array, int | None]:
    """Parse the input of apply, nm, shape (n,), and its number; None without one.

    Raises:
        RpcError: not an input.
    """
    delta = rpc.numbers(params["delta_nm"], "delta_nm", dimension, dimension)
    number = params.get("input")
    return np.array(delta), None if number is None else rpc.whole(number, "input", 1, _MOST)


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


# --- the truth -----------------------------------------------------------------------------------


def truth_plain(truth: Truth) -> dict[str, Any]:
    """Return the hidden state as plain JSON data."""
    return {"state_nm": truth.state_nm.tolist(), "initial_nm": truth.initial_nm.tolist()}


def parse_truth(result: Any, dimension: int) -> Truth:
    """Parse the hidden state.

    Raises:
        RpcError: not a truth.
    """
    values = _object(result, "a truth", Truth)
    state, initial = (np.array(rpc.numbers(values[k], k, dimension, dimension)) for k in ("state_nm", "initial_nm"))
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
    values = _object(result, "capabilities", Capabilities)
    shape = rpc.numbers(values["camera_shape"], "camera_shape", 2, 2)
    try:
        optics = Optics(**values["optics"])
        space = StateSpace(**{key: tuple(value) for key, value in values["space"].items()})
        height, width = (int(side) for side in shape)
        return Capabilities(
            str(values["name"])[:_LONGEST_NAME],
            optics,
            space,
            (height, width),
            rpc.whole(values["max_count"], "max_count", 1, 65535),
            values["can_scan"] is True,
        )
    except (TypeError, AttributeError, ValueError) as error:
        raise RpcError(f"invalid capabilities: {error}") from None


def ports_of(info: Any) -> dict[str, int]:
    """Return the ports of the other services of the same twin by name, from the result of getInfo.

    Raises:
        RpcError: not a control channel of this version.
    """
    if not isinstance(info, dict) or info.get("service") != "stemtwin control":
        raise RpcError(f"not the control channel of a twin: {shown(info)}")
    if info.get("version") != VERSION:
        raise RpcError(f"the control channel has version {shown(info.get('version'))}, this client {VERSION}")
    ports = info.get("ports", {})
    if not isinstance(ports, dict):
        raise RpcError("ports are an object")
    return {str(name): rpc.whole(port, f"ports.{str(name)[:40]}", 1, 65535) for name, port in ports.items()}


def _object(result: Any, what: str, kind: type) -> dict[str, Any]:
    names = [f.name for f in fields(kind)]
    missing = [name for name in names if not isinstance(result, dict) or name not in result]
    if missing:
        raise RpcError(f"{what} has {', '.join(names)}; {', '.join(missing)} is missing in {shown(result)}")
    return dict(result)
