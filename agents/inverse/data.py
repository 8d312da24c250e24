"""Weak-phase data: Fourier coefficients of the phase with the variance of each, and how far an image is from them.

The model of a weak phase object is diagonal: residual and likelihood of any image take one transform.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from agents.ssb.image import PhaseSpectrum
from twin.arrays import Floats


@dataclass(frozen=True, eq=False)
class PhaseData:
    """Measured coefficients, laid out as `rfft2` of the image.

    Attributes:
        spectrum: of the phase, (R, C // 2 + 1).
        precision: one over the variance of each coefficient, zero where none is transferred.
        shape: rows and columns.
    """

    spectrum: NDArray[np.complex128]
    precision: Floats
    shape: tuple[int, int]

    @classmethod
    def of(cls, found: PhaseSpectrum, shape: tuple[int, int]) -> "PhaseData":
        """Take the single-sideband spectrum of a scan."""
        phase = np.fft.ifftshift(found.phase, axes=1).T
        variance = np.fft.ifftshift(found.variance, axes=1).T
        known = np.fft.ifftshift(found.known, axes=1).T & (variance > 0)
        return cls(phase, np.where(known, 1.0 / np.where(known, variance, 1.0), 0.0), shape)

    @property
    def noise(self) -> float:
        """Root mean variance of the image over the known frequencies."""
        known = self.precision > 0
        variance = self._twice()[known] / self.precision[known]
        return float(np.sqrt(variance.sum())) / (self.shape[0] * self.shape[1])

    def wiener_start(self) -> Floats:
        """A first image: coefficients shrunk by their noise over the median noise, rad."""
        level = float(np.median(self.precision[self.precision > 0]))
        return self.image(self.spectrum * self.precision / (self.precision + level))

    def image(self, spectrum: NDArray[np.complex128]) -> Floats:
        """The image of a spectrum."""
        return np.asarray(scipy.fft.irfft2(spectrum, s=self.shape), np.float64)

    def fitted(self, image: Floats, deviation: float) -> Floats:
        """The image that is nearest to the data and to `image`, whose pixels have this standard deviation."""
        weight = deviation**2 * image.size * self.precision
        return self.image((scipy.fft.rfft2(image) + weight * self.spectrum) / (1.0 + weight))

    def residual_variance(self, image: Floats) -> float:
        """Mean of |image - data|^2 over the variance: one for the true phase of a weak object."""
        known = self.precision > 0
        twice = np.where(known, self._twice(), 0.0)
        square = np.abs(scipy.fft.rfft2(image) - self.spectrum) ** 2 * self.precision
        return float((twice * square).sum() / max(twice.sum(), 1.0))

    def residual_map(self, image: Floats) -> Floats:
        """Whitened residual, data minus image, on the grid of the scan, (R, C): variance one if the model is right.

        Each frequency is divided by its noise. Frequencies that are not transferred are left out; what is left is
        scaled to variance one, and neighbours correlate by the band limit.
        """
        known = self.precision > 0
        kept = float((self._twice() * known).sum())
        white = (self.spectrum - scipy.fft.rfft2(image)) * np.sqrt(self.precision)
        return self.image(white) * np.sqrt(image.size) * np.sqrt(image.size / max(kept, 1.0))

    def product(self, one: Floats, other: Floats) -> float:
        """Inner product of two images over the noise: the information of the data about them."""
        cross = scipy.fft.rfft2(one) * scipy.fft.rfft2(other).conj()
        return float((self._twice() * self.precision * cross.real).sum())

    def explained(self, feature: Floats, image: Floats) -> float:
        """Inner product over the noise of a feature and what an image leaves of the data."""
        left = self.spectrum - scipy.fft.rfft2(image)
        return float((self._twice() * self.precision * (left * scipy.fft.rfft2(feature).conj()).real).sum())

    def _twice(self) -> Floats:
        """Number of frequencies of the whole plane that each coefficient stands for."""
        count = np.full(self.spectrum.shape, 2.0)
        count[:, 0] = 1.0
        if self.shape[1] % 2 == 0:
            count[:, -1] = 1.0
        return count
