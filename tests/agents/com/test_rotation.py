"""Rotation and orientation by the least curl: against brute force, closed forms and fields of known rotation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.com.rotation import RotationError, curl_and_divergence, find_turn, noise_of_curl
from agents.geometry import along_scan

ROTATIONS = (0.0, 25.0, -70.0, 100.0, -179.0)


def gradient_of_atoms(rows=40, columns=42, sign=1.0):
    """Gradient along (fast, slow) of a phase with a dozen sharp maxima, (rows, columns, 2), and the phase."""
    rng = np.random.default_rng(5)
    r, c = np.indices((rows, columns)).astype(float)
    phase, gradient = np.zeros((rows, columns)), np.zeros((rows, columns, 2))
    for x, y in rng.uniform(4, 38, (12, 2)):
        dx, dy = c - x, r - y
        bump = sign * np.exp(-(dx**2 + dy**2) / (2 * 2.5**2))
        phase += bump
        gradient += bump[..., None] * np.stack([-dx, -dy], axis=-1) / 2.5**2
    return gradient, phase


def on_camera(gradient, rotation_deg, transposed):
    """What a camera sees of shifts along the scan's axes: the inverse of `along_scan`, written out."""
    angle = math.radians(rotation_deg)
    fast, slow = gradient[..., 0], gradient[..., 1]
    x = math.cos(angle) * fast - math.sin(angle) * slow
    y = math.sin(angle) * fast + math.cos(angle) * slow
    return np.stack([y, x] if transposed else [x, y], axis=-1)


def test_along_scan_undoes_the_camera():
    gradient, _ = gradient_of_atoms()
    for rotation_deg in ROTATIONS:
        for transposed in (False, True):
            seen = on_camera(gradient, rotation_deg, transposed)
            np.testing.assert_allclose(along_scan(seen, rotation_deg, transposed), gradient, atol=1e-12)


def test_curl_and_divergence_are_those_of_polynomials():
    """Fourth order is exact for cubics, second order at the rim for squares."""
    r, c = np.indices((9, 10)).astype(float)
    curl, divergence = curl_and_divergence(np.stack([c**2 + 3 * r, 2 * c * r - r**2], axis=-1))
    inner = (slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(curl[inner], (2 * r - 3)[inner], atol=1e-10)
    np.testing.assert_allclose(divergence[inner], (2 * c + 2 * c - 2 * r)[inner], atol=1e-10)
    assert np.isfinite(curl).sum() == 7 * 8
    curl, divergence = curl_and_divergence(np.stack([c**3, r**3 + c**3], axis=-1))
    deep = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(curl[deep], 3 * c[deep] ** 2, atol=1e-9)
    np.testing.assert_allclose(divergence[deep], 3 * (c[deep] ** 2 + r[deep] ** 2), atol=1e-9)


@pytest.mark.parametrize("rotation_deg", ROTATIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_turned_gradient_is_turned_back(rotation_deg, transposed):
    gradient, _ = gradient_of_atoms()
    found = find_turn(on_camera(gradient, rotation_deg, transposed))
    apart = (found.rotation_deg - rotation_deg + 180.0) % 360.0 - 180.0
    assert abs(apart) < 0.2
    assert found.transposed is transposed
    assert found.curl_share < 0.01
    assert found.sign_score > 3
    assert found.orientation_score > 3
    assert -180 < found.rotation_deg <= 180


def test_atoms_that_are_given_as_repelling_are_turned_round():
    """A negative phase is what a rotation 180 deg off makes of atoms."""
    gradient, _ = gradient_of_atoms(sign=-1.0)
    found = find_turn(on_camera(gradient, 30.0, False))
    assert abs(found.rotation_deg + 150.0) < 0.2
    given = find_turn(on_camera(gradient, 30.0, False), rotation_deg=30.0, transposed=False)
    assert given.rotation_deg == 30.0
    assert given.sign_score < -3
    assert given.std_deg == 0.0


def test_scattering_tells_the_sign_where_shape_does_not():
    """Waves are as sharp at their maxima as at their minima; two of them leave the orientation open as well."""
    r, c = np.indices((40, 40)).astype(float)
    k = 2 * math.pi / 8
    phase = np.cos(k * c + 0.3) + np.cos(k * r + 1.1)
    gradient = k * np.stack([-np.sin(k * c + 0.3), -np.sin(k * r + 1.1)], axis=-1)
    noise = np.random.default_rng(1).normal(0, 0.05, gradient.shape)
    for rotation_deg in (10.0, -170.0):
        seen = on_camera(gradient + noise, rotation_deg, False)
        found = find_turn(seen, phase, transposed=False)
        assert abs((found.rotation_deg - rotation_deg + 180) % 360 - 180) < 1.0
        assert found.sign_score > 3
        wrong = find_turn(seen, -phase, transposed=False)
        assert abs(abs(wrong.rotation_deg - found.rotation_deg) - 180.0) < 1.0


def test_witnesses_that_contradict_each_other_raise_a_doubt():
    gradient, phase = gradient_of_atoms()
    assert find_turn(on_camera(gradient, 0.0, False), -phase).sign_doubt
    assert not find_turn(on_camera(gradient, 0.0, False), phase).sign_doubt


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_angle_leaves_less_curl(seed):
    """Of any map, against brute force over both orientations."""
    field = np.random.default_rng(seed).normal(size=(8, 9, 2)) * [1.0, 0.6]

    def share(angle_deg, transposed):
        curl, divergence = curl_and_divergence(along_scan(field, angle_deg, transposed))
        return np.nansum(curl**2) / (np.nansum(curl**2) + np.nansum(divergence**2))

    found = find_turn(field)
    least = min(share(angle, swap) for angle in np.arange(0, 180, 4.0) for swap in (False, True))
    assert found.curl_share <= least + 1e-12
    assert found.curl_share == pytest.approx(share(found.rotation_deg, found.transposed))


def test_what_is_given_is_kept_and_the_rest_found():
    gradient, _ = gradient_of_atoms()
    seen = on_camera(gradient, 40.0, True)
    assert find_turn(seen, rotation_deg=40.0).transposed is True
    assert find_turn(seen, transposed=True).rotation_deg == pytest.approx(40.0, abs=0.2)
    assert find_turn(seen, transposed=True).orientation_score == math.inf
    assert find_turn(seen, rotation_deg=40.0).std_deg == 0.0


def test_the_uncertainty_covers_the_error():
    """60 noisy maps: the error over its standard deviation is about normal. A bootstrap of some 25 tiles is known to
    be a tenth or two too small, so the root mean square must lie within 0.7 and 1.5: for unit normals it does but
    for 1e-3 of all seeds (chi-squared with 60 degrees of freedom). The sign is another matter.
    """
    gradient, _ = gradient_of_atoms()
    scores, rng = [], np.random.default_rng(11)
    for _ in range(60):
        noisy = on_camera(gradient + rng.normal(0, 0.15, gradient.shape), 25.0, False)
        found = find_turn(noisy)
        scores.append(((found.rotation_deg - 25.0 + 90.0) % 180.0 - 90.0) / found.std_deg)
    assert 0.7 < np.sqrt(np.mean(np.square(scores))) < 1.5
    assert abs(np.mean(scores)) < 3.3 * 1.5 / math.sqrt(60)


def test_noise_alone_is_uncertain():
    field = np.random.default_rng(2).normal(size=(30, 30, 2))
    found = find_turn(field)
    assert found.std_deg > 10
    assert found.curl_share > 0.4
    assert found.orientation_score < 3
    assert find_turn(field) == found  # the bootstrap has a seed of its own


def test_noise_alone_has_no_sign():
    """200 maps: the larger of two scores is above 3 in 0.5 % of them, and in more than 5 for 1e-3 of all seeds."""
    rng = np.random.default_rng(9)
    maps = rng.normal(size=(200, 20, 20, 3))
    scores = [find_turn(m[..., :2], m[..., 2], rotation_deg=0.0, transposed=False).sign_score for m in maps]
    assert np.sum(np.abs(scores) > 3) <= 5
    assert abs(np.mean(scores)) < 4 * 1.3 / math.sqrt(200)


def test_holes_are_left_out():
    gradient, _ = gradient_of_atoms()
    seen = on_camera(gradient, 25.0, False)
    rng = np.random.default_rng(3)
    seen[rng.random(seen.shape[:2]) < 0.1] = np.nan
    seen[30:] = np.nan
    found = find_turn(seen)
    assert abs(found.rotation_deg - 25.0) < 1.0
    assert found.std_deg < 3.0


@pytest.mark.parametrize("known", ["nothing", "a line", "every other"])
def test_too_little_is_said_to_be_too_little(known):
    field = np.random.default_rng(4).normal(size=(12, 12, 2))
    if known == "nothing":
        field[:] = np.nan
    elif known == "a line":
        field[1:] = np.nan
    else:
        field[::2] = np.nan
    with pytest.raises(RotationError, match="too few"):
        find_turn(field)


def test_a_map_that_does_not_vary_tells_nothing():
    with pytest.raises(RotationError, match="same at every position"):
        find_turn(np.ones((12, 12, 2)))


def test_the_noise_of_the_curl_is_that_of_repeated_maps():
    """1000 maps of noise whose variance varies; each position's scatter to 5 standard errors (11 %), fixed seed."""
    variance = np.random.default_rng(6).uniform(0.5, 2.0, (8, 9))
    noise = np.random.default_rng(7).normal(size=(1000, 8, 9, 2)) * np.sqrt(variance)[..., None]
    curls, divergences = zip(*(curl_and_divergence(n) for n in noise), strict=True)
    told = noise_of_curl(variance)
    assert np.array_equal(np.isfinite(told), np.isfinite(curls[0]))
    inner = np.isfinite(told)
    for seen in (curls, divergences):
        ratio = np.std(seen, axis=0)[inner] / told[inner]
        assert np.all(np.abs(ratio - 1) < 5 / math.sqrt(2 * 1000))
