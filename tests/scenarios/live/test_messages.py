"""What a page may say: everything else is refused with one sentence, whatever it is."""

import json
import random

import pytest

from benchmarks.live.fuzz import GOOD, mutated
from scenarios.live import messages


@pytest.mark.parametrize("message", GOOD, ids=lambda message: str(message["do"]))
def test_a_good_message_is_understood(message: dict[str, object]) -> None:
    assert type(messages.parse(json.dumps(message))) is messages.MODELS[str(message["do"])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("[1]", "object"),
        ('{"do": "knob"}', "did you mean knobs"),
        ('{"do": ["knobs"]}', "is not a message"),
        ('{"do": "knobs", "values": {}}', "knobs.values"),
        ('{"do": "knobs", "values": {"C10": "12"}}', "knobs.values"),
        ('{"do": "knobs", "values": {"C10": NaN}}', "NaN"),
        ('{"do": "knobs", "values": {"C10": 1e400}}', "double precision"),
        ('{"do": "expose", "dose_e": -1, "exposure_s": 1}', "dose_e"),
        ('{"do": "calibrate", "controller": "random", "observations": true}', "observations"),
        ('{"do": "run", "verb": "jump"}', "verb"),
        ('{"do": "stage", "where": 3}', "where"),
        ('{"do": "day", "scenario": "day_a"}', "seed is missing"),
        ("[" * 5000, "deep"),
        ('{"do": "' + "x" * 10_000 + '"}', "at most"),
    ],
)
def test_a_bad_message_is_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(messages.MessageError, match=words) as refusal:
        messages.parse(text)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_no_mutation_breaks_the_parser() -> None:
    rng = random.Random(5)
    understood = 0
    for _ in range(3000):
        try:
            understood += type(messages.parse(mutated(rng))) in messages.MODELS.values()
        except messages.MessageError:
            continue
    assert 100 < understood < 2900
