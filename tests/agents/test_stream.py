"""One pass of several agents: who fails alone, what is kept, and what is told."""

import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from agents.base import Image, MetaError, Reconstruction, StreamMeta
from agents.block import Block, FrameBlock
from agents.source import Health, Source
from agents.stream import Progress, Streamed, run
from twin.formats.dataset import Layout

ROWS, COLUMNS, SIDE = 4, 5, 3
COUNT = ROWS * COLUMNS


class Frames(Source):
    """Frames whose counts are their number; may fail, or be interrupted, before a block."""

    def __init__(self, size: int = 3, before: Callable[[int], None] | None = None) -> None:
        self.meta = StreamMeta(Layout((ROWS, COLUMNS), (SIDE, SIDE)))
        self.health = Health()
        self.closed = False
        self._size, self._before = size, before

    def blocks(self) -> Iterator[Block]:
        try:
            for first in range(0, COUNT, self._size):
                if self._before is not None:
                    self._before(first)
                index = np.arange(first, min(first + self._size, COUNT))
                frames = np.broadcast_to(index[:, None, None], (len(index), SIDE, SIDE)).astype(np.uint16)
                self.health.received += len(index)
                yield FrameBlock(frames, np.stack(np.divmod(index, COLUMNS), axis=1))
        finally:
            self.health.missing = COUNT - self.health.received
            self.closed = True


class Total:
    """Sum of each frame; fails at a position, when asked to."""

    def __init__(self, fails_at: int = COUNT, error: BaseException | None = None) -> None:
        self.fails_at, self.error = fails_at, error or ZeroDivisionError("by zero")
        self.seen: list[int] = []

    def start(self, meta: StreamMeta) -> None:
        self.image = np.full(meta.need_grid("total"), np.nan)

    def update(self, block: Block) -> None:
        if block.frames[-1, 0, 0] >= self.fails_at:
            raise self.error
        self.image[tuple(block.pixel.T)] = block.moments()[:, 0]
        self.seen.append(len(block))

    def result(self) -> Reconstruction:
        return Reconstruction({"total": Image(self.image.copy(), "counts")})


class Finishing(Total):
    finished = False

    def finish(self) -> None:
        self.finished = True


class Mute(Total):
    def result(self) -> Reconstruction:
        raise RuntimeError("nothing to say")


class Choosy(Total):
    def start(self, meta: StreamMeta) -> None:
        meta.need("energy_kev", "choosy")


def image(streamed: Streamed, name: str) -> np.ndarray:
    return streamed.results[name].images["total"].values


WHOLE = np.arange(COUNT).reshape(ROWS, COLUMNS) * 9.0


def test_every_agent_sees_every_block_once() -> None:
    agents = {"b": Total(), "a": Total()}
    streamed = run(Frames(), agents)
    assert streamed.status == "complete"
    assert list(streamed.results) == ["b", "a"]
    for name, agent in agents.items():
        assert agent.seen == [3, 3, 3, 3, 3, 3, 2]
        np.testing.assert_array_equal(image(streamed, name), WHOLE)
    assert (streamed.positions, streamed.health.received, dict(streamed.errors)) == (COUNT, COUNT, {})
    assert streamed.frames_per_s == COUNT / streamed.seconds
    assert 0 < sum(streamed.agent_s.values()) <= streamed.seconds


def test_an_agent_that_cannot_start_is_named_and_the_others_go_on() -> None:
    streamed = run(Frames(), {"choosy": Choosy(), "total": Total()})
    assert list(streamed.results) == ["total"]
    assert "choosy needs energy_kev" in streamed.errors["choosy"]
    with pytest.raises(MetaError, match=r"one: choosy needs energy_kev.*; two: choosy needs"):
        run(Frames(), {"one": Choosy(), "two": Choosy()})
    with pytest.raises(ValueError, match="at least one agent"):
        run(Frames(), {})


def test_an_agent_that_raises_is_left_behind_with_what_it_had() -> None:
    streamed = run(Frames(), {"failing": Total(fails_at=7), "total": Total()})
    assert streamed.errors == {"failing": "ZeroDivisionError: by zero"}
    np.testing.assert_array_equal(image(streamed, "total"), WHOLE)
    had = image(streamed, "failing").ravel()
    np.testing.assert_array_equal(had[:6], WHOLE.ravel()[:6])
    assert np.isnan(had[6:]).all()
    assert streamed.status == "complete"


def test_the_stream_is_given_up_when_no_agent_is_left() -> None:
    source = Frames()
    streamed = run(source, {"failing": Total(fails_at=7)})
    assert source.closed
    assert streamed.status == "incomplete"
    assert streamed.positions == 9
    assert "all agents have failed" in streamed.health.faults[0]
    assert streamed.health.missing == COUNT - 9


def test_an_agent_without_a_result_does_not_take_those_of_others_along() -> None:
    streamed = run(Frames(), {"mute": Mute(), "total": Total(), "failing": Mute(fails_at=3)})
    assert list(streamed.results) == ["total"]
    assert streamed.errors == {"mute": "RuntimeError: nothing to say", "failing": "ZeroDivisionError: by zero"}


def test_an_error_of_the_source_keeps_what_had_come() -> None:
    def fail(first: int) -> None:
        if first == 9:
            raise OSError("the disc is gone")

    streamed = run(Frames(before=fail), {"total": Total()})
    assert streamed.status == "incomplete"
    assert streamed.health.faults == ["the source failed: OSError: the disc is gone"]
    assert streamed.health.missing == 11
    assert np.isfinite(image(streamed, "total")).sum() == 9


@pytest.mark.parametrize("where", ["source", "agent", "progress"])
def test_ctrl_c_keeps_what_had_come_and_finishes_nothing(where: str) -> None:
    def stop(at: object) -> None:
        if at == 9 or isinstance(at, Progress):
            raise KeyboardInterrupt

    agent = Finishing(9, KeyboardInterrupt()) if where == "agent" else Finishing()
    source = Frames(before=stop if where == "source" else None)
    streamed = run(source, {"total": agent}, stop if where == "progress" else None, every_s=0.0)
    assert streamed.status == "interrupted"
    assert source.closed
    assert not agent.finished
    assert np.isfinite(image(streamed, "total")).sum() == (3 if where == "progress" else 9)


def test_ctrl_c_leaves_no_block_with_half_of_the_agents() -> None:
    class Pressed(Total):
        def update(self, block: Block) -> None:
            if block.frames[0, 0, 0] == 6:
                signal.raise_signal(signal.SIGINT)
            super().update(block)

    told: list[Progress] = []
    streamed = run(Frames(), {"first": Total(), "pressed": Pressed(), "last": Total()}, told.append, every_s=0.0)
    assert streamed.status == "interrupted"
    assert streamed.positions == told[-1].positions == 9
    for name in ("first", "pressed", "last"):
        assert np.isfinite(image(streamed, name)).sum() == 9


def test_the_second_ctrl_c_does_not_wait_for_the_agents() -> None:
    class Stuck(Total):
        def update(self, block: Block) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            super().update(block)

    streamed = run(Frames(), {"stuck": Stuck()})
    assert streamed.status == "interrupted"
    assert np.isnan(image(streamed, "stuck")).all()


def test_finish_is_called_at_the_end_and_its_time_is_told() -> None:
    class Failing(Total):
        def finish(self) -> None:
            time.sleep(0.01)
            raise ArithmeticError("did not converge")

    finishing = Finishing()
    streamed = run(Frames(), {"finishing": finishing, "failing": Failing(), "total": Total()})
    assert finishing.finished
    assert streamed.errors == {"failing": "ArithmeticError: did not converge"}
    np.testing.assert_array_equal(image(streamed, "failing"), WHOLE)
    assert list(streamed.finish_s) == ["finishing", "failing"]
    assert streamed.finish_s["failing"] > 0.005


def test_progress_counts_positions_and_tells_rate_and_lag() -> None:
    told: list[Progress] = []
    source = Frames(size=5, before=lambda first: time.sleep(0.01))
    source.health.waiting = 100
    run(source, {"total": Total()}, told.append, every_s=0.0)
    assert [progress.positions for progress in told] == [5, 10, 15, 20]
    assert all(progress.total == COUNT for progress in told)
    assert all(0 < progress.rate_per_s < 600 for progress in told)
    assert told[0].lag_s == pytest.approx(100 / told[0].rate_per_s)
    assert sorted(progress.seconds for progress in told) == [progress.seconds for progress in told]


def test_progress_is_rare_and_comes_at_the_end() -> None:
    told: list[Progress] = []
    run(Frames(), {"total": Total()}, told.append, every_s=100.0)
    assert [progress.positions for progress in told] == [COUNT]
