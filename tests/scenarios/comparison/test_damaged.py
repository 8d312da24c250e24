"""Records of a comparison that are damaged: one sentence that names the file, never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest

from scenarios.comparison.ledger import Ledger, make_plan
from scenarios.comparison.sweep import RunRecord, digest, resolve
from scenarios.schema import ScenarioError

STEP = {
    "observation": 1, "input_nm": [0, 0, 0], "cumulative_nm": [0, 0, 0], "estimate_nm": [1.0, 2.0, 3.0],
    "std_nm": [1.0, 1.0, 1.0], "sign_probability": 1.0, "error_component_nm": [0, 0, 0], "error_nm": 0.5,
    "in_spec": True, "covers_50": True, "covers_90": True, "seconds": 0.1, "dose_e": 1e6, "simulated_s": 1.0,
}  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "compare")


def plan() -> Any:
    return make_plan(["nominal"], ("random",), range(1), 1)


def record() -> dict[str, Any]:
    whole = plan()
    job = whole.job("nominal", "random", 0)
    settings = digest(resolve(job), "random")
    plain = {"scenario": "nominal", "controller": "random", "seed": 0, "truth_nm": [1.0, 2.0, 3.0], "steps": [STEP]}
    return {**plain, "scenario_digest": settings}


def write(ledger: Ledger, text: str) -> None:
    path = ledger.path("nominal", "random", 0)
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_an_undamaged_record_is_read(ledger: Ledger) -> None:
    write(ledger, json.dumps(record()))
    (found,) = ledger.finished(plan(), resume=True).values()
    assert isinstance(found, RunRecord)
    assert found.steps[0].error_nm == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "3", "[" * 5000, '{"steps": ' * 3000,
        json.dumps({**record(), "steps": []}),
        json.dumps({**record(), "steps": [{**STEP, "observation": 2}]}),
        json.dumps({**record(), "steps": [{**STEP, "error_nm": "far"}]}),
        json.dumps({**record(), "steps": [{**STEP, "estimate_nm": [1.0]}]}),
        json.dumps({**record(), "steps": 3}),
        json.dumps({**record(), "truth_nm": None}),
        json.dumps({**record(), "controller": "vae_em"}),
        json.dumps({**record(), "seed": 5}),
        json.dumps(record()).replace('"seed": 0', '"seed": ' + "9" * 5000),
    ],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_a_damaged_record_is_named(text: str, ledger: Ledger) -> None:
    write(ledger, text)
    with pytest.raises(ScenarioError, match=r"0\.json: .+ delete it to have the run repeated"):
        ledger.finished(plan(), resume=True)


@pytest.mark.parametrize(
    "text", ["[1]", "a: [", "a: &a [*a]", "versions: 3", "scenarios: [1]", "? [1]\n: 2", "1: 2", "\xff\x00"]
)
def test_a_damaged_account_of_the_settings_is_named(text: str, ledger: Ledger) -> None:
    ledger.folder.mkdir()
    (ledger.folder / "compare.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ScenarioError, match=r"compare\.yaml: "):
        ledger.finished(plan(), resume=True)
