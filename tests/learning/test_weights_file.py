"""Weights files: what is saved comes back; what is missing, damaged or made for something else is refused."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from learning.weights_file import WeightsError, WeightsFile, find, read
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace


@dataclass(frozen=True)
class Toy:
    slope: Tensor
    kernel: str
    space: StateSpace
    optics: Optics
    provenance: Mapping[str, Any]


TOY = Toy(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T, "rbf", FIRST_ORDER, Optics(), {"seconds": 3})


@pytest.fixture
def file(tmp_path: Path) -> WeightsFile[Toy]:
    def rebuild(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Toy:
        known = {key: value for key, value in metadata.items() if key != "format"}
        return Toy(tensors["slope"], **known)

    return WeightsFile(
        "toy-1",
        "toy",
        tmp_path / "shipped",
        lambda toy: ({"slope": toy.slope}, {"kernel": toy.kernel, "space": toy.space}),
        rebuild,
    )


def test_a_file_gives_back_what_was_saved(file: WeightsFile[Toy], tmp_path: Path) -> None:
    path = tmp_path / "below" / "mine.safetensors"
    file.save(TOY, path)
    found = file.load_for(str(path), Optics(), FIRST_ORDER)
    assert torch.equal(found.slope, TOY.slope)  # not contiguous in memory, but in the file
    assert replace(found, slope=TOY.slope) == TOY


def test_shipped_weights_are_found_by_name(file: WeightsFile[Toy]) -> None:
    file.save(TOY, file.shipped / "mine.safetensors")
    assert find("mine", file.shipped) == file.shipped / "mine.safetensors"
    assert file.load_for("mine", Optics(), FIRST_ORDER).optics == Optics()
    with pytest.raises(WeightsError, match=r"'mien' are not shipped weights \(did you mean mine\?\); known: mine"):
        find("mien", file.shipped)
    with pytest.raises(WeightsError, match="known: none"):
        find("mine", file.shipped / "empty")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere.safetensors: no such file"):
        find(str(tmp_path / "nowhere.safetensors"), tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_a_damaged_file_is_refused(file: WeightsFile[Toy], tmp_path: Path, keep: int) -> None:
    path = tmp_path / "mine.safetensors"
    file.save(TOY, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        file.load(path)


@pytest.mark.parametrize("broken", [{}, {"optics": '{"energy": 1}'}, {"optics": "not JSON"}, {"optics": "{}"}])
def test_a_file_that_lacks_a_part_is_refused(file: WeightsFile[Toy], tmp_path: Path, broken: dict[str, str]) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({"slope": torch.zeros(1)}, path, {"format": "toy-1", **broken})
    with pytest.raises(WeightsError, match=r"mine\.safetensors: a part is missing"):
        file.load(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({"slope": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="format None, expected 'toy-1'"):
        read(path, "toy-1")


@pytest.mark.parametrize(
    ("optics", "space", "message"),
    [
        (Optics(energy_kev=200.0), FIRST_ORDER, "trained with energy_kev 300.0; this scenario has 200.0"),
        (Optics(), SECOND_ORDER, r"trained for C10, C12a, C12b; this scenario calibrates C10, .*C23b"),
        (Optics(), replace(FIRST_ORDER, input_nm=(60.0, 31.0, 30.0)), r"reaches \[120.0, 61.0, 60.0\] nm"),
    ],
)
def test_weights_for_something_else_are_refused(
    file: WeightsFile[Toy], optics: Optics, space: StateSpace, message: str
) -> None:
    file.save(TOY, file.shipped / "mine.safetensors")
    with pytest.raises(WeightsError, match=message + ".*Retrain: stemtwin train toy SCENARIO"):
        file.load_for("mine", optics, space)


def test_metadata_text_that_looks_like_a_number_stays_text(file: WeightsFile[Toy], tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    file.save(replace(TOY, kernel="123"), path)
    assert file.load(path).kernel == "123"


def test_the_package_imports_without_torch() -> None:
    program = "import sys, learning; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_numbers_of_any_shape_survive(file: WeightsFile[Toy], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for shape in ((), (5,), (2, 7), (3, 1, 4)):
        slope = torch.from_numpy(np.asarray(rng.standard_normal(shape)))
        file.save(replace(TOY, slope=slope), tmp_path / "mine.safetensors")
        assert torch.equal(file.load(tmp_path / "mine.safetensors").slope, slope)
