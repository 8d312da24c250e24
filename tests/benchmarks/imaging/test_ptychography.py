"""The studies of thick specimens and position errors, in small: what they are for holds there, too."""

import json

import pytest

from benchmarks.imaging import ptychography


def test_two_sheets_are_told_apart() -> None:
    found = ptychography.layers(side=12, passes=12, optics=ptychography.SHEET_OPTICS, slice_nm=2.0)
    for slice_, other in ((1, 2), (2, 1)):
        assert found[f"slice_{slice_}_with_sheet_{slice_}"] > 0.9
        assert abs(found[f"slice_{slice_}_with_sheet_{other}"]) < 0.3
    assert found["sum_of_slices"] > found["one_slice"] + 0.1


def test_positions_are_won_back() -> None:
    found = ptychography.positions(side=10, passes=25)
    assert found["with_errors"] < found["without_errors"] - 0.05
    assert found["won_back"] > 0.8
    assert found["error_left_nm"] < 0.3 * found["error_nm"]


def test_a_pass_takes_little_more_than_its_transforms() -> None:
    found = ptychography.transforms(slices=3, size=32, frames=30, rounds=3)
    assert 0.5 < found["pass_over_transforms"] < 4.0
    assert 0.5 < found["positions_over_transforms"] < 6.0


def test_the_command_prints_the_studies_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ptychography, "STUDIES", {"one": lambda: {"figure": 0.5}, "two": lambda: {"other": 1.0}})
    ptychography.main(["two", "--json"])
    assert json.loads(capsys.readouterr().out) == {"two": {"other": 1.0}}
    ptychography.main([])
    assert "figure" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        ptychography.main(["three"])
    assert "'three' is not a study; known: one, two" in capsys.readouterr().err


def test_a_thin_crystal_needs_one_slice() -> None:
    """Two cells of it: one slice or two, the phase is the true one."""
    found = ptychography.crystal(side=8, passes=8, thickness_nm=0.8, slices=2)
    assert found["one_slice"] > 0.95
    assert found["2_slices"] == pytest.approx(found["one_slice"], abs=0.02)
