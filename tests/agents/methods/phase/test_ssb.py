"""Single-sideband ptychography on phase objects whose frames are known in closed form."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.base import MetaError, Reconstruction, StreamMeta, load
from agents.block import FrameBlock
from agents.methods.phase.ssb import Ssb
from agents.ssb import forward as ssb_forward
from agents.ssb.accumulate import squares
from agents.ssb.weights import bright_field
from scenarios.scans.truth import true_phase
from twin.aberrations import Aberrations, aberration_phase
from twin.arrays import Floats
from twin.day import Day
from twin.formats.dataset import Layout, Metadata
from twin.optics import Optics, electron_wavelength_nm
from twin.options import OptionError
from twin.scan.acquisition import Acquisition
from twin.scan.plan import ScanPlan, paths
from twin.scan.setup import ScanSetup

WAVELENGTH_NM = electron_wavelength_nm(300.0)
STEP_NM, PIXEL_MRAD, ALPHA = 0.02, 2.0, 20.0
CAMERA = (24, 28)
SCAN = (30, 32)
DISC_PIXELS = math.pi * (ALPHA / PIXEL_MRAD) ** 2
ABERRATED = {"C10": 5.0, "C12a": 3.0, "C12b": -2.0, "C21b": 150.0}


def atoms(height: float, scan: tuple[int, int] = SCAN, count: int = 7, seed: int = 0) -> Floats:
    """Gaussian peaks on a torus, rad, mean zero."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(scan)
    phase = np.zeros(scan)
    for _ in range(count):
        down, across = ((a - rng.uniform(0, n) + n / 2) % n - n / 2 for a, n in zip((y, x), scan, strict=True))
        phase += rng.uniform(0.5, 1.0) * np.exp(-(down**2 + across**2) * STEP_NM**2 / (2 * 0.03**2))
    phase *= height / phase.max()
    return phase - phase.mean()


def frequencies(scan: tuple[int, int], rotation_deg: float = 0.0) -> tuple[Floats, Floats]:
    """Angles of the spatial frequencies in the order of an FFT along the camera's x and y, mrad."""
    fast, slow = np.meshgrid(*(np.fft.fftfreq(n, STEP_NM) * WAVELENGTH_NM * 1e3 for n in scan[::-1]))
    c, s = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    return c * fast - s * slow, s * fast + c * slow


def expected(
    phase: Floats, aberrations: dict[str, float] | None = None, rotation_deg: float = 0.0, transposed: bool = False
) -> Floats:
    """Electrons per camera pixel and electron of the beam, (rows, columns, H, W), for exp(i phase) on a torus.

    psi(K; R) = sum_Q T(Q) A(K - Q) exp(2 pi i Q R), a transform over all positions at once for each K.
    """
    coefficients = tuple((aberrations or {}).items())
    return _expected(phase.tobytes(), phase.shape, coefficients, rotation_deg, transposed)


@lru_cache(maxsize=8)
def _expected(
    values: bytes,
    scan: tuple[int, int],
    aberrations: tuple[tuple[str, float], ...],
    rotation_deg: float,
    transposed: bool,
) -> Floats:
    phase = np.frombuffer(values).reshape(scan)
    object_ = np.fft.fft2(np.exp(1j * phase)) / phase.size
    qx, qy = frequencies(phase.shape, rotation_deg)
    given = Aberrations.of(dict(aberrations))
    frames = np.zeros((*phase.shape, *CAMERA))
    # Two by two samples of every pixel that the disc touches; nothing is asked about the dark field.
    for row, column, down, across in np.ndindex(*CAMERA, 2, 2):
        kx = (column - CAMERA[1] // 2 + across / 2 - 0.25) * PIXEL_MRAD
        ky = (row - CAMERA[0] // 2 + down / 2 - 0.25) * PIXEL_MRAD
        if math.hypot(kx, ky) > ALPHA + 2 * PIXEL_MRAD:
            continue
        x, y = (ky, kx) if transposed else (kx, ky)
        x, y = x - qx, y - qy
        wave = (np.hypot(x, y) <= ALPHA) * np.exp(-1j * aberration_phase(given, x, y, WAVELENGTH_NM))
        frames[..., row, column] += np.abs(np.fft.ifft2(object_ * wave) * phase.size) ** 2
    return frames / (4 * DISC_PIXELS)


def counts(frames: Floats, dose_e: float, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).poisson(frames * dose_e).astype(np.uint16)


def noiseless(frames: Floats) -> NDArray[np.uint32]:
    """A million electrons in a pixel of the disc: whole counts are exact enough."""
    return np.rint(frames * DISC_PIXELS * 1e6).astype(np.uint32)


def meta(scan: tuple[int, int] = SCAN, transposed: bool | None = False, **changes: Any) -> StreamMeta:
    known: dict[str, Any] = {
        "energy_kev": 300.0,
        "convergence_mrad": ALPHA,
        "pixel_mrad": PIXEL_MRAD,
        "step_nm": STEP_NM,
        "rotation_deg": 0.0,
    }
    return StreamMeta(Layout(scan, CAMERA, "uint32"), Metadata(**{**known, **changes}), transposed)


def agent(options: dict[str, Any] | None = None) -> Ssb:
    made = load("ssb", options)
    assert isinstance(made, Ssb)
    return made


def feed(
    ssb: Ssb, frames: NDArray[np.unsignedinteger], order: NDArray[np.integer] | None = None, block: int = 32
) -> Reconstruction:
    """Frames (rows, columns, H, W) in raster order, or in that of these flat positions."""
    scan = frames.shape[:2]
    order = np.arange(scan[0] * scan[1]) if order is None else order
    for first in range(0, len(order), block):
        pixel = np.stack(np.divmod(order[first : first + block], scan[1]), axis=1)
        ssb.update(FrameBlock(frames[pixel[:, 0], pixel[:, 1]], pixel))
    return ssb.result()


def run(frames: NDArray[np.unsignedinteger], options: dict[str, Any] | None = None, **changes: Any) -> Reconstruction:
    ssb = agent(options)
    ssb.start(meta(frames.shape[:2], **changes))
    return feed(ssb, frames)


def phase_of(found: Reconstruction) -> Floats:
    return found.images["phase"].values


def correlation(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def scale(found: Floats, truth: Floats) -> float:
    """Of `truth` in `found`, by least squares."""
    return float((found * truth).sum() / (truth * truth).sum())


def transferred(phase: Floats) -> Floats:
    """What of a phase lies within twice the aperture, Nyquist's frequencies left out."""
    spectrum = np.fft.fft2(phase) * (np.hypot(*frequencies(phase.shape)) < 2 * ALPHA - 1)
    for axis, n in enumerate(phase.shape):
        if n % 2 == 0:
            np.moveaxis(spectrum, axis, 0)[n // 2] = 0
    return np.fft.ifft2(spectrum).real


def reference(frames: Floats, aberrations: dict[str, float], rotation_deg: float) -> NDArray[np.complex128]:
    """Coefficients of the phase, frequency by frequency in double precision; NaN where no pixel lies in an overlap.

    A textbook's: the mean over pixels that lie in one overlap as a whole.
    """
    given, margin = Aberrations.of(aberrations), 0.75 * PIXEL_MRAD
    spectrum = np.fft.fft2(frames, axes=(0, 1))
    rows, columns = ((np.arange(side) - side // 2) * PIXEL_MRAD for side in CAMERA)
    kx, ky = np.meshgrid(columns, rows)
    qx, qy = frequencies(frames.shape[:2], rotation_deg)
    out = np.full(frames.shape[:2], np.nan, np.complex128)
    disc = np.hypot(kx, ky) <= ALPHA - margin
    direct = frames.mean(axis=(0, 1))[disc].mean()

    def chi(x: Floats, y: Floats) -> Floats:
        return np.asarray(aberration_phase(given, x, y, WAVELENGTH_NM))

    for index in np.ndindex(*out.shape):
        x, y = qx[index], qy[index]
        right, left = np.hypot(kx - x, ky - y), np.hypot(kx + x, ky + y)
        plus = disc & (right <= ALPHA - margin) & (left > ALPHA + margin)
        minus = disc & (left <= ALPHA - margin) & (right > ALPHA + margin)
        if plus.any() and minus.any():
            straight = (spectrum[index] * np.exp(-1j * (chi(kx, ky) - chi(kx - x, ky - y))))[plus].mean()
            mirrored = (spectrum[index] * np.exp(1j * (chi(kx, ky) - chi(kx + x, ky + y))))[minus].mean()
            out[index] = (straight - mirrored) / (2j * direct)
    return out


@pytest.mark.parametrize(("aberrations", "rotation"), [({}, 0.0), (ABERRATED, 25.0)])
def test_it_agrees_with_an_independent_implementation(aberrations: dict[str, float], rotation: float) -> None:
    frames = noiseless(expected(atoms(0.05), aberrations, rotation))
    ours = phase_of(run(frames, {"aberrations": aberrations, "binning": 1}, rotation_deg=rotation))
    theirs = reference(frames.astype(np.float64), aberrations, rotation)
    common = np.isfinite(theirs) & (np.hypot(*frequencies(SCAN)) < 2 * ALPHA - 2)
    assert common.sum() > 0.4 * common.size
    ours, theirs = (np.fft.ifft2(np.where(common, one, 0.0)).real for one in (np.fft.fft2(ours), theirs))
    assert correlation(ours, theirs) > 0.998
    assert scale(ours, theirs) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("fast", "slow"), [(2, 0), (0, 3), (4, -3), (1, 8)])
def test_a_weak_wave_comes_back_as_it_is(fast: int, slow: int) -> None:
    """Rodenburg 1993: within 2 alpha every frequency is transferred, with its sign and its strength."""
    y, x = np.indices(SCAN)
    wave = 0.02 * np.cos(2 * math.pi * (fast * x / SCAN[1] + slow * y / SCAN[0]) + 0.7)
    found = phase_of(run(noiseless(expected(wave)), {"binning": 1}))
    assert correlation(found, wave) > 0.999
    assert scale(found, wave) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("aberrations", [{"C10": 8.0}, {"C12a": -4.0, "C12b": 5.0}, {"C21a": 300.0, "C21b": -200.0}])
@pytest.mark.parametrize("triple", [False, True])
def test_known_aberrations_are_corrected(aberrations: dict[str, float], triple: bool) -> None:
    truth = atoms(0.05)
    frames = noiseless(expected(truth, aberrations, 40.0))
    options = {"aberrations": aberrations, "triple_overlap": triple}
    corrected, plain = run(frames, options, rotation_deg=40.0), run(frames, {}, rotation_deg=40.0)
    opposite = run(frames, {"aberrations": {k: -v for k, v in aberrations.items()}}, rotation_deg=40.0)
    assert correlation(transferred(phase_of(corrected)), transferred(truth)) > 0.995
    assert scale(transferred(phase_of(corrected)), transferred(truth)) == pytest.approx(1.0, abs=0.04)
    for other in (plain, opposite):
        assert correlation(transferred(phase_of(other)), transferred(truth)) < 0.97


@pytest.mark.parametrize("rotation", [0.0, 30.0, -60.0])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_orientation_gives_the_same_image(rotation: float, transposed: bool) -> None:
    truth = atoms(0.1)
    straight = phase_of(run(noiseless(expected(truth, ABERRATED)), {"aberrations": ABERRATED}))
    frames = noiseless(expected(truth, ABERRATED, rotation, transposed))
    turned = phase_of(run(frames, {"aberrations": ABERRATED}, rotation_deg=rotation, transposed=transposed))
    assert correlation(straight, turned) > 0.99
    wrong = phase_of(run(frames, {"aberrations": ABERRATED}, rotation_deg=-rotation, transposed=not transposed))
    assert correlation(straight, wrong) < 0.9


@pytest.mark.parametrize(
    ("rotation", "transposed", "aberrations"),
    [(0.0, False, {}), (30.0, True, {}), (-60.0, False, {"C10": 4.0}), (150.0, True, {})],
)
def test_an_unknown_orientation_is_found(rotation: float, transposed: bool, aberrations: dict[str, float]) -> None:
    truth = atoms(0.3)
    frames = counts(expected(truth, aberrations, rotation, transposed), 5000.0)
    known = run(frames, {"aberrations": aberrations}, rotation_deg=rotation, transposed=transposed)
    found = run(frames, {"aberrations": aberrations}, rotation_deg=None, transposed=None)
    assert found.figures["rotation_deg"] == pytest.approx(rotation, abs=5.0)
    assert found.figures["transposed"] == transposed
    assert 0 < found.figures["rotation_sigma_deg"] < 4
    assert correlation(phase_of(found), phase_of(known)) > 0.97
    assert any("found from the data: rotation" in note for note in found.notes)
    assert not any("uncertain" in note for note in found.notes)


def test_a_transpose_alone_is_found_where_the_rotation_is_told() -> None:
    frames = counts(expected(atoms(0.3), None, 20.0, True), 5000.0)
    found = run(frames, {}, rotation_deg=20.0, transposed=None)
    assert found.figures["transposed"] == 1.0
    assert found.figures["rotation_deg"] == 20.0


def test_what_cannot_be_found_is_said_to_be_uncertain() -> None:
    frames = counts(expected(np.zeros(SCAN)), 200.0)
    found = run(frames, {}, rotation_deg=None, transposed=None)
    assert any("uncertain" in note for note in found.notes)
    told = run(frames, {}, rotation_deg=10.0, transposed=None)
    assert told.figures["rotation_deg"] == 10.0
    assert told.figures["transposed"] == 0.0
    assert any("uncertain" in note for note in told.notes)


@pytest.mark.parametrize("told", [True, False])
def test_blocks_may_be_cut_anywhere(told: bool) -> None:
    frames = counts(expected(atoms(0.3), None, 30.0), 2000.0)
    images = []
    for block in (1000, 1, 17, 32):
        ssb = agent({"rotation": "meta" if told else "auto"})
        ssb.start(meta(rotation_deg=30.0))
        images.append(phase_of(feed(ssb, frames, block=block)))
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


def test_other_orders_give_the_same_image() -> None:
    frames = counts(expected(atoms(0.3), ABERRATED), 2000.0)
    raster = np.arange(SCAN[0] * SCAN[1]).reshape(SCAN)
    serpentine = raster.copy()
    serpentine[1::2] = serpentine[1::2, ::-1]
    straight = run(frames, {"aberrations": ABERRATED}).images["phase"]
    for order in (serpentine.ravel(), raster.T.ravel(), np.random.default_rng(0).permutation(raster.ravel())):
        ssb = agent({"aberrations": ABERRATED})
        ssb.start(meta())
        np.testing.assert_allclose(phase_of(feed(ssb, frames, order)), straight.values, atol=1e-5)


def test_a_position_that_comes_again_counts_once() -> None:
    frames = counts(expected(atoms(0.3)), 2000.0)
    ssb = agent()
    ssb.start(meta())
    order = np.arange(SCAN[0] * SCAN[1])
    found = feed(ssb, frames, np.concatenate([order[:40], order[:70], order[70:], order[-5:]]), block=55)
    np.testing.assert_array_equal(phase_of(found), phase_of(run(frames)))
    assert any("45 repeated positions were left out" in note for note in found.notes)


def test_what_has_been_scanned_is_there_at_any_moment() -> None:
    """Half a scan: the image where the probe has been, a probe's width from the edge, is that of the whole."""
    truth = atoms(0.1)
    frames = noiseless(expected(truth))
    ssb = agent()
    ssb.start(meta())
    half = phase_of(feed(ssb, frames, np.arange(15 * SCAN[1])))
    whole = phase_of(feed(ssb, frames, np.arange(15 * SCAN[1], SCAN[0] * SCAN[1])))
    assert np.isnan(half[15:]).all()
    inner = slice(3, 12)
    assert correlation(half[inner], whole[inner]) > 0.97
    assert scale(half[inner] - half[inner].mean(), whole[inner] - whole[inner].mean()) == pytest.approx(1.0, abs=0.12)


def test_a_subsampled_scan_is_as_strong_as_a_whole_one() -> None:
    truth = atoms(0.3)
    frames = noiseless(expected(truth))
    visited = np.sort(np.random.default_rng(0).permutation(SCAN[0] * SCAN[1])[: SCAN[0] * SCAN[1] * 6 // 10])
    ssb = agent()
    ssb.start(meta())
    found = phase_of(feed(ssb, frames, visited)).ravel()
    assert np.isfinite(found).sum() == len(visited)
    assert scale(found[visited], truth.ravel()[visited]) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    ("weighting", "aberrations"), [("flat", {}), ("overlap", {}), ("white", {"C10": 6.0}), ("flat", {"C10": 6.0})]
)
def test_noise_is_as_strong_as_the_spread_says(weighting: str, aberrations: dict[str, float]) -> None:
    """6 images of 960 pixels, of which some 300 are independent: their rms has a standard error of 1.7 %; 4 sigma."""
    frames, clean = expected(atoms(0.05), aberrations), []
    options = {"aberrations": aberrations, "weighting": weighting}
    spread = np.array([])
    truth = phase_of(run(noiseless(frames), options))
    for seed in range(6):
        image = run(counts(frames, 3000.0, seed), options).images["phase"]
        assert image.spread is not None
        clean.append(image.values - truth)
        spread = image.spread
    assert np.std(clean) / spread.mean() == pytest.approx(1.0, abs=0.07)


def test_weighting_keeps_noise_out() -> None:
    """In noise each is better than flat, and Wiener's the best of all in least squares."""
    truth = atoms(0.3)
    frames = counts(expected(truth), 300.0)
    error = {}
    for weighting in ("flat", "white", "overlap", "wiener"):
        found = phase_of(run(frames, {"weighting": weighting}))
        error[weighting] = float(((found - truth) ** 2).mean() / (truth**2).mean())
    assert error["wiener"] < min(error["white"], error["overlap"])
    assert max(error["white"], error["overlap"]) < error["flat"]


def test_a_right_model_fits_and_a_wrong_one_does_not() -> None:
    frames = counts(expected(atoms(0.3), {"C10": 5.0}, 30.0), 2e4)
    right = run(frames, {"aberrations": {"C10": 5.0}}, rotation_deg=30.0).trust
    assert right is not None
    assert right.fits
    assert right.variance == pytest.approx(1.0, abs=0.05)
    for options, rotation in (
        ({}, 30.0),
        ({"aberrations": {"C10": 5.0}}, -30.0),
        ({"aberrations": {"C10": -5.0}}, 30.0),
    ):
        wrong = run(frames, options, rotation_deg=rotation).trust
        assert wrong is not None
        assert not wrong.fits


def test_the_false_alarm_rate_is_the_level_of_the_test() -> None:
    """12 scans under the right model, at low counts and at high: each fails with 1 %; more than 2 with under 1e-3."""
    frames = expected(atoms(0.2), {"C10": 3.0})
    failed = 0
    for seed in range(12):
        found = run(counts(frames, 30.0 if seed % 2 else 3000.0, seed), {"aberrations": {"C10": 3.0}}).trust
        assert found is not None
        failed += not found.fits
    assert failed <= 2


@pytest.mark.parametrize("transposed", [False, True])
def test_the_forward_model_predicts_the_frames(transposed: bool) -> None:
    """Against frames in closed form, in squares inside the disc and positions inside the scan."""
    truth = atoms(0.3)
    frames = expected(truth, ABERRATED, 35.0, transposed)
    field = bright_field(CAMERA, (12, 14), PIXEL_MRAD, ALPHA, 2)
    beam = ssb_forward.probe(field, (12, 14), transposed, Aberrations.of(ABERRATED), WAVELENGTH_NM, 0.3)
    pixel = np.array([(12, 14), (15, 15), (17, 20), (14, 11)])
    share = ssb_forward.expected(truth, pixel, beam, STEP_NM, 35.0, len(field))
    measured = squares(np.rint(1e9 * frames[pixel[:, 0], pixel[:, 1]]).astype(np.uint32), field.label, len(field)) / 1e9
    whole = field.share > 0.999
    flat = (PIXEL_MRAD * 2) ** 2 / (math.pi * ALPHA**2)
    assert (share - measured)[:, whole].std() < 0.1 * (measured[:, whole] - flat).std()


def test_settings_can_change_while_it_runs() -> None:
    frames = counts(expected(atoms(0.3)), 300.0)
    changed = agent()
    changed.start(meta())
    feed(changed, frames[:, :])
    changed.configure(weighting="overlap", cutoff=0.05)
    found = changed.result()
    np.testing.assert_array_equal(phase_of(found), phase_of(run(frames, {"weighting": "overlap", "cutoff": 0.05})))
    with pytest.raises(OptionError, match="weighting"):
        changed.configure(weighting="nice")
    with pytest.raises(OptionError, match="binning"):
        changed.configure(binning=2)


def test_aberrations_can_change_between_rows() -> None:
    """Rows seen under other lenses, each corrected for its own, make one image."""
    truth, half = atoms(0.05), 15 * SCAN[1]
    parts = [noiseless(expected(truth, a)) for a in ({"C10": 4.0}, {"C10": -6.0})]
    ssb = agent({"aberrations": {"C10": 4.0}})
    ssb.start(meta())
    feed(ssb, parts[0], np.arange(half))
    ssb.configure(aberrations={"C10": -6.0})
    found = feed(ssb, parts[1], np.arange(half, SCAN[0] * SCAN[1]))
    assert any("changed while it ran" in note for note in found.notes)
    mixed = run(np.concatenate([parts[0][:15], parts[1][15:]]), {"aberrations": {"C10": 4.0}})
    errors = [np.std(transferred(phase_of(one)) - transferred(truth)) for one in (found, mixed)]
    assert errors[0] < 0.5 * errors[1]


def test_notes_warn_of_a_coarse_scan_and_of_a_disc_beside_its_place() -> None:
    frames = counts(expected(atoms(0.1)), 1000.0)
    assert run(frames).notes == ()
    assert any("too coarse" in note for note in run(frames, step_nm=0.03).notes)
    moved = run(np.roll(frames, 2, axis=3))
    assert any("shifted from its assumed centre" in note and "+" in note for note in moved.notes)
    centred = run(np.roll(frames, (1, -1), axis=(2, 3)), {"centre_px": (13, 13)})
    np.testing.assert_array_equal(phase_of(centred), phase_of(run(frames)))


def test_a_partial_scan_is_tested_where_its_probe_is_known() -> None:
    """Next to rows that have not come the model lacks a part of the phase: such positions must not be tested.

    With them the variance of the residuals is 2.5.
    """
    ssb = agent()
    ssb.start(meta())
    trust = feed(ssb, counts(expected(atoms(0.4)), 1000.0, 1), np.arange(22 * SCAN[1])).trust
    assert trust is not None
    assert trust.variance == pytest.approx(1.0, abs=0.15)


def test_streams_that_it_cannot_take_are_refused() -> None:
    with pytest.raises(MetaError, match="ssb needs a scan in rows"):
        agent().start(StreamMeta(Layout((9,), CAMERA), meta().metadata, False))
    with pytest.raises(MetaError, match="ssb needs frames"):
        agent().start(StreamMeta(meta().layout, meta().metadata, False, has_frames=False))
    with pytest.raises(MetaError, match="ssb: the bright-field disc"):
        agent().start(meta(convergence_mrad=60.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aberrations": {"C99": 1.0}}, "C99"),
        ({"rotation": "ato"}, "rotation: input should be .meta. or .auto. or a valid number"),
        ({"binning": -1}, "binning"),
        ({"weighting": "nice"}, "weighting: input should be .flat., .white., .overlap. or .wiener."),
        ({"cutoff": 1.0}, "cutoff"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        agent(options)


def test_atoms_of_a_twin_s_scan_stand_where_they_are_and_attract() -> None:
    """Four silicon atoms in vacuum under the twin's beam, defocused: peaks of the right height at their places."""
    places = ((0.75, 0.7), (1.1, 0.8), (0.8, 1.1), (1.15, 1.2))
    optics = Optics(convergence_mrad=ALPHA, grid=128, sampling_nm=0.015, camera_pixels=32, binning=2)
    setup = ScanSetup(
        specimen="single_atoms",
        specimen_options={"element": "Si", "positions_nm": places, "side_nm": 1.92, "thermal": False},
        optics=optics,
        detectors={},
    )
    acquisition = Acquisition(setup, Day(focal_spread_nm=0.0, source_size_nm=0.0))
    plan = acquisition.placed(ScanPlan(rows=32, columns=30, step_nm=0.024, dose_e=2e5, rotation_deg=20.0, dwell_s=1e-3))
    path = next(paths(plan, plan.count))
    defocused = Aberrations.of({"C10": 4.0})
    images = acquisition.expected(path, path.intended_nm, lambda line: defocused)
    frames = counts(np.array([image for image, _ in images]), 1.0).reshape(*plan.shape, 32, 32)
    known = Metadata(
        energy_kev=300.0, convergence_mrad=ALPHA, pixel_mrad=optics.camera_pixel_mrad, step_nm=0.024, rotation_deg=20.0
    )
    ssb = agent({"aberrations": {"C10": 4.0}})
    ssb.start(StreamMeta(Layout(plan.shape, (32, 32)), known, False))
    phase = phase_of(feed(ssb, frames))
    truth = true_phase(acquisition, plan)
    assert correlation(phase, truth) > 0.95
    assert scale(phase, truth - truth.mean()) == pytest.approx(0.9, abs=0.15)
    distance = np.stack([np.hypot(*(path.intended_nm - place).T) for place in places]).min(axis=0)
    highest = np.argsort(phase.ravel())[-8:]
    assert (distance[highest] < 0.03).all()
