"""Rotation of the scan against the camera, and transpose of the camera, from a map of centres of mass.

The deflection of the beam is the gradient of a phase and has no curl. Rotated by a wrong angle it has: with C and D the
curl and the divergence along the axes of the camera, those along axes rotated by t are

    curl = C cos t - D sin t        divergence = D cos t + C sin t

The mean of curl^2 is (CC + DD) / 2 + (CC - DD) / 2 cos 2t - CD sin 2t, with its minimum at tan 2t = 2 CD / (DD - CC).
A transposed camera mirrors the map; of the two orientations, the one with the smaller fraction of curl is chosen. t and
t + 180 deg have the same curl: they differ in the sign of the phase. Atoms attract electrons: the divergence has sharp
minima at atoms (a negative skewness), and more electrons are scattered to large angles where it is low. Neither always
holds: a barely resolved honeycomb has its sharp extrema in the hollow sites.

Aberrations alone do not matter: for a thin specimen the map is the gradient convolved with the intensity of the probe
(thesis eq 3.3), which has no curl either. A thick specimen, electrons beyond the camera, a ring instead of the whole
camera and undersampling cause curl; the standard errors do not include them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agents.geometry import along_scan
from twin.arrays import Floats
from twin.errors import StemtwinError

RESAMPLES = 200
"""Number of bootstrap resamples: the standard error of their standard deviation is 5 %."""

LARGEST_TILE = 8
"""Largest side of a bootstrap block, positions: neighbouring curls share data."""

LEAST_TILES = 4
"""Smallest number of blocks for a bootstrap."""


SECOND_ORDER = np.array([-1.0, 0.0, 1.0]) / 2.0
FOURTH_ORDER = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0
"""Central differences, for a step of one."""


ROUNDING = 1e-12
"""Curls below this fraction of the map's largest entry are rounding errors."""


class RotationError(StemtwinError, ValueError):
    """The map does not determine the rotation."""


@dataclass(frozen=True)
class Turn:
    """Orientation of the scan against the camera, for `agents.geometry.along_scan`.

    Attributes:
        rotation_deg: angle from the camera's +x to the fast axis, towards +y, -180 to 180.
        std_deg: standard error of the rotation modulo 180 deg, by bootstrap; zero if it was given.
        transposed: the camera's rows and columns are swapped.
        orientation_score: excess curl of the other orientation in units of its standard error; infinite if it was
            given.
        curl_share: curl^2 / (curl^2 + divergence^2); 0 for a gradient without noise, 0.5 for noise alone.
        sign_score: evidence that atoms attract, in standard deviations of noise; negative only if a given rotation
            makes them repel. Below 3 the rotation may be off by 180 deg.
        sign_doubt: the other criterion of the sign contradicts with 3 standard deviations or more.
    """

    rotation_deg: float
    std_deg: float
    transposed: bool
    orientation_score: float
    curl_share: float
    sign_score: float
    sign_doubt: bool


def curl_and_divergence(field: Floats) -> tuple[Floats, Floats]:
    """Curl and divergence per scan step of a map along the (fast, slow) axes of the scan.

    Central differences of fourth order where five neighbours are known along both axes, else of second order.

    Args:
        field: (rows, columns, 2), NaN where unknown.

    Returns:
        d(slow)/d(column) - d(fast)/d(row) and d(fast)/d(column) + d(slow)/d(row), each (rows, columns), NaN where a
        neighbour is unknown.
    """
    fast, slow = field[..., 0], field[..., 1]
    fine = [_stencil(component, axis, FOURTH_ORDER) for component, axis in ((slow, 1), (fast, 0), (fast, 1), (slow, 0))]
    rough = [
        _stencil(component, axis, SECOND_ORDER) for component, axis in ((slow, 1), (fast, 0), (fast, 1), (slow, 0))
    ]
    known = np.isfinite(fine).all(axis=0)
    slow_x, fast_y, fast_x, slow_y = np.where(known, fine, rough)
    return slow_x - fast_y, fast_x + slow_y


def noise_of_curl(variance: Floats) -> Floats:
    """Standard deviation of curl and of divergence, (rows, columns), for independent noise of the map.

    Args:
        variance: variance of either component, (rows, columns); NaN where unknown.
    """
    fine, rough = (
        _stencil(variance, 0, order**2) + _stencil(variance, 1, order**2) for order in (FOURTH_ORDER, SECOND_ORDER)
    )
    return np.sqrt(np.where(np.isfinite(fine), fine, rough))


def find_turn(
    shift_px: Floats,
    scattering: Floats | None = None,
    *,
    rotation_deg: float | None = None,
    transposed: bool | None = None,
    seed: int = 0,
) -> Turn:
    """Find rotation and transpose, unless given, by minimising the curl.

    Args:
        shift_px: shift of the beam along the camera's (column, row), (rows, columns, 2); NaN where unknown.
        scattering: a measure of the electrons scattered to large angles, (rows, columns), for the sign.
        rotation_deg, transposed: known values; None if unknown.
        seed: seed of the bootstrap.

    Raises:
        RotationError: fewer than `LEAST_TILES` blocks with curls, or a constant map.
    """
    fits = [
        # The same seed for both: their difference is then taken over the same resamples.
        _least_curl_of(along_scan(shift_px, 0.0, swap), rotation_deg, np.random.default_rng(seed))
        for swap in ((False, True) if transposed is None else (transposed,))
    ]
    best = int(np.argmin([fit.share for fit in fits]))
    chosen, swap = fits[best], bool(best) if transposed is None else transposed
    margin = math.inf
    if len(fits) == 2:
        margin = _score(fits[1 - best].share - chosen.share, fits[1 - best].shares - chosen.shares)
    turned = along_scan(shift_px, math.degrees(chosen.angle), swap)
    sign, other = sorted(_attraction(curl_and_divergence(turned)[1], scattering), key=abs, reverse=True)
    repelled = sign < 0 and rotation_deg is None
    return Turn(
        rotation_deg=_wrapped_deg(math.degrees(chosen.angle) + (180.0 if repelled else 0.0)),
        std_deg=0.0 if rotation_deg is not None else math.degrees(_axial_std(chosen.angles - chosen.angle)),
        transposed=swap,
        orientation_score=margin,
        curl_share=chosen.share,
        sign_score=abs(sign) if rotation_deg is None else sign,
        sign_doubt=sign * other < 0 and abs(other) >= 3.0,
    )


class _LeastCurl(NamedTuple):
    """Angle, rad, and fraction of curl at this angle; the same of each resample, (B,)."""

    angle: float
    share: float
    angles: Floats
    shares: Floats


def _least_curl_of(field: Floats, rotation_deg: float | None, rng: np.random.Generator) -> _LeastCurl:
    """Minimise the curl over the angle, or evaluate it at a given angle."""
    curl, divergence = curl_and_divergence(field)
    sums = _tiles(np.stack([curl**2, curl * divergence, divergence**2], axis=-1))
    resampled = np.concatenate([sums.sum(axis=0, keepdims=True), _draws(len(sums), rng) @ sums])
    if resampled[0, 0] + resampled[0, 2] <= (ROUNDING * np.nanmax(np.abs(field))) ** 2 * field.size:
        raise RotationError("the centre of mass is the same at every position")
    angles, shares = _least_curl(resampled, None if rotation_deg is None else math.radians(rotation_deg))
    return _LeastCurl(float(angles[0]), float(shares[0]), angles[1:], shares[1:])


def _least_curl(sums: Floats, angle: float | None) -> tuple[Floats, Floats]:
    """Angle of least curl, rad, and fraction of curl there, (B,) each, from sums of CC, CD and DD, (B, 3)."""
    cc, cd, dd = sums.T
    angles = np.arctan2(2 * cd, dd - cc) / 2 if angle is None else np.full(len(sums), angle)
    curl = (cc + dd) / 2 + (cc - dd) / 2 * np.cos(2 * angles) - cd * np.sin(2 * angles)
    total = cc + dd
    return angles, np.divide(curl, total, out=np.full(len(sums), 0.5), where=total > 0)


def _attraction(divergence: Floats, scattering: Floats | None) -> tuple[float, float]:
    """Two statistics of the sign of the phase, standard normal for noise alone; positive if atoms attract.

    Skewness of the divergence, whose variance is 6 / n for n values of noise, and its correlation with the scattering,
    whose variance is 1 / n.
    """
    known = np.isfinite(divergence)
    d = divergence[known] - divergence[known].mean()
    deviation, n = float(d.std()), len(d)
    sharpness = -float(np.mean(d**3)) / deviation**3 * math.sqrt(n / 6) if deviation > 0 else 0.0
    if scattering is None:
        return sharpness, 0.0
    both = known & np.isfinite(scattering)
    d, s = (values[both] - values[both].mean() for values in (divergence, scattering))
    scale = math.sqrt(float(np.sum(d**2)) * float(np.sum(s**2)))
    return sharpness, -float(np.sum(d * s)) / scale * math.sqrt(len(d)) if scale > 0 else 0.0


def _draws(tiles: int, rng: np.random.Generator) -> Floats:
    """Multiplicity of each block in each bootstrap resample, (B, tiles)."""
    return rng.multinomial(tiles, np.full(tiles, 1 / tiles), RESAMPLES).astype(np.float64)


def _tiles(values: Floats) -> Floats:
    """Sum (rows, columns, k) over square blocks, (tiles, k), where all k are known; empty blocks are left out.

    Raises:
        RotationError: too few blocks.
    """
    known = np.isfinite(values).all(axis=-1)
    rows, columns = np.nonzero(known)
    if len(rows):
        extent = min(np.ptp(rows), np.ptp(columns)) + 1
        side = int(np.clip(extent // 6, 1, LARGEST_TILE))
        _, tile = np.unique(np.stack([rows // side, columns // side]), axis=1, return_inverse=True)
        sums = np.zeros((int(tile.max()) + 1, values.shape[-1]))
        np.add.at(sums, tile.ravel(), values[known])
        if len(sums) >= LEAST_TILES:
            return sums
    raise RotationError(
        f"only {len(rows)} positions have neighbours on all four sides: too few to find the scan's rotation"
    )


def _stencil(values: Floats, axis: int, weights: Floats) -> Floats:
    """Correlate along an axis with an odd number of centred weights; NaN at the edges."""
    out = np.full(values.shape, np.nan)
    v, o = np.moveaxis(values, axis, 0), np.moveaxis(out, axis, 0)
    inner = len(v) - len(weights) + 1
    if inner > 0:
        reach = len(weights) // 2
        o[reach : len(v) - reach] = sum(w * v[k : k + inner] for k, w in enumerate(weights) if w != 0)
    return out


def _score(value: float, resampled: Floats) -> float:
    """A value over its bootstrap standard error; zero if that is zero."""
    spread = float(np.std(resampled))
    return float(value) / spread if spread > 0 else 0.0


def _axial_std(differences: Floats) -> float:
    """Root mean square of angle differences, rad, modulo 180 degrees."""
    wrapped = (differences + math.pi / 2) % math.pi - math.pi / 2
    return float(np.sqrt(np.mean(wrapped**2)))


def _wrapped_deg(angle_deg: float) -> float:
    """Wrap an angle to (-180, 180]."""
    return 180.0 - (180.0 - angle_deg) % 360.0
