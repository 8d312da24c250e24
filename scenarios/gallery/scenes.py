"""Scenes of the gallery as arrays: each function renders one scene through the same code as every scan.

No figures here (`gallery/plots.py`) and no page (`page.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from twin import specimens
from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.day import Day, ScanProperties
from twin.detectors.geometry import DiffractionGrid, weights
from twin.detectors.layouts import Detector, Region
from twin.detectors.scintillator import (
    ScintillatorChain,
    anode_cascade,
    count_variance,
    digitise,
    expected_counts,
    expose_adf,
)
from twin.optics import Optics
from twin.probe import probe_d50_nm, probe_intensity, quarter_pi_limit_nm, strehl_ratio
from twin.ronchigram.phase_screens import FastRenderer
from twin.scan.acquisition import check_angles
from twin.scan.diffraction import ScanRenderer
from twin.scan.errors import ScanEngine, ar1_spectrum
from twin.scan.fast_image import distorted_image
from twin.scan.plan import ScanPlan, path
from twin.scan.response import DetectorResponse, response_weights
from twin.scan.transmission import transmission_field

Counts = NDArray[np.integer]

PROBE_OPTICS = Optics(energy_kev=300.0, convergence_mrad=20.0)
PROBE_SAMPLING_NM = 0.004
PROBE_PIXELS = 640
SHOWN_NM = 0.32
PROBE_LIMITS = 6.0
"""The probes' aberrations, in units of what makes pi / 4 at the edge of the aperture."""

SRTIO3_NM = 0.3905
SILICON_NM = 0.5431


@dataclass(frozen=True)
class ProbeView:
    """One probe: intensity over the perfect one's peak, (M, M), Strehl ratio, diameter with half the electrons."""

    label: str
    intensity: Floats
    strehl: float
    d50_nm: float


def ronchigrams(
    defocus_nm: Sequence[float], astigmatism_nm: Sequence[float], optics: Optics, seed: int = 4
) -> NDArray[np.float32]:
    """Expected share of the beam per camera pixel, (astigmatism, defocus, H, W), all of one film region.

    Args:
        defocus_nm: values of C10.
        astigmatism_nm: values of C12a.
        optics: beam and camera.
        seed: of the film region.
    """
    states = [Aberrations.of({"C10": c, "C12a": a}) for a in astigmatism_nm for c in defocus_nm]
    frames = FastRenderer(optics, Day()).probability(states, [seed] * len(states))
    return frames.reshape(len(astigmatism_nm), len(defocus_nm), *frames.shape[1:])


def probes(names: Sequence[str], optics: Optics = PROBE_OPTICS) -> list[ProbeView]:
    """The perfect probe, then one aberration at a time, `PROBE_LIMITS` times its quarter-pi limit."""
    states = [("perfect", Aberrations())]
    for name in names:
        value = PROBE_LIMITS * quarter_pi_limit_nm(name, optics)
        states.append((f"{name} {_length(value)}", Aberrations.of({name: value})))
    perfect = probe_intensity(Aberrations(), optics, PROBE_SAMPLING_NM, PROBE_PIXELS)
    half = round(SHOWN_NM / PROBE_SAMPLING_NM)
    middle = slice(PROBE_PIXELS // 2 - half, PROBE_PIXELS // 2 + half + 1)
    views = []
    for label, state in states:
        intensity = probe_intensity(state, optics, PROBE_SAMPLING_NM, PROBE_PIXELS) / perfect.max()
        views.append(
            ProbeView(label, intensity[middle, middle], strehl_ratio(state, optics), probe_d50_nm(state, optics))
        )
    return views


def _length(nm: float) -> str:
    """Three digits in nm, um or mm."""
    for unit, size in (("mm", 1e6), ("um", 1e3)):
        if abs(nm) >= size:
            return f"{nm / size:.3g} {unit}".replace("um", "µm")
    return f"{nm:.3g} nm"


def silicon_cbed(convergence_mrad: float, thickness_nm: float, snapshots: int, cells: int, pixels: int) -> Floats:
    """Convergent-beam diffraction of Si [001] on an atom column at 200 kV, mean of thermal snapshots, (M, M).

    One snapshot at a time: a thick crystal's slices are large.

    Args:
        convergence_mrad: aperture.
        thickness_nm: rounded to whole planes of atoms, at least one.
        snapshots: frozen phonon configurations.
        cells: side of the window.
        pixels: per cell.
    """
    optics = silicon_optics(convergence_mrad, cells, pixels)
    side = cells * SILICON_NM
    options = {"width_nm": side, "height_nm": side, "thickness_nm": max(thickness_nm, SILICON_NM)}
    structure = specimens.build("si_001", options)
    plane = SILICON_NM / 4
    planes = max(1, round(thickness_nm / plane))
    kept = structure.positions_nm[:, 2] < planes * plane
    structure = replace(
        structure,
        numbers=structure.numbers[kept],
        positions_nm=structure.positions_nm[kept],
        cell_nm=(structure.width_nm, structure.height_nm, planes * plane),
    )
    total: Floats | None = None
    column = structure.positions_nm[np.argmin(np.linalg.norm(structure.positions_nm[:, :2] - side / 2, axis=1)), :2]
    for seed in range(snapshots):
        field = transmission_field(structure, optics, slice_nm=2 * plane, seed=seed)
        pattern = ScanRenderer(optics, field).diffraction(Aberrations(), column[None])[0].astype(np.float64)
        total = pattern if total is None else total + pattern
    assert total is not None
    return total / snapshots


def silicon_optics(convergence_mrad: float, cells: int, pixels: int) -> Optics:
    """200 kV, a window of whole cells of silicon."""
    return Optics(
        energy_kev=200.0,
        convergence_mrad=convergence_mrad,
        grid=cells * pixels,
        sampling_nm=SILICON_NM / pixels,
        camera_pixels=64,
        binning=1,
    )


STO_OPTICS = Optics(
    energy_kev=300.0, convergence_mrad=20.0, grid=256, sampling_nm=SRTIO3_NM / 84, camera_pixels=64, binning=1
)
STO_DETECTORS: Mapping[str, Detector] = {
    "BF 0-20 mrad": (Region(outer_mrad=20.0),),
    "ABF 15-20 mrad": (Region(inner_mrad=15.0, outer_mrad=20.0),),
    "ADF 20-90 mrad": (Region(inner_mrad=20.0, outer_mrad=90.0),),
    "HAADF 90-135 mrad": (Region(inner_mrad=90.0, outer_mrad=135.0),),
}
STO_STEPS = 18
"""Positions along a cell: 0.0217 nm apart, finer than the 0.0246 nm that an image by 20 mrad at 300 kV can need."""


@lru_cache(maxsize=1)
def strontium_titanate(
    thickness_nm: float = 20 * SRTIO3_NM, snapshots: int = 4, steps: int = STO_STEPS
) -> dict[str, Floats]:
    """One cell of SrTiO3 [001] by every detector, shares of the beam, (steps, steps), the Sr column at (0, 0).

    Frozen phonons; averaged over the symmetry of the cell (p4mm), which has the noise of eight times the snapshots.
    """
    check_angles(STO_DETECTORS, STO_OPTICS)
    side = 3 * SRTIO3_NM
    structure = specimens.build("sto_001", {"width_nm": side, "height_nm": side, "thickness_nm": thickness_nm})
    axis = SRTIO3_NM * np.arange(steps) / steps
    y, x = np.meshgrid(axis, axis, indexing="ij")
    positions = np.stack([x.ravel(), y.ravel()], axis=1) + structure.positions_nm[structure.numbers == 38][0, :2]
    total = np.zeros((steps, steps, len(STO_DETECTORS)))
    for seed in range(snapshots):
        field = transmission_field(structure, STO_OPTICS, slice_nm=SRTIO3_NM, seed=seed)
        renderer = ScanRenderer(STO_OPTICS, field)
        grid = DiffractionGrid(shape=(renderer.size,) * 2, pixel_mrad=STO_OPTICS.pixel_mrad)
        share = weights(STO_DETECTORS, grid).reshape(len(STO_DETECTORS), -1).astype(np.float32)
        waves = renderer.waves(Aberrations())
        signals = [share @ renderer.pattern(waves, position).ravel() for position in positions]
        total += np.array(signals).reshape(total.shape) / snapshots
    return {name: symmetrised(total[..., i]) for i, name in enumerate(STO_DETECTORS)}


def symmetrised(cell: Floats) -> Floats:
    """Mean over the eight symmetries of a square about pixel (0, 0), periodic, (M, M)."""
    flipped = np.roll(cell[::-1], 1, axis=0)
    both = [cell, flipped]
    both += [np.roll(image[:, ::-1], 1, axis=1) for image in both]
    square = np.mean(both, axis=0)
    result: Floats = 0.5 * (square + square.T)
    return result


def repeated(cell: Floats, pixels: int, cells: int) -> Floats:
    """A periodic cell (M, M) resampled exactly to `pixels` per side and repeated, (cells * pixels,) * 2.

    Exact for a band-limited cell: its Fourier series is continued with zeros, or cut where it has none.
    """
    spectrum = np.fft.fftshift(np.fft.fft2(cell)) / cell.size
    half = (min(len(cell), pixels) - 1) // 2
    middle, wide = len(cell) // 2, np.zeros((pixels, pixels), complex)
    keep, put = slice(middle - half, middle + half + 1), slice(pixels // 2 - half, pixels // 2 + half + 1)
    wide[put, put] = spectrum[keep, keep]
    fine = np.real(np.fft.ifft2(np.fft.ifftshift(wide))) * wide.size
    return np.tile(fine, (cells, cells))


@dataclass(frozen=True)
class Histogram:
    """A low-dose dark-field background: the image, its chain, and the mean number of electrons per pixel."""

    image: Counts
    chain: ScintillatorChain
    mean_e: float

    def density(self, counts: Floats) -> Floats:
        """Expected share of pixels per count by eqs 2.12-2.13: Gaussians about whole electrons; as `counts`."""
        electrons = np.arange(0, int(self.mean_e + 12 * np.sqrt(self.mean_e) + 12))
        probability = np.exp(-self.mean_e + electrons * np.log(self.mean_e) - _log_factorial(electrons))
        at = expected_counts(electrons, self.chain)
        poisson_part = self.chain.counts_per_electron**2
        spread = count_variance(1.0, self.chain) - poisson_part - self.chain.readout_rms**2
        # One count is one bin wide: rounding adds 1/12.
        variance = electrons * spread + self.chain.readout_rms**2 + 1 / 12
        gauss = np.exp(-0.5 * (counts[:, None] - at) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
        mixed: Floats = gauss @ probability
        return mixed


def _log_factorial(k: Counts) -> Floats:
    from scipy.special import gammaln

    return np.asarray(gammaln(k + 1.0))


def low_dose(mean_e: float = 1.5, side: int = 256, seed: int = 0) -> Histogram:
    """Background of `mean_e` electrons per pixel through the whole cascade, (side, side)."""
    chain = ScintillatorChain(readout_rms=4.0)
    image = expose_adf(np.full((side, side), mean_e), chain, np.random.default_rng(seed))
    return Histogram(image, chain, mean_e)


@dataclass(frozen=True)
class Jitter:
    """A lattice under an unsteady beam, and how unsteady.

    Attributes:
        images: by label, (rows, columns).
        step_nm: of their pixels.
        frequency: cycles per line, (F,).
        measured, expected: power density of the lines' shift along x, nm^2 per (cycle per line), (F,).
    """

    images: dict[str, Floats]
    step_nm: float
    frequency: Floats
    measured: Floats
    expected: Floats


def jitter(cell: Floats, step_nm: float, side: int = 128, seed: int = 1) -> Jitter:
    """The image of a periodic cell (M, M) with pixels of `step_nm`, through the scan engine's jitter."""
    plan, margin = ScanPlan(rows=side, columns=side, step_nm=step_nm), 8
    cells = -(-(side + 2 * margin) // len(cell))
    wide = np.tile(cell, (cells, cells))[: side + 2 * margin, : side + 2 * margin]
    shakes = {
        "still": ScanProperties(),
        "x-jitter": ScanProperties(jitter_x_nm=step_nm),
        "y-jitter": ScanProperties(jitter_y_nm=step_nm),
        "x- and y-jitter": ScanProperties(jitter_x_nm=step_nm, jitter_y_nm=step_nm),
    }
    images = {
        label: distorted_image(wide, plan, shake, np.random.default_rng(seed), margin=margin)
        for label, shake in shakes.items()
    }
    lines, shake = 2**15, shakes["x-jitter"]
    column = ScanPlan(rows=lines, columns=1, step_nm=step_nm)
    every = path(column, 0, column.count)
    shift = (ScanEngine(shake, np.random.default_rng(seed)).displace(every) - every.intended_nm)[:, 0]
    frequency, measured = averaged_spectrum(shift, 256)
    return Jitter(images, step_nm, frequency, measured, ar1_spectrum(frequency, step_nm, shake.jitter_x_correlation))


def averaged_spectrum(series: Floats, length: int) -> tuple[Floats, Floats]:
    """Frequencies above zero, cycles per sample, and the two-sided power density there, over pieces of `length`."""
    pieces = series[: len(series) // length * length].reshape(-1, length)
    power = np.mean(np.abs(np.fft.rfft(pieces, axis=1)) ** 2, axis=0) / length
    return np.arange(1, length // 2 + 1) / length, power[1:]


@dataclass(frozen=True)
class FastScan:
    """Single electrons on a detector that is slower than the dwell.

    Attributes:
        images: counts by label, (side, side).
        power: mean power spectrum of each, (side, side), zero frequency in the middle, 1 is the fast detector's mean.
        frequency: cycles per pixel along the fast axis, (F,).
        measured, expected: power along it over that of the fast detector, (F,).
        dwells: the response's half width in dwell times.
    """

    images: dict[str, Counts]
    power: dict[str, Floats]
    frequency: Floats
    measured: Floats
    expected: Floats
    dwells: float


def fast_scan(dwells: float = 1.0, mean_e: float = 0.02, side: int = 128, repeats: int = 12, seed: int = 2) -> FastScan:
    """A nearly empty dark-field image: electrons, cascade, slow light, digitiser, in that order."""
    plan = ScanPlan(rows=side, columns=side, dwell_s=1e-6)
    chain = ScintillatorChain(readout_rms=2.0)
    slow = ScanProperties(response_s=dwells * plan.dwell_s)
    rng = np.random.default_rng(seed)
    everywhere, expected = path(plan, 0, plan.count), np.full(plan.count, mean_e * chain.gain)
    images: dict[str, Counts] = {}
    power = {label: np.zeros((side, side)) for label in ("fast detector", "slow detector")}
    for _ in range(repeats):
        charge = anode_cascade(rng.poisson(mean_e, plan.count), chain, rng).astype(np.float64)
        for label, properties in zip(power, (ScanProperties(), slow), strict=True):
            light = DetectorResponse(properties).respond(charge, everywhere, expected)
            seen = digitise(light, chain, rng).reshape(side, side)
            images.setdefault(label, seen)
            power[label] += windowed_power(seen.astype(np.float64)) / repeats
    level = power["fast detector"].mean()
    along = {label: p.mean(axis=0)[side // 2 + 1 :] for label, p in power.items()}
    frequency = np.arange(1, side // 2) / side
    share = response_weights(slow.response_shape, slow.response_s, plan.dwell_s, side)
    transfer = np.abs(np.exp(-2j * np.pi * np.outer(frequency, np.arange(side))) @ share) ** 2
    # The digitiser's noise, rounding included, comes after the light and is not damped.
    noise = chain.readout_rms**2 + 1 / 12
    signal = float(count_variance(mean_e, chain)) - chain.readout_rms**2
    return FastScan(
        images,
        {label: p / level for label, p in power.items()},
        frequency,
        along["slow detector"] / along["fast detector"],
        (signal * transfer + noise) / (signal + noise),
        dwells,
    )


def windowed_power(image: Floats, padded: int = 1) -> Floats:
    """Power spectrum of a Hann-windowed image without its mean, (padded M, padded M), zero frequency in the middle."""
    window = np.outer(np.hanning(image.shape[0] + 1)[:-1], np.hanning(image.shape[1] + 1)[:-1])
    fluctuation = window * (image - np.sum(window * image) / np.sum(window))
    shape = tuple(padded * side for side in image.shape)
    return np.asarray(np.abs(scipy.fft.fftshift(scipy.fft.fft2(fluctuation, shape))) ** 2)
