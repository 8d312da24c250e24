"""Segments, their linear reconstruction and the simulated scans: orientation, electrons, symmetry."""

import numpy as np
import pytest

from agents.segment_net.simulation import Conditions, random_scan, segment_sums, true_phase
from agents.segmented.linear import reconstruct
from agents.segmented.segments import COUNT, centroids, fractions, mirrored
from twin.arrays import Floats
from twin.detectors.geometry import DiffractionGrid
from twin.optics import Optics

CONDITIONS = Conditions(Optics(energy_kev=300.0, convergence_mrad=20.0), sampling=0.4)
N = 24


def phase(strength: float = 0.1) -> Floats:
    y, x = np.indices((4 * N, 4 * N)) / (4 * N)
    return strength * (np.cos(2 * np.pi * (3 * x + 2 * y)) + np.sin(2 * np.pi * (5 * y - x)))


def alike(one: Floats, other: Floats) -> float:
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


@pytest.fixture(scope="module")
def sums() -> Floats:
    return segment_sums(phase(), CONDITIONS)


def test_segments_share_every_pixel_out_to_the_last_ring() -> None:
    grid = DiffractionGrid(shape=(40, 44), pixel_mrad=2.0)
    part = fractions(grid, 10.0, 20.0)
    assert part.shape == (COUNT, 40, 44)
    y, x = np.indices(grid.shape)
    inside = np.hypot(x - 22, y - 20) < 11
    np.testing.assert_allclose(part.sum(axis=0)[inside], 1.0, atol=1e-6)


def test_segments_turn_with_the_scan_and_swap_with_a_transposed_camera() -> None:
    grid = DiffractionGrid(shape=(41, 41), pixel_mrad=1.0)
    upright, turned = fractions(grid, 8.0), fractions(grid, 8.0, 90.0)
    np.testing.assert_allclose(turned, np.rot90(upright, -1, axes=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(fractions(grid, 8.0, 0.0, True), upright.swapaxes(1, 2), atol=1e-6)


def test_rings_end_with_the_camera() -> None:
    part = fractions(DiffractionGrid(shape=(25, 25), pixel_mrad=1.0), 8.0)
    assert part[-1].sum() == 0
    assert part[0].sum() > 0


def test_centroids_are_those_of_the_areas() -> None:
    grid = DiffractionGrid(shape=(121, 121), pixel_mrad=1.0)
    part = fractions(grid, 24.0)
    y, x = (axis - 60.0 for axis in np.indices(grid.shape))
    area = part.sum(axis=(1, 2))
    middle = np.stack([(part * axis).sum(axis=(1, 2)) / area for axis in (x, y)], axis=-1) / 24.0
    np.testing.assert_allclose(middle, centroids(), atol=2e-3)


@pytest.mark.parametrize("kind", ["fast", "slow", "swap"])
def test_a_mirrored_specimen_gives_mirrored_segments(kind: str, sums: Floats) -> None:
    change = {"fast": lambda a: a[..., ::-1], "slow": lambda a: a[..., ::-1, :], "swap": lambda a: a.swapaxes(-1, -2)}
    mirror = change[kind]
    shifted = np.roll(mirror(phase()), {"fast": (0, 1), "slow": (1, 0), "swap": (0, 0)}[kind], axis=(0, 1))
    back = {"fast": (0, 1), "slow": (1, 0), "swap": (0, 0)}[kind]
    expected = np.roll(mirror(sums)[mirrored(kind)], back, axis=(1, 2))
    np.testing.assert_allclose(segment_sums(shifted, CONDITIONS), expected, atol=2e-5)


def test_the_beam_is_conserved(sums: Floats) -> None:
    total = sums.sum(axis=0)
    assert total.mean() == pytest.approx(1.0, abs=0.05)
    assert np.ptp(total) < 0.01


def test_linear_images_are_the_phase_in_rad(sums: Floats) -> None:
    truth = true_phase(phase(), CONDITIONS)
    found = reconstruct(sums * 1e7, CONDITIONS.sampling)
    assert alike(found.sideband, truth) > 0.99
    assert found.sideband.std() == pytest.approx(truth.std(), rel=0.1)
    assert alike(found.integrated, truth) > 0.9
    assert found.beam_e == pytest.approx(1e7, rel=0.05)


def test_a_blurred_source_weakens_the_signal() -> None:
    soft = segment_sums(phase(), Conditions(CONDITIONS.optics, 0.4, source=0.4))
    assert soft.std(axis=(1, 2))[0] < 0.9 * segment_sums(phase(), CONDITIONS).std(axis=(1, 2))[0]


def test_a_random_scan_depends_on_its_seed_alone() -> None:
    one, same, other = random_scan((1, 2), 16), random_scan((1, 2), 16), random_scan((1, 3), 16)
    np.testing.assert_array_equal(one.sums, same.sums)
    assert one.conditions != other.conditions
    assert np.isfinite(one.truth).all()
