"""Aberrations from one defocused scan at a low dose: found within their errors, whatever the camera's orientation."""

from typing import NamedTuple

import numpy as np
import pytest

from agents import load
from agents.base import Reconstruction, StreamMeta
from agents.block import FrameBlock
from twin.aberrations import Aberrations, aberration_phase
from twin.formats.dataset import Layout, Metadata
from twin.optics import electron_wavelength_nm
from twin.options import OptionError

GRID, PIXEL_NM, EVERY, ALPHA_MRAD = 64, 0.1, 2, 8.0
WAVELENGTH_NM = electron_wavelength_nm(300.0)
TRUE = {"C10": 250.0, "C12a": 12.0, "C12b": -8.0}


class Scan(NamedTuple):
    frames: np.ndarray
    phase: np.ndarray
    meta: StreamMeta


def simulated(aberrations: dict[str, float], dose_e_per_a2: float, deviation_rad: float = 0.15) -> Scan:
    """Weak phase object without structure beyond what the steps sample, periodic, under an aberrated probe."""
    rng = np.random.default_rng(3)
    frequency = np.fft.fftfreq(GRID, PIXEL_NM)
    x, y = np.meshgrid(frequency, frequency)
    spectrum = np.fft.fft2(rng.standard_normal((GRID, GRID))) * (np.hypot(x, y) < 2.2) * (np.hypot(x, y) > 0)
    phase = np.fft.ifft2(spectrum).real
    phase *= deviation_rad / phase.std()
    x_mrad, y_mrad = 1e3 * WAVELENGTH_NM * x, 1e3 * WAVELENGTH_NM * y
    chi = aberration_phase(Aberrations.of(aberrations), x_mrad, y_mrad, WAVELENGTH_NM)
    probe = np.fft.ifft2((np.hypot(x_mrad, y_mrad) <= ALPHA_MRAD) * np.exp(-1j * chi))
    probe /= np.sqrt(np.sum(np.abs(probe) ** 2)) * GRID
    places = range(0, GRID, EVERY)
    waves = np.array([probe * np.roll(np.exp(1j * phase), (-i, -j), (0, 1)) for i in places for j in places])
    patterns = np.fft.fftshift(np.abs(np.fft.fft2(waves)) ** 2, axes=(1, 2))
    electrons = dose_e_per_a2 * (10 * PIXEL_NM * EVERY) ** 2
    side = GRID // EVERY
    beam = Metadata(
        energy_kev=300, convergence_mrad=ALPHA_MRAD, pixel_mrad=1e3 * WAVELENGTH_NM / (GRID * PIXEL_NM),
        step_nm=PIXEL_NM * EVERY, rotation_deg=0.0,
    )  # fmt: skip
    meta = StreamMeta(Layout((side, side), (GRID, GRID)), beam, transposed=False)
    return Scan(rng.poisson(patterns * electrons).astype(np.uint16), phase[::EVERY, ::EVERY], meta)


def reconstructed(frames: np.ndarray, meta: StreamMeta, **options: object) -> Reconstruction:
    agent = load("parallax", {"binning": 4, "reach_nm": 400.0, **options})
    agent.start(meta)
    agent.update(FrameBlock(frames, np.argwhere(np.ones(meta.layout.scan))))
    agent.finish()  # type: ignore[attr-defined]
    return agent.result()


def correlation(found: Reconstruction, name: str, phase: np.ndarray) -> float:
    return float(np.corrcoef(found.images[name].values.ravel(), phase.ravel())[0, 1])


@pytest.fixture(scope="module")
def scan() -> Scan:
    return simulated(TRUE, 100.0)


def test_aberrations_and_phase_at_a_hundred_electrons_per_square_angstrom(scan: Scan) -> None:
    found = reconstructed(scan.frames, scan.meta)
    for name, true_nm in TRUE.items():
        error_nm, sigma_nm = found.figures[f"{name}_nm"] - true_nm, found.figures[f"{name}_sigma_nm"]
        assert abs(error_nm) < 4 * sigma_nm  # false alarm 2e-4
        assert abs(error_nm) < 2.0
    assert correlation(found, "phase", scan.phase) > 0.9
    blind = reconstructed(scan.frames, scan.meta, fit=())
    assert correlation(blind, "phase", scan.phase) < 0.5
    # Aligned, the contrast of the defocused image remains: its sign changes with the frequency.
    assert found.images["bright_field"].values.std() > 2 * blind.images["bright_field"].values.std()


def test_a_transposed_and_turned_camera_sees_the_same_aberrations(scan: Scan) -> None:
    turned = Metadata(**{**scan.meta.metadata.plain(), "rotation_deg": 90.0})
    # The scan's fast axis now points along the camera's rows.
    frames = np.rot90(scan.frames[:, 1:, 1:], -1, axes=(1, 2))
    meta = StreamMeta(Layout(scan.meta.layout.scan, (GRID - 1, GRID - 1)), turned, transposed=False)
    found = reconstructed(np.ascontiguousarray(frames), meta, centre_px=(GRID // 2 - 1, GRID // 2 - 1))
    # Twofold astigmatism keeps the microscope's axes, which the camera carries with it: a quarter turn negates it.
    for name, sign in (("C10", 1), ("C12a", -1), ("C12b", -1)):
        assert found.figures[f"{name}_nm"] == pytest.approx(sign * TRUE[name], abs=2.0)
    swapped = StreamMeta(scan.meta.layout, scan.meta.metadata, transposed=True)
    found = reconstructed(scan.frames.transpose(0, 2, 1), swapped)
    assert found.figures["C12b_nm"] == pytest.approx(TRUE["C12b"], abs=2.0)
    assert correlation(found, "phase", scan.phase) > 0.9


def test_what_is_told_is_the_start_and_an_empty_scan_is_said(scan: Scan) -> None:
    found = reconstructed(scan.frames, scan.meta, aberrations={"C10": 240.0}, reach_nm=40.0)
    assert found.figures["C10_nm"] == pytest.approx(250.0, abs=2.0)
    empty = simulated(TRUE, 20.0, deviation_rad=1e-6)
    assert "nothing is seen" in reconstructed(empty.frames, empty.meta).notes[0]


def test_before_the_end_the_phase_is_that_of_the_aberrations_told(scan: Scan) -> None:
    agent = load("parallax", {"binning": 4, "aberrations": TRUE})
    agent.start(scan.meta)
    half = len(scan.frames) // 2
    agent.update(FrameBlock(scan.frames[:half], np.argwhere(np.ones(scan.meta.layout.scan))[:half]))
    agent.finish()  # type: ignore[attr-defined]
    found = agent.result()
    assert "once the scan is complete" in found.notes[0]
    values = found.images["phase"].values
    assert np.isnan(values[20:]).all()
    assert np.corrcoef(values[2:14].ravel(), scan.phase[2:14].ravel())[0, 1] > 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fit": ("C12a",)}, "fit begins with C10, C12a, C12b, or is empty; got C12a"),
        ({"fit": ("C10", "C12a", "C12b", "C31")}, "'C31' cannot be fitted"),
        ({"aberrations": {"C1O": 3.0}}, "C1O"),
        ({"reach_nm": 0.0}, "reach_nm"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises((OptionError, ValueError), match=words):
        load("parallax", options)
