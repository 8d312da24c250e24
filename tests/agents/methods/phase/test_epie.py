"""The agent on the twin's scans and on frames of its own model."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from agents.base import Agent, MetaError, Reconstruction, StreamMeta, load
from agents.block import FrameBlock
from agents.epie import ensemble, schedule
from agents.epie.engine import intensity
from agents.epie.estimate import ObjectAndProbe, Places
from agents.epie.probe import Beam, Geometry, start_probe
from twin.aberrations import Aberrations
from twin.day import Day
from twin.formats.dataset import Layout, Metadata
from twin.optics import Optics
from twin.options import OptionError
from twin.scan.acquisition import Acquisition
from twin.scan.plan import ScanPlan, path
from twin.scan.setup import ScanSetup

OPTICS = Optics(energy_kev=80.0, convergence_mrad=30.0, grid=96, sampling_nm=0.0125, camera_pixels=60, binning=1)
ROTATION_DEG = 25.0
SCAN = (12, 15)
STEP_NM = 0.04
DEFOCUS = {"C10": -5.0}


@lru_cache(maxsize=1)
def twisted_graphene() -> tuple[np.ndarray, np.ndarray]:
    """Share of the beam in every camera pixel, (N, H, W), and the specimen's phase at every position."""
    options = {"angle_deg": 10, "width_nm": 3, "height_nm": 3}
    setup = ScanSetup(specimen="graphene_twisted", specimen_options=options, optics=OPTICS, detectors={})
    acquisition = Acquisition(setup, Day(focal_spread_nm=0.0, source_size_nm=0.0))
    plan = ScanPlan(rows=SCAN[0], columns=SCAN[1], step_nm=STEP_NM, rotation_deg=ROTATION_DEG, dose_e=1.0)
    plan = acquisition.placed(plan)
    positions = path(plan, 0, plan.count)
    patterns = acquisition.expected(positions, positions.intended_nm, lambda line: Aberrations.of(DEFOCUS))
    frames = np.stack([image for image, _ in patterns if image is not None])
    field = acquisition.renderer.field
    places = (positions.intended_nm - np.array(field.corner_nm)) / field.sampling_nm
    phase = np.angle(field.functions[0, 0])
    return frames, ndimage.map_coordinates(phase, places.T[::-1], order=3, mode="grid-wrap").reshape(SCAN)


def meta_of(camera: tuple[int, int] = (60, 60), **changes: Any) -> StreamMeta:
    known = {
        "step_nm": STEP_NM,
        "rotation_deg": ROTATION_DEG,
        "energy_kev": OPTICS.energy_kev,
        "convergence_mrad": OPTICS.convergence_mrad,
        "pixel_mrad": OPTICS.camera_pixel_mrad,
    }
    transposed = changes.pop("transposed", False)
    return StreamMeta(Layout(SCAN, camera, "uint32"), Metadata(**{**known, **changes}), transposed=transposed)


PIXEL = np.moveaxis(np.indices(SCAN), 0, -1).reshape(-1, 2)


def streamed(frames: np.ndarray, meta: StreamMeta, block: int = 45, finish: bool = True, **options: Any) -> Agent:
    agent = load("epie", {"members": 0, "every": 45, "aberrations": DEFOCUS, **options})
    agent.start(meta)
    for first in range(0, len(frames), block):
        agent.update(FrameBlock(frames[first : first + block], PIXEL[first : first + block]))
    if finish:
        agent.finish()
    return agent


def correlation(result: Reconstruction, truth: np.ndarray) -> float:
    found = result.images["phase_on_scan"].values
    return float(np.corrcoef(found.ravel(), truth.ravel())[0, 1])


def test_a_thin_specimen_is_explained_to_a_twentieth_of_the_start() -> None:
    frames, truth = twisted_graphene()
    counts = np.rint(1e8 * frames).astype(np.uint32)
    result = streamed(counts, meta_of(), passes=60, caution=0.0, final_caution=10.0, probe_step=1.0).result()
    assert result.figures["amplitude_error"] < 0.05 * result.figures["amplitude_error_start"]
    assert correlation(result, truth) > 0.95
    native = result.images["phase"]
    assert native.step_nm == pytest.approx(OPTICS.wavelength_nm / (60 * OPTICS.camera_pixel_mrad * 1e-3))
    # Atoms are bright: the phase is skewed to positive values.
    assert np.nanmax(native.values) > 2 * -np.nanmin(native.values)


def test_rotation_and_transposition_are_taken_into_account() -> None:
    frames, truth = twisted_graphene()
    counts = np.random.default_rng(1).poisson(1e5 * frames).astype(np.uint32)
    plain = streamed(counts, meta_of(), passes=10).result()
    right = correlation(plain, truth)
    assert right > 0.85
    swapped = streamed(np.ascontiguousarray(counts.swapaxes(1, 2)), meta_of(transposed=True), passes=10).result()
    np.testing.assert_array_equal(swapped.images["phase"].values, plain.images["phase"].values)
    for wrong in (
        streamed(counts, meta_of(rotation_deg=-ROTATION_DEG), passes=10),
        streamed(counts, meta_of(transposed=True), passes=10),
    ):
        other = wrong.result()
        assert correlation(other, truth) < right - 0.1
        assert other.figures["amplitude_error"] > plain.figures["amplitude_error"]


def own_frames(electrons: float, seed: int, size: int = 24, pixel_mrad: float = 6.0) -> tuple[np.ndarray, StreamMeta]:
    """Poisson counts of the agent's own model: a random phase object under its own start probe."""
    meta = meta_of((size, size), pixel_mrad=pixel_mrad)
    pixel_nm = OPTICS.wavelength_nm / (size * pixel_mrad * 1e-3)
    geometry = Geometry(pixel_nm, STEP_NM / pixel_nm, ROTATION_DEG, SCAN, size)
    probe = start_probe(Beam(OPTICS.wavelength_nm, 30.0, pixel_mrad), size, electrons, aberrations_nm=DEFOCUS)
    truth = ObjectAndProbe.start(geometry.shape, probe.astype(np.complex64))
    noise = ndimage.gaussian_filter(np.random.default_rng(9).standard_normal(geometry.shape), 2.0)
    wave = np.exp(0.5j * noise / np.abs(noise).max())
    truth.planes[0], truth.planes[1] = wave.real, wave.imag
    expected = intensity(truth, Places.of(geometry.positions(PIXEL), size))
    counts = np.random.default_rng(seed).poisson(expected).astype(np.uint32)
    return np.fft.fftshift(counts.swapaxes(1, 2), axes=(1, 2)), meta


def test_residuals_of_the_right_model_are_white_and_those_of_a_wrong_one_are_not() -> None:
    """The seed is fixed; a right model is called wrong once in a hundred seeds."""
    frames, meta = own_frames(2000.0, 0)
    fitted = streamed(frames, meta, passes=40).result().trust
    assert fitted is not None
    assert fitted.fits, fitted
    assert fitted.variance == pytest.approx(1.0, abs=0.1)
    blind = streamed(frames, meta, passes=0, sweeps=0).result().trust
    assert blind is not None
    assert not blind.fits
    turned = streamed(frames, meta_of((24, 24), pixel_mrad=6.0, rotation_deg=-60.0), passes=40).result().trust
    assert turned is not None
    assert not turned.fits


@pytest.mark.parametrize(("probe_step", "electrons"), [(0.0, 300.0), (0.5, 4000.0)])
def test_the_spread_is_that_of_repeated_scans(probe_step: float, electrons: float) -> None:
    """Eight scans that differ by their noise alone, and the members of one.

    Some 200 independent pixels: the scans' rms is known to 1 / sqrt(2 * 7 * 200) = 2 %, that of six members likewise;
    the bounds are 2.5 of both together.
    """
    options = {"passes": 30, "anneal": 25, "probe_step": probe_step, "every": 10**6}
    scans: dict[str, list[np.ndarray]] = {"phase": [], "phase_on_scan": [], "amplitude": []}
    for seed in range(8):
        frames, meta = own_frames(electrons, seed)
        result = streamed(frames, meta, **options).result()
        for name, images in scans.items():
            images.append(result.images[name].values)
    frames, meta = own_frames(electrons, 0)
    found = streamed(frames, meta, members=6, **options).result()
    for name, images in scans.items():
        spread = found.images[name].spread
        assert spread is not None
        known = np.isfinite(images).all(axis=0)
        truth = np.sqrt(np.var(images, axis=0, ddof=1)[known].mean())
        assert 0.93 < np.sqrt((spread[known] ** 2).mean()) / truth < 1.07, name


def test_a_patch_tells_the_spread_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, meta = own_frames(1000.0, 0)
    options = {"passes": 10, "members": 6, "probe_step": 0.0}
    whole = streamed(frames, meta, **options).result().images["phase"].spread
    monkeypatch.setattr(ensemble, "FRAMES", 6 * 10 * 90)  # half of the 180
    part = streamed(frames, meta, **options).result().images["phase"].spread
    assert whole is not None
    assert part is not None
    assert np.nanmedian(part / whole) == pytest.approx(1.0, abs=0.15)


def test_passes_go_on_until_the_error_is_flat_and_no_further() -> None:
    frames, meta = own_frames(3000.0, 7)
    options = {"anneal": 6, "probe_step": 0.0, "final_caution": 10.0}
    settled = streamed(frames, meta, passes=200, **options).result()
    count = int(settled.figures["passes_after_scan"])
    assert 6 + schedule.FLAT_PASSES <= count < 200
    assert settled.figures["converged"] == 1.0
    assert any(f"converged in {count} passes" in note for note in settled.notes)
    # Once more as many change next to nothing.
    longer = streamed(frames, meta, passes=2 * count, tolerance=0.0, **options).result()
    assert longer.figures["passes_after_scan"] == 2 * count
    assert longer.figures["amplitude_error"] == pytest.approx(settled.figures["amplitude_error"], rel=0.01)
    # One less is not flat yet: it stopped at the first chance.
    capped = streamed(frames, meta, passes=count - 1, **options).result()
    assert capped.figures["converged"] == 0.0
    assert capped.figures["passes_after_scan"] == count - 1
    assert any(f"not converged: the {count - 1} passes allowed are over" in note for note in capped.notes)


def test_flat_is_what_settles_after_the_annealing() -> None:
    """Four passes of annealing; then the last five have to stay within 1 %."""
    options = schedule.Schedule(anneal=4, tolerance=0.01)
    annealing, settled = [9.0, 9.0, 9.0, 3.0], [2.0, 2.01, 2.0, 2.01, 2.0]
    assert not options.flat(annealing + settled)  # from 3 to 2 since the fourth
    assert options.flat([*annealing, *settled, 1.99])
    assert not options.flat([*annealing, *settled, 1.9])
    assert not options.flat([2.0] * 8)
    assert options.flat([2.0] * 9)


def test_a_camera_pixel_is_an_area_where_one_asks_for_it() -> None:
    """Frames of a window of 48 pixels, 2 x 2 of them in each of the camera's 24."""
    fine = own_frames(20_000.0, 3, size=48, pixel_mrad=3.0)[0]
    pixels = fine.reshape(len(fine), 24, 2, 24, 2).sum(axis=(2, 4))
    coarse = meta_of((24, 24), pixel_mrad=6.0)
    options = {"passes": 40, "probe_step": 0.0, "every": 10**6}
    areas = streamed(pixels, coarse, finer=2, **options).result()
    points = streamed(pixels, coarse, **options).result()
    assert areas.figures["object_pixel_nm"] == points.figures["object_pixel_nm"]
    assert areas.trust is not None
    assert points.trust is not None
    assert areas.trust.variance < points.trust.variance
    assert areas.trust.unexplained is not None
    assert points.trust.unexplained is not None
    assert areas.trust.unexplained < 0.5 * points.trust.unexplained  # the rest is not converged yet
    assert any("does not fit" in note and "not explained" in note for note in points.notes)


def test_faint_frames_hardly_change_the_probe() -> None:
    """Fifty electrons a frame, made with the start probe: a probe that followed their noise would lose 0.8 %."""
    frames, meta = own_frames(50.0, 0)
    iteration = streamed(frames, meta, passes=10, every=10**6).iteration  # type: ignore[attr-defined]
    start, end = iteration.first_probe, iteration.estimate.probe
    overlap = abs(np.vdot(start, end)) ** 2 / (np.vdot(start, start) * np.vdot(end, end)).real
    assert 0.998 < overlap < 1.0


def test_how_a_stream_is_cut_does_not_matter() -> None:
    frames, meta = own_frames(300.0, 1)
    results = [streamed(frames, meta, block, passes=2, every=50).result() for block in (1, 37, 180)]
    for other in results[1:]:
        np.testing.assert_array_equal(other.images["phase"].values, results[0].images["phase"].values)
        assert other.figures == results[0].figures


def test_a_result_is_there_from_the_start_and_changes_nothing() -> None:
    frames, meta = own_frames(300.0, 2)
    agent = load("epie", {"every": 45, "members": 0})
    agent.start(meta)
    empty = agent.result()
    assert empty.images["phase_on_scan"].values.shape == SCAN
    assert all(np.isnan(image.values).all() for image in empty.images.values())
    agent.finish()
    shapes = {name: image.values.shape for name, image in empty.images.items()}
    asked, silent = streamed(frames[:90], meta, finish=False), streamed(frames[:90], meta, finish=False)
    live = asked.result()
    assert {name: image.values.shape for name, image in live.images.items()} == shapes
    assert np.isfinite(live.images["phase_on_scan"].values[:6]).all()
    assert np.isnan(live.images["phase_on_scan"].values[-1]).all()
    for agent in (asked, silent):
        agent.update(FrameBlock(frames[90:], PIXEL[90:]))
        agent.finish()
    after = [agent.result().images["phase"].values for agent in (asked, silent)]
    np.testing.assert_array_equal(after[0], after[1])
    asked.finish()  # nothing new has come
    np.testing.assert_array_equal(asked.result().images["phase"].values, after[0])


def test_a_common_shift_of_object_and_probe_does_not_shift_the_picture() -> None:
    frames, meta = own_frames(1000.0, 6)
    agent = streamed(frames, meta, passes=5)
    before = agent.result()
    estimate = agent.iteration.estimate  # type: ignore[attr-defined]
    probe = np.roll(estimate.probe, (1, 2), axis=(1, 2))
    moved = ObjectAndProbe.start(estimate.planes.shape[1:], probe)
    moved.planes[:] = np.roll(estimate.planes, (1, 2), axis=(1, 2))
    agent.iteration.estimate = moved  # type: ignore[attr-defined]
    after = agent.result()
    for name in ("phase", "phase_on_scan"):
        difference = after.images[name].values - before.images[name].values
        assert np.nanstd(difference) < 0.1 * np.nanstd(before.images[name].values), name


@pytest.mark.parametrize(("per_pixel", "left"), [(0.1, 1.0), (0.45, 0.0)])
def test_what_the_scan_is_too_coarse_for_is_not_folded_into_the_rest(per_pixel: float, left: float) -> None:
    """Steps of 1.4 pixels hold 0.36 periods per pixel: coarser stripes are in the picture, finer ones are not."""
    frames, meta = own_frames(1000.0, 6)
    agent = streamed(frames, meta, passes=1)
    planes = agent.iteration.estimate.planes  # type: ignore[attr-defined]
    stripes = 0.3 * np.cos(2 * np.pi * per_pixel * np.arange(planes.shape[2])) + np.zeros(planes.shape[1:])
    planes[0], planes[1] = np.cos(stripes), np.sin(stripes)
    found = agent.result().images["phase_on_scan"].values[3:-3, 3:-3]
    assert np.std(found) / (0.3 / np.sqrt(2)) == pytest.approx(left, abs=0.1)


def test_a_scan_that_does_not_fit_is_thinned_out_and_says_so() -> None:
    frames, meta = own_frames(300.0, 3)
    whole = streamed(frames, meta, passes=3).result()
    assert not any("memory_bytes" in note for note in whole.notes)
    bytes_of_half = int((whole.figures["frames_mib"]) * 2**20)
    geometry_bytes = 2 * 8 * 65 * 70  # more than the object takes
    thinned = streamed(frames, meta, passes=3, memory_bytes=bytes_of_half + geometry_bytes // 8).result()
    assert thinned.figures["frames_kept"] < 180
    assert thinned.figures["frames_mib"] < whole.figures["frames_mib"]
    assert any("frames fit memory_bytes" in note for note in thinned.notes)
    assert np.isfinite(thinned.images["phase_on_scan"].values).all()
    with pytest.raises(MetaError, match="memory_bytes is"):
        streamed(frames, meta, memory_bytes=1000)


def test_a_setting_changes_while_it_runs() -> None:
    frames, meta = own_frames(300.0, 4)
    agent = streamed(frames, meta, finish=False)
    agent.configure(modes=2, passes=4)
    agent.finish()
    figures = agent.result().figures
    assert figures["passes"] == 4
    assert 0 < figures["mode_1_share"] < 0.3
    with pytest.raises(OptionError, match="binning cannot change within a stream"):
        agent.configure(binning=2)
    with pytest.raises(OptionError, match="modes: input should be less than or equal to 6"):
        agent.configure(modes=7)


def test_a_camera_that_is_not_square_loses_nothing() -> None:
    frames, meta = own_frames(1000.0, 5)
    square = streamed(frames, meta, passes=5).result()
    padded = np.pad(frames, ((0, 0), (0, 0), (0, 1)))  # odd: the middle stays at pixel 24 // 2
    other = streamed(padded, meta_of((24, 25), pixel_mrad=6.0), passes=5).result()
    assert other.images["phase"].step_nm != square.images["phase"].step_nm
    a, b = (result.images["phase_on_scan"].values.ravel() for result in (square, other))
    assert np.corrcoef(a, b)[0, 1] > 0.9


@pytest.mark.parametrize("name", ["step_nm", "rotation_deg", "energy_kev", "convergence_mrad", "pixel_mrad"])
def test_what_is_not_known_is_asked_for(name: str) -> None:
    with pytest.raises(MetaError, match=f"epie needs {name}"):
        load("epie").start(meta_of(**{name: None}))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(MetaError, match="bright-field disc is 120 pixels wide, the window 60"):
        load("epie").start(meta_of(pixel_mrad=0.5))
    with pytest.raises(MetaError, match="rows and columns"):
        load("epie").start(StreamMeta(Layout((7,), (60, 60)), meta_of().metadata))
    with pytest.raises(OptionError, match="C1O"):
        load("epie", {"aberrations": {"C1O": 1.0}})
    with pytest.raises(OptionError, match="did you mean"):
        load("epie", {"pases": 3})


def test_a_scan_without_an_electron_is_said_and_nothing_is_reconstructed() -> None:
    meta = meta_of()
    found = streamed(np.zeros((len(PIXEL), 60, 60), np.uint16), meta, 60, passes=2).result()
    assert all(np.isnan(image.values).all() for image in found.images.values())
    assert f"no electron in {len(PIXEL)} frames: nothing to reconstruct" in found.notes
