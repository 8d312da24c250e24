"""Likelihood of aberrations, from the images that the parts of the bright-field disc form of one defocused scan.

Every part of the disc gives an image of the specimen, displaced by the slope of the aberration phase there (parallax).
For a weak phase object the transform of the image at the angle K is `i Phi(Q) a^2 g(K, Q)`, with g of `ssb.weights`
(Rodenburg, McCallum and Nellist, Ultramicroscopy 48, 304, 1993), and its noise is that of the electrons counted there.
The phase of every frequency is fitted, which leaves a likelihood of the aberrations alone.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from agents.ssb.experiment import Experiment
from agents.ssb.image import PhaseSpectrum
from agents.ssb.weights import BrightField, SampledDisc, phase_table, sample_points, sidebands
from twin.aberrations import Aberrations, aberration_phase, rotated
from twin.arrays import Floats

Complex = NDArray[np.complex128]
CUTOFF = 0.01
"""Smallest information on a frequency that is used, as a fraction of the largest."""
RINGS, LEAST_SHARE = 1.0, 0.05
"""Standard deviation of the smoothing of the signal's power, in rings; share of it below which a ring is left out."""
SLOPE_MRAD = 1e-3
"""Difference of angles for the slope of the aberration phase."""


@dataclass(frozen=True, eq=False)
class DiscImages:
    """Transforms of the images of the parts of the disc, along the axes of the scan.

    Attributes:
        spectra: without their means, (fast frequencies, K, slow frequencies); the slow ones rise from -(rows // 2).
        counts: electrons of each part over the whole scan, (K,).
        field: the parts.
        experiment: beam and scan.
        rotation_deg: angle from the microscope's +x to the fast axis.
    """

    spectra: NDArray[np.complex64]
    counts: Floats
    field: BrightField
    experiment: Experiment
    rotation_deg: float

    @classmethod
    def of(
        cls, images: NDArray[np.float32], field: BrightField, experiment: Experiment, rotation_deg: float
    ) -> "DiscImages":
        """Transform images (K, rows, columns) in counts; those without an electron are left out by their weight."""
        means = images.mean(axis=(1, 2), keepdims=True)
        spectra = np.fft.fftshift(scipy.fft.rfft2(images - means), axes=1)
        counts = images.sum(axis=(1, 2), dtype=np.float64)
        return cls(
            np.ascontiguousarray(spectra.transpose(2, 0, 1)).astype(np.complex64),
            counts,
            field,
            experiment,
            rotation_deg,
        )

    @property
    def slow_mrad(self) -> Floats:
        """Frequencies along the slow axis, mrad, rising."""
        rows = self.experiment.scan[0]
        return (np.arange(rows) - rows // 2) * np.float64(self.experiment.lowest_mrad[1])

    @property
    def middles(self) -> Floats:
        """Middle of what each part has inside the disc, along the axes of the scan, (K, 2), mrad."""
        samples = sample_points(self.field, self.rotation_deg)
        inside = np.hypot(samples[..., 0], samples[..., 1])[..., None] <= self.field.radius_mrad
        inside = inside | ~inside.any(axis=1, keepdims=True)
        return np.asarray((samples * inside).sum(axis=1) / inside.sum(axis=1))

    @property
    def per_position(self) -> float:
        """Electrons of a whole part of the disc at one position."""
        rows, columns = self.experiment.scan
        return max(float(self.counts.sum()), 1.0) / float(self.field.share.sum()) / (rows * columns)

    def disc(self, aberrations: Aberrations, finely: bool) -> SampledDisc:
        """The disc with aberrations along the axes of the microscope; finely: several samples in each part."""
        turned = rotated(aberrations, math.radians(self.rotation_deg))
        chi, interval = phase_table(self.field, turned, self.experiment.wavelength_nm)
        sampled = sample_points(self.field, self.rotation_deg) if finely else self.middles[:, None]
        return SampledDisc(sampled, self.field.radius_mrad, self.field.edge_mrad, chi, interval)


def log_likelihood(images: DiscImages, aberrations: Aberrations, weights: Floats) -> float:
    """Log-likelihood of aberrations over that of an empty image, nats, with a Gaussian prior on the phase.

    Args:
        images: of the parts of the disc.
        aberrations: along the axes of the microscope.
        weights: of the frequencies, from `band` or `signal_share`, (fast frequencies, slow frequencies).
    """
    matched, information = _sums(images, images.disc(aberrations, False), images.field.share, weights > 0)
    gain = np.sum(weights * np.abs(matched) ** 2 / np.where(information > 0, information, np.inf))
    return float(gain + np.log1p(-weights[weights < 1]).sum())


def band(images: DiscImages, highest_mrad: float) -> Floats:
    """Weight 1 for the frequencies of half the plane up to `highest_mrad`, without zero."""
    fast = np.arange(len(images.spectra))[:, None] * np.float64(images.experiment.lowest_mrad[0])
    inside = np.hypot(fast, images.slow_mrad) <= highest_mrad
    return np.where(inside & ((fast > 0) | (images.slow_mrad > 0)), 1.0, 0.0)


def signal_share(images: DiscImages, aberrations: Aberrations) -> Floats:
    """Share of the signal in the power at each frequency, from its mean over a ring: the weights of a Gaussian prior.

    A frequency without signal adds noise of one nat to the likelihood, which hides the maximum at a low dose.
    """
    matched, information = _all_sums(images, aberrations)
    gain = np.abs(matched) ** 2 / np.where(information > 0, information, np.inf)
    whole = band(images, np.inf)
    fast = np.arange(len(images.spectra))[:, None] * np.float64(images.experiment.lowest_mrad[0])
    ring = np.rint(np.hypot(fast, images.slow_mrad) / max(images.experiment.lowest_mrad)).astype(int)
    mean = np.bincount(ring.ravel(), (gain * whole).ravel()) / np.maximum(np.bincount(ring.ravel(), whole.ravel()), 1.0)
    excess = np.maximum(gaussian_filter1d(mean, RINGS, mode="nearest") - 1.0, 0.0)
    share = excess / (1.0 + excess)
    return np.where(share > LEAST_SHARE, share, 0.0)[ring] * whole


def phase_spectrum(images: DiscImages, aberrations: Aberrations) -> PhaseSpectrum:
    """Most likely phase under given aberrations; laid out as in `ssb.weights.Trotters`."""
    matched, information = _all_sums(images, aberrations)
    known = information > CUTOFF * information.max(initial=0.0)
    columns, scale = images.experiment.scan[1], images.per_position
    known[-1] &= columns % 2 == 1  # the Nyquist frequency is its own negative
    safe = np.where(known, information, 1.0)
    return PhaseSpectrum(
        np.where(known, -1j * matched / (scale * safe), 0.0), np.where(known, 1.0 / (scale**2 * safe), 0.0), known
    )


def aligned(images: DiscImages, aberrations: Aberrations) -> Floats:
    """Sum of the images, each moved back by the slope of the aberration phase, over their mean, (rows, columns)."""
    x, y = images.middles.T
    turned, wavelength_nm = rotated(aberrations, math.radians(images.rotation_deg)), images.experiment.wavelength_nm

    def slope(dx: float, dy: float) -> Floats:
        ahead, behind = (aberration_phase(turned, x + s * dx, y + s * dy, wavelength_nm) for s in (0.5, -0.5))
        return np.asarray(ahead - behind) / SLOPE_MRAD

    along, across = slope(SLOPE_MRAD, 0.0), slope(0.0, SLOPE_MRAD)
    fast = np.arange(len(images.spectra)) * np.float64(images.experiment.lowest_mrad[0])
    ramps = np.exp(-1j * np.outer(across, images.slow_mrad))
    total = np.stack([
        np.einsum("ks,ks->s", spectra * np.exp(-1j * along * q)[:, None], ramps)
        for q, spectra in zip(fast, images.spectra, strict=True)
    ])  # fmt: skip
    summed = scipy.fft.irfft2(np.fft.ifftshift(total, axes=1).T, s=images.experiment.scan)
    rows, columns = images.experiment.scan
    return np.asarray(1.0 + summed / max(float(images.counts.sum()) / (rows * columns), 1e-12))


def _sums(images: DiscImages, disc: SampledDisc, share: Floats, used: NDArray[np.bool_]) -> tuple[Complex, Floats]:
    """Sums over the disc of g* G / n and |g|^2 / n at the frequencies used, (fast frequencies, slow frequencies)."""
    matched, information = np.zeros(used.shape, np.complex128), np.zeros(used.shape)
    step = images.experiment.lowest_mrad[0]
    _add(images.spectra, share, _inverse(images.counts), disc, images.slow_mrad, step, used, matched, information)
    return matched, information


def _all_sums(images: DiscImages, aberrations: Aberrations) -> tuple[Complex, Floats]:
    """`_sums` at every frequency, with several samples in each part of the disc."""
    shape = len(images.spectra), images.spectra.shape[2]
    return _sums(images, images.disc(aberrations, True), np.ones(len(images.counts)), np.ones(shape, bool))


def _inverse(counts: Floats) -> Floats:
    return np.where(counts > 0, 1.0 / np.maximum(counts, 1.0), 0.0)


@numba.njit(cache=True)
def _add(spectra, share, inverse, disc, slow, step, used, matched, information):  # type: ignore[no-untyped-def]
    """Write sum g* G / n and sum |g|^2 / n of the frequencies used; g of each part is scaled by its `share`."""
    g = np.zeros((len(inverse), len(slow)), np.complex64)
    for fast in range(len(spectra)):
        places = np.flatnonzero(used[fast])
        if places.size == 0:
            continue
        first, last = places[0], places[-1] + 1
        part = g[:, first:last]
        part[:] = 0
        sidebands(fast * step, slow[first:last], disc, True, part)
        for j in range(first, last):
            for k in range(len(inverse)):
                value = share[k] * g[k, j]
                matched[fast, j] += inverse[k] * np.conj(value) * spectra[fast, k, j]
                information[fast, j] += inverse[k] * (value.real**2 + value.imag**2)
