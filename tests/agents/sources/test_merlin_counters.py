"""Frames of both counters from a live camera: one counter's frames, at the positions of their exposures."""

import numpy as np
import pytest

from agents.source import Health
from agents.sources.merlin_assembly import Assembly, FrameOrder
from twin.formats import merlin_header as mh
from twin.wire.merlin_decoder import DataDecoder, FrameMessage

SLAB = np.zeros((64, 4), np.uint8)


def placed(
    messages: list[tuple[int, int]], counter: int | None, scan: tuple[int, int] = (2, 3)
) -> tuple[list[int], Health]:
    """Slot of the frame at each position, -1 without one, for (number, counter) in order of arrival."""
    health, out = Health(), np.full((2, 3), -1)
    assembly = Assembly(FrameOrder((2, 3), messages[0][0]), health, 64, counter)
    runs = [
        run for slot, (number, of) in enumerate(messages) for run in assembly.add(FrameMessage(number, SLAB, slot, of))
    ]
    for run in [*runs, *assembly.take()]:
        out[tuple(run.pixel.T)] = np.arange(run.start, run.stop)
    assembly.end()
    return out.ravel().tolist(), health


def pairs(shared: bool, first: int = 1) -> list[tuple[int, int]]:
    return [(first + (k // 2 if shared else k), k % 2) for k in range(12)]


@pytest.mark.parametrize("first", [0, 1, 7])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("counter", [0, 1])
def test_pairs_give_one_frame_to_each_position(shared: bool, counter: int, first: int) -> None:
    slots, health = placed(pairs(shared, first), counter)
    assert slots == [2 * k + counter for k in range(6)]
    assert (health.missing, health.duplicates, health.fault_count) == (0, 0, 0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_lost_pair_leaves_its_position_empty(shared: bool) -> None:
    messages = pairs(shared)
    slots, health = placed(messages[:4] + messages[6:], 0)
    assert slots == [0, 2, -1, 4, 6, 8]
    assert health.missing == 1


def test_without_a_counter_every_frame_is_a_position() -> None:
    slots, _ = placed([(k + 1, k % 2) for k in range(6)], None)
    assert slots == list(range(6))


def test_frames_of_another_counter_are_told_unless_that_is_known() -> None:
    for mixed, faults in ((False, 1), (True, 0)):
        health = Health()
        assembly = Assembly(FrameOrder((2, 3)), health, 64, None, mixed)
        for k in range(6):
            assembly.add(FrameMessage(k + 1, SLAB, k, k % 2))
        assert health.fault_count == faults
        assert all("frame 2 is of counter 1, those before it of 0" in fault for fault in health.faults)


def test_a_chosen_counter_of_a_camera_that_has_one_only_loses_nothing() -> None:
    slots, health = placed([(k + 1, 0) for k in range(6)], 0)
    assert (slots, health.duplicates) == (list(range(6)), 0)


@pytest.mark.parametrize("scan", [(3, 4), (5,)])
@pytest.mark.parametrize("serpentine", [False, True])
def test_places_of_many_frames_are_those_of_each(scan: tuple[int, ...], serpentine: bool) -> None:
    order = FrameOrder(scan, 7, 2, 3, serpentine)
    pixel, there = order.places(np.arange(-3, 40))
    each = [order.place(7 + k) for k in range(-3, 40)]
    assert there.tolist() == [place is not None for place in each]
    assert [tuple(place) for place in pixel[there].tolist()] == [place for place in each if place is not None]


def test_the_decoder_tells_which_counter_a_frame_is_of() -> None:
    told = mh.MerlinHeader(sequence=1, length=384, chips=1, width=8, height=4, pixel="U08", depth=6)
    stream = b""
    for k in range(6):
        raw = mh.build_header(mh.MerlinHeader(**{**vars(told), "sequence": k + 1, "counter": k % 2})) + bytes(32)
        stream += b"MPX,%010d," % (len(raw) + 1) + raw
    decoder = DataDecoder()
    messages = [*decoder.feed(stream), *decoder.end()]
    assert [(m.number, m.counter) for m in messages if isinstance(m, FrameMessage)] == [
        (k + 1, k % 2) for k in range(6)
    ]
