"""What goes over the control channel of a served twin: methods, and their parameters and results as plain JSON.

Everything that a corrector and a camera have no words for: sessions from a seed, exact inputs in nm, what an exposure
cost. The page docs/remote.md lists it for other clients. Unlike on the corrector's line, inputs are nm and exact to
the bit: JSON carries the shortest text that gives the same float64 back.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.optics import Optics
from twin.options import checked_options
from twin.scan.plan import ScanPlan
from twin.state import StateSpace
from twin.types import Capabilities, Truth
from twin.wire import rpc
from twin.wire.netstring import INVALID_PARAMS, RpcError

Array = NDArray[np.floating]

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
"""For a region: where the day puts the next exposure."""
WORDED = ("pattern", "subsample")
"""Keys of a plan that are no numbers."""
WORDS = 4
"""Of 32 bits, in the entropy of a session."""
_MOST = 2**53
_LONGEST_NAME = 200


# --- sessions ------------------------------------------------------------------------------------


def parse_reset(params: Mapping[str, Any]) -> int | tuple[int, ...]:
    """What a session is to be drawn from: a seed, or the four words that a microscope draws from its generator.

    Raises:
        RpcError: both, neither, or no such thing.
    """
    given = {key: value for key, value in params.items() if value is not None}
    if len(given) != 1:
        raise RpcError("reset takes a seed or entropy, one of them", INVALID_PARAMS)
    if "seed" in given:
        return rpc.whole(given["seed"], "seed", 0, 2**64 - 1)
    words = given["entropy"]
    if not isinstance(words, list) or len(words) != WORDS:
        raise RpcError(f"entropy is a list of {WORDS} numbers, not {rpc.shown(words)}", INVALID_PARAMS)
    return tuple(rpc.whole(word, f"entropy[{k}]", 0, 2**32 - 1) for k, word in enumerate(words))


def draw_entropy(rng: np.random.Generator) -> list[int]:
    """The words that `SimulatedMicroscope.reset` would draw: a session over the wire is the one in process."""
    return [int(word) for word in rng.integers(2**32, size=WORDS)]


# --- where a session stands ----------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """Where a session stands.

    Attributes:
        session: differs between all sessions of all servers; empty before the first.
        inputs: applied in this session.
        exposures: likewise.
        cumulative_nm: sum of the inputs.
        clock_s: of the instrument.
        region: name of the specimen under the beam at the next exposure; empty before the first session.
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
        """As JSON."""
        return {**asdict(self), "cumulative_nm": list(self.cumulative_nm)}


def parse_status(result: Any) -> Status:
    """A status from the result of reset, apply or status.

    Raises:
        RpcError: none.
    """
    told = _object(result, "a status", Status)
    for name in ("session", "region"):
        if not isinstance(told[name], str) or len(told[name]) > _LONGEST_NAME:
            raise RpcError(f"status.{name} is a text; got {rpc.shown(told[name])}")
    return Status(
        told["session"],
        rpc.whole(told["inputs"], "status.inputs", 0, _MOST),
        rpc.whole(told["exposures"], "status.exposures", 0, _MOST),
        rpc.numbers(told["cumulative_nm"], "status.cumulative_nm", 0, 64),
        rpc.number(told["clock_s"], "status.clock_s"),
        told["region"],
        rpc.number(told["next_e"], "status.next_e"),
    )


@dataclass(frozen=True)
class ExposureNote:
    """What belongs to a frame and is not in the camera's own header.

    Attributes:
        number: of the exposure in its session, from 1.
        dose_e: electrons of the beam.
        exposure_s: shutter time.
        clock_s: of the instrument at the end of the exposure.
        settings: what an operator knows.
        sha256: of the counts as little-endian 16-bit numbers, row after row.
        status: where the session stands after it.
    """

    number: int
    dose_e: float
    exposure_s: float
    clock_s: float
    settings: Mapping[str, float]
    sha256: str
    status: Status

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "settings": dict(self.settings), "status": self.status.plain()}


def counts_digest(counts: NDArray[np.unsignedinteger]) -> str:
    """Return the SHA-256 of counts as little-endian 16-bit numbers, row after row."""
    return hashlib.sha256(np.ascontiguousarray(counts, dtype="<u2").tobytes()).hexdigest()


def parse_exposure(result: Any) -> ExposureNote:
    """The note of an exposure.

    Raises:
        RpcError: none.
    """
    told = _object(result, "an exposure", ExposureNote)
    settings, digest = told["settings"], told["sha256"]
    if not isinstance(settings, dict) or not isinstance(digest, str) or len(digest) > 64:
        raise RpcError("an exposure has settings, an object, and sha256, a text")
    return ExposureNote(
        rpc.whole(told["number"], "exposure.number", 1, _MOST),
        rpc.number(told["dose_e"], "exposure.dose_e"),
        rpc.number(told["exposure_s"], "exposure.exposure_s"),
        rpc.number(told["clock_s"], "exposure.clock_s"),
        {str(key)[:64]: rpc.number(value, f"settings.{str(key)[:64]}") for key, value in settings.items()},
        digest,
        parse_status(told["status"]),
    )


def parse_delta(params: Mapping[str, Any], dimension: int) -> tuple[Array, int | None]:
    """The input of apply, nm, shape (n,), and its number, if it was numbered.

    Raises:
        RpcError: none.
    """
    delta = rpc.numbers(params["delta_nm"], "delta_nm", dimension, dimension)
    which = params.get("input")
    return np.array(delta), None if which is None else rpc.whole(which, "input", 1, _MOST)


# --- where the beam goes -------------------------------------------------------------------------


@dataclass(frozen=True)
class StageMove:
    """What is asked of the stage.

    Attributes:
        film: number of the film's region that further Ronchigrams are taken on; `AUTO`: as the day has it; None: no
            change.
        position_nm: (x, y) in the specimen around which scans lie; None: no change.
    """

    film: int | Literal["auto"] | None = None
    position_nm: tuple[float, float] | None = None


def parse_stage(params: Mapping[str, Any]) -> StageMove:
    """The parameters of setStage.

    Raises:
        RpcError: neither of them, or no region or place.
    """
    region, place = params.get("region"), params.get("position_nm")
    if region is None and place is None:
        raise RpcError("setStage takes a region, a position_nm, or both", INVALID_PARAMS)
    x_y = None if place is None else rpc.numbers(place, "position_nm", 2, 2)
    position = None if x_y is None else (x_y[0], x_y[1])
    if region is None or region == AUTO:
        return StageMove(region, position)
    number = region.removeprefix("film ") if isinstance(region, str) else ""
    if not (number.isascii() and number.isdigit() and len(number) < 10) or number == region:
        raise RpcError(f"region is 'film N', as stage tells it, or {AUTO!r}, not {rpc.shown(region)}", INVALID_PARAMS)
    return StageMove(int(number), position)


def parse_plan(params: Mapping[str, Any], now: ScanPlan) -> ScanPlan:
    """The plan of setScanPlan: `now`, with what is given in its place.

    Raises:
        OptionError: an unknown key (names the nearest), or a plan that cannot be.
        RpcError: not an object, or not numbers.
    """
    given = params["plan"]
    if not isinstance(given, dict):
        raise RpcError(f"plan is an object, not {rpc.shown(given)}", INVALID_PARAMS)
    for name, value in given.items():
        # A text that reads like a number would be taken for one, and so would true.
        if isinstance(value, bool) or (isinstance(value, str) and name not in WORDED):
            raise RpcError(f"plan.{name[:40]} is a number, not {rpc.shown(value)}", INVALID_PARAMS)
    return checked_options(ScanPlan, {**asdict(now), **given})


# --- the truth -----------------------------------------------------------------------------------


def truth_plain(truth: Truth) -> dict[str, Any]:
    """The hidden state as JSON."""
    return {"state_nm": truth.state_nm.tolist(), "initial_nm": truth.initial_nm.tolist()}


def parse_truth(result: Any, dimension: int) -> Truth:
    """The hidden state.

    Raises:
        RpcError: none.
    """
    told = _object(result, "a truth", Truth)
    state, initial = (np.array(rpc.numbers(told[k], k, dimension, dimension)) for k in ("state_nm", "initial_nm"))
    return Truth(state, initial)


# --- what an instrument is -----------------------------------------------------------------------


def capabilities_plain(capabilities: Capabilities) -> dict[str, Any]:
    """As JSON."""
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
    """What an instrument can do.

    Raises:
        RpcError: it does not say, or says what cannot be.
    """
    told = _object(result, "capabilities", Capabilities)
    shape = rpc.numbers(told["camera_shape"], "camera_shape", 2, 2)
    try:
        optics = Optics(**told["optics"])
        space = StateSpace(**{key: tuple(value) for key, value in told["space"].items()})
        height, width = (int(side) for side in shape)
        return Capabilities(
            str(told["name"])[:200],
            optics,
            space,
            (height, width),
            rpc.whole(told["max_count"], "max_count", 1, 65535),
            told["can_scan"] is True,
        )
    except (TypeError, AttributeError, ValueError) as error:
        raise RpcError(f"these capabilities are no instrument's: {error}") from None


def ports_of(info: Any) -> dict[str, int]:
    """Where the other services of the same twin are, by name, from the result of getInfo.

    Raises:
        RpcError: not a control channel of this version.
    """
    if not isinstance(info, dict) or info.get("service") != "stemtwin control":
        raise RpcError(f"no control channel of a twin answers there: {rpc.shown(info)}")
    if info.get("version") != VERSION:
        raise RpcError(
            f"version {VERSION} of the control channel is spoken here, {rpc.shown(info.get('version'))} there"
        )
    ports = info.get("ports", {})
    if not isinstance(ports, dict):
        raise RpcError("ports are an object")
    return {str(name): rpc.whole(port, f"ports.{str(name)[:40]}", 1, 65535) for name, port in ports.items()}


def _object(result: Any, what: str, kind: type) -> dict[str, Any]:
    names = [f.name for f in fields(kind)]
    missing = [name for name in names if not isinstance(result, dict) or name not in result]
    if missing:
        raise RpcError(f"{what} has {', '.join(names)}; {', '.join(missing)} is missing in {rpc.shown(result)}")
    return dict(result)
