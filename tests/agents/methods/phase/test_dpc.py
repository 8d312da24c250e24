"""DPC on the twin's own scans of SrTiO3: rotation and orientation found, gradient and divergence those of a phase."""

import math
from functools import cache

import numpy as np
import pytest

from agents.base import MetaError, StreamMeta, load
from agents.block import FrameBlock
from twin.aberrations import Aberrations
from twin.day import Day
from twin.formats.dataset import Layout, Metadata
from twin.optics import Optics
from twin.scan.acquisition import Acquisition
from twin.scan.plan import ScanPlan, paths
from twin.scan.setup import ScanSetup

CELL_NM = 0.3905
OPTICS = Optics(convergence_mrad=20.0, grid=96, sampling_nm=3 * CELL_NM / 96, camera_pixels=24, binning=2)
SETUP = ScanSetup(
    specimen="sto_001",
    specimen_options={"width_nm": 3 * CELL_NM, "height_nm": 3 * CELL_NM, "thickness_nm": CELL_NM, "thermal": False},
    optics=OPTICS,
    detectors={"bf": None},
)
SCAN, STEP_NM = (26, 30), 0.024
PIXEL = np.argwhere(np.ones(SCAN))
ROTATIONS = (0.0, 25.0, -70.0)


@cache
def acquisition():
    return Acquisition(SETUP, Day(focal_spread_nm=0.0, source_size_nm=0.0))


@cache
def expected(rotation_deg):
    """Mean counts per electron at every position of a turned scan, (N, H, W)."""
    plan = acquisition().placed(
        ScanPlan(rows=SCAN[0], columns=SCAN[1], step_nm=STEP_NM, rotation_deg=rotation_deg, dose_e=1.0)
    )
    (path,) = paths(plan, plan.count)
    return np.stack([image for image, _ in acquisition().expected(path, path.intended_nm, lambda _: Aberrations())])


@pytest.fixture(scope="module", autouse=True)
def _specimen():
    """Built once: abTEM compiles its potentials in every process, which takes seconds."""
    _ = acquisition().renderer


def scan(rotation_deg, dose_e, transposed=False, seed=1):
    counts = np.random.default_rng(seed).poisson(expected(rotation_deg).astype(float) * dose_e).astype(np.uint32)
    return np.ascontiguousarray(counts.swapaxes(1, 2)) if transposed else counts


def meta(transposed=None, **known):
    beam = {"energy_kev": 300.0, "convergence_mrad": 20.0, "pixel_mrad": OPTICS.camera_pixel_mrad, "step_nm": STEP_NM}
    return StreamMeta(Layout(SCAN, (24, 24), "uint32"), Metadata(**{**beam, **known}), transposed)


def result(frames, about, options=None):
    agent = load("dpc", options)
    agent.start(about)
    agent.update(FrameBlock(frames, PIXEL))
    return agent.result()


@pytest.mark.parametrize("rotation_deg", ROTATIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_rotation_and_orientation_are_found(rotation_deg, transposed):
    """10^4 electrons per position: to four of its own standard deviations, which are about half a degree."""
    found = result(scan(rotation_deg, 1e4, transposed, seed=3), meta())
    figures = found.figures
    assert figures["transposed"] == transposed
    assert 0.05 < figures["found_rotation_std_deg"] < 2.0
    assert abs(figures["rotation_deg"] - rotation_deg) < 4 * figures["found_rotation_std_deg"]
    assert figures["curl_share"] < 0.2
    assert found.trust.fits
    assert any("found from the data" in note for note in found.notes)


@pytest.mark.parametrize("rotation_deg", ROTATIONS)
def test_a_given_rotation_gives_the_gradient_of_the_unturned_specimen(rotation_deg):
    """The scan's middle is the specimen's whatever the rotation: along the scan's axes, the gradient there turns."""
    known = meta(transposed=False, rotation_deg=rotation_deg)
    found = result(scan(rotation_deg, 1e6), known)
    assert found.figures["rotation_deg"] == rotation_deg
    assert not any("found from" in note for note in found.notes)
    gradient = np.stack([found.images["gradient_x"].values, found.images["gradient_y"].values], axis=-1)
    straight = result(scan(0.0, 1e6), meta(transposed=False, rotation_deg=0.0))
    slow, fast = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * STEP_NM for n in SCAN), indexing="ij")
    angle = math.radians(rotation_deg)
    # Where this scan's positions lie on the straight one's grid, within 0.3 nm of the middle.
    x = math.cos(angle) * fast - math.sin(angle) * slow
    y = math.sin(angle) * fast + math.cos(angle) * slow
    near = np.hypot(fast, slow) < 0.25
    column, row = ((v / STEP_NM + (n - 1) / 2)[near] for v, n in zip((x, y), SCAN[::-1], strict=True))
    from scipy.ndimage import map_coordinates

    gx, gy = (map_coordinates(straight.images[f"gradient_{a}"].values, [row, column], order=3) for a in "xy")
    expected_fast, expected_slow = (
        math.cos(angle) * gx + math.sin(angle) * gy,
        math.cos(angle) * gy - math.sin(angle) * gx,
    )
    np.testing.assert_allclose(gradient[near][:, 0], expected_fast, atol=0.05 * np.abs(gx).max())
    np.testing.assert_allclose(gradient[near][:, 1], expected_slow, atol=0.05 * np.abs(gx).max())


def test_the_divergence_is_lowest_at_atoms():
    """Against the phase of the specimen's transmission function at the positions of the scan."""
    found = result(scan(0.0, 1e6), meta(transposed=False, rotation_deg=0.0))
    divergence = found.images["divergence"].values
    phase = np.angle(acquisition().renderer.field.functions[0, 0])
    middle_nm = acquisition().structure.width_nm / 2
    at = [middle_nm + (np.arange(n) - (n - 1) / 2) * STEP_NM for n in SCAN]
    under = phase[np.ix_(*(np.round(a / OPTICS.sampling_nm).astype(int) % 96 for a in at))]
    known = np.isfinite(divergence)
    assert np.corrcoef(under[known], -divergence[known])[0, 1] > 0.6


def test_a_wrong_rotation_is_told():
    """Both in words and by the test of residuals, which a right one passes."""
    frames = scan(25.0, 1e4)
    right = result(frames, meta(transposed=False, rotation_deg=25.0))
    assert right.trust.fits
    assert right.notes == ()
    wrong = result(frames, meta(transposed=False, rotation_deg=45.0))
    assert not wrong.trust.fits
    assert any("not the given 45.0 deg" in note for note in wrong.notes)
    mirrored = result(frames, meta(transposed=True, rotation_deg=25.0))
    assert not mirrored.trust.fits
    assert any("the data suggest that the camera is not transposed" in note for note in mirrored.notes)
    reverse = result(frames, meta(transposed=False, rotation_deg=-155.0))
    assert reverse.trust.fits  # a phase of the other sign is a phase
    assert any("repel" in note for note in reverse.notes)


def test_options_go_before_the_stream_and_can_be_changed():
    agent = load("dpc", {"rotation_deg": 10.0})
    agent.start(meta(rotation_deg=25.0, transposed=False))
    agent.update(FrameBlock(scan(25.0, 1e4), PIXEL))
    assert agent.result().figures["rotation_deg"] == 10.0
    agent.configure(rotation_deg=None)
    assert agent.result().figures["rotation_deg"] == 25.0


def test_units_follow_what_is_known():
    found = result(scan(0.0, 1e4), meta(transposed=False, rotation_deg=0.0))
    assert found.images["gradient_x"].unit == "rad/nm"
    assert found.images["curl"].unit == "rad/nm^2"
    plain = result(scan(0.0, 1e4), StreamMeta(Layout(SCAN, (24, 24), "uint32"), Metadata(), False))
    assert plain.images["gradient_x"].unit == "px"
    ratio = found.images["divergence"].values / plain.images["divergence"].values
    per_px = 2 * math.pi * OPTICS.camera_pixel_mrad * 1e-3 / OPTICS.wavelength_nm
    # Without metadata the rotation is found, a fraction of a degree from zero.
    assert np.nanmedian(ratio) == pytest.approx(per_px / STEP_NM, rel=0.05)


def test_the_spread_is_the_scatter_of_repeated_scans():
    """Curl and gradient over 24 noise realisations: mean ratio of variances to 4 standard errors, fixed seeds."""
    about = meta(transposed=False, rotation_deg=0.0)
    runs = [result(scan(0.0, 300.0, seed=s), about) for s in range(24)]
    for name in ("curl", "gradient_x", "gradient_y", "divergence"):
        values = np.array([r.images[name].values for r in runs])
        told = runs[0].images[name].spread
        ratio = np.nanmean(values.var(axis=0, ddof=1) / told**2)
        # About one independent figure per position and run, a third of them for differences that share positions.
        assert abs(ratio - 1) < 4 * math.sqrt(2 / (math.prod(SCAN) * 23 / 3))


def test_too_little_is_said():
    agent = load("dpc")
    agent.start(meta())
    agent.update(FrameBlock(scan(0.0, 100.0)[:30], PIXEL[:30]))
    found = agent.result()
    assert any("rotation not found" in note for note in found.notes)
    assert np.isfinite(found.images["gradient_x"].values).sum() == 30
    agent.update(FrameBlock(scan(0.0, 1.0)[30:], PIXEL[30:]))
    assert any("guess" in note or "not clear" in note for note in agent.result().notes)


def test_a_list_is_refused():
    with pytest.raises(MetaError, match="dpc needs a scan in rows and columns"):
        load("dpc").start(StreamMeta(Layout((9,), (24, 24)), Metadata()))
