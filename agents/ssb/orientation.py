"""Orientation of the camera against the scan, found from the sidebands: rotation, transpose and their uncertainty.

At a spatial frequency Q the disc and its two diffracted neighbours overlap along the direction of Q. The place of the
overlaps on the camera gives the direction, and their signs distinguish it from the opposite one.
"""

import math
from dataclasses import dataclass, replace

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from agents.ssb import image as ssb_image
from agents.ssb.accumulate import SidebandSum
from agents.ssb.weights import BrightField, SampledDisc, Singles, inside, interpolated, phase_table, trotters
from twin.aberrations import Aberrations
from twin.arrays import Floats

COARSE_DEG, FINE_DEG = 3.0, 0.25
TERMS = 10_000_000
"""Largest number of frequencies times squares times rotations in one search: tenths of a second."""
DECISIVE = 8.0
"""Log likelihood ratio at which one of two hypotheses is accepted: odds of 3000."""
SIGNALS = np.geomspace(1e-2, 1e3, 16)
"""Signal-to-noise ratios at a full overlap that are tried for the spectrum of the phase."""


@dataclass(frozen=True)
class Orientation:
    """Orientation of the camera against the scan.

    Attributes:
        rotation_deg: angle from the camera's +x to the scan's fast axis, towards +y, after the transpose is undone.
        transposed: the camera's rows and columns are swapped.
        sigma_deg: standard error of the rotation; NaN if it was given.
        evidence: log likelihood ratio against no phase at all; NaN if nothing was searched for.
        against: log likelihood ratio against the other handedness, or NaN.
        opposite: log likelihood ratio against the opposite rotation, or NaN.
        skewness: skewness of the phase, if it decided between a rotation and its opposite; else NaN.
    """

    rotation_deg: float
    transposed: bool
    sigma_deg: float = math.nan
    evidence: float = math.nan
    against: float = math.nan
    opposite: float = math.nan
    skewness: float = math.nan

    @property
    def certain(self) -> bool:
        """There is a phase, and one handedness is much likelier than the other."""
        return self.evidence > DECISIVE and self.against > DECISIVE


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Counts in the squares, Fourier transformed over a part of a scan.

    Attributes:
        values: (Q, K), complex.
        angle_mrad: spatial frequencies along the fast and slow axes, (Q, 2).
        noise: variance of the values in each square, (K,).
        oversampling: number of values per independent value.
    """

    values: NDArray[np.complex64]
    angle_mrad: Floats
    noise: Floats
    oversampling: float


def spectrum(
    counts: Singles, pixel: NDArray[np.integer], columns: int, step_mrad: float, radius_mrad: float
) -> Spectrum:
    """Transform some rows, less their mean pattern; return the strongest spatial frequencies in falling order.

    Args:
        counts: counts in every square, (N, K).
        pixel: (row, column) of each position, (N, 2).
        columns: number of columns of the scan.
        step_mrad: angle of a spatial frequency of one period per scan step, wavelength / step.
        radius_mrad: radius of the disc.
    """
    row, row_number = np.unique(pixel[:, 0], return_inverse=True)
    grid = np.zeros((len(row), columns, counts.shape[1]), np.float32)
    grid[row_number, pixel[:, 1]] = counts - counts.mean(axis=0)
    # A part of a scan is not periodic in the slow direction: peaks lie between the frequencies of a plain transform.
    slow_count = 2 * int(row[-1] - row[0] + 1)
    slow = np.arange(-(slow_count // 2) + 1, slow_count // 2) / slow_count
    fast = np.arange((columns + 1) // 2) / columns
    along_rows = scipy.fft.rfft(grid, axis=1)[:, : len(fast)]
    values = np.tensordot(np.exp(-2j * np.pi * np.outer(slow, row)).astype(np.complex64), along_rows, axes=1)
    y, x = (part * step_mrad for part in np.meshgrid(slow, fast, indexing="ij"))
    radius = np.hypot(x, y)
    useful = np.flatnonzero((radius > 0.2 * radius_mrad) & (radius < 1.9 * radius_mrad) & ((x > 0) | (y > 0)))
    values = values.reshape(-1, counts.shape[1])[useful]
    order = np.argsort(-(np.abs(values) ** 2).sum(axis=1), kind="stable")[: max(64, TERMS // 120 // counts.shape[1])]
    angle = np.stack([x.ravel()[useful], y.ravel()[useful]], axis=-1)
    return Spectrum(
        np.ascontiguousarray(values[order]),
        np.ascontiguousarray(angle[order]),
        counts.sum(axis=0, dtype=np.float64),
        slow_count / (row[-1] - row[0] + 1),
    )


def likeliest(
    data: Spectrum,
    field: BrightField,
    aberrations: Aberrations,
    wavelength_nm: float,
    rotation_deg: float | None = None,
    transposed: bool | None = None,
) -> Orientation:
    """Find the likeliest orientation. Only even aberrations distinguish a rotation from its opposite.

    Args:
        data: spatial frequencies.
        field: squares of the disc of a camera that is not transposed.
        aberrations, wavelength_nm: as in `ssb.weights.trotters`.
        rotation_deg, transposed: known values; None if unknown.
    """
    # Without aberrations the opposite rotation changes the sign of every weight, and no likelihood.
    turn = 360.0 if aberrations.nonzero() else 180.0
    angles = np.arange(0.0, turn, COARSE_DEG) if rotation_deg is None else np.array([rotation_deg])
    best: dict[bool, tuple[float, float, float]] = {}
    for hand in (False, True) if transposed is None else (transposed,):
        disc = field.swapped() if hand else field
        terms = likelihoods(angles, data, disc, aberrations, wavelength_nm)
        peak = float(angles[np.argmax(terms.sum(axis=1))])
        if rotation_deg is None:
            near = peak + np.arange(-COARSE_DEG, COARSE_DEG + FINE_DEG / 2, FINE_DEG)
            best[hand] = _peak(near, likelihoods(near, data, disc, aberrations, wavelength_nm), data.oversampling)
        else:
            best[hand] = (peak, math.nan, float(terms.sum()))
    hand = max(best, key=lambda h: best[h][2])
    angle, sigma, evidence = best[hand]
    other = best[not hand][2] if len(best) == 2 else -math.inf
    if rotation_deg is not None:
        return Orientation(angle, hand, math.nan, evidence, evidence - other)
    disc = field.swapped() if hand else field
    same, opposite = likelihoods(np.array([angle, angle + 180.0]), data, disc, aberrations, wavelength_nm).sum(axis=1)
    return Orientation(wrapped(angle), hand, sigma, evidence, evidence - other, float(same - opposite))


def upright(
    orientation: Orientation,
    counts: Singles,
    pixel: NDArray[np.integer],
    field: BrightField,
    scan_mrad: tuple[int, float],
    aberrations: Aberrations,
    wavelength_nm: float,
) -> Orientation:
    """Choose between a rotation and its opposite: atoms have to be peaks of the phase.

    Without even aberrations a rotation by 180 degrees changes the sign of the phase and nothing else. Atoms attract the
    beam and are small and sparse: the phase is skewed to positive values.

    Args:
        orientation: from `likeliest`; returned as it is if the likelihood has decided.
        counts, pixel: as in `spectrum`.
        field: squares of the disc, swapped for a transposed camera.
        scan_mrad: number of columns of the scan, and angle of a spatial frequency of one period per scan step.
        aberrations, wavelength_nm: as in `likeliest`.
    """
    if orientation.opposite > DECISIVE:
        return orientation
    columns, whole_mrad = scan_mrad
    first = int(pixel[:, 0].min())
    scan = (int(pixel[:, 0].max()) - first + 1, columns)
    step_mrad = (whole_mrad / columns, whole_mrad / scan[0])
    weights = trotters(field, scan, step_mrad, orientation.rotation_deg, aberrations, wavelength_nm)
    sums = SidebandSum(scan, weights, len(field))
    sums.add(counts, pixel - np.array([first, 0]))
    spectrum = ssb_image.phase_spectrum(sums, field.share, 0.01)
    phase = ssb_image.image(ssb_image.transfer(spectrum, weights, "overlap") * spectrum.phase, scan)
    skew = ssb_image.skewness(phase[sums.visited])
    turned = orientation.rotation_deg if skew >= 0 else wrapped(orientation.rotation_deg + 180.0)
    return replace(orientation, rotation_deg=turned, skewness=abs(skew))


def wrapped(angle_deg: float) -> float:
    """Wrap an angle to [-180, 180)."""
    return (angle_deg + 180.0) % 360.0 - 180.0


def described(orientation: Orientation) -> str:
    """Describe an orientation that was found, and its uncertainty, in a sentence."""
    text = "transposed" if orientation.transposed else "not transposed"
    if not math.isnan(orientation.sigma_deg):
        text = f"rotation {orientation.rotation_deg:.1f} +- {orientation.sigma_deg:.1f} deg, {text}"
    text = f"found from the data: {text}"
    if not orientation.certain:
        text += "; uncertain, the sidebands are too weak: give rotation and transposed"
    elif not math.isnan(orientation.skewness):
        text += "; of the two opposite rotations, the one in which atoms are peaks"
    return text


def likelihoods(
    rotation_deg: Floats, data: Spectrum, field: BrightField, aberrations: Aberrations, wavelength_nm: float
) -> Floats:
    """Log likelihood ratio of each rotation against no phase, by spatial frequency, (rotations, Q).

    The noise is circular and normal with the variance s^2(K) of the counts. So is the phase, with one variance at all
    frequencies that is fitted: with t = sum w G, v = sum |w|^2 s^2 and the signal-to-noise ratio r, the log likelihood
    ratio is |t|^2 / v * r / (1 + r) - log(1 + r).
    """
    chi, interval = phase_table(field, aberrations, wavelength_nm)
    power, full = np.zeros((2, len(rotation_deg), len(data.values)))
    disc = SampledDisc(field.middle_mrad, field.radius_mrad, field.edge_mrad, chi, interval)
    _sideband_power(np.radians(rotation_deg), data.values, data.angle_mrad, data.noise, disc, power, full)
    tried = []
    for signal in SIGNALS:
        ratio = signal * full / len(field)
        tried.append((power * ratio / (1 + ratio) - np.log1p(ratio)) / data.oversampling)
    return max(tried, key=lambda terms: float(terms.sum(axis=1).max()))


def _peak(angle: Floats, terms: Floats, oversampling: float) -> tuple[float, float, float]:
    """Angle, standard error and value of the maximum, by a parabola through it and its neighbours.

    The standard error is the sandwich estimate, from the scatter of the slopes of single frequencies: it holds for a
    misspecified model as well.
    """
    likelihood, step = terms.sum(axis=1), float(angle[1] - angle[0])
    i = int(np.clip(np.argmax(likelihood), 1, len(angle) - 2))
    before, at, after = likelihood[i - 1 : i + 2]
    curvature = before - 2 * at + after
    if curvature >= 0:
        return float(angle[i]), math.inf, float(at)
    offset = float(np.clip((before - after) / (2 * curvature), -1, 1))
    slopes = (terms[i + 1] - terms[i - 1]) / 2
    sigma = math.sqrt(oversampling * float((slopes**2).sum())) / -float(curvature) * step
    return float(angle[i]) + offset * step, sigma, float(at - curvature * offset**2 / 2)


@numba.njit(cache=True)
def _sideband_power(
    rotation: Floats,
    values: NDArray[np.complex64],
    angle: Floats,
    noise: Floats,
    disc: SampledDisc,
    out: Floats,
    full: Floats,
) -> None:
    """Write |sum w G|^2 / sum |w|^2 s^2 to `out` and sum |w|^2 to `full`, (rotations, Q); see `likelihoods`.

    Angles are along the axes of the microscope, rotations in rad.
    """
    points, radius, width, chi, interval = disc
    aberrated = chi.size > 0
    for a in range(len(rotation)):
        c, s = math.cos(rotation[a]), math.sin(rotation[a])
        for q in range(len(angle)):
            qx, qy = c * angle[q, 0] - s * angle[q, 1], s * angle[q, 0] + c * angle[q, 1]
            total, power = 0j, 0.0
            for k in range(len(points)):
                x, y = points[k, 0], points[k, 1]
                plus, minus = inside(x - qx, y - qy, radius, width), inside(x + qx, y + qy, radius, width)
                amount = (plus - minus) * inside(x, y, radius, width)
                if amount == 0.0:
                    continue
                full[a, q] += amount * amount
                power += amount * amount * noise[k]
                if aberrated:
                    sign = 1.0 if amount > 0 else -1.0
                    diffracted = interpolated(chi, x - sign * qx, y - sign * qy, interval)
                    phase = sign * (interpolated(chi, x, y, interval) - diffracted)
                    total += amount * complex(math.cos(phase), -math.sin(phase)) * values[q, k]
                else:
                    total += amount * values[q, k]
            if power > 0.0:
                out[a, q] = abs(total) ** 2 / power
