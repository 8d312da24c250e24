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

    def positions(self, size: int) -> Real:
        """(row, column) of the probe's centre on the object, (n, 2): the inverse of `of`."""
        return np.asarray(self.corner + size // 2 + self.shift)

    def take(self, chosen: NDArray[np.integer]) -> "Places":
        """Select some of the positions."""
        return Places(self.corner[chosen], self.shift[chosen])


@dataclass(frozen=True, eq=False)
class ObjectAndProbe:
    """Current estimate of object and probe; sweeps change it in place.

    Attributes:
        slices: real and imaginary part of the object, slice by slice along the beam, (S, 2, rows, columns).
        spectra: real and imaginary parts of the spectra of K probe modes at the first slice, (K, 2, N, N), [kx, ky]
            with zero frequency first. The inverse transform is unitary (its squares sum to the intensity) and centred
            at pixel N // 2.
        propagator: real and imaginary part of the factor of a spectrum from one slice to the next, (2, N, N).
    """

    slices: Real
    spectra: Real
    propagator: Real

    @classmethod
    def start(cls, shape: tuple[int, int], probe: Complex, slices: int = 1, propagator: Complex | None = None) -> Self:
        """A transparent object.

        Args:
            shape: rows and columns.
            probe: modes (K, N, N), centred at N // 2; their precision becomes the estimate's.
            slices: number of slices.
            propagator: from one slice to the next, see `epie.probe.propagator`; None for slices without distance.
        """
        real, size = probe.real.dtype, probe.shape[-1]
        spectrum = np.fft.fft2(probe, norm="ortho").swapaxes(1, 2)
        turn = np.ones((size, size)) if propagator is None else propagator
        return cls(
            _clear((slices, 2, *shape), real),
            np.ascontiguousarray(np.stack([spectrum.real, spectrum.imag], 1), real),
            np.stack([turn.real, turn.imag]).astype(real),
        )

    @property
    def planes(self) -> Real:
        """The first slice, the whole object of a thin specimen, (2, rows, columns)."""
        return np.asarray(self.slices[0])

    @property
    def transmission(self) -> Complex:
        """Product of the slices' transmission functions, (rows, columns)."""
        return np.asarray(np.prod(self.slices[:, 0] + 1j * self.slices[:, 1], axis=0))

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
        return ObjectAndProbe(self.slices.copy(), self.spectra.copy(), self.propagator)

    def with_clear_object(self) -> "ObjectAndProbe":
        """A copy of the probe with a transparent object."""
        return ObjectAndProbe(_clear(self.slices.shape, self.slices.dtype), self.spectra.copy(), self.propagator)


def _clear(shape: tuple[int, ...], real: np.dtype[np.floating]) -> Real:
    """Slices without any scattering, (S, 2, rows, columns)."""
    slices = np.zeros(shape, real)
    slices[:, 0] = 1.0
    return slices
