"""The scan's rotation against the camera, and whether the camera is transposed, from a map of centres of mass.

The deflection of the beam is the gradient of a phase, and a gradient has no curl. Turned by a wrong angle it has: with
C and D the curl and the divergence of the map as it lies on the camera, those along axes turned by t are

    curl = C cos t - D sin t        divergence = D cos t + C sin t

so that the mean of curl^2 is (CC + DD) / 2 + (CC - DD) / 2 cos 2t - CD sin 2t, least where tan 2t = 2 CD / (DD - CC).
A transposed camera mirrors the map; whichever of the two leaves the smaller share of curl is right. t and t + 180 deg
leave the same: they differ in the sign of the phase. Atoms attract electrons, so the divergence has sharp minima at
atoms (a negative skewness), and where it is low more electrons are scattered to large angles. Neither is a law: a
honeycomb that is hardly resolved has its sharp extrema in the hollow sites.

Aberrations alone do no harm: behind a thin specimen the map is that gradient blurred by the intensity of the spot,
whatever its shape (thesis eq 3.3), which has no curl either. A thick specimen, a camera that cuts scattered electrons
off, a ring instead of the whole camera and steps wider than the details do make curl. The uncertainty knows nothing
of them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.geometry import along_scan
from twin.errors import StemtwinError

Floats = NDArray[np.float64]

RESAMPLES = 200
"""Of the bootstrap: its standard deviation is then known to 5 %."""

LARGEST_TILE = 8
"""Side in positions of what the bootstrap takes or leaves as a whole: neighbouring curls come from the same data."""

LEAST_TILES = 4
"""Fewer are no bootstrap."""


SECOND_ORDER = np.array([-1.0, 0.0, 1.0]) / 2.0
FOURTH_ORDER = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0
"""Central differences, for a step of one."""


ROUNDING = 1e-12
"""Curls below this share of the map's largest entry are rounding."""


class RotationError(StemtwinError, ValueError):
    """Too little of the scan is known to find its rotation."""


@dataclass(frozen=True)
class Turn:
    """How the scan lies against the camera, as `agents.geometry.along_scan` takes it.

    Attributes:
        rotation_deg: -180 to 180; turns the fast axis from the camera's +x towards its +y.
        std_deg: of the rotation by bootstrap over positions, the sign apart; zero where it was given.
        transposed: the camera's rows and columns are swapped.
        orientation_score: by how many of its standard deviations the other orientation has more curl; infinite where
            it was given.
        curl_share: of curl^2 in curl^2 + divergence^2; 0 for a gradient without noise, 0.5 for noise alone.
        sign_score: by how many standard deviations of noise atoms attract; negative only where a given rotation makes
            them repel. Below 3 the rotation may as well be 180 deg more.
        sign_doubt: the other way of telling the sign contradicts with 3 standard deviations or more.
    """

    rotation_deg: float
    std_deg: float
    transposed: bool
    orientation_score: float
    curl_share: float
    sign_score: float
    sign_doubt: bool


def curl_and_divergence(field: Floats) -> tuple[Floats, Floats]:
    """Curl and divergence per position of a map along the scan's (fast, slow) axes.

    Central differences of fourth order where five neighbours in line are known along both axes, else of second order.

    Args:
        field: (rows, columns, 2), NaN where not known.

    Returns:
        d(slow)/d(column) - d(fast)/d(row) and d(fast)/d(column) + d(slow)/d(row), each (rows, columns), NaN where
        a neighbour is not known.
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
    """Standard deviation of curl and divergence alike, (rows, columns), for independent noise of the map.

    Args:
        variance: of either component, (rows, columns); NaN where not known.
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
    """What is not given of rotation and orientation, by the least curl.

    Args:
        shift_px: of the beam along the camera's (column, row), (rows, columns, 2); NaN where not known.
        scattering: larger where more electrons go to large angles, (rows, columns); helps to tell the sign.
        rotation_deg, transposed: what is known already.
        seed: of the bootstrap.

    Raises:
        RotationError: fewer than `LEAST_TILES` tiles with curls, or a map that does not vary.
    """
    fits = [
        # The same seed for both, so that their difference is one of the same positions.
        _fit(along_scan(shift_px, 0.0, swap), rotation_deg, np.random.default_rng(seed))
        for swap in ((False, True) if transposed is None else (transposed,))
    ]
    best = int(np.argmin([fit.share for fit in fits]))
    chosen, swap = fits[best], bool(best) if transposed is None else transposed
    margin = math.inf
    if len(fits) == 2:
        margin = _score(fits[1 - best].share - chosen.share, fits[1 - best].shares - chosen.shares)
    turned = along_scan(shift_px, math.degrees(chosen.angle), swap)
    sharpness, scattered = _attraction(curl_and_divergence(turned)[1], scattering)
    sign, other = sorted((sharpness, scattered), key=abs, reverse=True)
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


class _Fit(NamedTuple):
    """Angle, rad, and the share of curl that it leaves, and the same of each resample, (B,)."""

    angle: float
    share: float
    angles: Floats
    shares: Floats


def _fit(field: Floats, rotation_deg: float | None, rng: np.random.Generator) -> _Fit:
    """The angle of least curl, or what a given angle leaves."""
    curl, divergence = curl_and_divergence(field)
    sums = _tiles(np.stack([curl**2, curl * divergence, divergence**2], axis=-1))
    resampled = np.concatenate([sums.sum(axis=0, keepdims=True), _draws(len(sums), rng) @ sums])
    if resampled[0, 0] + resampled[0, 2] <= (ROUNDING * np.nanmax(np.abs(field))) ** 2 * field.size:
        raise RotationError("the centre of mass is the same at every position: nothing tells the rotation")
    angles, shares = _least_curl(resampled, None if rotation_deg is None else math.radians(rotation_deg))
    return _Fit(float(angles[0]), float(shares[0]), angles[1:], shares[1:])


def _least_curl(sums: Floats, angle: float | None) -> tuple[Floats, Floats]:
    """Angle, rad, and share of curl there, (B,) each, from sums of CC, CD and DD, (B, 3)."""
    cc, cd, dd = sums.T
    angles = np.arctan2(2 * cd, dd - cc) / 2 if angle is None else np.full(len(sums), angle)
    curl = (cc + dd) / 2 + (cc - dd) / 2 * np.cos(2 * angles) - cd * np.sin(2 * angles)
    total = cc + dd
    return angles, np.divide(curl, total, out=np.full(len(sums), 0.5), where=total > 0)


def _attraction(divergence: Floats, scattering: Floats | None) -> tuple[float, float]:
    """Scores, in standard deviations of noise alone, for the sign of the phase; positive where atoms attract.

    By sharpness: the skewness of n values of noise has a variance of 6 / n. By scattering: a correlation has 1 / n.
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
    """How often each resample takes each tile, (B, tiles)."""
    return rng.multinomial(tiles, np.full(tiles, 1 / tiles), RESAMPLES).astype(np.float64)


def _tiles(values: Floats) -> Floats:
    """Sums of (rows, columns, k) over square tiles where all k are known, (tiles, k); tiles without any are left out.

    Raises:
        RotationError: too few tiles.
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
    """Sum of neighbours along an axis under an odd number of weights, itself in the middle; NaN at the edges."""
    out = np.full(values.shape, np.nan)
    v, o = np.moveaxis(values, axis, 0), np.moveaxis(out, axis, 0)
    inner = len(v) - len(weights) + 1
    if inner > 0:
        reach = len(weights) // 2
        o[reach : len(v) - reach] = sum(w * v[k : k + inner] for k, w in enumerate(weights) if w != 0)
    return out


def _score(value: float, resampled: Floats) -> float:
    """A figure over its standard deviation among resamples; zero where it is zero."""
    spread = float(np.std(resampled))
    return float(value) / spread if spread > 0 else 0.0


def _axial_std(differences: Floats) -> float:
    """Standard deviation of angles, rad, that mean the same half a turn further."""
    wrapped = (differences + math.pi / 2) % math.pi - math.pi / 2
    return float(np.sqrt(np.mean(wrapped**2)))


def _wrapped_deg(angle_deg: float) -> float:
    """The same angle within -180 (excluded) to 180."""
    return 180.0 - (180.0 - angle_deg) % 360.0
