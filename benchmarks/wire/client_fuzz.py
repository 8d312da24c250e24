"""Mutated messages of a far side through every decoder of the clients: no internal error, short printable sentences.

    python -m benchmarks.wire.client_fuzz [--messages 100000] [--seed 0] [--decoder NAME]

A message is a good one with bytes changed, cut out, doubled, or with numbers, texts and lengths replaced by awkward
ones. Every decoder either takes it or raises an error of this package, one printable line of at most `LONGEST`
characters; afterwards a new decoder reads the good message as before. The table has, for each decoder, how many
messages were taken and refused, the largest message and the growth of the process in memory; exit code 1 on any
internal error, any other sentence, or growth beyond `MOST_GROWTH_MB`.
"""

import argparse
import json
import re
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.sources.announced import tidy
from agents.sources.merlin_assembly import frames_of
from twin.errors import StemtwinError
from twin.formats import merlin_header as mh
from twin.formats.dataset import Layout, Metadata
from twin.formats.mib import METADATA, frame_header
from twin.optics import Optics
from twin.scan.plan import ScanPlan
from twin.state import StateSpace
from twin.types import Capabilities, Truth
from twin.wire import control, csr, merlin, merlin_commands, netstring
from twin.wire.merlin_decoder import AcquisitionMessage, DataDecoder, Fault, FrameMessage
from twin.wire.netstring import NetstringDecoder, Response, RpcError

LONGEST = 1000
"""Characters of the longest sentence."""
MOST_GROWTH_MB = 64.0
AWKWARD = tuple(
    text.encode()
    for text in (
        *("0", "-1", "1e308", "-1e309", "NaN", "Infinity", "9" * 30, "1e-300", "true", "null", "[]", "{}", '""'),
        *('"\\u001b[2J"', '"' + "A" * 3000 + '"', "[[[[[[[[", "\x1b]0;x\x07", "\u202e", "2147483648", "65536"),
    )
)
"""Replacements for numbers and texts."""
_VALUE = re.compile(rb'-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|"[^"]*"|true|false|null')

Decode = Callable[[bytes], list[str]]
"""Reads a message with a new decoder; returns the sentences of the faults in it."""


@dataclass
class Tally:
    """What became of the messages of one decoder.

    Attributes:
        taken, refused: numbers of messages.
        largest: bytes of the largest one.
        problems: messages that went wrong, and how.
        growth_mb: of the process in memory.
    """

    taken: int = 0
    refused: int = 0
    largest: int = 0
    problems: list[str] = field(default_factory=list)
    growth_mb: float = 0.0


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """Return a message with one to three mutations."""
    data = bytearray(good)
    for _ in range(int(rng.integers(1, 4))):
        kind, place = int(rng.integers(6)), int(rng.integers(max(len(data), 1)))
        if kind == 0 and data:
            data[place] = int(rng.integers(256))
        elif kind == 1 and data:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[place : place + int(rng.integers(1, 20))]
        elif kind == 3:
            data[place:place] = data[place : place + int(rng.integers(1, 40))]
        else:
            values = list(_VALUE.finditer(bytes(data[:4096])))
            if values:
                at = values[int(rng.integers(len(values)))]
                data[at.start() : at.end()] = AWKWARD[int(rng.integers(len(AWKWARD)))]
    return bytes(data)


def reframed(message: bytes, rng: np.random.Generator) -> bytes:
    """Return a mutated netstring whose length mostly agrees with its payload, so that the parser sees it."""
    payload = mutated(message.partition(b":")[2][:-1], rng)
    return netstring.frame(payload) if rng.random() < 0.8 else mutated(message, rng)


# --- the decoders ----------------------------------------------------------------------------------


def _rpc(parse: Callable[[Any], Any]) -> Decode:
    def decode(data: bytes) -> list[str]:
        decoder = NetstringDecoder()
        for payload in (*decoder.feed(data[:7]), *decoder.feed(data[7:])):
            response = netstring.parse_response(payload)
            if response.error is not None:
                raise response.error
            parse(response.result)
        return []

    return decode


def _replies(data: bytes) -> list[str]:
    decoder = merlin_commands.ReplyDecoder()
    for payload in (*decoder.feed(data[:9]), *decoder.feed(data[9:])):
        merlin_commands.parse_reply(payload)
    return []


def _frames(data: bytes) -> list[str]:
    decoder, faults = DataDecoder(slab_bytes=2**12, most_frame=2**16, most_garbage=2**20, ahead=2), []
    for message in (*decoder.feed(data[:600]), *decoder.feed(data[600:]), *decoder.end()):
        if isinstance(message, Fault):
            faults.append(message.text)
        elif isinstance(message, FrameMessage):
            assert decoder.header is not None
            frames_of(message.slab[message.slot : message.slot + 1], decoder.header)
        elif isinstance(message, AcquisitionMessage):
            _metadata(message.acquisition.extra.get(METADATA, "{}"))
    return faults


def _metadata(text: str) -> None:
    try:
        Metadata.of(tidy(dict(json.loads(text))), "the metadata")
    except (ValueError, TypeError, RecursionError):
        return  # as in `agents.sources.merlin`: left out, with a fault


def _events(data: bytes) -> list[str]:
    decoder, rest = csr.CsrDecoder(csr.Limits(2**16, 2**20)), memoryview(data)
    while rest:
        space = decoder.space()
        count = min(len(space), len(rest))
        space[:count] = rest[:count]
        rest = rest[count:]
        message = decoder.filled(count)
        if isinstance(message, csr.ScanStart):
            tidy(dict(message.metadata))
    return []


def messages() -> Mapping[str, tuple[bytes, Decode]]:
    """Return a good message and its decoder by name."""
    status = control.Status("a1b2-1", 2, 3, (1.25, -0.5, 3.0), 7.5, "film 3", 4e5)
    digest, where_nm = "ab" * 32, (1.25, -0.5, 3.0)
    note = control.ExposureNote(3, 4e5, 0.5, 7.0, {"dark_level": 20.0}, digest, status, "a1b2-1", 2, where_nm)
    plan = ScanPlan(rows=3, columns=4)
    optics = Optics()
    scan_plan = {
        "plan": {name: getattr(plan, name) for name in ("rows", "columns", "step_nm", "dwell_s", "dose_e")},
        "positions": plan.count,
        "duration_s": 0.012,
        "optics": control.capabilities_plain(Capabilities("", optics, StateSpace(), (1, 1), 1))["optics"],
        "digest": control.plan_digest(plan),
    }
    answers: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "status": (status.plain(), control.parse_status),
        "exposure": (note.plain(), control.parse_exposure),
        "capabilities": (
            control.capabilities_plain(Capabilities("a twin", optics, StateSpace(), (128, 128), 4095)),
            control.parse_capabilities,
        ),
        "scan plan": (scan_plan, control.parse_scan_plan),
        "truth": (
            control.truth_plain(Truth(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))),
            lambda result: control.parse_truth(result, 3),
        ),
        "getInfo": ({"service": "stemtwin control", "version": 1, "ports": {"corrector": 7072}}, control.ports_of),
    }
    named = {
        name: (netstring.build_response(Response(1, result)), _rpc(parse)) for name, (result, parse) in answers.items()
    }
    error = RpcError("Server error", -32000, {"type": "<class 'Exception'>", "message": "probe out of range"})
    return named | {
        "an error": (netstring.build_response(Response(1, error=error)), _rpc(lambda result: result)),
        "camera replies": (
            b"".join(merlin_commands.build_reply(merlin_commands.Reply("GET", "IMAGEX", "256", 0)) for _ in range(3)),
            _replies,
        ),
        "camera frames": (_good_frames(), _frames),
        "events": (_good_events(), _events),
    }


def _good_frames() -> bytes:
    layout = Layout((1,), (8, 8), "uint16", 4095)
    counts = np.arange(192, dtype=np.uint16).reshape(3, 8, 8)
    about = mh.Acquisition(3, 1, (1, 3), 12, {METADATA: json.dumps({"dwell_s": 1e-3, "provenance": {"a": 1}})})
    frames = merlin.frame_messages(counts, frame_header(layout, 12, False, 1e-3))
    return merlin.acquisition_message(about) + frames.tobytes()


def _good_events() -> bytes:
    bounds, index = np.array([0, 2, 4, 6], np.uint32), np.arange(6).astype(np.uint16)
    chunk = csr.Chunk(bounds, index, index.astype(np.uint8))
    start = csr.AcquisitionStart((2, 3), (8, 12), index_type=np.dtype("<u2"))
    scan: list[csr.Message] = [start, csr.ScanStart(5, {"dwell_s": 1e-6}), chunk, chunk]
    parts: list[csr.Message] = [*scan, csr.ScanEnd(5), csr.AcquisitionEnd()]
    return b"".join(map(csr.encode, parts))


# --- the runs ----------------------------------------------------------------------------------------


def fuzz(good: bytes, decode: Decode, count: int, seed: int) -> Tally:
    """Feed mutated messages to a decoder.

    Args:
        good: a message that it takes.
        decode: reads one.
        count: number of messages.
        seed: of the mutations.
    """
    rng, tally = np.random.default_rng(seed), Tally()
    is_netstring = good[:1].isdigit()
    decode_good = _attempt(decode, good)
    before_mb = _memory_mb()
    for k in range(count):
        data = reframed(good, rng) if is_netstring else mutated(good, rng)
        tally.largest = max(tally.largest, len(data))
        words, is_internal = _attempt(decode, data)
        tally.taken, tally.refused = tally.taken + (not words), tally.refused + bool(words)
        if is_internal or any(not word.isprintable() or len(word) > LONGEST or not word.strip() for word in words):
            tally.problems.append(f"message {k}: {words[0][:200]!r} for {data[:200]!r}")
        if k % 1000 == 0 and _attempt(decode, good) != decode_good:
            tally.problems.append(f"after message {k} the good one is not read as before")
    tally.growth_mb = _memory_mb() - before_mb
    return tally


def _attempt(decode: Decode, data: bytes) -> tuple[list[str], bool]:
    """Return the sentences that a message gives, and whether one is an internal error."""
    try:
        return decode(data), False
    except StemtwinError as error:
        return [str(error)], False
    except Exception as error:  # what this is for
        return [f"{type(error).__name__}: {error}"], True


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire.client_fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000, help="mutated messages for each decoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", choices=list(messages()), help="one of them only")
    chosen = parser.parse_args(arguments)
    failed = False
    print(f"{'decoder':16}{'taken':>9}{'refused':>9}{'largest, B':>12}{'growth, MB':>12}{'problems':>10}")
    for name, (good, decode) in messages().items():
        if chosen.decoder not in (None, name):
            continue
        tally = fuzz(good, decode, chosen.messages, chosen.seed)
        counted = f"{tally.taken:9}{tally.refused:9}{tally.largest:12}{tally.growth_mb:12.1f}{len(tally.problems):10}"
        print(f"{name:16}{counted}")
        for problem in tally.problems[:5]:
            print(f"    {problem}")
        failed |= bool(tally.problems) or tally.growth_mb > MOST_GROWTH_MB
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
