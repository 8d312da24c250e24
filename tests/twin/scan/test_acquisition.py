"""Scans from plan to counts: reproducible however cut, on the clock, with the statistics they must have, or refused."""

import math
import tracemalloc
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from fakes import camera_theory
from pydantic import ValidationError
from scipy.stats import chi2, norm

from twin.aberrations import Aberrations
from twin.cameras.event import event_times_ns, events_to_frames
from twin.cameras.properties import CountingCamera, EventCamera, IntegratingCamera
from twin.day import Day, DriftProperties, ScanProperties
from twin.detectors.layouts import AngleError, Region
from twin.detectors.scintillator import ScintillatorChain, relative_variance
from twin.optics import AliasingError, Optics
from twin.scan.acquisition import Acquisition
from twin.scan.diffraction import to_camera
from twin.scan.plan import ScanPlan, paths
from twin.scan.running import expose_frame
from twin.scan.setup import ScanSetup
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.types import CanScan, HasScanTruth

CELL_NM = 0.3905
OPTICS = Optics(convergence_mrad=20.0, grid=128, sampling_nm=4 * CELL_NM / 128, camera_pixels=32, binning=2)
SPACE = StateSpace(names=("C10", "C12a", "C12b"), start_nm=(4, 4, 4), input_nm=(8, 8, 8), tolerance_nm=(1, 1, 1))
SETUP = ScanSetup(
    specimen="sto_001",
    specimen_options={"width_nm": 4 * CELL_NM, "height_nm": 2 * CELL_NM, "thickness_nm": CELL_NM, "thermal": False},
    optics=OPTICS,
    detectors={"bf": None, "abf": None, "dark": (Region(inner_mrad=25, outer_mrad=50),)},
)
STEADY = Day(focal_spread_nm=0.0, source_size_nm=0.0)
PLAN = ScanPlan(rows=5, columns=6, step_nm=0.1, dwell_s=2e-3, flyback_s=3e-3, settle_s=1e-3, dose_e=2000.0)


@cache
def shared(setup=None, day=STEADY):
    """The transmission functions are the same all through."""
    return Acquisition(SETUP if setup is None else setup, day)


def microscope(day=STEADY, setup=SETUP, seed=1):
    made = SimulatedMicroscope(Optics(), SPACE, day, scan=setup)
    made.reset(np.random.default_rng(seed))
    return made


def everything(blocks):
    """(frames, signals by name, clock, intended positions) of a whole scan."""
    blocks = list(blocks)
    frames = None if blocks[0].frames is None else np.concatenate([b.frames for b in blocks])
    signals = {name: np.concatenate([b.signals[name] for b in blocks]) for name in blocks[0].signals}
    intended = np.concatenate([b.path.intended_nm for b in blocks])
    return frames, signals, np.concatenate([b.clock_s for b in blocks]), intended


def as_bytes(scan):
    frames, signals, clock_s, intended = scan
    return (frames.tobytes(), *(s.tobytes() for s in signals.values()), clock_s.tobytes(), intended.tobytes())


BUSY = replace(
    STEADY,
    scan=ScanProperties(jitter_x_nm=0.01, jitter_y_nm=0.01, drift_walk_nm_per_sqrt_s=0.1, response_s=1e-3),
    drift=DriftProperties(rate_nm_per_sqrt_s={"1": 5.0, "2": 20.0}, wander_nm={"C30": 100.0}, wander_period_s=0.05),
)


@pytest.mark.parametrize("pattern", ["raster", "serpentine"])
@pytest.mark.parametrize("camera", [CountingCamera(charge_spread_px=0.3), IntegratingCamera(readout_rms=1.0)])
def test_the_same_seed_gives_the_same_bytes_however_the_scan_is_cut(pattern, camera):
    setup = replace(SETUP, camera=camera, chain=ScintillatorChain(readout_rms=2.0))
    plan = replace(PLAN, pattern=pattern)
    whole = as_bytes(everything(microscope(BUSY, setup).scan(plan, block=30)))
    for block in (1, 7, 1000):
        assert as_bytes(everything(microscope(BUSY, setup).scan(plan, block=block))) == whole
    assert as_bytes(everything(microscope(BUSY, setup, seed=2).scan(plan, block=30))) != whole


def events_of(blocks):
    """All events of a scan, and its path."""
    blocks = list(blocks)
    assert all(b.frames is None for b in blocks)
    return np.concatenate([b.events for b in blocks]), blocks


@pytest.mark.parametrize("pattern", ["raster", "serpentine"])
def test_an_event_camera_sends_the_same_events_however_the_scan_is_cut(pattern):
    camera = EventCamera(
        charge_spread_px=0.3, deposit_width_kev=15.0, toa_rms_ns=1.6, reorder_s=5e-3, hot_fraction=0.01
    )
    setup, plan = replace(SETUP, camera=camera, detectors={}), replace(PLAN, pattern=pattern, dose_e=200.0)
    whole, _ = events_of(microscope(BUSY, setup).scan(plan, block=30))
    assert np.any(np.diff(whole["toa"].astype(np.int64)) < 0)
    for block in (1, 7, 1000):
        cut, _ = events_of(microscope(BUSY, setup).scan(plan, block=block))
        assert cut.tobytes() == whole.tobytes()
    other, _ = events_of(microscope(BUSY, setup, seed=2).scan(plan, block=30))
    assert other.tobytes() != whole.tobytes()


def test_events_come_while_the_beam_dwells_on_the_clock_of_the_scan():
    setup = replace(SETUP, camera=EventCamera())
    scope = microscope(setup=setup)
    scope.acquire()
    events, blocks = events_of(scope.scan(PLAN, block=7))
    start_s, end_s = (np.concatenate([getattr(b.path, name) for b in blocks]) for name in ("start_s", "end_s"))
    time_s = event_times_ns(events) * 1e-9
    position = np.searchsorted(start_s, time_s) - 1
    assert position.min() == 0
    assert np.all(time_s < end_s[position])
    # Electrons that miss the camera leave no event; the rest are Poisson, false alarm 1e-4 for each of three tests.
    images, _ = expected(PLAN, SPACE.to_aberrations(microscope().truth().state_nm))
    frames = events_to_frames(events, (32, 32), start_s, end_s)
    for seen, mean in ((frames.sum(), images.sum()), (frames[:, :, 16:].sum(), images[:, :, 16:].sum())):
        assert abs(seen - mean) / math.sqrt(mean) < norm.isf(1e-4 / 2)
    mean = images.sum(axis=0)
    lit = mean > 20
    strange = ((frames.sum(axis=0)[lit] - mean[lit]) ** 2 / mean[lit]).sum()
    assert chi2.isf(1 - 1e-4 / 2, lit.sum()) < strange < chi2.isf(1e-4 / 2, lit.sum())


def test_an_event_camera_is_for_the_electrons_of_the_beam():
    with pytest.raises(ValueError, match=r"camera\.energy_kev is 200; the beam has 300"):
        microscope(setup=replace(SETUP, camera=EventCamera(energy_kev=200.0, deposit_kev=150.0)))


def test_blocks_are_immutable_and_in_read_out_order():
    blocks = list(microscope().scan(PLAN, block=8))
    assert [len(b) for b in blocks] == [8, 8, 8, 6]
    assert [b.path.first for b in blocks] == [0, 8, 16, 24]
    for array in (blocks[0].frames, blocks[0].clock_s, blocks[0].signals["bf"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert blocks[0].frames.shape == (8, 32, 32)
    assert blocks[0].frames.dtype == np.uint16
    assert set(blocks[0].signals) == {"bf", "abf", "dark"}


def test_the_clock_counts_settling_dwells_and_flybacks():
    scope = microscope()
    scope.acquire()
    begun_s = STEADY.overhead_s + STEADY.exposure_s
    *_, clock_s, _ = everything(scope.scan(PLAN, block=7))
    assert clock_s[0] == pytest.approx(begun_s + 1e-3 + 2e-3)
    assert clock_s[5] - clock_s[4] == pytest.approx(2e-3)
    assert clock_s[6] - clock_s[5] == pytest.approx(2e-3 + 3e-3 + 1e-3)
    whole_s = begun_s + 30 * 2e-3 + 5 * 1e-3 + 4 * 3e-3
    assert clock_s[-1] == pytest.approx(whole_s)
    assert scope.acquire().clock_s == pytest.approx(whole_s + begun_s)


def test_a_plan_without_a_centre_lies_in_the_middle_of_the_specimen():
    *_, intended = everything(microscope().scan(PLAN))
    np.testing.assert_allclose(intended.mean(axis=0), (2 * CELL_NM, CELL_NM))
    *_, intended = everything(microscope().scan(replace(PLAN, centre_nm=(0.5, 0.4))))
    np.testing.assert_allclose(intended.mean(axis=0), (0.5, 0.4))


def expected(plan, aberrations=Aberrations(), setup=None):  # noqa: B008  (immutable)
    acquisition = shared() if setup is None else Acquisition(setup, STEADY)
    plan = acquisition.placed(plan)
    (path,) = paths(plan, plan.count)
    images, signals = zip(*acquisition.expected(path, path.intended_nm, lambda line: aberrations), strict=True)
    return np.array(images), np.array(signals)


def test_expected_signals_are_the_renderer_s_patterns_times_the_dose():
    """Sums over whole pixels from 25 mrad on; the dark field lies beyond the aperture, the bright field within it."""
    # Astigmatic: the crystal is symmetric about x = y, and without it exchanged axes would give the same signals.
    astigmatic = Aberrations.of({"C12a": 8.0})
    images, signals = expected(PLAN, astigmatic)
    acquisition = shared()
    path = next(paths(acquisition.placed(PLAN), 30))
    patterns = acquisition.renderer.diffraction(astigmatic, path.intended_nm)
    size = patterns.shape[-1]
    angle = np.hypot(*np.meshgrid(*[(np.arange(size) - size // 2) * OPTICS.pixel_mrad] * 2))
    dark = 2000 * patterns[:, (angle > 25) & (angle < 50)].sum(axis=1)
    np.testing.assert_allclose(signals[:, 2], dark, rtol=0.1)
    assert np.corrcoef(signals[:, 2], dark)[0, 1] > 0.999
    assert np.all(signals[:, 0] > signals[:, 1])
    np.testing.assert_allclose(signals[:, 0], 2000 * patterns[:, angle <= 20].sum(axis=1), rtol=0.05)
    covered = patterns[:, size // 2 - 32 : size // 2 + 32, size // 2 - 32 : size // 2 + 32].sum((1, 2), dtype=float)
    np.testing.assert_allclose(images.sum((1, 2), dtype=float), 2000 * covered, rtol=1e-5)
    camera = np.array([to_camera(pattern, OPTICS) for pattern in patterns])
    np.testing.assert_allclose(images, 2000 * camera, rtol=1e-4, atol=1e-5)


def test_counts_are_poisson_about_what_is_expected():
    """Chi-squared of 90 signals and of 30 whole frames, each within a two-sided 1e-3; the seed is fixed."""
    images, signals = expected(PLAN)
    frames, counted, *_ = everything(microscope().scan(PLAN))
    counted = np.stack([counted[name] for name in ("bf", "abf", "dark")], axis=1)
    state = microscope().truth().state_nm
    images, signals = expected(PLAN, SPACE.to_aberrations(state))
    for got, mean in ((counted.ravel(), signals.ravel()), (frames.sum((1, 2)), images.sum((1, 2)))):
        statistic = np.sum((got - mean) ** 2 / mean)
        assert chi2.ppf(5e-4, got.size) < statistic < chi2.ppf(1 - 5e-4, got.size)
    total, sigma = images.sum(), math.sqrt(images.sum())
    assert abs(frames.sum() - total) < norm.ppf(1 - 5e-4) * sigma


def test_the_dose_scales_expectations():
    images, signals = expected(replace(PLAN, dose_e=4000.0))
    half_images, half_signals = expected(PLAN)
    np.testing.assert_allclose(images, 2 * half_images, rtol=1e-6)
    np.testing.assert_allclose(signals, 2 * half_signals, rtol=1e-6)


def test_an_input_and_the_residual_change_the_pattern():
    scope, other = microscope(), microscope()
    shift = np.array([6.0, 0.0, 0.0])
    other.apply(shift)
    one, two = (everything(s.scan(replace(PLAN, dose_e=1e6)))[0].astype(float) for s in (scope, other))
    assert np.linalg.norm(one - two) > 0.02 * np.linalg.norm(one)
    np.testing.assert_allclose(other.truth().state_nm - scope.truth().state_nm, shift, atol=1e-9)


def test_c10_counts_from_the_mid_plane():
    """Two slices of equal crystal: exchanged under inverted C10 about the middle, but for the band limit's small share.

    A weak phase object's disc has the same spectrum at +C10 and -C10 only if C10 counts from its middle.
    """
    options = {"element": "C", "positions_nm": [[0.78, 0.78]], "side_nm": 4 * CELL_NM, "thermal": False}
    setup = replace(SETUP, specimen="single_atoms", specimen_options=options, slice_nm=0.1)
    acquisition = Acquisition(setup, STEADY)
    field = acquisition.renderer.field
    assert field.slices == 4
    path = next(paths(acquisition.placed(replace(PLAN, rows=1, columns=1)), 1))
    state = Aberrations.of({"C10": 5.0})
    ((image, _),) = acquisition.expected(path, path.intended_nm, lambda line: state)
    entrance = state + Aberrations.of({"C10": -0.15})
    reference = to_camera(acquisition.renderer.diffraction(entrance, path.intended_nm)[0], OPTICS) * 2000
    np.testing.assert_allclose(image, reference, rtol=1e-5, atol=1e-6)


def test_jitter_moves_the_probe_and_only_truth_tells():
    day = replace(STEADY, scan=ScanProperties(jitter_x_nm=0.05, jitter_y_nm=0.05))
    still, shaken = microscope(), microscope(day)
    block, moved = next(still.scan(PLAN, block=30)), next(shaken.scan(PLAN, block=30))
    np.testing.assert_array_equal(still.scan_truth().actual_nm, block.path.intended_nm)
    np.testing.assert_array_equal(moved.path.intended_nm, block.path.intended_nm)
    offset = shaken.scan_truth().actual_nm - moved.path.intended_nm
    assert 0.02 < np.std(offset) < 0.15
    assert not np.array_equal(moved.frames, block.frames)


def test_aberrations_drift_from_line_to_line_and_the_time_after_a_scan_is_not_lost():
    """A step between the second and the third line; and a walk whose variance is that of the whole time."""
    line_s = 1e-3 + 6 * 2e-3 + 3e-3
    step = DriftProperties(step_nm={"C10": 7.0}, step_at_s=1.5 * line_s)
    scope = microscope(replace(STEADY, drift=step))
    start = scope.truth().state_nm[0]
    seen = []
    for _ in scope.scan(PLAN, block=6):
        seen.append(scope.truth().state_nm[0] - start)
    np.testing.assert_allclose(seen, [0, 0, 7, 7, 7], atol=1e-9)
    walk = replace(STEADY, drift=DriftProperties(rate_nm_per_sqrt_s={"1": 1.0}), overhead_s=0.05, exposure_s=0.05)
    ends = []
    for seed in range(40):
        scope = microscope(walk, replace(SETUP, camera=None), seed)
        start = scope.truth().state_nm
        for _ in scope.scan(replace(PLAN, rows=2, columns=1, dwell_s=0.5)):
            pass
        clock_s = scope.acquire().clock_s
        ends.append(scope.truth().state_nm - start)
    statistic = np.sum(np.square(ends)) / clock_s
    # 120 independent normals; two-sided false-alarm rate 1e-3.
    assert chi2.ppf(5e-4, 120) < statistic < chi2.ppf(1 - 5e-4, 120)


def test_acquisitions_without_a_scan_are_what_they_were():
    """A setup for scans changes no exposure."""
    plain = SimulatedMicroscope(Optics(), SPACE, BUSY)
    plain.reset(np.random.default_rng(1))
    ready = microscope(BUSY)
    for _ in range(2):
        assert ready.acquire() == plain.acquire()


def test_lists_and_subsampled_scans():
    places = ((0.0, 0.1), (-0.4, 0.2), (0.25, -0.3))
    _, signals, _, intended = everything(microscope().scan(ScanPlan(pattern="list", positions_nm=places), block=2))
    np.testing.assert_allclose(intended - (2 * CELL_NM, CELL_NM), places, atol=1e-12)
    assert all(len(s) == 3 for s in signals.values())
    some = replace(PLAN, pattern="subsampled", fraction=0.4)
    frames, *_ = everything(microscope().scan(some, block=5))
    assert len(frames) == 12


def test_without_a_camera_there_are_signals_and_without_detectors_frames():
    frames, signals, *_ = everything(microscope(setup=replace(SETUP, camera=None)).scan(PLAN))
    assert frames is None
    assert signals["bf"].shape == (30,)
    frames, signals, *_ = everything(microscope(setup=replace(SETUP, detectors={})).scan(PLAN))
    assert frames.shape == (30, 32, 32)
    assert signals == {}
    with pytest.raises(ValueError, match="a scan needs a camera or at least one detector"):
        microscope(setup=replace(SETUP, camera=None, detectors={}))


def test_the_chain_amplifies():
    """Signals become counts: offset and gain of the digitiser, to 2 % on the mean of 30 positions."""
    chain = ScintillatorChain(offset=300.0, counts_per_electron=10.0, bit_depth=16)
    _, counts, *_ = everything(microscope(setup=replace(SETUP, chain=chain)).scan(PLAN))
    state = microscope().truth().state_nm
    _, signals = expected(PLAN, SPACE.to_aberrations(state))
    assert counts["bf"].mean() == pytest.approx(300 + 10 * signals[:, 0].mean(), rel=0.02)


def test_memory_goes_with_the_block_and_not_with_the_scan():
    def peak(rows):
        scope = microscope()
        for _ in scope.scan(replace(PLAN, rows=1, columns=1)):
            pass  # transmission functions and compiled loops
        blocks = scope.scan(replace(PLAN, rows=rows, columns=40, step_nm=0.01), block=20)
        next(blocks)
        tracemalloc.start()
        for _ in blocks:
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    more_frames = (24 - 3) * 40 * 32 * 32 * 2
    assert peak(24) - peak(3) < 0.2 * more_frames


def test_a_slow_detector_smears_the_signals_and_not_the_frames():
    slow = replace(STEADY, scan=ScanProperties(response_shape="exponential", response_s=4e-3))
    plan = replace(PLAN, dose_e=1e7)
    frames, sharp, *_ = everything(microscope().scan(plan))
    same_frames, smeared, *_ = everything(microscope(slow).scan(plan))
    np.testing.assert_array_equal(frames, same_frames)
    assert np.ptp(smeared["dark"]) < 0.8 * np.ptp(sharp["dark"])


def test_every_scan_and_exposure_has_noise_of_its_own():
    scope = microscope()
    one, other = everything(scope.scan(PLAN)), everything(scope.scan(PLAN))
    np.testing.assert_array_equal(one[3], other[3])
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1]["bf"], other[1]["bf"])


def test_what_the_microscope_can_do():
    scope = microscope()
    assert isinstance(scope, CanScan)
    assert isinstance(scope, HasScanTruth)
    assert scope.capabilities.can_scan
    plain = SimulatedMicroscope(Optics(), SPACE, STEADY)
    assert not plain.capabilities.can_scan
    plain.reset(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="no setup for scans"):
        plain.scan(PLAN)


def test_calls_out_of_turn_are_refused():
    fresh = SimulatedMicroscope(Optics(), SPACE, STEADY, scan=SETUP)
    with pytest.raises(RuntimeError, match=r"scan\(\) before reset"):
        fresh.scan(PLAN)
    scope = microscope()
    with pytest.raises(RuntimeError, match="before the first block"):
        scope.scan_truth()
    first, second = scope.scan(PLAN, block=10), scope.scan(PLAN, block=10)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="another scan or session has begun"):
        next(first)
    next(second)
    scope.reset(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="another scan or session has begun"):
        next(second)


@pytest.mark.parametrize(
    ("plan", "kind", "message"),
    [
        (replace(PLAN, step_nm=0.4), ValueError, r"along x; the specimen spans 0 to 1\.562 nm"),
        (replace(PLAN, centre_nm=(0.2, 0.8)), ValueError, r"the scan goes from -0\.05 .* along x"),
        (
            replace(PLAN, dwell_s=1e-4),
            ValueError,
            r"dwell_s 0\.0001 s is shorter than the camera's read-out of 0\.001 s",
        ),
    ],
)
def test_a_scan_that_cannot_be_is_refused_before_anything_is_computed(plan, kind, message):
    scope = microscope(setup=replace(SETUP, camera=CountingCamera(readout_s=1e-3)))
    with pytest.raises(kind, match=message):
        scope.scan(plan)
    assert "renderer" not in scope._acquisition.__dict__


def test_an_aliasing_probe_is_refused_before_anything_is_computed():
    scope = microscope(replace(STEADY, residual_nm={"C12a": 60.0}))
    with pytest.raises(AliasingError, match=r"needs a window of .*the grid spans 1\.6 nm"):
        scope.scan(PLAN)
    assert "renderer" not in scope._acquisition.__dict__


def test_thickness_and_focal_spread_count_towards_the_probe_s_width():
    """The window holds 38 nm of C10 at the entrance face; 30 nm about the middle of 4 cells are fine, of 60 not."""
    for cells, spread_nm, fits in ((4, 0.0, True), (60, 0.0, False), (4, 8.0, False)):
        options = {**SETUP.specimen_options, "thickness_nm": cells * CELL_NM}
        day = replace(STEADY, focal_spread_nm=spread_nm)
        acquisition = Acquisition(replace(SETUP, specimen_options=options, slice_nm=CELL_NM), day)
        plan = acquisition.placed(PLAN)
        state = Aberrations.of({"C10": -30.0})
        if fits:
            acquisition.check(plan, state)
            continue
        with pytest.raises(AliasingError, match="needs a window"):
            acquisition.check(plan, state)


def test_a_detector_beyond_the_sampled_angles_is_refused():
    with pytest.raises(
        AngleError, match=r"'haadf' reaches 190\.0 mrad; the sampled angles end at 52\.2 mrad.*sampling_nm <= 0\.0034"
    ):
        Acquisition(replace(SETUP, detectors={"haadf": None}), STEADY)
    aside = (Region(outer_mrad=30, centre_mrad=(0, 25)),)
    with pytest.raises(AngleError, match=r"'aside' reaches 55\.0 mrad"):
        Acquisition(replace(SETUP, detectors={"aside": aside}), STEADY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detectors": {"bff": None}}, r"'bff' is not a detector \(did you mean bf\?\)"),
        ({"slice_nm": 0.0}, "greater than 0"),
        ({"snapshots": 0}, "greater than or equal to 1"),
        ({"speciment": "sto_001"}, "speciment"),
    ],
)
def test_bad_setups_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ScanSetup(**change)


def test_an_unknown_specimen_is_refused_when_the_microscope_is_made():
    with pytest.raises(ValueError, match=r"'sto_01' is not a specimen \(did you mean sto_001\?\)"):
        microscope(setup=replace(SETUP, specimen="sto_01", specimen_options={}))


def test_an_instrument_has_one_beam_energy():
    with pytest.raises(ValueError, match=r"energy_kev is 80; the instrument runs at 300"):
        SimulatedMicroscope(Optics(), SPACE, STEADY, scan=replace(SETUP, optics=replace(SETUP.optics, energy_kev=80.0)))


def test_the_projection_is_the_setup_s():
    of_each = [
        Acquisition(replace(SETUP, projection=kind), STEADY).renderer.field.functions for kind in ("exact", "abtem")
    ]
    distance = np.linalg.norm(of_each[0] - of_each[1]) / np.linalg.norm(of_each[0] - 1)
    assert 1e-4 < distance < 0.2  # abTEM damps sharp potentials, docs/decisions/0005


def test_the_specimen_drifts_on_while_a_command_holds_the_scan_up():
    day = replace(STEADY, command_latency_s=0.5, scan=ScanProperties(drift_nm_per_s=(0.2, -0.1)))
    scope = microscope(day)
    truths, blocks = [], scope.scan(PLAN, block=6)
    for i, block in enumerate(blocks):
        if i == 2:
            break
        truths.append(scope.scan_truth().actual_nm - block.path.intended_nm)
        scope.apply(np.zeros(3))
    # Line 2 comes two lines and two commands after the first one.
    moved = scope.scan_truth().actual_nm - block.path.intended_nm - truths[0]
    line_s = 6 * PLAN.dwell_s + PLAN.flyback_s + PLAN.settle_s
    assert moved == pytest.approx(-(2 * line_s + 2 * 0.5) * np.array([[0.2, -0.1]] * 6), abs=1e-9)
    assert scope.cost.simulated_s == pytest.approx(scope.clock_s, abs=1e-12)


@pytest.mark.parametrize("camera", [CountingCamera(bit_depth=24), IntegratingCamera(bit_depth=32, dark_per_s=1e5)])
def test_what_arrives_during_the_read_out_is_lost(camera):
    bright = replace(PLAN, dose_e=1e6)
    readout_s = 0.25 * PLAN.dwell_s
    fast, slow = (
        np.concatenate([b.frames for b in microscope(setup=replace(SETUP, camera=kind)).scan(bright)])
        for kind in (camera, replace(camera, readout_s=readout_s))
    )
    # Some 3e7 electrons: the ratio's standard deviation is 3e-4; the dark current's 6e6 counts shrink alike.
    assert slow.sum() / fast.sum() == pytest.approx(0.75, abs=4 * 3e-4)


def test_a_dwell_that_is_all_read_out_is_refused():
    scope = microscope(setup=replace(SETUP, camera=CountingCamera(readout_s=PLAN.dwell_s)))
    with pytest.raises(ValueError, match=r"dwell_s 0\.002 s is all taken up by the camera's read-out"):
        scope.scan(PLAN)


def test_the_dead_time_counts_from_the_exposure_without_the_read_out():
    """50 electrons a pixel are left, five of them within a dead time: about a sixth is counted."""
    camera = CountingCamera(bit_depth=24, dead_time_s=1e-4, readout_s=1e-3)
    acquisition = Acquisition(replace(SETUP, camera=camera), STEADY)
    sensor = acquisition.draw_sensor(np.random.default_rng(0))
    image = np.full((32, 32), 100.0, np.float32)
    counts = expose_frame(image, camera, sensor, 2e-3, np.random.default_rng(0))
    # 1024 pixels, each of less than Poisson's spread: 1 % is more than three standard deviations.
    assert counts.mean() == pytest.approx(float(camera_theory.recorded_mean(50.0, 0.1, paralyzable=False)), rel=1e-2)


def test_a_scan_takes_either_model_of_the_chain():
    """Up to the first position's electrons the two draw alike: what differs is the chain's own noise, and small."""
    first = {}
    for model in ("cascade", "two_step"):
        setup = replace(SETUP, camera=None, chain=ScintillatorChain(model=model, bit_depth=32))
        block = next(microscope(setup=setup).scan(PLAN, block=1))
        first[model] = (np.array([block.signals[name][0] for name in SETUP.detectors]) - 200.0) / 100.0
    difference = first["cascade"] - first["two_step"]
    variance = 2 * relative_variance(ScintillatorChain()) * first["cascade"]
    assert np.all(difference != 0.0)
    assert np.sum(difference**2 / variance) < chi2.isf(1e-4, 3)


def test_a_dose_that_the_chain_cannot_draw_is_refused_before_anything_is_computed():
    high = ScintillatorChain(dynodes=20, secondary_emission=8.0)
    scope = microscope(setup=replace(SETUP, chain=high))
    with pytest.raises(ValueError, match=r"2e\+03 electrons at a gain of .* use fewer dynodes .* or model two_step"):
        scope.scan(PLAN)
    assert "renderer" not in scope._acquisition.__dict__
    microscope(setup=replace(SETUP, chain=replace(high, model="two_step"))).scan(PLAN)


def test_a_detector_without_rings_is_refused():
    with pytest.raises(ValidationError, match="detector 'x' has no rings"):
        ScanSetup(detectors={"x": ()})
