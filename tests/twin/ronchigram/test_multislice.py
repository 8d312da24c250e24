"""Multislice against abTEM, independent numpy and torch wave optics, closed forms and conservation."""

import math
from dataclasses import replace
from functools import cache

import abtem
import numpy as np
import pytest
import torch
from abtem.multislice import FresnelPropagator
from abtem.potentials.iam import TransmissionFunction

from twin.aberrations import NAMES, TERMS, Aberrations, aberration_phase, index, to_abtem
from twin.day import CameraProperties, Day, FilmProperties
from twin.matter.carbon_screen import phase_psd_rad2_nm2, structure_factor
from twin.optics import AliasingError, Optics
from twin.ronchigram.multislice import SCATTERING_MARGIN_MRAD, MultisliceRenderer, multislice_grid, projection_filter
from twin.ronchigram.phase_screens import aperture_basis, crop_pixels, diffraction, fresnel_propagator

OPTICS = Optics(grid=256, camera_pixels=64, binning=3)  # 6.4 nm window
STILL = Day(film=FilmProperties(thickness_nm=8.0, thermal_rms_nm=0.0), focal_spread_nm=0.0)
STATE = Aberrations.of({"C10": 40.0, "C12a": 15.0, "C12b": -10.0})
# About 8 rad at the edge of the aperture, in every order.
SIZE_NM = {n: 8.0 * (n + 1) * OPTICS.wavelength_nm / (2 * np.pi) / 0.028 ** (n + 1) for n in range(1, 6)}
EVERYTHING = Aberrations.from_array(
    np.random.default_rng(3).normal(0.0, 0.3, len(NAMES)) * [SIZE_NM[term.n] for term in TERMS]
)


@cache
def renderer(day=STILL, slice_nm=1.0, film_windows=1):
    return MultisliceRenderer(OPTICS, day, slice_nm=slice_nm, film_windows=film_windows)


def relative_l2(image, reference):
    return float(np.linalg.norm(image - reference) / np.linalg.norm(reference))


def frequencies_per_nm(grid):
    """(kx along columns, ky along rows), zero at index 0."""
    k = np.fft.fftfreq(grid, OPTICS.window_nm / grid)
    return k[None, :], k[:, None]


def numpy_diffraction(aberrations, transmission, step_nm, first_nm):
    """Textbook multislice in double precision, (grid, grid), rows along y, zero angle at grid // 2.

    The first slice lies `first_nm` below the plane that C10 counts from; free space of length z adds z to C10.
    The probe stands in the middle of the region, far from its seams.
    """
    grid = transmission.shape[-1]
    kx, ky = np.broadcast_arrays(*frequencies_per_nm(grid))
    angle_x, angle_y = (1e3 * OPTICS.wavelength_nm * k for k in (kx, ky))
    shifted = aberrations + Aberrations.of({"C10": first_nm})
    chi = aberration_phase(shifted, angle_x, angle_y, OPTICS.wavelength_nm)
    aperture = np.hypot(angle_x, angle_y) <= OPTICS.convergence_mrad
    kept = np.hypot(kx, ky) < grid / OPTICS.window_nm / 3
    fresnel = np.exp(-1j * np.pi * OPTICS.wavelength_nm * step_nm * (kx**2 + ky**2)) * kept
    field = aperture * np.exp(-1j * chi) / np.sqrt(aperture.sum())
    for layer in np.fft.ifftshift(transmission, axes=(-2, -1)).astype(np.complex128):
        field = np.fft.fft2(np.fft.ifft2(field) * layer) * fresnel
    return np.fft.fftshift(np.abs(field) ** 2)


def abtem_diffraction(aberrations, transmission, step_nm, first_nm):
    """abTEM's probe, transmission and propagation through the same transmission functions."""
    extent, energy_ev, grid = (OPTICS.window_nm * 10,) * 2, OPTICS.energy_kev * 1e3, transmission.shape[-1]
    settings = {"device": "cpu", "precision": "float32", "fft": "numpy", "dask.lazy": False}
    with abtem.config.set(settings):
        probe = abtem.Probe(
            semiangle_cutoff=OPTICS.convergence_mrad,
            gpts=(grid, grid),
            extent=extent,
            energy=energy_ev,
            soft=False,
            aberrations=to_abtem(aberrations + Aberrations.of({"C10": first_nm})),
        )
        waves, propagator = probe.build(lazy=False), FresnelPropagator()
        for layer in transmission.swapaxes(-1, -2):
            function = TransmissionFunction(layer[None], slice_thickness=10 * step_nm, extent=extent, energy=energy_ev)
            waves = propagator.propagate(function.transmit(waves), 10 * step_nm, in_place=True)
    return np.fft.fftshift(np.abs(np.fft.fft2(waves.array.T)) ** 2)


def torch_diffraction(aberrations, transmission, step_nm, first_nm):
    """The fast renderer's own wave optics on the finer grid, double precision."""
    optics = replace(OPTICS, grid=transmission.shape[-1], sampling_nm=OPTICS.window_nm / transmission.shape[-1])
    basis = aperture_basis(optics, optics.grid, torch.float64)
    propagator = fresnel_propagator(optics, optics.grid, step_nm, torch.float64)
    coefficients = torch.from_numpy((aberrations + Aberrations.of({"C10": first_nm})).array())[None]
    layers = torch.from_numpy(transmission.astype(np.complex128))[None].roll((optics.grid // 2,) * 2, (-2, -1))
    return diffraction(coefficients, layers, basis, propagator)[0].numpy()


def inside_disc(image):
    """The bright-field disc: what both codes keep, whatever they do at their band limits."""
    angle = OPTICS.angles_mrad(image.shape[-1])
    return image[np.hypot(angle[:, None], angle[None, :]) <= OPTICS.convergence_mrad]


@pytest.mark.parametrize("code", [numpy_diffraction, torch_diffraction])
@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_one_slice_equals_independent_wave_optics(name, code):
    aberrations = EVERYTHING if name == "all" else Aberrations.of({name: SIZE_NM[TERMS[index(name)].n]})
    transmission = renderer(slice_nm=8.0).transmission(1)
    assert transmission.shape[:2] == (1, 1)
    ours = renderer(slice_nm=8.0).intensity(aberrations, transmission)
    reference = code(aberrations, transmission[0], 8.0, 0.0)
    assert relative_l2(inside_disc(ours), inside_disc(reference)) < 1e-4


@pytest.mark.parametrize("code", [numpy_diffraction, torch_diffraction])
@pytest.mark.parametrize("aberrations", [Aberrations(), STATE, -STATE, EVERYTHING], ids=["none", "x", "-x", "all"])
def test_eight_slices_equal_independent_wave_optics(aberrations, code):
    transmission = renderer().transmission(1)
    assert transmission.shape[:2] == (1, 8)
    ours = renderer().intensity(aberrations, transmission)
    reference = code(aberrations, transmission[0], 1.0, -3.5)
    assert relative_l2(inside_disc(ours), inside_disc(reference)) < 1e-3


@pytest.mark.parametrize("aberrations", [Aberrations(), STATE, EVERYTHING], ids=["none", "x", "all"])
@pytest.mark.parametrize("seed", [1, 4])
def test_eight_slices_are_abtems_up_to_rounding(aberrations, seed):
    """Everywhere, its band limit included; the two seeds' regions lie in memory along x first and along y first."""
    transmission = renderer().transmission(seed)
    assert (transmission.strides[-1] == transmission.itemsize) == (seed == 4), "other seeds are needed"
    ours = renderer().intensity(aberrations, transmission)
    assert relative_l2(ours, abtem_diffraction(aberrations, transmission[0], 1.0, -3.5)) < 5e-6


def test_the_comparison_would_see_a_swap_of_axes_or_a_sign():
    transmission = renderer().transmission(1)
    reference = inside_disc(numpy_diffraction(STATE, transmission[0], 1.0, -3.5))
    for wrong in (-STATE, Aberrations.of({**STATE.nonzero(), "C12b": 10.0}), STATE + Aberrations.of({"C10": 3.5})):
        assert relative_l2(inside_disc(renderer().intensity(wrong, transmission)), reference) > 0.03
    swapped = renderer().intensity(STATE, transmission.swapaxes(-1, -2))
    assert relative_l2(inside_disc(swapped), reference) > 0.03


@pytest.mark.parametrize("depth", [0, 3, 7])
def test_c10_counts_from_the_mid_plane(depth):
    """Atoms in the one-nm layer `depth` of eight alone: a screen at C10 plus its height over the mid-plane."""
    transmission = renderer().transmission(1)
    lone = np.ones_like(transmission)
    lone[:, depth] = transmission[:, depth]
    height_nm = depth - 3.5
    reference = numpy_diffraction(STATE, lone[0, depth][None], 1.0, height_nm)
    ours = renderer().intensity(STATE, lone)
    assert relative_l2(inside_disc(ours), inside_disc(reference)) < 1e-3


def power_spectrum(image):
    """Of the contrast in the central square of the disc, Hann window."""
    half = round(OPTICS.convergence_mrad / math.sqrt(2) / OPTICS.pixel_mrad)
    centre = len(image) // 2
    square = image[centre - half : centre + half, centre - half : centre + half]
    window = np.hanning(2 * half)
    return np.abs(np.fft.fft2((square / square.mean() - 1) * window[:, None] * window[None, :])) ** 2


def unevenness(reference_nm):
    """||S(x) - S(-x)|| / ||S(x)|| of the 8 nm film, mean of four regions; C10 counts from a plane at `reference_nm`."""
    shift, values = Aberrations.of({"C10": -reference_nm}), []
    for seed in range(4):
        transmission = renderer().transmission(seed)
        plus, minus = (power_spectrum(renderer().intensity(s + shift, transmission)) for s in (STATE, -STATE))
        values.append(np.linalg.norm(plus - minus) / np.linalg.norm(plus))
    return float(np.mean(values))


def test_the_spectrum_is_most_even_about_the_mid_plane():
    middle, entrance, exit_face = unevenness(0.0), unevenness(-4.0), unevenness(4.0)
    assert middle < 0.85 * entrance
    assert middle < 0.85 * exit_face


@pytest.mark.parametrize("thickness_nm", [4.0, 8.0])
def test_almost_no_electron_is_lost_and_none_is_made(thickness_nm):
    """Band limits, and scattering beyond the angles that the grid holds, take under 1e-3."""
    day = replace(STILL, film=replace(STILL.film, thickness_nm=thickness_nm))
    total = renderer(day).intensity(STATE, renderer(day).transmission(1)).sum(dtype=np.float64)
    assert 1 - 1e-3 < total < 1 + 1e-5


def test_electrons_scattered_off_the_grid_are_those_of_born_scattering():
    """A sharp source leaves the atoms' full power at high angles: what leaves the grid, to first order, is lost.

    The film's transmission functions keep |q| below the band limit, so the loss is that of pairs of aperture
    angle and q that end beyond it: 9e-4 for this film; multiple scattering and slicing add under 20 %.
    """
    day = replace(STILL, film=replace(STILL.film, thickness_nm=4.0), source_size_nm=0.0)
    limit = multislice_grid(OPTICS) / OPTICS.window_nm / 3
    rng = np.random.default_rng(0)
    angle = np.sqrt(rng.random(200_000)) * OPTICS.convergence_mrad * 1e-3 / OPTICS.wavelength_nm
    q, azimuth = np.sqrt(rng.random(200_000)) * limit, rng.random(200_000) * 2 * np.pi
    beyond = np.abs(angle + q * np.exp(1j * azimuth)) > limit
    expected = np.mean(phase_psd_rad2_nm2(q, day.film, OPTICS, 4.0) * beyond) * np.pi * limit**2
    total = renderer(day).intensity(STATE, renderer(day).transmission(1)).sum(dtype=np.float64)
    assert 1 - total == pytest.approx(expected, rel=0.25)


def test_the_camera_sees_the_disc_the_right_way_up():
    """`probability` is the un-binned intensity summed over 3 x 3, zero angle at the corner of pixel 32."""
    fine = renderer().intensity(STATE, renderer().transmission(5))
    start = len(fine) // 2 - 96
    binned = fine[start : start + 192, start : start + 192].reshape(64, 3, 64, 3).sum((1, 3))
    frame = renderer().probability([STATE], [5])
    assert frame.shape == (1, 64, 64)
    assert frame.dtype == np.float32
    np.testing.assert_allclose(frame[0], binned, rtol=1e-5, atol=1e-12)


def test_the_same_seed_gives_the_same_bytes_in_any_order_and_any_renderer():
    states, seeds = [STATE, -STATE, STATE], [7, 8, 9]
    together = renderer().probability(states, seeds)
    alone = MultisliceRenderer(OPTICS, STILL, film_windows=1)
    for i in (2, 0, 1):
        assert alone.probability([states[i]], [seeds[i]])[0].tobytes() == together[i].tobytes()
    other = MultisliceRenderer(OPTICS, STILL, film_windows=1, film_seed=1)
    assert relative_l2(other.probability([STATE], [7])[0], together[0]) > 0.02


def test_once_prepared_the_first_frame_makes_no_film_and_is_the_same(monkeypatch):
    reference = renderer().frame(STATE, 7)
    prepared = MultisliceRenderer(OPTICS, STILL, slice_nm=1.0, film_windows=1)
    prepared.prepare()
    monkeypatch.delattr(MultisliceRenderer, "_build")
    assert np.array_equal(prepared.frame(STATE, 7), reference)


def test_regions_are_fresh_and_take_all_eight_orientations():
    """Of a film no wider than the window, a region is a cyclic shift: |F[t]| tells only its orientation."""
    thin = renderer(slice_nm=8.0)
    orientations = []
    for seed in range(60):
        spectrum = np.abs(np.fft.fft2(thin.transmission(seed)[0, 0]))[:20, :20]
        spectrum[0, 0] = 0.0
        if not any(np.allclose(spectrum, known, rtol=1e-2) for known in orientations):
            orientations.append(spectrum)
    # All eight in 60 draws: a miss has probability 8 (7/8)^60 = 0.3 %, and the seeds are fixed.
    assert len(orientations) == 8


def test_a_region_is_cut_from_the_larger_film():
    wide = renderer(replace(STILL, film=FilmProperties(thickness_nm=1.0, thermal_rms_nm=0.0)), film_windows=2)
    one, other = wide.transmission(1), wide.transmission(2)
    assert wide.film.shape[-1] == 2 * wide.grid
    assert one.shape == (1, 1, wide.grid, wide.grid)
    assert np.isin(one, wide.film).all()
    assert relative_l2(one, other) > 0.02


MOVING = Day(film=FilmProperties(thickness_nm=4.0), source_size_nm=0.03)


def film_spectra():
    """(q, transforms of the projected phase of each snapshot) of a film of 4 nm, rad nm^2."""
    film = renderer(MOVING, film_windows=2).film
    side_nm, grid = 2 * OPTICS.window_nm, film.shape[-1]
    phase = np.angle(film).sum(axis=1)
    transforms = np.fft.rfft2(phase) * (side_nm / grid) ** 2
    q = np.hypot(np.fft.fftfreq(grid, side_nm / grid)[:, None], np.fft.rfftfreq(grid, side_nm / grid)[None, :])
    return q, transforms, side_nm**2


RINGS_PER_NM = [(1, 3), (3, 5), (5, 7), (7, 9), (9, 11)]


def test_the_film_has_the_phase_statistics_of_the_fast_renderers_screens():
    """Power per ring: 2,000 modes or more, so 2.2 % standard error or less; the bound is 8 %."""
    q, transforms, area = film_spectra()
    measured = np.mean(np.abs(transforms) ** 2, axis=0) / area
    blur = np.exp(-4 * (np.pi * MOVING.source_size_nm * q) ** 2)
    expected = phase_psd_rad2_nm2(q, MOVING.film, OPTICS, MOVING.film.thickness_nm) * blur
    for low, high in RINGS_PER_NM:
        ring = (q >= low) & (q < high)
        assert measured[ring].mean() == pytest.approx(expected[ring].mean(), rel=0.08), (low, high)


def test_snapshots_are_the_same_atoms_displaced():
    """Coherence of two snapshots: D S / (1 + D (S - 1)) with the Debye-Waller factor D = exp(-4 pi^2 q^2 u^2)."""
    q, (one, other, _), _ = film_spectra()
    for low, high in RINGS_PER_NM:
        ring = (q >= low) & (q < high)
        debye = np.exp(-4 * (np.pi * q[ring].mean() * MOVING.film.thermal_rms_nm) ** 2)
        factor = structure_factor(q[ring].mean(), MOVING.film)
        cross = np.mean(one[ring] * other[ring].conj()).real
        power = np.mean(np.abs(one[ring]) ** 2 + np.abs(other[ring]) ** 2) / 2
        assert cross / power == pytest.approx(debye * factor / (1 + debye * (factor - 1)), abs=0.02), (low, high)


def test_focal_spread_is_an_average_over_c10():
    """Three-point Gauss-Hermite: weights 1/6, 2/3, 1/6 at -sqrt(3), 0, sqrt(3) standard deviations."""
    spread = MultisliceRenderer(OPTICS, replace(STILL, focal_spread_nm=2.0), film_windows=1)
    transmission = renderer().transmission(4)
    points = [(-2.0 * math.sqrt(3), 1 / 6), (0.0, 2 / 3), (2.0 * math.sqrt(3), 1 / 6)]
    expected = sum(w * renderer().intensity(STATE + Aberrations.of({"C10": z}), transmission) for z, w in points)
    assert relative_l2(spread.intensity(STATE, transmission), expected) < 1e-6


def test_without_focal_spread_the_snapshots_are_averaged_and_without_motion_there_is_one():
    still_focus = MultisliceRenderer(OPTICS, replace(MOVING, focal_spread_nm=0.0), film_windows=1, snapshots=2)
    transmission = still_focus.transmission(0)
    assert len(transmission) == 2
    each = [still_focus.intensity(STATE, snapshot[None]) for snapshot in transmission]
    assert relative_l2(still_focus.intensity(STATE, transmission), (each[0] + each[1]) / 2) < 1e-6
    assert relative_l2(each[0], each[1]) > 1e-3
    assert renderer().film.shape[0] == 1


def test_a_larger_source_blurs_the_film():
    """The filter's ratio is the Gaussian of the source at every frequency that is kept."""
    sharp, blurred = projection_filter(360, 0.0178, 0.0), projection_filter(360, 0.0178, 0.04)
    q = np.hypot(np.fft.fftfreq(360, 0.0178)[:, None], np.fft.rfftfreq(360, 0.0178)[None, :])
    kept = sharp > 0
    np.testing.assert_allclose(
        (blurred / np.where(kept, sharp, 1))[kept], np.exp(-2 * (np.pi * 0.04 * q[kept]) ** 2), 1e-4
    )
    # abTEM keeps a circle of 2/3 of the largest frequency.
    assert q[kept].max() == pytest.approx(1 / 3 / 0.0178, rel=0.01)
    assert sharp[0, 0] == 1.0


@pytest.mark.parametrize("optics", [Optics(), OPTICS, Optics(energy_kev=80.0, convergence_mrad=20.0)])
def test_the_grid_holds_the_aperture_and_scattering_after_abtems_band_limit(optics):
    grid = multislice_grid(optics)
    kept_mrad = 1e3 * optics.wavelength_nm * grid / optics.window_nm / 3
    needed = optics.convergence_mrad + SCATTERING_MARGIN_MRAD
    assert needed <= kept_mrad < 1.1 * needed or grid < 1.1 * optics.camera_pixels * optics.binning
    assert grid % 2 == 0


def test_the_default_grid_is_720():
    assert multislice_grid(Optics()) == 720


def test_errors_come_before_the_film_is_built():
    fresh = MultisliceRenderer(OPTICS, STILL)
    with pytest.raises(AliasingError, match="C10 of 400 nm"):
        fresh.probability([STATE, Aberrations.of({"C10": 400.0})], [0, 1])
    with pytest.raises(ValueError, match="1 aberration states for 2 regions"):
        fresh.probability([STATE], [0, 1])
    with pytest.raises(ValueError, match=r"transmission has shape \(1, 8, 10, 10\); expected .* 360, 360"):
        fresh.intensity(STATE, np.ones((1, 8, 10, 10), np.complex64))
    assert fresh._film is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slice_nm": 0.0}, "slice_nm must be positive, got 0.0"),
        ({"slice_nm": float("nan")}, "slice_nm must be positive, got nan"),
        ({"snapshots": 0}, "snapshots must be at least 1, got 0"),
        ({"film_windows": 0}, "film_windows must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MultisliceRenderer(OPTICS, STILL, **options)


@pytest.mark.parametrize("energy_kev", [60.0, 80.0])
def test_the_grid_reaches_the_corners_of_a_rotated_camera_at_low_energy(energy_kev):
    """A camera at an angle reads beyond its own square; a grid that ends before it gives frames without electrons."""
    optics = Optics(energy_kev=energy_kev, grid=256, sampling_nm=0.05, camera_pixels=64, binning=3)
    camera = CameraProperties(rotation_deg=6.0, shift_px=(2.0, -1.0), scale=0.98)
    day = replace(STILL, camera=camera, film=replace(STILL.film, thickness_nm=1.0))
    lit = MultisliceRenderer(optics, day, film_windows=1).probability([Aberrations()], [1])
    assert multislice_grid(optics, camera) >= crop_pixels(optics, camera)
    assert lit.sum() > 0.9


def test_a_film_too_thick_for_the_memory_is_refused_with_the_thickest_that_is_not():
    day = replace(STILL, film=replace(STILL.film, thickness_nm=5000.0))
    with pytest.raises(ValueError, match=r"a film of 5000 nm over .* GB and many minutes") as caught:
        MultisliceRenderer(Optics(), day)
    thickest = float(str(caught.value).split("day.film.thickness_nm <= ")[1].split(",")[0])
    MultisliceRenderer(Optics(), replace(STILL, film=replace(STILL.film, thickness_nm=thickest)))
