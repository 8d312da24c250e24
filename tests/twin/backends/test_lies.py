"""A far twin and camera that lie: every lie ends in a fault with a true sentence, or is shown to do no harm.

A session goes through reset, an input and a frame, the lie begins, and another input and frame follow. "True" means
here: the sentence matches what was told, is one printable line, and the session's end is in the audit log. "Harmless"
means: frame, position and dose are those that the twin really has.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fakes import lying

from twin.backends import remote
from twin.day import CameraProperties, Day
from twin.errors import StemtwinError
from twin.instrument.audit import AuditLog, read
from twin.instrument.faults import Stopped
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.wire import rpc

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace(start_nm=(20.0, 10.0, 10.0), input_nm=(60.0, 40.0, 40.0))
DAY = Day(dose_e=4e5, camera=CameraProperties(dark_level=20.0))
QUICK = {"timeout_s": 0.5, "frame_timeout_s": 0.6}
MOVES = [np.array([3.0, -2.0, 1.0]), np.array([-1.0, 0.5, 2.0])]
ESCAPE = "\x1b]0;x\x07\x1b[2J\r\n"

told, answered, frames, both = lying.told, lying.answered, lying.frames, lying.both


class Case(NamedTuple):
    """A lie of one service, and what the operator reads; no words: nothing, for the reason `why`."""

    name: str
    lie: Any
    words: str = ""
    why: str = ""


def error(code: int, message: str, data: Any = None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    told = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return lambda answer: {"jsonrpc": "2.0", "id": answer["id"], "error": told}


def header(**changes: str) -> Any:
    """Replace fields of a frame's header by place: 1 number, 4 width, 5 height, 6 pixels, 7 assembly, 10 shutter."""

    def change(message: bytes) -> bytes:
        head, rest = message[15 : 15 + 384], message[15 + 384 :]
        fields = head.rstrip(b"\0").split(b",")
        for place, value in changes.items():
            fields[int(place[1:])] = value.encode()
        return lying.merlin(b",".join(fields).ljust(384, b"\0")[:384] + rest)

    return frames(change)


def reply(name: str, payload: bytes) -> Any:
    return lambda method, message: lying.merlin(payload) if method == name else message


def nothing(message: Any) -> bytes:
    return b""


# --- lies from the first call on -------------------------------------------------------------------

GREETINGS = [
    Case("another service", told("getInfo", service="ftp"), "not the control channel of a twin"),
    Case("another version", told("getInfo", version=2), "has version 2, this client 1"),
    Case("a version in words", told("getInfo", version="1"), "has version '1', this client 1"),
    Case("a port of 0", told("getInfo", ports__merlin_data=0), r"getInfo\.ports\.merlin_data: .* got 0"),
    Case("a port beyond all", told("getInfo", ports__x=70_000), r"getInfo\.ports\.x: .* got 70000"),
    Case("a port that is a text", told("getInfo", ports={"x": "7"}), r"a whole number, got '7'"),
    Case("ports in a list", told("getInfo", ports=[1, 2]), r"getInfo\.ports: .* an object"),
    Case("ten thousand ports", told("getInfo", ports={f"p{k}": 1 for k in range(10_000)}), "at most 64 items"),
    Case("no object", answered("getInfo", lambda a: {**a, "result": [1]}), "not the control channel .* a list of 1"),
    Case("another energy", told("capabilities", optics__energy_kev=80.0), "another optics"),
    Case("a negative angle", told("capabilities", optics__convergence_mrad=-1.0), "convergence_mrad: .* got -1"),
    Case("a grid of 1e9", told("capabilities", optics__grid=10**9), r"grid: .* less than or equal to 16384"),
    Case("optics without a key", told("capabilities", optics__grid=...), r"optics\.grid: has to be given"),
    Case("optics with a key more", told("capabilities", optics__gird=1), "unknown key 'optics.gird'"),
    Case("another camera", told("capabilities", camera_shape=[32, 64]), "another camera_shape"),
    Case("three sides of a camera", told("capabilities", camera_shape=[64, 64, 3]), "camera_shape: .* 2 items"),
    Case("a camera of 2^30", told("capabilities", camera_shape=[2**30, 64]), r"camera_shape\.0: .* got 1073741824"),
    Case("a camera that counts to 0", told("capabilities", max_count=0), "max_count: .* got 0"),
    Case("a camera that counts to 1e6", told("capabilities", max_count=10**6), "max_count: .* 65535, got 1000000"),
    Case("a camera that ends below its frames", told("capabilities", max_count=3), "the twin's camera ends at 3"),
    Case("other coefficients", told("capabilities", space__names=["C10", "C12a", "C21a"]), "another space"),
    Case("unknown coefficients", told("capabilities", space__names=["C10", "C12a", ESCAPE]), "printable characters"),
    Case("a larger range", told("capabilities", space__input_nm=[600.0, 400.0, 400.0]), "another space"),
    Case("a negative range", told("capabilities", space__start_nm=[-1.0, 10.0, 10.0]), "must be positive"),
    Case("a space of 1000", told("capabilities", space__names=["C10"] * 1000), "at most 64 items"),
    Case(
        "a name of a megabyte with escapes",
        told("capabilities", name=ESCAPE * 10_000),
        why="the name is for people: it is cleaned and cut, and nothing is decided by it",
    ),
    Case("a session without a name", told("reset", session=""), "began session ''"),
    Case("a session of 300 letters", told("reset", session="a" * 300), "at most 200 printable characters"),
    Case("a session with escapes", told("reset", session=ESCAPE), "at most 200 printable characters"),
    Case("a session with inputs", told("reset", inputs=5), "with 5 inputs, 0 exposures"),
    Case("a session with exposures", told("reset", exposures=2), "with 0 inputs, 2 exposures"),
    Case("a session that starts elsewhere", told("reset", cumulative_nm=[1.0, 0.0, 0.0]), r"the position \[1\.0, 0"),
    Case("two coefficients", told("reset", cumulative_nm=[0.0, 0.0]), "a position of 2 coefficients; calibrated: C10"),
    Case("a clock before zero", told("reset", clock_s=-1.0), r"status\.clock_s: .* got -1"),
    Case("a clock of 1e308", told("reset", clock_s=1e308), r"status\.clock_s: .* got 1e\+308"),
    Case("a next dose below zero", told("reset", next_e=-1.0), r"status\.next_e: .* got -1"),
    Case("a next dose of 1e30", told("reset", next_e=1e30), r"status\.next_e: .* got 1e\+30"),
    Case("a dark level above the frames", told("exposure", settings__dark_level=6e4), "below its dark level of 60000"),
    Case("a dark level of 300", told("exposure", settings__dark_level=300.0), "below its dark level of 300"),
    Case("an error of 100 kB", answered("reset", error(-32005, ESCAPE + "A" * 100_000)), r"\?\]0;x\?\?\[2J A{100,}"),
    Case("a reason in the data", answered("reset", error(-32000, "Server error", {"message": "no beam"})), "no beam"),
]

# --- lies after a good frame: the control channel --------------------------------------------------

INPUTS = [
    Case("another session", told("apply", session="b-2"), "another client began a session: this one has ended"),
    Case("an input that does not count", told("apply", inputs=1), "answers to input 2 that the session has 1"),
    Case("an input too many", told("apply", inputs=3), "the session has 3 inputs, and this program sent 2"),
    Case("an input too few", told("apply", inputs=0), "the session has 0 inputs, and this program sent 2"),
    Case("inputs that are true", told("apply", inputs=True), "a whole number, got True"),
    Case("inputs with a point", told("apply", inputs=2.0), r"a whole number, got 2\.0"),
    Case("a position off by 1 nm", told("apply", cumulative_nm=[3.0, -1.5, 3.0]), "C10 stood at .* something else"),
    Case(
        "a position off by 1 nm, read back too",
        both(told("apply", cumulative_nm=[3.0, -1.5, 3.0]), told("status", cumulative_nm=[3.0, -1.5, 3.0])),
        r"C10 was sent to \+2\.000 nm and reads \+3\.000 nm",
    ),
    Case("a position in a text", told("apply", cumulative_nm="2.0"), "cumulative_nm: .* a list, got '2.0'"),
    Case("a position of 1e300", told("apply", cumulative_nm=[1e300, 0.0, 0.0]), r"cumulative_nm\.0: .* got 1e\+300"),
    Case("a position of 10^5 numbers", told("apply", cumulative_nm=[0.0] * 10**5), "at most 64 items"),
    Case("a clock that goes back", told("apply", clock_s=0.0), "the twin's clock went back from"),
    Case("an exposure too many", told("apply", exposures=5), "has 5 exposures, and this program triggered 1"),
    Case("an exposure too few", told("apply", exposures=0), "has 0 exposures, and this program triggered 1"),
    Case("a key missing", told("apply", clock_s=...), "clock_s is missing"),
    Case("a key more", told("apply", clok_s=1.0), r"unknown key 'clok_s' \(did you mean clock_s\?\)"),
    Case("a region with escapes", told("apply", region=ESCAPE), "at most 200 printable characters"),
    Case("no result", answered("apply", lambda a: {**a, "result": None}), "status is an object"),
    Case("result and error", answered("apply", lambda a: {**a, "error": {"code": 1, "message": "x"}}), "or an error"),
    Case("NaN", answered("apply", lambda a: lying.netstring(b'{"id":1,"result":NaN}')), "NaN is not JSON"),
    Case("another call's number", answered("apply", lambda a: {**a, "id": 4711}), "has the id 4711"),
    Case("a number of a megabyte", answered("apply", lambda a: {**a, "id": "x" * 10**5}), "has the id 'xxxx"),
    Case("two answers", lambda method, m: m + m if method == "apply" else m, "2 answers to one call"),
    Case("two megabytes", answered("apply", lambda a: {**a, "result": "x" * 2**21}), "at most 1048576 are allowed"),
    Case("a thousand brackets", answered("apply", lambda a: lying.netstring(b"[" * 1000)), "deeper than 32 brackets"),
    Case("half an answer", lambda method, m: m[:30] if method == "apply" else m, r"no answer within 0\.5 s"),
    Case("silence", lambda method, m: b"" if method == "apply" else m, r"no answer within 0\.5 s"),
    Case("a web page", answered("apply", lambda a: b"HTTP/1.1 200 OK\r\n\r\n<html>"), "begins with its length"),
    Case("busy for ever", answered("apply", error(rpc.BUSY, "ramping")), "ActuatorBusy: the control channel: ramping"),
    Case("out of reach, and moved", answered("apply", error(rpc.OUT_OF_RANGE, "no")), "no; NOT restored"),
    Case("failed, and moved", answered("apply", error(rpc.FAILED, "relay stuck")), "relay stuck"),
    Case("read-back of another session", told("status", session="b-2"), "does not report its position"),
    Case("read-back with an input more", told("status", inputs=9), "does not report its position"),
    Case("read-back elsewhere", told("status", cumulative_nm=[9.0, 0.0, 0.0]), "does not report its position"),
    Case("read-back of two numbers", told("status", cumulative_nm=[2.0, -1.5]), "does not report its position"),
]

EXPOSURES = [
    Case("no object", answered("exposure", lambda a: {**a, "result": 3}), "exposure is an object with number"),
    Case("the exposure before", told("exposure", number=1), "exposure 1 of the session; this program triggered 2"),
    Case("an exposure ahead", told("exposure", number=3), "exposure 3 of the session; this program triggered 2"),
    Case("exposure 0", told("exposure", number=0), r"exposure\.number: .* got 0"),
    Case("a dose of 0", told("exposure", dose_e=0.0), r"exposure\.dose_e: .* greater than 0, got 0"),
    Case("a dose below 0", told("exposure", dose_e=-1e5), r"exposure\.dose_e: .* greater than 0, got -100000"),
    Case("a dose of 1e-300", told("exposure", dose_e=1e-300), r"tells a dose of 1e-300 e; 400000 e were announced"),
    Case("a dose of 1e30", told("exposure", dose_e=1e30), r"exposure\.dose_e: .* got 1e\+30"),
    Case("a tenth of the dose", told("exposure", dose_e=4e4), "tells a dose of 40000 e; 400000 e were announced"),
    Case("ten times the dose", told("exposure", dose_e=4e6), r"tells a dose of 4e\+06 e; 400000 e were announced"),
    Case("a shutter of 0", told("exposure", exposure_s=0.0), r"exposure\.exposure_s: .* got 0"),
    Case("a shutter below 0", told("exposure", exposure_s=-1.0), r"exposure\.exposure_s: .* got -1"),
    Case("another shutter", told("exposure", exposure_s=lambda s: 1.01 * s), "by its header"),
    Case("a clock that stands", told("exposure", clock_s=1.0), "ended .* s after the previous one"),
    Case("a clock that is ahead", told("exposure", clock_s=1e6), "after the clock's"),
    Case("a clock of 1e308", told("exposure", clock_s=1e308), r"exposure\.clock_s: .* got 1e\+308"),
    Case(
        "a dark level below 0",
        told("exposure", settings__dark_level=-1e9),
        "dark_level lies in 0 to 65535",
    ),
    Case("a dark level above all", told("exposure", settings__dark_level=1e308), "dark_level lies in 0 to 65535"),
    Case("a dark level above the frame", told("exposure", settings__dark_level=6e4), "changed within the session"),
    Case("a dark level that changes", told("exposure", settings__dark_level=21.0), "changed within the session"),
    Case("settings that vanish", told("exposure", settings={}), "changed within the session"),
    Case("an unknown setting", told("exposure", settings__dark_levl=1.0), r"'dark_levl' .*did you mean dark_level\?"),
    Case("a setting in words", told("exposure", settings__dark_level="20"), "a number, got '20'"),
    Case("30,000 settings", told("exposure", settings={f"k{k}": 1.0 for k in range(30_000)}), "at most 64 items"),
    Case("another digest", told("exposure", sha256="ab" * 32), "is not what the twin sent for exposure 2"),
    Case("no digest", told("exposure", sha256=""), "is not what the twin sent for exposure 2"),
    Case("a digest of other letters", told("exposure", sha256="Z" * 64), "64 digits of 0 to f"),
    Case("a frame of another session", told("exposure", session="b-2"), "exposed in session 'b-2', not"),
    Case("a frame after other inputs", told("exposure", inputs=1), "exposed after 1 inputs, and 2 were sent"),
    Case("a frame after inputs to come", told("exposure", inputs=3), "exposed after 3 inputs, and 2 were sent"),
    Case(
        "a frame at another position",
        told("exposure", cumulative_nm=[2.0, -1.5, 3.1]),
        "during the exp",
    ),
    Case("a frame of two coefficients", told("exposure", cumulative_nm=[2.0, -1.5]), "a position of 2 coefficients"),
    Case("a frame of a scan", told("exposure", plan="ab" * 32), "belongs to a scan, plan abab"),
    Case("a status of another session", told("exposure", status__session="b-2"), "of session|another client began"),
    Case("a status with an input more", told("exposure", status__inputs=3), "the session has 3 inputs"),
    Case(
        "a status elsewhere",
        told("exposure", status__cumulative_nm=[2.5, -1.5, 3.0]),
        "without an input",
    ),
    Case("a status with escapes", told("exposure", status__region=ESCAPE), "at most 200 printable characters"),
    Case(
        "the next dose is 0",
        told("exposure", status__next_e=0.0),
        why="it is of the exposure after",
    ),
]

# --- lies of the camera ----------------------------------------------------------------------------

CAMERA = [
    Case("pixels that differ", frames(lambda m: m[:-9] + bytes(9)), "is not what the twin sent"),
    Case("no header", frames(lambda m: m.replace(b"MQ1,", b"MQ9,", 1)), "a frame begins with MQ1"),
    Case("another size", header(_4="0032", _5="0128"), "has width 32, the frames before it 64"),
    Case("16384 x 16384 pixels", header(_4="16384", _5="16384"), "bytes by its header"),
    Case("a frame of a gigabyte", frames(lambda m: b"MPX,1073741824," + m[15:]), "a message of 1073741823 bytes"),
    Case("another type of pixels", header(_6="U16"), "bytes by its header"),
    Case("an unknown type of pixels", header(_6="F32"), "pixels are U08, U16, U32, R64, not 'F32'"),
    Case("another assembly", header(_7="2x2G"), "has assembly 2x2G, the frames before it"),
    Case("an assembly with escapes", header(_7="\x1b[2J"), "has a.* printable|printable characters"),
    Case("a shutter that is no time", header(_10="nan"), why="of a frame like the first only the number is read"),
    Case("a number that is none", header(_1="00x002"), "frame number: '00x002' is not a number"),
    Case("the frame before", header(_1="000001"), "frame 1 arrived again, and no other"),
    Case("a number far ahead", header(_1="900000"), why="numbers only tell repetitions; the digest tells the frame"),
    Case("a frame twice", frames(lambda m: m + m), why="the second one is recognised by its number"),
    Case("half a frame", frames(lambda m: m[: len(m) // 2]), "the camera sent no frame in time"),
    Case("no frame", frames(nothing), "the camera sent no frame in time"),
    Case("a message that is too long", frames(lambda m: lying.merlin(m[15:] + bytes(64))), r"\d+ by its message"),
    Case("a message that is too short", frames(lambda m: lying.merlin(m[15:-64])), r"\d+ by its message"),
    Case("bytes before it", frames(lambda m: b"\x1b[2J" * 50 + m), why="they are skipped; the digest tells the frame"),
    Case("a status that is none", reply("SOFTTRIGGER", b"CMD,SOFTTRIGGER,7"), "a status is 0 to 3, not '7'"),
    Case("a reply to something else", reply("SOFTTRIGGER", b"CMD,STOPACQUISITION,0"), "is no reply to CMD,SOFTTRIGGER"),
    Case("a reply with escapes", reply("SOFTTRIGGER", b"CMD,\x1b[2J,0"), "commands are plain text"),
    Case("out of range", reply("SOFTTRIGGER", b"CMD,SOFTTRIGGER,3"), "SOFTTRIGGER: parameter out of range"),
    Case("busy for ever", reply("SOFTTRIGGER", b"CMD,SOFTTRIGGER,1"), "SOFTTRIGGER: busy"),
    Case("no reply", lambda method, m: b"" if method == "SOFTTRIGGER" else m, r"no complete reply within 0\.5 s"),
    Case("two replies", lambda method, m: m + m if method == "SOFTTRIGGER" else m, "2 replies to one command"),
    Case(
        "a reply of a gigabyte",
        lambda method, m: b"MPX,1073741824," if method == "SOFTTRIGGER" else m,
        "4096 are",
    ),
]

CONNECTING = [
    Case("a shutter of a year", header(_10="31557600.0"), "shutter_s: .* less than or equal to 100000"),
    Case("a shutter before zero", header(_10="-0.5"), "shutter_s: .* greater than or equal to 0"),
    Case("a shutter that is no time", header(_10="nan"), "shutter time: 'nan' is not finite"),
    Case("another shutter than the twin's", header(_10="0.000002"), "by its header"),
    Case("a size of its own", header(_4="0032", _5="0128"), r"has \(128, 32\) pixels; the twin"),
    Case("an exposure time below 0", reply("ACQUISITIONTIME", b"GET,ACQUISITIONTIME,-5,0"), "a time in ms .*not '-5'"),
    Case("an exposure time of NaN", reply("ACQUISITIONTIME", b"GET,ACQUISITIONTIME,nan,0"), "a time in ms .*not 'nan'"),
    Case("no exposure time", reply("ACQUISITIONTIME", b"GET,ACQUISITIONTIME,,0"), why="the option exposure_s is used"),
    Case(
        "a text header of 2^31 frames",
        lambda method, m: m.replace(b"(Number):\t1000000", b"(Number):\t2147483648"),
        why="single exposures are triggered one by one: the length of the acquisition is not used",
    ),
]

# --- corrector and camera alone --------------------------------------------------------------------

CORRECTOR = [
    Case("another call's number", answered("correctAberration", lambda a: {**a, "id": 99}), "has the id 99"),
    Case("silence", answered("correctAberration", nothing), r"no answer within 0\.5 s"),
    Case(
        "a CEOS reason",
        answered("correctAberration", error(-32000, "Server error", {"message": "C1 out of range: 5 um"})),
        "Server error: C1 out of range: 5 um",
    ),
    Case("an answer of escapes", answered("correctAberration", error(1, ESCAPE * 1000)), r"\?\]0;x\?\?\[2J"),
    Case("a result that is anything", told("correctAberration", done="perhaps"), why="no part of the result is used"),
]
ALONE = [
    Case("ten times the exposure", header(_10="10.0"), "the frame tells a dose of .* were announced"),
    Case("counts beyond the counter", frames(lambda m: m[:-64] + b"\xff" * 64), "beyond 24 bits"),
    Case("a constant frame", frames(lambda m: m[:399] + bytes(len(m) - 399)), "every pixel of the frame is 0"),
    Case("a camera of one's own size", header(_4="0032", _5="0128"), "at least 64 x 64 sensor pixels"),
]


# --- the sessions ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rig() -> Iterator[Any]:
    with lying.rigged(SimulatedMicroscope(OPTICS, SPACE, DAY)) as made:
        yield made


class Session:
    """A session under guard that counts how long it takes, and reads what its operator would read."""

    def __init__(self, rig: Any, folder: Path, **options: Any) -> None:
        rig.honest()
        self.rig, self.log = rig, folder / "audit.jsonl"
        inner = remote.make({**rig.options(), **QUICK, **options}, OPTICS, SPACE)
        limits = Limits(dose_e=1e9, retries=1, retry_wait_s=0.0, timeout_s=5.0)
        self.inner, self.safe = inner, SafeMicroscope(inner, limits, AuditLog(self.log), sleep=lambda _: None)

    def begin(self) -> None:
        self.safe.reset(np.random.default_rng(3))

    def step(self, k: int) -> Any:
        self.safe.apply(MOVES[k])
        return self.safe.acquire()

    def tell(self, case: Case, acts: Callable[[], Any]) -> str:
        """Return what the operator reads at the end and in the log; "" if the lie went unnoticed."""
        begun, end = time.monotonic(), ""
        try:
            acts()
        except (StemtwinError, ValueError) as fault:
            end = str(fault)
        finally:
            self.rig.honest()
            self.inner.close()
        faults = [entry["reason"] for entry in read(self.log) if entry["event"] == "fault"]
        words = " | ".join([end, *faults] if end or faults else [])
        assert ("restored to" in end) == (read(self.log)[-1]["event"] in ("restored", "not restored"))
        assert time.monotonic() - begun < 15.0
        assert words.isprintable()
        assert len(words) < 4000
        return words

    def check(self, case: Case, acts: Callable[[], Any]) -> None:
        words = self.tell(case, acts)
        if case.words:
            assert re.search(case.words, words), words or "used silently"
        else:
            assert case.why
            assert words == ""


def names(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


@names(GREETINGS)
def test_lies_of_a_twin_that_begins_a_session(case: Case, rig: Any, tmp_path: Path) -> None:
    session = Session(rig, tmp_path)
    rig.liars["control"].lie = case.lie

    def acts() -> None:
        session.begin()
        session.step(0)

    session.check(case, acts)


@names(INPUTS + EXPOSURES)
def test_lies_of_a_twin_in_a_session(case: Case, rig: Any, tmp_path: Path) -> None:
    session = Session(rig, tmp_path)
    session.begin()
    session.step(0)
    rig.liars["control"].lie = case.lie
    session.check(case, lambda: agrees(rig, session.step(1)))


def agrees(rig: Any, frame: Any) -> None:
    assert frame == rig.bench.latest
    np.testing.assert_array_equal(rig.bench.cumulative_nm, MOVES[0] + MOVES[1])


@names(CAMERA)
def test_lies_of_a_camera_in_a_session(case: Case, rig: Any, tmp_path: Path) -> None:
    session = Session(rig, tmp_path)
    session.begin()
    session.step(0)
    rig.liars["merlin_data"].lie = rig.liars["merlin_control"].lie = case.lie
    session.check(case, lambda: agrees(rig, session.step(1)))


@names(CONNECTING)
def test_lies_of_a_camera_from_the_first_frame_on(case: Case, rig: Any, tmp_path: Path) -> None:
    session = Session(rig, tmp_path)
    rig.liars["merlin_data"].lie = rig.liars["merlin_control"].lie = case.lie

    def acts() -> None:
        session.begin()
        assert session.step(0) == rig.bench.latest

    session.check(case, acts)


@names(CORRECTOR)
def test_lies_of_a_corrector(case: Case, rig: Any, tmp_path: Path) -> None:
    session = Session(rig, tmp_path, control=False)
    session.begin()
    session.step(0)
    rig.liars["corrector"].lie = case.lie
    session.check(case, lambda: session.step(1))


@names(ALONE)
def test_lies_of_a_camera_without_a_control_channel(case: Case, rig: Any, tmp_path: Path) -> None:
    session = Session(rig, tmp_path, control=False)
    rig.liars["merlin_data"].lie = case.lie

    def acts() -> None:
        session.begin()
        session.step(0)

    session.check(case, acts)


def test_a_next_dose_of_nothing_stops_the_exposure_it_is_told_for(rig: Any, tmp_path: Path) -> None:
    case = Case("no dose", told("exposure", status__next_e=0.0), "the reported dose of the next exposure is 0")
    session = Session(rig, tmp_path)
    session.begin()
    rig.liars["control"].lie = case.lie
    session.step(0)
    exposures = rig.bench.exposures
    session.check(case, session.safe.acquire)
    assert rig.bench.exposures == exposures


@pytest.mark.parametrize("lie", [told("apply", exposures=5), told("exposure", session="b-2")], ids=["input", "frame"])
def test_after_another_client_nothing_more_is_sent(lie: Any, rig: Any, tmp_path: Path) -> None:
    session = Session(rig, tmp_path)
    session.begin()
    session.step(0)
    rig.liars["control"].lie = lie
    before = rig.bench.inputs, rig.bench.exposures
    with pytest.raises(Stopped, match=r"NOT restored|not restored"):
        session.step(1)
    rig.honest()
    after = rig.bench.inputs, rig.bench.exposures
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1] + 1
    with pytest.raises(Stopped):
        session.safe.acquire()
    assert (rig.bench.inputs, rig.bench.exposures) == after
    session.inner.close()


def test_there_are_sixty_lies_and_no_two_are_told_alike() -> None:
    groups = (GREETINGS, INPUTS, EXPOSURES, CAMERA, CONNECTING, CORRECTOR, ALONE)
    labels = [(k, case.name) for k, group in enumerate(groups) for case in group]
    assert len(set(labels)) == len(labels) >= 60
    assert all(bool(case.words) != bool(case.why) for group in groups for case in group)
