"""Ronchigrams by full multislice through an atomic film: abTEM's potential and transmission, our propagation.

Slower than the fast renderer and independent of it: controllers are judged on these frames. Both obey
`renderer.Renderer`. The propagation is that of `scan/diffraction.py` and agrees with abTEM's.
"""

import math
from dataclasses import replace

import abtem
import numpy as np
import scipy.fft
import torch
from abtem.antialias import AntialiasAperture
from numpy.typing import NDArray

from twin.aberrations import Aberrations
from twin.day import CameraProperties, Day, IlluminationProperties
from twin.matter.carbon_screen import vibration_transfer
from twin.matter.crystals import crystallites_phase
from twin.matter.film_atoms import film_atoms
from twin.matter.region import CRYSTALLITES, phase_scale, region_rng, vacuum
from twin.optics import Optics, check_window, focal_quadrature
from twin.ronchigram.aperture import aperture_amplitude, widest
from twin.ronchigram.camera_geometry import crop_pixels, to_camera
from twin.ronchigram.renderer import FrameByFrame
from twin.scan.diffraction import aperture_wave, band_limited_propagator, exit_mask, exit_wave, probe_wave
from twin.scan.transmission import ABTEM_SETTINGS, abtem_potential

SCATTERING_MARGIN_MRAD = 8.0
"""Margin between the aperture and abTEM's band limit, 2/3 of the grid's largest angle."""

SLICE_NM = 1.0
"""Thickest slice by default. Against slices of 0.25 nm a Ronchigram then differs by 0.007 in relative L2 for a
4 nm film and by 0.011 for 10 nm, a tenth of its contrast and of the shot noise of 1e6 electrons."""

LARGEST_FILM_BYTES = 2**31
"""Memory of a film's transmission functions: 43 nm with the default optics, whose films take seconds to build."""

_BAND_LIMIT = 2 / 3  # of the grid's largest frequency: abTEM's anti-aliasing aperture


def multislice_grid(optics: Optics, camera: CameraProperties | None = None) -> int:
    """Pixels of abTEM's grid over the window of `optics`: even, with factors 2, 3 and 5 only.

    It reaches the aperture with its margin, and the corners of the camera, rotated and shifted as it may be.
    """
    finest_nm = optics.wavelength_nm / (3e-3 * (optics.convergence_mrad + SCATTERING_MARGIN_MRAD))
    grid = max(math.ceil(optics.window_nm / finest_nm), crop_pixels(optics, camera or CameraProperties()))
    while grid % 2 or _rest(grid) != 1:
        grid += 1
    return grid


def check_film(optics: Optics, day: Day, shape: tuple[int, int, int]) -> None:
    """Refuse a film whose transmission functions need more memory than `LARGEST_FILM_BYTES`.

    Args:
        optics, day: window and thickness, for the message.
        shape: snapshots, slices, pixels along a side of the film.

    Raises:
        ValueError: with the memory needed and the thickest film that would do.
    """
    snapshots, slices, side = shape
    needed = 8 * snapshots * slices * side**2
    if needed > LARGEST_FILM_BYTES:
        thickness_nm = day.film.thickness_nm
        most_slices = LARGEST_FILM_BYTES // (8 * snapshots * side**2)
        thickest_nm = math.floor(10 * most_slices * thickness_nm / slices) / 10
        thinner = f"day.film.thickness_nm <= {thickest_nm:g}, " if thickest_nm >= 1 else ""
        raise ValueError(
            f"a film of {thickness_nm:g} nm over {optics.window_nm:.1f} nm takes {needed / 1e9:.3g} GB and many"
            f" minutes; multislice takes films up to {LARGEST_FILM_BYTES / 1e9:.3g} GB. Use {thinner}a smaller window"
            " (optics.grid) or renderer=fast"
        )


def _rest(number: int) -> int:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number


def projection_filter(
    grid: int, sampling_nm: float, source_size_nm: float, illumination: IlluminationProperties | None = None
) -> NDArray[np.float32]:
    """Filter of each slice of the projected potential in Fourier space, (grid, grid // 2 + 1), in (x, y) order.

    The Gaussians of a finite source and of a vibration, abTEM's band limit, and a correction: abTEM 1.0 distributes an
    atom linearly over four pixels, which damps by sinc^2(pi q dx) along each axis, but divides by sin(q dx) / (q dx)
    without the pi. The transform is then that of the atoms to 1 % at 6 per nm and to 7 % at 12 (uncorrected: 4 % and
    15 %).
    """
    kx = np.fft.fftfreq(grid)[:, None]
    ky = np.fft.rfftfreq(grid)[None, :]
    k = np.hypot(kx, ky)
    shared = (np.sinc(kx) * np.sinc(ky)) ** 2
    source = np.exp(-2 * (np.pi * source_size_nm * k / sampling_nm) ** 2)
    filtered = np.where(k < _BAND_LIMIT / 2, np.sinc(k / np.pi) / shared * source, 0.0)
    if illumination is not None and illumination.vibration_nm > 0.0:
        filtered = filtered * vibration_transfer(kx / sampling_nm, ky / sampling_nm, illumination)
    return filtered.astype(np.float32)


class MultisliceRenderer(FrameByFrame):
    """Multislice through random crops of one large periodic film, averaged over focal spread and thermal motion.

    The film is built on first use (seconds). A region is a cyclic crop of it in one of eight orientations. Focal spread
    and thermal motion are averaged together: each point of the focal quadrature has its own snapshot of the displaced
    atoms.

    Args:
        optics: beam, window and camera; the grid over the window is finer, see `multislice_grid`.
        day: film, focal spread, source size and camera geometry.
        slice_nm: thickest slice.
        snapshots: number of thermal configurations of the same atoms.
        film_windows: side of the film in windows.
        film_seed: seed of the film.

    Raises:
        ValueError: slice_nm not positive, snapshots or film_windows below one, or a film that needs too much memory.
    """

    def __init__(
        self,
        optics: Optics,
        day: Day,
        *,
        slice_nm: float = SLICE_NM,
        snapshots: int = 3,
        film_windows: int = 2,
        film_seed: int = 0,
    ) -> None:
        if not slice_nm > 0:
            raise ValueError(f"slice_nm must be positive, got {slice_nm!r}")
        for label, value in (("snapshots", snapshots), ("film_windows", film_windows)):
            if value < 1:
                raise ValueError(f"{label} must be at least 1, got {value!r}")
        self.optics, self.day = optics, day
        self.grid = multislice_grid(optics, day.camera)
        self.slices = math.ceil(day.film.thickness_nm / slice_nm - 1e-9)
        self.step_nm = day.film.thickness_nm / self.slices
        self.film_windows, self.film_seed = film_windows, film_seed
        # Without thermal motion all snapshots are the same.
        self.snapshots = snapshots if day.film.thermal_rms_nm > 0 else 1
        check_film(optics, day, (self.snapshots, self.slices, self.grid * film_windows))
        self._film: NDArray[np.complex64] | None = None
        self._energy_ev = optics.energy_kev * 1e3
        self._fine = replace(optics, grid=self.grid, sampling_nm=optics.window_nm / self.grid)
        self._widest = widest(self._fine, day.illumination)
        self._amplitude = self._uneven_amplitude() if day.illumination.shaped else None
        self._propagator = band_limited_propagator(self._fine, self.step_nm)
        self._exit = exit_mask(self.grid) ** 2

    def _uneven_amplitude(self) -> NDArray[np.complex64]:
        """Amplitude of the real aperture on the square of `aperture_wave`."""
        side = len(aperture_wave(self._widest, Aberrations.of({})))
        amplitude = aperture_amplitude(self._fine, self.day.illumination, self._fine.angles_mrad(side))
        return amplitude.astype(np.complex64)

    @property
    def film(self) -> NDArray[np.complex64]:
        """Band-limited transmission functions of the whole film, (snapshots, slices, X, Y) in abTEM's (x, y) order."""
        if self._film is None:
            with abtem.config.set(ABTEM_SETTINGS):
                self._film = self._build()
        return self._film

    def prepare(self) -> None:
        """Make the film now; otherwise the first frame does."""
        _ = self.film  # which the property keeps

    def _build(self) -> NDArray[np.complex64]:
        rng = np.random.default_rng(self.film_seed)
        properties, side_nm = self.day.film, self.optics.window_nm * self.film_windows
        numbers, positions_nm = film_atoms(properties, side_nm, rng)
        grid = self.grid * self.film_windows
        kernel = projection_filter(grid, side_nm / grid, self.day.source_size_nm, self.day.illumination)
        aperture = AntialiasAperture()
        cell_nm = (side_nm, side_nm, properties.thickness_nm)
        film = np.empty((self.snapshots, self.slices, grid, grid), np.complex64)
        for snapshot in film:
            # A displacement along the beam does not change the projection of a slice.
            shift_nm = rng.normal(0.0, properties.thermal_rms_nm, (len(positions_nm), 2))
            moved_nm = positions_nm + np.pad(shift_nm, ((0, 0), (0, 1)))
            potential = abtem_potential(numbers, moved_nm, cell_nm, (grid, grid), self.slices)
            for i, layer in enumerate(potential.generate_slices()):
                layer.array[0] = scipy.fft.irfft2(scipy.fft.rfft2(layer.array[0]) * kernel, s=(grid, grid))
                snapshot[i] = aperture.bandlimit(layer.transmission_function(self._energy_ev)).array[0]
        return film

    def transmission(self, region_seed: int, grown_nm: float = 0.0) -> NDArray[np.complex64]:
        """Transmission functions of one region of the film, (snapshots, slices, grid, grid), rows along y.

        Args:
            region_seed: seed of the region.
            grown_nm: contamination of the region.
        """
        film, sampling_nm = self.day.film, self._fine.sampling_nm
        layers = self._crop(region_seed)
        scale = phase_scale(film, self.grid, grown_nm)
        if scale is not None:
            layers = (np.abs(layers) * np.exp(1j * np.angle(layers) * scale)).astype(np.complex64)
        if film.crystallites_per_um2 > 0.0:
            rng = region_rng(region_seed, CRYSTALLITES)
            blur_nm = math.hypot(film.thermal_rms_nm, self.day.source_size_nm)
            particles = crystallites_phase(film, self.optics, self.grid, sampling_nm, blur_nm, rng)
            layers = layers.copy()
            layers[:, -1] *= np.exp(1j * particles).astype(np.complex64)
        hole = vacuum(film, self.grid, sampling_nm, region_seed)
        return layers if hole is None else np.where(hole, np.complex64(1.0), layers)

    def _crop(self, region_seed: int) -> NDArray[np.complex64]:
        """Transmission functions of a cyclic crop of the film, turned and mirrored at random."""
        rng = np.random.default_rng(region_seed)
        size = self.film.shape[-1]
        row, column = rng.integers(size, size=2)
        rows, columns = (row + np.arange(self.grid)) % size, (column + np.arange(self.grid)) % size
        flip_x, flip_y, transpose = rng.integers(2, size=3)
        if self.day.illumination.vibration_nm > 0.0:
            # The film is blurred along one axis, which only half a turn leaves where it is.
            flip_y, transpose = flip_x, 0
        where = np.ix_(rows[::-1] if flip_x else rows, columns[::-1] if flip_y else columns)
        # Layer by layer: indexing all of them would leave neighbouring pixels far apart in memory.
        region = np.stack([[layer[where] for layer in snapshot] for snapshot in self.film])
        # Stored in abTEM's (x, y) order, returned in (y, x) order.
        return region if transpose else region.swapaxes(-1, -2)

    def intensity(self, aberrations: Aberrations, transmission: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Un-binned diffraction intensity averaged over focal spread and snapshots, (grid, grid), whole beam = 1.

        Args:
            aberrations: C10 counts from the film's mid-plane.
            transmission: (snapshots, slices, grid, grid), rows along y.

        Returns:
            Rows along y, zero angle at grid // 2, pixel `optics.pixel_mrad`; zero beyond abTEM's band limit.

        Raises:
            ValueError: the transmission functions have another shape.
        """
        expected = (self.slices, self.grid, self.grid)
        if transmission.ndim != 4 or transmission.shape[1:] != expected:
            raise ValueError(f"transmission has shape {transmission.shape}; expected (snapshots, *{expected})")
        # Transposed layers with a transposed wave give a transposed pattern: copying the layers into order would take
        # as long as a transform.
        transposed = transmission.strides[-2] < transmission.strides[-1]
        layers = transmission.swapaxes(-1, -2) if transposed else transmission
        points = focal_quadrature(self.day.focal_spread_nm)
        rounds = math.ceil(len(layers) / len(points))
        size = len(self._exit)
        total = np.zeros((size, size), np.float32)
        for i, (offset_nm, weight) in enumerate(points * rounds):
            # Free space of length z adds z to C10: the first slice lies before the mid-plane.
            entrance_nm = offset_nm - (self.slices - 1) * self.step_nm / 2
            wave = aperture_wave(self._widest, aberrations + Aberrations.of({"C10": entrance_nm}))
            if self._amplitude is not None:
                wave = np.exp(1j * np.angle(wave)) * self._amplitude
            probe = probe_wave(wave.T if transposed else wave, np.zeros(2), self.grid)
            spectrum = exit_wave(probe, layers[i % len(layers)], self._propagator)
            total += np.float32(weight / rounds) * (spectrum.real**2 + spectrum.imag**2)
        total *= self._exit
        whole, first = np.zeros((self.grid, self.grid), np.float32), self.grid // 2 - size // 2
        whole[first : first + size, first : first + size] = total.T if transposed else total
        return whole

    def check(self, aberrations: Aberrations) -> None:
        """See `FrameByFrame.check`."""
        check_window(widest(self.optics, self.day.illumination), aberrations)

    def frame(self, aberrations: Aberrations, region_seed: int, grown_nm: float = 0.0) -> NDArray[np.float32]:
        """See `FrameByFrame.frame`."""
        size = crop_pixels(self.optics, self.day.camera)
        seen = slice(self.grid // 2 - size // 2, self.grid // 2 - size // 2 + size)
        fine = self.intensity(aberrations, self.transmission(region_seed, grown_nm))[seen, seen]
        return to_camera(torch.from_numpy(fine)[None], self.optics, self.day.camera)[0].numpy()
