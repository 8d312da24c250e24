"""Object and probe of a ptychographic reconstruction, and where the probe was for each frame."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.floating]
Complex = NDArray[np.complexfloating]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of the probe for n frames.

    Attributes:
        corner: (row, column) of the object pixel under the first pixel of the probe's window, (n, 2).
        shift: sub-pixel part of the position along rows and columns, pixels, (n, 2).
    """

    corner: Integers
    shift: Real

    @classmethod
    def of(cls, position_px: Real, size: int, sub_pixel: bool = True) -> Self:
        """Split positions into pixel and sub-pixel part.

        Args:
            position_px: (row, column) of the probe's centre on the object, (n, 2), pixels; it is pixel `size // 2` of
                the window.
            size: side of the window.
            sub_pixel: False rounds to whole pixels.
        """
        whole = np.rint(position_px).astype(np.int64)
        shift = position_px - whole if sub_pixel else np.zeros_like(position_px, np.float64)
        return cls(whole - size // 2, shift)

    def __len__(self) -> int:
        return len(self.corner)

    def take(self, chosen: NDArray[np.integer]) -> "Places":
        """Select some of the positions."""
        return Places(self.corner[chosen], self.shift[chosen])


@dataclass(frozen=True, eq=False)
class ObjectAndProbe:
    """Current estimate of object and probe; sweeps change it in place.

    Attributes:
        planes: real and imaginary part of the object, (2, rows, columns).
        spectra: real and imaginary parts of the spectra of K probe modes, (K, 2, N, N), [kx, ky] with zero frequency
            first. The inverse transform is unitary (its squares sum to the intensity) and centred at pixel N // 2.
    """

    planes: Real
    spectra: Real

    @classmethod
    def start(cls, shape: tuple[int, int], probe: Complex) -> Self:
        """A transparent object of `shape` and probe modes (K, N, N), centred at N // 2, in their precision."""
        real = probe.real.dtype
        planes = np.zeros((2, *shape), real)
        planes[0] = 1.0
        spectrum = np.fft.fft2(probe, norm="ortho").swapaxes(1, 2)
        return cls(planes, np.ascontiguousarray(np.stack([spectrum.real, spectrum.imag], 1), real))

    @property
    def transmission(self) -> Complex:
        """The object, (rows, columns)."""
        return np.asarray(self.planes[0] + 1j * self.planes[1])

    @property
    def probe(self) -> Complex:
        """Probe modes, (K, N, N), centred at N // 2."""
        spectrum = (self.spectra[:, 0] + 1j * self.spectra[:, 1]).swapaxes(1, 2)
        return np.asarray(np.fft.ifft2(spectrum, norm="ortho"))

    @property
    def size(self) -> int:
        """Side of the probe's window, N."""
        return int(self.spectra.shape[-1])

    def copy(self) -> "ObjectAndProbe":
        """An independent copy."""
        return ObjectAndProbe(self.planes.copy(), self.spectra.copy())

    def with_clear_object(self) -> "ObjectAndProbe":
        """A copy of the probe with a transparent object."""
        planes = np.zeros_like(self.planes)
        planes[0] = 1.0
        return ObjectAndProbe(planes, self.spectra.copy())
