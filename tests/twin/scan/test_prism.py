"""Patterns from plane waves against multislice position by position, against abTEM; and when which of them is taken."""

import itertools
import logging
from dataclasses import replace
from functools import cache

import abtem
import ase
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from twin import specimens
from twin.aberrations import NAMES, TERMS, Aberrations, to_abtem
from twin.cameras.properties import CountingCamera
from twin.day import Day, DriftProperties, ScanProperties
from twin.detectors.layouts import Region
from twin.optics import AliasingError, Optics
from twin.scan import prism as scan_prism
from twin.scan.acquisition import Acquisition
from twin.scan.diffraction import ScanRenderer, rays
from twin.scan.errors import ScanEngine
from twin.scan.plan import ScanPlan, paths
from twin.scan.prism import GAIN, PlaneWaves, choose, lines_are_level, work
from twin.scan.setup import ScanSetup
from twin.scan.transmission import transmission_field
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace

CELL_NM = 0.3905
SIDE_NM = 4 * CELL_NM
OPTICS = Optics(convergence_mrad=12.0, grid=128, sampling_nm=SIDE_NM / 128, camera_pixels=32, binning=2)
# About 3 rad at the edge of the aperture, in every order.
SIZE_NM = np.array([3.0 * (t.n + 1) * OPTICS.wavelength_nm / (2 * np.pi) / 0.012 ** (t.n + 1) for t in TERMS])
EVERYTHING = Aberrations.from_array(np.random.default_rng(3).normal(0.0, 0.2, len(NAMES)) * SIZE_NM)
# Anywhere, within the cell and beyond it.
POSITIONS_NM = np.random.default_rng(1).uniform(-SIDE_NM, 2 * SIDE_NM, (5, 2))
MIXTURES = {"coherent": (0.0, 0.0), "focal spread and source": (2.0, 0.03)}


def relative_l2(image, reference):
    return float(np.linalg.norm(image - reference) / np.linalg.norm(reference))


@cache
def strontium_titanate(width_cells=4, thermal=True):
    options = {"width_nm": width_cells * CELL_NM, "height_nm": SIDE_NM, "thickness_nm": 3 * CELL_NM, "thermal": thermal}
    return specimens.build("sto_001", options)


@cache
def both(mixture="coherent", projection="exact", thermal=True):
    """The same scan by multislice and by plane waves; two snapshots of three slices."""
    structure = strontium_titanate(thermal=thermal)
    field = transmission_field(structure, OPTICS, slice_nm=CELL_NM, snapshots=2, projection=projection)
    multislice = ScanRenderer(OPTICS, field, rays(*MIXTURES[mixture], field.snapshots))
    return multislice, PlaneWaves(multislice)


def patterns(way, aberrations, positions_nm, *level):
    waves = way.waves(aberrations)
    return np.stack(list(way.patterns([(waves, position) for position in positions_nm], *level)))


@pytest.mark.parametrize("level", [False, True])
@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("aberrations", [Aberrations(), EVERYTHING], ids=["none", "all"])
def test_patterns_are_those_of_multislice(mixture, aberrations, level):
    multislice, plane_waves = both(mixture)
    expected = patterns(multislice, aberrations, POSITIONS_NM)
    found = patterns(plane_waves, aberrations, POSITIONS_NM, level)
    for mine, theirs in zip(found, expected, strict=True):
        assert relative_l2(mine, theirs) < 3e-6
    # Also where next to nothing falls, at the highest angles.
    dark = expected.mean(axis=0) < 1e-3 * expected.max()
    assert dark.mean() > 0.5
    assert relative_l2(found[:, dark], expected[:, dark]) < 1e-5


@settings(max_examples=20, deadline=None)
@given(
    x=st.floats(-10.0, 10.0),
    y=st.floats(-10.0, 10.0),
    sizes=st.lists(st.floats(-0.4, 0.4), min_size=len(NAMES), max_size=len(NAMES)),
    level=st.booleans(),
)
def test_any_state_and_position(x, y, sizes, level):
    multislice, plane_waves = both()
    state, place = Aberrations.from_array(np.array(sizes) * SIZE_NM), np.array([[x, y]])
    try:
        expected = patterns(multislice, state, place)
    except AliasingError:
        with pytest.raises(AliasingError):
            plane_waves.waves(state)
        return
    assert relative_l2(patterns(plane_waves, state, place, level), expected) < 1e-5


def test_the_comparison_would_see_a_swap_a_sign_and_a_tenth_of_a_pixel():
    multislice, plane_waves = both()
    expected = patterns(multislice, EVERYTHING, POSITIONS_NM)
    for level in (False, True):
        for wrong in (POSITIONS_NM[:, ::-1], -POSITIONS_NM, POSITIONS_NM + OPTICS.sampling_nm / 10):
            assert relative_l2(patterns(plane_waves, EVERYTHING, wrong, level), expected) > 1e-3
        assert relative_l2(patterns(plane_waves, -EVERYTHING, POSITIONS_NM, level), expected) > 1e-3


def test_patterns_equal_abtems_scan_of_the_same_atoms():
    """abTEM from atoms to patterns, by its own potential and multislice."""
    structure = strontium_titanate(thermal=False)
    positions_nm = POSITIONS_NM % SIDE_NM
    found = patterns(both(projection="abtem", thermal=False)[1], EVERYTHING, positions_nm)
    with abtem.config.set(
        {"precision": "float32", "fft": "numpy", "dask.lazy": False, "diagnostics.progress_bar": False}
    ):
        cell = np.array(structure.cell_nm) * 10
        atoms = ase.Atoms(numbers=structure.numbers, positions=structure.positions_nm * 10, cell=cell, pbc=True)
        potential = abtem.Potential(
            atoms, gpts=128, slice_thickness=CELL_NM * 10, parametrization="lobato", projection="infinite"
        )
        aberrations = to_abtem(EVERYTHING)
        probe = abtem.Probe(
            energy=3e5, semiangle_cutoff=12, extent=SIDE_NM * 10, gpts=128, soft=False, aberrations=aberrations
        )
        scan, detector = abtem.CustomScan(positions_nm * 10), abtem.PixelatedDetector(max_angle=None)
        theirs = probe.scan(potential, scan=scan, detectors=detector, lazy=False).array.swapaxes(-1, -2)
    start = theirs.shape[-1] // 2 - found.shape[-1] // 2
    theirs = theirs[:, start : start + found.shape[-1], start : start + found.shape[-1]]
    for mine, their in zip(found, theirs, strict=True):
        assert relative_l2(mine, their) < 1e-4


def test_a_window_of_several_periods_is_a_whole_field_too():
    structure = specimens.build("sto_001", {"width_nm": SIDE_NM / 4, "height_nm": SIDE_NM / 2, "thickness_nm": CELL_NM})
    field = transmission_field(structure, OPTICS, slice_nm=CELL_NM, snapshots=2)
    assert field.functions.shape[-2:] == (64, 32)
    multislice = ScanRenderer(OPTICS, field)
    expected = patterns(multislice, EVERYTHING, POSITIONS_NM)
    assert relative_l2(patterns(PlaneWaves(multislice), EVERYTHING, POSITIONS_NM), expected) < 3e-6


def test_what_nothing_looks_at_is_left_out_and_the_rest_is_the_same():
    multislice, whole = both()
    seen = np.zeros((multislice.size,) * 2, bool)
    seen[30:70, 20:80] = True
    found = patterns(PlaneWaves(multislice, seen), EVERYTHING, POSITIONS_NM)
    assert not found[:, ~seen].any()
    expected = patterns(whole, EVERYTHING, POSITIONS_NM)
    assert relative_l2(found[:, seen], expected[:, seen]) < 1e-6


@cache
def busy_steps():
    """Seventy positions on lines whose state changes, waves included."""
    _, plane_waves = both()
    generator = np.random.default_rng(2)
    states = [plane_waves.waves(Aberrations.of({"C10": c10})) for c10 in (0.0, 5.0, -4.0)]
    x, y = generator.uniform(0, SIDE_NM, 70), generator.uniform(0, SIDE_NM, 70)
    return [(states[i // 30], np.array([x[i], y[i // 10]])) for i in range(70)]


@pytest.mark.parametrize("level", [False, True])
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, 69), max_size=6).map(sorted))
def test_a_pattern_does_not_depend_on_the_others_by_a_bit(level, cuts):
    """Rows of a product do, by their place: it has to go with the position's number in the scan."""
    _, plane_waves = both()
    steps = busy_steps()
    whole = np.stack(list(plane_waves.patterns(steps, level)))
    parts = [
        np.stack(list(plane_waves.patterns(steps[first:end], level, first)))
        for first, end in itertools.pairwise([0, *cuts, 70])
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


# --- the choice ----------------------------------------------------------------------------------

SPACE = StateSpace(names=("C10", "C12a", "C12b"), start_nm=(4, 4, 4), input_nm=(8, 8, 8), tolerance_nm=(1, 1, 1))
SETUP = ScanSetup(
    specimen="sto_001",
    specimen_options={"width_nm": SIDE_NM, "height_nm": SIDE_NM, "thickness_nm": 2 * CELL_NM},
    slice_nm=CELL_NM,
    snapshots=2,
    optics=OPTICS,
    detectors={"bf": None, "dark": (Region(inner_mrad=20, outer_mrad=50),)},
)
STEADY = Day(focal_spread_nm=0.0, source_size_nm=0.0)
PLAN = ScanPlan(rows=5, columns=6, step_nm=0.1, dwell_s=2e-3, flyback_s=3e-3, settle_s=1e-3, dose_e=100.0)
JITTER = ScanProperties(jitter_x_nm=0.01, jitter_y_nm=0.01, response_s=1e-3)
DRIFT = replace(JITTER, drift_walk_nm_per_sqrt_s=0.1, hum_nm=(0.01, 0.02), drift_nm_per_s=(0.2, 0.1))
BUSY = {
    "level lines": replace(
        STEADY,
        scan=JITTER,
        drift=DriftProperties(rate_nm_per_sqrt_s={"1": 5.0, "2": 20.0}, wander_nm={"C30": 100.0}),
    ),
    "lines that wander": replace(STEADY, scan=DRIFT),
    "focal spread and source": replace(STEADY, focal_spread_nm=1.0, source_size_nm=0.03, scan=JITTER),
}


def counted(day, propagation, block=30, **changes):
    """Everything that a microscope of one seed counts, and its clock, in one list of arrays."""
    setup = replace(SETUP, propagation=propagation, **changes)
    microscope = SimulatedMicroscope(Optics(), SPACE, day, scan=setup)
    microscope.reset(np.random.default_rng(1))
    blocks = list(microscope.scan(PLAN, block=block))
    signals = [np.concatenate([b.signals[name] for b in blocks]) for name in ("bf", "dark")]
    frames = [] if blocks[0].frames is None else [np.concatenate([b.frames for b in blocks])]
    return [*frames, *signals, np.concatenate([b.clock_s for b in blocks])]


@pytest.mark.parametrize("day", BUSY)
def test_the_same_seed_counts_the_same_electrons_either_way(day):
    """Expectations differ by 1e-6: of these 3,000 electrons, none falls between."""
    for mine, theirs in zip(counted(BUSY[day], "prism"), counted(BUSY[day], "multislice"), strict=True):
        assert mine.sum() > 0
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("day", ["level lines", "lines that wander"])
def test_the_same_bytes_however_the_scan_is_cut(day):
    camera = CountingCamera(charge_spread_px=0.3)
    whole = [array.tobytes() for array in counted(BUSY[day], "prism", camera=camera)]
    for block in (1, 7):
        assert [array.tobytes() for array in counted(BUSY[day], "prism", block, camera=camera)] == whole


@pytest.mark.parametrize("pattern", ["raster", "serpentine", "subsampled", "list"])
@pytest.mark.parametrize("rotation_deg", [0.0, 5.0])
@pytest.mark.parametrize(
    "errors",
    [
        {},
        {"jitter_x_nm": 0.01, "jitter_y_nm": 0.02},
        {"coil_gain": (1.1, 0.9), "coil_skew_deg": 3.0},
        {"coil_rotation_deg": 1.0},
        {"hum_nm": (0.0, 0.01)},
        {"hum_nm": (0.01, 0.0)},
        {"drift_nm_per_s": (0.0, 1.0)},
        {"drift_nm_per_s": (1.0, 0.0)},
        {"drift_walk_nm_per_sqrt_s": 0.1},
        {"flyback_lag": 0.1},
    ],
)
def test_lines_are_level_when_y_does_not_change_along_them(pattern, rotation_deg, errors):
    places = {"positions_nm": ((0.0, 0.1), (0.1, 0.1), (0.3, 0.2))} if pattern == "list" else {}
    some = {"fraction": 0.5} if pattern == "subsampled" else {}
    plan = replace(PLAN, pattern=pattern, rotation_deg=rotation_deg, **places, **some)
    properties = ScanProperties(**errors)
    (path,) = paths(plan, plan.count)
    y = ScanEngine(properties, np.random.default_rng(0)).displace(path)[:, 1]
    level = all(np.all(y[path.line == line] == y[path.line == line][0]) for line in path.line)
    assert lines_are_level(plan, properties) == (level and pattern != "list")


def asked_of(plan, **changes):
    return work(plan, ScanProperties(), replace(OPTICS, **changes), rays(0.0, 0.0, 2), 2, 5000)


def test_plane_waves_are_taken_from_where_they_are_cheaper_on():
    """Estimates on both sides of the break-even; a scan of many positions gains what the products cost less."""
    small, large = asked_of(PLAN), asked_of(replace(PLAN, rows=256, columns=256))
    assert choose("auto", small, None).propagation == "multislice"
    assert choose("auto", large, None).propagation == "prism"
    assert choose("auto", large, "unfit") == ("multislice", "unfit", False)
    assert choose("multislice", large, None).propagation == "multislice"
    assert choose("prism", small, None).propagation == "prism"
    sides = [replace(PLAN, rows=n, columns=n) for n in range(4, 64)]
    found = [asked_of(plan) for plan in sides]
    chosen = [choose("auto", one, None).propagation == "prism" for one in found]
    assert chosen == [one.multislice_s >= GAIN * one.prism_s for one in found]
    assert chosen == sorted(chosen)
    # Never before there are more positions than plane waves.
    assert sides[chosen.index(True)].count > small.waves
    wandering = replace(large, level=False)
    assert large.prism_s < wandering.prism_s < large.multislice_s


def test_more_slices_more_rays_and_fewer_waves_speak_for_plane_waves():
    plan = replace(PLAN, rows=64, columns=64)
    base = asked_of(plan)

    def gain(one):
        return one.multislice_s / one.prism_s

    assert gain(replace(base, level=False, slices=20)) > gain(replace(base, level=False))
    assert gain(replace(base, mixture=rays(2.0, 0.03, 2))) > gain(base)
    assert gain(asked_of(plan, convergence_mrad=8.0)) > gain(base)


def test_the_scan_chooses_by_itself_and_says_so(caplog):
    caplog.set_level(logging.INFO, "twin.scan.acquisition")
    acquisition = Acquisition(SETUP, STEADY)
    for plan, way in ((PLAN, "multislice"), (replace(PLAN, rows=40, columns=40, step_nm=0.02), "prism")):
        caplog.clear()
        plan = acquisition.placed(plan)
        path = next(paths(plan, 3))
        assert acquisition.choice(plan).propagation == way
        assert len(list(acquisition.expected(path, path.intended_nm, lambda line: Aberrations()))) == 3
        assert ("plane_waves" in vars(acquisition)) == (way == "prism")
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        assert record.message.startswith(f"{way}: ")
        assert f"plane waves for {plan.count} positions" in record.message


def test_too_many_plane_waves_are_multislice_with_a_word_and_refused_when_asked_for(caplog, monkeypatch):
    monkeypatch.setattr(scan_prism, "MAX_MATRIX_BYTES", 2**20)
    plan = replace(PLAN, rows=64, columns=64, step_nm=0.01)
    acquisition = Acquisition(SETUP, STEADY)
    path = next(paths(acquisition.placed(plan), 1))
    list(acquisition.expected(path, path.intended_nm, lambda line: Aberrations()))
    assert "plane_waves" not in vars(acquisition)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    told = r"plane waves through 2 snapshots take \d+ MiB at \d+ pixels each; the limit is 1 MiB"
    assert record.message.startswith("multislice: ")
    with pytest.raises(ValueError, match=told) as refused:
        Acquisition(replace(SETUP, propagation="prism"), STEADY)
    assert record.message.removeprefix("multislice: ") in str(refused.value)


def test_the_limit_is_on_what_is_really_kept():
    acquisition = Acquisition(replace(SETUP, propagation="prism"), replace(STEADY, focal_spread_nm=1.0))
    plane_waves = acquisition.plane_waves
    path = next(paths(acquisition.placed(PLAN), 1))
    list(acquisition.expected(path, path.intended_nm, lambda line: Aberrations()))
    kept = plane_waves._matrix.nbytes + sum(sums.nbytes for sums in plane_waves._line[2].values())
    mixture = plane_waves._multislice.mixture
    seen = int(np.count_nonzero(acquisition._seen))
    assert work(PLAN, ScanProperties(), OPTICS, mixture, 2, seen).matrix_bytes == kept


def test_a_window_that_is_not_the_field_is_multislice_and_refused_when_asked_for():
    smaller = replace(OPTICS, grid=96)
    plan = replace(PLAN, rows=256, columns=256, step_nm=0.001)
    assert Acquisition(replace(SETUP, optics=smaller), STEADY).choice(plan).propagation == "multislice"
    told = r"propagation prism: .* the window has 96 x 96 pixels, the field 128 x 128: optics\.grid=128 would do; or"
    with pytest.raises(ValueError, match=told):
        Acquisition(replace(SETUP, optics=smaller, propagation="prism"), STEADY)
    margin = replace(SETUP, optics=replace(OPTICS, sampling_nm=0.0125), propagation="prism")
    with pytest.raises(ValueError, match="a periodic specimen whose sides are whole pixels"):
        Acquisition(margin, STEADY)
    field = transmission_field(strontium_titanate(), smaller, slice_nm=1.0)
    with pytest.raises(ValueError, match="the field 128 x 128: "):
        PlaneWaves(ScanRenderer(smaller, field))
    wide = transmission_field(strontium_titanate(width_cells=6), OPTICS, slice_nm=1.0)
    with pytest.raises(ValueError, match="the field 128 x 192: the specimen would have to be square"):
        PlaneWaves(ScanRenderer(OPTICS, wide))


def test_an_unknown_propagation_is_refused_with_the_nearest():
    with pytest.raises(ValidationError, match=r"'prisms' is not a propagation \(did you mean prism\?\); known: auto"):
        replace(SETUP, propagation="prisms")
