"""Spectrum images of HyperSpy's files, as arrays and as a stream."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from agents.base import load
from agents.source import SourceError
from agents.sources import open_source
from agents.stream import run
from twin.arrays import Floats
from twin.formats.dataset import FormatError
from twin.spectra.files import read_spectrum_image
from twin.spectra.noise import SpectrumNoise, spectrum_image


def written(path: Path, values: Floats, units: list[str], scales: list[float], offsets: list[float]) -> Path:
    """A file as HyperSpy 2 writes it."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"file_format": "HyperSpy", "file_format_version": "3.3"})
        group = file.create_group("Experiments/map")
        group.create_dataset("data", data=values)
        for number, (unit, scale, offset) in enumerate(zip(units, scales, offsets, strict=True)):
            group.create_group(f"axis-{number}").attrs.update({
                "_type": "UniformDataAxis", "name": f"axis {number}", "units": unit, "scale": scale, "offset": offset,
                "size": values.shape[number], "navigate": number < values.ndim - 1, "is_binned": False,
            })  # fmt: skip
        group.create_group("attributes").attrs.update({"_lazy": False, "ragged": False})
        group.create_group("original_metadata")
        group.create_group("metadata/General").attrs["title"] = "map"
        group.create_group("metadata/Signal").attrs["signal_type"] = "EELS"
    return path


def test_counts_energies_and_step_are_read(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 5, dtype=np.float64).reshape(2, 3, 5)
    file = written(tmp_path / "map.hspy", values, ["nm", "nm", "keV"], [0.5, 0.5, -0.001], [0, 0, 0.71])
    found = read_spectrum_image(file)
    np.testing.assert_allclose(found.energy_ev, [706, 707, 708, 709, 710])
    np.testing.assert_array_equal(found.counts, values[..., ::-1])
    assert found.step_nm == 0.5
    line = written(tmp_path / "line.hspy", values[0], ["", "eV"], [1, 1], [0, 700])
    assert read_spectrum_image(line).counts.shape == (1, 3, 5)


def test_what_is_no_spectrum_image_is_refused(tmp_path: Path) -> None:
    frames = written(tmp_path / "frames.hspy", np.zeros((2, 3, 4)), ["nm", "mrad", "mrad"], [1, 1, 1], [0, 0, 0])
    with pytest.raises(FormatError, match="units nm, mrad, mrad"):
        read_spectrum_image(frames)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(FormatError, match=r"not from \.npy"):
        read_spectrum_image(tmp_path / "a.npy")
    below = written(tmp_path / "below.hspy", -np.ones((2, 3, 4)), ["nm", "nm", "eV"], [1, 1, 1], [0, 0, 0])
    with pytest.raises(SourceError, match="from -1 to -1"):
        open_source(f"spectra://{below}")


def test_phases_of_a_file_are_found_as_a_stream(tmp_path: Path) -> None:
    label = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1, 1]], 6, axis=0)
    noise = SpectrumNoise(peak_e=80.0, readout_e=0.0)
    spectra = spectrum_image(label, ["FeO", "amorphous"], np.random.default_rng(1), noise)
    file = written(tmp_path / "map.hspy", spectra.measured * 80.0, ["nm", "nm", "eV"], [1, 1, 0.3], [0, 0, 700])
    with open_source(f"spectra://{file}") as source:
        found = run(source, {"phases": load("phases", {"count": 2})})
    assert found.status == "complete"
    np.testing.assert_array_equal(found.results["phases"].images["phases"].values, 1 - label)
