"""The fast renderer: precision, gradient, conservation, camera geometry; abTEM is compared in test_multislice.py."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.aberrations import NAMES, Aberrations, rotated
from twin.day import CameraProperties, Day, FilmProperties
from twin.optics import AliasingError, Optics
from twin.ronchigram.camera_geometry import crop_pixels, to_camera
from twin.ronchigram.phase_screens import FastRenderer, aperture_basis, diffraction

SMALL = Optics(grid=256, camera_pixels=64, binning=3)
STATE = Aberrations.of({"C10": 30.0, "C12a": 10.0, "C12b": -8.0, "C21a": 40.0, "C23b": -60.0, "C30": 800.0})


def relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("slices", [1, 3])
def test_single_precision_agrees_with_double(slices: int) -> None:
    single, double = (FastRenderer(Optics(), Day(), slices, dtype) for dtype in (torch.float32, torch.float64))
    assert relative(single.probability([STATE], [5]), double.probability([STATE], [5])) < 2e-5


def test_the_gradient_is_that_of_finite_differences() -> None:
    renderer = FastRenderer(SMALL, Day(focal_spread_nm=0.5), 2, torch.float64)
    film = renderer.transmission(1)[None]
    values = torch.tensor(STATE.array() * 0.3, dtype=torch.float64)[None]
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(renderer.basis.size,) * 2))

    def objective(coefficients: torch.Tensor) -> torch.Tensor:
        return (renderer.intensity(coefficients, film)[0] * weight).sum()

    leaf = values.clone().requires_grad_()
    objective(leaf).backward()
    assert leaf.grad is not None
    for name in ("C10", "C12a", "C12b", "C21b", "C34a"):
        step = torch.zeros_like(values)
        step[0, NAMES.index(name)] = 1e-3
        with torch.no_grad():
            slope = (objective(values + step) - objective(values - step)) / 2e-3
        assert leaf.grad[0, NAMES.index(name)].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.floats(-60, 60), st.floats(-30, 30), st.integers(0, 2**62), st.integers(1, 3))
def test_a_phase_object_loses_no_electron(c10: float, c12: float, seed: int, slices: int) -> None:
    renderer = FastRenderer(SMALL, Day(focal_spread_nm=0.0), slices, torch.float64)
    state = torch.from_numpy(Aberrations.of({"C10": c10, "C12a": c12}).array())[None]
    everything = aperture_basis(SMALL, SMALL.grid, torch.float64)
    propagator = None
    if slices > 1:
        from twin.ronchigram.phase_screens import fresnel_propagator

        propagator = fresnel_propagator(SMALL, SMALL.grid, 1.0, torch.float64)
    total = diffraction(state, renderer.transmission(seed)[None], everything, propagator).sum()
    assert total.item() == pytest.approx(1.0, abs=1e-12)


def test_the_pruned_transforms_are_the_full_ones() -> None:
    renderer = FastRenderer(SMALL, Day(focal_spread_nm=0.0), 1, torch.float64)
    film = renderer.transmission(2)[None]
    state = torch.from_numpy(STATE.array())[None]
    pruned = diffraction(state, film, renderer.basis)[0]
    full = diffraction(state, film, aperture_basis(SMALL, SMALL.grid, torch.float64))[0]
    start = SMALL.grid // 2 - renderer.basis.size // 2
    inner = full[start : start + renderer.basis.size, start : start + renderer.basis.size]
    assert torch.allclose(pruned, inner, rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize("thickness_nm", [2.0, 8.0])
@pytest.mark.parametrize(("c10", "share"), [(0.0, 0.5), (30.0, 0.5), (95.0, 0.75), (110.0, 0.75)])
def test_the_film_about_the_probe_is_all_that_a_ronchigram_shows(thickness_nm: float, c10: float, share: float) -> None:
    """The part's film repeated over the whole grid gives the same picture; at 2 % a hidden shift would show."""
    optics, state = Optics(), STATE + Aberrations.of({"C10": c10 - 30.0})
    day = Day(film=FilmProperties(thickness_nm=thickness_nm), camera=CameraProperties(rotation_deg=2.0, scale=1.01))
    renderer = FastRenderer(optics, day, sub_window=True)
    side = renderer.side(state)
    assert side == share * optics.grid
    part = renderer.transmission(3, side)
    index = torch.arange(optics.grid)
    index = torch.where(index < optics.grid // 2, index, index - optics.grid)  # the probe sits in the grid's corner
    whole = part[:, (index + side // 2) % side][:, :, (index + side // 2) % side]
    coefficients = torch.from_numpy(state.array()).float()[None]
    seen, wanted = (
        to_camera(renderer.intensity(coefficients, film[None]), optics, day.camera).numpy() for film in (part, whole)
    )
    assert relative(seen, wanted) < 5e-3  # their contrast is 0.1
    assert seen.sum() == pytest.approx(wanted.sum(), abs=1e-3)


def test_a_wide_probe_has_the_whole_film() -> None:
    state = Aberrations.of({"C10": 170.0})
    local, usual = (FastRenderer(Optics(), Day(), sub_window=choice) for choice in (True, False))
    assert local.side(state) == usual.side(state) == usual.side(Aberrations()) == Optics().grid
    assert np.array_equal(local.probability([state], [1]), usual.probability([state], [1]))


def test_several_slices_need_a_propagator() -> None:
    film = FastRenderer(SMALL, Day(), 2).transmission(0)[None]
    with pytest.raises(ValueError, match="2 slices need a propagator"):
        diffraction(torch.zeros(1, 25), film, aperture_basis(SMALL, 192, torch.float32))


def test_a_seed_is_a_region() -> None:
    renderer = FastRenderer(SMALL, Day())
    one, again, other = renderer.probability([STATE] * 3, [4, 4, 5])
    assert np.array_equal(one, again)
    assert relative(other, one) > 0.03


def test_a_turned_camera_sees_turned_aberrations() -> None:
    """A spot beside zero angle on a camera turned by 90 degrees."""
    intensity = torch.zeros(1, 240, 240, dtype=torch.float64)
    y, x = np.mgrid[-120:120, -120:120]
    intensity[0] = torch.from_numpy(np.exp(-((x - 30.0) ** 2 + (y - 10.0) ** 2) / 200))
    seen = to_camera(intensity, SMALL, CameraProperties(rotation_deg=90.0))[0].numpy()
    centre = np.array([(seen * axis).sum() / seen.sum() for axis in np.mgrid[0:64, 0:64]]) * 3 + 1 - 96
    # Rows first: the spot at (x, y) = (30, 10) shows where source = R(90) camera, that is at (10, -30).
    assert centre == pytest.approx([-30.0, 10.0], abs=0.05)
    assert rotated(STATE, 2 * np.pi).array() == pytest.approx(STATE.array())


@pytest.mark.parametrize("scale", [0.97, 1.0, 1.05])
@pytest.mark.parametrize("rotation_deg", [0.0, 4.0])
def test_camera_errors_conserve_the_beam_that_falls_on_it(scale: float, rotation_deg: float) -> None:
    camera = CameraProperties(scale=scale, rotation_deg=rotation_deg, shift_px=(1.5, -2.0))
    day = Day(film=FilmProperties(thickness_nm=2.0), camera=camera)
    seen = FastRenderer(Optics(), day).probability([STATE], [0])[0]
    assert seen.sum() == pytest.approx(1.0, abs=5e-3)
    assert crop_pixels(Optics(), camera) >= 384


def test_a_shift_moves_the_disc_by_so_many_pixels() -> None:
    day = Day(film=FilmProperties(thickness_nm=0.1), camera=CameraProperties(shift_px=(3.0, -1.0)))
    seen = FastRenderer(Optics(), day).probability([Aberrations()], [0])[0]
    still = FastRenderer(Optics(), Day(film=FilmProperties(thickness_nm=0.1))).probability([Aberrations()], [0])[0]
    rows, columns = np.mgrid[0:128, 0:128]
    moved = [(seen * axis).sum() / seen.sum() - (still * axis).sum() / still.sum() for axis in (columns, rows)]
    assert moved == pytest.approx([3.0, -1.0], abs=0.02)


def test_a_probe_wider_than_the_window_is_refused() -> None:
    with pytest.raises(AliasingError, match=r"window of .* nm"):
        FastRenderer(SMALL, Day()).probability([Aberrations.of({"C10": 150.0})], [0])


def test_states_and_regions_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="2 aberration states for 1 regions"):
        FastRenderer(SMALL, Day()).probability([STATE, STATE], [0])
    with pytest.raises(ValueError, match="slices must be at least 1"):
        FastRenderer(SMALL, Day(), 0)
