"""The one schema of what a far twin tells: models with ranges, signs, known keys and sizes. Both sides use them.

A server that fills in a model cannot send what a client refuses. Optional fields may be absent, for servers that do
not have them; a value that is there is never ignored. Requests are in `control.py`, text in `twin.errors.printable`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import AfterValidator, ConfigDict, Strict, ValidationError
from pydantic.dataclasses import dataclass

from twin.errors import nearest, printable
from twin.options import located_problem
from twin.wire.netstring import INVALID_PARAMS, RpcError, shown

LONGEST_NAME = 200
MOST_COEFFICIENTS = 64
MOST_NUMBER = 2**53
"""Largest whole number that every JSON reader keeps exactly."""
LARGEST_NM = 1e9
"""Largest coefficient: one metre, as in `ceos.LARGEST_M`."""
LONGEST_CLOCK_S = 1e9
LONGEST_EXPOSURE_S = 1e5
LARGEST_DOSE_E = 1e15
LARGEST_COUNT = 65535
LARGEST_SIDE = 16384
"""Pixels along one side of a camera."""

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


def _name(text: str) -> str:
    if not text.isprintable() or len(text) > LONGEST_NAME:
        raise ValueError(f"a name has at most {LONGEST_NAME} printable characters, got {shown(text)}")
    return text


def _digest(text: str) -> str:
    if text and (len(text) != 64 or not set(text) <= set("0123456789abcdef")):
        raise ValueError(f"a SHA-256 has 64 digits of 0 to f, got {shown(text)}")
    return text


Name = Annotated[str, Strict(), AfterValidator(_name)]
"""A text that identifies something: too long or with control characters, it is refused."""
Words = Annotated[str, Strict(), AfterValidator(printable)]
"""A text for people: cleaned and cut."""
Digest = Annotated[str, Strict(), AfterValidator(_digest)]
"""A SHA-256 in hexadecimal, or empty: unknown."""
Number = Annotated[int, Strict(), Ge(0), Le(MOST_NUMBER)]
Nm = Annotated[float, Strict(), Ge(-LARGEST_NM), Le(LARGEST_NM)]
Position = Annotated[tuple[Nm, ...], MinLen(1), MaxLen(MOST_COEFFICIENTS)]
"""A value for every calibrated coefficient, nm."""
Clock = Annotated[float, Strict(), Ge(0), Le(LONGEST_CLOCK_S)]
Exposure = Annotated[float, Strict(), Gt(0), Le(LONGEST_EXPOSURE_S)]
Dose = Annotated[float, Strict(), Gt(0), Le(LARGEST_DOSE_E)]
NextDose = Annotated[float, Strict(), Ge(0), Le(LARGEST_DOSE_E)]

SETTINGS: Mapping[str, tuple[float, float]] = {"dark_level": (0.0, LARGEST_COUNT)}
"""Known settings of a frame, and their ranges. A new setting of `Frame.settings` needs a line here."""
MOST_SETTINGS = 64


def _settings(values: Mapping[str, float]) -> Mapping[str, float]:
    for key, value in values.items():
        if key not in SETTINGS:
            known = f"{nearest(key[:40], SETTINGS)}; known: {', '.join(SETTINGS)}"
            raise ValueError(f"{shown(key)} is not a setting of a frame{known}")
        low, high = SETTINGS[key]
        if not low <= value <= high:
            raise ValueError(f"{key} lies in {low:g} to {high:g}, got {value:g}")
    return values


Settings = Annotated[Mapping[str, Annotated[float, Strict()]], MaxLen(MOST_SETTINGS), AfterValidator(_settings)]


@dataclass(frozen=True, config=_CONFIG)
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

    session: Name
    inputs: Number
    exposures: Number
    cumulative_nm: Position
    clock_s: Clock
    region: Name = ""
    next_e: NextDose = 0.0

    def plain(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return plain(self)


@dataclass(frozen=True, config=_CONFIG)
class ExposureNote:
    """Data of a frame that the camera's header does not hold.

    `session`, `inputs`, `cumulative_nm` and `plan` describe the microscope during the exposure, `status` the moment of
    the answer. None: the server does not tell.

    Attributes:
        number: of the exposure in its session, from 1.
        dose_e: electrons of the beam.
        exposure_s: shutter time.
        clock_s: of the instrument at the end of the exposure.
        settings: known settings, see `SETTINGS`.
        sha256: `control.counts_digest` of the frame.
        status: of the session after the exposure.
        session: in which the frame was exposed.
        inputs: number of inputs before the exposure.
        cumulative_nm: sum of the inputs before the exposure.
        plan: `control.plan_digest` of the scan that the frame belongs to; None for a single exposure.
    """

    number: Annotated[int, Strict(), Ge(1), Le(MOST_NUMBER)]
    dose_e: Dose
    exposure_s: Exposure
    clock_s: Clock
    settings: Settings
    sha256: Digest
    status: Status
    session: Name | None = None
    inputs: Number | None = None
    cumulative_nm: Position | None = None
    plan: Digest | None = None

    def plain(self) -> dict[str, Any]:
        """Return plain JSON data, without what is not told."""
        return {key: value for key, value in plain(self).items() if value is not None}


def check_coherent(note: ExposureNote) -> ExposureNote:
    """Return the note of an exposure; refuse one that contradicts itself.

    Raises:
        RpcError: with both values.
    """
    now = note.status
    for wrong, problem in (
        (note.session not in (None, now.session), f"is of session {note.session!r}, its status of {now.session!r}"),
        (note.number > now.exposures, f"has the number {note.number}; the session has {now.exposures}"),
        (note.clock_s > now.clock_s, f"ends at {note.clock_s:g} s, after the clock's {now.clock_s:g} s"),
        (note.exposure_s > note.clock_s * (1 + 1e-9), f"of {note.exposure_s:g} s ends at {note.clock_s:g} s"),
        ((note.inputs or 0) > now.inputs, f"follows {note.inputs} inputs; the session has {now.inputs}"),
        (
            note.cumulative_nm is not None and len(note.cumulative_nm) != len(now.cumulative_nm),
            f"has {len(note.cumulative_nm or ())} coefficients, its status {len(now.cumulative_nm)}",
        ),
    ):
        if wrong:
            raise RpcError(f"the exposure {problem}", INVALID_PARAMS)
    return note


@dataclass(frozen=True, config=_CONFIG)
class OpticsTold:
    """`twin.optics.Optics` as told; its own checks follow."""

    energy_kev: Annotated[float, Strict(), Ge(1), Le(3000)]
    convergence_mrad: Annotated[float, Strict(), Gt(0), Le(1000)]
    grid: Annotated[int, Strict(), Ge(1), Le(LARGEST_SIDE)]
    sampling_nm: Annotated[float, Strict(), Gt(0), Le(1)]
    camera_pixels: Annotated[int, Strict(), Ge(1), Le(LARGEST_SIDE)]
    binning: Annotated[int, Strict(), Ge(1), Le(LARGEST_SIDE)]


Names = Annotated[tuple[Name, ...], MinLen(1), MaxLen(MOST_COEFFICIENTS)]


@dataclass(frozen=True, config=_CONFIG)
class SpaceTold:
    """`twin.state.StateSpace` as told; its own checks follow."""

    names: Names
    start_nm: Position
    input_nm: Position
    tolerance_nm: Position


Side = Annotated[int, Strict(), Ge(1), Le(LARGEST_SIDE)]
ScanSide = Annotated[int, Strict(), Ge(1), Le(2**20)]
"""Positions along one axis of a scan, as in `twin.scan.plan`."""


@dataclass(frozen=True, config=_CONFIG)
class CapabilitiesTold:
    """`twin.types.Capabilities` as told.

    Attributes:
        name: for people.
        optics, space: of the microscope.
        camera_shape: (H, W).
        max_count: largest count of a pixel.
        can_scan: it is set up for scans.
    """

    name: Words
    optics: OpticsTold
    space: SpaceTold
    camera_shape: tuple[Side, Side]
    max_count: Annotated[int, Strict(), Ge(1), Le(LARGEST_COUNT)]
    can_scan: Annotated[bool, Strict()]


@dataclass(frozen=True, config=_CONFIG)
class PlanTold:
    """The plan of the next scan, as told.

    Attributes:
        plan: keys and values of a `twin.scan.plan.ScanPlan`; its own checks follow.
        positions: of the whole scan.
        duration_s: from its start to the end of its last dwell.
        optics: of the scan.
        events: the camera sends events instead of frames.
        digest: `control.plan_digest`; None: the server does not tell.
    """

    plan: dict[Name, Any]
    positions: Annotated[int, Strict(), Ge(1), Le(2**40)]
    duration_s: Clock
    optics: OpticsTold
    events: Annotated[bool, Strict()] = False
    digest: Digest | None = None


@dataclass(frozen=True, config=_CONFIG)
class FrameHeaderTold:
    """What a live Merlin frame tells beside the layout of its pixels, which `twin.formats.merlin_header` checks.

    Attributes:
        number: of the frame.
        shutter_s: exposure; 0: not told.
        assembly, time: texts of the header.
    """

    number: Number
    shutter_s: Annotated[float, Strict(), Ge(0), Le(LONGEST_EXPOSURE_S)]
    assembly: Annotated[Name, MaxLen(16)]
    time: Annotated[Name, MaxLen(64)]


@dataclass(frozen=True, config=_CONFIG)
class AcquisitionTold:
    """What the text header of a live Merlin acquisition tells.

    Attributes:
        frames: 0: until stopped.
        frames_per_trigger: usually those of a scan row.
        scan: (rows, columns); None: not told.
        depth: of the counter, bits; None: not told.
    """

    frames: Annotated[int, Strict(), Ge(0), Le(2**31)]
    frames_per_trigger: Annotated[int, Strict(), Ge(0), Le(2**31)]
    scan: tuple[ScanSide, ScanSide] | None
    depth: Literal[1, 6, 12, 24, None]


@dataclass(frozen=True, config=_CONFIG)
class TruthTold:
    """The hidden state, as told."""

    state_nm: Position
    initial_nm: Position


Port = Annotated[int, Strict(), Ge(1), Le(65535)]


@dataclass(frozen=True, config=_CONFIG | ConfigDict(extra="ignore"))
class Greeting:
    """The result of getInfo, as far as a client needs it.

    Attributes:
        service, version: of the control channel.
        session: that is running; empty before the first.
        ports: of the other services of the same twin, by name.
    """

    service: Name
    version: Number
    session: Name = ""
    ports: Annotated[dict[Name, Port], MaxLen(64)] | None = None


Model = TypeVar("Model")


def parse(kind: type[Model], result: Any, what: str) -> Model:
    """Return a model from plain JSON data.

    Args:
        kind: one of the models of this module.
        result: what was told.
        what: opens the names of fields in a message: "status" for `status.inputs`.

    Raises:
        RpcError: one sentence: the field, its value and the expectation.

    Example:
        >>> told = {"session": "a-1", "inputs": -1, "exposures": 0, "cumulative_nm": [0], "clock_s": 0}
        >>> parse(Status, told, "status")
        Traceback (most recent call last):
        twin.wire.netstring.RpcError: status.inputs: input should be greater than or equal to 0, got -1
    """
    assert is_dataclass(kind)
    known = [field.name for field in fields(kind)]
    if not isinstance(result, dict):
        raise RpcError(f"{what} is an object with {', '.join(known)}, not {shown(result)}", INVALID_PARAMS)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in result]
    if missing:
        raise RpcError(f"{what} has {', '.join(known)}; {', '.join(missing)} is missing", INVALID_PARAMS)
    try:
        return kind(**result)
    except ValidationError as error:
        where, problem = located_problem(error)
        if "unexpected keyword" in problem:
            raise RpcError(
                f"{what} has an unknown key {shown(where)}{nearest(where[-40:], known)}", INVALID_PARAMS
            ) from None
        for word, plainer in _PLAINER:
            problem = problem.replace(word, plainer)
        raise RpcError(f"{what}.{printable(where, 80)}: {printable(problem)}", INVALID_PARAMS) from None
    except TypeError:
        raise RpcError(f"{what} has keys that are no names: {shown(result)}", INVALID_PARAMS) from None


_PLAINER = (
    ("tuple should have", "a list should have"),
    (" after validation", ""),
    ("dictionary should have", "an object should have"),
    ("a valid tuple", "a list"),
    ("a valid string", "a text"),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
    ("a valid dictionary", "an object"),
    ("a dictionary or an instance of Status", "an object"),
    ("a dictionary or an instance of OpticsTold", "an object"),
    ("a dictionary or an instance of SpaceTold", "an object"),
    ("a valid boolean", "true or false"),
)
"""Words of pydantic, and those of JSON."""


def plain(model: Any) -> dict[str, Any]:
    """Return a model as plain JSON data: lists for tuples."""
    return {key: _listed(value) for key, value in asdict(model).items()}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
