"""The agent on a specimen in slices and on a scan with wrong positions: options, images, figures, the choice."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from agents.base import Agent, MetaError, StreamMeta, load
from agents.block import FrameBlock
from agents.epie import depth
from agents.epie.engine import intensity
from agents.epie.estimate import ObjectAndProbe, Places
from agents.epie.probe import Beam, Geometry, propagator, start_probe
from twin.formats.dataset import Layout, Metadata
from twin.optics import electron_wavelength_nm
from twin.options import OptionError

SCAN, SIZE, PIXEL_MRAD, STEP_NM, ROTATION_DEG = (11, 13), 24, 4.0, 0.06, 20.0
WAVELENGTH_NM = electron_wavelength_nm(300.0)
PIXEL = np.moveaxis(np.indices(SCAN), 0, -1).reshape(-1, 2)
META = StreamMeta(
    Layout(SCAN, (SIZE, SIZE), "uint32"),
    Metadata(
        energy_kev=300.0, convergence_mrad=21.0, pixel_mrad=PIXEL_MRAD, step_nm=STEP_NM, rotation_deg=ROTATION_DEG
    ),
    transposed=False,
)  # fmt: skip


def frames(slices: int, gap_nm: float, moved_px: np.ndarray | None = None, strength: float = 0.15) -> np.ndarray:
    """Poisson counts of random slices; the probe enters the first one 8 nm over its focus."""
    pixel_nm = WAVELENGTH_NM / (SIZE * PIXEL_MRAD * 1e-3)
    geometry = Geometry(pixel_nm, STEP_NM / pixel_nm, ROTATION_DEG, SCAN, SIZE, 8)
    beam = Beam(WAVELENGTH_NM, 21.0, PIXEL_MRAD)
    probe = start_probe(beam, SIZE, 2e4, aberrations_nm={"C10": 8.0}).astype(np.complex64)
    truth = ObjectAndProbe.start(geometry.shape, probe, slices, propagator(beam, SIZE, gap_nm))
    rng = np.random.default_rng(3)
    for one in truth.slices:
        phase = ndimage.gaussian_filter(rng.standard_normal(geometry.shape), 1.2)
        one[0], one[1] = np.cos(strength * phase / phase.std()), np.sin(strength * phase / phase.std())
    positions = geometry.positions(PIXEL) + (0.0 if moved_px is None else moved_px)
    counts = np.random.default_rng(0).poisson(intensity(truth, Places.of(positions, SIZE)))
    return np.fft.fftshift(counts.astype(np.uint32).swapaxes(1, 2), axes=(1, 2))


def streamed(counts: np.ndarray, finish: bool = True, **options: Any) -> Agent:
    agent = load("epie", {"members": 0, "every": 60, "passes": 16, "anneal": 12, "probe_step": 0.0, **options})
    agent.start(META)
    for first in range(0, len(counts), 50):
        agent.update(FrameBlock(counts[first : first + 50], PIXEL[first : first + 50]))
    if finish:
        agent.finish()
    return agent


def test_every_slice_has_an_image_and_their_sum_is_the_phase() -> None:
    """Aberrations count from the entrance surface, half a slice above the middle of the first slice."""
    agent = streamed(frames(2, 10.0), slices=2, thickness_nm=20.0, aberrations={"C10": 3.0}, members=2)
    found = agent.result()
    slices = [found.images[f"phase_slice_{n}"] for n in (1, 2)]
    np.testing.assert_allclose(found.images["phase"].values, slices[0].values + slices[1].values)
    lit = np.isfinite(slices[0].values)
    assert abs(np.corrcoef(*(image.values[lit] for image in slices))[0, 1]) < 0.5
    assert all(image.spread is not None and image.step_nm == found.figures["object_pixel_nm"] for image in slices)
    assert (found.figures["slices"], found.figures["slice_nm"]) == (2.0, 10.0)
    assert found.trust is not None
    assert "object of 2 slices" in found.trust.model
    other = streamed(frames(2, 10.0), aberrations={"C10": 8.0}).result()
    assert not any("slice" in name for name in [*other.images, *other.figures])
    assert found.figures["amplitude_error"] < 0.9 * other.figures["amplitude_error"]


def test_frames_kept_out_choose_the_number_of_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strong slices 8 nm apart call for two, a single one of the same thickness for one."""
    monkeypatch.setattr(depth, "candidates", lambda thickness_nm: (1, 2, 4))
    monkeypatch.setattr(depth, "PASSES", 8)
    for true, gap_nm, defocus_nm in ((2, 8.0, 4.0), (1, 0.0, 0.0)):
        options = {"slices": "auto", "thickness_nm": 16.0, "aberrations": {"C10": defocus_nm}}
        agent = streamed(frames(true, gap_nm, strength=0.3), finish=False, **options)
        assert "slices" not in agent.result().figures
        agent.finish()
        found = agent.result()
        assert found.figures["slices"] == true, found.notes
        assert {f"deviance_of_{count}_slices" for count in (1, 2, 4)} < set(found.figures)
        assert any("frames kept out of the updates" in note for note in found.notes)
        before = found.images["phase"].values
        agent.finish()  # nothing new: nothing is chosen again
        np.testing.assert_array_equal(agent.result().images["phase"].values, before)


def test_frames_kept_out_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes see every frame but the judges."""
    seen: set[int] = set()
    plain = depth.one_pass

    def watched(estimate: Any, data: Any, numbers: Any, steps: Any, rng: Any) -> Any:
        seen.update(numbers.tolist())
        return plain(estimate, data, numbers, steps, rng)

    judged: list[int] = []
    deviance = depth._deviance
    monkeypatch.setattr(depth, "one_pass", watched)
    monkeypatch.setattr(depth, "_deviance", lambda e, d, numbers: judged.extend(numbers) or deviance(e, d, numbers))
    monkeypatch.setattr(depth, "PASSES", 2)
    streamed(frames(1, 0.0), slices="auto", thickness_nm=3.0, passes=1)
    assert len(set(judged)) == len(PIXEL) // depth.KEPT_OUT
    assert seen == set(range(len(PIXEL))) - set(judged)


def test_refined_positions_are_images_along_the_scan() -> None:
    """Errors of 0.4 pixels rms: found to a third, mean zero, bounded; the phase of the plan's positions is worse."""
    rng = np.random.default_rng(8)
    moved = 0.4 * rng.standard_normal((len(PIXEL), 2))
    counts, options = frames(1, 0.0, moved, strength=0.3), {"aberrations": {"C10": 8.0}}
    agent = streamed(counts, positions=True, **options)
    found, fixed = agent.result(), streamed(counts, **options).result()
    assert found.figures["amplitude_error"] < 0.9 * fixed.figures["amplitude_error"]
    shifts = np.stack([found.images[name].values for name in ("shift_x", "shift_y")], -1).reshape(-1, 2)
    assert (found.images["shift_x"].unit, found.images["shift_x"].step_nm) == ("nm", None)
    turn, pixel_nm = np.deg2rad(ROTATION_DEG), found.figures["object_pixel_nm"]
    row, column = (moved - moved.mean(axis=0)).T * pixel_nm
    true = np.stack([np.cos(turn) * column + np.sin(turn) * row, np.cos(turn) * row - np.sin(turn) * column], -1)
    assert np.sqrt(np.mean((shifts - true) ** 2)) < np.sqrt(np.mean(true**2)) / 3
    np.testing.assert_allclose(shifts.mean(axis=0), 0.0, atol=1e-3 * STEP_NM)
    assert found.figures["position_rms_nm"] == pytest.approx(np.sqrt(np.mean(np.sum(shifts**2, axis=1))))
    assert "shift_x" not in fixed.images
    agent.configure(modes=2)  # begins anew, at the planned positions
    assert np.all(agent.result().images["shift_x"].values == 0.0)


def test_positions_stay_within_a_step_of_the_plan() -> None:
    """Positions far off, by two steps: none goes further than one along the axes of the object."""
    moved = np.zeros((len(PIXEL), 2))
    moved[70] = 2 * STEP_NM / (WAVELENGTH_NM / (SIZE * PIXEL_MRAD * 1e-3))
    found = streamed(frames(1, 0.0, moved, strength=0.3), positions=True, aberrations={"C10": 8.0}).result()
    largest = np.hypot(found.images["shift_x"].values, found.images["shift_y"].values).max()
    assert 0.2 * STEP_NM < largest <= np.sqrt(2) * STEP_NM * 1.001


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": 4}, "slices=4 needs thickness_nm, the specimen's thickness along the beam"),
        ({"slices": "auto"}, "slices=auto needs thickness_nm"),
        ({"slices": 0, "thickness_nm": 3.0}, "slices: input should be greater than or equal to 1 or 'auto', got 0"),
        ({"slices": 65, "thickness_nm": 3.0}, "slices: input should be less than or equal to 64 or 'auto', got 65"),
        ({"slices": "atuo", "thickness_nm": 3.0}, "slices: .* got 'atuo'"),
        ({"thickness_nm": 0.0}, "thickness_nm: input should be greater than 0, got 0"),
        ({"positions": True, "sub_pixel": False}, "it needs sub_pixel=true"),
    ],
)
def test_what_slices_and_positions_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load("epie", options)


def test_many_slices_have_to_fit_in_memory() -> None:
    agent = load("epie", {"slices": 64, "thickness_nm": 64.0, "memory_bytes": 2**20})
    with pytest.raises(MetaError, match="in 64 slices takes 5 MiB; memory_bytes is 1 MiB"):
        agent.start(META)
    with pytest.raises(OptionError, match="slices cannot change within a stream"):
        agent.configure(slices=2)
