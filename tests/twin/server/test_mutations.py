"""A share of `benchmarks.wire.mutations`: damaged messages for every port, and that it finds mistakes."""

from collections.abc import Iterator

import pytest

from benchmarks.wire.mutations import TARGETS, Rpc, attack, attacked, call, make_bench
from twin.server.control import Control
from twin.wire.netstring import Request, RpcError

MESSAGES = {"corrector": 1500, "control": 1500, "merlin_control": 1500, "merlin_data": 200, "events": 200}


@pytest.mark.parametrize("port", TARGETS)
def test_damaged_messages_change_nothing_and_are_no_errors_of_ours(port: str) -> None:
    found = attacked(port, MESSAGES[port], seed=7)
    assert (found.internal, found.changed, found.wrong) == (0, 0, 0), found.examples
    assert found.refused > MESSAGES[port] / 4
    assert found.good


class Faulty(Control):
    """A control channel with one mistake."""

    mistake = ""

    def handle(self, request: Request) -> dict[str, object]:
        if self.mistake == "changes" and "delta_nm" in request.params:
            self._bench.inputs += 1
        if self.mistake == "breaks" and "seed" in request.params:
            raise ZeroDivisionError
        if self.mistake == "lies" and request.method == "getInfo":
            raise RpcError("busy")
        if self.mistake == "grows":
            MEMORY.append(bytes(20_000))
        return super().handle(request)


MEMORY: list[bytes] = []


@pytest.fixture
def memory() -> Iterator[None]:
    yield
    MEMORY.clear()


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("mistake", "figure"),
    [("changes", "changed"), ("breaks", "internal"), ("lies", "wrong"), ("grows", "grown_bytes")],
)
def test_the_check_finds_a_mistake(mistake: str, figure: str) -> None:
    bench = make_bench()
    faulty = Faulty(bench)
    faulty.mistake = mistake
    texts = [call("apply", delta_nm=[1, 2, 300]), call("reset", seed=2), call("getInfo")]
    found = attack("control", Rpc(bench, faulty.handle, texts, (call("getInfo"), b'"service"')), 1000, seed=1)
    assert getattr(found, figure) > 0
    assert not found.good
