"""A share of the fuzzing of the clients' decoders (`python -m benchmarks.wire.client_fuzz` has the whole)."""

import numpy as np
import pytest

from benchmarks.wire import client_fuzz
from twin.errors import StemtwinError

MESSAGES = client_fuzz.messages()


@pytest.mark.parametrize("name", list(MESSAGES))
def test_mutated_messages_are_taken_or_refused_in_a_sentence(name: str) -> None:
    good, decode = MESSAGES[name]
    tally = client_fuzz.fuzz(good, decode, 2000, seed=1)
    assert tally.problems == []
    assert tally.refused > 500
    assert tally.taken + tally.refused == 2000
    assert tally.growth_mb < client_fuzz.MOST_GROWTH_MB


@pytest.mark.parametrize("name", [name for name in MESSAGES if name != "an error"])
def test_the_good_message_is_taken(name: str) -> None:
    good, decode = MESSAGES[name]
    assert decode(good) == []


def test_an_internal_error_or_a_bad_sentence_is_a_problem() -> None:
    def broken(data: bytes) -> list[str]:
        if len(data) % 3 == 0:
            raise IndexError("out of range")
        if len(data) % 3 == 1:
            raise StemtwinError("a\x1b[2J")
        return []

    tally = client_fuzz.fuzz(MESSAGES["status"][0], broken, 300, seed=1)
    assert any("IndexError: out of range" in problem for problem in tally.problems)
    assert any("x1b" in problem for problem in tally.problems)


def test_every_kind_of_mutation_occurs() -> None:
    good, rng = MESSAGES["status"][0], np.random.default_rng(0)
    changed = [client_fuzz.reframed(good, rng) for _ in range(300)]
    assert sum(data != good for data in changed) > 290
    assert min(map(len, changed)) < len(good) - 10
    assert max(map(len, changed)) > len(good) + 2000
